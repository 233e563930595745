"""What is kept of a run, and how its figures are summed up."""

from __future__ import annotations

import math

import pytest

from benchmarks.results import Spread


@pytest.mark.parametrize(
    ("count", "low", "high"),
    [
        pytest.param(1, 0, 0, id="one"),
        pytest.param(2, 0, 1, id="two"),
        pytest.param(5, 0, 4, id="five"),
        pytest.param(9, 1, 7, id="nine"),
        pytest.param(25, 7, 17, id="twenty-five"),
    ],
)
def test_interval_of_a_median(count: int, low: int, high: int) -> None:
    values = [float(value) for value in range(count)]
    assert Spread.of(values[::-1]) == Spread((count - 1) / 2, low, high)


@pytest.mark.parametrize("count", range(6, 60))
def test_interval_holds_the_true_median_in_95_of_100_runs_and_is_no_wider(count: int) -> None:
    def confidence(outside: int) -> float:
        """How likely it is that more than so many values are below the median, and above it."""
        beyond = sum(math.comb(count, below) for below in range(outside + 1))
        return 1.0 - beyond / 2.0 ** (count - 1)

    outside = int(Spread.of([float(value) for value in range(count)]).low)
    assert confidence(outside) >= 0.95 > confidence(outside + 1)
