"""What each picture shows: lines and ranges, before they are drawn."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from benchmarks.report import standings, wording
from benchmarks.results import Case, Results, Spread
from benchmarks.systems import Kind

__all__ = ["Chart", "Line", "Panel", "Point", "charts"]

_PERCENTILES = ("p50", "p90", "p99", "p99.9")
# The number of callers at which latencies are shown: enough to queue, not enough to choke.
_CALLERS = 64
_LAG_CALLERS = (64, 256)
_LOADS = (10, 50, 90)


@dataclass(frozen=True, slots=True)
class Point:
    """A figure with its interval; in a chart of ranges, ``y`` to ``high`` is the range."""

    x: float
    y: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Line:
    """One system; the note says how much it kept of what it acknowledged, if not all."""

    system: str
    kind: Kind
    points: list[Point]
    note: str = ""


@dataclass(frozen=True, slots=True)
class Panel:
    """One pair of axes; ``ticks`` are the places and names on the horizontal one."""

    title: str
    x_label: str
    lines: list[Line]
    ticks: dict[float, str]


@dataclass(frozen=True, slots=True)
class Chart:
    """One picture.

    Attributes:
        name: Of its file, without the suffix.
        title: What it shows, and what is better.
        figure: What the vertical axis counts; of ranges, the horizontal one.
        panels: None where nothing of it was measured.
        form: Lines over a scale, or for each system a range from one figure to a higher one.
        is_time: Whether the figures are microseconds.
        is_log: Whether the horizontal axis of lines is logarithmic; the other one always is.
    """

    name: str
    title: str
    figure: str
    panels: list[Panel]
    form: Literal["lines", "ranges"] = "lines"
    is_time: bool = True
    is_log: bool = True


# What a system's line is made of: cases, each with what it adds.
_Found = Iterable[tuple[Case, Point]]


def charts(results: Results, store: str) -> list[Chart]:
    """Return the pictures of a store, as far as the run measured what they show."""
    title = wording.store_title(store)
    found = [
        _throughput(results, store, f"{title}: appends a second (higher is better)"),
        _latency(results, store, f"{title}: latency of an append (lower is better)"),
        _history(results, store, f"{title}: cost in a growing conversation (flat is better)"),
        _lag(results, store, f"{title}: how late the event loop came (less is better)"),
    ]
    return [chart for chart in found if chart.panels]


def _throughput(results: Results, store: str, title: str) -> Chart:
    panels = []
    for scenario in ("hot", "zipf"):
        lines = _over_levels(results, store, scenario, "append", lambda case: case.rate)
        panels += _panel(wording.scenario_title(scenario), "callers at the same time", lines)
    return Chart(f"{store}-throughput", title, "appends a second", panels, is_time=False)


def _latency(results: Results, store: str, title: str) -> Chart:
    panels = []
    for scenario, level in (("hot", _CALLERS), *(("arrivals", load) for load in _LOADS)):
        name = wording.level(scenario, level)
        name = f"{name}, one session" if scenario == "hot" else f"arrivals at {name}"
        lines = _percentiles(results, store, scenario, level)
        panels += _panel(name, "percentile", lines, lambda place: _PERCENTILES[int(place)])
    return Chart(f"{store}-latency", title, "latency", panels, is_log=False)


def _history(results: Results, store: str, title: str) -> Chart:
    panels = []
    for operation, name in (("append", "appending a message"), ("tail", "reading the newest")):
        lines = _over_levels(results, store, "history", operation, lambda case: case.latency("p50"))
        panels += _panel(name, "messages in the session", lines, _thousands)
    return Chart(f"{store}-history", title, "median latency", panels)


def _lag(results: Results, store: str, title: str) -> Chart:
    panels = []
    for callers in _LAG_CALLERS:

        def found(system: str, callers: int = callers) -> _Found:
            case = results.case("hot", store, system, callers)
            if case is not None and case.samples:
                yield case, _range(case.lag("p99").median, case.lag("max").median)

        name = wording.level("hot", callers)
        panels += _panel(f"{name}, one session", "", _lines(results, store, found))
    figure = "99th percentile (dot) to the worst"
    return Chart(f"{store}-lag", title, figure, panels, form="ranges")


def _range(usual: float, worst: float) -> Point:
    """Return a range of milliseconds, in microseconds."""
    # A loop that was never late has no place on a logarithmic axis.
    low, high = max(usual * 1000, 10.0), max(worst * 1000, 10.0)
    return Point(0, low, low, high)


def _over_levels(
    results: Results,
    store: str,
    scenario: str,
    operation: str,
    figure: Callable[[Case], Spread],
) -> list[Line]:
    """Return a line over all levels of a scenario for each system."""
    key = (store, scenario, operation)
    cases = [case for case in results.cases if (case.store, case.scenario, case.operation) == key]

    def found(system: str) -> _Found:
        for case in sorted(cases, key=lambda case: case.level):
            if case.system == system and case.samples:
                yield from _points(case, case.level, figure(case))

    return _lines(results, store, found)


def _percentiles(results: Results, store: str, scenario: str, level: int) -> list[Line]:
    """Return a line over the percentiles of the latency for each system."""

    def found(system: str) -> _Found:
        case = results.case(scenario, store, system, level)
        if case is not None and case.samples:
            for place, name in enumerate(_PERCENTILES):
                yield from _points(case, place, case.latency(name))

    return _lines(results, store, found)


def _points(case: Case, x: float, spread: Spread) -> _Found:
    """Yield a point; none for nothing at all, which has no place on a logarithmic axis."""
    if spread.median > 0:
        yield case, Point(x, spread.median, spread.low or spread.median, spread.high)


def _lines(results: Results, store: str, found: Callable[[str], _Found]) -> list[Line]:
    """Return a line for each system of which something was found."""
    lines = []
    for system, kind in standings.systems(results, store):
        pairs = list(found(system))
        if pairs:
            note = wording.kept_share([case for case, _ in pairs])
            lines.append(Line(system, kind, [point for _, point in pairs], note))
    return lines


def _panel(
    title: str, x_label: str, lines: list[Line], names: Callable[[float], str] = "{:,.0f}".format
) -> list[Panel]:
    """Return a panel with a tick for each place; none without lines."""
    places = sorted({point.x for line in lines for point in line.points})
    ticks = {place: names(place) for place in places}
    return [Panel(title, x_label, lines, ticks)] if lines else []


def _thousands(value: float) -> str:
    return f"{value / 1000:g}k" if value >= 1000 else f"{value:g}"
