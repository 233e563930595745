"""Systems that keep messages in a list, and some that don't."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from benchmarks.match import Entrant
from benchmarks.systems import Contender, Kind, System

__all__ = ["Failing", "Forgetful", "InList", "entrant"]


class InList:
    """Keeps every message."""

    def __init__(self) -> None:
        self.sessions: dict[str, list[str]] = {}
        self.states: dict[str, int] = {}

    async def append(self, session_id: str, text: str) -> None:
        await asyncio.sleep(0)
        self.sessions.setdefault(session_id, []).append(text)

    async def tail(self, session_id: str, count: int) -> Sequence[object]:
        return self.sessions.get(session_id, [])[-count:]

    async def set_state(self, session_id: str, step: int) -> None:
        self.states[session_id] = step

    async def fill(self, session_id: str, count: int) -> None:
        self.sessions.setdefault(session_id, []).extend(["x"] * count)

    async def count(self, session_ids: Sequence[str]) -> int:
        return sum(len(self.sessions.get(each, [])) for each in session_ids)


class Forgetful(InList):
    """Loses every third message, and says that it is stored."""

    _calls = 0

    async def append(self, session_id: str, text: str) -> None:
        self._calls += 1
        if self._calls % 3:
            await super().append(session_id, text)


class Failing(InList):
    """Stores nothing more once it has stored ten messages."""

    async def append(self, session_id: str, text: str) -> None:
        if sum(map(len, self.sessions.values())) >= 10:
            raise ConnectionError("no more")
        await super().append(session_id, text)


def entrant(
    system: System, kind: Kind, name: str, *, without: frozenset[str] = frozenset()
) -> Entrant:
    """Return an opened contender."""

    @asynccontextmanager
    async def opened(_: str) -> AsyncIterator[System]:
        yield system

    return Entrant(Contender(name, kind, opened, without=without), system)
