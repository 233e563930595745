"""What a run is, and checks of what it measures against targets."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.results import Check, Spread

__all__ = [
    "CannotMeasureError",
    "CountError",
    "Run",
    "at_least",
    "at_most",
    "ratio_of",
]


class CannotMeasureError(Exception):
    """Something that the scenario needs isn't here."""


class CountError(Exception):
    """What is stored isn't what was acknowledged: no figure of this run means anything."""


@dataclass(frozen=True, slots=True)
class Run:
    """How much to measure, and where the files go.

    Attributes:
        is_quick: Whether two minutes must do: fewer levels, shorter and fewer repetitions, and
            targets so far apart that they only catch a lost batch or a cost that grows.
        directory: Where the files go.
        stores: Only these; empty means all.
        peers: Only these of the peers, by a part of their names; empty means all.
        transcripts: A file of real dialogues to replay.
        progress: Called with what goes on.
    """

    is_quick: bool
    directory: Path
    stores: Sequence[str] = ()
    peers: Sequence[str] = ()
    transcripts: Path | None = None
    progress: Callable[[str], None] = field(default=lambda _: None)

    @property
    def repetitions(self) -> int:
        return 3 if self.is_quick else 5

    @property
    def repetitions_with_target(self) -> int:
        """Where a ratio has a target: of five, the median may be a tenth off."""
        return 3 if self.is_quick else 15

    @property
    def seconds(self) -> float:
        """How long one case runs in one repetition."""
        return 0.2 if self.is_quick else 0.3

    def new_directory(self, name: str) -> Path:
        directory = self.directory / f"{name}-{time.monotonic_ns()}"
        directory.mkdir()
        return directory


def ratio_of(rates: Sequence[tuple[float, float]]) -> tuple[list[float], str]:
    """Return the ratio of each repetition, and the median rates as text."""
    ours, reference = (Spread.of(list(column)).median for column in zip(*rates, strict=True))
    return [fast / slow for fast, slow in rates], f"{ours:,.0f}/s to {reference:,.0f}/s"


def at_least(
    run: Run,
    name: str,
    values: Sequence[float],
    target: float,
    *,
    smoke: float | None = None,
    unit: str = "x",
    detail: str = "",
) -> Check:
    """Check that the median reaches a target: half of it in a quick run, unless told."""
    if run.is_quick:
        target = target / 2 if smoke is None else smoke
    return _check(name, values, target, is_floor=True, unit=unit, detail=detail)


def at_most(
    run: Run,
    name: str,
    values: Sequence[float],
    target: float,
    *,
    smoke: float | None = None,
    unit: str = "x",
    detail: str = "",
) -> Check:
    """Check that the median stays within a target: twice it in a quick run, unless told."""
    if run.is_quick:
        target = target * 2 if smoke is None else smoke
    return _check(name, values, target, is_floor=False, unit=unit, detail=detail)


def _check(
    name: str, values: Sequence[float], target: float, *, is_floor: bool, unit: str, detail: str
) -> Check:
    return Check(
        scenario="",  # Whoever runs the scenario fills it in.
        name=name,
        measured=Spread.of(list(values)),
        target=target,
        is_floor=is_floor,
        unit=unit,
        detail=detail,
    )
