"""The conformance suite, run through the sync stores."""

from __future__ import annotations

import asyncio
from typing import Any

from asyncsessions.protocols import SessionStore
from asyncsessions.stores.jsonl import JSONLinesSessionStore
from asyncsessions.stores.memory import InMemorySessionStore
from asyncsessions.sync import SyncSessionStore
from asyncsessions.testing import StoreConformance
from tests.sync_view import async_view


class SyncConformance(StoreConformance):
    async def test_first_calls_may_come_together(self) -> None:
        # From threads: which of them comes first is nobody's promise.
        store = self.make_store()
        said = [f"m{n}" for n in range(10)]
        await asyncio.gather(*(store.add_message("s", "user", text) for text in said))
        stored = [message.content for message in await store.get_messages("s")]
        assert sorted(map(str, stored)) == said
        await store.aclose()


class TestSyncInMemorySessionStore(SyncConformance):
    def make_store(self, **options: Any) -> SessionStore:
        return async_view(SyncSessionStore(InMemorySessionStore(**options)))


class TestSyncJSONLinesSessionStore(SyncConformance):
    def make_store(self, **options: Any) -> SessionStore:
        directory = self.tmp_path / "sessions"
        return async_view(SyncSessionStore(JSONLinesSessionStore(directory, **options)))
