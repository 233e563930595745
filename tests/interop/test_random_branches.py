"""Forks, snapshots and reverts in any order: PraisonAI's results, and its files."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from asyncsessions import sync
from tests.interop.test_default_store import talk
from tests.interop.test_hierarchical import InTurn, Run, home, original

__all__ = ["home"]

# PraisonAI's own imports warn.
pytestmark = [pytest.mark.interop, pytest.mark.filterwarnings("ignore")]

STEPS = 50
OPTIONS: list[dict[str, Any]] = [
    {},
    {"max_messages": 4},
    {"active_window": 4},
    {"max_messages": 3, "retention": "keep_all"},
]


class Script:
    """Makes calls that depend on nothing but a seed, and on what earlier ones returned.

    What the two stores are known to do differently isn't among them: making a session that exists,
    and going back to a message that a checkpoint stands for.

    Args:
        run: Gets the calls.
        seed: Decides which.
    """

    def __init__(self, run: Run, seed: int) -> None:
        self._run = run
        self._random = random.Random(seed)
        self._sessions = ["s"]
        self._snapshots: list[str] = ["unknown"]
        self._texts = 0

    def __call__(self, steps: int) -> None:
        makes = [self._talk, self._talk, self._fork, self._snapshot, self._revert, self._record]
        for _ in range(steps):
            session_id = self._random.choice(self._sessions)
            self._random.choice(makes)(session_id)
            self._run("get_session", session_id)
        for session_id in self._sessions:
            self._run("get_snapshots", session_id)
            self._run("get_session_tree", session_id)

    def _text(self) -> str:
        self._texts += 1
        return f"m{self._texts}"

    def _talk(self, session_id: str) -> None:
        pick, run = self._random.choice, self._run
        kind = pick(["add", "add", "add", "partial", "final", "history", "clear"])
        if kind == "add":
            run("add_message", session_id, pick(["user", "assistant"]), self._text())
        elif kind == "history":
            run("set_chat_history", session_id, talk(*(self._text() for _ in range(pick((0, 3))))))
        elif kind == "clear":
            run("clear_session", session_id)
        else:
            final = kind == "final"
            run("upsert_partial_assistant_message", session_id, self._text(), finalize=final)

    def _fork(self, session_id: str) -> None:
        pick = self._random.choice
        calls: list[Callable[[], Any]] = [
            lambda: self._run("fork_session", session_id, pick([None, 0, 1, 3])),
            lambda: self._run("create_session", None, self._text(), session_id),
            lambda: self._run("import_session", self._run("export_session", session_id)),
        ]
        made = pick(calls)()
        if made is not None and len(self._sessions) < 6:
            self._sessions.append(made)

    def _snapshot(self, session_id: str) -> None:
        made = self._run("create_snapshot", session_id, self._text(), {"k": self._texts})
        self._snapshots.append(made)

    def _revert(self, session_id: str) -> None:
        snapshots = self._run("get_snapshots", session_id)
        covered = self._run("get_session", session_id).last_compaction
        pick = self._random.choice
        if snapshots and pick([True, True, False]):
            self._run("revert_to_snapshot", session_id, pick(snapshots).id)
        elif covered is None:
            self._run("revert_to_message", session_id, pick([0, 1, 2, 4]))
        self._run("revert_to_snapshot", session_id, pick(self._snapshots))

    def _record(self, session_id: str) -> None:
        pick, run = self._random.choice, self._run
        calls: list[Callable[[], Any]] = [
            lambda: run("set_title", session_id, self._text()),
            lambda: run("share_session", session_id),
            lambda: run("unshare_session", session_id),
            lambda: run("update_session_metadata", session_id, model=self._text()),
            lambda: run("append_compaction_checkpoint", session_id, self._text()),
            lambda: run("rename_session", session_id, self._text()),
        ]
        pick(calls)()


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("options", OPTIONS, ids=["default", "truncate", "compact", "keep all"])
def test_any_calls_have_the_same_results(
    tmp_path: Path, seed: int, options: dict[str, Any]
) -> None:
    runs = []
    for name, kind in (
        ("theirs", original("HierarchicalSessionStore")),
        ("ours", sync.HierarchicalSessionStore),
    ):
        run = Run(kind(str(tmp_path / name), **options), tmp_path / name)
        Script(run, seed)(STEPS)
        runs.append(run)
    for number, (expected, got) in enumerate(zip(runs[0].steps, runs[1].steps, strict=True)):
        assert got == expected, f"step {number}: {got[:2]}"


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("options", OPTIONS, ids=["default", "truncate", "compact", "keep all"])
def test_both_take_turns_in_one_directory(
    tmp_path: Path, seed: int, options: dict[str, Any]
) -> None:
    kinds = (original("HierarchicalSessionStore"), sync.HierarchicalSessionStore)
    alone = Run(kinds[0](str(tmp_path / "alone"), **options), tmp_path / "alone", with_files=False)
    stores = InTurn(*(kind(str(tmp_path / "both"), **options) for kind in kinds))
    turns = Run(stores, tmp_path / "both", with_files=False)
    for run in (alone, turns):
        Script(run, seed)(STEPS)
    for number, (expected, got) in enumerate(zip(alone.steps, turns.steps, strict=True)):
        assert got == expected, f"step {number}: {got[:2]}"
