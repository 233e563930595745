"""``import`` of what PraisonAI leaves on a disk; ``data/praisonai`` was written by PraisonAI."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from asyncsessions import BaseSessionStore
from tests.cli.helpers import DATA, bad, call, contents, digests, exported, good, with_store

SAMPLE = DATA.parent / "praisonai"
IDS = {
    "bot_ann",
    "cleared",
    "cleared@archive",
    "cli-1",
    "fork",
    "gate",
    "inline",
    "long",
    "long@projects/web-1a2b/long.json",
    "page",
    "planned",
    "tree",
    "twice",
    "twice@twice.json",
    "user:ann",
}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Return a copy of PraisonAI's home directory."""
    return Path(shutil.copytree(SAMPLE, tmp_path / "home"))


def told(url: str, session_id: str) -> list[Any]:
    """Return the contents of a session's working history."""

    async def read(store: BaseSessionStore) -> list[Any]:
        return [message["content"] for message in await store.get_working_history(session_id)]

    return with_store(url, read)


def test_all_sessions_of_a_directory_come_into_every_store(url: str, home: Path) -> None:
    before = digests(home)

    result = good("import", home / "sessions", "--store", url, "--json").json

    assert (result["imported"], result["messages"]) == (17, 69)
    assert (result["skipped"], result["damaged"], result["verified"]) == ([], [], True)
    found = exported(url)
    assert {sid for sid in found if "@snapshot-" not in sid} == IDS
    assert digests(home) == before

    again = good("import", home / "sessions", "--store", url, "--json").json

    assert (again["imported"], again["messages"]) == (0, 0)
    assert {skip["reason"] for skip in again["skipped"]} == {"it exists"}
    assert exported(url) == found


def test_the_report_says_what_was_done(home: Path, target: str) -> None:
    result = call("import", home / "sessions", "--store", target)
    again = call("import", home / "sessions", "--store", target)

    project = "projects/web-1a2b/long.json"
    assert result.err.splitlines() == [
        f"note: {project} holds another 'long': now 'long@{project}'",
        "note: twice.json holds another 'twice': now 'twice@twice.json'",
        "note: 'user:ann' has messages again that PraisonAI had set aside",
        "note: 3 older copies were left aside: a newer session has all of its messages",
    ]
    assert result.out == (
        f"imported 17 sessions with 69 messages into {target}; all read back the same\n"
    )
    assert again.out.splitlines()[1] == "17 sessions were there before, with all messages"


def test_a_session_keeps_everything(home: Path, target: str) -> None:
    call("import", home / "sessions", "--store", target)

    record = exported(target)["user:ann"]

    # The last one is in the database only, the second one was set aside.
    assert contents(record) == [
        "Is it cold in Tromsø? ☁",
        "Hello?",
        None,
        "3 degrees, rain",
        "3 degrees and rain.",
        "And tomorrow?",
    ]
    assert record["messages"][2]["tool_calls"][0]["id"] == "call-1"
    assert record["messages"][3]["tool_call_id"] == "call-1"
    assert record["messages"][4]["metadata"] == {"model": "small"}
    assert (record["agent_name"], record["user_id"]) == ("Weather bot", "ann")
    assert record["metadata"] == {
        "model": "small",
        "total_tokens": 120,
        "cost": 0.002,
        "source": "chat",
        "title": "Tromsø",
        "praisonai": {"runtime_state": {"loop": {"t1": {"step": 2}}}},
    }


@pytest.mark.parametrize(
    ("session_id", "working", "count"),
    [
        (
            "long",
            [
                "[Session Summary]\n5 earlier messages are archived.",
                *[f"turn {n}" for n in range(6, 10)],
            ],
            9,
        ),
        ("planned", ["They made a plan.", "plan 8"], 8),
        (
            "cleared",
            [
                "[Session Summary]\n2 earlier messages are archived.",
                *[f"new {n}" for n in range(3, 7)],
            ],
            6,
        ),
        (
            "bot_ann",
            [
                "[Session Summary]\n6 earlier messages are archived.",
                *["ask 4", "answer 4", "ask 5", "answer 5"],
            ],
            10,
        ),
    ],
)
def test_archived_messages_come_first_and_the_working_history_is_the_same(
    home: Path, target: str, session_id: str, working: list[str], count: int
) -> None:
    call("import", home / "sessions", "--store", target)

    record = exported(target)[session_id]

    assert told(target, session_id) == working
    assert len(record["messages"]) == count
    assert not any("[Session Summary]" in text for text in contents(record))


def test_what_was_cleared_is_a_session_of_its_own(home: Path, target: str) -> None:
    call("import", home / "sessions", "--store", target)

    record = exported(target)["cleared@archive"]

    assert contents(record) == ["old 1", "old 2"]
    assert record["metadata"] == {"praisonai": {"archive_of": "cleared"}}


@pytest.mark.parametrize("session_id", ["tree", "inline"])
def test_snapshots_are_kept(home: Path, target: str, session_id: str) -> None:
    call("import", home / "sessions", "--store", target)

    found = exported(target)

    first, second, *others = found[session_id]["metadata"]["praisonai"]["snapshots"]
    assert (first["label"], first["seq"]) == ("first two", 3)
    assert (second["label"], second["metadata"]) == ("all four", {"why": "to compare"})
    snapshot = found[second["session_id"]]
    assert contents(snapshot) == ["branch 1", "branch 2", "branch 3", "branch 4"]
    assert snapshot["metadata"]["praisonai"] == {"snapshot_of": session_id}
    assert [other["seq"] for other in others] == [2] * (session_id == "inline")
    assert contents(found[session_id])[3:] == ["another branch 4"]


def test_lineage_and_counts_are_kept(home: Path, target: str) -> None:
    call("import", home / "sessions", "--store", target)

    found = exported(target)

    lineage = {"parent_id": "tree", "forked_from_message_id": "1"}
    assert found["fork"]["metadata"] == {"title": "A fork", "praisonai": lineage}
    assert found["page"]["metadata"] == {"praisonai": {"project": "web-1a2b"}}
    assert (found["gate"]["gateway_session_id"], found["gate"]["agent_id"]) == ("gw-7", "agent-7")
    counts = found["cli-1"]["metadata"]
    assert (counts["model"], counts["total_tokens"], counts["cost"]) == ("small", 840, 0.0125)
    assert counts["praisonai"]["workspace"] == "/home/ann/web"
    assert found["cli-1"]["messages"][1]["timestamp"] - found["cli-1"]["created_at"] > 60


def test_where_two_places_differ_both_are_kept(home: Path, target: str) -> None:
    call("import", home / "sessions", "--store", target)

    found = exported(target)

    assert contents(found["twice"]) == ["At first", "In the database"]
    assert contents(found["twice@twice.json"]) == ["At first", "In the file"]
    assert contents(found["long@projects/web-1a2b/long.json"]) == ["A project's own"]


def test_of_two_places_at_one_time_the_longer_one_counts(tmp_path: Path, target: str) -> None:
    messages = [{"role": "user", "content": text, "timestamp": 1.5} for text in ("a", "b")]
    for path, count in ("s.json", 1), ("projects/p/s.json", 2):
        file = tmp_path / "home" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        record = {"session_id": "s", "messages": messages[:count]}
        file.write_text(json.dumps(record | {"updated_at": "2026-11-01T00:00:00+00:00"}))

    assert call("import", tmp_path / "home", "--store", target).code == 0

    found = exported(target)
    assert {name: contents(found[name]) for name in found} == {"s": ["a", "b"]}


def test_a_database_alone_is_imported(home: Path, target: str) -> None:
    result = good("import", home / "sessions" / "sessions.db", "--store", target, "--json").json

    assert (result["imported"], result["notes"]) == (5, [])
    assert exported(target).keys() == {"gate", "user:ann", "tree", "long", "twice"}


def test_what_is_no_session_is_passed_over(tmp_path: Path, target: str) -> None:
    directory = tmp_path / "sessions"
    directory.mkdir()
    (directory / "a.json").write_text('{"session_id": "a", "messages": null}', encoding="utf-8")
    for name in ("a.json.lock", "tmpab12cd34.tmp", ".last_session", "sessions_index.db"):
        (directory / name).write_text("what", encoding="utf-8")
    (directory / "b.json").mkdir()
    quarantined = directory / "b.json.corrupt-1795278303049-1"
    quarantined.write_text('{"sess', encoding="utf-8")

    result = call("import", directory, "--store", target, "--json")

    assert (result.code, result.json["imported"], result.json["skipped"]) == (0, 1, [])
    text = f"{quarantined}: PraisonAI set this file aside as damaged"
    assert result.json["damaged"] == [text]


def test_a_file_for_the_empty_id_is_imported(tmp_path: Path, target: str) -> None:
    (tmp_path / "sessions").mkdir()
    text = '{"session_id": "", "messages": [{"role": "user", "content": "x"}]}'
    (tmp_path / "sessions" / ".json").write_text(text, encoding="utf-8")

    good("import", tmp_path / "sessions", "--store", target)

    assert exported(target).keys() == {"@.json"}


def test_messages_that_were_set_aside_make_a_session(tmp_path: Path, target: str) -> None:
    spill = tmp_path / "state" / "session_spill"
    spill.mkdir(parents=True)
    (tmp_path / "sessions").mkdir()
    (tmp_path / "sessions" / "a.json").write_text('{"session_id": "a"}', encoding="utf-8")
    (tmp_path / "sessions" / "lost.json").write_text('{"session_id": "lost", ', encoding="utf-8")
    for name in ("new", "lost"):
        message = {"role": "user", "content": "x", "timestamp": 5.5, "metadata": {}}
        text = json.dumps({"session_id": name, "spilled_at": "x", "messages": [message]})
        (spill / f"{name}.1.2.ab.json").write_text(text, encoding="utf-8")
    (spill / "z.1.2.ab.json").write_text("{", encoding="utf-8")

    result = call("import", tmp_path / "sessions", "--store", target, "--json")

    # Those of a damaged session wait until that is repaired.
    assert exported(target).keys() == {"a", "new"}
    assert len(result.json["damaged"]) == 2


def test_the_directory_above_is_answered_with_a_hint(home: Path, target: str) -> None:
    line = bad(1, "import", home, "--store", target)

    assert f"holds no sessions; give a file or {home / 'sessions'}" in line
