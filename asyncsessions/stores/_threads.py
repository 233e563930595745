"""Worker threads whose way there and back is short.

A hop through `anyio.to_thread` takes about 170 microseconds, one through an executor of the
standard library 90, one through these 50: less than the write that it is for, so a lone caller
doesn't wait mostly for the hop.
"""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from queue import SimpleQueue
from typing import Any, TypeVar

__all__ = ["Workers"]

T = TypeVar("T")

_Report = Callable[[Any, BaseException | None], object]
_Call = tuple[Callable[..., Any], tuple[Any, ...], _Report]
_Queue = SimpleQueue[_Call | None]


class Workers:
    """Threads that start when they are first needed and stay until `stop`.

    They end with the process, whatever they are doing: what must be complete is awaited.

    Args:
        limit: The most threads; more calls wait their turn.
        name: The start of the threads' names.
    """

    def __init__(self, limit: int, name: str) -> None:
        self._limit = limit
        self._name = name
        self._queue: _Queue = SimpleQueue()
        self._started = 0
        self._starting = threading.Lock()
        # One for each call that a thread has or that waits for one; a thread takes its own out.
        self._calls: deque[None] = deque()
        # A store that is dropped without being closed leaves no threads behind.
        weakref.finalize(self, self._queue.put, None)

    def run(self, function: Callable[..., T], *args: Any) -> asyncio.Future[T]:
        """Return what a function returns in a thread; it ends there even if this is cancelled."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()

        def report(result: T | None, error: BaseException | None) -> None:
            # A closed event loop takes nothing, and nobody waits there any more.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(_settle, future, result, error)

        self._call(function, args, report)
        return future

    def share(self, function: Callable[[T], object], parts: Sequence[T]) -> None:
        """Call a function with each part, one of them in this thread; return when all are done.

        Raises:
            BaseException: What a call raised; the others have ended, too.
        """
        ends: SimpleQueue[BaseException | None] = SimpleQueue()
        for part in parts[1:]:
            self._call(function, (part,), lambda _, error: ends.put(error))
        try:
            for part in parts[:1]:
                function(part)
        finally:
            errors = [ends.get() for _ in parts[1:]]
        for error in errors:
            if error is not None:
                raise error

    def _call(self, function: Callable[..., Any], args: tuple[Any, ...], report: _Report) -> None:
        self._calls.append(None)
        if self._started < min(self._limit, len(self._calls)):
            with self._starting:
                self._start_thread()
        self._queue.put((function, args, report))

    def _start_thread(self) -> None:
        if self._started == self._limit:
            return  # Another thread was first.
        self._started += 1
        name = f"{self._name}-{self._started}"
        work = (self._queue, self._calls)
        threading.Thread(target=_work, args=work, name=name, daemon=True).start()

    def stop(self) -> None:
        """End the threads once the calls made so far are done."""
        self._queue.put(None)


def _work(queue: _Queue, calls: deque[None]) -> None:
    while (call := queue.get()) is not None:
        _run(calls, *call)
        # Or the thread would hold on to what the last call holds until the next one.
        del call
    # One after the other, all threads take it.
    queue.put(None)


def _run(
    calls: deque[None], function: Callable[..., Any], args: tuple[Any, ...], report: _Report
) -> None:
    result, error = None, None
    try:
        result = function(*args)
    except BaseException as exc:  # noqa: BLE001  # it is raised where somebody waits
        error = exc
    calls.pop()
    report(result, error)


def _settle(future: asyncio.Future[Any], result: object, error: BaseException | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)
