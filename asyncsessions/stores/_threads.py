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

from asyncsessions.errors import StoreClosedError, StoreUnavailableError

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
        self._is_stopped = False
        self._lock = threading.Lock()
        # One for each call that a thread has or that waits for one; a thread takes its own out.
        self._calls: deque[None] = deque()
        # A store that is dropped without being closed leaves no threads behind. At the process's
        # exit they go on: what runs then may still use or close a store.
        weakref.finalize(self, self._queue.put, None).atexit = False

    def run(self, function: Callable[..., T], *args: Any) -> asyncio.Future[T]:
        """Return what a function returns in a thread; it ends there even if this is cancelled.

        Raises:
            StoreClosedError: `stop` was called before.
            StoreUnavailableError: There is no thread and none can be started.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()

        def report(result: T | None, error: BaseException | None) -> None:
            # A closed event loop takes nothing, and nobody waits there any more.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(_settle, future, result, error)

        if not self._hand_over(function, args, report):
            if self._is_stopped:
                raise StoreClosedError
            raise StoreUnavailableError("the system starts no thread; raise its limit")
        return future

    def share(self, function: Callable[[T], object], parts: Sequence[T]) -> None:
        """Call a function with each part, one of them in this thread; return when all are done.

        Raises:
            BaseException: What a call raised; the others have ended, too.
        """
        ends: SimpleQueue[BaseException | None] = SimpleQueue()

        def report(_: object, error: BaseException | None) -> None:
            ends.put(error)

        mine = list(parts[:1])
        mine += [part for part in parts[1:] if not self._hand_over(function, (part,), report)]
        for part in mine:
            report(*_outcome(function, (part,)))
        errors = [ends.get() for _ in parts]
        for error in errors:
            if error is not None:
                raise error

    def later(self, function: Callable[[], object]) -> bool:
        """Let a thread call a function some time; return False if none ever will.

        What it returns or raises goes nowhere.
        """
        return self._hand_over(function, (), lambda _, __: None)

    def _hand_over(
        self, function: Callable[..., Any], args: tuple[Any, ...], report: _Report
    ) -> bool:
        """Leave a call to a thread; return False if none will ever take it."""
        with self._lock:
            if self._is_stopped:
                return False
            if self._started < min(self._limit, len(self._calls) + 1):
                try:
                    self._start_thread()
                except RuntimeError:
                    # The system has no more of them, so those there are must do.
                    if not self._started:
                        return False
            self._calls.append(None)
            self._queue.put((function, args, report))
            return True

    def _start_thread(self) -> None:
        name = f"{self._name}-{self._started + 1}"
        work = (self._queue, self._calls)
        threading.Thread(target=_work, args=work, name=name, daemon=True).start()
        self._started += 1

    def stop(self) -> None:
        """Take no more calls, and end the threads once those made so far are done."""
        with self._lock:
            self._is_stopped = True
            self._queue.put(None)


def _work(queue: _Queue, calls: deque[None]) -> None:
    while (call := queue.get()) is not None:
        function, args, report = call
        outcome = _outcome(function, args)
        calls.pop()
        report(*outcome)
        # Or the thread would hold on to what the last call holds until the next one.
        del call, function, args, report, outcome
    # One after the other, all threads take it.
    queue.put(None)


def _outcome(
    function: Callable[..., Any], args: tuple[Any, ...]
) -> tuple[Any, BaseException | None]:
    try:
        return function(*args), None
    except BaseException as exc:  # noqa: BLE001  # it is raised where somebody waits
        return None, exc


def _settle(future: asyncio.Future[Any], result: object, error: BaseException | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)
