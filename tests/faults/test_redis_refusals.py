"""What Redis refuses: each with one clear error that says what to do."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from redis import asyncio as aioredis

from asyncsessions import (
    StoreFullError,
    StoreRefusedError,
    open_store,
)
from asyncsessions.protocols import SessionStore
from asyncsessions.testing.servers import RedisServer
from asyncsessions.testing.timing import LONG_ENOUGH, slowness
from tests.faults.conversation import said, user
from tests.faults.redis_server import (
    admin,
    proxy,
    server,
    store,
)

__all__ = ["admin", "proxy", "server", "store"]  # Fixtures of this module's tests.


async def test_wrong_password_is_refused_at_once() -> None:
    with RedisServer(password="right") as server:
        start = time.monotonic()
        for password in ("wr%2Fong", ""):
            url = f"redis://:{password}@127.0.0.1:{server.port}/0"
            with pytest.raises(StoreRefusedError, match="password") as caught:
                async with open_store(url, timeout=LONG_ENOUGH):
                    pass
            assert "ong" not in str(caught.value).replace("wrong user", "")
        assert time.monotonic() - start < LONG_ENOUGH / 2
        async with open_store(server.url) as store:
            await store.add_message("s", "user", "x")


async def test_untrusted_certificate_is_refused_at_once() -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(Path(__file__).with_name("untrusted.pem"))
    listener = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0, ssl=context)
    async with listener:
        port = listener.sockets[0].getsockname()[1]
        start = time.monotonic()
        with pytest.raises(StoreRefusedError, match="ssl_ca_certs"):
            async with open_store(f"rediss://127.0.0.1:{port}", timeout=LONG_ENOUGH):
                pass
        assert time.monotonic() - start < LONG_ENOUGH / 2


async def test_missing_permission_is_refused(server: RedisServer, admin: aioredis.Redis) -> None:
    everything = ["+@all"]
    await admin.acl_setuser(
        "reader",
        enabled=True,
        passwords=["+pass"],
        keys=["asyncsessions:*"],
        commands=[*everything, "-rpush"],
    )
    await admin.acl_setuser(
        "stranger", enabled=True, passwords=["+pass"], keys=["other:*"], commands=everything
    )
    for name in ("reader", "stranger"):
        async with open_store(f"redis://{name}:pass@127.0.0.1:{server.port}") as store:
            with pytest.raises(StoreRefusedError, match="permission"):
                await store.add_message("s", "user", "x")


WRITES: list[Callable[[SessionStore], Awaitable[object]]] = [
    lambda store: store.append("s", [user("x")]),
    lambda store: store.append("s", [user("x")], idempotency_key="k"),
    lambda store: store.append("new", [user("x")]),
    lambda store: store.set_state("s", "k", 1),
    lambda store: store.set_agent_info("s", "other"),
    lambda store: store.clear_session("s"),
]


@pytest.mark.parametrize("number", range(len(WRITES)))
@pytest.mark.parametrize("fault", ["permission", "index"])
async def test_write_that_no_index_can_follow_is_refused_before_it_begins(
    server: RedisServer, admin: aioredis.Redis, number: int, fault: str
) -> None:
    async with open_store(server.url) as store:
        await store.append("s", [user("before")])
        await store.set_agent_info("s", "agent")
    if fault == "index":
        await admin.delete("asyncsessions:{index}:all")
        await admin.set("asyncsessions:{index}:all", "something else")
    await admin.acl_setuser(
        "app",
        enabled=True,
        passwords=["+pass"],
        keys=["asyncsessions:*"],
        commands=["+@all", "-zadd" if fault == "permission" else "+zadd"],
    )
    async with open_store(f"redis://app:pass@127.0.0.1:{server.port}") as store:
        for _ in range(2):
            with pytest.raises(StoreRefusedError, match=fault):
                await WRITES[number](store)
        assert await said(store, "s") == ["before"]
        assert await store.get_state("s") == {}
        assert (await store.get_session("s")).agent_name == "agent"
        assert await store.session_exists("new") is False


async def test_session_is_refused_that_can_not_come_into_its_index(
    server: RedisServer, admin: aioredis.Redis
) -> None:
    for name in ("agent_name=bad", "expiry"):
        await admin.set(f"asyncsessions:{{index}}:{name}", "something else")
    async with (
        open_store(f"{server.url}?ttl_seconds=1000") as lasting,
        open_store(server.url) as store,
    ):
        outcomes = await asyncio.gather(
            store.set_agent_info("bad", "bad"),
            store.set_agent_info("good", "good"),
            lasting.append("late", [user("x")]),
            return_exceptions=True,
        )
        assert [type(each) for each in outcomes] == [StoreRefusedError, bool, StoreRefusedError]
        with pytest.raises(StoreRefusedError, match="index"):
            await store.expire_session("good", 100)
        assert [info.session_id for info in await store.list_sessions()] == ["good"]
        assert (await store.get_session("good")).expires_at is None


async def test_what_is_written_is_not_refused_where_an_index_is_gone(
    server: RedisServer, admin: aioredis.Redis
) -> None:
    async with open_store(server.url) as store:
        await store.set_agent_info("s", "agent")
        await store.expire_session("s", 1000)
        for name in ("agent_name=agent", "expiry"):
            await admin.delete(f"asyncsessions:{{index}}:{name}")
            await admin.set(f"asyncsessions:{{index}}:{name}", "something else")
        await store.append("s", [user("x")])
        await store.set_state("s", "k", 1)
        assert await said(store, "s") == ["x"]
        with pytest.raises(StoreRefusedError, match="index"):
            await store.get_sessions_by_agent("agent")
        assert await store.delete_session("s") is True


async def test_documented_permissions_are_enough(
    server: RedisServer, admin: aioredis.Redis
) -> None:
    await admin.acl_setuser(
        "app",
        enabled=True,
        passwords=["+pass"],
        keys=["asyncsessions:*"],
        commands=["+@read", "+@write", "+@scripting", "+@connection", "+time"],
    )
    async with open_store(f"redis://app:pass@127.0.0.1:{server.port}") as store:
        await store.append("s", [user("x"), user("y")], idempotency_key="k")
        await store.set_agent_info("s", "agent", "user")
        await store.expire_session("s", 100)
        await store.pop_message("s")
        assert await said(store, "s") == ["x"]
        assert len(await store.get_messages("s", after=0, limit=1)) == 1
        assert len(await store.get_sessions_by_agent("agent")) == 1
        await store.purge_expired()
        assert await store.clear_session("s") is True
        assert await store.delete_session("s") is True


async def test_full_server_says_so_and_reading_works() -> None:
    with RedisServer("--maxmemory", "3mb", "--maxmemory-policy", "noeviction") as server:
        async with open_store(server.url) as store:
            with pytest.raises(StoreFullError, match="maxmemory") as caught:
                for n in range(300):
                    await store.add_message(f"s{n}", "user", "x" * 30_000)
            assert caught.value.session_id is not None
            count = len(await store.list_sessions(1000))
            assert 0 < count < 300
            # What was refused left nothing behind.
            assert await store.session_exists(caught.value.session_id) is False
            assert await store.clear_session("s10") is True
            for n in range(10):
                assert await store.delete_session(f"s{n}") is True
            await store.add_message("again", "user", "x")


async def test_lists_work_where_the_server_takes_no_writes(
    server: RedisServer, admin: aioredis.Redis
) -> None:
    async with open_store(server.url, timeout=LONG_ENOUGH) as store:
        await store.add_message("s", "user", "x")
        await store.add_message("gone", "user", "x")
        await store.expire_session("gone", 0.05)
        await asyncio.sleep(0.1)
        await admin.config_set("min-replicas-to-write", 1)
        try:
            async with asyncio.timeout(LONG_ENOUGH / 2):
                assert [info.session_id for info in await store.list_sessions()] == ["s"]
        finally:
            await admin.config_set("min-replicas-to-write", 0)
        assert [info.session_id for info in await store.list_sessions()] == ["s"]


async def test_what_a_full_server_took_is_not_refused() -> None:
    """A flush is several calls, and it gets full between two of them."""
    with RedisServer("--maxmemory", "6mb", "--maxmemory-policy", "noeviction") as server:
        async with open_store(server.url) as store:
            refused: list[str] = []
            for turn in range(30):
                names = [f"{turn}.{n}" for n in range(200)]
                calls = [store.add_message(name, "user", "x" * 2000) for name in names]
                outcomes = await asyncio.gather(*calls, return_exceptions=True)
                refused = [name for name, it in zip(names, outcomes, strict=True) if it is not True]
                if refused:
                    break
            assert refused
            assert {type(each) for each in outcomes} <= {bool, StoreFullError}
            assert [name for name in refused if await store.session_exists(name)] == []


async def test_replica_refuses_writes() -> None:
    with (
        RedisServer() as master,
        RedisServer("--replicaof", "127.0.0.1", str(master.port)) as replica,
    ):
        async with open_store(replica.url, timeout=2 * slowness()) as store:
            with pytest.raises(StoreRefusedError, match="replica"):
                await store.add_message("s", "user", "x")


async def test_plain_server_is_no_cluster(server: RedisServer) -> None:
    with pytest.raises(StoreRefusedError, match="redis://"):
        async with open_store(f"redis+cluster://127.0.0.1:{server.port}"):
            pass


async def test_cluster_node_is_no_plain_server(redis_cluster_url: str) -> None:
    with pytest.raises(StoreRefusedError, match=r"redis\+cluster://"):
        async with open_store(redis_cluster_url.replace("+cluster", "")):
            pass
