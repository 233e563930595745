"""Runs a store's hooks: opens it once, batches its writes, settles and translates.

It is a part of `BaseSessionStore` rather than a base class of its own, so that a store's private
names can't clash with it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Protocol, TypeVar

import anyio

from asyncsessions.batching import Entry, GroupCommit, Outcome
from asyncsessions.errors import SessionStoreError, StoreClosedError, StoreUnavailableError
from asyncsessions.hooks import Append, Update
from asyncsessions.tasks import start

__all__ = ["Engine"]

T = TypeVar("T")

_APPENDS = frozenset({Append})


class Hooks(Protocol):
    """The hooks that an engine calls by itself; see `BaseSessionStore` for what they mean."""

    _driver_errors: tuple[type[Exception], ...]
    _flushes_at_once: int
    _overlaps_flushes: bool
    _chains_appends: bool

    async def _open(self) -> None: ...
    async def _close(self) -> None: ...
    async def _append(self, batch: Sequence[Append]) -> Sequence[Outcome[Any]]: ...
    async def _update(self, batch: Sequence[Update]) -> Sequence[Outcome[Any]]: ...
    def _failure(self, exc: Exception, session_id: str | None) -> StoreUnavailableError: ...


class Engine:
    """The life cycle of one store and its calls to the hooks.

    Args:
        store: The store whose hooks it calls.
    """

    def __init__(self, store: Hooks) -> None:
        self._store = store
        self._writes: GroupCommit[Append | Update, Any] = GroupCommit(self._flush)
        self._opening: asyncio.Task[None] | None = None
        self._actions: set[asyncio.Task[Any]] = set()
        self._is_closed = False
        self._closing: asyncio.Task[None] | None = None
        # Whether calls may go ahead; the hot paths look here before they call `open`.
        self.is_ready: bool = False
        # Returns a write's entry if it could be queued at once, else None. It is
        # `GroupCommit.offer` as soon as the store is open, which refuses by itself once closed.
        self.offer: Callable[[str, Append | Update, int], Entry[Any, Any] | None] = _offer_nothing

    async def open(self) -> None:
        """Open the store unless it is open; concurrent callers wait for the same attempt."""
        if self._is_closed:
            raise StoreClosedError
        if self.is_ready:
            return
        # One that is done has failed, and whoever waited for it was cancelled.
        if self._opening is None or self._opening.done():
            self._opening = start(self._open())
            self._opening.add_done_callback(_look_at)
        opening = self._opening
        try:
            await asyncio.shield(opening)
        finally:
            # After a failure the next call tries again.
            if opening.done() and self._opening is opening:
                self._opening = None
        if self._is_closed:
            raise StoreClosedError  # Meanwhile.

    async def _open(self) -> None:
        try:
            await self._store._open()
        except self._store._driver_errors as exc:
            raise self._store._failure(exc, None) from exc
        self._writes.max_flushes = self._store._flushes_at_once
        self._writes.overlaps = self._store._overlaps_flushes
        self._writes.chained = _APPENDS if self._store._chains_appends else frozenset()
        self.is_ready = True
        self.offer = self._writes.offer

    async def aclose(self) -> None:
        """Complete what is under way and close the store; again is a no-op.

        It goes on where a caller is cancelled, and other callers wait for the same end.
        """
        self._is_closed = True
        if self._closing is None:
            self._closing = start(self._close())
        elif self._closing.done():
            return
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        if self._opening is not None:
            # What it has opened by then is to be closed.
            await asyncio.wait([self._opening])
        was_open = self.is_ready
        self.is_ready = False
        await self._writes.aclose()
        if self._actions:
            await asyncio.wait(self._actions)
        if was_open:
            await self._store._close()

    async def read(self, hook: Callable[..., Awaitable[T]], *args: Any) -> T:
        """Await a hook that only reads."""
        if not self.is_ready:
            await self.open()
        try:
            return await hook(*args)
        except SessionStoreError:
            raise
        except self._store._driver_errors as exc:
            session_id = args[0] if args and isinstance(args[0], str) else None
            raise self._store._failure(exc, session_id) from exc

    async def act(
        self, session_id: str, hook: Callable[..., Coroutine[Any, Any, T]], *args: Any, **kw: Any
    ) -> T:
        """Await a hook that writes; a cancelled caller still sees it through."""
        if not self.is_ready:
            await self.open()
        task = start(hook(*args, **kw))
        self._actions.add(task)
        task.add_done_callback(self._actions.discard)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            with anyio.CancelScope(shield=True):
                await asyncio.wait([task])
            if not task.cancelled():
                task.exception()  # Marks it as seen; the caller learns of the cancellation.
            raise
        except SessionStoreError:
            raise
        except self._store._driver_errors as exc:
            raise self._store._failure(exc, session_id) from exc

    async def write(self, write: Append | Update, size: int) -> Any:
        """Return a write's outcome in the next group commit."""
        if not self.is_ready:
            await self.open()
        return await self._writes.submit(write.session_id, write, size)

    async def enqueue(self, write: Append | Update, size: int) -> Entry[Any, Any]:
        """Return a write's entry as soon as it is queued; see `GroupCommit.enqueue`."""
        if not self.is_ready:
            await self.open()
        return await self._writes.enqueue(write.session_id, write, size)

    async def _flush(self, batch: list[Append | Update]) -> Sequence[Outcome[Any]]:
        if _APPENDS.issuperset(map(type, batch)):
            return await self._flush_half(self._store._append, batch)
        appends = [index for index, write in enumerate(batch) if type(write) is Append]
        updates = [index for index, write in enumerate(batch) if type(write) is Update]
        outcomes: list[Any] = [None] * len(batch)
        hook: Callable[[Any], Awaitable[Sequence[Outcome[Any]]]]
        for indexes, hook in ((appends, self._store._append), (updates, self._store._update)):
            if indexes:
                half = await self._flush_half(hook, [batch[index] for index in indexes])
                for index, outcome in zip(indexes, half, strict=True):
                    outcomes[index] = outcome
        return outcomes

    async def _flush_half(
        self,
        hook: Callable[[Any], Awaitable[Sequence[Outcome[Any]]]],
        batch: list[Append | Update],
    ) -> Sequence[Outcome[Any]]:
        try:
            return await hook(batch)
        except Exception as exc:  # noqa: BLE001  # it reaches the callers of this half only
            if isinstance(exc, SessionStoreError) or not isinstance(
                exc, self._store._driver_errors
            ):
                return [exc] * len(batch)
            return [self._store._failure(exc, write.session_id) for write in batch]


def _offer_nothing(key: str, write: Append | Update, size: int) -> None:
    """Stand for `GroupCommit.offer` until the store is open."""


def _look_at(opening: asyncio.Task[None]) -> None:
    """Mark a failure as seen, where all who waited for it were cancelled."""
    if not opening.cancelled():
        opening.exception()
