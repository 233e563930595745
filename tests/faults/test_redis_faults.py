"""Redis that forgets, dies, fails over, refuses and answers too late."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest
import pytest_asyncio
from redis import asyncio as aioredis

from asyncsessions import (
    CorruptSessionError,
    StoreFullError,
    StoreRefusedError,
    StoreUnavailableError,
    open_store,
)
from asyncsessions.protocols import SessionStore
from asyncsessions.stores.redis import RedisSessionStore
from asyncsessions.testing.servers import RedisClusterServers, RedisServer
from tests.faults.proxy import Proxy


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


async def said(store: SessionStore, session_id: str) -> list[Any]:
    messages = await store.get_messages(session_id)
    assert [each.seq for each in messages] == sorted({each.seq for each in messages})
    return [each.content for each in messages]


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest_asyncio.fixture
async def admin(server: RedisServer) -> AsyncIterator[aioredis.Redis]:
    client = aioredis.Redis(port=server.port, driver_info=None)
    try:
        yield client
        # A test that failed may have left something that the next one trips over.
        await client.flushall()
    finally:
        await client.aclose()


@pytest_asyncio.fixture
async def proxy(server: RedisServer) -> AsyncIterator[Proxy]:
    async with Proxy(server.port) as proxy:
        yield proxy


@pytest_asyncio.fixture
async def store(proxy: Proxy, admin: aioredis.Redis) -> AsyncIterator[RedisSessionStore]:
    """A store behind the proxy."""
    async with RedisSessionStore(f"redis://127.0.0.1:{proxy.port}", timeout=5.0) as store:
        yield store


async def test_forgotten_scripts_are_sent_again(
    store: RedisSessionStore, admin: aioredis.Redis
) -> None:
    async def talk(name: str) -> None:
        for n in range(30):
            await store.append(name, [user(f"{name}{n}")])
            await store.increment_state(name, "n")
            await store.get_messages(name, after=n)

    async def forget() -> None:
        for _ in range(30):
            await admin.script_flush()
            await asyncio.sleep(0.003)

    names = [f"s{n}" for n in range(8)]
    await asyncio.gather(*map(talk, names), forget())
    for name in names:
        assert await said(store, name) == [f"{name}{n}" for n in range(30)]
        assert await store.get_state(name, "n") == 30


# What a write leaves behind if it is made once, after three messages m0, m1, m2.
WRITES: dict[str, tuple[Callable[[SessionStore], Awaitable[Any]], Any, list[str]]] = {
    "append": (lambda s: s.add_message("s", "user", "x"), True, ["m0", "m1", "m2", "x"]),
    "increment": (lambda s: s.increment_state("s", "n", 5), 5, ["m0", "m1", "m2"]),
    "clear": (lambda s: s.clear_session("s"), True, []),
    "replace": (lambda s: s.set_chat_history("s", [user("y")]), True, ["y"]),
    "delete": (lambda s: s.delete_session("s"), True, []),
    "expire": (lambda s: s.expire_session("s", 100), True, ["m0", "m1", "m2"]),
}


@pytest.mark.parametrize("name", WRITES)
async def test_write_whose_answer_is_lost_is_made_once(
    store: RedisSessionStore, proxy: Proxy, name: str
) -> None:
    write, answer, left = WRITES[name]
    await store.append("s", [user(f"m{n}") for n in range(3)])
    request = store._scripts.delete.sha if name == "delete" else store._writer_id
    proxy.lose_reply(request.encode())
    assert await write(store) == answer
    assert proxy.replies_lost == 1
    assert await said(store, "s") == left
    if name == "increment":
        assert await store.get_state("s", "n") == 5


async def test_pop_whose_answer_is_lost_pops_one(store: RedisSessionStore, proxy: Proxy) -> None:
    await store.append("s", [user(f"m{n}") for n in range(3)])
    proxy.lose_reply(store._scripts.replace.sha.encode())
    popped = await store.pop_message("s")
    assert popped is not None
    assert (popped.content, proxy.replies_lost) == ("m2", 1)
    assert await said(store, "s") == ["m0", "m1"]


async def test_lost_answers_to_appends_with_conditions(
    store: RedisSessionStore, proxy: Proxy
) -> None:
    proxy.lose_reply(store._writer_id.encode())
    first = await store.append("s", [user("a"), user("b")], idempotency_key="k", expected_seq=0)
    proxy.lose_reply(store._writer_id.encode())
    second = await store.append("s", [user("c")], expected_seq=2)
    assert proxy.replies_lost == 2
    assert [each.seq for each in first + second] == [1, 2, 3]
    assert await said(store, "s") == ["a", "b", "c"]


@pytest.mark.timeout(60)
async def test_connections_cut_under_load_lose_and_double_nothing(
    store: RedisSessionStore, proxy: Proxy
) -> None:
    done: list[str] = []

    async def talk(number: int) -> None:
        for n in range(60):
            text = f"{number}.{n}"
            await store.append(f"s{number % 3}", [user(text)])
            await store.increment_state("counter", "n")
            done.append(text)

    async def disturb() -> None:
        while True:
            proxy.cut()
            await asyncio.sleep(0.02)

    disturbance = asyncio.ensure_future(disturb())
    await asyncio.gather(*map(talk, range(12)))
    disturbance.cancel()
    kept = [text for number in range(3) for text in await said(store, f"s{number}")]
    assert sorted(kept) == sorted(done)
    assert await store.get_state("counter", "n") == 12 * 60


@pytest.mark.timeout(30)
async def test_stalled_network_fails_in_time_and_recovers(proxy: Proxy) -> None:
    url = f"redis://:secret@127.0.0.1:{proxy.port}"
    async with RedisSessionStore(url.replace(":secret@", ""), timeout=0.5) as store:
        await store.add_message("stalled", "user", "before")
        proxy.stall()
        start = time.monotonic()
        calls = [store.get_messages("stalled"), store.session_exists("stalled"), store.ping()]
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(each) for each in outcomes] == [StoreUnavailableError] * 3
        assert time.monotonic() - start < 2
        proxy.resume()
        await store.add_message("stalled", "user", "after")
        assert await said(store, "stalled") == ["before", "after"]
        await store.delete_session("stalled")


async def test_slow_network_is_slow_only(store: RedisSessionStore, proxy: Proxy) -> None:
    proxy.delay = 0.02
    await asyncio.gather(*(store.add_message("s", "user", f"m{n}") for n in range(50)))
    assert await said(store, "s") == [f"m{n}" for n in range(50)]


async def test_connection_of_a_cancelled_reader_is_not_used_again(
    store: RedisSessionStore, proxy: Proxy
) -> None:
    for name in ("a", "b"):
        await store.append(name, [user(f"{name}{n}") for n in range(20)])
    proxy.delay = 0.005
    for _ in range(10):
        reader = asyncio.ensure_future(store.get_messages("a"))
        await asyncio.sleep(0.007)
        reader.cancel()
        assert (await said(store, "b"))[0] == "b0"
        await asyncio.wait([reader])


async def test_connections_are_few_and_all_closed(
    server: RedisServer, admin: aioredis.Redis
) -> None:
    async def own() -> int:
        clients = await admin.client_list()
        return sum(client["name"] == "asyncsessions" for client in clients)

    async with RedisSessionStore(server.url, connections=5) as store:
        calls = [store.get_messages(f"s{n}") for n in range(1000)]
        calls += [store.append(f"s{n}", [user("x")]) for n in range(1000)]
        await asyncio.gather(*calls)
        assert 1 <= await own() <= 5
    for _ in range(500):
        if not await own():
            break
        await asyncio.sleep(0.01)
    assert await own() == 0


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


# Refusals.


async def test_wrong_password_is_refused_at_once() -> None:
    with RedisServer(password="right") as server:
        start = time.monotonic()
        for password in ("wr%2Fong", ""):
            url = f"redis://:{password}@127.0.0.1:{server.port}/0"
            with pytest.raises(StoreRefusedError, match="password") as caught:
                async with open_store(url):
                    pass
            assert "ong" not in str(caught.value).replace("wrong user", "")
        assert time.monotonic() - start < 5
        async with open_store(server.url) as store:
            await store.add_message("s", "user", "x")


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


@pytest.mark.timeout(30)
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


@pytest.mark.timeout(30)
async def test_replica_refuses_writes() -> None:
    with (
        RedisServer() as master,
        RedisServer("--replicaof", "127.0.0.1", str(master.port)) as replica,
    ):
        async with open_store(replica.url, timeout=0.5) as store:
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


# Cluster.


@pytest.mark.timeout(120)
async def test_cluster_works_on_after_a_master_failed() -> None:
    with RedisClusterServers(replicas=1) as cluster:
        async with open_store(f"{cluster.url}", timeout=20.0) as store:
            stored: dict[str, list[tuple[int, str]]] = {f"s{n}": [] for n in range(12)}

            async def talk(name: str) -> None:
                for n in range(60):
                    (message,) = await store.append(name, [user(f"{name}.{n}")])
                    stored[name].append((message.seq, f"{name}.{n}"))
                    await asyncio.sleep(0.05)

            async def fail() -> None:
                await asyncio.sleep(0.5)
                cluster.nodes[1].kill()

            await asyncio.gather(*map(talk, stored), fail())
            for name, expected in stored.items():
                messages = await store.get_messages(name)
                assert [each.seq for each in messages] == list(range(1, len(messages) + 1))
                texts = [each.content for each in messages]
                assert len(set(texts)) == len(texts)
                # The master may have answered in its last moment what its replica never got.
                assert len(texts) >= len(expected) - 1
                assert texts == [text for _, text in expected if text in texts]
            listed = {info.session_id for info in await store.list_sessions()}
            assert listed == set(stored)
