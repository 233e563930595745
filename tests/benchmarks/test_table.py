from __future__ import annotations

from io import StringIO

from rich.console import Console

from benchmarks.report.table import print_results
from benchmarks.results import Results
from tests.benchmarks.runs import case, check, run


def _printed(results: Results) -> str:
    """What appears on a terminal of 100 columns, with single spaces."""
    console = Console(file=StringIO(), width=100, color_system=None)
    print_results(results, console)
    assert isinstance(console.file, StringIO)
    lines = (" ".join(line.split()) for line in console.file.getvalue().splitlines())
    return "\n".join(line for line in lines if line)


def test_row_holds_rates_ratios_and_latencies_of_all_levels() -> None:
    cases = [
        case(system, [rate * level], level=level)
        for system, rate in (("OurStore", 300), ("PeerSession", 100))
        for level in (1, 8)
    ]
    printed = _printed(run(*cases))
    assert "callers 1 8\n" in printed
    assert "OurStore 300 2,400\nstore 2 ms 2 ms\n" in printed
    assert "PeerSession 100 800\npeer 3.0x 3.0x\n2 ms 2 ms\n" in printed


def test_gap_shows_where_a_system_was_not_measured() -> None:
    cases = [case("OurStore", [10], level=level) for level in (1, 8)]
    assert "PeerSession 5 -\n" in _printed(run(*cases, case("PeerSession", [5], level=1)))


def test_lost_messages_and_errors_stand_in_the_cell() -> None:
    lossy = case("PeerSession", [100], lost=10)
    lossy.samples[0].errors["TimeoutError"] = 3
    printed = _printed(run(lossy))
    assert "kept 90\nof 100\n3 TimeoutError\n" in printed


def test_foreign_load_is_marked_and_explained() -> None:
    calm, disturbed = case("OurStore", [100]), case("OurStore", [100], foreign=0.2)
    explanation = "* other work took more than 10 % of the machine"
    assert explanation not in _printed(run(calm))
    assert "OurStore 100 *\n" in _printed(run(disturbed))
    assert explanation in _printed(run(disturbed))


def test_checks_say_whether_they_passed() -> None:
    checks = [
        check("fast", 2.0),
        check("slow", 0.5),
        check("late", 3.0, is_floor=False),
    ]
    printed = _printed(run(checks=checks))
    assert "hot fast 2.0x 1.90x >= 1.00x ok\n" in printed
    assert "hot slow 0.50x 0.40x >= 1.00x MISS\n" in printed
    assert "hot late 3.0x 2.9x <= 1.00x MISS\n" in printed


def test_faults_are_printed_as_they_are() -> None:
    assert "Not measured: [bold] x: refused" in _printed(run(faults=["[bold] x: refused"]))
