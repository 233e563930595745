"""A MongoDB server for tests that do it harm, and what they share."""

from __future__ import annotations

import asyncio
import secrets
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import bson
import pytest
import pytest_asyncio
from pymongo import AsyncMongoClient

from asyncsessions.stores import _mongo_moves
from asyncsessions.stores.mongo import MongoSessionStore
from asyncsessions.testing.servers import MongoServer
from asyncsessions.testing.timing import LONG_ENOUGH
from tests.faults.proxy import Proxy

__all__ = [
    "TAIL",
    "admin",
    "database",
    "held_back",
    "other",
    "proxy",
    "server",
    "start",
    "store",
    "stored_bytes",
]

# As many messages of a lone caller as its session's document may hold; one more has them moved.
TAIL = _mongo_moves._BOUNDS_IF_ALONE.entries

COLLECTIONS = ("sessions", "messages", "keys")


@pytest.fixture(scope="module")
def server() -> Iterator[MongoServer]:
    with MongoServer() as server:
        yield server


@pytest_asyncio.fixture
async def admin(server: MongoServer) -> AsyncIterator[AsyncMongoClient[dict[str, Any]]]:
    client: AsyncMongoClient[dict[str, Any]] = AsyncMongoClient(server.url)
    async with client:
        yield client


@pytest.fixture
def database() -> str:
    return f"test_{secrets.token_hex(8)}"


@pytest_asyncio.fixture
async def proxy(server: MongoServer) -> AsyncIterator[Proxy]:
    async with Proxy(server.port) as proxy:
        yield proxy


@pytest_asyncio.fixture
async def store(proxy: Proxy, database: str) -> AsyncIterator[MongoSessionStore]:
    """A store behind the proxy."""
    url = f"mongodb://127.0.0.1:{proxy.port}/{database}?directConnection=true"
    async with MongoSessionStore(url, timeout=LONG_ENOUGH) as store:
        yield store


@pytest_asyncio.fixture
async def other(server: MongoServer, database: str) -> AsyncIterator[MongoSessionStore]:
    """A second store over the same sessions, straight at the server."""
    async with MongoSessionStore(server.url, database=database) as store:
        yield store


@asynccontextmanager
async def held_back(proxy: Proxy, call: Awaitable[Any]) -> AsyncIterator[asyncio.Future[Any]]:
    """Start a call, and let it go on only after the block."""
    proxy.stall()
    task = asyncio.ensure_future(call)
    await asyncio.sleep(0.05)
    yield task
    proxy.resume()
    await asyncio.wait([task])


async def stored_bytes(admin: AsyncMongoClient[dict[str, Any]], database: str) -> bytes:
    """Return everything that is stored."""
    documents = []
    for name in COLLECTIONS:
        documents += await admin[database][name].find().to_list()
    return b"".join(map(bson.encode, documents))


def start(code: str, url: str) -> subprocess.Popen[str]:
    """Run code in another process."""
    return subprocess.Popen([sys.executable, "-c", code, url], stdout=subprocess.PIPE, text=True)
