from __future__ import annotations

from io import StringIO

import msgspec
import pytest
from rich.console import Console

from benchmarks.report.comparing import compare, differences, rates, ratios
from benchmarks.results import Results, Spread
from tests.benchmarks.runs import case, run


def _printed(old: Results, new: Results) -> str:
    console = Console(file=StringIO(), width=120, color_system=None)
    compare(old, new, console)
    assert isinstance(console.file, StringIO)
    return "\n".join(" ".join(line.split()) for line in console.file.getvalue().splitlines())


@pytest.mark.parametrize(
    ("figures", "has_moved"),
    [
        pytest.param([100, 110, 120], False, id="the-same"),
        pytest.param([121, 122, 132], True, id="all-above"),
        pytest.param([108, 116, 124], False, id="median-above"),
        pytest.param([120, 125, 130], False, id="touching"),
        pytest.param([79, 88, 99], True, id="all-below"),
    ],
)
def test_case_has_moved_where_the_intervals_do_not_overlap(
    figures: list[int], has_moved: bool
) -> None:
    old = run(case("OurStore", [100, 110, 120]))
    [change] = rates(old, run(case("OurStore", figures)))
    assert change.has_moved is has_moved
    assert change.ratio == figures[1] / 110


def test_only_the_same_case_is_compared() -> None:
    old = run(case("OurStore", [100]), case("PeerSession", [100]))
    new = run(
        case("OurStore", [100], level=8),
        case("OurStore", [100], scenario="zipf"),
        case("OurStore", [100], store="mongo"),
        case("OurStore", [100], operation="tail"),
        case("OtherPeer", [100]),
    )
    assert rates(old, new) == ratios(old, new) == []
    assert "The runs have no case in common." in _printed(old, new)


def test_case_that_did_nothing_is_not_compared() -> None:
    idle, busy = run(case("OurStore", [0])), run(case("OurStore", [100]))
    assert rates(idle, busy) == rates(busy, idle) == []


def test_summary_counts_what_agrees_and_what_moved() -> None:
    old = run(
        case("OurStore", [100, 110, 120]),
        case("PeerSession", [100, 100, 100]),
        case("OtherPeer", [100, 100, 100]),
        case("by-hand", [100]),
    )
    new = run(
        case("OurStore", [100, 111, 120]),
        case("PeerSession", [50, 50, 50]),
        case("OtherPeer", [110, 110, 110]),
    )
    printed = _printed(old, new)
    assert "1 of 3 rates agree within their intervals, faster: 1, slower: 1" in printed
    assert "the median change is +0.9 %." in printed
    assert "64 callers, PeerSession 100 (100 to 100) 50 (50 to 50) 0.50x slower" in printed
    assert "Not compared: 1 case that only one of the runs has figures of." in printed


def test_ratio_to_another_system_stays_where_the_whole_machine_is_slower() -> None:
    old = run(case("OurStore", [400, 440, 480]), case("PeerSession", [100, 110, 120]))
    new = run(case("OurStore", [200, 220, 240]), case("PeerSession", [50, 55, 60]))
    [change] = ratios(old, new)
    assert change.case == "redis hot, 64 callers, PeerSession"
    assert change.old == change.new == Spread(4, 4, 4)
    assert not change.has_moved
    printed = _printed(old, new)
    assert "PeerSession 4.0x (4.0x to 4.0x) 4.0x (4.0x to 4.0x) 1.00x" in printed
    assert "1 of 1 ratios agree within their intervals" in printed
    assert "0 of 2 rates agree within their intervals, faster: 0, slower: 2" in printed


def test_ratio_that_is_lower_is_told() -> None:
    old = run(case("OurStore", [400, 400]), case("the-driver", [100, 100]))
    new = run(case("OurStore", [400, 400]), case("the-driver", [200, 200]))
    assert "4.0x (4.0x to 4.0x) 2.0x (2.0x to 2.0x) 0.50x lower" in _printed(old, new)


def test_runs_on_unlike_machines_are_told_apart() -> None:
    old, new = run(case("OurStore", [100])), run(case("OurStore", [100]))
    new.machine = msgspec.structs.replace(
        new.machine, processor="Another", versions={"redis": "7.0.0", "asyncpg": "0.30.0"}
    )
    new.settings = {"mode": "quick"}
    expected = [
        "processor: Some processor, now Another",
        "asyncpg: none, now 0.30.0",
        "redis: 6.4.0, now 7.0.0",
        "mode: full, now quick",
    ]
    assert differences(old, new) == expected
    assert "Not alike: redis: 6.4.0, now 7.0.0" in _printed(old, new)


def test_runs_on_the_same_machine_differ_in_nothing() -> None:
    assert differences(run(), run()) == []


def test_disturbed_case_is_marked() -> None:
    calm, disturbed = run(case("OurStore", [9])), run(case("OurStore", [9], foreign=0.5))
    assert "OurStore *" in _printed(disturbed, calm)
    assert "OurStore *" not in _printed(calm, calm)
