"""A Redis server for tests that do it harm, and what they share."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import pytest
import pytest_asyncio
from redis import asyncio as aioredis

from asyncsessions.stores.redis import RedisSessionStore
from asyncsessions.testing.servers import RedisServer
from asyncsessions.testing.timing import LONG_ENOUGH
from tests.faults.proxy import Proxy

__all__ = ["admin", "proxy", "server", "store", "until"]


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest_asyncio.fixture
async def admin(server: RedisServer) -> AsyncIterator[aioredis.Redis]:
    client = aioredis.Redis(port=server.port, driver_info=None)
    try:
        yield client
        # A test that failed may have left something that the next one trips over.
        await client.replicaof("NO", "ONE")
        await client.flushall()
    finally:
        await client.aclose()


@pytest_asyncio.fixture
async def proxy(server: RedisServer) -> AsyncIterator[Proxy]:
    async with Proxy(server.port) as proxy:
        yield proxy


@pytest_asyncio.fixture
async def store(proxy: Proxy, admin: aioredis.Redis) -> AsyncIterator[RedisSessionStore]:
    """A store behind the proxy."""
    url = f"redis://127.0.0.1:{proxy.port}"
    async with RedisSessionStore(url, timeout=LONG_ENOUGH) as store:
        yield store


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(LONG_ENOUGH):
        while not await condition():  # noqa: ASYNC110  # at the server
            await asyncio.sleep(0.005)
