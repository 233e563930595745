"""A thread that is busy, as far as a clock can tell."""

from __future__ import annotations

__all__ = ["Clock"]


class Clock:
    """Stands for the module `time` in a thread that works for a share of the time."""

    def __init__(self, share: float) -> None:
        self._share = share
        self._now = 0.0

    def perf_counter(self) -> float:
        self._now += 1.0
        return self._now

    def monotonic(self) -> float:
        return self._now

    def thread_time(self) -> float:
        return self._now * self._share
