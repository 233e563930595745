"""asyncpg used directly."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import asyncpg

from asyncsessions.codec import decode_json, encode_json
from asyncsessions.hooks import Append
from asyncsessions.registry import open_store
from asyncsessions.stores._postgres_plain import Flush
from asyncsessions.stores._postgres_schema import Tables
from asyncsessions.stores._postgres_statements import Statements
from benchmarks.payload import TEXT, body
from benchmarks.systems.batching import Batcher, Batches
from benchmarks.systems.contender import Contender, System
from benchmarks.systems.stores import Store

__all__ = ["DRIVERS"]

CONNECTIONS = 10
_PACKAGES = ("asyncpg",)
_POOL_TABLES = """
CREATE TABLE naive (id bigserial PRIMARY KEY, session text, body text);
CREATE INDEX ON naive (session, id);
CREATE TABLE naive_state (session text PRIMARY KEY, state text);
"""
_SET_STATE = """
INSERT INTO {}_state VALUES ($1, $2) ON CONFLICT (session) DO UPDATE SET state = excluded.state
"""
_LIMIT_TABLES = """
CREATE TABLE batch_sessions (session text PRIMARY KEY, last_seq bigint, updated_at float8);
CREATE INDEX ON batch_sessions (updated_at);
CREATE TABLE batch (session text, seq bigint, body text, PRIMARY KEY (session, seq));
CREATE TABLE batch_state (session text PRIMARY KEY, state text);
"""
# Sessions come sorted, so that flushes of several processes lock rows in one order.
_FLUSH = """
WITH raised AS (
  INSERT INTO batch_sessions AS s
  SELECT id, n, $3 FROM unnest($1::text[], $2::bigint[]) AS new (id, n)
  ON CONFLICT (session) DO UPDATE
    SET last_seq = s.last_seq + excluded.last_seq, updated_at = excluded.updated_at
  RETURNING session, last_seq
), stored AS (
  INSERT INTO batch SELECT given.id, raised.last_seq - given.from_end, given.body
  FROM unnest($4::text[], $5::bigint[], $6::text[]) AS given (id, from_end, body)
  JOIN raised ON raised.session = given.id
)
SELECT session, last_seq FROM raised
"""


class Pool:
    """One INSERT of one row by each caller, on a pool of ten connections."""

    def __init__(self, pool: Any) -> None:
        self._pool = pool

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str) -> AsyncIterator[System]:
        async with asyncpg.create_pool(url, min_size=CONNECTIONS, max_size=CONNECTIONS) as pool:
            if await pool.fetchval("SELECT to_regclass('naive')") is None:
                await pool.execute(_POOL_TABLES)
            yield cls(pool)

    async def append(self, session_id: str, text: str) -> object:
        insert = "INSERT INTO naive (session, body) VALUES ($1, $2)"
        return await self._pool.execute(insert, session_id, body(text).decode())

    async def tail(self, session_id: str, count: int) -> Sequence[object]:
        select = "SELECT body FROM naive WHERE session = $1 ORDER BY id DESC LIMIT $2"
        rows = await self._pool.fetch(select, session_id, count)
        return [decode_json(row[0]) for row in reversed(rows)]

    async def set_state(self, session_id: str, step: int) -> None:
        state = encode_json({"step": step}).decode()
        await self._pool.execute(_SET_STATE.format("naive"), session_id, state)

    async def fill(self, session_id: str, count: int) -> None:
        insert = "INSERT INTO naive (session, body) SELECT $1, $2 FROM generate_series(1, $3)"
        await self._pool.execute(insert, session_id, body(TEXT).decode(), count)

    async def count(self, session_ids: Sequence[str]) -> int:
        select = "SELECT count(*) FROM naive WHERE session = ANY($1)"
        return int(await self._pool.fetchval(select, list(session_ids)))


class Statement:
    """The store's own statement for an append, awaited directly on one connection.

    All else goes through a store, in sessions of their own.
    """

    def __init__(self, store: Store, connection: Any, statement: str) -> None:
        self._store = store
        self._connection = connection
        self._statement = statement
        self._number = 0

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str) -> AsyncIterator[System]:
        statement = Statements(Tables("asyncsessions", ""), by_server=True).append
        async with open_store(url) as store:
            # It makes the tables.
            await store.ping()
            connection = await asyncpg.connect(url)
            try:
                yield cls(Store(store), connection, statement)
            finally:
                await connection.close()

    async def append(self, session_id: str, text: str) -> object:
        self._number += 1
        append = Append(_direct(session_id), (body(text),), (), time.time())
        arguments = Flush([append]).arguments()
        return await self._connection.fetch(self._statement, "direct", self._number, *arguments)

    async def tail(self, session_id: str, count: int) -> Sequence[object]:
        return await self._store.tail(_direct(session_id), count)

    async def set_state(self, session_id: str, step: int) -> None:
        await self._store.set_state(_direct(session_id), step)

    async def fill(self, session_id: str, count: int) -> None:
        await self._store.fill(_direct(session_id), count)

    async def count(self, session_ids: Sequence[str]) -> int:
        return await self._store.count(list(map(_direct, session_ids)))


def _direct(session_id: str) -> str:
    return f"direct {session_id}"


class Limit:
    """One statement for all that waits, in two lanes."""

    def __init__(self, pool: Any) -> None:
        self._pool = pool
        self._batcher = Batcher(self._flush, lanes=2)

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str) -> AsyncIterator[System]:
        # The third one is for whatever is no append.
        async with asyncpg.create_pool(url, min_size=3, max_size=3) as pool:
            if await pool.fetchval("SELECT to_regclass('batch')") is None:
                await pool.execute(_LIMIT_TABLES)
            yield cls(pool)

    async def append(self, session_id: str, text: str) -> object:
        return await self._batcher.append(session_id, body(text))

    async def _flush(self, batches: Batches) -> dict[str, int]:
        ids = sorted(batches)
        counts = [len(batches[session_id]) for session_id in ids]
        owners = [session_id for session_id in ids for _ in batches[session_id]]
        from_end = [at for count in counts for at in range(count - 1, -1, -1)]
        bodies = [each.decode() for session_id in ids for each in batches[session_id]]
        rows = await self._pool.fetch(_FLUSH, ids, counts, time.time(), owners, from_end, bodies)
        return {row[0]: row[1] for row in rows}

    async def tail(self, session_id: str, count: int) -> Sequence[object]:
        select = "SELECT body FROM batch WHERE session = $1 ORDER BY seq DESC LIMIT $2"
        rows = await self._pool.fetch(select, session_id, count)
        return [decode_json(row[0]) for row in reversed(rows)]

    async def set_state(self, session_id: str, step: int) -> None:
        state = encode_json({"step": step}).decode()
        await self._pool.execute(_SET_STATE.format("batch"), session_id, state)

    async def fill(self, session_id: str, count: int) -> None:
        for start in range(0, count, 1000):
            await self._flush({session_id: [body(TEXT)] * min(1000, count - start)})

    async def count(self, session_ids: Sequence[str]) -> int:
        select = "SELECT count(*) FROM batch WHERE session = ANY($1)"
        return int(await self._pool.fetchval(select, list(session_ids)))


DRIVERS = (
    Contender(
        "INSERT per append",
        "driver",
        Pool.open,
        _PACKAGES,
        "asyncpg on a pool of ten connections, one row each; no dense numbers, no record.",
    ),
    Contender(
        "the statement, awaited",
        "driver",
        Statement.open,
        _PACKAGES,
        "What the store sends for one append, without the store.",
        most_callers=1,
        without=frozenset({"turn", "history", "big", "processes", "arrivals"}),
    ),
    Contender(
        "hand-written batch",
        "limit",
        Limit.open,
        _PACKAGES,
        "One statement per flush, two under way: numbers and records, listed by time, and rows.",
    ),
)
