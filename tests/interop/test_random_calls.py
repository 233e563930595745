"""PraisonAI's `DefaultSessionStore` and this library's: any calls have the same results."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from asyncsessions import sync
from tests.interop.test_default_store import CALL, Step, call, documents, original, result

# PraisonAI's own imports warn.
pytestmark = [pytest.mark.interop, pytest.mark.filterwarnings("ignore")]

STEPS = 60
IDS = ["s", "t", "user:1", "a b"]
TEXTS = ["yo", "hello world", "", "deploy plan", "ü", None]
METADATA: list[dict[str, Any] | None] = [
    None,
    {"k": 1},
    {"model": "turn"},
    {"partial": True},
    {"name": "n"},
    {"deep": {"a": [1, None]}},
]
FIELDS: list[dict[str, Any]] = [
    {},
    {"model": "m"},
    {"llm": "l"},
    {"agent_name": "N"},
    {"agent_id": "A", "user_id": "U"},
    {"x": [1, {"a": 2}]},
    {"total_tokens": 5, "cost": 0.5},
    {"source": "cron"},
    {"parent_id": "p", "agent_key": "k", "parent_session_id": "q"},
]
OPTIONS: list[dict[str, Any]] = [
    {},
    {"max_messages": 4},
    {"active_window": 5},
    {"max_messages": 3, "retention": "keep_all"},
    {"active_window": 3, "max_messages": 7, "retention": "compact"},
    {"active_window": 0},
]


class Calls:
    """Picks calls; what the two stores are known to do differently isn't among them.

    That is: results without their call, two sessions with one gateway session, a metadata write
    that changes nothing where retention has something to do, a discarded turn that a checkpoint
    covers.

    Args:
        seed: Decides which.
    """

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def __call__(self) -> Step:
        pick = self._random.choice
        make = pick([self._message, self._message, self._history, self._record, self._read])
        return make(pick(IDS))

    def _message(self, session_id: str) -> Step:
        pick = self._random.choice
        text, metadata = pick(TEXTS), pick(METADATA)
        calls = pick([None, None, [CALL], []])
        is_final = pick([True, False, False])
        return pick(
            [
                call("add_message", session_id, pick(["user", "system"]), text, metadata),
                call("add_message", session_id, "assistant", text, metadata, calls),
                call("add_user_message", session_id, text),
                call("upsert_partial_assistant_message", session_id, text or "", finalize=is_final),
            ]
        )

    def _history(self, session_id: str) -> Step:
        pick = self._random.choice
        turns: list[dict[str, Any]] = [
            {"role": pick(["user", "assistant"]), "content": pick(TEXTS)}
            | pick([{}, {"timestamp": 5.0}, {"metadata": {"a": 1}}, {"tool_calls": [CALL]}])
            for _ in range(pick(range(8)))
        ]
        exported = {"session_id": session_id, "messages": turns[:3], "agent_id": "A"}
        return pick(
            [
                call("set_chat_history", session_id, turns),
                call("clear_session", session_id),
                call("delete_session", session_id),
                call("import_sessions", {"sessions": [exported]}, overwrite=pick([True, False])),
            ]
        )

    def _record(self, session_id: str) -> Step:
        pick = self._random.choice
        return pick(
            [
                call("append_compaction_checkpoint", session_id, pick(["S", " "]), role="user"),
                call("update_session_metadata", session_id, **pick(FIELDS)),
                call("merge_session_metadata_map", session_id, pick("mx"), {"a": pick([1, 2])}),
                call("rename_session", session_id, pick(["T", "", " q "])),
                call("set_agent_info", session_id, pick([None, "N", ""]), pick([None, "U"])),
                call("set_gateway_info", session_id, pick([None, session_id]), pick([None, "A"])),
                call("set_runtime_state", session_id, pick("ab"), pick("12"), {"x": [1]}),
                call("clear_runtime_state", session_id, pick([None, "a"])),
            ]
        )

    def _read(self, session_id: str) -> Step:
        pick = self._random.choice
        limit = pick([None, 0, 1, 2, 3, 5])
        return pick(
            [
                call("get_chat_history", session_id, limit),
                call("get_working_history", session_id, limit),
                call("get_session", session_id),
                call("get_session_model", session_id),
                call("get_by_gateway_session", session_id),
                call("get_runtime_state", session_id, "a", pick([None, "1"])),
                call("window", session_id, pick([None, "1", 0, "x"]), window=pick([0, 2])),
                call("search", pick(["yo", "hello world", "deploy", "zz"]), window=1),
                call("export_all"),
            ]
        )


def unordered(found: Any) -> Any:
    """Return what is found in the order of the files without that order."""
    if isinstance(found, dict) and "sessions" in found:
        found = found["sessions"]
    return sorted(json.dumps(each, sort_keys=True) for each in found)


@pytest.mark.parametrize("seed", range(3 * len(OPTIONS)))
def test_any_calls_have_the_same_results(directory: Path, seed: int) -> None:
    pick, options = Calls(seed), OPTIONS[seed % len(OPTIONS)]
    theirs, ours = directory / "theirs", directory / "ours"
    stores = (
        original("DefaultSessionStore")(str(theirs), **options),
        sync.DefaultSessionStore(str(ours), **options),
    )
    for number in range(STEPS):
        step = pick()
        expected, got = (result(store, step) for store in stores)
        if step[0] in {"search", "export_all"}:
            expected, got = unordered(expected), unordered(got)
        assert got == expected, f"step {number}: {step}"
        assert documents(ours) == documents(theirs), f"after step {number}: {step}"
