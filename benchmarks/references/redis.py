"""redis.asyncio used directly, and the Redis session of OpenAI's Agents SDK."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from redis.asyncio import BlockingConnectionPool, Redis

from asyncsessions.codec import decode_json
from benchmarks.payload import METADATA, TEXT, body

__all__ = ["EvalSha", "OpenAIAgents", "Pool"]

CONNECTIONS = 64
# The least that an append with a number and a record does.
_SCRIPT = """
local seq = redis.call('HINCRBY', KEYS[2], 'seq', 1)
redis.call('HSET', KEYS[2], 'updated_at', ARGV[2])
redis.call('RPUSH', KEYS[1], ARGV[1])
return seq
"""


def _client(url: str) -> Redis:
    # One that waits for a connection: the default pool raises an error at 100.
    return Redis(connection_pool=BlockingConnectionPool.from_url(url, max_connections=CONNECTIONS))


class Pool:
    """One RPUSH by each caller, on a pool of connections."""

    def __init__(self, client: Redis) -> None:
        self._client = client
        self._used: set[str] = set()

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str) -> AsyncIterator[Pool]:
        async with _client(url) as client:
            yield cls(client)

    async def append(self, session_id: str) -> None:
        key = f"{type(self).__name__}:{session_id}"
        self._used.add(key)
        await self._send(key)

    async def _send(self, key: str) -> None:
        await self._client.rpush(key, body())  # type: ignore[misc]  # the driver's types

    async def count(self) -> int:
        return sum([int(await self._client.llen(key)) for key in self._used])  # type: ignore[misc]

    async def read(self, session_id: str) -> list[Any]:
        """Fetch and decode everything."""
        key = f"{type(self).__name__}:{session_id}"
        bodies = await self._client.lrange(key, 0, -1)  # type: ignore[misc]  # the driver's types
        return [decode_json(each) for each in bodies]


class EvalSha(Pool):
    """One script for each append: the number, the record and the message in one step."""

    _sha = ""

    async def _send(self, key: str) -> None:
        if not self._sha:
            self._sha = await self._client.script_load(_SCRIPT)
        now = repr(time.time())
        await self._client.evalsha(self._sha, 2, key, f"{key}:record", body(), now)  # type: ignore[misc]


class OpenAIAgents:
    """One session object for each session, on one client."""

    def __init__(self, client: Redis) -> None:
        self._client = client
        self._sessions: dict[str, Any] = {}

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str) -> AsyncIterator[OpenAIAgents]:
        async with _client(url) as client:
            yield cls(client)

    def _session(self, session_id: str) -> Any:
        from agents.extensions.memory.redis_session import RedisSession

        if session_id not in self._sessions:
            session = RedisSession(session_id, redis_client=self._client, key_prefix="openai")
            self._sessions[session_id] = session
        return self._sessions[session_id]

    async def append(self, session_id: str) -> None:
        item = {"role": "user", "content": TEXT, "metadata": METADATA}
        await self._session(session_id).add_items([item])

    async def count(self) -> int:
        return sum([len(await each.get_items()) for each in self._sessions.values()])
