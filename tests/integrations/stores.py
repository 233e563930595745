"""Stores that misbehave, or count."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from praisonaiagents.session.store import DefaultSessionStore, SessionMessage

from asyncsessions.errors import StoreUnavailableError

__all__ = ["CombiningStore", "CountingStore", "FailingStore", "tool_turn"]


class CountingStore:
    """Counts the calls that go to a store."""

    def __init__(self, store: Any) -> None:
        self._store = store
        self.calls: Counter[str] = Counter()

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._store, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            self.calls[name] += 1
            return attribute(*args, **kwargs)

        return call


class FailingStore:
    """Refuses some calls of a store, sync or async; the others go through."""

    def __init__(self, store: Any) -> None:
        self._store = store
        self.refused: set[str] = set()

    def __getattr__(self, name: str) -> Any:
        return _refuse if name in self.refused else getattr(self._store, name)


def _refuse(*args: Any, **kwargs: Any) -> None:
    raise StoreUnavailableError("scripted failure")


def tool_turn(call_id: str, arguments: str, result: str, name: str = "add") -> list[dict[str, Any]]:
    function = {"name": name, "arguments": arguments}
    call = {"id": call_id, "type": "function", "function": function}
    return [
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": result, "tool_call_id": call_id},
    ]


class CombiningStore(DefaultSessionStore):  # type: ignore[misc]  # PraisonAI has no types
    """PraisonAI's own store, but with messages and metadata in one write; it counts its work."""

    def __init__(self, directory: Path) -> None:
        super().__init__(str(directory), retention="keep_all")
        self.work: Counter[str] = Counter()

    def _load_session_from_disk(self, *args: Any) -> Any:
        self.work["parses"] += 1
        return super()._load_session_from_disk(*args)

    def _atomic_write_json(self, *args: Any) -> Any:
        self.work["rewrites"] += 1
        return super()._atomic_write_json(*args)

    def append_with_metadata(
        self,
        session_id: str,
        messages: Sequence[dict[str, Any]],
        metadata: dict[str, Any],
        *,
        idempotency_key: str | None = None,
    ) -> bool:
        def change(session: Any) -> None:
            session.messages += map(SessionMessage.from_dict, messages)
            session.metadata |= metadata

        stored: bool = self._modify_session_locked(session_id, change, error_label="append")
        return stored
