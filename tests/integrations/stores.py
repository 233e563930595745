"""Stores that misbehave, or count."""

from __future__ import annotations

from collections import Counter
from typing import Any

from asyncsessions.errors import StoreUnavailableError

__all__ = ["CountingStore", "FailingStore", "tool_turn"]


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
