"""Whatever PraisonAI and this library do to a session in turn, both see the same afterwards."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from praisonaiagents.session.hierarchy import HierarchicalSessionStore
from praisonaiagents.session.store import DefaultSessionStore

from asyncsessions import Message
from asyncsessions.stores.json import JSONSessionStore
from tests.interop.original import load

# A slow machine may take its time.
pytestmark = [pytest.mark.interop, pytest.mark.timeout(600)]

OPTIONS = {"retention": "keep_all", "lock_timeout": 300.0}
# What only PraisonAI knows.
THEIRS = (
    "parent_id",
    "forked_from_message_id",
    "children_ids",
    "snapshots",
    "snapshot_storage",
    "is_shared",
    "title",
    "runtime_state",
)
CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}

ORIGINAL: dict[str, Any] = {
    "they add": lambda tree, n: tree.add_message("s", "user", f"theirs-{n}", {"n": n}),
    "they call": lambda tree, n: tree.add_message("s", "assistant", None, tool_calls=[CALL]),
    "they answer": lambda tree, n: tree.add_message("s", "tool", f"{n}", tool_call_id="c"),
    "they replace": lambda tree, n: tree.set_chat_history(
        "s", [{"role": "user", "content": f"theirs-{n}-{i}"} for i in range(n % 4)]
    ),
    "they clear": lambda tree, n: tree.clear_session("s"),
    "they stream": lambda tree, n: tree.upsert_partial_assistant_message("s", f"part-{n}"),
    "they finish": lambda tree, n: tree.upsert_partial_assistant_message(
        "s", f"all-{n}", finalize=True
    ),
    "they compact": lambda tree, n: tree.append_compaction_checkpoint("s", f"summary-{n}"),
    "they say": lambda tree, n: tree.update_session_metadata("s", model=f"m{n}", both=n),
    "they name": lambda tree, n: tree.rename_session("s", f"name-{n}" * (n % 2)),
    "they run": lambda tree, n: tree.set_runtime_state("s", "r", f"{n}", {"n": n}),
    "they are": lambda tree, n: tree.set_agent_info("s", f"agent-{n}", f"user-{n}"),
    "they fork": lambda tree, n: tree.fork_session("s"),
    "they title": lambda tree, n: tree.set_title("s", f"title-{n}"),
    "they share": lambda tree, n: tree.share_session("s"),
    "they go back": lambda tree, n: tree.revert_to_message("s", n % 5),
}
OURS: dict[str, Any] = {
    "we add": lambda store, n: store.append(
        "s", [Message("user", f"ours-{n}", name="Ann", extra={"x": n})]
    ),
    "we call": lambda store, n: store.append(
        "s",
        [
            Message("assistant", None, tool_calls=[CALL]),
            Message("tool", f"{n}", tool_call_id="c"),
        ],
        idempotency_key=f"key-{n}",
    ),
    "we pop": lambda store, n: store.pop_message("s"),
    "we replace": lambda store, n: store.set_chat_history(
        "s", [Message("user", f"ours-{n}-{i}") for i in range(n % 4)]
    ),
    "we clear": lambda store, n: store.clear_session("s"),
    "we stream": lambda store, n: store.upsert_partial_assistant_message("s", f"part-{n}"),
    "we discard": lambda store, n: store.discard_partial_assistant_message("s"),
    "we compact": lambda store, n: store.append_compaction_checkpoint("s", f"summary-{n}"),
    "we say": lambda store, n: store.update_session_metadata("s", cost=n, both=n),
    "we name": lambda store, n: store.rename_session("s", f"name-{n}" * (n % 2)),
    "we merge": lambda store, n: store.merge_session_metadata_map("s", "map", {f"{n}": n}),
    "we count": lambda store, n: store.increment_state("s", "n"),
    "we are": lambda store, n: store.set_agent_info("s", f"agent-{n}", None),
    "we expire": lambda store, n: store.expire_session("s", 3600),
}
# These two need to know of one another.
SNAPSHOT, REVERT = "they snapshot", "they revert"


def said(messages: list[Any]) -> list[tuple[Any, ...]]:
    """Return what both programs know of messages."""
    return [
        (each.role, each.content, each.timestamp, each.tool_calls, each.tool_call_id)
        for each in messages
    ]


class Session:
    """One session, and what must be true of it all the time."""

    def __init__(self, directory: Path, store: JSONSessionStore) -> None:
        self._directory = directory
        self._path = directory / "s.json"
        self._store = store
        self._snapshots: list[tuple[str, list[dict[str, Any]]]] = []
        self._last_seq = 0

    async def do(self, verb: str, number: int) -> None:
        """Let one of the two do something."""
        if verb in OURS:
            before = self._document()
            await OURS[verb](self._store, number)
            after = self._document()
            changed = [key for key in THEIRS if key in before and before[key] != after[key]]
            assert changed == []
            return
        tree = HierarchicalSessionStore(str(self._directory), **OPTIONS)
        if verb == SNAPSHOT:
            self._snapshots.append((tree.create_snapshot("s"), tree.get_chat_history("s")))
        elif verb == REVERT and self._snapshots:
            snapshot, history = self._snapshots[number % len(self._snapshots)]
            # It forgets the snapshots that were made after the one it goes back to.
            if tree.revert_to_snapshot("s", snapshot):
                assert tree.get_chat_history("s") == history
        elif verb in ORIGINAL:
            ORIGINAL[verb](tree, number)

    def _document(self) -> dict[str, Any]:
        return load(self._path) if self._path.exists() else {}

    async def check(self) -> None:
        """Check that both see the same, and that the numbers only go up."""
        if not self._path.exists():
            return
        store = DefaultSessionStore(str(self._directory), **OPTIONS)
        theirs, ours = store.get_session("s"), await self._store.get_session("s")
        assert said(ours.messages) == said(theirs.messages)
        metadata = dict(theirs.metadata)
        own = metadata.pop("asyncsessions", {})
        assert ours.metadata == metadata
        assert (ours.agent_name, ours.user_id) == (theirs.agent_name, theirs.user_id)
        seqs = [0, *(each.seq for each in ours.messages)]
        assert all(a < b for a, b in pairwise(seqs))
        # What this library wrote never goes back.
        assert own.get("last_seq", 0) >= self._last_seq
        assert ours.last_seq >= own.get("last_seq", 0)
        self._last_seq = own.get("last_seq", 0)


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PRAISONAI_HOME", str(tmp_path_factory.mktemp("home")))
        yield


@given(st.lists(st.sampled_from([*ORIGINAL, *OURS, SNAPSHOT, REVERT]), min_size=5, max_size=40))
def test_both_see_the_same_whatever_they_do_in_turn(verbs: list[str]) -> None:
    async def play(directory: Path) -> None:
        async with JSONSessionStore(directory, durability="os") as store:
            session = Session(directory, store)
            for number, verb in enumerate(verbs):
                await session.do(verb, number)
                await session.check()

    with TemporaryDirectory() as directory:
        asyncio.run(play(Path(directory)))
