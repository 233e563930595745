"""PostgreSQL's own faults: lost answers, ended connections, poolers, races to migrate."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from asyncsessions import (
    StoreRefusedError,
    VersionConflictError,
    open_store,
)
from asyncsessions.stores.postgres import PostgresSessionStore
from asyncsessions.testing.servers import PostgresServer
from asyncsessions.testing.timing import LONG_ENOUGH
from tests.faults.conversation import amended, user
from tests.faults.postgres_proxies import Line, Pooler
from tests.faults.postgres_server import connected, empty_database, server

__all__ = ["empty_database", "server"]  # Fixtures of this module's tests.

pytestmark = pytest.mark.usefixtures("empty_database")

ROOT = str(Path(__file__).parents[2])


# Answers that are lost: the server has done it, and the client doesn't know.

Call = Callable[[PostgresSessionStore], Awaitable[Any]]

LOST: dict[str, tuple[bytes, Call, Any]] = {
    "append": (b"SELECT 1\x00", lambda s: s.append("s", [user("x")]), None),
    "batch": (b"SELECT 1\x00", lambda s: s.append("s", [user("x"), user("y")]), None),
    "append with key": (
        b"COMMIT\x00",
        lambda s: s.append("s", [user("x")], idempotency_key="k"),
        None,
    ),
    "append at a version": (
        b"COMMIT\x00",
        lambda s: s.append("s", [user("x")], expected_seq=3),
        None,
    ),
    "increment": (b"COMMIT\x00", lambda s: s.increment_state("s", "n", 2), 7),
    "state": (b"COMMIT\x00", lambda s: s.set_state("s", "k", "v"), None),
    "pop": (b"COMMIT\x00", lambda s: s.pop_message("s"), "m3"),
    "replace": (b"COMMIT\x00", lambda s: s.set_chat_history("s", [user("x")]), True),
    "clear": (b"COMMIT\x00", lambda s: s.clear_session("s"), True),
    "delete": (b"COMMIT\x00", lambda s: s.delete_session("s"), True),
    "amend": (b"COMMIT\x00", amended, (None, "t", 5)),
    "expire": (b"COMMIT\x00", lambda s: s.expire_session("s", 1000), True),
}


async def contents(store: PostgresSessionStore) -> tuple[Any, ...]:
    session = await store.get_session("s")
    texts = [(message.seq, message.content) for message in session.messages]
    return texts, session.last_seq, session.message_count, session.state, bool(session.expires_at)


async def prepared(store: PostgresSessionStore) -> None:
    await store.append("s", [user(f"m{n}") for n in (1, 2, 3)])
    await store.increment_state("s", "n", 5)
    await store.get_messages("s")


@pytest.mark.parametrize("name", LOST)
async def test_lost_answer_is_found_again(server: PostgresServer, name: str) -> None:
    marker, call, expected = LOST[name]
    async with open_store(server.url, schema="undisturbed") as other:
        assert isinstance(other, PostgresSessionStore)
        await prepared(other)
        result = await call(other)
        wanted = await contents(other)
        await other.delete_session("s")
    async with Line(server.url).open() as line, open_store(line.url) as store:
        assert isinstance(store, PostgresSessionStore)
        await prepared(store)
        line.break_at = marker
        again = await call(store)
        assert line.break_at is None
        assert await contents(store) == wanted
        if isinstance(again, list):
            assert [message.seq for message in again] == [message.seq for message in result]
        elif expected is not None:
            assert getattr(again, "content", again) == expected


async def test_lost_refusal_is_found_again(server: PostgresServer) -> None:
    async with Line(server.url).open() as line, open_store(line.url) as store:
        await store.append("s", [user("x")])
        line.break_at = b"COMMIT\x00"
        with pytest.raises(VersionConflictError) as caught:
            await store.append("s", [user("y")], expected_seq=0)
        assert line.break_at is None
        assert caught.value.last_seq == 1
        assert len(await store.get_messages("s")) == 1


async def test_lost_answer_of_many_sessions_is_found_again(server: PostgresServer) -> None:
    async with Line(server.url).open() as line, open_store(line.url) as store:
        await asyncio.gather(*(store.append(f"s{n % 20}", [user("old")]) for n in range(30)))
        await store.expire_session("s7", 0)
        line.break_at = b"SELECT 19\x00"
        calls = [store.append(f"s{n % 20}", [user(f"m{n}")]) for n in range(60)]
        stored = await asyncio.gather(*calls)
        assert line.break_at is None
        for which in range(20):
            kept = await store.get_messages(f"s{which}")
            assert [message.seq for message in kept] == list(range(1, len(kept) + 1))
            assert kept[-3:] == [message for n in range(which, 60, 20) for message in stored[n]]
            assert len(kept) == 3 + (0 if which == 7 else 1 + (which < 10))


@pytest.mark.parametrize("key", [None, "k"])
async def test_first_attempt_that_comes_late_is_no_second_message(
    server: PostgresServer, key: str | None
) -> None:
    async with Line(server.url).open() as line, open_store(line.url) as store:
        await store.append("s", [user("first")])
        async with connected(server) as other:
            await other.execute("BEGIN")
            await other.execute("SELECT FROM asyncsessions.sessions FOR UPDATE")
            call = asyncio.ensure_future(store.append("s", [user("x")], idempotency_key=key))
            await waiting(server, 1)
            line.cut_clients()
            # The first attempt goes on at the server, and the second waits behind it.
            await waiting(server, 2)
            await other.execute("ROLLBACK")
            (stored,) = await call
        assert stored.seq == 2
        assert [message.seq for message in await store.get_messages("s")] == [1, 2]
        assert (await store.append("s", [user("y")]))[0].seq == 3


async def waiting(server: PostgresServer, count: int) -> None:
    """Wait until so many connections wait for a lock."""
    async with connected(server) as connection:
        query = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        async with asyncio.timeout(LONG_ENOUGH):
            while await connection.fetchval(query) < count:  # noqa: ASYNC110  # at the server
                await asyncio.sleep(0.01)


# Poolers.


@pytest.fixture
async def pooler(server: PostgresServer) -> AsyncIterator[Pooler]:
    rules = server.directory / "data" / "pg_hba.conf"
    before = rules.read_text()
    rules.write_text("host all pooled 127.0.0.1/32 trust\n" + before)
    async with connected(server) as connection:
        await connection.execute("CREATE ROLE pooled LOGIN; GRANT CREATE ON DATABASE app TO pooled")
        await connection.execute("SELECT pg_reload_conf()")
        try:
            async with Pooler(server.url, "pooled").open() as running:
                yield running
        finally:
            await connection.execute("DROP OWNED BY pooled; DROP ROLE pooled")
            rules.write_text(before)
            await connection.execute("SELECT pg_reload_conf()")


async def test_everything_works_behind_a_transaction_pooler(pooler: Pooler) -> None:
    async with open_store(pooler.url, prepared_statements=False, ttl_seconds=600) as store:
        calls = [store.append(f"s{n % 5}", [user(f"m{n}")]) for n in range(30)]
        await asyncio.gather(*calls, *(store.increment_state("s1", "n") for _ in range(10)))
        await store.append("s1", [user("k")], idempotency_key="k")
        await store.append("s1", [user("k")], idempotency_key="k")
        await store.set_agent_info("s1", "agent")
        await store.pop_message("s2")
        await store.set_chat_history("s3", [user("new")])
        await store.clear_session("s4")
        assert await store.delete_session("s0") is True
        session = await store.get_session("s1")
        assert (session.message_count, session.state) == (7, {"n": 10})
        assert {info.session_id for info in await store.list_sessions()} == {"s1", "s2", "s3", "s4"}
        assert len(await store.list_sessions(agent_name="agent")) == 1


async def test_pooler_is_named_where_it_mixes_up_statements(pooler: Pooler) -> None:
    with pytest.raises(StoreRefusedError, match="prepared_statements=false"):
        async with open_store(pooler.url) as store:
            for _ in range(20):
                await store.append("s", [user("x")])
                await store.get_messages("s")


PLAN_SETTINGS = ("enable_seqscan", "enable_bitmapscan", "jit")


async def test_no_statement_stays_prepared(server: PostgresServer) -> None:
    async with PostgresSessionStore(server.url, prepared_statements=False) as store:
        await store.append("s", [user("x")])
        await store.append("s", [user("x")], idempotency_key="k")
        await store.pop_message("s")
        await store.get_messages("s")
        for lend in (store._connections.lend, store._connections.lend_kept):
            async with lend() as connection:
                left = "SELECT name FROM pg_prepared_statements"
                assert await connection.fetch(left) == []
                for setting in PLAN_SETTINGS:
                    assert await connection.fetchval(f"SHOW {setting}") == "on"


async def test_plans_of_own_connections_use_indexes_and_are_never_compiled(
    server: PostgresServer,
) -> None:
    async with PostgresSessionStore(server.url) as store:
        await store.append("s", [user("x")])
        for lend in (store._connections.lend, store._connections.lend_kept):
            async with lend() as connection:
                for setting in PLAN_SETTINGS:
                    assert await connection.fetchval(f"SHOW {setting}") == "off"


# Many processes.

OPEN = """
import asyncio, sys
from asyncsessions import open_store

async def main():
    print("ready", flush=True)
    sys.stdin.readline()
    async with open_store(sys.argv[1], timeout=300) as store:
        await store.append("s", [{"role": "user", "content": "x"}])

asyncio.run(main())
"""

WRITE = """
import asyncio, json, random, sys
from asyncsessions import open_store

async def main():
    rng = random.Random(sys.argv[2])
    ids = [f"s{n}" for n in range(60)]
    async with open_store(sys.argv[1], timeout=300) as store:
        print("ready", flush=True)
        sys.stdin.readline()
        for turn in range(25):
            rng.shuffle(ids)
            message = [{"role": "user", "content": "x"}]
            calls = [store.append(each, message) for each in ids]
            calls += [store.increment_state(each, "n") for each in rng.sample(ids, 20)]
            key = f"{sys.argv[2]}.{turn}"
            calls += [
                store.append(each, message, idempotency_key=key) for each in rng.sample(ids, 5)
            ]
            calls += [store.delete_session(f"d{rng.randrange(9)}") for _ in range(3)]
            calls += [store.append(f"d{rng.randrange(9)}", message) for _ in range(3)]
            await asyncio.gather(*calls)

asyncio.run(main())
"""


async def run_processes(program: str, *arguments: list[str]) -> None:
    """Run a program once for each list of arguments, all from the same moment on."""
    started = [
        await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", program, *each),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            cwd=ROOT,
        )
        for each in arguments
    ]
    try:
        for process in started:
            assert process.stdout is not None
            assert await process.stdout.readline() == b"ready\n"
        ends = [process.communicate(b"\n") for process in started]
        await asyncio.wait_for(asyncio.gather(*ends), LONG_ENOUGH)
    finally:
        for process in started:
            if process.returncode is None:
                process.kill()
                await process.wait()
    assert [process.returncode for process in started] == [0] * len(started)


async def test_ten_processes_open_an_empty_database_at_once(server: PostgresServer) -> None:
    await run_processes(OPEN, *([server.url] for _ in range(10)))
    async with open_store(server.url) as store, connected(server) as connection:
        assert len(await store.get_messages("s")) == 10
        versions = await connection.fetch("SELECT version FROM asyncsessions.migrations")
        assert [row["version"] for row in versions] == [1]


async def test_stores_of_one_schema_open_at_once(server: PostgresServer) -> None:
    for _ in range(5):
        urls = [f"{server.url}?table_prefix=t{number}_" for number in range(10)]
        stores = [open_store(url, timeout=LONG_ENOUGH) for url in urls]
        await asyncio.gather(*(store.append("s", [user("x")]) for store in stores))
        await asyncio.gather(*(store.aclose() for store in stores))
        async with connected(server) as connection:
            await connection.execute("DROP SCHEMA asyncsessions CASCADE")


async def test_writers_of_the_same_sessions_never_deadlock(server: PostgresServer) -> None:
    async with connected(server) as connection:
        query = "SELECT deadlocks FROM pg_stat_database WHERE datname = 'app'"
        before = await connection.fetchval(query)
        await run_processes(WRITE, *([server.url, str(number)] for number in range(4)))
        await connection.execute("SELECT pg_stat_clear_snapshot()")
        assert await connection.fetchval(query) == before
    async with open_store(server.url) as store:
        sessions = [await store.get_session(f"s{n}") for n in range(60)]
        for session in sessions:
            seqs = [message.seq for message in session.messages]
            assert seqs == list(range(1, session.last_seq + 1))
        assert sum(session.last_seq for session in sessions) == 4 * 25 * 65
        assert sum(session.state["n"] for session in sessions) == 4 * 25 * 20
