"""How to measure: closed loops, interleaved repetitions, and checks against targets."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = [
    "CannotMeasureError",
    "Case",
    "Check",
    "CountError",
    "Run",
    "at_least",
    "at_most",
    "compare",
    "ratio_of",
]

WARM_UP_SECONDS = 0.1


class CannotMeasureError(Exception):
    """Something that the scenario needs isn't here."""


class CountError(Exception):
    """What is stored isn't what was acknowledged: no figure of this run means anything."""


@dataclass(frozen=True, slots=True)
class Run:
    """How much to measure, and where the files go."""

    is_smoke: bool
    directory: Path

    @property
    def repetitions(self) -> int:
        return 3 if self.is_smoke else 11

    @property
    def seconds(self) -> float:
        """How long one case runs in one repetition."""
        return 0.25 if self.is_smoke else 0.5

    def new_directory(self, name: str) -> Path:
        directory = self.directory / f"{name}-{time.monotonic_ns()}"
        directory.mkdir()
        return directory


@dataclass(frozen=True, slots=True)
class Check:
    """One figure with its target."""

    name: str
    measured: float
    low: float
    high: float
    target: float
    is_floor: bool
    unit: str
    detail: str

    @property
    def passed(self) -> bool:
        if self.is_floor:
            return self.measured >= self.target
        return self.measured <= self.target


@dataclass(slots=True)
class Case:
    """One operation done by callers at the same time.

    ``operation`` takes the number of its caller; ``stored`` counts what is there to read.
    """

    name: str
    callers: int
    operation: Callable[[int], Awaitable[object]]
    stored: Callable[[], Awaitable[int]]
    acknowledged: int = 0

    async def rate(self, seconds: float) -> float:
        """Run all callers in a closed loop; return operations a second."""
        start = time.perf_counter()
        end = start + seconds
        operation = self.operation

        async def call(number: int) -> int:
            count = 0
            while time.perf_counter() < end:
                await operation(number)
                count += 1
            return count

        count = sum(await asyncio.gather(*map(call, range(self.callers))))
        self.acknowledged += count
        return count / (time.perf_counter() - start)

    async def verify(self) -> None:
        stored = await self.stored()
        if stored != self.acknowledged:
            text = f"{self.name}: {self.acknowledged} appends acknowledged, {stored} stored"
            raise CountError(text)


async def compare(run: Run, ours: Case, reference: Case) -> list[tuple[float, float]]:
    """Return both rates of every repetition.

    Both run in each repetition, first one and then the other in front, so that whatever else
    the machine does meets both.
    """
    rates = []
    for case in (ours, reference):
        await case.rate(WARM_UP_SECONDS)
    for repetition in range(run.repetitions):
        if repetition % 2:
            slow = await reference.rate(run.seconds)
            rates.append((await ours.rate(run.seconds), slow))
        else:
            fast = await ours.rate(run.seconds)
            rates.append((fast, await reference.rate(run.seconds)))
    for case in (ours, reference):
        await case.verify()
    return rates


def ratio_of(rates: Sequence[tuple[float, float]]) -> tuple[list[float], str]:
    """Return the ratio of each repetition, and the median rates as text."""
    ours, reference = (statistics.median(column) for column in zip(*rates, strict=True))
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
    """Check that the median reaches a target: half of it in a smoke run, unless told."""
    if run.is_smoke:
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
    """Check that the median stays within a target: twice it in a smoke run, unless told."""
    if run.is_smoke:
        target = target * 2 if smoke is None else smoke
    return _check(name, values, target, is_floor=False, unit=unit, detail=detail)


def _check(
    name: str, values: Sequence[float], target: float, *, is_floor: bool, unit: str, detail: str
) -> Check:
    low = high = values[0]
    if len(values) > 1:
        low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    median = statistics.median(values)
    return Check(name, median, low, high, target, is_floor, unit, detail)
