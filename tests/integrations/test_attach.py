"""A sync agent with a store of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from asyncsessions.integrations.praisonai import attach
from asyncsessions.sync import SyncSessionStore, open_store
from tests.integrations.conftest import NewAgent
from tests.integrations.model import Model, calls, says

ROUND = calls(("c1", "add", {"a": 1, "b": 2}), ("c2", "add", {"a": 3, "b": 4}))


def tool_turn(call_id: str, arguments: str, result: str) -> list[dict[str, Any]]:
    function = {"name": "add", "arguments": arguments}
    call = {"id": call_id, "type": "function", "function": function}
    return [
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": result, "tool_call_id": call_id},
    ]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SyncSessionStore]:
    with open_store(f"json://{tmp_path}/sessions") as store:
        yield store


def test_a_turn_is_stored_and_restored_with_its_tool_calls(
    new_agent: NewAgent, model: Model, store: SyncSessionStore
) -> None:
    model.script += [ROUND, says("3 and 7")]
    agent = new_agent()
    with attach(agent, store, "s"):
        assert agent.chat("Add") == "3 and 7"
    expected = [
        {"role": "user", "content": "Add"},
        *tool_turn("c1", '{"a": 1, "b": 2}', "3"),
        *tool_turn("c2", '{"a": 3, "b": 4}', "7"),
        says("3 and 7"),
    ]
    assert store.get_chat_history("s") == expected

    agent = new_agent()
    with attach(agent, store, "s"):
        agent.chat("Thanks")
    assert model.told() == [*expected, {"role": "user", "content": "Thanks"}]
