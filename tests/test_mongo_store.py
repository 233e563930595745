"""MongoDB: the conformance suite, and what only this store has."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from motor.motor_asyncio import AsyncIOMotorClient
from pymongo import AsyncMongoClient

from asyncsessions.protocols import SessionStore
from asyncsessions.stores.mongo import MongoSessionStore
from asyncsessions.testing import SharedStoreConformance


def database_of(path: Path) -> str:
    return f"test_{hashlib.blake2b(str(path).encode(), digest_size=12).hexdigest()}"


class MongoConformance(SharedStoreConformance):
    """The suite, each test in a database of its own."""

    url: str

    @pytest.fixture(autouse=True)
    async def own_database(self, server_url: str, tmp_path: Path) -> AsyncIterator[None]:
        self.url = server_url
        self.database = database_of(tmp_path)
        yield
        client: AsyncMongoClient[dict[str, Any]] = AsyncMongoClient(server_url)
        async with client:
            await client.drop_database(self.database)

    def make_store(self, **options: Any) -> SessionStore:
        return MongoSessionStore(self.url, database=self.database, **options)

    def store_url(self) -> str:
        separator = "&" if "?" in self.url else "?"
        return f"{self.url}{separator}database={self.database}"


class TestMongoSessionStore(MongoConformance):
    @pytest.fixture
    def server_url(self, mongo_url: str) -> str:
        return mongo_url


class TestMongoReplicaSet(MongoConformance):
    @pytest.fixture
    def server_url(self, mongo_replica_url: str) -> str:
        return mongo_replica_url


class TestMongoThroughMotor(MongoConformance):
    @pytest.fixture
    def server_url(self, mongo_url: str) -> str:
        return mongo_url

    @pytest.fixture(autouse=True)
    def own_client(self, own_database: None) -> Iterator[None]:
        self.client: Any = AsyncIOMotorClient(self.url)
        yield
        self.client.close()  # Or its threads would stay for all other tests.

    def make_store(self, **options: Any) -> SessionStore:
        return MongoSessionStore(self.client, database=self.database, **options)
