"""A sync store's async store: where it is open, and the way to it and back."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from types import TracebackType
from typing import Any, Self, TypeVar

from asyncsessions import registry
from asyncsessions.errors import ForkedStoreError, SessionStoreError, StoreClosedError
from asyncsessions.protocols import SessionStore, check_async_store
from asyncsessions.stores._urls import split_url
from asyncsessions.sync._bridge import LoopThread, loop_thread, run_within, running_thread

__all__ = ["BridgedStore"]

T = TypeVar("T")


class BridgedStore:
    """Opens an async store in the loop thread, closes it, and runs calls there.

    Args:
        store: See `SyncSessionStore`, as for the others.
        call_timeout: The longest that a call may take, in seconds.
        **options: The arguments of the store's class.
    """

    def __init__(
        self, store: str | SessionStore, *, call_timeout: float | None = None, **options: Any
    ) -> None:
        if call_timeout is not None and not call_timeout > 0:
            raise ValueError(f"call_timeout must be positive or None, not {call_timeout!r}")
        self._call_timeout = call_timeout
        self._make: Callable[[], SessionStore] | None = None
        if isinstance(store, str):
            url = store
            store = registry.open_store(url, **options)
            if split_url(url).scheme != "memory":
                self._make = lambda: registry.open_store(url, **options)
        else:
            _check_unopened(store, options)
        self._given = store
        self._is_closed = False
        # The store in each loop thread that it was used in: one, and another in a forked child,
        # which keeps the inherited one, unused, as its loop thread does.
        self._stores: dict[LoopThread, SessionStore] = {}

    @property
    def _async(self) -> SessionStore:
        """The async store; only the loop thread may use it."""
        thread = loop_thread()
        return self._stores.get(thread) or self._arrive(thread)

    def _arrive(self, thread: LoopThread) -> SessionStore:
        if self._is_closed:
            raise StoreClosedError
        if not self._stores:
            store = self._given
        elif self._make is None:
            raise ForkedStoreError
        else:
            store = self._make()
        # Where two threads come at once, both take the first one's.
        store = self._stores.setdefault(thread, store)
        thread.hold(store, self)
        return store

    def _run(
        self, method: Callable[..., Coroutine[Any, Any, T]], /, *args: Any, **kwargs: Any
    ) -> T:
        return run_within(self._call_timeout, method, *args, **kwargs)

    def _iterate(self, iterator: AsyncIterator[T], count: int) -> Iterator[T]:
        """Iterate over what comes in the loop, so many at once."""
        thread = loop_thread()

        async def take() -> tuple[list[T], Exception | None]:
            taken: list[T] = []
            try:
                while len(taken) < count:
                    taken.append(await anext(iterator))
            except (StopAsyncIteration, SessionStoreError) as exc:
                # Raised after what came before it.
                return taken, exc
            return taken, None

        while True:
            if loop_thread() is not thread:
                raise ForkedStoreError  # The iteration's connection is the parent's.
            taken, ended = self._run(take)
            yield from taken
            if isinstance(ended, StopAsyncIteration):
                return
            if ended is not None:
                raise ended

    # Life.

    def __enter__(self) -> Self:
        self._run(self._async.__aenter__)
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Complete the writes under way, refuse new ones and let go of all resources.

        Where there is nothing to close, as in a forked child or while the interpreter exits,
        that's all.
        """
        self._is_closed = True
        thread = running_thread()
        store = None if thread is None else self._stores.get(thread)
        if thread is not None and store is not None:
            self._run(thread.close, store)


def _check_unopened(store: SessionStore, options: Mapping[str, Any]) -> None:
    if options:
        raise TypeError(f"options are for a URL, not for a store: {', '.join(options)}")
    if isinstance(store, BridgedStore):
        raise TypeError("this is a sync store already")
    check_async_store(store)
    if getattr(store, "is_open", False):
        raise TypeError(
            "this store is open in another event loop; give a URL, or a store that isn't open yet"
        )
