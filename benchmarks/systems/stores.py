"""This library's stores."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from asyncsessions.models import Message
from asyncsessions.protocols import SessionStore
from asyncsessions.registry import open_store
from benchmarks.payload import METADATA, messages
from benchmarks.systems.contender import Contender, System

__all__ = ["Store", "files", "server"]

_NAME = "asyncsessions"
_PAGE = 10_000


class Store:
    """A store, by its own calls."""

    def __init__(self, store: SessionStore) -> None:
        self._store = store

    def append(self, session_id: str, text: str) -> Awaitable[object]:
        return self._store.add_message(session_id, "user", text, METADATA)

    async def tail(self, session_id: str, count: int) -> Sequence[Message]:
        return await self._store.get_messages(session_id, limit=count)

    async def set_state(self, session_id: str, step: int) -> None:
        await self._store.update_state(session_id, {"step": step})

    async def fill(self, session_id: str, count: int) -> None:
        for start in range(0, count, _PAGE):
            await self._store.append(session_id, messages(min(_PAGE, count - start)))

    async def count(self, session_ids: Sequence[str]) -> int:
        return sum([await self._count(session_id) for session_id in session_ids])

    async def _count(self, session_id: str) -> int:
        count = 0
        while page := await self._store.get_messages(session_id, limit=_PAGE, after=count):
            # The numbers have no gaps, so a double or a hole shows here.
            count += sum(message.seq == count + at for at, message in enumerate(page, 1))
            if page[-1].seq != count:
                break
        return count


def _opener(url: Callable[[str], str]) -> Callable[[str], AbstractAsyncContextManager[System]]:
    @asynccontextmanager
    async def opened(place: str) -> AsyncIterator[System]:
        async with open_store(url(place)) as store:
            yield Store(store)

    return opened


def server(*packages: str) -> Contender:
    """Return the store of whichever server a URL names."""
    note = "Default options: each acknowledged message is as durable as the server makes it."
    return Contender(_NAME, "store", _opener(str), packages, note)


def files(scheme: str, note: str, *, query: str = "", longest: int = 100_000) -> Contender:
    """Return a store of files."""
    opener = _opener(lambda directory: f"{scheme}://{directory}/{_NAME}{query}")
    return Contender(_NAME, "store", opener, (), note, longest=longest)
