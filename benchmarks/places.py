"""Where messages are kept: a fresh directory, or a real server that the benchmark starts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import asyncpg
from pymongo import AsyncMongoClient
from redis.asyncio import Redis

from asyncsessions.testing.servers import MongoServer, PostgresServer, RedisServer, Server
from benchmarks.measure import Run
from benchmarks.results import STORES

__all__ = ["place", "server_version"]

_SERVERS: dict[str, Callable[[], Server]] = {
    "redis": lambda: RedisServer("--appendfsync", "everysec"),
    "postgres": PostgresServer,
    "mongo": MongoServer,
}


@contextmanager
def place(run: Run, store: str) -> Iterator[str]:
    """Yield the URL of a server of its own, or a directory, that nobody has used."""
    start = _SERVERS.get(store)
    if start is None:
        yield str(run.new_directory(store))
    else:
        with start() as server:
            yield server.url


async def server_version(store: str, url: str) -> dict[str, str]:
    """Return the server's version by its name; nothing where there is no server."""
    if store == "redis":
        async with Redis.from_url(url) as redis:
            version = (await redis.info("server"))["redis_version"]
    elif store == "postgres":
        connection = await asyncpg.connect(url)
        version = await connection.fetchval("SHOW server_version")
        await connection.close()
    elif store == "mongo":
        async with AsyncMongoClient[dict[str, object]](url) as client:
            version = (await client.server_info())["version"]
    else:
        return {}
    return {f"{STORES[store]} server": str(version)}
