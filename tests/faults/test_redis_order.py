"""Appends to one session in Redis, of which the later ones leave before the others have arrived."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeAlias

import pytest
from redis import asyncio as aioredis

from asyncsessions import StoreUnavailableError, batching
from asyncsessions.models import Message
from asyncsessions.stores.redis import RedisSessionStore
from asyncsessions.testing.servers import RedisServer
from asyncsessions.testing.timing import LONG_ENOUGH, slowness
from tests.busy import Clock
from tests.faults.conversation import said, user
from tests.faults.proxy import Proxy
from tests.faults.redis_server import admin, proxy, server, store, until

__all__ = ["admin", "proxy", "server", "store"]  # Fixtures of this module's tests.

# As many as a batch has at least that follows another one.
COUNT = 24

Appends: TypeAlias = "list[asyncio.Task[list[Message]]]"


@pytest.fixture(autouse=True)
def busy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this thread be busy, which is when batches follow each other at once."""
    monkeypatch.setattr(batching, "time", Clock(0.9))


def appends(store: RedisSessionStore, name: str) -> Appends:
    return [asyncio.ensure_future(store.append("s", [user(f"{name}{n}")])) for n in range(COUNT)]


async def refusals(admin: aioredis.Redis) -> int:
    """Return how many appends the server has refused for being early."""
    found = (await admin.info("errorstats")).get("errorstat_EARLY", {})
    return int(found.get("count", 0))


async def sent(
    store: RedisSessionStore, proxy: Proxy, admin: aioredis.Redis
) -> tuple[Appends, Appends]:
    """Send two batches, of which the first is held back, so that the second is there before it."""
    await store.append("s", [user("before")])
    before = await refusals(admin)
    proxy.hold_back(b'"first0"')
    first = appends(store, "first")
    await until(lambda: _is(proxy.holds_back))
    second = appends(store, "second")

    async def is_refused() -> bool:
        return await refusals(admin) > before

    await until(is_refused)
    return first, second


async def _is(value: Callable[[], bool]) -> bool:
    return value()


def texts(*names: str) -> list[str]:
    return ["before", *(f"{name}{n}" for name in names for n in range(COUNT))]


async def test_a_batch_that_overtakes_waits_for_the_one_before(
    store: RedisSessionStore, proxy: Proxy, admin: aioredis.Redis
) -> None:
    first, second = await sent(store, proxy, admin)
    assert not any(task.done() for task in first + second)
    proxy.let_through()
    await asyncio.gather(*first, *second)
    assert await said(store, "s") == texts("first", "second")


async def test_a_batch_that_overtakes_waits_for_one_that_is_sent_again(
    store: RedisSessionStore, proxy: Proxy, admin: aioredis.Redis
) -> None:
    first, second = await sent(store, proxy, admin)
    proxy.cut_held_back()
    await asyncio.gather(*first, *second)
    assert await said(store, "s") == texts("first", "second")


async def test_a_batch_that_overtakes_survives_its_own_lost_answer(
    store: RedisSessionStore, proxy: Proxy, admin: aioredis.Redis
) -> None:
    first, second = await sent(store, proxy, admin)
    proxy.lose_reply(b'"second0"')
    proxy.let_through()
    await asyncio.gather(*first, *second)
    assert proxy.replies_lost == 1
    assert await said(store, "s") == texts("first", "second")


async def test_a_batch_follows_one_whose_answer_is_lost(
    store: RedisSessionStore, proxy: Proxy
) -> None:
    await store.append("s", [user("before")])
    proxy.lose_reply(b'"first0"')
    first = appends(store, "first")
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    second = appends(store, "second")
    await asyncio.gather(*first, *second)
    assert proxy.replies_lost == 1
    assert await said(store, "s") == texts("first", "second")


async def test_a_batch_is_there_without_the_one_before_where_that_one_changes_nothing(
    store: RedisSessionStore, proxy: Proxy, admin: aioredis.Redis
) -> None:
    await store.append("s", [user("before")])
    proxy.hold_back(b'"stale0"')
    stale = [
        asyncio.ensure_future(store.append("s", [user(f"stale{n}")], expected_seq=0))
        for n in range(COUNT)
    ]
    await until(lambda: _is(proxy.holds_back))
    second = appends(store, "second")
    await asyncio.sleep(0.02)
    proxy.let_through()
    assert all(await asyncio.gather(*stale, return_exceptions=True))
    await asyncio.gather(*second)
    assert await said(store, "s") == texts("second")


@pytest.mark.usefixtures("admin")
async def test_a_batch_after_one_that_never_arrives_fails_in_time(
    server: RedisServer, proxy: Proxy
) -> None:
    timeout = 0.5 * slowness()
    url = f"redis://127.0.0.1:{proxy.port}"
    async with RedisSessionStore(url, timeout=timeout) as store:
        await store.append("s", [user("before")])
        proxy.hold_back(b'"first0"')
        first = appends(store, "first")
        await until(lambda: _is(proxy.holds_back))
        second = appends(store, "second")
        async with asyncio.timeout(LONG_ENOUGH):
            outcomes = await asyncio.gather(*first, *second, return_exceptions=True)
        assert {type(outcome) for outcome in outcomes[:COUNT]} == {StoreUnavailableError}
        await store.append("s", [user("after")])
        kept = await said(store, "s")
        # Of what timed out nobody knows what became.
        is_acknowledged = second[0].exception() is None
        assert kept == [*texts("second"), "after"] or (
            not is_acknowledged and kept == ["before", "after"]
        )


async def test_connections_cut_under_load_keep_the_order_of_one_session(
    store: RedisSessionStore, proxy: Proxy
) -> None:
    number = 0
    acknowledged: list[int] = []

    async def talk() -> None:
        nonlocal number
        for _ in range(12):
            number += 1
            await store.append("s", [user(str(own := number))])
            acknowledged.append(own)

    async def disturb() -> None:
        pause = 0.02
        while True:
            proxy.cut()
            await asyncio.sleep(pause)
            # More and more seldom, so that even the slowest machine comes to the end.
            pause *= 1.02

    disturbance = asyncio.ensure_future(disturb())
    await asyncio.gather(*(talk() for _ in range(64)))
    disturbance.cancel()
    kept: list[Any] = await said(store, "s")
    assert [int(text) for text in kept] == list(range(1, number + 1))
    assert sorted(acknowledged) == list(range(1, number + 1))
