"""PostgreSQL: the conformance suite, and what only this store has."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar

import asyncpg
import pytest

from asyncsessions import CorruptSessionError, InvalidMessageError, open_store
from asyncsessions.hooks import KEY_LIFETIME, Scan, Window
from asyncsessions.stores._postgres_sessions import Oldest
from asyncsessions.stores.postgres import PostgresSessionStore
from asyncsessions.testing import ManualClock, SharedStoreConformance
from asyncsessions.testing._cases import fill
from asyncsessions.testing.appending import AppendCases, IdempotencyCases
from asyncsessions.testing.concurrency import ConcurrencyCases
from asyncsessions.testing.expiring import ExpiryCases
from asyncsessions.testing.finding import ListCases
from asyncsessions.testing.living import CostCases
from asyncsessions.testing.reading import ReadCases
from asyncsessions.testing.recording import StateCases
from asyncsessions.testing.reopening import TwoStoreCases
from asyncsessions.testing.rewriting import PartialTurnCases, RetentionCases, RewriteCases
from asyncsessions.testing.timing import LONG_ENOUGH

PARTITIONED = (Path(__file__).parent.parent / "docs" / "postgres.md").read_text(encoding="utf-8")


def schema_of(path: Path) -> str:
    return f"test_{hashlib.blake2b(str(path).encode(), digest_size=12).hexdigest()}"


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        await connection.close()


def most_rows(node: dict[str, Any]) -> float:
    """Return how many rows the busiest step of a plan has looked at."""
    own: float = node["Actual Rows"] * node["Actual Loops"] + node.get("Rows Removed by Filter", 0)
    return max([own, *map(most_rows, node.get("Plans", []))])


class PostgresCases:
    """Makes each test's stores in a schema of its own."""

    tmp_path: Path
    options: ClassVar[dict[str, Any]] = {}

    @pytest.fixture(autouse=True)
    async def own_schema(self, postgres_url: str, tmp_path: Path) -> AsyncIterator[None]:
        self.url = postgres_url
        self.schema = schema_of(tmp_path)
        yield
        async with connected(postgres_url) as connection:
            await connection.execute(f"DROP SCHEMA IF EXISTS {self.schema} CASCADE")

    def make_store(self, **options: Any) -> PostgresSessionStore:
        options = self.options | options
        return PostgresSessionStore(self.url, schema=self.schema, timeout=LONG_ENOUGH, **options)

    def store_url(self) -> str:
        return f"{self.url}?schema={self.schema}&timeout={LONG_ENOUGH:g}"


class TestPostgresSessionStore(PostgresCases, SharedStoreConformance):
    pass


class TestPostgresWithoutPreparedStatements(
    PostgresCases,
    AppendCases,
    IdempotencyCases,
    ReadCases,
    RewriteCases,
    RetentionCases,
    StateCases,
    ListCases,
    ExpiryCases,
    ConcurrencyCases,
    TwoStoreCases,
):
    options: ClassVar[dict[str, Any]] = {"prepared_statements": False, "table_prefix": "My_"}


class TestPostgresPartitioned(
    PostgresCases,
    IdempotencyCases,
    RewriteCases,
    RetentionCases,
    ListCases,
    PartialTurnCases,
    ConcurrencyCases,
    CostCases,
):
    """Tables that are partitioned as the documentation says."""

    @pytest.fixture(autouse=True)
    async def partitioned(self, own_schema: None) -> None:
        sql = PARTITIONED.split('```sql title="partitioned"\n')[1].split("```")[0]
        async with connected(self.url) as connection:
            await connection.execute(sql.replace("asyncsessions", self.schema))


class TestPostgresTables(PostgresCases):
    """What is in the tables, and what is not."""

    async def rows(self, query: str, *arguments: Any) -> list[Any]:
        async with connected(self.url) as connection:
            await connection.execute(f"SET search_path = {self.schema}")
            rows: list[Any] = await connection.fetch(query, *arguments)
            return rows

    async def test_clear_and_delete_leave_no_row(self) -> None:
        async with self.make_store() as store:
            for session_id in "ab":
                message = {"role": "user", "content": "x"}
                await store.append(session_id, [message] * 3, idempotency_key="k")
                await store.set_state(session_id, "k", 1)
            await store.clear_session("a")
            await store.delete_session("b")
        assert await self.rows("SELECT * FROM messages") == []
        assert [row["session_id"] for row in await self.rows("SELECT * FROM sessions")] == [b"a"]
        assert [row["session_id"] for row in await self.rows("SELECT * FROM keys")] == [b"a"]

    async def test_refused_append_leaves_no_row(self) -> None:
        async with self.make_store() as store:
            calls = [
                store.append("s", [{"role": "user", "content": "x"}], expected_seq=7),
                store.expire_session("t", 10),
                store.set_state("u", "n", "text"),
                store.increment_state("u", "n"),
            ]
            outcomes = await asyncio.gather(*calls, return_exceptions=True)
            assert isinstance(outcomes[-1], InvalidMessageError)
        assert [row["session_id"] for row in await self.rows("SELECT * FROM sessions")] == [b"u"]

    async def test_revived_session_has_none_of_its_old_rows(self, tmp_path: Path) -> None:
        clock = ManualClock()
        async with self.make_store(clock=clock, ttl_seconds=10) as store:
            for session_id in ("expired", "kept"):
                message = {"role": "user", "content": "old"}
                await store.append(session_id, [message] * 3, idempotency_key="k")
                await store.set_agent_info(session_id, "agent")
            clock.advance(9)
            await store.set_state("kept", "k", 1)
            clock.advance(1)
            # Plain appends in one flush, of which one finds that its session has expired.
            calls = [
                store.append(s, [{"role": "user", "content": "new"}]) for s in ("kept", "expired")
            ]
            stored = await asyncio.gather(*calls)
            assert [each[0].seq for each in stored] == [4, 1]
        rows = await self.rows("SELECT agent_name, message_count FROM sessions ORDER BY session_id")
        assert [tuple(row) for row in rows] == [(None, 1), (b"agent", 4)]
        assert len(await self.rows("SELECT * FROM messages")) == 5
        assert [row["session_id"] for row in await self.rows("SELECT * FROM keys")] == [b"kept"]

    async def test_old_keys_are_forgotten(self) -> None:
        clock = ManualClock()
        async with self.make_store(clock=clock, max_messages=5) as store:
            for n in range(40):
                message = {"role": "user", "content": f"m{n}"}
                await store.append("s", [message], idempotency_key=f"k{n}")
            assert len(await self.rows("SELECT * FROM keys")) == 40
            clock.advance(KEY_LIFETIME + 1)
            for n in range(40, 50):
                message = {"role": "user", "content": f"m{n}"}
                await store.append("s", [message], idempotency_key=f"k{n}")
            assert len(await self.rows("SELECT * FROM keys")) == 10
            assert len(await self.rows("SELECT * FROM messages")) == 5

    async def test_keys_of_many_callers_are_forgotten_as_fast_as_they_come(self) -> None:
        clock = ManualClock()
        async with self.make_store(clock=clock, max_messages=5) as store:
            for part in range(6):
                if part == 3:
                    clock.advance(KEY_LIFETIME + 1)
                keys = [f"{part}.{n}" for n in range(64)]
                message = {"role": "user", "content": "x"}
                calls = (store.append("s", [message], idempotency_key=key) for key in keys)
                await asyncio.gather(*calls)
            assert len(await self.rows("SELECT * FROM keys")) <= 3 * 64 + 5

    async def test_purging_reads_no_more_than_it_removes(self) -> None:
        async with self.make_store() as store:
            await self.rows(
                """INSERT INTO sessions (session_id, last_seq, first_seq, message_count,
                    created_at, updated_at, expires_at)
                SELECT n::text::bytea, 0, 1, 0, n, n, CASE WHEN n <= 5000 THEN n ELSE 1e12 END
                FROM generate_series(1, 10000) AS n"""
            )
            await self.rows("ANALYZE sessions")
            statement, arguments = store._sql.scan(Scan(100, time.time(), expired=True))
            async with store._connections.lend() as connection:
                query = f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}"
                (plan,) = json.loads(await connection.fetchval(query, *arguments))
            assert most_rows(plan["Plan"]) < 1000
            assert await store.purge_expired() == 5000

    async def test_retention_of_a_long_session_looks_at_few_messages(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen: list[int] = []
        see = Oldest.see

        def count(oldest: Oldest, rows: Sequence[Any]) -> bool:
            seen.append(len(rows))
            return see(oldest, rows)

        monkeypatch.setattr(Oldest, "see", count)
        async with self.make_store() as store:
            await fill(store, "s", 2000)
        async with self.make_store(max_messages=10) as store:
            await store.append("s", [{"role": "user", "content": "new"}])
            kept = await store.get_messages("s")
            assert [message.seq for message in kept] == list(range(1992, 2002))
        assert sum(seen) < 50

    async def test_retention_knows_results_that_came_before_it(self) -> None:
        call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
        turn: list[dict[str, Any]] = [
            {"role": "user", "content": "x"},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            *({"role": "tool", "content": "x", "tool_call_id": "c"} for _ in range(30)),
        ]
        async with self.make_store() as store:
            await store.append("s", turn)
        async with self.make_store(max_messages=31) as store:
            await store.append("s", [{"role": "user", "content": "y"}])
            # The cut would fall among the results of the call, so it comes after them.
            assert [message.seq for message in await store.get_messages("s")] == [33]
            session = await store.get_session("s")
            assert (session.message_count, session.last_seq) == (1, 33)

    @pytest.mark.parametrize("gone", [2, 9])
    async def test_retention_does_with_rows_that_somebody_has_removed(self, gone: int) -> None:
        async with self.make_store() as store:
            await store.append("s", [{"role": "tool", "content": "x"}] * 10)
        async with connected(self.url) as connection:
            await connection.execute(f"DELETE FROM {self.schema}.messages WHERE seq <= $1", gone)
        async with self.make_store(max_messages=3) as store:
            await store.append("s", [{"role": "user", "content": "y"}])
            seqs = [message.seq for message in await store.get_messages("s")]
            assert seqs[-1] == 11
            assert len(seqs) <= 3

    async def test_writers_of_long_ago_are_forgotten(self) -> None:
        async with self.make_store() as store:
            await store.append("s", [{"role": "user", "content": "x"}])
            await store.pop_message("s")
        async with connected(self.url) as connection:
            older = f"UPDATE {self.schema}.writers SET written_at = now() - interval '2 days'"
            await connection.execute(older)
        async with self.make_store() as store:
            await store.append("s", [{"role": "user", "content": "x"}])
        assert len(await self.rows("SELECT * FROM writers")) == 1

    async def test_plain_appends_update_sessions_in_place(self) -> None:
        async with self.make_store(ttl_seconds=1000) as store:
            for _ in range(50):
                await store.add_message("s", "user", "x")
        query = """SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables
            WHERE schemaname = $1 AND relname = 'sessions'"""
        async with asyncio.timeout(LONG_ENOUGH):
            while True:
                updated = (await self.rows(query, self.schema))[0]
                if updated["n_tup_upd"] >= 49:
                    break
                await asyncio.sleep(0.05)
        # Another minute may begin meanwhile.
        assert updated["n_tup_hot_upd"] >= 46

    async def test_long_names_are_looked_up(self) -> None:
        names = ["n" * 5000 + end for end in ("1", "2")]
        async with self.make_store() as store:
            for number, name in enumerate(names):
                await store.set_agent_info(f"s{number}", name, user_id=name)
            found = await store.list_sessions(agent_name=names[1], user_id=names[1])
            assert [info.session_id for info in found] == ["s1"]

    async def test_text_with_zero_bytes_round_trips_everywhere(self) -> None:
        odd = "a\x00b"
        async with self.make_store() as store:
            message = {"role": "user", "content": odd, "metadata": {odd: odd}}
            await store.append(odd, [message], idempotency_key=odd)
            (again,) = await store.append(odd, [message], idempotency_key=odd)
            await store.set_agent_info(odd, odd, odd)
            await store.set_gateway_info(odd, odd, odd)
            await store.set_state(odd, odd, odd)
            await store.rename_session(odd, odd)
            await store.append_compaction_checkpoint(odd, odd)
            session = await store.get_session(odd)
            assert (again.seq, session.messages) == (1, [again])
            assert (again.content, again.metadata) == (odd, {odd: odd})
            assert (session.agent_name, session.gateway_session_id) == (odd, odd)
            assert (session.state, session.title) == ({odd: odd}, odd)
            assert session.checkpoint is not None
            assert session.checkpoint.summary == odd
            assert [info.session_id for info in await store.list_sessions(user_id=odd)] == [odd]

    async def test_damaged_record_harms_no_other(self) -> None:
        async with self.make_store() as store:
            for name in ("a", "bad", "c"):
                await store.set_state(name, "n", 1)
            await self.rows("UPDATE sessions SET state = '{' WHERE session_id = 'bad'")
            calls = [store.increment_state(name, "n") for name in ("a", "bad", "c")]
            one, error, other = await asyncio.gather(*calls, return_exceptions=True)
            assert (one, other) == (2, 2)
            assert isinstance(error, CorruptSessionError)
            assert error.session_id == "bad"
            page = await store.list_sessions(1)
            rest = await store.list_sessions(1, page.next_cursor)
            assert {info.session_id for info in [*page, *rest]} == {"a", "c"}

    async def test_damaged_record_expires(self) -> None:
        clock = ManualClock()
        async with self.make_store(clock=clock, ttl_seconds=5) as store:
            await store.set_state("bad", "n", 1)
            await store.set_state("gone", "n", 1)
            await self.rows("UPDATE sessions SET state = '{'")
            clock.advance(5)
            assert await store.increment_state("bad", "n") == 1
            assert await store.purge_expired() == 1

    async def test_page_of_large_messages_is_bounded(self) -> None:
        async with self.make_store() as store:
            large = {"role": "user", "content": "x" * (1 << 20)}
            await store.append("s", [large] * 12)
            seqs = [message.seq async for message in store.iter_messages("s")]
            assert seqs == list(range(1, 13))
            for oldest in (False, True):
                window = Window(limit=100, oldest=oldest, max_bytes=(3 << 20) + 10_000)
                rows = await store._tail("s", window)
                assert rows is not None
                assert len(rows.messages) == 4


@pytest.mark.parametrize(
    "options",
    [
        {"schema": ""},
        {"schema": "a b"},
        {"schema": 'a"b'},
        {"schema": "1a"},
        {"schema": "pg_x"},
        {"schema": "s" * 64},
        {"table_prefix": "a-b"},
        {"table_prefix": "p" * 33},
        {"connections": 1},
        {"timeout": 0},
    ],
)
def test_bad_option_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        PostgresSessionStore("postgresql://app:secret@localhost/app", **options)


@pytest.mark.parametrize(
    "option", ["sslmode=maybe", "sslmode=", "sslnegotiation=none", "target_session_attrs=fast"]
)
def test_bad_option_of_the_driver_is_named(option: str) -> None:
    with pytest.raises(ValueError, match=option.partition("=")[0]) as caught:
        open_store(f"postgresql://app:secret@localhost/app?{option}")
    assert "secret" not in str(caught.value)


def test_unknown_option_in_the_url_is_named() -> None:
    with pytest.raises(ValueError, match="colour") as caught:
        open_store("postgresql://app:secret@localhost/app?colour=red")
    assert "secret" not in str(caught.value)


async def test_options_in_the_url_reach_store_and_driver(postgres_url: str, tmp_path: Path) -> None:
    schema = schema_of(tmp_path)
    query = f"schema={schema}&table_prefix=P_&connections=2&timeout=60&max_messages=2"
    url = f"{postgres_url}?{query}&application_name=mine&synchronous_commit=off"
    async with open_store(url) as store, connected(postgres_url) as connection:
        for n in range(4):
            await store.append("s", [{"role": "user", "content": f"m{n}"}])
        assert len(await store.get_messages("s")) == 2
        assert await connection.fetchval(f'SELECT count(*) FROM {schema}."P_messages"') == 2
        mine = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'mine'"
        assert await connection.fetchval(mine) == 2
        await connection.execute(f"DROP SCHEMA {schema} CASCADE")


async def test_two_prefixes_share_a_schema(postgres_url: str, tmp_path: Path) -> None:
    schema = schema_of(tmp_path)
    one = PostgresSessionStore(postgres_url, schema=schema, table_prefix="one_")
    two = PostgresSessionStore(postgres_url, schema=schema, table_prefix="two_")
    async with one, two, connected(postgres_url) as connection:
        await one.append("s", [{"role": "user", "content": "x"}])
        assert await two.session_exists("s") is False
        await connection.execute(f"DROP SCHEMA {schema} CASCADE")
