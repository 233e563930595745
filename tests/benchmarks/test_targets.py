"""Which figures of a run are compared with targets."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.measure import Run
from benchmarks.results import Case, Check, Machine, Results, Sample
from benchmarks.systems import Kind
from benchmarks.targets import checks

DRIVER, LIMIT, PEER = "RPUSH per append", "hand-written batch", "OpenAI Agents RedisSession"


def _case(
    system: str, kind: Kind, rates: list[float], *, scenario: str = "hot", level: int = 64
) -> Case:
    samples = [
        Sample(
            repetition=number,
            operations=int(rate),
            seconds=1.0,
            latencies={"p99": 1000.0},
            lag={"p99": 2.0},
            cpu=1.0,
            server_cpu=0.5,
            memory=0.0,
            foreign=0.0,
        )
        for number, rate in enumerate(rates)
    ]
    return Case(
        scenario=scenario, store="redis", system=system, kind=kind, level=level, samples=samples
    )


def _checks(tmp_path: Path, *cases: Case, is_quick: bool = False) -> dict[str, Check]:
    machine = Machine(system="", processor="", cpus=2, memory=1.0, python="")
    results = Results(started="", seconds=0.0, settings={}, machine=machine, cases=list(cases))
    run = Run(is_quick=is_quick, directory=tmp_path)
    return {check.name: check for check in checks(run, results)}


def test_a_ratio_is_that_of_each_repetition(tmp_path: Path) -> None:
    ours = _case("asyncsessions", "store", [700, 100, 1300])
    found = _checks(tmp_path, ours, _case(DRIVER, "driver", [100, 100, 100]))
    check = found[f"Redis: 64 callers on one session, to {DRIVER}"]
    assert check.measured.median == 7.0
    assert check.target == 6.0
    assert check.passed


def test_a_lost_batch_fails_a_quick_run(tmp_path: Path) -> None:
    ours = _case("asyncsessions", "store", [90] * 3)
    driver = _case(DRIVER, "driver", [100] * 3)
    [check] = _checks(tmp_path, ours, driver, is_quick=True).values()
    assert not check.passed


def test_a_lone_callers_cost_is_the_inverse_of_its_rate(tmp_path: Path) -> None:
    ours = _case("asyncsessions", "store", [100] * 3, level=1)
    other = _case("EVALSHA per append", "driver", [150] * 3, level=1)
    [check] = _checks(tmp_path, ours, other).values()
    assert check.measured.median == 1.5
    assert not check.passed


def test_the_share_of_the_limit(tmp_path: Path) -> None:
    ours = _case("asyncsessions", "store", [80] * 3, scenario="sessions", level=256)
    limit = _case(LIMIT, "limit", [100] * 3, scenario="sessions", level=256)
    found = _checks(tmp_path, ours, limit)
    assert found[f"Redis: 256 callers on 1,000 sessions, to {LIMIT}"].measured.median == 0.8
    assert found["Redis: 99th percentile of the loop's lag, 256 callers"].passed


@pytest.mark.parametrize(("rate", "is_ahead"), [(90, True), (110, False)])
def test_a_peers_best_case_counts(tmp_path: Path, rate: float, *, is_ahead: bool) -> None:
    cases = [
        _case("asyncsessions", "store", [6100] * 3),
        _case(PEER, "peer", [100] * 3),
        _case("asyncsessions", "store", [100] * 3, scenario="turn", level=1),
        _case(PEER, "peer", [rate] * 3, scenario="turn", level=1),
    ]
    found = _checks(tmp_path, *cases)
    assert found[f"Redis: to {PEER}, in its best case"].passed is is_ahead
    assert found[f"Redis: 64 callers on one session, to {PEER}"].passed


def test_what_was_not_measured_has_no_check(tmp_path: Path) -> None:
    assert _checks(tmp_path, _case("asyncsessions", "store", [100] * 3)) == {}
    unfinished = _case(DRIVER, "driver", [])
    assert _checks(tmp_path, _case("asyncsessions", "store", [100] * 3), unfinished) == {}
