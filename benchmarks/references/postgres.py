"""asyncpg used directly, and the SQLAlchemy session of OpenAI's Agents SDK on PostgreSQL."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg

from asyncsessions.codec import decode_json
from asyncsessions.hooks import Append
from asyncsessions.registry import open_store
from asyncsessions.stores._postgres_plain import Flush
from asyncsessions.stores._postgres_schema import Tables
from asyncsessions.stores._postgres_statements import Statements
from benchmarks.payload import METADATA, TEXT, body

__all__ = ["OpenAIAgents", "Pool", "Statement"]

CONNECTIONS = 10


class Pool:
    """One INSERT of one row by each caller, on a pool of ten connections."""

    def __init__(self, pool: Any) -> None:
        self._pool = pool

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str) -> AsyncIterator[Pool]:
        async with asyncpg.create_pool(url, min_size=CONNECTIONS, max_size=CONNECTIONS) as pool:
            await pool.execute(
                "CREATE TABLE IF NOT EXISTS naive"
                " (id bigserial PRIMARY KEY, session text, body text)"
            )
            await pool.execute("CREATE INDEX IF NOT EXISTS naive_session ON naive (session, id)")
            yield cls(pool)

    async def append(self, session_id: str) -> None:
        insert = "INSERT INTO naive (session, body) VALUES ($1, $2)"
        await self._pool.execute(insert, session_id, body().decode())

    async def count(self) -> int:
        return int(await self._pool.fetchval("SELECT count(*) FROM naive"))

    async def read(self, session_id: str) -> list[Any]:
        """Fetch and decode everything."""
        select = "SELECT body FROM naive WHERE session = $1 ORDER BY id"
        return [decode_json(row[0]) for row in await self._pool.fetch(select, session_id)]


class Statement:
    """The store's own statement for an append, awaited directly on one connection."""

    def __init__(self, connection: Any, statement: str) -> None:
        self._connection = connection
        self._statement = statement
        self._number = 0

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str) -> AsyncIterator[Statement]:
        # The store makes the tables; a session of its own keeps the two apart.
        async with open_store(url) as store:
            await store.ping()
        connection = await asyncpg.connect(url)
        try:
            yield cls(connection, Statements(Tables("asyncsessions", ""), by_server=True).append)
        finally:
            await connection.close()

    async def append(self, session_id: str) -> None:
        self._number += 1
        append = Append(f"direct {session_id}", (body(),), (), time.time())
        arguments = Flush([append]).arguments()
        await self._connection.fetch(self._statement, "direct", self._number, *arguments)

    async def count(self) -> int:
        select = "SELECT sum(message_count) FROM asyncsessions.sessions WHERE session_id = $1"
        return int(await self._connection.fetchval(select, b"direct s0"))


class OpenAIAgents:
    """One session object for each session, on one engine."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine
        self._sessions: dict[str, Any] = {}

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str) -> AsyncIterator[OpenAIAgents]:
        from sqlalchemy.ext.asyncio import create_async_engine

        engine = create_async_engine(url.replace("postgresql://", "postgresql+asyncpg://"))
        try:
            peer = cls(engine)
            # Makes the tables before many callers come at once.
            await peer._session("first", create_tables=True).get_items()
            yield peer
        finally:
            await engine.dispose()

    def _session(self, session_id: str, *, create_tables: bool = False) -> Any:
        from agents.extensions.memory.sqlalchemy_session import SQLAlchemySession

        if session_id not in self._sessions:
            self._sessions[session_id] = SQLAlchemySession(
                session_id, engine=self._engine, create_tables=create_tables
            )
        return self._sessions[session_id]

    async def append(self, session_id: str) -> None:
        item = {"role": "user", "content": TEXT, "metadata": METADATA}
        await self._session(session_id).add_items([item])

    async def count(self) -> int:
        from sqlalchemy import text

        async with self._engine.connect() as connection:
            result = await connection.execute(text("SELECT count(*) FROM agent_messages"))
            return int(result.scalar_one())
