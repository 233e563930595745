"""The session services of Google's Agent Development Kit."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from benchmarks.payload import METADATA, TEXT
from benchmarks.systems.contender import SLOW, Contender

__all__ = ["MONGO", "POSTGRES", "SQLITE"]

_APP = "benchmark"
_USER = "user"


class Events:
    """One session object for each session, which all callers share."""

    def __init__(self, service: Any) -> None:
        self._service = service
        self._sessions: dict[str, Any] = {}
        # Two callers must not make the same session.
        self._making: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def _session(self, session_id: str) -> Any:
        if session_id not in self._sessions:
            async with self._making[session_id]:
                if session_id not in self._sessions:
                    found = await self._find(session_id, 0)
                    self._sessions[session_id] = found or await self._service.create_session(
                        app_name=_APP, user_id=_USER, session_id=session_id
                    )
        return self._sessions[session_id]

    async def _find(self, session_id: str, events: int | None) -> Any:
        from google.adk.sessions.base_session_service import GetSessionConfig

        return await self._service.get_session(
            app_name=_APP,
            user_id=_USER,
            session_id=session_id,
            config=GetSessionConfig(num_recent_events=events),
        )

    async def append(self, session_id: str, text: str) -> None:
        from google.adk.events import Event
        from google.genai.types import Content, Part

        content = Content(role="user", parts=[Part(text=text)])
        event = Event(author="user", content=content, custom_metadata=METADATA)
        await self._service.append_event(await self._session(session_id), event)

    async def tail(self, session_id: str, count: int) -> Sequence[object]:
        found = await self._find(session_id, count)
        return [] if found is None else list[object](found.events)

    async def set_state(self, session_id: str, step: int) -> None:
        from google.adk.events import Event, EventActions

        event = Event(author="user", actions=EventActions(state_delta={"step": step}))
        await self._service.append_event(await self._session(session_id), event)

    async def fill(self, session_id: str, count: int) -> None:
        for _ in range(count):
            await self.append(session_id, TEXT)

    async def count(self, session_ids: Sequence[str]) -> int:
        found = [await self._find(each, None) for each in session_ids]
        events = [event for session in found if session is not None for event in session.events]
        # Others only carry a change of the state.
        return sum(event.content is not None for event in events)


@asynccontextmanager
async def _opened(url: str) -> AsyncIterator[Events]:
    from google.adk.sessions import DatabaseSessionService

    async with DatabaseSessionService(url) as service:
        yield Events(service)


@asynccontextmanager
async def _mongo(url: str) -> AsyncIterator[Events]:
    from google.adk.integrations.mongodb import MongoDbSessionService
    from pymongo import MongoClient

    durable: Any = {"w": "majority", "journal": True}
    with MongoClient[dict[str, Any]](url, **durable) as client:
        yield Events(MongoDbSessionService(database_name="adk", mongo_client=client))


def _sqlite(directory: str) -> AbstractAsyncContextManager[Events]:
    return _opened(f"sqlite+aiosqlite:///{directory}/google-adk.db")


def _postgres(url: str) -> AbstractAsyncContextManager[Events]:
    return _opened(url.replace("postgresql://", "postgresql+asyncpg://"))


_NOTE = (
    "A new value of the state is an event of its own, which tails have, too. Callers share a"
    " session's object: with objects of their own all but one get StaleSessionError. Has no numbers"
    " and no call for many events. Measured with up to 64 callers, of which it gets no faster."
)
_MOST_CALLERS = 64
_POOL = "SQLAlchemy's own pool (5 connections, at most 15)"
SQLITE = Contender(
    "Google ADK DatabaseSessionService (SQLite)",
    "peer",
    _sqlite,
    ("google-adk", "sqlalchemy", "aiosqlite"),
    note=f"{_POOL}; SQLite's own settings: a rollback journal, synced. {_NOTE}",
    longest=100,
    most_callers=_MOST_CALLERS,
    without=SLOW,
)
POSTGRES = Contender(
    "Google ADK DatabaseSessionService",
    "peer",
    _postgres,
    ("google-adk", "sqlalchemy", "asyncpg"),
    note=f"asyncpg in {_POOL}. {_NOTE}",
    longest=100,
    most_callers=_MOST_CALLERS,
    without=SLOW,
)
MONGO = Contender(
    "Google ADK MongoDbSessionService",
    "peer",
    _mongo,
    ("google-adk", "pymongo"),
    note="Experimental. Each call runs in a thread, on one client; majority and journal, without"
    f" transactions, which a lone server has none of. {_NOTE}",
    longest=100,
    most_callers=_MOST_CALLERS,
    without=SLOW,
)
