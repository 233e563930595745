"""Who stands where: the systems of a store side by side, and the cases that were not won."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from benchmarks.results import STORES, Case, Figure, Results, Spread
from benchmarks.systems import Kind

__all__ = [
    "DISTURBED",
    "FOREIGN_LIMIT",
    "SHARE_OF_LIMIT",
    "Cell",
    "Grid",
    "Loss",
    "Row",
    "defects",
    "foreign",
    "grids",
    "is_disturbed",
    "losses",
    "stores",
    "systems",
]

# Above this, other work on the machine took part in a figure.
FOREIGN_LIMIT = 0.10
DISTURBED = f"* other work took more than {FOREIGN_LIMIT * 100:.0f} % of the machine"
# Of a batch written by hand, which does less: it checks nothing, and can't try again.
SHARE_OF_LIMIT = 0.7

_KINDS: tuple[Kind, ...] = ("store", "driver", "limit", "peer")
_SCENARIOS = (
    "hot",
    "sessions",
    "zipf",
    "turn",
    "big",
    "processes",
    "replay",
    "history",
    "arrivals",
)


@dataclass(frozen=True, slots=True)
class Cell:
    """A case beside the one that it is compared with.

    Attributes:
        case: What was measured.
        ratio: Of this library's store to the case; for the store itself, to the driver. None
            where there is nothing to compare.
    """

    case: Case
    ratio: Spread | None


@dataclass(frozen=True, slots=True)
class Row:
    """A system at every level that it was measured at."""

    system: str
    kind: Kind
    cells: dict[int, Cell]


@dataclass(frozen=True, slots=True)
class Grid:
    """All systems of a store in one scenario, this library's store first."""

    store: str
    scenario: str
    operation: str
    levels: list[int]
    rows: list[Row]


@dataclass(frozen=True, slots=True)
class Loss:
    """A case in which this library's store stands behind.

    Attributes:
        figure: By which figure: the rate, or the latency at the 99th percentile.
        ours: The store's case.
        other: The system ahead of it; for the limit, the one that it is too far from.
        ratio: The store's figure to the other's.
    """

    figure: Figure
    ours: Case
    other: Case
    ratio: Spread


def _rank(order: Iterable[str]) -> Callable[[str], tuple[int, str]]:
    """Return a key that sorts names as given, and others by name behind them."""
    places = {name: place for place, name in enumerate(order)}
    return lambda name: (places.get(name, len(places)), name)


def _measured(results: Results) -> list[Case]:
    return [case for case in results.cases if case.samples]


def stores(results: Results) -> list[str]:
    """Return the stores that were measured, those on servers first."""
    return sorted({case.store for case in _measured(results)}, key=_rank(list(STORES)))


def systems(results: Results, store: str) -> list[tuple[str, Kind]]:
    """Return the systems of a store: ours, the driver, the limit, then peers as they came."""
    found = dict.fromkeys(
        (case.system, case.kind) for case in _measured(results) if case.store == store
    )
    return sorted(found, key=lambda system: _KINDS.index(system[1]))


def foreign(case: Case) -> float:
    """Return the share of the machine that others took, in the middle repetition."""
    return Spread.of([sample.foreign for sample in case.samples]).median


def is_disturbed(case: Case) -> bool:
    """Return whether other work on the machine took part in a case's figures."""
    return bool(case.samples) and foreign(case) > FOREIGN_LIMIT


def defects(case: Case) -> list[str]:
    """Return what is wrong with a case: messages that it lost, calls that failed."""
    errors: Counter[str] = Counter()
    for sample in case.samples:
        errors.update(sample.errors)
    lines = [f"{count:,} {name}" for name, count in sorted(errors.items())]
    if not case.is_whole:
        lines[:0] = [f"kept {case.stored:,}", f"of {case.acknowledged:,}"]
    return lines


def _first(cases: Iterable[Case], kind: Kind) -> Case | None:
    return next((case for case in cases if case.kind == kind), None)


def grids(results: Results, store: str) -> list[Grid]:
    """Return a grid for each scenario, and for each of its operations."""
    cases: dict[tuple[str, str], list[Case]] = {}
    for case in _measured(results):
        if case.store == store:
            cases.setdefault((case.scenario, case.operation), []).append(case)
    scenario_rank = _rank(_SCENARIOS)
    order = sorted(cases, key=lambda found: (scenario_rank(found[0]), found[1]))
    names = systems(results, store)
    return [_grid(store, *key, names, cases[key]) for key in order]


def _grid(
    store: str, scenario: str, operation: str, names: list[tuple[str, Kind]], cases: list[Case]
) -> Grid:
    levels = sorted({case.level for case in cases})
    rows = {name: Row(name, kind, {}) for name, kind in names}
    for value in levels:
        alike = [case for case in cases if case.level == value]
        ours, driver = _first(alike, "store"), _first(alike, "driver")
        for case in alike:
            ratio = None
            # Arrivals come at a share of each system's own capacity: their rates say nothing.
            if ours is not None and scenario != "arrivals":
                ratio = ours.ratio_to(case)
                if case.kind == "store":
                    ratio = None if driver is None else case.ratio_to(driver)
            rows[case.system].cells[value] = Cell(case, ratio)
    return Grid(store, scenario, operation, levels, [row for row in rows.values() if row.cells])


def losses(results: Results) -> Iterator[Loss]:
    """Yield every case in which the store stands behind.

    That is a rate below a peer's or the driver's, or below 70 % of the limit's, and a 99th
    percentile above a peer's.
    """
    for store in stores(results):
        for grid in grids(results, store):
            for value in grid.levels:
                yield from _losses_at(grid, value)


def _losses_at(grid: Grid, value: int) -> Iterator[Loss]:
    cases = [row.cells[value].case for row in grid.rows if value in row.cells]
    for ours in cases:
        if ours.kind == "store":
            for other in cases:
                yield from _losses_to(ours, other)


def _losses_to(ours: Case, other: Case) -> Iterator[Loss]:
    if other.kind == "store":
        return
    if ours.scenario != "arrivals":
        rates = ours.ratio_to(other)
        least = SHARE_OF_LIMIT if other.kind == "limit" else 1.0
        if rates is not None and rates.median < least:
            yield Loss("rate", ours, other, rates)
    if other.kind == "peer":
        times = ours.ratio_to(other, "p99")
        if times is not None and times.median > 1.0:
            yield Loss("p99", ours, other, times)
