"""PraisonAI's session objects, translated."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncsessions import InMemorySessionStore
from asyncsessions._praisonai import Directory, from_praisonai
from asyncsessions._praisonai.parsing import checked
from asyncsessions._praisonai.spill import put_back
from asyncsessions._praisonai.transcript import stands_for, transcript


def said(text: str, time: float = 0.0, **more: Any) -> dict[str, Any]:
    return {"role": "user", "content": text, "timestamp": time, "metadata": {}, **more}


def summary(text: str, count: int | None = None) -> dict[str, Any]:
    metadata = {} if count is None else {"compaction": True, "compacted_count": count}
    return said(f"[Session Summary]\n{text}", 9.5, role="system", metadata=metadata)


def counted(*counts: int) -> str:
    """Return a summary's text; after each count comes what roles the messages had."""
    lines = [
        f"Previous conversation: {count} messages\nMessage breakdown: {{'user': {count}}}"
        for count in counts
    ]
    return "\n---\n".join(lines)


def texts(messages: list[dict[str, Any]]) -> str:
    return " ".join(message["content"] for message in messages)


def archived(*contents: str | dict[str, Any]) -> list[dict[str, Any]]:
    return [said(each) if isinstance(each, str) else each for each in contents]


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (summary(counted(1), 7), 7),
        (summary(counted(1)), 1),
        (summary(counted(3, 1, 12)), 16),
        (summary("Previous conversation: 4 messages compacted."), 4),
        (summary("12 earlier messages are archived."), 12),
        (summary("They spoke of 12 messages."), None),
        (said("Previous conversation: 4 messages"), None),
        ({"role": "system", "content": None}, None),
    ],
)
def test_what_a_summary_stands_for(message: dict[str, Any], expected: int | None) -> None:
    assert stands_for(message) == expected


@pytest.mark.parametrize(
    ("archive", "active", "messages", "cleared", "covered"),
    [
        (archived(), archived("a", "b"), "a b", "", None),
        (archived("a", "b"), [summary("", 2), said("c")], "a b c", "", 2),
        (archived("x", "a", "b"), [summary("", 2), said("c")], "a b c", "x", 2),
        # Cleared, and not compacted since.
        (archived("x", "y"), archived("a"), "a", "x y", None),
        (archived("x", "y"), [], "", "x y", None),
        # A bot wrote the history back, so that a summary was archived as a message.
        (
            archived("x", "a", "b", summary(counted(1, 1)), "c"),
            [summary(counted(2)), said("d")],
            "a b c d",
            "x",
            3,
        ),
    ],
)
def test_archived_messages_come_back_to_their_place(
    archive: list[dict[str, Any]],
    active: list[dict[str, Any]],
    messages: str,
    cleared: str,
    covered: int | None,
) -> None:
    found = transcript({"messages": active, "archived_messages": archive})

    assert texts(found.messages) == messages
    assert [message["seq"] for message in found.messages] == [
        number + 1 for number in range(len(found.messages))
    ]
    assert texts(found.cleared) == cleared
    assert (found.checkpoint or {}).get("seq") == covered


def test_a_summary_of_messages_that_are_gone_is_kept() -> None:
    # A fork has no archive, and has gone on since.
    active = [summary(counted(5, 1), 6), said("c")]

    found = transcript({"messages": active, "archived_messages": archived("b")})

    assert [message["role"] for message in found.messages] == ["system", "user", "user"]
    assert texts(found.messages[1:]) == "b c"
    assert found.checkpoint is not None
    assert (found.checkpoint["seq"], found.checkpoint["summary"]) == (2, active[0]["content"])
    assert transcript({"messages": active}).messages[0]["content"] == active[0]["content"]
    assert transcript({"messages": active}).checkpoint is None


@pytest.mark.parametrize(("index", "covered"), [(0, 2), (1, 2), (2, 3), (3, 4), (9, 4)])
def test_a_checkpoint_follows_its_message(index: int, covered: int) -> None:
    data = {
        "messages": [summary("", 2), said("c"), "not a message", said("d")],
        "archived_messages": archived("a", "b"),
        "last_compaction": {"summary": "S", "message_index": index + (index > 1)},
    }

    found = transcript(data)

    assert texts(found.messages) == "a b c d"
    assert found.checkpoint is not None
    assert (found.checkpoint["summary"], found.checkpoint["seq"]) == ("S", covered)


def test_values_of_the_wrong_type_are_converted_or_kept() -> None:
    (session,) = from_praisonai(
        {
            "session_id": "s",
            "messages": [
                {"role": 7, "content": 8, "timestamp": "yesterday", "metadata": ["x"]},
                {"role": "", "tool_calls": {"id": "c"}, "timestamp": "5.5"},
                {"role": "tool", "content": "x", "tool_call_id": 3, "timestamp": 10**400},
            ],
            "metadata": {"praisonai": "mine", "title": "one"},
            "title": "another",
            "workspace": "/w",
        }
    )

    first, second, third = session["messages"]
    assert (first["role"], first["content"], first["timestamp"]) == ("7", "8", 0.0)
    assert first["metadata"] == {"praisonai": ["x"], "timestamp": "yesterday"}
    assert (second["role"], second["tool_calls"], second["timestamp"]) == (
        "user",
        [{"id": "c"}],
        5.5,
    )
    assert (third["tool_call_id"], third["timestamp"]) == ("3", 0.0)
    assert session["metadata"] == {
        "title": "one",
        "praisonai": {"": "mine", "title": "another", "workspace": "/w"},
    }


def snapshots(*given: dict[str, Any], **more: Any) -> list[dict[str, Any]]:
    data = {"session_id": "s", "messages": archived("a", "b", "c"), "snapshots": [*given]}
    return from_praisonai(data | more)


def noted(sessions: list[dict[str, Any]]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = sessions[0]["metadata"]["praisonai"]["snapshots"]
    return found


def test_a_snapshot_that_is_the_beginning_is_a_number() -> None:
    transcripts = {"messages": archived("a", "b"), "last_compaction": {"summary": "S"}}

    sessions = snapshots(
        {"id": "1", "message_index": 1, "invalidated": True},
        {"id": "2", "message_index": -1},
        {"id": "3", "transcript": transcripts},
    )

    assert len(sessions) == 1
    first, second, third = noted(sessions)
    assert first == {"id": "1", "seq": 2, "invalidated": True}
    assert second == {"id": "2", "seq": 0}
    assert (third["seq"], third["checkpoint"]["summary"]) == (2, "S")


def test_another_snapshot_is_a_session_with_its_own_archive() -> None:
    transcripts = {"messages": archived("x"), "archived_messages": archived("old")}

    session, snapshot, archive = snapshots({"id": "1", "label": "L", "transcript": transcripts})

    assert noted([session]) == [{"id": "1", "label": "L", "session_id": "s@snapshot-1"}]
    assert (snapshot["session_id"], texts(snapshot["messages"])) == ("s@snapshot-1", "x")
    assert snapshot["metadata"] == {"title": "L", "praisonai": {"snapshot_of": "s"}}
    assert (archive["session_id"], texts(archive["messages"])) == ("s@snapshot-1@archive", "old")


@pytest.mark.parametrize(
    "storage",
    [None, {"version": 1}, {"version": 1, "records": {"0": None}}, {"records": []}],
    ids=["none", "empty", "a record is missing", "another type"],
)
def test_a_snapshot_that_is_damaged_is_kept_as_it_is(storage: Any) -> None:
    refs = {
        "messages": {"items": ["5"]},
        "archived_messages": {"items": []},
        "last_compaction": {"value": "0"},
    }
    given = {"id": "1", "transcript_refs": refs, "invalidated": True}

    sessions = snapshots(given, snapshot_storage=storage)

    assert len(sessions) == 1
    assert noted(sessions) == [given]
    assert sessions[0]["metadata"]["praisonai"]["snapshot_storage"] == storage


@pytest.mark.parametrize(
    ("time", "expected", "index"),
    [(1.5, "x a b", 2), (2.5, "a x b", 1), (3.5, "a b x", 1), (0.0, "a b x", 1)],
)
def test_a_message_that_was_set_aside_goes_where_its_time_says(
    time: float, expected: str, index: int
) -> None:
    data = {
        "messages": [said("a", 2.0), said("b", 3.0)],
        "archived_messages": [said("old", 1.0)],
        "last_compaction": {"summary": "S", "message_index": 1},
    }

    found = put_back(data, [said("x", time), said("x", time), said("b", 3.0), said("old", 1.0)])

    assert texts(found["messages"]) == expected
    assert found["last_compaction"]["message_index"] == index
    assert texts(data["messages"]) == "a b"  # type: ignore[arg-type]  # it is a list


def test_a_summary_stays_in_front_of_what_was_set_aside() -> None:
    data = {"messages": [summary("", 1), said("a", 5.0)]}

    found = put_back(data, [said("x", 4.0)])

    assert [message["content"] for message in found["messages"]][1:] == ["x", "a"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)
TIME = st.floats(0, 10) | JSON


def objects(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Return objects that are mostly of the format; any field may be missing or anything."""
    return st.fixed_dictionaries({}, optional={key: each | JSON for key, each in fields.items()})


MESSAGE = objects(
    role=st.sampled_from(["user", "system", "tool"]),
    content=st.text() | st.sampled_from(["[Session Summary]\n2 earlier messages are archived."]),
    timestamp=TIME,
    metadata=objects(compaction=st.booleans(), compacted_count=st.integers(0, 4)),
    tool_calls=JSON,
    tool_call_id=JSON,
    name=JSON,
    seq=JSON,
)
MESSAGES = st.lists(MESSAGE | JSON, max_size=4)
CHECKPOINT = objects(summary=st.text(), message_index=st.integers(-1, 5), role=st.text())
KEYS = st.sampled_from(["0", "1", "2"])
REFS = objects(
    messages=objects(items=st.lists(KEYS)),
    archived_messages=objects(items=st.lists(KEYS)),
    last_compaction=objects(value=KEYS),
)
SNAPSHOT = objects(
    id=st.text(max_size=3),
    message_index=st.integers(-1, 4),
    transcript=objects(messages=MESSAGES, archived_messages=MESSAGES, last_compaction=CHECKPOINT),
    transcript_refs=REFS,
)
SESSION = objects(
    messages=MESSAGES,
    archived_messages=MESSAGES,
    last_compaction=CHECKPOINT,
    created_at=TIME,
    metadata=JSON,
    snapshots=st.lists(SNAPSHOT | JSON, max_size=3),
    snapshot_storage=objects(records=st.dictionaries(KEYS, MESSAGE)),
    title=JSON,
    total_input_tokens=JSON,
    agent_name=JSON,
)


@settings(deadline=None)
@given(SESSION)
async def test_no_file_stops_the_others(data: dict[str, Any]) -> None:
    data = json.loads(json.dumps(data)) | {"session_id": "s"}
    try:
        data = checked(data, Path("s.json"), None)
    except ValueError:
        # It is named, and left out.
        return
    sessions = from_praisonai(put_back(data, [said("x", 1.0)]))
    async with InMemorySessionStore() as store:
        report = await store.import_sessions(sessions)
        assert report.imported + report.skipped_count == len(sessions)


def test_a_file_that_is_deleted_meanwhile_is_no_damage(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / f"{name}.json").write_text(f'{{"session_id": "{name}"}}', encoding="utf-8")
    directory = Directory(tmp_path)
    list(directory.look_through())
    (tmp_path / "a.json").unlink()

    found = [session["session_id"] for sessions, _ in directory for session in sessions]

    assert (found, directory.damaged) == (["b"], [])


@pytest.mark.parametrize(
    ("text", "detail"),
    [
        ("[" * 100_000, "nested too deep"),
        (f'{{"session_id": "a", "cost": {"9" * 5000}}}', "a number that is too long"),
        ('{"session_id": "a", "archived_messages": 5}', '"archived_messages" is a list'),
    ],
)
def test_what_cannot_be_parsed_is_named(tmp_path: Path, text: str, detail: str) -> None:
    (tmp_path / "a.json").write_text(text, encoding="utf-8")
    directory = Directory(tmp_path)
    list(directory.look_through())

    assert [sessions for sessions, _ in directory if sessions] == []

    (error,) = directory.damaged
    assert detail in str(error)


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    spill = tmp_path / "state" / "session_spill"
    spill.mkdir(parents=True)
    (tmp_path / "sessions").mkdir()
    for path in (spill / "a.json", tmp_path / "sessions" / "a.json"):
        path.symlink_to("/proc/self/mem")
    directory = Directory(tmp_path / "sessions")

    list(directory.look_through())

    assert [str(error).split(": ")[1] for error in directory.damaged] == ["can't be read"] * 2
