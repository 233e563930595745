"""The chat message histories of LangChain."""

from __future__ import annotations

import asyncio
import functools
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from typing import Any

from benchmarks.payload import METADATA, TEXT
from benchmarks.systems.contender import Contender

__all__ = ["MONGO", "POSTGRES", "REDIS"]

_CONNECTIONS = 10
_FILLERS = 10


class Histories:
    """One history for each session id; all kinds of them take the same calls.

    Args:
        history: Takes a session id, and how many of the newest messages are read: None for all.
    """

    def __init__(
        self, history: Callable[[str, int | None], AbstractAsyncContextManager[Any]]
    ) -> None:
        self._history = history

    async def append(self, session_id: str, text: str) -> None:
        await self._add(session_id, [_message(text)])

    async def _add(self, session_id: str, messages: list[object]) -> None:
        async with self._history(session_id, None) as history:
            await history.aadd_messages(messages)

    async def tail(self, session_id: str, count: int) -> Sequence[object]:
        messages = await self._read(session_id, count)
        return messages[-count:]

    async def _read(self, session_id: str, count: int | None) -> list[object]:
        async with self._history(session_id, count) as history:
            messages: list[object] = await history.aget_messages()
            return messages

    async def set_state(self, session_id: str, step: int) -> None:
        pass

    async def fill(self, session_id: str, count: int) -> None:
        # Most of them send one message after the other.
        shares = (
            [_message(TEXT)] * len(range(first, count, _FILLERS)) for first in range(_FILLERS)
        )
        await asyncio.gather(*(self._add(session_id, share) for share in shares if share))

    async def count(self, session_ids: Sequence[str]) -> int:
        return sum([len(await self._read(each, None)) for each in session_ids])


def _message(text: str) -> object:
    from langchain_core.messages import HumanMessage

    return HumanMessage(text, additional_kwargs=METADATA)


@asynccontextmanager
async def _redis(url: str) -> AsyncIterator[Histories]:
    from langchain_community.chat_message_histories import RedisChatMessageHistory
    from redis import Redis

    with Redis.from_url(url) as client:

        @functools.cache
        def history(session_id: str) -> Any:
            made = RedisChatMessageHistory(session_id, url)
            # It takes no client, and connections of each history's own would be thousands.
            made.redis_client.close()
            made.redis_client = client
            return made

        yield Histories(lambda session_id, _: nullcontext(history(session_id)))


@asynccontextmanager
async def _postgres(url: str) -> AsyncIterator[Histories]:
    from langchain_postgres import PostgresChatMessageHistory
    from psycopg_pool import AsyncConnectionPool

    table = "chat_history"
    async with AsyncConnectionPool(url, max_size=_CONNECTIONS, open=False) as pool:
        async with pool.connection() as connection:
            await PostgresChatMessageHistory.acreate_tables(connection, table)

        @asynccontextmanager
        async def history(session_id: str, _: int | None) -> AsyncIterator[Any]:
            key = str(uuid.uuid5(uuid.NAMESPACE_OID, session_id))
            async with pool.connection() as connection:
                yield PostgresChatMessageHistory(table, key, async_connection=connection)

        yield Histories(history)


@asynccontextmanager
async def _mongo(url: str) -> AsyncIterator[Histories]:
    from langchain_mongodb import MongoDBChatMessageHistory
    from pymongo import MongoClient

    durable: Any = {"w": "majority", "journal": True}
    with MongoClient[dict[str, Any]](url, **durable) as client:
        MongoDBChatMessageHistory(None, "first", client=client)  # makes the index

        @functools.cache
        def history(session_id: str, count: int | None) -> Any:
            return MongoDBChatMessageHistory(
                None, session_id, client=client, create_index=False, history_size=count
            )

        yield Histories(lambda session_id, count: nullcontext(history(session_id, count)))


_LACKS = "Has no state and no numbers. LangChain has deprecated its histories."
REDIS = Contender(
    "LangChain RedisChatMessageHistory",
    "peer",
    _redis,
    ("langchain-community", "redis"),
    note="Synchronous: each call runs in a thread, on one client for all. One LPUSH for each"
    f" append; every read is of the whole list. {_LACKS} langchain-redis, which replaces it, needs"
    " RediSearch.",
    longest=10_000,
)
POSTGRES = Contender(
    "LangChain PostgresChatMessageHistory",
    "peer",
    _postgres,
    ("langchain-postgres", "psycopg-pool"),
    note=f"A history on a connection of psycopg's pool, {_CONNECTIONS} at most, for each call: on"
    " one shared connection a caller's commit or rollback is everyone's. One INSERT for each"
    f" append; every read is of the whole session. {_LACKS}",
    longest=10_000,
)
MONGO = Contender(
    "LangChain MongoDBChatMessageHistory",
    "peer",
    _mongo,
    ("langchain-mongodb", "pymongo"),
    note="Synchronous: each call runs in a thread, on one client for all; majority and journal. One"
    " insert_one for each append, whose failure is only logged; a tail counts the session, skips,"
    f" and sorts nothing. {_LACKS}",
    longest=10_000,
)
