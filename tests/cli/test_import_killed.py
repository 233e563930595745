"""An import whose process is killed half-way is run again."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.cli.helpers import call, exported, good

SECONDS = 120
COUNT = 150
LONG = 2600
# Runs the command line, and kills its process as soon as a hook of the store has run so often, for
# one session or for any.
KILLED = """
import os, signal, sys
from importlib import import_module
from asyncsessions.cli.app import app
from asyncsessions.registry import STORES

scheme, hook, session_id, calls, *args = sys.argv[1:]
module, name = STORES[scheme].split(":")
store = getattr(import_module(module), name)
original = getattr(store, hook)
count = 0

async def kill(self, batch):
    global count
    outcomes = await original(self, batch)
    count += not session_id or any(each.session_id == session_id for each in batch)
    if count == int(calls):
        os.kill(os.getpid(), signal.SIGKILL)
    return outcomes

setattr(store, hook, kill)
app(args)
"""


def import_until_killed(
    url: str, hook: str, calls: int, source: Path, session_id: str = ""
) -> None:
    scheme = urlsplit(url).scheme
    args = [scheme, hook, session_id, str(calls), "import", str(source), "--store", url]
    done = subprocess.run(
        [sys.executable, "-c", KILLED, *args], capture_output=True, text=True, timeout=SECONDS
    )
    assert done.returncode == -signal.SIGKILL, done.stderr


def message(text: str, time: float) -> dict[str, Any]:
    return {"role": "user", "content": text, "timestamp": time, "metadata": {}}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Return a directory of PraisonAI's, with an archive in each session."""
    directory = tmp_path / "praisonai"
    directory.mkdir()
    for number in range(COUNT):
        summary = message("[Session Summary]\nPrevious conversation: 1 messages", 3.5)
        summary["metadata"] = {"compaction": True, "compacted_count": 1}
        data = {
            "session_id": f"s/{number}",
            "messages": [{**summary, "role": "system"}, message(f"new {number}", 2.5)],
            "archived_messages": [message(f"old {number}", 1.5)],
            "created_at": "2026-01-01T00:00:00+00:00",
            "updated_at": "2026-01-02T00:00:00+00:00",
            "agent_name": "bot",
            "metadata": {"n": number},
        }
        (directory / f"s_{number:03}.json").write_text(json.dumps(data), encoding="utf-8")
    return directory


@pytest.mark.parametrize(
    ("hook", "calls"), [("_append", 1), ("_append", 2), ("_update", 1), ("_update", 2)]
)
def test_nothing_is_lost_or_doubled(url: str, source: Path, hook: str, calls: int) -> None:
    import_until_killed(url, hook, calls, source)
    before = exported(url)

    result = good("import", source, "--store", url, "--json").json

    assert before
    found = exported(url)
    assert found.keys() == {f"s/{number}" for number in range(COUNT)}
    for number in range(COUNT):
        record = found[f"s/{number}"]
        texts = [(each["seq"], each["content"]) for each in record["messages"]]
        assert texts == [(1, f"old {number}"), (2, f"new {number}")]
        assert (record["agent_name"], record["metadata"]) == ("bot", {"n": number})
        assert record["checkpoint"]["seq"] == 1
        assert record["created_at"] == 1767225600.0
    assert result["verified"] is True
    assert {skip["reason"] for skip in result["skipped"]} <= {"it exists"}
    assert result["imported"] + len(result["skipped"]) == COUNT
    assert good("import", source, "--store", url, "--json").json["imported"] == 0


@pytest.mark.parametrize("calls", [1, 2, 3])
def test_a_long_session_goes_on_in_its_middle(url: str, tmp_path: Path, calls: int) -> None:
    backup = tmp_path / "backup.jsonl"
    lines = []
    for part, start in enumerate(range(0, LONG, 1000), 1):
        messages = [message(f"m{n}", n + 1.5) for n in range(start, min(start + 1000, LONG))]
        first = {"updated_at": 9999.5, "metadata": {"k": 1}}
        record = {"session_id": "long", "messages": messages}
        lines.append(json.dumps(record | (first if part == 1 else {"part": part})))
    lines.insert(0, json.dumps({"session_id": "short", "messages": [message("x", 1.5)]}))
    backup.write_text("\n".join(lines), encoding="utf-8")
    # The other session may share a flush with the first part of this one, or not.
    import_until_killed(url, "_append", calls, backup, "long")

    result = call("import", backup, "--store", url, "--json")

    assert result.code == 0
    shown = good("show", "long", "--store", url, "--json", "--limit", LONG).json
    assert [each["content"] for each in shown["messages"]] == [f"m{n}" for n in range(LONG)]
    assert shown["metadata"] == {"k": 1}
