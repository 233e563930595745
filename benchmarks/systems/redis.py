"""redis.asyncio used directly."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from redis.asyncio import BlockingConnectionPool, Redis

from asyncsessions.codec import decode_json
from benchmarks.payload import TEXT, body
from benchmarks.systems.batching import Batcher, Batches
from benchmarks.systems.contender import Contender, System

__all__ = ["DRIVERS"]

CONNECTIONS = 64
# The least that an append with a number and a record does.
_ONE = """
local seq = redis.call('HINCRBY', KEYS[2], 'seq', 1)
redis.call('HSET', KEYS[2], 'updated_at', ARGV[2])
redis.call('RPUSH', KEYS[1], ARGV[1])
return seq
"""
# The same for many sessions, and the list of the newest ones. KEYS: the list, then each session's
# messages and record; ARGV: the time, then of each session its id, a count and its messages.
_MANY = """
local answer, scores, at = {}, {}, 2
for i = 2, #KEYS, 2 do
  local count = tonumber(ARGV[at + 1])
  answer[#answer + 1] = redis.call('HINCRBY', KEYS[i + 1], 'seq', count)
  redis.call('HSET', KEYS[i + 1], 'updated_at', ARGV[1])
  redis.call('RPUSH', KEYS[i], unpack(ARGV, at + 2, at + 1 + count))
  scores[#scores + 1], scores[#scores + 2] = ARGV[1], ARGV[at]
  at = at + count + 2
end
redis.call('ZADD', KEYS[1], unpack(scores))
return answer
"""


def client(url: str) -> Redis:
    """Return one that waits for a connection: the default pool raises an error at 100."""
    return Redis(connection_pool=BlockingConnectionPool.from_url(url, max_connections=CONNECTIONS))


class Pool:
    """One RPUSH by each caller, on a pool of connections."""

    def __init__(self, redis: Any) -> None:
        self._redis = redis

    def _key(self, session_id: str) -> str:
        return f"{type(self).__name__}:{session_id}"

    async def append(self, session_id: str, text: str) -> object:
        return await self._redis.rpush(self._key(session_id), body(text))

    async def tail(self, session_id: str, count: int) -> Sequence[object]:
        bodies = await self._redis.lrange(self._key(session_id), -count, -1)
        return [decode_json(each) for each in bodies]

    async def set_state(self, session_id: str, step: int) -> None:
        await self._redis.hset(self._key(session_id) + ":state", "step", step)

    async def fill(self, session_id: str, count: int) -> None:
        for start in range(0, count, 1000):
            bodies = [body(TEXT)] * min(1000, count - start)
            await self._redis.rpush(self._key(session_id), *bodies)

    async def count(self, session_ids: Sequence[str]) -> int:
        return sum([await self._redis.llen(self._key(each)) for each in session_ids])


class EvalSha(Pool):
    """One script for each append: the number, the record and the message in one step."""

    _script: Any = None

    async def append(self, session_id: str, text: str) -> object:
        if self._script is None:
            self._script = await self._redis.script_load(_ONE)
        key = self._key(session_id)
        now = repr(time.time())
        return await self._redis.evalsha(self._script, 2, key, f"{key}:record", body(text), now)


class Limit(Pool):
    """One script for all that waits, in two lanes."""

    def __init__(self, redis: Any) -> None:
        super().__init__(redis)
        self._batcher = Batcher(self._flush, lanes=2)
        self._script: Any = None

    async def append(self, session_id: str, text: str) -> object:
        return await self._batcher.append(session_id, body(text))

    async def _flush(self, batches: Batches) -> dict[str, int]:
        if self._script is None:
            self._script = await self._redis.script_load(_MANY)
        keys = [f"{type(self).__name__}-sessions"]
        arguments: list[str | bytes | int] = [repr(time.time())]
        for session_id, bodies in batches.items():
            key = self._key(session_id)
            keys += (key, f"{key}:record")
            arguments += (session_id, len(bodies), *bodies)
        last = await self._redis.evalsha(self._script, len(keys), *keys, *arguments)
        return dict(zip(batches, last, strict=True))


def _contender(cls: type[Pool], name: str, **rest: Any) -> Contender:
    @asynccontextmanager
    async def opened(url: str) -> AsyncIterator[System]:
        async with client(url) as redis:
            yield cls(redis)

    return Contender(name, open=opened, packages=("redis", "hiredis"), **rest)


DRIVERS = (
    _contender(
        Pool,
        "RPUSH per append",
        kind="driver",
        note="redis.asyncio on a pool of 64 connections that waits; no numbers, no record.",
    ),
    _contender(
        EvalSha,
        "EVALSHA per append",
        kind="driver",
        most_callers=1,
        without=frozenset({"turn", "history", "big", "arrivals"}),
        note="One script: number, record and message.",
    ),
    _contender(
        Limit,
        "hand-written batch",
        kind="limit",
        note="One script per flush, two under way: numbers, records, messages, list of sessions.",
    ),
)
