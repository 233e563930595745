"""A PostgreSQL server for tests that do it harm, and what they share."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest

from asyncsessions.testing.servers import PostgresServer

__all__ = ["connected", "empty_database", "server"]


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with PostgresServer() as running:
        yield running


@asynccontextmanager
async def connected(server: PostgresServer) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(server.url)
    try:
        yield connection
    finally:
        await connection.close()


@pytest.fixture
async def empty_database(server: PostgresServer) -> AsyncIterator[None]:
    yield
    async with connected(server) as connection:
        await connection.execute("DROP SCHEMA IF EXISTS asyncsessions CASCADE")
