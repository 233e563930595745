"""What is in Redis that this library didn't write, or is no longer there."""

from __future__ import annotations

import asyncio

import pytest
from redis import asyncio as aioredis

from asyncsessions import (
    CorruptSessionError,
)
from asyncsessions.stores.redis import RedisSessionStore
from tests.faults.redis_server import admin, proxy, said, server, store, user

__all__ = ["admin", "proxy", "server", "store"]  # Fixtures of this module's tests.


async def test_damaged_session_fails_alone(store: RedisSessionStore, admin: aioredis.Redis) -> None:
    await store.append("good", [user("x")])
    await admin.set("asyncsessions:{bad}:record", "something else")
    calls = [store.append(name, [user("y")]) for name in ("good", "bad", "new")]
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(each) for each in outcomes] == [list, CorruptSessionError, list]
    for call in (
        store.get_state("bad"),
        store.clear_session("bad"),
        store.set_state("bad", "k", 1),
    ):
        with pytest.raises(CorruptSessionError):
            await call
    assert {info.session_id for info in await store.list_sessions()} == {"good", "new"}
    assert await admin.get("asyncsessions:{bad}:record") == b"something else"
    assert await store.delete_session("bad") is True
    assert await admin.exists("asyncsessions:{bad}:record") == 0


async def test_record_that_is_no_record_is_corrupt(
    store: RedisSessionStore, admin: aioredis.Redis
) -> None:
    await store.set_state("s", "k", 1)
    await admin.hset("asyncsessions:{s}:record", "state", '{"k":')
    with pytest.raises(CorruptSessionError):
        await store.get_state("s")
    with pytest.raises(CorruptSessionError):
        await store.set_state("s", "other", 2)
    assert await admin.hget("asyncsessions:{s}:record", "state") == b'{"k":'


async def test_session_whose_record_was_evicted_starts_over(
    store: RedisSessionStore, admin: aioredis.Redis
) -> None:
    await store.append("s", [user("old")] * 3, idempotency_key="k")
    await admin.delete("asyncsessions:{s}:record")
    (message,) = await store.append("s", [user("new")], idempotency_key="k")
    assert message.seq == 1
    assert await said(store, "s") == ["new"]
