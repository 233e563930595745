from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.report.labels import spread_out


def test_labels_with_room_stay_where_they_are_wanted() -> None:
    assert spread_out([50, 10], [10, 10], 100) == [50, 10]


def test_labels_that_overlap_move_apart_alike() -> None:
    assert spread_out([50, 50], [10, 10], 100) == [45, 55]


def test_labels_at_an_end_move_inwards() -> None:
    assert spread_out([0, 1], [10, 20], 100) == [5, 20]


@given(
    st.lists(st.tuples(st.floats(-50, 250), st.floats(1, 20)), max_size=9),
    st.floats(180, 300),
)
def test_labels_never_overlap_nor_leave_the_length(
    labels: list[tuple[float, float]], length: float
) -> None:
    wanted, sizes = [place for place, _ in labels], [size for _, size in labels]
    places = spread_out(wanted, sizes, length)
    spans = sorted(
        (place - size / 2, place + size / 2) for place, size in zip(places, sizes, strict=True)
    )
    slack = 1e-6
    assert all(before[1] <= after[0] + slack for before, after in pairwise(spans))
    assert all(-slack <= low and high <= length + slack for low, high in spans)


def test_labels_without_enough_room_keep_their_order() -> None:
    places = spread_out([3, 1, 2], [10, 10, 10], 20)
    assert places == pytest.approx([25, 5, 15])
