"""One event loop for all sync stores of a process, in a daemon thread of its own.

A thread and not a loop per call: connection pools and timeouts go on between calls, any number of
threads share them, and a thread whose own event loop runs can call, too.
"""

from __future__ import annotations

import asyncio
import atexit

# Or a thread would import it for the address of a host, and a child forked meanwhile never could.
import encodings.idna  # noqa: F401
import os
import threading
import weakref
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, Generic, TypeVar

from asyncsessions.errors import CallTimeoutError, StoreClosedError
from asyncsessions.protocols import SessionStore

__all__ = ["LoopThread", "loop_thread", "run", "run_within", "running_thread"]

T = TypeVar("T")

# How long an exiting process waits for its stores to be closed.
_EXIT_SECONDS = 2.0
# How long a cancelled call may take to end then, until it is cancelled once more.
_CANCEL_SECONDS = 0.1
# How long a fork waits for the loop to stand still. What a callback does takes milliseconds.
_FORK_SECONDS = 1.0


class _Call(Generic[T]):
    """A coroutine that runs in a loop while the thread that made this waits for it.

    `asyncio.run_coroutine_threadsafe` does the same with a future of its own in each of the two
    threads, which makes a call take 1.4 to 1.8 times as long.
    """

    __slots__ = (
        "_coroutine",
        "_error",
        "_is_answered",
        "_is_done",
        "_loop",
        "_result",
        "_task",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, T]) -> None:
        self._loop = loop
        self._coroutine = coroutine
        self._task: asyncio.Task[None]  # From the loop's first step on.
        self._result: T
        self._error: BaseException | None = None
        self._is_answered = False
        self._is_done = threading.Lock()
        self._is_done.acquire()
        loop.call_soon_threadsafe(self._start)

    def _start(self) -> None:
        self._task = self._loop.create_task(self._run())
        self._task.add_done_callback(self._end)

    async def _run(self) -> None:
        try:
            self._result = await self._coroutine
        except (SystemExit, KeyboardInterrupt) as exc:
            # Of the caller's code, such as a generator of sessions. It would end the loop, and with
            # it every store's, rather than reach the one who waits.
            self._error = exc
        self._is_answered = True
        # In the task's last step, as its end is told a turn of the loop later.
        self._is_done.release()

    def _end(self, task: asyncio.Task[None]) -> None:
        if self._is_answered:
            return
        # Where it was cancelled before its first step, it has not begun.
        self._coroutine.close()
        self._error = asyncio.CancelledError() if task.cancelled() else task.exception()
        self._is_done.release()

    def _cancel(self) -> None:
        self._task.cancel()

    def wait(self, seconds: float | None) -> T:
        """Return the result or raise the error; a wait that is interrupted cancels the call."""
        limit = threading.TIMEOUT_MAX if seconds is None else seconds
        is_done = False
        try:
            is_done = self._is_done.acquire(timeout=limit)
        finally:
            if not is_done:
                with suppress(RuntimeError):  # The loop is closed.
                    self._loop.call_soon_threadsafe(self._cancel)
        if not is_done:
            raise CallTimeoutError(limit)
        error, self._error = self._error, None
        if error is None:
            return self._result
        try:
            raise error
        finally:
            # Or an error would hold itself, and all that its caller holds, by its traceback.
            del error, self._task


class LoopThread:
    """An event loop that runs in a daemon thread, and the stores that are open in it."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, name="asyncsessions-sync", daemon=True)
        self._stores: set[SessionStore] = set()
        self._thread.start()

    def _serve(self) -> None:
        asyncio.set_event_loop(self.loop)
        while True:
            try:
                self.loop.run_forever()
            except (SystemExit, KeyboardInterrupt):
                continue  # A task of a call; who waits for it gets the error.
            break
        # The process exits, and nobody needs to be told of calls that it cuts off.
        self.loop.set_exception_handler(lambda *_: None)
        self.loop.run_until_complete(_end_calls())
        self.loop.close()

    def run(
        self,
        seconds: float | None,
        function: Callable[..., Coroutine[Any, Any, T]],
        /,
        *args: Any,
        **kwargs: Any,
    ) -> T:
        """Run an async function in the loop and return its result; see `run_within`."""
        if threading.current_thread() is self._thread:
            raise RuntimeError(
                "a sync store was called by code that runs in the sync stores' own event loop; "
                "await the async store there"
            )
        coroutine = function(*args, **kwargs)
        try:
            call = _Call(self.loop, coroutine)
        except RuntimeError as exc:  # The loop is closed.
            coroutine.close()
            raise StoreClosedError from exc
        try:
            return call.wait(seconds)
        except asyncio.CancelledError as exc:
            raise StoreClosedError from exc

    def hold(self, store: SessionStore, owner: object) -> None:
        """Keep a store until its owner is freed: it must not be freed in a forked child.

        A store that isn't closed then leaves no connections behind.
        """
        self._stores.add(store)
        weakref.finalize(owner, self._release, store).atexit = False

    def _release(self, store: SessionStore) -> None:
        """Close a store that nobody uses any more, soon and in the loop; waits for nothing."""
        if self is _running and store in self._stores:
            self._stores.discard(store)
            self.loop.call_soon_threadsafe(self._close_later, store)

    def _close_later(self, store: SessionStore) -> None:
        closing = self.loop.create_task(_close_quietly(store))
        self._stores.add(store)
        closing.add_done_callback(lambda _: self._stores.discard(store))

    async def close(self, store: SessionStore) -> None:
        """Close a store; runs in the loop."""
        try:
            await store.aclose()
        finally:
            self._stores.discard(store)

    def pause(self) -> Callable[[], None]:
        """Return when the loop stands still, with the function that lets it go on.

        What runs in the loop is then between two steps, where it holds no lock: a forked child
        would wait forever for one, as for that of a module that was being imported.
        """
        stands_still, may_go_on = threading.Event(), threading.Event()

        def stand() -> None:
            stands_still.set()
            may_go_on.wait()

        if threading.current_thread() is not self._thread:
            with suppress(RuntimeError):  # The loop is closed.
                self.loop.call_soon_threadsafe(stand)
                stands_still.wait(_FORK_SECONDS)
        return may_go_on.set

    def stop(self) -> None:
        """Close what is open, as far as that is quick, end all calls, and end the loop."""
        with suppress(Exception):
            self.run(_EXIT_SECONDS, self._close_all)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(_EXIT_SECONDS)

    async def _close_all(self) -> None:
        await asyncio.gather(*map(_close_quietly, list(self._stores)))


async def _end_calls() -> None:
    """Cancel all calls in a loop, and those that are still on their way to it."""
    await asyncio.sleep(0)
    while left := asyncio.all_tasks() - {asyncio.current_task()}:
        for task in left:
            task.cancel()
        await asyncio.wait(left, timeout=_CANCEL_SECONDS)
    await asyncio.get_running_loop().shutdown_asyncgens()


async def _close_quietly(store: SessionStore) -> None:
    # What the caller was told is stored, is stored; here only connections are let go.
    with suppress(Exception):
        await store.aclose()


_lock = threading.Lock()
_running: LoopThread | None = None
_is_exiting = False
# Loops that a forked child has from its parent. They share selectors and sockets with the parent's,
# so they are never used here, nor freed, which would close what the parent still needs.
_inherited: list[LoopThread] = []
# What lets the loop go on after a fork, for each thread that forks.
_forking = threading.local()


def loop_thread() -> LoopThread:
    """Return the loop thread of this process; it starts when it is first needed.

    Raises:
        StoreClosedError: The interpreter is exiting.
    """
    global _running
    if _running is not None:
        return _running
    with _lock:
        if _is_exiting:
            raise StoreClosedError
        if _running is None:
            _running = LoopThread()
        return _running


def running_thread() -> LoopThread | None:
    """Return the loop thread of this process if it has been started, and hasn't been stopped."""
    return _running


def run(function: Callable[..., Coroutine[Any, Any, T]], /, *args: Any, **kwargs: Any) -> T:
    """Run an async function in the loop thread and return its result, or raise its error.

    The caller's thread is blocked. Where Ctrl-C interrupts it, the function is cancelled.

    Raises:
        RuntimeError: The caller is itself code that runs in the loop thread.
    """
    return loop_thread().run(None, function, *args, **kwargs)


def run_within(
    seconds: float | None,
    function: Callable[..., Coroutine[Any, Any, T]],
    /,
    *args: Any,
    **kwargs: Any,
) -> T:
    """Do as `run` does, for a limited time; None is no limit.

    Raises:
        CallTimeoutError: It took longer; the function was cancelled.
        RuntimeError: The caller is itself code that runs in the loop thread.
    """
    return loop_thread().run(seconds, function, *args, **kwargs)


def _pause() -> None:
    """Let the loop stand still while its process is forked."""
    running = _running
    _forking.resume = None if running is None else running.pause()


def _resume() -> None:
    if _forking.resume is not None:
        _forking.resume()


def _forget() -> None:
    """Leave the parent's loop alone; runs in a forked child before anything else does."""
    global _lock, _running
    _lock = threading.Lock()
    if _running is not None:
        _inherited.append(_running)
        _running = None


def _stop() -> None:
    global _is_exiting, _running
    with _lock:
        _is_exiting = True
        running, _running = _running, None
    if running is not None:
        running.stop()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_pause, after_in_parent=_resume, after_in_child=_forget)
atexit.register(_stop)
