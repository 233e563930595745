from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.report.page import Recorded, page, write_page
from benchmarks.results import Results
from tests.benchmarks.runs import case, check, run

DOCS = Path("docs")


def _page(results: Results) -> str:
    return page(Recorded(results, DOCS / "results" / "FULL.json"), DOCS)


def _section(results: Results, title: str) -> str:
    """The text under a heading, up to the next one."""
    _, _, rest = _page(results).partition(f"# {title}\n")
    assert rest, f"no heading {title!r}"
    return rest.partition("\n#")[0].strip()


@pytest.fixture
def results() -> Results:
    """A run in which one peer is slower, and one is faster."""
    return run(
        case("OurStore", [100, 110, 90]),
        case("the-driver", [50, 50, 50]),
        case("by-hand", [120, 120, 120]),
        case("PeerSession", [10, 10, 10], lost=6),
        case("OtherPeer", [200, 200, 200]),
        checks=[check("a good figure", 2.0), check("a bad figure", 0.5)],
        faults=["redis/ThirdPeer: it needs a module"],
    )


def test_lost_case_is_listed_with_both_figures(results: Results) -> None:
    row = "| Redis | `hot`, 64 callers | OtherPeer | 100 /s | 200 /s | 0.50x (0.45 to 0.55) |"
    found = _section(results, "Slower than a peer")
    assert row in found.splitlines()
    assert "PeerSession |" not in found


def test_won_case_is_not_listed(results: Results) -> None:
    assert _section(results, "Slower than the driver used directly") == "None."
    assert _section(results, "Below 70 % of the limit") == "None."


def test_missed_target_is_listed_and_reached_one_is_not(results: Results) -> None:
    missed = _section(results, "Missed targets")
    assert "a bad figure" in missed
    assert "a good figure" not in missed
    assert "a good figure" in _section(results, "All targets")


def test_fault_is_listed(results: Results) -> None:
    assert _section(results, "Not measured") == "- redis/ThirdPeer: it needs a module"


def test_messages_that_the_store_lost_are_listed() -> None:
    found = _section(
        run(case("OurStore", [100], lost=1)), "Messages that the store did not keep, or kept twice"
    )
    assert found == "- Redis, OurStore, `hot`, 64 callers: 99 stored of 100 acknowledged"


def test_longer_wait_at_an_own_rate_is_listed_with_the_rates() -> None:
    ours = case("OurStore", [900], scenario="arrivals", level=50)
    peer = case("PeerSession", [100], scenario="arrivals", level=50, p99=500.0)
    found = _section(run(ours, peer), "A higher 99th percentile of the latency than a peer's")
    assert "| 2 ms at 900 /s | 500 µs at 100 /s | 4.0x (4.0 to 4.0) |" in found


def test_page_opens_with_the_nearest_peer(results: Results) -> None:
    row = "| Redis | 64 callers, one session | 100 | 2.0x (1.80 to 2.2) | 83 % | 0.50x OtherPeer |"
    assert row in _section(results, "At a glance").splitlines()


def test_peer_that_lost_messages_is_shown_with_how_many_it_kept(results: Results) -> None:
    assert "**kept 24**<br>**of 30**" in _page(results)


def test_disturbed_figure_has_an_asterisk() -> None:
    assert "| 100 \\*<br>2 ms |" in _page(run(case("OurStore", [100], foreign=0.2)))


def test_page_names_machine_versions_and_the_notes_on_systems(results: Results) -> None:
    found = _page(results)
    assert "Some processor, 2 processors, 24 GiB" in found
    assert "redis 6.4.0" in found
    assert "- **PeerSession** (peer): One object for each session." in found


def test_page_links_to_results_among_the_docs_and_names_others(results: Results) -> None:
    assert "[FULL.json](results/FULL.json)" in _page(results)
    assert "`new.json`" in page(Recorded(results, Path("elsewhere/new.json")), DOCS)


def test_page_shows_each_picture_of_each_store(results: Results) -> None:
    assert "](pictures/redis-throughput.svg)" in _page(results)
    assert "redis-history" not in _page(results)


def test_every_name_in_the_text_is_filled_in(results: Results) -> None:
    assert "{{" not in _page(results)


def test_name_with_a_bar_does_not_end_its_cell() -> None:
    found = _section(run(checks=[check("a | b", 0.5)]), "Missed targets")
    assert "| a \\| b |" in found


def test_page_without_cases_is_still_a_page() -> None:
    assert _section(run(), "Slower than a peer") == "None."


@pytest.fixture
def other() -> Results:
    """Another run, in which one of the peers was three times as fast."""
    return run(
        case("OurStore", [110, 120, 99]),
        case("PeerSession", [11, 11, 11]),
        case("OtherPeer", [600, 600, 600]),
        checks=[check("a good figure", 0.9), check("one more figure", 3.0)],
    )


def test_page_shows_how_well_another_run_agrees(results: Results, other: Results) -> None:
    found = page(
        Recorded(results, DOCS / "results" / "FULL.json"),
        DOCS,
        Recorded(other, DOCS / "results" / "OTHER.json"),
    )
    assert "The other run: [OTHER.json](results/OTHER.json) (2026-01-02T03:04:05Z, 2 min" in found
    assert "| Redis | 1 of 2 | +86.4 % |" in found
    moved = "| redis hot, 64 callers, OtherPeer | 0.18x (0.17 to 0.20) | 0.50x (0.45 to 0.55) |"
    assert moved in found
    assert "| a good figure | 0.90x **missed** | 2.0x | at least 1.00x |" in found
    assert "one more figure" not in found


def test_page_without_another_run_says_so(results: Results) -> None:
    assert "No other run is shown." in _page(results)


def test_write_page_replaces_the_page(tmp_path: Path, results: Results) -> None:
    (tmp_path / "performance.md").write_text("old", "utf-8")
    path = write_page(Recorded(results, tmp_path / "run.json"), tmp_path)
    assert path == tmp_path / "performance.md"
    assert path.read_text("utf-8").startswith("# Performance\n")
    assert "[run.json](run.json)" in path.read_text("utf-8")
