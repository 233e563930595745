"""The records of the original's API: defaults, dicts and windows."""

from __future__ import annotations

import time
from typing import Any

import pytest

from asyncsessions.sync import (
    CompactionCheckpoint,
    ImportReport,
    SessionData,
    SessionHit,
    SessionMessage,
    SessionSummary,
)

CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}


def session(*roles: str, checkpoint: int | None = None) -> SessionData:
    messages = [SessionMessage(role, str(place)) for place, role in enumerate(roles, 1)]
    given = SessionData("s", messages)
    if checkpoint is not None:
        given.last_compaction = CompactionCheckpoint("S", checkpoint)
    return given


def texts(history: list[dict[str, Any]]) -> str:
    return "".join(each["content"] for each in history)


def test_a_message_and_its_dict() -> None:
    message = SessionMessage("assistant", None, 1.0, {"k": 1}, [CALL], "c")
    data = {"role": "assistant", "content": None, "timestamp": 1.0, "metadata": {"k": 1}}
    assert message.to_dict() == {**data, "tool_calls": [CALL], "tool_call_id": "c"}
    assert list(message.to_dict())[:4] == list(data)
    assert SessionMessage.from_dict(message.to_dict()) == message
    chat = {"role": "assistant", "content": None, "tool_calls": [CALL], "tool_call_id": "c"}
    assert message.to_llm_message() == chat
    assert SessionMessage("user", "x", 1.0, tool_calls=[]).to_dict() == {
        "role": "user",
        "content": "x",
        "timestamp": 1.0,
        "metadata": {},
    }


def test_what_a_message_lacks_gets_its_default() -> None:
    message = SessionMessage.from_dict({"unknown": 1})
    assert (message.role, message.content, message.metadata) == ("user", "", {})
    assert abs(message.timestamp - time.time()) < 60
    assert SessionMessage.from_dict({"metadata": None}).metadata is None


def test_a_session_and_its_dict() -> None:
    given = session("user")
    given.metadata = {"model": "m", "other": 1}
    given.archived_messages = [SessionMessage("user", "old", 1.0)]
    given.last_compaction = CompactionCheckpoint("S", 1, tokens_before=2)
    data = given.to_dict()
    assert list(data) == [
        "session_id",
        "messages",
        "created_at",
        "updated_at",
        "agent_name",
        "user_id",
        "metadata",
        "gateway_session_id",
        "agent_id",
        "runtime_state",
        "archived_messages",
        "last_compaction",
        "model",
    ]
    assert SessionData.from_dict(data) == given
    assert "last_compaction" not in session().to_dict()


def test_a_session_of_another_programs_dict() -> None:
    given = SessionData.from_dict(
        {
            "messages": [{"content": "1"}, None, "no", {"content": "2"}],
            "archived_messages": None,
            "runtime_state": None,
            "metadata": {"model": "mine"},
            "model": "theirs",
            "cost": 1.5,
            "last_compaction": {"summary": "S", "message_index": 3},
        }
    )
    assert given.session_id == ""
    assert [each.content for each in given.messages] == ["1", "2"]
    assert (given.archived_messages, given.runtime_state) == ([], {})
    assert given.metadata == {"model": "mine", "cost": 1.5}
    assert given.last_compaction is not None
    assert given.last_compaction.message_index == 1
    assert given.last_compaction.as_message() == {"role": "system", "content": "S"}
    assert given.created_at.endswith("+00:00")


@pytest.mark.parametrize(
    ("limit", "expected"),
    [(None, "1234"), (0, "1234"), (4, "1234"), (3, "4"), (2, "4"), (1, "4"), (-2, "")],
)
def test_a_history_does_not_start_with_a_result(limit: int | None, expected: str) -> None:
    given = session("assistant", "tool", "tool", "user")
    assert texts(given.get_chat_history(limit)) == expected
    assert texts(given.get_working_history(limit)) == expected


@pytest.mark.parametrize(
    ("limit", "expected"), [(None, "S345"), (4, "S345"), (3, "S5"), (2, "S5"), (1, "S"), (-1, "S")]
)
def test_a_working_history_keeps_its_summary(limit: int | None, expected: str) -> None:
    given = session("user", "user", "assistant", "tool", "user", checkpoint=2)
    assert texts(given.get_working_history(limit)) == expected


@pytest.mark.parametrize("index", [9, -1])
def test_a_checkpoint_out_of_range(index: int) -> None:
    expected = "S" if index > 0 else "S12"
    assert texts(session("user", "user", checkpoint=index).get_working_history()) == expected


@pytest.mark.parametrize(("kept", "expected", "index"), [(5, "1234", 3), (2, "34", 1), (0, "", 0)])
def test_trimming_moves_the_checkpoint(kept: int, expected: str, index: int) -> None:
    given = session("user", "user", "user", "user", checkpoint=3)
    given.trim_messages(kept)
    assert texts(given.get_chat_history()) == expected
    assert given.last_compaction is not None
    assert given.last_compaction.message_index == index


def test_hits_summaries_and_reports_as_dicts() -> None:
    hit = SessionHit("s")
    assert hit.as_dict() == {
        "session_id": "s",
        "title": "",
        "when": None,
        "snippet": "",
        "score": 0.0,
        "anchor_index": -1,
        "messages": [],
    }
    hit.bookends = {"opening": []}
    assert hit.as_dict()["bookends"] == {"opening": []}
    summary = {"session_id": "s", "title": "", "when": None, "message_count": 0}
    assert SessionSummary("s").as_dict() == summary
    report = ImportReport(1, [{"session_id": "s", "reason": "r"}])
    assert report.as_dict() == {
        "imported": 1,
        "skipped": [{"session_id": "s", "reason": "r"}],
        "skipped_count": 1,
        "version": 1,
    }
