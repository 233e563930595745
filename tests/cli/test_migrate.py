"""``migrate``: makes the tables of PostgreSQL stores, or prints how."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import asyncpg
import pytest

from tests.cli.helpers import bad, good


@pytest.fixture
def schema(postgres_url: str) -> Iterator[str]:
    yield "cli_migrate"
    execute(postgres_url, 'DROP SCHEMA IF EXISTS "cli_migrate" CASCADE')


def execute(url: str, sql: str) -> None:
    async def main() -> None:
        connection = await asyncpg.connect(url)
        await connection.execute(sql)
        await connection.close()

    asyncio.run(main())


def tables(url: str, schema: str) -> set[str]:
    async def main() -> Any:
        connection = await asyncpg.connect(url)
        query = "SELECT tablename FROM pg_tables WHERE schemaname = $1"
        rows = await connection.fetch(query, schema)
        await connection.close()
        return rows

    return {row["tablename"] for row in asyncio.run(main())}


ALL = {"sessions", "messages", "keys", "writers", "migrations"}


def test_migrate_makes_the_tables_once(postgres_url: str, schema: str) -> None:
    url = f"{postgres_url}?schema={schema}&migrate=false"

    refused = bad(1, "ls", "--store", url)
    assert "asyncsessions migrate" in refused

    assert good("migrate", "--store", url).out == "applied: version 1\n"
    assert good("migrate", "--store", url).out == "the tables are up to date\n"
    assert tables(postgres_url, schema) == ALL
    assert good("add", "s", "user", "hello", "--store", url).out == "added message 1 to s\n"


def test_printed_sql_makes_the_same_tables(postgres_url: str, schema: str) -> None:
    url = f"{postgres_url}?schema={schema}&table_prefix=my_&migrate=false"

    sql = good("migrate", "--sql", "--store", url).out

    assert tables(postgres_url, schema) == set()
    execute(postgres_url, sql)
    execute(postgres_url, sql)
    assert tables(postgres_url, schema) == {f"my_{name}" for name in ALL}
    assert good("migrate", "--store", url).out == "the tables are up to date\n"


def test_sql_is_printed_without_a_server() -> None:
    printed = good("migrate", "--sql", "--store", "postgresql://app:secret@nowhere.invalid/app").out

    assert 'CREATE SCHEMA "asyncsessions"' in printed
    assert "secret" not in printed


@pytest.mark.parametrize("url", ["jsonl://sessions", "redis://:secret@localhost"])
def test_other_stores_have_nothing_to_migrate(url: str) -> None:
    error = bad(2, "migrate", "--store", url)

    assert "postgresql://" in error
    assert "secret" not in error


def test_unreachable_server_is_one_line() -> None:
    error = bad(1, "migrate", "--store", "postgresql://app:secret@127.0.0.1:1/app?timeout=0.5")

    assert "PostgresSessionStore failed" in error
    assert "secret" not in error
