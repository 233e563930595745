"""The conformance suite, run through the sync stores."""

from __future__ import annotations

from typing import Any

from asyncsessions.protocols import SessionStore
from asyncsessions.stores.jsonl import JSONLinesSessionStore
from asyncsessions.stores.memory import InMemorySessionStore
from asyncsessions.sync import SyncSessionStore
from asyncsessions.testing import StoreConformance
from tests.sync_view import async_view


class TestSyncInMemorySessionStore(StoreConformance):
    def make_store(self, **options: Any) -> SessionStore:
        return async_view(SyncSessionStore(InMemorySessionStore(**options)))


class TestSyncJSONLinesSessionStore(StoreConformance):
    def make_store(self, **options: Any) -> SessionStore:
        directory = self.tmp_path / "sessions"
        return async_view(SyncSessionStore(JSONLinesSessionStore(directory, **options)))
