"""Time on machines that differ: waits that are long enough on any, and how slow this one is."""

from __future__ import annotations

import time
from statistics import median

__all__ = ["LONG_ENOUGH", "slowness"]

LONG_ENOUGH = 300.0
"""How many seconds to wait for what must happen, before a test may say that it didn't.

It costs nothing where all is well, and a machine that is ten times slower than usual, and now and
then stands still for seconds, needs no more.
"""

# What a usual machine needs for the measurement below: a core of a small cloud machine.
_USUAL_SECONDS = 0.05
_STEPS = 1_000_000


def slowness() -> float:
    """Return how many times slower than usual this machine is at the moment; 1 for any faster one.

    It is the middle one of three measurements, so that a single standstill doesn't count. They
    keep this thread busy for a sixth of a second, and longer as the machine is slower.
    """
    return max(1.0, median(_measured_slowness() for _ in range(3)))


def _measured_slowness() -> float:
    began = time.perf_counter()
    total = 0
    for step in range(_STEPS):
        total += step
    return (time.perf_counter() - began) / _USUAL_SECONDS
