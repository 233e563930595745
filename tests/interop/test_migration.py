"""``asyncsessions import`` of what PraisonAI's own stores have just written."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from asyncsessions import BaseSessionStore, open_store
from asyncsessions.cli.app import app

pytestmark = pytest.mark.interop

SECONDS = 120

WRITE = """
import json, os, sys
directory = sys.argv[1]
from praisonaiagents.session.hierarchy import HierarchicalSessionStore
from praisonaiagents.session.sqlite_store import SqliteSessionStore
from praisonaiagents.session.sqlite_transcript_store import SqliteTranscriptStore
from praisonaiagents.session.store import DefaultSessionStore, SessionMessage

def fill(store, session, count, start=0):
    for number in range(start, start + count):
        store.add_message(session, "assistant" if number % 2 else "user", f"{session} {number}")

def bot_turn(store, session, number):
    history = store.get_chat_history(session)
    history += [{"role": "user", "content": f"ask {number}"}]
    store.set_chat_history(session, history + [{"role": "assistant", "content": f"say {number}"}])

store = DefaultSessionStore(directory)
small = DefaultSessionStore(directory, max_messages=6, retention="compact")
tree = HierarchicalSessionStore(directory)

def read(store, session):
    return [store.get_chat_history(session), store.get_working_history(session)]
"""
END = """
print(json.dumps(out), flush=True)
os._exit(0)
"""


def original(directory: Path, body: str) -> Any:
    """Run code with PraisonAI's stores in another process, which ends as a crash does."""
    code = [sys.executable, "-c", WRITE + textwrap.dedent(body) + END, str(directory)]
    done = subprocess.run(
        code,
        capture_output=True,
        check=True,
        text=True,
        timeout=SECONDS,
    )
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    # Its spill and state files must not meet those of the machine.
    monkeypatch.setenv("PRAISONAI_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "sessions"


def migrate(directory: Path, url: str) -> Any:
    result = CliRunner().invoke(app, ["import", str(directory), "--store", url, "--json"])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def read_all(url: str, ids: list[str]) -> dict[str, Any]:
    """Return the chat and the working history of sessions."""

    async def read(store: BaseSessionStore, session_id: str) -> Any:
        return [
            await store.get_chat_history(session_id),
            await store.get_working_history(session_id),
        ]

    async def main() -> dict[str, Any]:
        async with open_store(url) as store:
            return {session_id: await read(store, session_id) for session_id in ids}

    return asyncio.run(main())


def test_histories_are_the_same(directory: Path, tmp_path: Path) -> None:
    out = original(
        directory,
        """
        fill(store, "a.b", 5)
        call = [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
        store.add_message("tools", "user", "go")
        store.add_message("tools", "assistant", None, tool_calls=call)
        store.add_message("tools", "tool", "4", tool_call_id="c")
        fill(store, "planned", 5)
        store.append_compaction_checkpoint("planned", "S", tokens_before=9)
        fill(store, "planned", 2, 5)
        fill(store, "cleared", 3)
        store.clear_session("cleared")
        fill(tree, "tree", 4)
        snapshot = tree.create_snapshot("tree")
        tree.revert_to_message("tree", 1)
        fill(tree, "tree", 2, 8)
        fork = tree.fork_session("tree", 0)
        ids = ["a.b", "tools", "planned", "cleared", "tree", fork]
        gateway = SqliteTranscriptStore(directory)  # Which imports what is there.
        fill(gateway, "gateway", 5)
        SqliteSessionStore(directory).add_message("indexed", "user", "x")
        out = {session: read(store, session) for session in [*ids, "indexed"]}
        out["gateway"] = read(gateway, "gateway")
        out = {"histories": out, "snapshot": snapshot}
        """,
    )
    url = f"jsonl://{tmp_path / 'target'}"
    snapshot = f"tree@snapshot-{out['snapshot']}"

    result = migrate(directory, url)

    assert (directory / "sessions.db-wal").stat().st_size
    assert (result["damaged"], result["skipped"], result["verified"]) == ([], [], True)
    histories = out["histories"]
    assert result["imported"] == len(histories) + 1
    assert read_all(url, list(histories)) == histories
    (chat, _) = read_all(url, [snapshot])[snapshot]
    assert [message["content"] for message in chat] == [f"tree {number}" for number in range(4)]


def test_a_compacted_history_is_whole_and_works_as_before(directory: Path, tmp_path: Path) -> None:
    out = original(
        directory,
        """
        fill(small, "long", 20)
        fill(small, "cleared", 15)
        small.clear_session("cleared")
        fill(small, "cleared", 9, 100)
        for number in range(12):
            bot_turn(small, "bot", number)
        out = {session: read(small, session) for session in ["long", "cleared", "bot"]}
        """,
    )
    url = f"jsonl://{tmp_path / 'target'}"

    migrate(directory, url)

    whole = {
        "long": [f"long {number}" for number in range(20)],
        "cleared": [f"cleared {number}" for number in range(100, 109)],
        "bot": [text for number in range(12) for text in (f"ask {number}", f"say {number}")],
    }
    for session_id, (chat, working) in read_all(url, list(whole)).items():
        before = out[session_id][0]
        assert [message["content"] for message in chat] == whole[session_id]
        # The original's summary has two lines for each message that was archived.
        assert before[0]["content"].startswith("[Session Summary]\nPrevious conversation: ")
        archived = len(chat) - len(before[1:])
        text = f"[Session Summary]\n{archived} earlier messages are archived."
        assert working == [{"role": "system", "content": text}, *before[1:]]
    (old, _) = read_all(url, ["cleared@archive"])["cleared@archive"]
    assert [message["content"] for message in old] == [f"cleared {number}" for number in range(9)]


def test_an_agent_that_goes_on_is_brought_up_to_date(directory: Path, tmp_path: Path) -> None:
    url = f"jsonl://{tmp_path / 'target'}"
    original(directory, 'fill(small, "s", 10); small.update_session_metadata("s", cost=1); out = 1')
    first = migrate(directory, url)
    original(
        directory, 'fill(small, "s", 5, 10); small.update_session_metadata("s", cost=2); out = 1'
    )

    second = migrate(directory, url)

    assert (first["messages"], second["messages"], second["imported"]) == (10, 5, 1)
    (chat, _) = read_all(url, ["s"])["s"]
    assert [message["content"] for message in chat] == [f"s {number}" for number in range(15)]


def test_messages_that_were_spilled_are_put_back(directory: Path, tmp_path: Path) -> None:
    url = f"jsonl://{tmp_path / 'target'}"
    before = original(
        directory,
        """
        fill(store, "s", 2)
        missed = SessionMessage(role="user", content="missed")
        fill(store, "s", 1, 2)
        assert store._spill("s", [missed])
        out = sorted(os.listdir(directory))
        """,
    )

    result = migrate(directory, url)

    assert before == ["s.json", "s.json.lock"]
    assert result["notes"] == ["'s' has messages again that PraisonAI had set aside"]
    (chat, _) = read_all(url, ["s"])["s"]
    assert [message["content"] for message in chat] == ["s 0", "s 1", "missed", "s 2"]
