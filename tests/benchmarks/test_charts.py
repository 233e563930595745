from __future__ import annotations

import pytest

from benchmarks.report.charts import Chart, Point, charts
from benchmarks.results import Case, Results
from tests.benchmarks.runs import case, run


def _chart(results: Results, name: str) -> Chart:
    [chart] = [chart for chart in charts(results, "redis") if chart.name == f"redis-{name}"]
    return chart


def test_throughput_has_a_panel_for_each_scenario_and_a_line_for_each_system() -> None:
    cases = [
        case(system, [100, 200, 300], scenario=scenario, level=level)
        for scenario in ("hot", "zipf")
        for system in ("PeerSession", "OurStore")
        for level in (64, 1)
    ]
    chart = _chart(run(*cases), "throughput")
    assert [panel.title[:4] for panel in chart.panels] == ["one ", "1,00"]
    assert [line.system for line in chart.panels[0].lines] == ["OurStore", "PeerSession"]
    assert chart.panels[0].lines[0].points == [Point(1, 200, 100, 300), Point(64, 200, 100, 300)]
    assert chart.panels[0].ticks == {1: "1", 64: "64"}


def test_line_says_how_much_a_system_kept() -> None:
    chart = _chart(run(case("PeerSession", [100], lost=40)), "throughput")
    assert chart.panels[0].lines[0].note == "kept 60 %"


def test_latency_shows_percentiles_at_64_callers_and_at_each_load() -> None:
    arrivals = [case("OurStore", [9], scenario="arrivals", level=level) for level in (10, 50, 90)]
    chart = _chart(run(case("OurStore", [9]), *arrivals), "latency")
    assert [panel.title for panel in chart.panels] == [
        "64 callers, one session",
        "arrivals at 10 % of capacity",
        "arrivals at 50 % of capacity",
        "arrivals at 90 % of capacity",
    ]
    assert [point.y for point in chart.panels[0].lines[0].points] == [900, 1500, 2000, 5000]
    assert list(chart.panels[0].ticks.values()) == ["p50", "p90", "p99", "p99.9"]


def test_history_shows_the_cost_of_appending_and_reading() -> None:
    cases = [
        case("OurStore", [9], scenario="history", level=level, operation=operation)
        for operation in ("append", "tail")
        for level in (10, 10_000)
    ]
    chart = _chart(run(*cases), "history")
    assert [panel.ticks for panel in chart.panels] == [{10: "10", 10_000: "10k"}] * 2
    assert [point.y for point in chart.panels[1].lines[0].points] == [900, 900]


def test_lag_ranges_from_the_percentile_to_the_worst_in_microseconds() -> None:
    chart = _chart(run(case("OurStore", [9]), case("OurStore", [9], level=256)), "lag")
    assert [panel.lines[0].points for panel in chart.panels] == [[Point(0, 1500, 1500, 4000)]] * 2


@pytest.mark.parametrize(
    "cases",
    [
        pytest.param([], id="nothing"),
        pytest.param([case("OurStore", [])], id="no-samples"),
        pytest.param([case("OurStore", [9], store="mongo")], id="another-store"),
        pytest.param([case("OurStore", [9], scenario="turn")], id="in-no-picture"),
    ],
)
def test_what_was_not_measured_has_no_picture(cases: list[Case]) -> None:
    assert charts(run(*cases), "redis") == []


def test_rate_of_nothing_has_no_place_on_a_logarithmic_axis() -> None:
    names = [chart.name for chart in charts(run(case("PeerSession", [0, 0])), "redis")]
    assert "redis-throughput" not in names
