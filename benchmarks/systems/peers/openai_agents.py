"""The sessions of OpenAI's Agents SDK: one object for each session, on one client."""

from __future__ import annotations

import functools
import resource
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from benchmarks.payload import METADATA, TEXT
from benchmarks.systems.contender import Contender

__all__ = ["MONGO", "POSTGRES", "REDIS", "SQLITE"]

_LACKS = "Has no state, no numbers and no check of a version."
_AT_ONCE = 1000
# Filled one by one: its MongoDB session makes one document of a call, and reads whole documents.
_NEWEST = 100


class Sessions:
    """One session object for each session id; all kinds of them take the same calls."""

    def __init__(self, session: Callable[[str], Any]) -> None:
        self._session = functools.cache(session)

    async def append(self, session_id: str, text: str) -> None:
        await self._session(session_id).add_items([_item(text)])

    async def tail(self, session_id: str, count: int) -> Sequence[object]:
        items: list[object] = await self._session(session_id).get_items(limit=count)
        return items

    async def set_state(self, session_id: str, step: int) -> None:
        pass

    async def fill(self, session_id: str, count: int) -> None:
        add_items = self._session(session_id).add_items
        for start in range(_NEWEST, count, _AT_ONCE):
            await add_items([_item(TEXT)] * min(_AT_ONCE, count - start))
        for _ in range(min(_NEWEST, count)):
            await add_items([_item(TEXT)])

    async def count(self, session_ids: Sequence[str]) -> int:
        return sum([len(await self._session(each).get_items()) for each in session_ids])


def _item(text: str) -> dict[str, object]:
    return {"role": "user", "content": text, "metadata": METADATA}


@asynccontextmanager
async def _sqlite(directory: str) -> AsyncIterator[Sessions]:
    from agents import SQLiteSession

    path = Path(directory, "openai-agents.db")
    with _many_files():
        async with AsyncExitStack() as stack:

            def session(session_id: str) -> SQLiteSession:
                opened = SQLiteSession(session_id, path)
                stack.callback(opened.close)
                return opened

            yield Sessions(session)


@contextmanager
def _many_files() -> Iterator[None]:
    """Let this process open as many files as it may: the usual limit is too low for 64 sessions."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@asynccontextmanager
async def _redis(url: str) -> AsyncIterator[Sessions]:
    from agents.extensions.memory.redis_session import RedisSession
    from redis.asyncio import BlockingConnectionPool, Redis

    # One that waits for a connection: the default pool raises an error at 100.
    pool = BlockingConnectionPool.from_url(url, max_connections=64)
    async with Redis.from_pool(pool) as client:
        yield Sessions(lambda session_id: RedisSession(session_id, redis_client=client))


@asynccontextmanager
async def _postgres(url: str) -> AsyncIterator[Sessions]:
    from agents.extensions.memory.sqlalchemy_session import SQLAlchemySession
    from sqlalchemy.ext.asyncio import create_async_engine

    engine = create_async_engine(url.replace("postgresql://", "postgresql+asyncpg://"))
    try:
        # Makes the tables before many callers come at once.
        await SQLAlchemySession("first", engine=engine, create_tables=True).get_items()
        yield Sessions(lambda session_id: SQLAlchemySession(session_id, engine=engine))
    finally:
        await engine.dispose()


@asynccontextmanager
async def _mongo(url: str) -> AsyncIterator[Sessions]:
    from agents.extensions.memory.mongodb_session import MongoDBSession
    from pymongo import AsyncMongoClient

    durable: Any = {"w": "majority", "journal": True}
    async with AsyncMongoClient[dict[str, Any]](url, **durable) as client:
        yield Sessions(lambda session_id: MongoDBSession(session_id, client=client))


SQLITE = Contender(
    "OpenAI Agents SQLiteSession",
    "peer",
    _sqlite,
    ("openai-agents",),
    note="One file in WAL mode for all sessions, synced by each append. Each session object keeps a"
    " connection for each thread, some 10,000 open files with 1,000 sessions, and so is left out"
    f" there. {_LACKS}",
    without=frozenset({"sessions", "zipf", "arrivals"}),
)
REDIS = Contender(
    "OpenAI Agents RedisSession",
    "peer",
    _redis,
    ("openai-agents", "redis"),
    note="Shared pool of 64 connections. A guarded transaction of five round trips for each append;"
    f" callers of one object wait for one another. {_LACKS}",
)
POSTGRES = Contender(
    "OpenAI Agents SQLAlchemySession",
    "peer",
    _postgres,
    ("openai-agents", "sqlalchemy", "asyncpg"),
    note="One engine on asyncpg with SQLAlchemy's own pool (5, at most 15). Each append locks the"
    f" session's row. {_LACKS}",
)
MONGO = Contender(
    "OpenAI Agents MongoDBSession",
    "peer",
    _mongo,
    ("openai-agents", "pymongo"),
    note="One client; majority and journal. A counter's update and a document for each append."
    f" {_LACKS}",
)
