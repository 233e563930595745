"""One event loop for all sync stores of a process, in a daemon thread of its own.

A thread and not a loop per call: connection pools and timeouts go on between calls, any number of
threads share them, and a thread whose own event loop runs can call, too.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError
from contextlib import suppress
from typing import Any, TypeVar

from asyncsessions.errors import CallTimeoutError, StoreClosedError
from asyncsessions.protocols import SessionStore

__all__ = ["LoopThread", "loop_thread", "run", "run_within"]

T = TypeVar("T")

# How long an exiting process waits for its stores to be closed.
_EXIT_SECONDS = 2.0


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
            return future.result(seconds)
        except TimeoutError as exc:
            if seconds is None or future.done():
                raise  # The function's own.
            raise CallTimeoutError(seconds) from exc
        except CancelledError as exc:
            raise StoreClosedError from exc
        finally:
            # Does nothing to a call that is done: this is for Ctrl-C and the timeout.
            future.cancel()

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

    def stop(self) -> None:
        """Close what is open, as far as that is quick, and end the loop."""
        with suppress(Exception):
            self.run(_EXIT_SECONDS, self._finish)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(_EXIT_SECONDS)
        if not self._thread.is_alive():
            self.loop.close()

    async def _finish(self) -> None:
        await asyncio.gather(*map(_close_quietly, self._stores))
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        await self.loop.shutdown_asyncgens()


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
    os.register_at_fork(after_in_child=_forget)
atexit.register(_stop)
