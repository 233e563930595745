"""The conformance suite, run for every store that this library ships."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from asyncsessions.protocols import SessionStore
from asyncsessions.stores.json import JSONSessionStore
from asyncsessions.stores.jsonl import JSONLinesSessionStore
from asyncsessions.stores.memory import InMemorySessionStore
from asyncsessions.testing import DamageConformance, SharedStoreConformance, StoreConformance
from asyncsessions.testing.reopening import ReopenCases, TwoStoreCases
from asyncsessions.testing.timing import LONG_ENOUGH


def overwrite_middle(path: Path) -> None:
    """Put bytes that are neither JSON nor zeros in the middle of a file."""
    fd = os.open(path, os.O_WRONLY)
    try:
        os.pwrite(fd, b'"\xff}{', path.stat().st_size // 2)
    finally:
        os.close(fd)


class TestInMemorySessionStore(StoreConformance):
    def make_store(self, **options: Any) -> SessionStore:
        return InMemorySessionStore(**options)


class TestJSONLinesSessionStore(SharedStoreConformance, DamageConformance):
    def make_store(self, **options: Any) -> SessionStore:
        return JSONLinesSessionStore(
            self.tmp_path / "sessions", lock_timeout=LONG_ENOUGH, **options
        )

    def store_url(self) -> str:
        return f"jsonl://{self.tmp_path / 'sessions'}?lock_timeout={LONG_ENOUGH:g}"

    def damage(self, session_id: str) -> None:
        overwrite_middle(self.tmp_path / "sessions" / f"{session_id}.jsonl")


class TestJSONLinesSessionStoreWithoutSync(TwoStoreCases, ReopenCases):
    def make_store(self, **options: Any) -> SessionStore:
        options |= {"lock_timeout": LONG_ENOUGH, "durability": "os"}
        return JSONLinesSessionStore(self.tmp_path / "sessions", **options)


class TestJSONSessionStore(SharedStoreConformance, DamageConformance):
    # One document for each session: what is written costs as much as what is there.
    max_cost_growth = 1000.0

    def make_store(self, **options: Any) -> SessionStore:
        return JSONSessionStore(self.tmp_path / "sessions", lock_timeout=LONG_ENOUGH, **options)

    def store_url(self) -> str:
        return f"json://{self.tmp_path / 'sessions'}?lock_timeout={LONG_ENOUGH:g}"

    def damage(self, session_id: str) -> None:
        overwrite_middle(self.tmp_path / "sessions" / f"{session_id}.json")
