"""How the benchmarks measure: callers, arrivals, turns, and what is counted afterwards."""

from __future__ import annotations

import asyncio
import itertools
import math
import time
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.alarm import Alarm
from benchmarks.load import arriving, capacity, closed
from benchmarks.match import Entrant, Match, Work
from benchmarks.measure import CountError, Run
from benchmarks.results import Case, Machine, Results, read, write
from benchmarks.scenarios import MATCHES
from benchmarks.systems import System
from benchmarks.watch import Watch, percentiles
from tests.benchmarks.systems import Failing, Forgetful, InList, entrant


class Operation:
    """Knows how many of it are under way, and how many were at the most."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.under_way = self.most = 0
        self._seconds = seconds

    async def __call__(self, _: int) -> None:
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        await asyncio.sleep(self._seconds)
        self.under_way -= 1


async def test_each_caller_goes_on_until_the_end() -> None:
    operation = Operation()
    sample = await closed(operation, callers=5, seconds=0.05, repetition=3)
    assert operation.most == 5
    assert operation.under_way == 0
    assert sample.repetition == 3
    assert sample.operations > 5
    assert sample.seconds >= 0.05
    assert sample.latencies["p50"] <= sample.latencies["p99"] <= sample.latencies["max"]


async def test_callers_stop_after_the_most_operations() -> None:
    callers: list[int] = []

    async def operation(caller: int) -> None:
        callers.append(caller)

    sample = await closed(operation, callers=3, seconds=60, most=4)
    assert sample.operations == 12
    assert sorted(callers) == [0] * 4 + [1] * 4 + [2] * 4


async def test_errors_are_counted_apart() -> None:
    numbers = itertools.count(1)

    async def operation(_: int) -> None:
        if not next(numbers) % 2:
            raise TimeoutError

    sample = await closed(operation, callers=1, seconds=60, most=10)
    assert sample.operations == 5
    assert sample.errors == {"TimeoutError": 5}


async def test_a_stall_shows_in_all_that_it_holds_up() -> None:
    numbers = itertools.count()

    async def operation(_: int) -> None:
        if not next(numbers):
            time.sleep(0.2)  # noqa: ASYNC251  # blocks the loop, as a bad store does

    sample = await arriving(operation, rate=1000, seconds=0.2)
    # A closed loop would see one slow call of 200.
    assert sample.latencies["p50"] > 50_000
    assert sample.latencies["max"] >= 200_000
    assert sample.operations > 100


async def test_arrivals_do_not_wait_for_each_other() -> None:
    operation = Operation(0.1)
    sample = await arriving(operation, rate=200, seconds=0.2)
    assert operation.most > 5
    assert operation.under_way == 0
    assert not sample.errors


async def test_arrivals_come_at_the_same_moments_again() -> None:
    async def operation(_: int) -> None:
        pass

    counts = {
        (await arriving(operation, rate=500, seconds=0.1, repetition=each)).operations
        for each in (1, 1, 1)
    }
    assert len(counts) == 1


async def test_waiting_for_an_arrival_leaves_the_interpreter_to_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    turns = 0
    selector = asyncio.get_running_loop()._selector  # type: ignore[attr-defined]
    select = selector.select

    def counted(timeout: float | None) -> Any:
        nonlocal turns
        turns += 1
        return select(timeout)

    monkeypatch.setattr(selector, "select", counted)
    sample = await arriving(Operation(), rate=1000, seconds=0.2)
    # Four for each arrival; a loop that stays awake until the next one makes some fifty.
    assert turns < 8 * sample.operations + 200


async def test_alarm_never_rings_early() -> None:
    async with Alarm() as alarm:
        for seconds in (0.003, 0.0001, 0.002, -1.0):
            moment = time.monotonic() + seconds
            await alarm.until(moment)
            assert time.monotonic() >= moment


async def test_alarm_that_nobody_waits_for_any_more_does_not_ring_for_the_next() -> None:
    async with Alarm() as alarm:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await alarm.until(time.monotonic() + 0.0001)
        time.sleep(0.001)  # noqa: ASYNC251  # it is over before anybody waits again
        waiting = asyncio.create_task(alarm.until(time.monotonic() + 0.2))
        await asyncio.sleep(0)
        alarm._ring()
        await asyncio.sleep(0)
        assert not waiting.done()
        await waiting


async def test_cancelled_arrivals_and_capacity_leave_nothing_under_way() -> None:
    for load in (arriving(Operation(60), rate=1000, seconds=60), capacity(Operation(60), 60)):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await load
        assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_capacity_keeps_256_under_way() -> None:
    operation = Operation()
    rate, done = await capacity(operation, 0.05)
    assert rate > 0
    assert done >= 256
    assert operation.most == 256
    assert operation.under_way == 0


async def test_the_lag_of_a_blocked_loop_is_seen() -> None:
    watch = Watch()
    async with watch:
        await asyncio.sleep(0.02)
        time.sleep(0.1)  # noqa: ASYNC251  # what it looks for
    assert watch.usage.lag["max"] > 50
    assert watch.usage.seconds >= 0.12


def test_percentiles() -> None:
    assert percentiles([], 50) == {"p50": 0.0, "max": 0.0}
    values = [float(number) for number in range(100, 0, -1)]
    assert percentiles(values, 50, 99, 99.9) == {
        "p50": 50.0,
        "p99": 99.0,
        "p99.9": 100.0,
        "max": 100.0,
    }


def _match(tmp_path: Path, entrants: list[Entrant], scenario: str = "hot") -> Match:
    return Match(Run(is_quick=True, directory=tmp_path), scenario, "redis", "", entrants)


def _work(system: System, repetition: int) -> Work:
    session_id = f"s{repetition}"

    def operation(_: int) -> Awaitable[object]:
        return system.append(session_id, "x")

    return Work(operation, [session_id])


def _repetitions(case: Case) -> list[int]:
    return [sample.repetition for sample in case.samples]


async def test_all_run_in_each_repetition(tmp_path: Path) -> None:
    match = _match(tmp_path, [entrant(InList(), "store", "ours"), entrant(InList(), "peer", "it")])
    await match.closed(2, _work, most=3)
    ours, other = match.cases
    assert _repetitions(ours) == _repetitions(other) == [0, 1, 2]
    # The warm-up is none of the repetitions, but is counted.
    assert ours.acknowledged == ours.stored == 4 * 2 * 3


async def test_what_a_peer_loses_is_shown(tmp_path: Path) -> None:
    match = _match(tmp_path, [entrant(Forgetful(), "peer", "it")])
    await match.closed(1, _work, most=6)
    [case] = match.cases
    assert case.acknowledged == 24
    assert case.stored == 16


@pytest.mark.parametrize("kind", ["store", "driver", "limit"])
@pytest.mark.parametrize("system", [Forgetful, Failing])
async def test_what_any_other_loses_fails_the_run(
    tmp_path: Path, kind: str, system: type[InList]
) -> None:
    match = _match(tmp_path, [entrant(system(), kind, "it")])  # type: ignore[arg-type]
    with pytest.raises(CountError, match="hot 1 on redis"):
        await match.closed(1, _work, most=6)


async def test_who_cannot_take_part_does_not(tmp_path: Path) -> None:
    other = entrant(InList(), "peer", "it", without=frozenset({"turn"}))
    match = _match(tmp_path, [entrant(InList(), "store", "ours"), other], "turn")
    assert [each.contender.name for each in match.entrants()] == ["ours"]


@pytest.mark.parametrize("scenario", ["hot", "sessions", "zipf", "arrivals", "turn", "history"])
async def test_scenarios_store_what_they_acknowledge(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, scenario: str
) -> None:
    # A busy machine makes any system a slow one, which has fewer repetitions.
    monkeypatch.setattr("benchmarks.match._SLOW_SECONDS", math.inf)
    match = _match(tmp_path, [entrant(InList(), "store", "ours")], scenario)
    await MATCHES[scenario](match)
    assert match.cases
    for case in match.cases:
        assert case.stored == case.acknowledged
        # In one of them the machine may have stood still.
        assert len(case.samples) == 3
        assert any(sample.operations for sample in case.samples)


async def test_a_run_is_read_as_it_was_written(tmp_path: Path) -> None:
    match = _match(tmp_path, [entrant(InList(), "store", "ours"), entrant(InList(), "peer", "it")])
    await match.closed(2, _work, most=3)
    machine = Machine(system="", processor='"cases":[]', cpus=2, memory=1.0, python="")
    results = Results(
        started="now", seconds=1.0, settings={}, machine=machine, cases=match.cases, faults=["f"]
    )
    write(tmp_path / "run.json", results)
    assert read(tmp_path / "run.json") == results
    assert len((tmp_path / "run.json").read_text().splitlines()) == 2 + len(match.cases)
