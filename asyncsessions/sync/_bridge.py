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
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from typing import Any, TypeVar

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


class LoopThread:
    """An event loop that runs in a daemon thread, and the stores that are open in it."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, name="asyncsessions-sync", daemon=True)
        self._stores: set[SessionStore] = set()
        self._thread.start()

    def _serve(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()
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
            future = asyncio.run_coroutine_threadsafe(coroutine, self.loop)
        except RuntimeError as exc:  # The loop is closed.
            coroutine.close()
            raise StoreClosedError from exc
        try:
            return _result(future, seconds)
        except CancelledError as exc:
            raise StoreClosedError from exc
        finally:
            # Does nothing to a call that is done: this is for Ctrl-C and the timeout.
            future.cancel()
            del future  # As in `_result`.

    def hold(self, store: SessionStore) -> None:
        """Keep a store until it is released: it must not be freed in a forked child."""
        self._stores.add(store)

    def release(self, store: SessionStore) -> None:
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


def _result(future: Future[T], seconds: float | None) -> T:
    try:
        return future.result(seconds)
    except TimeoutError as exc:
        if seconds is None or future.done():
            # The function's own error; or it ended in this moment.
            return future.result()
        raise CallTimeoutError(seconds) from exc
    finally:
        # Or an error would hold itself, and all that its caller holds, by its traceback.
        del future


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
