"""What `import asyncsessions` takes and loads."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time

from benchmarks.measure import Run, at_most
from benchmarks.results import Check

__all__ = ["import_time"]

_DRIVERS = ("redis", "pymongo", "motor", "asyncpg", "typer", "rich")
_PROBE = f"""
import sys, asyncsessions
print(*[name for name in {_DRIVERS!r} if name in sys.modules])
"""


def _milliseconds(program: str) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", program], check=True, stdout=subprocess.DEVNULL)
    return (time.perf_counter() - start) * 1000


def _measure(repetitions: int) -> tuple[list[float], str]:
    _milliseconds("import asyncsessions")  # Compiles it.
    times = [
        _milliseconds("import asyncsessions") - _milliseconds("pass") for _ in range(repetitions)
    ]
    probe = subprocess.run(
        [sys.executable, "-c", _PROBE], check=True, capture_output=True, text=True
    )
    return times, probe.stdout.strip()


async def import_time(run: Run) -> list[Check]:
    """The import beyond a bare interpreter's start, and the drivers that it loads: none."""
    times, loaded = await asyncio.to_thread(_measure, 5 if run.is_quick else 15)
    count = float(len(loaded.split()))
    return [
        at_most(run, "import asyncsessions", times, 100.0, smoke=4_000.0, unit=" ms"),
        at_most(run, "drivers loaded by the import", [count], 0.0, unit="", detail=loaded),
    ]
