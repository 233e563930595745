from __future__ import annotations

import pytest

from benchmarks.report import standings
from benchmarks.results import Case, Results
from tests.benchmarks.runs import case, run


def test_ratio_is_the_median_of_the_ratios_of_repetitions() -> None:
    ours = case("OurStore", [100, 400, 900])
    other = case("PeerSession", [100, 100, 100])
    found = ours.ratio_to(other)
    assert found is not None
    assert (found.median, found.low, found.high) == (4.0, 1.0, 9.0)


def test_ratio_uses_only_repetitions_that_both_have() -> None:
    ours = case("OurStore", [100, 300])
    other = case("PeerSession", [50, 100, 1])
    found = ours.ratio_to(other)
    assert found is not None
    assert found.median == 2.5


def test_ratio_to_what_did_nothing_is_none() -> None:
    assert case("OurStore", [100]).ratio_to(case("PeerSession", [0])) is None


def test_ratio_leaves_out_repetitions_in_which_either_did_nothing() -> None:
    ours = case("OurStore", [100, 0, 300])
    other = case("PeerSession", [0, 100, 100])
    found = ours.ratio_to(other)
    assert found is not None
    assert found.median == 3.0


def test_grid_has_our_store_first_then_driver_limit_and_peers() -> None:
    cases = [
        case("PeerSession", [10]),
        case("by-hand", [150]),
        case("OurStore", [100]),
        case("OtherPeer", [5]),
        case("the-driver", [50]),
    ]
    [grid] = standings.grids(run(*cases), "redis")
    names = [row.system for row in grid.rows]
    assert names == ["OurStore", "the-driver", "by-hand", "PeerSession", "OtherPeer"]


def test_cell_compares_our_store_with_the_driver_and_others_with_our_store() -> None:
    cases = [
        case("OurStore", [100]),
        case("the-driver", [50]),
        case("by-hand", [200]),
        case("PeerSession", [10]),
    ]
    [grid] = standings.grids(run(*cases), "redis")
    ratios = {row.system: row.cells[64].ratio for row in grid.rows}
    medians = {system: ratio and ratio.median for system, ratio in ratios.items()}
    assert medians == {"OurStore": 2.0, "the-driver": 2.0, "by-hand": 0.5, "PeerSession": 10.0}


def test_grid_has_a_gap_where_a_system_was_not_measured() -> None:
    cases = [case("OurStore", [100], level=1), case("OurStore", [100], level=8)]
    [grid] = standings.grids(run(*cases, case("PeerSession", [10], level=1)), "redis")
    assert grid.levels == [1, 8]
    assert [list(row.cells) for row in grid.rows] == [[1, 8], [1]]


def test_each_operation_has_a_grid() -> None:
    cases = [
        case("OurStore", [100], scenario="history", level=10, operation=operation)
        for operation in ("append", "tail")
    ]
    grids = standings.grids(run(*cases), "redis")
    assert [(grid.scenario, grid.operation) for grid in grids] == [
        ("history", "append"),
        ("history", "tail"),
    ]


def test_case_without_samples_is_left_out() -> None:
    results = run(case("OurStore", [100]), case("PeerSession", []))
    [grid] = standings.grids(results, "redis")
    assert [row.system for row in grid.rows] == ["OurStore"]


def _lost_to(results: Results) -> list[tuple[str, str]]:
    return [(loss.other.system, loss.figure) for loss in standings.losses(results)]


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        pytest.param(case("PeerSession", [101]), [("PeerSession", "rate")], id="faster-peer"),
        pytest.param(case("PeerSession", [100]), [], id="equal-peer"),
        pytest.param(case("the-driver", [101]), [("the-driver", "rate")], id="faster-driver"),
        pytest.param(case("by-hand", [144]), [("by-hand", "rate")], id="less-than-70-percent"),
        pytest.param(case("by-hand", [142]), [], id="more-than-70-percent"),
        pytest.param(
            case("PeerSession", [90], p99=1999.0), [("PeerSession", "p99")], id="peer-waits-less"
        ),
        pytest.param(case("the-driver", [90], p99=1.0), [], id="driver-waits-less"),
        pytest.param(case("PeerSession", [101], level=8), [], id="another-level"),
        pytest.param(case("PeerSession", [101], store="mongo"), [], id="another-store"),
    ],
)
def test_losses(other: Case, expected: list[tuple[str, str]]) -> None:
    assert _lost_to(run(case("OurStore", [100]), other)) == expected


def test_rates_of_arrivals_are_no_loss_but_their_latencies_are() -> None:
    ours = case("OurStore", [100], scenario="arrivals", level=50)
    peer = case("PeerSession", [500], scenario="arrivals", level=50, p99=1000.0)
    assert _lost_to(run(ours, peer)) == [("PeerSession", "p99")]


def test_foreign_load_counts_by_the_middle_repetition() -> None:
    assert not standings.is_disturbed(case("OurStore", [1, 1, 1], foreign=0.1))
    assert standings.is_disturbed(case("OurStore", [1, 1, 1], foreign=0.11))


def test_defects_name_lost_messages_and_errors() -> None:
    found = case("PeerSession", [100, 100], lost=50)
    found.samples[0].errors.update({"TimeoutError": 2})
    found.samples[1].errors.update({"TimeoutError": 1})
    assert standings.defects(found) == ["kept 150", "of 200", "3 TimeoutError"]
