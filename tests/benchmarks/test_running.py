"""What ends a scenario, what ends a run, and how an interrupted one goes on."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from benchmarks.match import Match
from benchmarks.measure import Run
from benchmarks.results import Results
from benchmarks.running import measure, steps
from benchmarks.scenarios import MATCHES

Scenario = Callable[[Match], Awaitable[None]]

_STORES = ("jsonl", "jsonl-os")


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Put scenarios that measure nothing in place of two; return which were played."""
    names: list[str] = []

    def scenario(name: str) -> Scenario:
        async def play(match: Match) -> None:
            names.append(f"{name} on {match.store}")
            match.turn(match.entrants()[0], 1)

        return play

    for name in ("hot", "sessions"):
        monkeypatch.setitem(MATCHES, name, scenario(name))
    return names


async def _measured(
    tmp_path: Path, *names: str, before: Results | None = None
) -> tuple[Results, list[int]]:
    run = Run(is_quick=True, directory=tmp_path, stores=_STORES)
    kept: list[int] = []
    found = await measure(run, names, lambda results: kept.append(len(results.cases)), before)
    assert len(kept) == steps(run, names)
    return found, kept


async def test_what_was_found_is_kept_after_each_scenario(
    tmp_path: Path, played: list[str]
) -> None:
    found, kept = await _measured(tmp_path, "hot", "sessions")
    assert played == [
        "hot on jsonl",
        "sessions on jsonl",
        "hot on jsonl-os",
        "sessions on jsonl-os",
    ]
    assert kept == [1, 2, 3, 4]
    assert not found.faults
    assert found.settings["scenarios"] == "hot sessions"
    assert "jsonl/asyncsessions" in found.notes


async def test_an_error_ends_one_scenario(
    tmp_path: Path, played: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(match: Match) -> None:
        match.turn(match.entrants()[0], 1)
        raise ZeroDivisionError("oops")

    monkeypatch.setitem(MATCHES, "hot", broken)
    found, _ = await _measured(tmp_path, "hot", "sessions")
    assert found.faults == [f"hot on {name}: ZeroDivisionError: oops" for name in _STORES]
    assert played == ["sessions on jsonl", "sessions on jsonl-os"]


async def test_a_run_goes_on_where_it_was_interrupted(tmp_path: Path, played: list[str]) -> None:
    before, _ = await _measured(tmp_path, "hot")
    played.clear()
    found, kept = await _measured(tmp_path, "hot", "sessions", before=before)
    assert played == ["sessions on jsonl", "sessions on jsonl-os"]
    assert kept == [2, 3, 3, 4]
    assert found.started == before.started


async def test_what_went_wrong_is_measured_again(tmp_path: Path, played: list[str]) -> None:
    before, _ = await _measured(tmp_path, "hot")
    before.faults = ["hot on jsonl-os: CountError: one is missing"]
    played.clear()
    found, _ = await _measured(tmp_path, "hot", before=before)
    assert played == ["hot on jsonl-os"]
    assert len(found.cases) == 2
    assert not found.faults


async def test_a_peer_that_is_not_there_is_a_fault(tmp_path: Path, played: list[str]) -> None:
    run = Run(is_quick=True, directory=tmp_path, stores=("jsonl",), peers=("Nobody",))
    found = await measure(run, ["hot"], lambda _: None)
    assert found.faults == ["no peer that is installed is named like Nobody"]
    assert played == ["hot on jsonl"]
