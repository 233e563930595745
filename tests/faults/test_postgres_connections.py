"""Connections to PostgreSQL: that end, that are waited for, that must not be left."""

from __future__ import annotations

import asyncio
import random
import socket
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest

from asyncsessions import StoreRefusedError, StoreUnavailableError, open_store
from asyncsessions.stores import _postgres_connections
from asyncsessions.stores.postgres import PostgresSessionStore
from asyncsessions.testing.servers import PostgresServer
from asyncsessions.testing.timing import LONG_ENOUGH, slowness
from tests.faults.conversation import user
from tests.faults.postgres_proxies import Line
from tests.faults.postgres_server import connected, empty_database, server

__all__ = ["empty_database", "server"]  # Fixtures of this module's tests.

pytestmark = pytest.mark.usefixtures("empty_database")


# Connections that end.

END_ALL = """SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
    WHERE application_name = 'asyncsessions'"""


ALL = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'asyncsessions'"


async def connections(server: PostgresServer) -> int:
    async with connected(server) as connection:
        count: int = await connection.fetchval(ALL)
        return count


async def becomes_zero(admin: Any, query: str) -> bool:
    clock = asyncio.get_running_loop().time
    deadline = clock() + LONG_ENOUGH
    while await admin.fetchval(query):
        if clock() > deadline:
            return False
        await asyncio.sleep(0.02)
    return True


async def no_connections(server: PostgresServer) -> bool:
    async with connected(server) as admin:
        return await becomes_zero(admin, ALL)


async def test_ended_connections_lose_and_double_nothing(server: PostgresServer) -> None:
    # However slow this machine is, the connections are left alone before the time is over.
    async with open_store(server.url, timeout=LONG_ENOUGH) as store, connected(server) as admin:
        is_over = False

        async def work(name: int) -> int:
            count = 0
            while not is_over:
                key = f"{name}.{count}" if count % 3 else None
                await store.append(f"s{name % 4}", [user(f"{name}.{count}")], idempotency_key=key)
                await store.increment_state("counter", "n")
                await store.get_messages(f"s{name % 4}", limit=3)
                count += 1
            return count

        workers = [asyncio.ensure_future(work(name)) for name in range(12)]
        ended = 0
        async with asyncio.timeout(LONG_ENOUGH):
            while ended <= 20:
                await asyncio.sleep(0.1)
                ended += await admin.fetchval(END_ALL)
        is_over = True
        counts = await asyncio.gather(*workers)
        assert await store.get_state("counter") == {"n": sum(counts)}
        for which in range(4):
            kept = await store.get_messages(f"s{which}")
            assert [message.seq for message in kept] == list(range(1, len(kept) + 1))
            expected = {f"{n}.{c}" for n in range(which, 12, 4) for c in range(counts[n])}
            assert sorted(str(message.content) for message in kept) == sorted(expected)


async def test_what_lay_idle_for_long_is_not_used_again(
    server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def backend(store: PostgresSessionStore) -> int:
        async with store._connections.lend_kept() as connection:
            pid: int = await connection.fetchval("SELECT pg_backend_pid()")
            return pid

    async with PostgresSessionStore(server.url) as store:
        first = await backend(store)
        assert await backend(store) == first
        monkeypatch.setattr(_postgres_connections, "_OLDEST_KEPT", 0.0)
        assert await backend(store) != first


# What a client leaves behind at the server.

WAITING = """SELECT count(*) FROM pg_stat_activity
    WHERE application_name = 'asyncsessions' AND wait_event_type = 'Lock'"""
LOCK = "SELECT FROM asyncsessions.sessions WHERE session_id = $1 FOR UPDATE"


async def test_no_connection_of_the_pool_is_kept_for_long(
    server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_postgres_connections, "_OLDEST_KEPT", 0.2)
    async with open_store(server.url) as store, connected(server) as admin:
        for _ in range(2):
            assert await store.get_messages("s") == []
            assert await becomes_zero(admin, ALL)


@pytest.mark.parametrize("attributes", ["", "?target_session_attrs=primary"])
async def test_a_host_that_does_not_answer_leaves_the_next_one_time(
    server: PostgresServer, attributes: str
) -> None:
    port = urlsplit(server.url).port
    with socket.create_server(("127.0.0.1", 0)) as dark:
        both = f":{dark.getsockname()[1]},127.0.0.1:{port}"
        url = server.url.replace(f":{port}", both) + attributes
        async with open_store(url, timeout=2 * slowness()) as store:
            calls = (store.append(f"s{number}", [user("x")]) for number in range(64))
            await asyncio.gather(*calls)
            assert len(await store.list_sessions(limit=100)) == 64


async def test_a_name_that_is_lost_for_a_while_is_asked_for_again(
    server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = asyncio.get_running_loop()
    lookups = iter(range(3))
    find = loop.getaddrinfo

    async def getaddrinfo(*args: Any, **options: Any) -> Any:
        if next(lookups, None) is not None:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return await find(*args, **options)

    url = server.url.replace("127.0.0.1", "localhost")
    async with open_store(url, timeout=LONG_ENOUGH) as store:
        await store.append("s", [user("x")])
        async with connected(server) as admin:
            await admin.fetchval(END_ALL)
        monkeypatch.setattr(loop, "getaddrinfo", getaddrinfo)
        await store.append("s", [user("y")])
        assert [each.content for each in await store.get_messages("s")] == ["x", "y"]


async def test_what_isolation_the_database_prefers_is_not_asked(server: PostgresServer) -> None:
    url = f"{server.url}?options=-c%20default_transaction_isolation%3Dserializable"
    async with PostgresSessionStore(url) as store:
        await store.append("s", [user("x")])
        connections = store._connections
        async with connections.lend() as one, connections.lend_kept() as other:
            for connection in (one, other):
                isolation = await connection.fetchval("SHOW transaction_isolation")
                assert isolation == "read committed"


async def test_a_call_that_timed_out_holds_no_locks(server: PostgresServer) -> None:
    async with (
        open_store(server.url, timeout=LONG_ENOUGH) as store,
        open_store(server.url, timeout=slowness()) as hasty,
        connected(server) as admin,
    ):
        await store.append("a", [user("1")])
        await store.append("m", [user("1")])
        async with connected(server) as other, other.transaction():
            await other.fetch(LOCK, b"m")
            for _ in range(3):
                calls = (hasty.append(name, [user("lost")]) for name in "am")
                done = await asyncio.gather(*calls, return_exceptions=True)
                assert all(isinstance(each, StoreUnavailableError) for each in done)
            assert await becomes_zero(admin, WAITING)
            assert (await store.append("a", [user("2")]))[0].seq == 2
        assert (await store.append("m", [user("2")]))[0].seq == 2


@pytest.mark.parametrize("prepared", [True, False])
async def test_a_process_that_stands_still_gives_up_its_locks(
    server: PostgresServer, prepared: bool
) -> None:
    async with (
        open_store(server.url, timeout=LONG_ENOUGH / 2) as store,
        PostgresSessionStore(
            server.url, timeout=5 * slowness(), prepared_statements=prepared
        ) as stopped,
    ):
        await store.append("s", [user("1")])
        await stopped.ping()
        connection = await stopped._connections.take_kept()
        await connection.execute(stopped._connections.begin)
        await connection.fetch(LOCK, b"s")
        assert (await store.append("s", [user("2")]))[0].seq == 2
        connection.terminate()


async def test_a_timeout_may_be_longer_than_the_server_knows(server: PostgresServer) -> None:
    async with open_store(server.url, timeout=30 * 24 * 3600) as store:
        await store.ping()


async def test_limits_of_the_url_stay(server: PostgresServer) -> None:
    url = f"{server.url}?statement_timeout=4321"
    async with PostgresSessionStore(url) as store, store._connections.lend() as connection:
        assert await connection.fetchval("SHOW statement_timeout") == "4321ms"
        shown = await connection.fetchval("SHOW idle_in_transaction_session_timeout")
        assert shown == "5s"


async def test_idle_connections_that_were_ended_are_not_noticed(server: PostgresServer) -> None:
    async with open_store(server.url) as store, connected(server) as admin:
        await store.append("s", [user("x")])
        assert await admin.fetchval(END_ALL) >= 2
        await store.append("s", [user("y")])
        assert await admin.fetchval(END_ALL) >= 1
        assert len(await store.get_messages("s")) == 2


async def test_no_connection_is_left(server: PostgresServer) -> None:
    async with open_store(server.url, connections=3) as store:
        calls: list[Any] = []
        for n in range(60):
            calls += [
                store.append(f"s{n}", [user("x")]),
                store.get_messages(f"s{n}"),
                store.increment_state(f"s{n}", "n"),
                store.clear_session(f"s{n}"),
            ]
        tasks = [asyncio.ensure_future(call) for call in calls]
        for task in random.Random(3).sample(tasks, 120):
            asyncio.get_running_loop().call_later(random.Random(4).random() / 50, task.cancel)
        await asyncio.gather(*tasks, return_exceptions=True)
        assert await connections(server) <= 3
        await store.append("s", [user("usable")])
    assert await no_connections(server)


async def test_failed_opening_leaves_no_connection(server: PostgresServer) -> None:
    store = open_store(server.url, migrate=False)
    with pytest.raises(StoreRefusedError, match="asyncsessions migrate"):
        await store.ping()
    assert await no_connections(server)
    await store.aclose()


async def test_pool_of_the_caller_is_used_and_left_open(server: PostgresServer) -> None:
    async with asyncpg.create_pool(server.url, min_size=1, max_size=1) as pool:
        async with PostgresSessionStore(pool) as store:
            calls = [store.append(f"s{n % 3}", [user("x")]) for n in range(9)]
            await asyncio.gather(*calls, store.pop_message("s"), store.list_sessions())
            await store.increment_state("s1", "n")
        assert await pool.fetchval("SELECT count(*) FROM asyncsessions.messages") == 9


@pytest.mark.parametrize("told", [b"SELECT 1\x00", b"INSERT 0 1\x00"])
async def test_connection_of_the_pool_that_breaks_in_a_transaction(
    server: PostgresServer, told: bytes
) -> None:
    async with Line(server.url).open() as line, open_store(line.url) as store:
        await store.append("s", [user("x"), user("y")])
        line.break_at = told
        if told.startswith(b"SELECT"):
            assert await store.clear_session("s")
        else:
            assert await store.set_chat_history("s", [user("z")])
        assert line.break_at is None
        kept = 0 if told.startswith(b"SELECT") else 1
        assert len(await store.get_messages("s")) == kept


async def test_server_that_has_become_a_replica_is_left(server: PostgresServer) -> None:
    async with (
        open_store(server.url, timeout=3 * slowness()) as store,
        connected(server) as connection,
    ):
        await store.append("s", [user("x")])
        await connection.execute("ALTER DATABASE app SET default_transaction_read_only = on")
        await connection.execute(END_ALL)
        with pytest.raises(StoreUnavailableError):
            await store.append("s", [user("y")])
        await connection.execute("SET default_transaction_read_only = off")
        await connection.execute("ALTER DATABASE app RESET default_transaction_read_only")
        # The connections that are read-only stay so; only new ones can write.
        await store.append("s", [user("z")])
        assert await store.pop_message("s") is not None


SLOW = """
CREATE FUNCTION asyncsessions.wait() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN PERFORM pg_sleep({seconds}); RETURN NULL; END $$;
CREATE TRIGGER slow BEFORE DELETE ON asyncsessions.messages
    FOR EACH STATEMENT EXECUTE FUNCTION asyncsessions.wait()"""


async def test_to_wait_for_a_connection_takes_no_time_off_a_call(server: PostgresServer) -> None:
    timeout = 2 * slowness()
    async with (
        open_store(server.url, connections=2, timeout=timeout) as store,
        connected(server) as connection,
    ):
        await asyncio.gather(*(store.append(f"s{n}", [user("x")]) for n in range(100)))
        await connection.execute(SLOW.format(seconds=timeout / 50))
        loop = asyncio.get_running_loop()
        began = loop.time()
        cleared = await asyncio.gather(*(store.clear_session(f"s{n}") for n in range(100)))
        assert all(cleared)
        assert loop.time() - began > timeout
        # One for group commits, and one for each other connection.
        assert await connection.fetchval("SELECT count(*) FROM asyncsessions.writers") <= 2


async def test_calls_that_wait_for_a_connection_give_up_together(server: PostgresServer) -> None:
    timeout = 2 * slowness()
    async with open_store(server.url, timeout=timeout, connections=2) as store:
        await store.append("s", [user("x")])
        server.pause()
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            calls: list[Any] = [store.clear_session(f"s{n}") for n in range(20)]
            calls += [store.get_messages(f"s{n}") for n in range(20)]
            outcomes = await asyncio.gather(*calls, return_exceptions=True)
        finally:
            server.resume()
        assert loop.time() - began < 3 * timeout
        assert {type(outcome) for outcome in outcomes} == {StoreUnavailableError}
        assert len(await store.get_messages("s")) == 1


async def test_closing_that_is_given_up_leaves_no_connection(server: PostgresServer) -> None:
    store = open_store(server.url)
    await store.append("s", [user("x")])
    await store.get_messages("s")
    server.pause()
    closing = asyncio.ensure_future(store.aclose())
    await asyncio.sleep(0.2)
    closing.cancel()
    await asyncio.wait([closing])
    server.resume()
    assert await no_connections(server)


async def test_migrations_at_the_same_time_leave_no_connection(server: PostgresServer) -> None:
    async with PostgresSessionStore(server.url) as store:
        await asyncio.gather(*(store.migrate() for _ in range(4)), store.ping())
    assert await no_connections(server)


async def test_a_server_that_falls_silent_while_a_connection_is_set_up_is_not_waited_for(
    server: PostgresServer,
) -> None:
    """Nor for the cancellation of what was sent to it."""
    port = urlsplit(server.url).port
    silent = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answers, requests = await asyncio.open_connection("127.0.0.1", port)

        async def answer() -> None:
            while said := await answers.read(1 << 16):
                writer.write(said)

        answering = asyncio.create_task(answer())
        cancel_request = b"\x04\xd2\x16\x2e"
        while said := await reader.read(1 << 16):
            if b"SET enable_" in said or said[4:8] == cancel_request:
                await silent.wait()
                break
            requests.write(said)
        answering.cancel()
        requests.close()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as listener:
        own_port = listener.sockets[0].getsockname()[1]
        url = server.url.replace(f":{port}", f":{own_port}")
        store = PostgresSessionStore(url, timeout=slowness())
        with pytest.raises(StoreUnavailableError):
            await asyncio.wait_for(store.append("s", [user("x")]), LONG_ENOUGH)
        await asyncio.wait_for(store.aclose(), LONG_ENOUGH)
        silent.set()
