"""``demo``: it runs, and its proof fails when it should."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from asyncsessions import Message, open_store
from asyncsessions.cli.demo_proof import Ack, content_crc, prove, read_back
from tests.cli.helpers import call, good

SMALL = ("--workers", "2", "--callers", "8", "--seconds", "0.3")


def test_the_demo_proves_that_nothing_is_lost() -> None:
    result = good("demo", *SMALL, "--json").json

    proof = result["proof"]
    assert proof["holds"] is True
    assert proof["acknowledged"] == proof["messages"] > 0
    for side in ("store", "baseline"):
        assert result[side]["appends_per_second"] > 0
        assert 0 < result[side]["p50_ms"] <= result[side]["p99_ms"]


def test_the_demo_shows_a_transcript_and_figures() -> None:
    out = good("demo", *SMALL).out

    assert "One of " in out
    assert "appends per second" in out
    assert "none lost, doubled or reordered" in out.splitlines()[-1]


def test_the_demo_leaves_nothing_behind(tmp_path: Path) -> None:
    good("demo", *SMALL, "--directory", tmp_path, "--json")

    assert list(tmp_path.iterdir()) == []


def test_the_demo_fails_when_a_message_is_removed_behind_its_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def remove_one(directory: Path) -> None:
        async with open_store(f"jsonl://{directory}") as store:
            newest = (await store.list_sessions(1))[0]
            await store.pop_message(newest.session_id)

    async def tampered(directory: Path) -> dict[str, list[Message]]:
        await remove_one(directory)
        return await read_back(directory)

    monkeypatch.setattr("asyncsessions.cli.demo.read_back", tampered)

    result = call("demo", *SMALL)

    assert result.code == 1
    assert "failed: " in result.out
    assert result.err.startswith("asyncsessions: the proof failed: lost: message ")
    assert result.err.count("\n") == 1


def test_a_worker_that_fails_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    (tmp_path / "python").write_text("#!/bin/sh\necho broken >&2\nexit 3\n", encoding="utf-8")
    (tmp_path / "python").chmod(0o755)

    result = call("demo", *SMALL)

    assert (result.code, result.err) == (1, "asyncsessions: worker 0 failed: broken\n")


# The proof itself.


def message(seq: int, worker: int, number: int, content: str = "x") -> Message:
    return Message("user", content, 1.0, {"worker": worker, "number": number}, seq=seq)


STORED = {
    "a": [message(1, 0, 0), message(2, 1, 0), message(3, 0, 2)],
    "b": [message(1, 0, 1), message(2, 1, 1)],
}
ACKNOWLEDGED = {
    0: [Ack("a", 0, 1, content_crc("x")), Ack("b", 1, 1, content_crc("x")),
        Ack("a", 2, 3, content_crc("x"))],
    1: [Ack("a", 0, 2, content_crc("x")), Ack("b", 1, 2, content_crc("x"))],
}  # fmt: skip


def test_the_proof_holds_for_what_is_right() -> None:
    proof = prove(ACKNOWLEDGED, STORED)

    assert proof.holds
    assert (proof.sessions, proof.messages, proof.acknowledged) == (2, 5, 5)


def renumbered(messages: list[Message]) -> list[Message]:
    return [msgspec.structs.replace(item, seq=seq) for seq, item in enumerate(messages, 1)]


WRONG: list[tuple[str, dict[str, list[Message]]]] = [
    ("lost", {**STORED, "a": STORED["a"][:2]}),
    ("lost", {"a": STORED["a"]}),
    ("lost", {**STORED, "a": renumbered(STORED["a"][1:])}),
    ("doubled", {**STORED, "a": [*STORED["a"], message(4, 1, 0)]}),
    ("doubled", {**STORED, "c": [message(1, 1, 0)]}),
    ("reordered", {**STORED, "a": renumbered(STORED["a"][::-1])}),
    ("changed", {**STORED, "b": [message(1, 0, 1, "y"), STORED["b"][1]]}),
    ("gaps", {**STORED, "a": [STORED["a"][0], STORED["a"][2]]}),
    ("unknown", {**STORED, "a": [*STORED["a"], message(4, 1, 7)]}),
    ("unknown", {**STORED, "c": [Message("user", "stray", 1.0, seq=1)]}),
]


@pytest.mark.parametrize(
    ("kind", "stored"), WRONG, ids=[f"{kind}-{number}" for number, (kind, _) in enumerate(WRONG)]
)
def test_the_proof_fails_for_what_is_wrong(kind: str, stored: dict[str, Any]) -> None:
    proof = prove(ACKNOWLEDGED, stored)

    assert not proof.holds
    assert kind in proof.faults


def test_read_back_returns_every_session(tmp_path: Path) -> None:
    async def fill_and_read() -> dict[str, list[Message]]:
        async with open_store(f"jsonl://{tmp_path}") as store:
            for number in range(5):
                await store.append(f"s{number}", [{"role": "user", "content": str(number)}] * 3)
        return await read_back(tmp_path)

    stored = asyncio.run(fill_and_read())

    assert {sid: len(messages) for sid, messages in stored.items()} == {
        f"s{number}": 3 for number in range(5)
    }
