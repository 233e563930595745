"""The Redis store: the conformance suite on every kind of server, and what is its own."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import pytest_asyncio

from asyncsessions.protocols import SessionStore
from asyncsessions.stores.redis import RedisSessionStore
from asyncsessions.testing import SharedStoreConformance
from asyncsessions.testing._cases import StoreCases
from asyncsessions.testing.servers import RedisServer, redis_binaries


class RedisCases(StoreCases):
    """A test's own keys on a shared server; they go when it ends."""

    url: str

    @property
    def prefix(self) -> str:
        return hashlib.sha1(str(self.tmp_path).encode()).hexdigest()[:16]

    def make_store(self, **options: Any) -> SessionStore:
        return RedisSessionStore(self.url, prefix=self.prefix, **options)

    def store_url(self) -> str:
        return f"{self.url}?prefix={self.prefix}"


class TestRedisSessionStore(RedisCases, SharedStoreConformance):
    @pytest.fixture(autouse=True)
    def server(self, redis_url: str) -> None:
        self.url = redis_url


class TestRedisSessionStoreOnNewServer(RedisCases, SharedStoreConformance):
    """Beside the oldest server that is supported: the newest one there is."""

    @pytest.fixture(autouse=True)
    def server(self, new_redis_url: str) -> None:
        self.url = new_redis_url


class TestRedisSessionStoreOnCluster(RedisCases, SharedStoreConformance):
    @pytest.fixture(autouse=True)
    def server(self, redis_cluster_url: str) -> None:
        self.url = redis_cluster_url


@pytest.fixture(scope="session")
def new_redis_url() -> Iterator[str]:
    with RedisServer(binary=redis_binaries()[-1]) as server:
        yield server.url
