"""Small runs, made in code."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.results import Case, Check, Machine, Results, Sample, Spread
from benchmarks.systems import Kind

SYSTEMS: dict[str, Kind] = {
    "OurStore": "store",
    "the-driver": "driver",
    "by-hand": "limit",
    "PeerSession": "peer",
    "OtherPeer": "peer",
}


def sample(repetition: int, rate: int, *, p99: float = 2000.0, foreign: float = 0.0) -> Sample:
    """A repetition of one second."""
    return Sample(
        repetition=repetition,
        operations=rate,
        seconds=1.0,
        latencies={"p50": 900.0, "p90": 1500.0, "p99": p99, "p99.9": 5000.0, "max": 9000.0},
        lag={"p50": 0.1, "p99": 1.5, "max": 4.0},
        cpu=0.5,
        server_cpu=0.5,
        memory=1.0,
        foreign=foreign,
    )


def case(
    system: str,
    rates: Sequence[int],
    *,
    scenario: str = "hot",
    store: str = "redis",
    level: int = 64,
    operation: str = "append",
    p99: float = 2000.0,
    foreign: float = 0.0,
    lost: int = 0,
) -> Case:
    """A case with one repetition for each rate."""
    samples = [sample(number, rate, p99=p99, foreign=foreign) for number, rate in enumerate(rates)]
    return Case(
        scenario=scenario,
        store=store,
        system=system,
        kind=SYSTEMS[system],
        level=level,
        operation=operation,
        samples=samples,
        acknowledged=sum(rates),
        stored=sum(rates) - lost,
    )


def check(name: str, median: float, *, target: float = 1.0, is_floor: bool = True) -> Check:
    measured = Spread(median, median - 0.1, median + 0.1)
    return Check(scenario="hot", name=name, measured=measured, target=target, is_floor=is_floor)


def run(*cases: Case, checks: Sequence[Check] = (), faults: Sequence[str] = ()) -> Results:
    machine = Machine(
        system="Linux 6 x86_64",
        processor="Some processor",
        cpus=2,
        memory=24.0,
        python="3.11.7",
        versions={"redis": "6.4.0"},
    )
    return Results(
        started="2026-01-02T03:04:05Z",
        seconds=120.0,
        settings={"mode": "full"},
        machine=machine,
        cases=list(cases),
        checks=list(checks),
        notes={"redis/PeerSession": "One object for each session."},
        faults=list(faults),
    )
