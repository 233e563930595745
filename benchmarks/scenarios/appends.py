"""Callers that append, in a closed loop or as they arrive."""

from __future__ import annotations

import itertools
import random
from collections.abc import Awaitable, Iterator

from benchmarks.match import MakeWork, Match, Work
from benchmarks.payload import TEXT
from benchmarks.systems import System

__all__ = ["arrivals", "big", "hot", "sessions", "zipf"]

CALLERS = (1, 8, 64, 256, 1024)
SESSIONS = 1000
_WITH_TARGETS = (1, 64, 256)
_BIG = "x" * (64 << 10)
_SKEW = 1.0
_DRAWS = 100_003


def _appends(session_ids: list[str], order: Iterator[str], text: str = TEXT) -> MakeWork:
    """Return work that appends to sessions in an order that all callers share."""

    def make(system: System, _: int) -> Work:
        append = system.append

        def operation(_: int) -> Awaitable[object]:
            return append(next(order), text)

        return Work(operation, session_ids)

    return make


def _ids(name: str, level: int, count: int = SESSIONS) -> list[str]:
    return [f"{name}-{level}-{number}" for number in range(count)]


async def hot(match: Match) -> None:
    """All callers append to one session; each repetition has one of its own."""

    def at(level: int) -> MakeWork:
        def make(system: System, repetition: int) -> Work:
            ids = [f"hot-{level}-{repetition}"]
            return _appends(ids, itertools.repeat(ids[0]))(system, repetition)

        return make

    for level in match.levels(*CALLERS, quick=(1, 64)):
        await match.closed(level, at(level), has_target=level in _WITH_TARGETS)


async def sessions(match: Match) -> None:
    """Each next append goes to the next of 1,000 sessions."""
    for level in match.levels(1, 64, 256, quick=(256,)):
        ids = _ids("sessions", level)
        work = _appends(ids, itertools.cycle(ids))
        await match.closed(level, work, has_target=level in _WITH_TARGETS)


async def zipf(match: Match) -> None:
    """1,000 sessions, of which the nth is n times less popular than the first."""
    for level in match.levels(*CALLERS, quick=(64,)):
        ids = _ids("zipf", level)
        weights = [1 / rank**_SKEW for rank in range(1, len(ids) + 1)]
        drawn = random.Random(level).choices(ids, weights, k=_DRAWS)
        await match.closed(level, _appends(ids, itertools.cycle(drawn)))


async def big(match: Match) -> None:
    """Messages of 64 KiB to 64 sessions."""
    for level in match.levels(1, 8, 64):
        ids = _ids("big", level, 64)
        await match.closed(level, _appends(ids, itertools.cycle(ids), _BIG))


async def arrivals(match: Match) -> None:
    """Appends to 1,000 sessions begin at random moments, at percentages of a system's capacity.

    The latency counts from when a call should have begun, not from when there was time for it.
    """

    def at(level: int) -> MakeWork:
        ids = _ids("arrivals", level)
        return _appends(ids, itertools.cycle(ids))

    await match.arriving(match.levels(10, 50, 90, quick=(50,)), at)
