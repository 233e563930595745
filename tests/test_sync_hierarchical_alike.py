"""Forks, snapshots and reverts in any order: every store shows what JSON files do."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from asyncsessions.sync import HierarchicalSessionStore
from tests.test_sync_hierarchical import Make, home, make

__all__ = ["home", "make"]

STEPS = 40


class Script:
    """Makes calls that depend on nothing but a seed; notes what a caller sees after each.

    Args:
        store: Gets the calls.
        seed: Decides which.
    """

    def __init__(self, store: HierarchicalSessionStore, seed: int) -> None:
        self._store = store
        self._random = random.Random(seed)
        self._sessions = ["s"]
        self._snapshots = ["unknown"]
        self._texts = 0
        self.seen: list[Any] = []

    def run(self, steps: int) -> None:
        makes = [self._talk, self._talk, self._fork, self._snapshot, self._revert, self._record]
        for _ in range(steps):
            session_id = self._random.choice(self._sessions)
            make = self._random.choice(makes)
            self.seen.append([make.__name__, make(session_id)])
            self.seen.append([self._look(each) for each in self._sessions])
        self.seen.append(self._counts(self._store.get_session_tree("s")))

    def _look(self, session_id: str) -> list[Any]:
        store = self._store
        session = store.get_session(session_id)
        named = [self._name(each) for each in [session.parent_id, *session.children_ids]]
        history = [(turn["role"], turn["content"]) for turn in store.get_chat_history(session_id)]
        # Only its text differs where nothing is moved to an archive.
        history = [turn for turn in history if not turn[1].startswith("[Session Summary]")]
        snapshots = [each.label for each in session.snapshots]
        return [history, named, snapshots, session.title or None, session.is_shared]

    def _name(self, session_id: str | None) -> int | None:
        return None if session_id is None else self._sessions.index(session_id)

    def _counts(self, tree: dict[str, Any]) -> Any:
        children = [self._counts(child) for child in tree["children"]]
        return [self._name(tree["session_id"]), tree["title"], tree["message_count"], children]

    def _text(self) -> str:
        self._texts += 1
        return f"m{self._texts}"

    def _talk(self, session_id: str) -> bool:
        pick, store = self._random.choice, self._store
        kind = pick(["add", "add", "add", "partial", "final", "discard", "history", "clear"])
        if kind == "add":
            return store.add_message(session_id, pick(["user", "assistant"]), self._text())
        if kind == "history":
            messages = [{"role": "user", "content": self._text()} for _ in range(pick((0, 3)))]
            return store.set_chat_history(session_id, messages)
        if kind == "clear":
            return store.clear_session(session_id)
        if kind == "discard":
            return store.discard_partial_assistant_message(session_id)
        final = kind == "final"
        return store.upsert_partial_assistant_message(session_id, self._text(), finalize=final)

    def _fork(self, session_id: str) -> str:
        pick = self._random.choice
        try:
            if pick([True, True, False]):
                made = self._store.fork_session(session_id, pick([None, None, 0, 1, 3]))
            else:
                made = self._store.create_session(None, self._text(), session_id)
        except ValueError:
            return "no message"
        self._sessions.append(made)
        return "made"

    def _snapshot(self, session_id: str) -> None:
        self._snapshots.append(self._store.create_snapshot(session_id, self._text()))

    def _revert(self, session_id: str) -> bool:
        pick, store = self._random.choice, self._store
        if pick([True, False]):
            return store.revert_to_message(session_id, pick([0, 1, 2, 4]))
        snapshots = [each.id for each in store.get_snapshots(session_id)]
        return store.revert_to_snapshot(session_id, pick([*snapshots, pick(self._snapshots)]))

    def _record(self, session_id: str) -> bool:
        store = self._store
        return self._random.choice([store.share_session, store.unshare_session])(session_id)


@pytest.mark.parametrize("seed", range(4))
def test_any_calls_show_the_same(make: Make, tmp_path: Path, seed: int) -> None:
    stores = [
        HierarchicalSessionStore(str(tmp_path / "model"), retention="keep_all"),
        make(retention="keep_all"),
    ]
    scripts = [Script(store, seed) for store in stores]
    for script in scripts:
        script.run(STEPS)
    for number, (expected, got) in enumerate(zip(scripts[0].seen, scripts[1].seen, strict=True)):
        assert got == expected, f"after {scripts[1].seen[: number + 1][-2:]}"
