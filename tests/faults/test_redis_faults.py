"""Redis that forgets, dies, fails over and loses its answers."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest
from redis import asyncio as aioredis
from redis.crc import key_slot

from asyncsessions import (
    StoreUnavailableError,
    open_store,
)
from asyncsessions.stores.redis import RedisSessionStore
from asyncsessions.testing.servers import RedisClusterServers, RedisServer
from asyncsessions.testing.timing import LONG_ENOUGH, slowness
from tests.faults.conversation import amended, said, user
from tests.faults.proxy import Proxy
from tests.faults.redis_server import (
    admin,
    proxy,
    server,
    store,
    until,
)

__all__ = ["admin", "proxy", "server", "store"]  # Fixtures of this module's tests.


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


async def test_master_that_becomes_a_replica_is_left_for_the_next_one(
    store: RedisSessionStore, admin: aioredis.Redis, proxy: Proxy, server: RedisServer
) -> None:
    await store.append("s", [user("before")])
    await store.get_messages("s")
    with RedisServer() as other:
        async with aioredis.Redis(port=other.port) as next_master:
            await next_master.replicaof("127.0.0.1", str(server.port))

            async def has_everything() -> bool:
                return bool((await next_master.info("replication"))["master_link_status"] == "up")

            await until(has_everything)
            await next_master.replicaof("NO", "ONE")
        await admin.replicaof("127.0.0.1", str(other.port))
        # The name now stands for the other one, and open connections stay with the first.
        proxy.redirect(other.port)
        await store.append("s", [user("after")])
        assert await said(store, "s") == ["before", "after"]


FORKED = """
import asyncio, os, sys
from asyncsessions import StoreUnavailableError, open_store

async def append(text):
    async with store:
        await store.add_message("s", "user", text)

store = open_store(sys.argv[1])
for text in ("first", "second"):
    if not os.fork():
        asyncio.run(append(text))
        os._exit(0)
    os.wait()
"""


async def test_store_that_was_built_before_a_fork_serves_each_process(
    server: RedisServer, store: RedisSessionStore
) -> None:
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", FORKED, server.url)
    assert await process.wait() == 0
    assert await said(store, "s") == ["first", "second"]


# What a write leaves behind if it is made once, after three messages m0, m1, m2.
WRITES: dict[str, tuple[Callable[[RedisSessionStore], Awaitable[Any]], Any, list[str]]] = {
    "append": (lambda s: s.add_message("s", "user", "x"), True, ["m0", "m1", "m2", "x"]),
    "increment": (lambda s: s.increment_state("s", "n", 5), 5, ["m0", "m1", "m2"]),
    "clear": (lambda s: s.clear_session("s"), True, []),
    "replace": (lambda s: s.set_chat_history("s", [user("y")]), True, ["y"]),
    "delete": (lambda s: s.delete_session("s"), True, []),
    "expire": (lambda s: s.expire_session("s", 100), True, ["m0", "m1", "m2"]),
    "amend": (amended, (None, "t", 5), ["m0", "m1", "m2"]),
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


async def test_a_session_with_a_later_write_of_this_client_fails_alone(
    store: RedisSessionStore, admin: aioredis.Redis
) -> None:
    """As where a process that was forked writes with the same name."""
    names = [f"s{n}" for n in range(8)]
    await store.append("s4", [user("before")])
    field = f"w:{store._writer_id}-0"
    slot: Any = await admin.hget("asyncsessions:{s4}:record", field)
    number, rest = slot.split(b" ", 1)
    await admin.hset("asyncsessions:{s4}:record", field, b"%d %b" % (int(number) + 100, rest))
    for call in (store.append, store.increment_state):
        argument: Any = [user("x")] if call == store.append else "n"
        outcomes = await asyncio.gather(
            *(call(name, argument) for name in names), return_exceptions=True
        )
        failed = [
            name for name, it in zip(names, outcomes, strict=True) if isinstance(it, Exception)
        ]
        assert failed == ["s4"]
        assert isinstance(outcomes[4], StoreUnavailableError)
    for name in names:
        assert await said(store, name) == (["before"] if name == "s4" else ["x"])
        assert await store.get_state(name, "n", 0) == (0 if name == "s4" else 1)


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
        pause = 0.02
        while True:
            proxy.cut()
            await asyncio.sleep(pause)
            # More and more seldom, so that even the slowest machine comes to the end.
            pause *= 1.02

    disturbance = asyncio.ensure_future(disturb())
    await asyncio.gather(*map(talk, range(12)))
    disturbance.cancel()
    kept = [text for number in range(3) for text in await said(store, f"s{number}")]
    assert sorted(kept) == sorted(done)
    assert await store.get_state("counter", "n") == 12 * 60


async def test_cluster_works_on_after_a_master_failed() -> None:
    with RedisClusterServers(replicas=1) as cluster:
        async with open_store(cluster.url, timeout=LONG_ENOUGH) as store:
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


@pytest.mark.parametrize("socket_timeout", [None, LONG_ENOUGH])
async def test_a_patient_client_of_the_callers_gets_over_a_master_that_stalls(
    socket_timeout: float | None,
) -> None:
    with RedisClusterServers(replicas=1) as cluster:
        client = aioredis.RedisCluster(
            "127.0.0.1",
            cluster.nodes[0].port,
            driver_info=None,
            socket_timeout=socket_timeout,
            socket_connect_timeout=socket_timeout,
        )
        async with RedisSessionStore(client, timeout=3 * slowness()) as store:
            names = [f"s{n}" for n in range(12)]
            await asyncio.gather(*(store.append(name, [user("before")]) for name in names))
            stalled = cluster.nodes[1]
            stalled.pause()

            async def append(name: str) -> None:
                while True:
                    with suppress(StoreUnavailableError):
                        await store.append(name, [user("after")], idempotency_key="k")
                        return

            async with asyncio.timeout(60 * slowness()):
                await asyncio.gather(*map(append, names))
            for name in names:
                assert (await said(store, name))[-1] == "after"
            stalled.resume()
        await client.aclose()


async def test_writes_to_other_nodes_succeed_while_one_is_down() -> None:
    with RedisClusterServers() as cluster:
        async with open_store(cluster.url, timeout=5 * slowness()) as store:
            client = aioredis.RedisCluster("127.0.0.1", cluster.nodes[0].port, driver_info=None)
            await client.initialize()

            def port_of(key: str) -> int:
                node = client.get_node_from_key(key)
                assert node is not None
                return int(node.port)

            home = port_of("{index}")
            names = [f"s{n}" for n in range(30)]
            ports = {name: port_of(f"{{{name}}}") for name in names}
            await client.aclose()
            for node in cluster.nodes:
                node.command("CONFIG", "SET", "cluster-require-full-coverage", "no")
            down = next(node for node in cluster.nodes if node.port != home)
            calls = [store.append(name, [user("x")]) for name in names]
            await asyncio.gather(*calls)
            down.kill()
            writes = [asyncio.ensure_future(store.append(name, [user("y")])) for name in names]
            # Once a node was late, each has group commits of its own.
            await asyncio.sleep(1)
            others = [f"other{n}" for n in range(30) if port_of(f"{{other{n}}}") != down.port]
            for _ in range(3):
                await asyncio.gather(*(store.increment_state(name, "n") for name in others))
            assert not all(write.done() for write in writes)
            outcomes = await asyncio.gather(*writes, return_exceptions=True)
            for name, outcome in zip(names, outcomes, strict=True):
                if ports[name] == down.port:
                    assert isinstance(outcome, StoreUnavailableError)
                else:
                    assert await said(store, name) == ["x", "y"]
                    assert not isinstance(outcome, BaseException)


@pytest.mark.parametrize("is_own_client", [False, True])
async def test_slots_that_move_under_load_lose_and_double_nothing(is_own_client: bool) -> None:
    with RedisClusterServers() as cluster:
        client = aioredis.RedisCluster("127.0.0.1", cluster.nodes[0].port, driver_info=None)
        async with RedisSessionStore(client if is_own_client else cluster.url) as store:
            stored: dict[str, list[str]] = {f"s{n}": [] for n in range(40)}
            has_moved = asyncio.Event()

            async def talk(name: str) -> None:
                while not has_moved.is_set():
                    text = f"{name}.{len(stored[name])}"
                    await store.append(name, [user(text)], idempotency_key=text)
                    await store.increment_state(name, "n")
                    stored[name].append(text)

            async def move() -> None:
                for source, target in ((0, 1), (1, 2), (2, 0)):
                    await asyncio.to_thread(cluster.move_slots, source, target, 300)
                has_moved.set()

            await asyncio.gather(*map(talk, stored), move())
            for name, texts in stored.items():
                assert await said(store, name) == texts
                assert await store.get_state(name, "n") == len(texts)
            assert len(await store.list_sessions()) == len(stored)
        await client.aclose()


async def test_a_slot_that_is_half_moved_holds_up_its_own_sessions_only() -> None:
    with RedisClusterServers() as cluster:
        first, second = cluster.nodes[:2]
        async with open_store(cluster.url, timeout=3 * slowness()) as store:
            names = [f"s{n}" for n in range(60)]
            await asyncio.gather(*(store.append(name, [user("a")]) for name in names))
            slots = {name: str(key_slot(name.encode())) for name in names}
            own = [
                name
                for name in names
                if "MOVED" not in first.command("EXISTS", f"asyncsessions:{{{name}}}:record")
            ]
            slot = slots[own[0]]
            for node, state, other in (
                (second, "IMPORTING", first),
                (first, "MIGRATING", second),
            ):
                name_of_other = other.command("CLUSTER", "MYID").split()[-1]
                node.command("CLUSTER", "SETSLOT", slot, state, name_of_other)
            answers = await asyncio.gather(
                *(store.append(name, [user("b")]) for name in own), return_exceptions=True
            )
            for name, answer in zip(own, answers, strict=True):
                if slots[name] != slot:
                    assert not isinstance(answer, BaseException)
                    assert await said(store, name) == ["a", "b"]
            assert isinstance(answers[0], StoreUnavailableError)
