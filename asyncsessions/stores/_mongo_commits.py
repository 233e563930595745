"""Commits versions of sessions, and looks after what is left to do afterwards."""

from __future__ import annotations

import asyncio
import copy
import random
import time
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any

from pymongo.errors import OperationFailure, WriteConcernError

from asyncsessions.errors import CorruptSessionError, SessionStoreError
from asyncsessions.pacing import Pacer
from asyncsessions.stores._mongo_background import Background
from asyncsessions.stores._mongo_beliefs import Beliefs
from asyncsessions.stores._mongo_clock import ServerClock
from asyncsessions.stores._mongo_database import Database, Document
from asyncsessions.stores._mongo_errors import DUPLICATE_KEY, is_lost
from asyncsessions.stores._mongo_jobs import Attempt, Job
from asyncsessions.stores._mongo_joins import (
    FIRST_SEQ,
    join_fields,
    join_filter,
)
from asyncsessions.stores._mongo_lanes import Lanes, together
from asyncsessions.stores._mongo_leftovers import Leftovers
from asyncsessions.stores._mongo_moves import Moves
from asyncsessions.stores._mongo_pages import Pages, StaleError
from asyncsessions.stores._mongo_plans import AppendJob, MoveJob
from asyncsessions.stores._mongo_session import HEAD_FIELDS, Head, size_of
from asyncsessions.stores._mongo_updates import Updates

__all__ = ["Commits", "Writer"]

# How many sessions of one flush are joined, each in a command of its own.
_JOINS = 4
_JOINED_BYTES = 256 << 10
# How long the loser of a race waits at first, at random, so that it doesn't lose for ever.
_PAUSE = 0.001
_LONGEST_PAUSE = 0.05


class Writer:
    """Stands for writes of this store, of which one at a time is under way in each session."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.counter = 0


class Commits:
    """Makes jobs' plans the sessions' versions.

    Args:
        database: Where.
        sessions: The collection of sessions.
        pages: Pages of sessions.
        leftovers: Removes what sessions have let go of.
        mover: Names pages in sessions that aren't written otherwise.
        clock: The server's clock; None where the time of requests decides.
    """

    def __init__(
        self,
        database: Database,
        sessions: str,
        *,
        pages: Pages,
        leftovers: Leftovers,
        mover: Writer,
        clock: ServerClock | None,
    ) -> None:
        self._database = database
        self._sessions = sessions
        self._pages = pages
        self._leftovers = leftovers
        self._clock = clock
        self._beliefs = Beliefs()
        self._cleaning: set[str] = set()
        self._background = Background()
        self._moves = Moves(database, sessions, pages, self._background)
        self._mover = mover
        self._is_naming = False

    async def run(self, jobs: Sequence[Job], writer: Writer) -> None:
        """Commit jobs; call it again with the same ones after a lost connection.

        Afterwards each of them is done and has its answer.
        """
        if self._clock is not None:
            await self._clock.refresh()
        if len(jobs) == 1:
            jobs[0].is_alone = True
        losses = 0
        while pending := [job for job in jobs if not job.is_done]:
            if losses > 1:
                longest = min(_PAUSE * 2**losses, _LONGEST_PAUSE)
                await asyncio.sleep(random.uniform(0, longest))  # noqa: S311  # no secret
            if self._beliefs.has_contested:
                await self._join_all(pending, writer)
                pending = [job for job in pending if not job.is_done]
            bases = await self._bases(pending, writer)
            await self._plan_and_send(pending, bases, writer)
            losses += 1
        if not self._is_naming and (overdue := self._moves.overdue()):
            self._is_naming = True
            self._background.spawn(self._name_pages(overdue))

    async def _plan_and_send(
        self, jobs: Sequence[Job], bases: dict[str, Head], writer: Writer
    ) -> None:
        """Send the plans of jobs, the first ones while the others are still made."""
        pacer = Pacer()
        lanes = Lanes(insert=self._insert, update=self._update)
        try:
            for job in jobs:
                if not job.is_done and await self._plan(job, bases):
                    self._sign(job, writer)
                    if lanes.take(job):
                        await asyncio.sleep(0)
                await pacer.pause()
        except BaseException:
            await lanes.leave()
            raise
        await lanes.finish()

    async def _bases(self, jobs: Sequence[Job], writer: Writer) -> dict[str, Head]:
        """Return the versions to plan from, and settle jobs that turn out to be done."""
        bases: dict[str, Head] = {}
        unknown: list[Job] = []
        for job in jobs:
            is_unsure = job.is_stale or self._beliefs.is_contested(job.session_id)
            head = None if is_unsure else self._beliefs.head(job.session_id)
            if head is None:
                unknown.append(job)
                job.is_stale = True
            else:
                bases[job.session_id] = head
        if unknown:
            found = await self._load([job for job in unknown if not job.needs_bodies], HEAD_FIELDS)
            for head in found.values():
                self._beliefs.remember_read(head)
            bases |= found
            bases |= await self._load([job for job in unknown if job.needs_bodies], {})
        for job in unknown:
            head = bases.get(job.session_id)
            done = [
                each for each in job.attempts if head and head.is_signed(writer.name, each.counter)
            ]
            if head and done and done[0].is_join and isinstance(job, AppendJob):
                self._settle_join(job, done[0], head, writer)
            elif done:
                self._settle(job, done[0])
        return bases

    async def _load(self, jobs: Sequence[Job], projection: Document) -> dict[str, Head]:
        """Return the stored versions of jobs' sessions, as far as there are any.

        A job whose session is damaged is done with the error.
        """
        heads: dict[str, Head] = {}
        damaged: dict[str, CorruptSessionError] = {}
        for document in await self._read(jobs, projection):
            session_id = document["_id"]
            try:
                heads[session_id] = Head.read(document)
            except CorruptSessionError as exc:
                damaged[session_id] = exc
        for job in jobs:
            if job.session_id in damaged:
                job.answer, job.is_done = damaged[job.session_id], True
        return heads

    async def _read(self, jobs: Sequence[Job], projection: Document) -> list[Document]:
        """Return the documents of jobs' sessions, durable ones where a job needs proof."""
        read: list[Document] = []
        wanted = {job.session_id for job in jobs if not job.needs_proof}
        while wanted:
            # A reply holds 16 MB, and leaves out what is beyond.
            where = {"_id": {"$in": list(wanted)}}
            found = await self._database.find(self._sessions, where, projection=projection)
            read += found
            wanted = wanted.difference(each["_id"] for each in found) if found else set()
        proofs = [
            self._database.find_durable(self._sessions, job.session_id, projection)
            for job in jobs
            if job.needs_proof
        ]
        if proofs:
            read += filter(None, await asyncio.gather(*proofs))
        return read

    async def _join_all(self, jobs: Sequence[Job], writer: Writer) -> None:
        """Have the server place what may stand anywhere, in sessions that others write, too."""
        joins: list[Coroutine[Any, Any, None]] = []
        for job in jobs:
            head = self._beliefs.head(job.session_id)
            if (
                head is not None
                and self._beliefs.is_contested(job.session_id)
                and self._moves.of(job.session_id) is None
                and writer.name in head.writers
                and isinstance(job, AppendJob)
                and job.can_join()
                and len(joins) < _JOINS
            ):
                joins.append(self._join(job, head, writer))
        await together(joins)

    async def _join(self, job: AppendJob, head: Head, writer: Writer) -> None:
        entries = job.entries()
        if size_of(entries) > _JOINED_BYTES:
            return
        last = job.appends[-1]
        moment = None if self._clock is None else self._clock.now()
        where = join_filter(head, writer.name, last.now if moment is None else moment)
        writer.counter += 1
        job.attempts.append(Attempt(writer.counter, head, head, is_join=True))
        slot = [writer.counter, self._now(), FIRST_SEQ]
        fields = join_fields(entries, last, moment) | {f"writers.{writer.name}": slot}
        job.is_stale = job.needs_proof = True
        try:
            joined = await self._database.update_one(
                self._sessions, where, [{"$set": fields}], HEAD_FIELDS
            )
        except OperationFailure as exc:
            if is_lost(exc) or isinstance(exc, WriteConcernError):
                raise
            return  # Whatever it is, the next step looks, and goes on without a join.
        job.needs_proof = False  # The reply is one.
        if joined is None:
            job.attempts[-1].has_failed = True
            return
        try:
            self._settle_join(job, job.attempts[-1], Head.read(joined), writer)
        except CorruptSessionError as exc:
            job.answer, job.is_done = exc, True

    def _settle_join(self, job: AppendJob, attempt: Attempt, head: Head, writer: Writer) -> None:
        first_seq = head.writers[writer.name][2]
        job.settle_join(attempt, head, first_seq)
        self._settle(job, attempt, first_seq=first_seq)
        if attempt.base is not None and first_seq == attempt.base.last_seq + 1:
            self._beliefs.calm_down(job.session_id)

    async def _plan(self, job: Job, bases: dict[str, Head]) -> bool:
        """Plan a job; return whether there is something to send."""
        base = bases.get(job.session_id)
        moment = None if self._clock is None else self._clock.now()
        job.move = self._moves.of(job.session_id)
        job.is_contested = self._beliefs.is_contested(job.session_id)
        try:
            job.head = await job.plan(base, moment)
        except StaleError:
            job.is_stale = True
            if base is not None and base.version == job.stale_version:
                # It is the stored version still, so nobody has removed them for a later one.
                detail = "pages that its document names aren't there"
                job.answer = CorruptSessionError(detail, session_id=job.session_id)
                job.is_done = True
            job.stale_version = None if base is None else base.version
            return False
        except SessionStoreError as exc:
            job.head, job.answer = None, exc
        except OperationFailure as exc:
            # The server refuses what belongs to this session, such as a collection of its own.
            if is_lost(exc):
                raise
            job.head, job.answer = None, exc
        job.base = base
        if job.head is not None:
            return True
        # Neither a remembered version nor one that may be undone can be the answer.
        job.is_done = job.needs_proof
        job.is_stale = job.needs_proof = True
        if job.is_done:
            self._give_up(job, base)
        return False

    def _give_up(self, job: Job, base: Head | None) -> None:
        """Remove the pages that a job, which is done without a version of its own, has written.

        Args:
            job: The job.
            base: The stored version.
        """
        if job.move is not None and not (base and job.move.fits(base)):
            self._moves.let_go(job.move)
        for attempt in job.attempts:
            if attempt.nodes and not attempt.may_still_succeed(base):
                self._background.spawn(self._pages.remove(attempt.head, attempt.nodes))

    def _now(self) -> float:
        """Return the time by which writers are forgotten, of a clock that they share."""
        return time.time() if self._clock is None else self._clock.now()

    def _sign(self, job: Job, writer: Writer) -> None:
        assert job.head is not None  # noqa: S101  # it has a plan
        writer.counter += 1
        job.head.sign(writer.name, writer.counter, self._now())
        job.attempts.append(
            Attempt(writer.counter, job.base, job.head, job.answer, job.nodes, job.named)
        )

    async def _insert(self, jobs: Sequence[Job]) -> None:
        documents = []
        pacer = Pacer()
        for job in jobs:
            await pacer.pause()
            documents.append(job.attempts[-1].head.document())
        for job in jobs:
            job.is_stale = job.needs_proof = True
        failures = (await self._database.insert(self._sessions, documents)).failures

        def hear(index: int, job: Job) -> None:
            job.needs_proof = False  # The reply is one.
            failure = failures.get(index)
            if failure is None:
                self._settle(job, job.attempts[-1])
            elif failure.code == DUPLICATE_KEY:
                job.attempts[-1].has_failed = True
            else:
                self._fail(job, failure)

        await _tell(jobs, hear)

    async def _update(self, jobs: Sequence[Job]) -> None:
        updates = await Updates.of(jobs)
        for job in jobs:
            job.is_stale = job.needs_proof = True
        written = await self._database.update(self._sessions, updates.documents)
        refused = updates.refused(written.failures)
        for job, failure in refused.items():
            self._fail(job, failure)
        is_counted = len(refused) == len(written.failures)
        left = [job for job in jobs if not job.is_done]

        def hear(_: int, job: Job) -> None:
            # The reply is one, but for a join without a reply, which may come yet.
            job.needs_proof = any(each.is_join and not each.has_failed for each in job.attempts)
            if is_counted and written.documents == len(left):
                self._settle(job, job.attempts[-1])
            else:
                # The server doesn't say which were lost, unless all were; all look again.
                job.attempts[-1].has_failed = is_counted and not written.documents

        await _tell(left, hear)

    def _fail(self, job: Job, failure: Exception) -> None:
        """Note that the server has refused a job's write, which is only this job's affair."""
        job.answer, job.is_done = failure, True
        # It may hold something else by now than what is believed.
        self._beliefs.forget(job.session_id)

    def _settle(self, job: Job, attempt: Attempt, *, first_seq: int = 0) -> None:
        """Note that an attempt has become its session's version.

        Args:
            job: The job.
            attempt: The attempt.
            first_seq: See `Moves.settle`.
        """
        job.is_done = True
        job.answer = attempt.answer
        session_id, head = job.session_id, attempt.head
        self._beliefs.remember(head.committed())
        if len(job.attempts) > 1 or self._beliefs.is_contested(session_id):
            self._beliefs.contest(head)
        for other in job.attempts:
            if other.nodes and (unnamed := set(other.nodes).difference(attempt.nodes)):
                self._background.spawn(self._pages.remove(other.head, list(unnamed)))
        self._moves.settle(
            head,
            attempt.move,
            first_seq=first_seq,
            is_alone=job.is_alone,
            is_contested=self._beliefs.is_contested(session_id),
        )
        if head.garbage and not job.cleans_up:
            self.clean_up_later(session_id)

    def note_read(self, session_id: str) -> None:
        """Note that somebody reads a session's newest messages."""
        self._moves.note_read(session_id)

    async def name_all_pages(self) -> None:
        """Name whatever pages wait for it."""
        if sessions := self._moves.sessions():
            await self._name_pages(sessions)

    async def _name_pages(self, session_ids: Iterable[str]) -> None:
        """Name the pages that wait in sessions, without another write.

        It is no part of a flush, because two flushes would meet in these sessions.
        """
        try:
            await self.run([MoveJob(session_id) for session_id in session_ids], self._mover)
        finally:
            self._is_naming = False

    async def clean_up(self, session_id: str) -> None:
        """Remove what a session has let go of."""
        try:
            garbage = await self._leftovers.remove(session_id)
        finally:
            self._cleaning.discard(session_id)
        head = self._beliefs.head(session_id)
        if head is not None and head.garbage == garbage:
            # A copy, for a flush may be planned from this one.
            head = copy.copy(head)
            head.garbage = ()
            self._beliefs.remember(head)

    def clean_up_later(self, session_id: str) -> None:
        """Remove what a session has let go of in the background, unless that is under way."""
        if session_id not in self._cleaning:
            self._cleaning.add(session_id)
            self._background.spawn(self.clean_up(session_id))

    async def finish(self) -> None:
        """Return when nothing is under way in the background."""
        await self._background.finish()


async def _tell(jobs: Sequence[Job], hear: Callable[[int, Job], None]) -> None:
    """Tell each job what became of it, giving way in between.

    If that is cancelled, the rest is told at once: the server has answered, so nobody may hear
    that the outcome isn't known.
    """
    left = iter(enumerate(jobs))
    pacer = Pacer()
    try:
        for index, job in left:
            hear(index, job)
            await pacer.pause()
    finally:
        for index, job in left:
            hear(index, job)
