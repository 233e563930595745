"""What goes on beside the measured calls: the loop's lag, processors and memory."""

from __future__ import annotations

import asyncio
import math
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import psutil

__all__ = ["Usage", "Watch", "percentiles"]

TICK = 0.005
_MIB = 1 << 20
_IDLE = ("idle", "iowait", "guest", "guest_nice")


def percentiles(values: Sequence[float], *wanted: float) -> dict[str, float]:
    """Return percentiles by name, as ``p99``, and ``max``; zeros where there is no value."""
    ordered = sorted(values) or [0.0]
    found = {
        f"p{each:g}": ordered[max(math.ceil(len(ordered) * each / 100), 1) - 1] for each in wanted
    }
    return found | {"max": ordered[-1]}


@dataclass(frozen=True, slots=True)
class Usage:
    """What a stretch of time took.

    Attributes:
        seconds: How long it was.
        cpu: Processor seconds of this process in each second.
        server_cpu: Those of the processes that this one started.
        foreign: The share of all processors that others took, from 0 to 1.
        memory: By how many MiB this process grew.
        lag: Milliseconds that a ticker came late, by percentile.
    """

    seconds: float
    cpu: float
    server_cpu: float
    foreign: float
    memory: float
    lag: dict[str, float]


@dataclass(frozen=True, slots=True)
class _Look:
    """A look at the whole machine, which takes some milliseconds itself."""

    time: float
    own: float
    children: float
    busy: float
    memory: int

    @classmethod
    def now(cls, process: psutil.Process) -> _Look:
        children = sum(map(_cpu_of, process.children(recursive=True)))
        times = psutil.cpu_times()._asdict()
        busy = sum(seconds for name, seconds in times.items() if name not in _IDLE)
        memory = process.memory_info().rss
        return cls(time.perf_counter(), time.process_time(), children, busy, memory)

    def foreign(self, end: _Look) -> float:
        """Return the share of all processors that others took from here to another look."""
        # A child that has ended in between took time that is not counted any more.
        ours = end.own - self.own + max(0.0, end.children - self.children)
        share = (end.busy - self.busy - ours) / ((end.time - self.time) * (os.cpu_count() or 1))
        return min(max(share, 0.0), 1.0)


def _cpu_of(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.Error:  # It has ended.
        return 0.0
    return float(times.user + times.system)


class Watch:
    """An asynchronous context manager around what is measured.

    Afterwards ``usage`` says what it took, without what it takes to find out. What the hypervisor
    gave to other machines counts as foreign, too.
    """

    usage: Usage

    async def __aenter__(self) -> Self:
        self._process = psutil.Process()
        self._lags: list[float] = []
        self._is_over = False
        self._before = _Look.now(self._process)
        self._ticker = asyncio.create_task(self._tick())
        self._own = time.process_time()
        self._start = time.perf_counter()
        return self

    async def _tick(self) -> None:
        while not self._is_over:
            start = time.perf_counter()
            await asyncio.sleep(TICK)
            self._lags.append((time.perf_counter() - start - TICK) * 1000)

    async def __aexit__(self, *exc: object) -> None:
        seconds = time.perf_counter() - self._start
        own = time.process_time() - self._own
        self._is_over = True
        await self._ticker
        before, after = self._before, _Look.now(self._process)
        children = max(0.0, after.children - before.children)
        self.usage = Usage(
            seconds,
            own / seconds,
            children / seconds,
            before.foreign(after),
            (after.memory - before.memory) / _MIB,
            percentiles(self._lags, 50, 99),
        )
