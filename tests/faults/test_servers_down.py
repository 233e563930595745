"""Servers that die, connections that break, while four processes work."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from asyncsessions import StoreUnavailableError, open_store
from asyncsessions.testing.servers import (
    MongoServer,
    PostgresServer,
    RedisServer,
    Server,
    free_port,
)
from asyncsessions.testing.timing import slowness
from tests.faults import load

PROCESSES = 4

SERVERS: dict[str, Callable[[], Server]] = {
    "redis": RedisServer,
    "postgres": PostgresServer,
    "mongo": MongoServer,
    "mongo-replica": lambda: MongoServer(replica_set=True),
}
UNREACHABLE = (
    "redis://:secret@127.0.0.1:{port}/0",
    "postgresql://app:secret@127.0.0.1:{port}/app",
    "mongodb://app:secret@127.0.0.1:{port}/app",
)


@pytest.fixture(params=SERVERS)
def server(request: pytest.FixtureRequest) -> Callable[[], Server]:
    start: Callable[[], Server] = SERVERS[request.param]
    return start


def with_timeout(url: str, timeout: float) -> str:
    return f"{url}{'&' if '?' in url else '?'}timeout={timeout:g}"


async def test_server_killed_under_load_loses_and_doubles_nothing(
    server: Callable[[], Server],
) -> None:
    with server() as running:
        # Time enough for each of the callers to get something done between two crashes.
        pause, timeout = 0.7 * slowness(), 5 * slowness()
        url = with_timeout(running.url, timeout)
        with load.processes(url, PROCESSES) as workers:
            for _ in range(3):
                await asyncio.sleep(pause)
                running.kill()
                await asyncio.sleep(0.2)
                await asyncio.to_thread(running.start)
            await asyncio.sleep(pause)
            heard = await asyncio.to_thread(load.collect, workers)
        assert sum(len(each.stored) for each in heard) > 100
        assert max(each.longest_call for each in heard) < 3 * timeout
        await load.check(url, heard)


async def test_stalled_server_fails_calls_in_time_and_recovers(
    server: Callable[[], Server],
) -> None:
    with server() as running:
        timeout = 3 * slowness()
        async with open_store(running.url, timeout=timeout) as store:
            await store.add_message("s", "user", "before")
            running.pause()
            try:
                start = time.monotonic()
                calls: list[Coroutine[Any, Any, Any]] = [
                    store.add_message("s", "user", "during"),
                    store.get_messages("s"),
                    store.increment_state("s", "n"),
                    store.clear_session("other"),
                    store.list_sessions(),
                    store.ping(),
                ]
                outcomes = await asyncio.gather(*calls, return_exceptions=True)
                # A write waits for the flush before it, and that for as long itself.
                assert time.monotonic() - start < 4 * timeout
            finally:
                running.resume()
            assert [type(each) for each in outcomes] == [StoreUnavailableError] * len(calls)
            await store.add_message("s", "user", "after")
            said = [message.content for message in await store.get_messages("s")]
            # What was under way when the server stood still may be there, but once.
            assert said in (["before", "after"], ["before", "during", "after"])


async def test_stalled_server_holds_up_no_close(server: Callable[[], Server]) -> None:
    with server() as running:
        timeout = 2 * slowness()
        store = open_store(running.url, timeout=timeout)
        await store.add_message("s", "user", "before")
        running.pause()
        try:
            calls = [store.add_message("s", "user", "during"), store.get_messages("s")]
            await asyncio.gather(*calls, return_exceptions=True)
            start = time.monotonic()
            await store.aclose()
            assert time.monotonic() - start < 10 * timeout
        finally:
            running.resume()


@pytest.mark.parametrize("url", UNREACHABLE)
async def test_unreachable_server_is_one_clear_error(url: str) -> None:
    url = url.format(port=free_port())
    with pytest.raises(StoreUnavailableError) as caught:
        async with open_store(url, timeout=1.0):
            pass
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is not None


async def test_store_opens_when_its_server_comes_back(server: Callable[[], Server]) -> None:
    with server() as running:
        running.kill()
        store = open_store(running.url, timeout=3 * slowness())
        try:
            with pytest.raises(StoreUnavailableError):
                await store.add_message("s", "user", "too early")
            await asyncio.to_thread(running.start)
            await store.add_message("s", "user", "now")
            assert [message.content for message in await store.get_messages("s")] == ["now"]
        finally:
            await store.aclose()


async def test_thousand_callers_at_once(server: Callable[[], Server]) -> None:
    with server() as running:
        async with open_store(running.url, timeout=10 * slowness()) as store:

            async def talk(number: int) -> None:
                session_id = f"s{number % 100}"
                await store.add_message(session_id, "user", f"{number}")
                await store.get_chat_history(session_id, 5)
                await store.increment_state(session_id, "n")
                await store.get_state(session_id)

            await asyncio.gather(*map(talk, range(1000)))
            for number in range(100):
                session = await store.get_session(f"s{number}")
                assert (session.message_count, session.state) == (10, {"n": 10})
