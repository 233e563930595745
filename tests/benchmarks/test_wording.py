from __future__ import annotations

import pytest

from benchmarks.report import wording
from benchmarks.results import Spread
from tests.benchmarks.runs import case


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (4.934, "4.93"), (99.96, "100"), (999.6, "1,000"), (40_812, "40,800")],
)
def test_number_has_three_digits_that_count(value: float, text: str) -> None:
    assert wording.number(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0.949, "0.95x"), (4.93, "4.9x"), (46.4, "46x"), (1234, "1,230x")]
)
def test_ratio_is_as_exact_as_it_is_small(value: float, text: str) -> None:
    assert wording.ratio(value) == text


@pytest.mark.parametrize(
    ("microseconds", "text"),
    [(0.5, "0.5 µs"), (87.2, "87 µs"), (950, "950 µs"), (1234, "1.2 ms"), (2_100_000, "2.1 s")],
)
def test_latency_has_the_unit_that_suits_it(microseconds: float, text: str) -> None:
    assert wording.latency(microseconds) == text


def test_spread_shows_the_interval() -> None:
    assert wording.spread(Spread(4.93, 4.7, 5.72)) == "4.9x (4.7 to 5.7)"


@pytest.mark.parametrize(
    ("lost", "text"), [(0, ""), (1, "kept 99.9 %"), (3801, "kept 96.1 %"), (100_000, "kept 0 %")]
)
def test_kept_share_never_hides_a_lost_message(lost: int, text: str) -> None:
    assert wording.kept_share([case("PeerSession", [100_000], lost=lost)]) == text
