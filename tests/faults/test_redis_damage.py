"""What is in Redis that this library didn't write, or is no longer there."""

from __future__ import annotations

import asyncio

import pytest
from redis import asyncio as aioredis

from asyncsessions import (
    CorruptSessionError,
    StoreUnavailableError,
)
from asyncsessions.stores.redis import RedisSessionStore
from tests.faults.conversation import said, user
from tests.faults.redis_server import (
    admin,
    proxy,
    server,
    store,
)

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


RECORD = "asyncsessions:{s}:record"
MESSAGES = "asyncsessions:{s}:messages"


@pytest.mark.parametrize("text", ["[1]", '{"a":1,', '{"a":{"b":1}', "5", "{", ""])
async def test_state_that_is_no_object_is_kept_as_it_is(
    store: RedisSessionStore, admin: aioredis.Redis, text: str
) -> None:
    await store.set_state("s", "k", 1)
    await admin.hset(RECORD, "state", text)
    for call in (store.get_state("s", "k"), store.set_state("s", "k", 2)):
        with pytest.raises(CorruptSessionError):
            await call
    assert await admin.hget(RECORD, "state") == text.encode()


async def test_messages_that_are_no_list_are_corrupt(
    store: RedisSessionStore, admin: aioredis.Redis
) -> None:
    await store.append("s", [user("x")])
    await admin.delete(MESSAGES)
    await admin.set(MESSAGES, "something else")
    for call in (store.get_messages("s"), store.get_messages("s", after=1), store.pop_message("s")):
        with pytest.raises(CorruptSessionError):
            await call


async def test_message_that_is_none_is_corrupt(
    store: RedisSessionStore, admin: aioredis.Redis
) -> None:
    await store.append("s", [user("x")])
    await admin.rpush(MESSAGES, "something else")
    for call in (store.get_messages("s"), store.get_messages("s", after=1)):
        with pytest.raises(CorruptSessionError):
            await call


@pytest.mark.parametrize(("field", "text"), [("state", "{"), ("updated_at", "nan")])
async def test_damaged_session_is_left_out_of_lists_with_a_warning(
    store: RedisSessionStore,
    admin: aioredis.Redis,
    caplog: pytest.LogCaptureFixture,
    field: str,
    text: str,
) -> None:
    for name in ("s", "good"):
        await store.set_agent_info(name, "agent")
    await admin.hset(RECORD, field, text)
    for page in (await store.list_sessions(), await store.get_sessions_by_agent("agent")):
        assert [info.session_id for info in page] == ["good"]
    assert "session 's' is damaged" in caplog.text


async def test_entries_that_nobody_here_made_are_corrected(
    store: RedisSessionStore, admin: aioredis.Redis
) -> None:
    await store.append("good", [user("x")])
    await store.append("short", [user("x")])
    await store.expire_session("short", 1000)
    for name in ("all", "expiry"):
        members = [b"\xff\xfe", b"junk", b":", b"9:ab", b"0:\xff", b"3:abc\xff"]
        scores = dict.fromkeys(members, 1.0 if name == "expiry" else 9e9)
        await admin.zadd(f"asyncsessions:{{index}}:{name}", scores)
    assert {info.session_id for info in await store.list_sessions(2)} == {"good", "short"}
    await store.purge_expired()
    for name, expected in (("all", {b"good", b"short"}), ("expiry", {b"0:short"})):
        assert set(await admin.zrange(f"asyncsessions:{{index}}:{name}", 0, -1)) == expected


async def test_index_that_is_none_is_named(store: RedisSessionStore, admin: aioredis.Redis) -> None:
    await store.append("s", [user("x")])
    await admin.delete("asyncsessions:{index}:all")
    await admin.set("asyncsessions:{index}:all", "something else")
    for call in (store.add_message("s", "user", "y"), store.list_sessions()):
        with pytest.raises(StoreUnavailableError, match="index"):
            await call
