"""What a run found: every repetition of every case, as it is kept in a JSON file."""

from __future__ import annotations

import math
import statistics
from pathlib import Path
from typing import Literal

import msgspec

from benchmarks.systems import Kind

__all__ = [
    "STORES",
    "Case",
    "Check",
    "Figure",
    "Machine",
    "Results",
    "Sample",
    "Spread",
    "read",
    "write",
]

STORES = {
    "redis": "Redis",
    "postgres": "PostgreSQL",
    "mongo": "MongoDB",
    "jsonl": "JSON Lines",
    "jsonl-os": "JSON Lines, without sync",
    "json": "JSON documents",
}
"""Where messages are kept, by name, with the titles."""

# How likely at most a median lies beyond one bound of its interval.
_BEYOND = 0.025

Figure = Literal["rate", "p99"]
"""What of two cases is compared."""


class Spread(msgspec.Struct, frozen=True):
    """A median, and between which of the values it lies.

    The bounds are those of a confidence interval of 95 % that supposes nothing about how the values
    are distributed (Hahn and Meeker, "Statistical Intervals", 1991, section 5.2). Where there are
    too few values for that, they are the lowest and the highest: 94 % with five, 75 % with three.
    """

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: list[float]) -> Spread:
        """Return it for values, of which there is at least one."""
        ordered = sorted(values)
        outside = _outside(len(ordered))
        return cls(statistics.median(ordered), ordered[outside], ordered[-1 - outside])


def _outside(count: int) -> int:
    """Return how many of so many values lie beyond each bound of a median's interval."""
    chance = 0.0
    for below in range(count):
        chance += math.comb(count, below) / 2**count
        if chance > _BEYOND:
            return max(below - 1, 0)
    return 0


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """One repetition of a case.

    Attributes:
        repetition: Which one; samples of all systems with the same number ran in turns.
        operations: How many were acknowledged.
        seconds: How long it took.
        latencies: Microseconds by percentile: ``p50``, ``p90``, ``p99``, ``p99.9``, ``max``. With
            arrivals at a given rate they count from when an operation should have begun.
        lag: Milliseconds that a 5 ms ticker on the same loop came late: ``p50``, ``p99``, ``max``.
        cpu: Processor seconds of this process in each second.
        server_cpu: Those of the servers and other processes that the benchmark started.
        memory: By how many MiB this process grew.
        foreign: The share of all processors, 0 to 1, that others took.
        errors: How many calls failed, by the name of the error.
    """

    repetition: int
    operations: int
    seconds: float
    latencies: dict[str, float]
    lag: dict[str, float]
    cpu: float
    server_cpu: float
    memory: float
    foreign: float
    errors: dict[str, int] = {}

    @property
    def rate(self) -> float:
        """Operations a second."""
        return self.operations / self.seconds

    def figure(self, name: Figure) -> float:
        """Return the rate, or the 99th percentile of the latency in microseconds."""
        return self.rate if name == "rate" else self.latencies["p99"]


class Case(msgspec.Struct, kw_only=True):
    """One system in one scenario at one level.

    Attributes:
        scenario: The scenario's name: ``hot``, ``sessions``, ``zipf``, ``turn``, ``history``,
            ``big``, ``arrivals``, ``replay``.
        store: Where messages are kept: ``jsonl``, ``json``, ``redis``, ``postgres``, ``mongo``.
        system: The contender's name.
        kind: The contender's kind.
        level: Callers at the same time; messages in the session (``history``); the percentage of
            the system's own capacity (``arrivals``).
        operation: What one operation was, where a scenario has several (``append``, ``tail``).
        samples: Every repetition.
        acknowledged: How many messages were acknowledged in all, warm-up included.
        stored: How many were found afterwards; None where they could not be counted.
        note: What there is to say of it.
    """

    scenario: str
    store: str
    system: str
    kind: Kind
    level: int
    operation: str = "append"
    samples: list[Sample] = []
    acknowledged: int = 0
    stored: int | None = None
    note: str = ""

    @property
    def is_whole(self) -> bool:
        """Whether what was acknowledged was found, as far as it could be counted."""
        return self.stored is None or self.stored == self.acknowledged

    @property
    def is_measured(self) -> bool:
        """Whether it got anything done."""
        return any(sample.operations for sample in self.samples)

    @property
    def rate(self) -> Spread:
        """Operations a second."""
        return Spread.of([sample.rate for sample in self.samples])

    def latency(self, percentile: str) -> Spread:
        """Microseconds."""
        return Spread.of([sample.latencies[percentile] for sample in self.samples])

    def lag(self, percentile: str) -> Spread:
        """Milliseconds that the event loop came late."""
        return Spread.of([sample.lag[percentile] for sample in self.samples])

    def ratio_to(self, other: Case, figure: Figure = "rate") -> Spread | None:
        """Return a figure over another system's: one ratio for each repetition of both.

        Returns:
            None where there is no repetition in which both got something done.
        """
        figures = {each.repetition: each.figure(figure) for each in other.samples}
        ratios = [
            each.figure(figure) / figures[each.repetition]
            for each in self.samples
            if each.operations and figures.get(each.repetition)
        ]
        return Spread.of(ratios) if ratios else None


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """A figure with the target that it has to reach.

    Attributes:
        scenario: Which scenario measured it.
        name: What it says.
        measured: Its median and interval.
        target: What the median is compared with.
        is_floor: Whether it must be at least the target, not at most.
        unit: ``x`` or a unit of measure.
        detail: The rates or times behind a ratio.
    """

    scenario: str
    name: str
    measured: Spread
    target: float
    is_floor: bool
    unit: str = "x"
    detail: str = ""

    @property
    def passed(self) -> bool:
        """Whether the median reaches the target."""
        if self.is_floor:
            return self.measured.median >= self.target
        return self.measured.median <= self.target


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """Where a run took place.

    Attributes:
        system: Kernel and architecture.
        processor: The processor's model.
        cpus: How many of them.
        memory: GiB.
        python: The interpreter's version.
        versions: Of packages and servers, by name.
    """

    system: str
    processor: str
    cpus: int
    memory: float
    python: str
    versions: dict[str, str] = {}


class Results(msgspec.Struct, kw_only=True):
    """One run.

    Attributes:
        started: When, as an ISO date and time in UTC.
        seconds: How long it took.
        settings: What was asked for: mode, repetitions, seconds of each, filters.
        machine: Where.
        cases: All cases.
        checks: All figures with targets.
        notes: What the report says of each contender, by store and name: ``redis/RedisSession``.
        faults: What could not be measured, and why.
    """

    started: str
    seconds: float
    settings: dict[str, str]
    machine: Machine
    cases: list[Case] = []
    checks: list[Check] = []
    notes: dict[str, str] = {}
    faults: list[str] = []

    def case(
        self, scenario: str, store: str, system: str, level: int, operation: str = "append"
    ) -> Case | None:
        """Return a case; None where it was not measured."""
        for case in self.cases:
            found = (case.scenario, case.store, case.system, case.level, case.operation)
            if found == (scenario, store, system, level, operation) and case.is_measured:
                return case
        return None


def write(path: Path, results: Results) -> None:
    """Write a run to a file, a line for each case."""
    rest = msgspec.json.encode(msgspec.structs.replace(results, cases=[]))
    cases = b",\n".join(map(msgspec.json.encode, results.cases))
    path.write_bytes(rest.replace(b'"cases":[]', b'"cases":[\n%b\n]' % cases, 1) + b"\n")


def read(path: Path) -> Results:
    """Read a run from a file.

    Raises:
        ValueError: It holds no run.
    """
    return msgspec.json.decode(path.read_bytes(), type=Results)
