"""The conformance suite of plain stores, and that of hierarchical ones, over every store."""

from __future__ import annotations

import uuid
from typing import Any, ClassVar

import pytest

from asyncsessions import open_store
from asyncsessions.hierarchy import HierarchicalSessionStore
from asyncsessions.protocols import SessionStore
from asyncsessions.testing import HierarchyConformance, StoreConformance
from asyncsessions.testing.reopening import ReopenCases, TwoStoreCases
from asyncsessions.testing.timing import LONG_ENOUGH


class Hierarchical(StoreConformance):
    """A hierarchical store, in place of the store that it is made of."""

    url: str
    options: ClassVar[dict[str, Any]] = {}

    def make_store(self, **options: Any) -> SessionStore:
        return HierarchicalSessionStore(open_store(self.url, **self.options, **options))


class SharedHierarchical(Hierarchical, TwoStoreCases, ReopenCases):
    """The same over a store that several processes use."""


class TestHierarchyInMemory(Hierarchical):
    url = "memory://"


class TestHierarchyOnJSONLines(SharedHierarchical):
    options: ClassVar[dict[str, Any]] = {"lock_timeout": LONG_ENOUGH}

    @pytest.fixture(autouse=True)
    def place(self) -> None:
        self.url = f"jsonl://{self.tmp_path / 'sessions'}"


class TestHierarchyOnJSON(SharedHierarchical):
    # One document for each session: what is written costs as much as what is there.
    max_cost_growth = 1000.0
    options: ClassVar[dict[str, Any]] = {"lock_timeout": LONG_ENOUGH}

    @pytest.fixture(autouse=True)
    def place(self) -> None:
        self.url = f"json://{self.tmp_path / 'sessions'}"


class TestHierarchyOnRedis(SharedHierarchical):
    @pytest.fixture(autouse=True)
    def place(self, redis_url: str) -> None:
        self.url = f"{redis_url}?prefix=h{uuid.uuid4().hex}"


class TestHierarchyOnPostgres(SharedHierarchical):
    @pytest.fixture(autouse=True)
    def place(self, postgres_url: str) -> None:
        self.url = f"{postgres_url}?schema=h{uuid.uuid4().hex}"


class TestHierarchyOnMongo(SharedHierarchical):
    @pytest.fixture(autouse=True)
    def place(self, mongo_url: str) -> None:
        self.url = f"{mongo_url}?database=h{uuid.uuid4().hex}"


class Plain(HierarchyConformance):
    """The store that a hierarchical one is made of."""

    url: str
    options: ClassVar[dict[str, Any]] = {}

    def make_store(self, **options: Any) -> SessionStore:
        return open_store(self.url, **self.options, **options)


class TestBranchingInMemory(Plain):
    url = "memory://"


class TestBranchingOnJSONLines(Plain):
    options: ClassVar[dict[str, Any]] = {"lock_timeout": LONG_ENOUGH}

    @pytest.fixture(autouse=True)
    def place(self) -> None:
        self.url = f"jsonl://{self.tmp_path / 'sessions'}"


class TestBranchingOnJSON(Plain):
    options: ClassVar[dict[str, Any]] = {"lock_timeout": LONG_ENOUGH}

    @pytest.fixture(autouse=True)
    def place(self) -> None:
        self.url = f"json://{self.tmp_path / 'sessions'}"


class TestBranchingOnRedis(Plain):
    @pytest.fixture(autouse=True)
    def place(self, redis_url: str) -> None:
        self.url = f"{redis_url}?prefix=h{uuid.uuid4().hex}"


class TestBranchingOnRedisCluster(Plain):
    @pytest.fixture(autouse=True)
    def place(self, redis_cluster_url: str) -> None:
        self.url = f"{redis_cluster_url}?prefix=h{uuid.uuid4().hex}"


class TestBranchingOnPostgres(Plain):
    @pytest.fixture(autouse=True)
    def place(self, postgres_url: str) -> None:
        self.url = f"{postgres_url}?schema=h{uuid.uuid4().hex}"


class TestBranchingOnMongo(Plain):
    @pytest.fixture(autouse=True)
    def place(self, mongo_url: str) -> None:
        self.url = f"{mongo_url}?database=h{uuid.uuid4().hex}"
