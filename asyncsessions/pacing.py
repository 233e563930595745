"""Long loops that never keep the event loop waiting.

On the event loop a `Pacer` gives way after each half millisecond of work: several tasks may have
a slice in one turn of the loop, and a timer takes up to three turns to wake its task. In a worker
thread a `Breather` lets go of the interpreter lock after each millisecond: otherwise a waiting
event loop gets it only after the switch interval of 5 ms.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Generator, Sequence
from typing import Any, TypeVar

__all__ = ["Breather", "Pacer", "paced", "paced_map"]

Item = TypeVar("Item")
Result = TypeVar("Result")

_SLICE_SECONDS = 0.0005
_SLICE_IN_THREAD_SECONDS = 0.001
# Long enough for another thread to wake up and take the interpreter lock.
_BREATH_SECONDS = 0.00005
_FREED_AT_ONCE = 256


class Pacer:
    """Gives way to the event loop when a slice of work is over."""

    def __init__(self) -> None:
        self._deadline = time.perf_counter() + _SLICE_SECONDS

    async def pause(self) -> None:
        """Let other tasks run if this one has had its slice."""
        if time.perf_counter() > self._deadline:
            await asyncio.sleep(0)
            self._deadline = time.perf_counter() + _SLICE_SECONDS


class Breather:
    """Lets go of the interpreter lock when a slice of work in a thread is over."""

    def __init__(self) -> None:
        self._deadline = time.perf_counter() + _SLICE_IN_THREAD_SECONDS

    def breathe(self) -> None:
        """Let other threads run if this one has had its slice."""
        if time.perf_counter() > self._deadline:
            time.sleep(_BREATH_SECONDS)
            self._deadline = time.perf_counter() + _SLICE_IN_THREAD_SECONDS

    def free(self, items: list[Any]) -> None:
        """Empty a list slice by slice; to free all of a long one takes longer than a slice."""
        while items:
            del items[-_FREED_AT_ONCE:]
            self.breathe()


async def paced(work: Generator[None, None, Result]) -> Result:
    """Return what a generator returns, which yields after each step of much less than a slice."""
    pacer = Pacer()
    while True:
        try:
            next(work)
        except StopIteration as end:
            result: Result = end.value
            return result
        await pacer.pause()


async def paced_map(function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """Return a function's results for items, computed in slices; it takes much less than one."""
    results = []
    pacer = Pacer()
    for index, item in enumerate(items):
        results.append(function(item))
        # A short list never gives way, so that appends reach the queue in the order of their calls.
        if index & 15 == 15:
            await pacer.pause()
    return results
