"""Connections to Redis: few, shared, never mixed up, and replaced when they are dead."""

from __future__ import annotations

import asyncio
import time

import pytest
from redis import asyncio as aioredis

from asyncsessions import (
    StoreUnavailableError,
)
from asyncsessions.protocols import SessionStore
from asyncsessions.stores.redis import RedisSessionStore
from asyncsessions.testing.servers import RedisServer
from asyncsessions.testing.timing import LONG_ENOUGH, slowness
from tests.faults.conversation import said, user
from tests.faults.proxy import Proxy
from tests.faults.redis_server import (
    admin,
    proxy,
    server,
    store,
)

__all__ = ["admin", "proxy", "server", "store"]  # Fixtures of this module's tests.


async def test_stalled_network_fails_in_time_and_recovers(proxy: Proxy) -> None:
    url = f"redis://:secret@127.0.0.1:{proxy.port}"
    timeout = 2 * slowness()
    async with RedisSessionStore(url.replace(":secret@", ""), timeout=timeout) as store:
        await store.add_message("stalled", "user", "before")
        proxy.stall()
        start = time.monotonic()
        calls = [store.get_messages("stalled"), store.session_exists("stalled"), store.ping()]
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(each) for each in outcomes] == [StoreUnavailableError] * 3
        assert time.monotonic() - start < 3 * timeout
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


async def count(admin: aioredis.Redis) -> int:
    """Return how many connections stores have."""
    clients = await admin.client_list()
    return sum(client["name"] == "asyncsessions" for client in clients)


async def all_closed(admin: aioredis.Redis) -> None:
    """Return when stores have no connection any more."""
    async with asyncio.timeout(LONG_ENOUGH):
        while await count(admin):  # noqa: ASYNC110  # at the server
            await asyncio.sleep(0.01)


async def test_connections_are_few_and_all_closed(
    server: RedisServer, admin: aioredis.Redis
) -> None:
    async with RedisSessionStore(server.url, connections=5) as store:
        calls = [store.get_messages(f"s{n}") for n in range(1000)]
        calls += [store.append(f"s{n}", [user("x")]) for n in range(1000)]
        await asyncio.gather(*calls)
        assert 1 <= await count(admin) <= 5
    await all_closed(admin)


async def with_idle_connections(store: SessionStore) -> None:
    """Let a store open as many connections as it may."""
    await asyncio.gather(*(store.get_messages("s") for _ in range(100)))


async def test_idle_connections_that_were_cut_delay_one_call_only(
    store: RedisSessionStore, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.append("s", [user("x")])
    await with_idle_connections(store)
    lost: list[Exception] = []
    is_lost = store._is_lost

    def note(exc: Exception) -> bool:
        lost.append(exc)
        return is_lost(exc)

    monkeypatch.setattr(store, "_is_lost", note)
    proxy.cut()
    assert await said(store, "s") == ["x"]
    assert len(lost) <= 1


async def test_idle_connections_that_died_silently_fail_one_call_only(proxy: Proxy) -> None:
    url = f"redis://127.0.0.1:{proxy.port}"
    async with RedisSessionStore(url, timeout=2 * slowness()) as store:
        await store.add_message("s", "user", "x")
        await with_idle_connections(store)
        proxy.forget()
        with pytest.raises(StoreUnavailableError):
            await store.get_messages("s")
        assert await said(store, "s") == ["x"]
        await store.delete_session("s")


async def test_nobody_times_out_in_the_queue_behind_a_slow_network(proxy: Proxy) -> None:
    """Alone, each of 15 connections would take 67 round trips for its share, of 60 at the most."""
    url = f"redis://127.0.0.1:{proxy.port}"
    delay = 0.025 * slowness()
    async with RedisSessionStore(url, timeout=60 * 2 * delay) as store:
        await store.append("s", [user("x")])
        proxy.delay = delay
        assert await asyncio.gather(*(store.get_state("s", "k", 1) for _ in range(1000))) == (
            [1] * 1000
        )
        cleared = await asyncio.gather(*(store.clear_session("s") for _ in range(1000)))
        assert sum(cleared) == 1
        proxy.delay = 0
        await store.delete_session("s")


async def test_cancelled_callers_who_wait_take_nobody_with_them(
    store: RedisSessionStore, proxy: Proxy
) -> None:
    await asyncio.gather(*(store.append(f"s{n}", [user(f"{n}")]) for n in range(100)))
    proxy.delay = 0.01
    readers = [asyncio.ensure_future(said(store, f"s{n}")) for n in range(100)]
    await asyncio.sleep(0.005)
    for reader in readers[::3]:
        reader.cancel()
    await asyncio.sleep(0.02)
    for reader in readers[1::3]:
        reader.cancel()
    outcomes = await asyncio.gather(*readers, return_exceptions=True)
    assert outcomes[2::3] == [[f"{n}"] for n in range(2, 100, 3)]


async def test_connection_in_use_at_the_end_is_closed(
    server: RedisServer, admin: aioredis.Redis, proxy: Proxy
) -> None:
    store = RedisSessionStore(f"redis://127.0.0.1:{proxy.port}", connections=2)
    await store.add_message("s", "user", "x")
    proxy.delay = 0.05
    readers = [asyncio.ensure_future(said(store, "s")) for _ in range(5)]
    await asyncio.sleep(0.02)
    await store.aclose()
    assert await asyncio.gather(*readers) == [["x"]] * 5
    await all_closed(admin)
