"""Systems on one server, measured in turns."""

from __future__ import annotations

import asyncio
import gc
import random
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field

from benchmarks.load import OUTSTANDING, Operation, arriving, capacity, closed
from benchmarks.measure import CountError, Run
from benchmarks.payload import TEXT
from benchmarks.results import Case, Sample
from benchmarks.systems import Contender, System

__all__ = ["Entrant", "MakeWork", "Match", "Work"]

_WARM_UP_SECONDS = 0.1
_TOUCH_SECONDS = 1.0
# Where one call of each caller takes so long, fewer repetitions must do.
_SLOW_SECONDS = 1.5
_SLOW_REPETITIONS = 2
_MANY = 50
# What takes longer than this stands still.
_TIMEOUT = 120.0


@dataclass(frozen=True, slots=True)
class Work:
    """What callers do.

    Attributes:
        operation: One call of it.
        session_ids: All sessions that it appends to.
        messages: How many messages one operation stores.
        before: How many of them were stored for it before.
    """

    operation: Operation
    session_ids: Sequence[str]
    messages: int = 1
    before: int = 0


MakeWork = Callable[[System, int], Work]
"""Takes a system and the number of the repetition; -1 is the warm-up."""


@dataclass(frozen=True, slots=True)
class Entrant:
    """A contender that has been opened."""

    contender: Contender
    system: System


@dataclass(frozen=True, slots=True)
class Turn:
    """A system's part of a match, at one level.

    Attributes:
        entrant: The system.
        case: What comes of it.
        session_ids: All sessions that it has appended to.
    """

    entrant: Entrant
    case: Case
    session_ids: set[str] = field(default_factory=set)

    @property
    def is_peer(self) -> bool:
        """Whether it may fail, and be shown with that."""
        return self.case.kind == "peer"

    def note(self, sample: Sample, work: Work) -> None:
        """Take what came of some work.

        Raises:
            CountError: A call failed that must not.
        """
        self.session_ids.update(work.session_ids)
        self.case.acknowledged += work.before + sample.operations * work.messages
        if sample.repetition >= 0:
            self.case.samples.append(sample)
        if sample.errors and not self.is_peer:
            raise CountError(f"{_where(self.case)}: {sample.errors}")


class Match:
    """Some systems in one scenario.

    All of them run in each repetition, one after the other in a random order, so that whatever
    else the machine does meets all of them alike. Afterwards what is stored is counted. A peer that
    raises an error where none is expected, or stands still, is out of the match; any other's error
    ends it.

    Args:
        run: How much to measure.
        scenario: The scenario's name.
        store: Where messages are kept.
        place: The URL or the directory.
        entrants: The systems.
    """

    def __init__(
        self, run: Run, scenario: str, store: str, place: str, entrants: Sequence[Entrant]
    ) -> None:
        self.run = run
        self.store = store
        self.place = place
        self.cases: list[Case] = []
        self.faults: list[str] = []
        self._scenario = scenario
        self._entrants = list(entrants)

    def entrants(self, callers: int = 1) -> list[Entrant]:
        """Return the systems that take part, with so many callers."""
        return [
            entrant
            for entrant in self._entrants
            if callers <= entrant.contender.most_callers
            and self._scenario not in entrant.contender.without
        ]

    def levels(self, *levels: int, quick: Sequence[int] = (64,)) -> Sequence[int]:
        """Return these, or fewer ones for a quick run."""
        return quick if self.run.is_quick else levels

    def turn(self, entrant: Entrant, level: int, operation: str = "append") -> Turn:
        """Add a case for a system."""
        contender = entrant.contender
        case = Case(
            scenario=self._scenario,
            store=self.store,
            system=contender.name,
            kind=contender.kind,
            level=level,
            operation=operation,
        )
        self.cases.append(case)
        return Turn(entrant, case)

    async def closed(
        self,
        level: int,
        make: MakeWork,
        *,
        callers: int | None = None,
        operation: str = "append",
        most: int | None = None,
        entrants: Sequence[Entrant] | None = None,
        has_sessions: bool = True,
        has_target: bool = False,
    ) -> None:
        """Measure all systems with callers in a closed loop.

        Args:
            level: The cases' level; also the number of callers, unless that is given.
            make: Makes what they do.
            callers: How many there are.
            operation: The cases' operation.
            most: How many operations each caller does at most in a repetition.
            entrants: Only these systems.
            has_sessions: Whether the sessions, if they are many, are made before.
            has_target: Whether a ratio of the cases has to reach one, and so has to be exact.
        """
        count = level if callers is None else callers

        async def measure(turn: Turn, repetition: int) -> None:
            work = make(turn.entrant.system, repetition)
            seconds = self.run.seconds if repetition >= 0 else _WARM_UP_SECONDS
            sample = await closed(
                work.operation, callers=count, seconds=seconds, repetition=repetition, most=most
            )
            turn.note(sample, work)

        chosen = self.entrants(count) if entrants is None else entrants
        turns = [self.turn(entrant, level, operation) for entrant in chosen]
        if has_sessions:
            await self.touch(turns, make)
        run = self.run
        repetitions = run.repetitions_with_target if has_target else run.repetitions
        for repetition in range(-1, repetitions):
            for turn in self.in_turns(turns, repetition):
                await self.attempt(turn.entrant, measure(turn, repetition))
        await self.verify(turns)

    async def arriving(self, percentages: Sequence[int], make: Callable[[int], MakeWork]) -> None:
        """Measure all systems with arrivals at percentages of what each of them gets through.

        That is measured anew in each repetition, just before, in the sessions of the first level.

        Args:
            percentages: The cases' levels.
            make: Takes the level, and returns what makes the work.
        """
        levels = {
            level: [self.turn(each, level) for each in self.entrants()] for level in percentages
        }
        for level, turns in levels.items():
            await self.touch(turns, make(level))

        async def measure(turns: Sequence[Turn], repetition: int) -> None:
            first = turns[0]
            work = make(first.case.level)(first.entrant.system, repetition)
            callers = min(OUTSTANDING, first.entrant.contender.most_callers)
            rate, done = await capacity(work.operation, self.run.seconds, callers=callers)
            first.case.acknowledged += done
            for turn in turns:
                work = make(turn.case.level)(turn.entrant.system, repetition)
                sample = await arriving(
                    work.operation,
                    rate=max(rate * turn.case.level / 100, 1.0),
                    seconds=2 * self.run.seconds,
                    repetition=repetition,
                )
                turn.note(sample, work)

        first, *rest = levels.values()
        for repetition in range(self.run.repetitions):
            for turn in self.in_turns(first, repetition):
                same = [each for turns in rest for each in turns if each.entrant is turn.entrant]
                await self.attempt(turn.entrant, measure([turn, *same], repetition))
        for turns in levels.values():
            await self.verify(turns)

    def in_turns(self, turns: Sequence[Turn], repetition: int) -> Iterator[Turn]:
        """Return those that have a turn in a repetition, in an order of its own."""
        order = random.Random(repetition + 1)
        for turn in order.sample(turns, len(turns)):
            samples = turn.case.samples
            is_slow = samples and samples[0].seconds > _SLOW_SECONDS
            if turn.entrant in self._entrants and not (is_slow and repetition >= _SLOW_REPETITIONS):
                case = turn.case
                text = f"{self.store}: {self._scenario} {case.level:,} {case.operation}"
                self.run.progress(f"{text}, {case.system}")
                # As a server does at its start: or a full collection in this turn walks through
                # all modules and what the others hold, which says nothing about this system.
                gc.collect()
                gc.freeze()
                yield turn

    async def attempt(self, entrant: Entrant, part: Awaitable[None]) -> None:
        """Await a part of the match for one system."""
        contender = entrant.contender
        try:
            async with asyncio.timeout(_TIMEOUT):
                await part
        except Exception as exc:
            if contender.kind != "peer":
                raise
            where = f"{contender.name}, {self._scenario} on {self.store}"
            self.faults.append(f"{where}: {type(exc).__name__}: {exc}")
            if entrant in self._entrants:
                self._entrants.remove(entrant)

    async def touch(self, turns: Sequence[Turn], make: MakeWork) -> None:
        """Make most sessions, if they are many, so that nobody measures how they are made."""
        for turn in turns:
            system = turn.entrant.system
            session_ids = make(system, -1).session_ids
            if len(session_ids) >= _MANY and turn.entrant in self._entrants:
                await self.attempt(turn.entrant, _touch(turn, session_ids))

    async def verify(self, turns: Sequence[Turn]) -> None:
        """Count what is stored.

        Raises:
            CountError: One that is no peer has lost a message, or has one too many.
        """
        for turn in turns:
            await self.attempt(turn.entrant, _count(turn))
        for turn in turns:
            case = turn.case
            if not turn.is_peer and case.stored != case.acknowledged:
                text = f"{case.acknowledged} messages acknowledged, {case.stored} stored"
                raise CountError(f"{_where(case)}: {text}")


async def _touch(turn: Turn, session_ids: Sequence[str]) -> None:
    left = iter(session_ids)
    callers = min(_MANY, turn.entrant.contender.most_callers)

    async def operation(_: int) -> None:
        for session_id in left:
            await turn.entrant.system.append(session_id, TEXT)
            return

    sample = await closed(
        operation,
        callers=callers,
        seconds=_TOUCH_SECONDS,
        repetition=-1,
        most=len(session_ids) // callers,
    )
    turn.note(sample, Work(operation, session_ids))


async def _count(turn: Turn) -> None:
    turn.case.stored = await turn.entrant.system.count(sorted(turn.session_ids))


def _where(case: Case) -> str:
    return f"{case.system}, {case.scenario} {case.level} on {case.store}"
