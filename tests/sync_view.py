"""A sync store seen as an async one again, so that the conformance suite can test it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from types import TracebackType
from typing import Any, Self, TypeVar, cast

from asyncsessions import SessionStore
from asyncsessions.sync import SyncSessionStore

T = TypeVar("T")
_END: Any = object()
_ITERATORS = {"iter_messages", "export_all"}
_OTHERS = {"aclose"}


class AsyncView:
    """Calls a sync store's methods in threads; a cancelled call still ends there.

    Args:
        store: The sync store.
    """

    def __init__(self, store: SyncSessionStore) -> None:
        self.sync = store

    async def __aenter__(self) -> Self:
        await in_thread(self.sync.__enter__)
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        await in_thread(self.sync.close)


async def in_thread(function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    work = asyncio.ensure_future(asyncio.to_thread(function, *args, **kwargs))
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        await asyncio.wait([work])
        work.exception()
        raise


def _call(name: str) -> Any:
    async def call(self: AsyncView, /, *args: Any, **kwargs: Any) -> Any:
        # A sync caller is blocked meanwhile, and can't change what it gave.
        args, kwargs = _copied(args), _copied(kwargs)
        return await in_thread(getattr(self.sync, name), *args, **kwargs)

    return call


def _copied(given: Any) -> Any:
    if isinstance(given, dict):
        return {key: _copied(value) for key, value in given.items()}
    if isinstance(given, (list, tuple)):
        return type(given)(map(_copied, given))
    return given


def _iterate(name: str) -> Any:
    async def iterate(self: AsyncView, /, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        items: Iterator[Any] = getattr(self.sync, name)(*args, **kwargs)
        while (item := await in_thread(next, items, _END)) is not _END:
            yield item

    return iterate


def methods() -> list[str]:
    """Return the names of all public methods of an async store."""
    return sorted(name for name in dir(SessionStore) if not name.startswith("_"))


for _name in methods():
    if _name not in _OTHERS:
        setattr(AsyncView, _name, (_iterate if _name in _ITERATORS else _call)(_name))


def async_view(store: SyncSessionStore) -> SessionStore:
    """Return a sync store as an async one."""
    return cast("SessionStore", AsyncView(store))
