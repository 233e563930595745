"""Sessions in MongoDB: one document for each, which is its truth and its commit point."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Sequence
from typing import Any, Self, TypeVar

from asyncsessions._compat import override
from asyncsessions.batching import Outcome
from asyncsessions.errors import CorruptSessionError, SessionStoreError, StoreUnavailableError
from asyncsessions.hooks import Append, Appended, Replace, Replaced, Scan, Tail, Update, Window
from asyncsessions.models import JSONValue, SessionInfo
from asyncsessions.stores import _mongo_errors as errors
from asyncsessions.stores._mongo_clock import ServerClock
from asyncsessions.stores._mongo_commits import Commits, Writer
from asyncsessions.stores._mongo_database import DRIVER_OPTIONS, Database, WriteConcern
from asyncsessions.stores._mongo_jobs import Job
from asyncsessions.stores._mongo_keys import OldKeys
from asyncsessions.stores._mongo_leftovers import Leftovers
from asyncsessions.stores._mongo_pages import Pages
from asyncsessions.stores._mongo_plans import AppendJob, DeleteJob, UpdateJob
from asyncsessions.stores._mongo_reads import Reads, indexes
from asyncsessions.stores._mongo_replace import ReplaceJob
from asyncsessions.stores._mongo_retention import Retention
from asyncsessions.stores._servers import SERVER_OPTIONS, ServerStore, Turns
from asyncsessions.stores._urls import split_options

__all__ = ["MongoSessionStore"]

J = TypeVar("J", AppendJob, UpdateJob)


def _write_concern(text: str) -> int | str:
    return int(text) if text.isdigit() else text


_OWN_OPTIONS: dict[str, Callable[[str], Any]] = {
    "database": str,
    "prefix": str,
    "write_concern": _write_concern,
}
_OPTIONS = _OWN_OPTIONS | SERVER_OPTIONS
_PREFIX = re.compile(r"[A-Za-z0-9_.-]{0,64}\Z")
# A document of the server holds 16 MiB.
_LARGEST_MESSAGE = 15 << 20


_AT_ONCE = 16
# What a closing store may leave undone if the server is away.
_TIDYING_SECONDS = 2.0


class MongoSessionStore(ServerStore):
    """Keeps sessions in a MongoDB database, for any number of processes.

    It needs no transactions, so a standalone server will do. A flush of appends to however many
    sessions is one round trip. A write whose connection broke is tried again, and the session's
    document itself tells whether the first attempt got through.

    Args:
        source: A URL, ``mongodb://user:password@host/database``, or a client, PyMongo's
            ``AsyncMongoClient`` or Motor's, which stays the caller's to close.
        database: The database; by default that of the URL, else ``asyncsessions``.
        prefix: What the names of the three collections begin with.
        write_concern: How many members have a write before it is acknowledged; by default
            ``"majority"``, unless the URL (``w``) or the client says otherwise.
        journal: Whether it is in their journals, too; by default it is, unless the URL
            (``journal``) or the client says otherwise.
        **options: See `ServerStore` and `BaseSessionStore`. ``max_message_bytes`` is at most
            15 MiB.

    Raises:
        ValueError: An argument isn't valid; names it.
    """

    _driver_errors = errors.DRIVER_ERRORS
    # The server works on one while the client encodes the other.
    _flushes_at_once = 2

    def __init__(
        self,
        source: Any,
        *,
        database: str | None = None,
        prefix: str = "",
        write_concern: int | str | None = None,
        journal: bool | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        if options.get("max_message_bytes", 0) > _LARGEST_MESSAGE:
            size = options["max_message_bytes"]
            text = f"give {_LARGEST_MESSAGE} or less, as a document of MongoDB holds 16 MiB"
            raise ValueError(f"max_message_bytes={size!r}: {text}")
        if not _PREFIX.match(prefix):
            text = "give up to 64 letters, digits, dots, dashes and underscores"
            raise ValueError(f"prefix={prefix!r}: {text}")
        concern = WriteConcern(write_concern, journal)
        self._database = Database(source, name=database, concern=concern, timeout=self._timeout)
        self._sessions = f"{prefix}sessions"
        self._key_collection = f"{prefix}keys"
        self._old_keys = OldKeys(self._database, self._key_collection)
        self._pages = Pages(self._database, f"{prefix}messages", self._sessions)
        self._leftovers = Leftovers(
            self._database, self._sessions, pages=self._pages, old_keys=self._old_keys
        )
        self._retention = Retention(self._pages)
        self._reads = Reads(self._database, self._sessions, self._pages)
        self._clock = ServerClock(self._database)
        # For what goes on beside the flushes, in sessions that these may write at the same time.
        self._idle_writers: list[Writer] = []
        self._writer_count = 0
        # More connections at a time make no server faster.
        self._turns = Turns(_AT_ONCE, self._timeout)

    @override
    @classmethod
    def from_url(cls, url: str, **options: Any) -> Self:
        """Return a store for a URL; see `open_store`."""
        # The driver takes them in any case; nobody writes them in another than these two.
        of_driver = DRIVER_OPTIONS | {name.lower() for name in DRIVER_OPTIONS}
        driver_url, given = split_options(url, _OPTIONS, of_driver)
        return cls(driver_url, **given | options)

    # Life cycle.

    @override
    async def _open(self) -> None:
        self._writer = Writer(self._writer_id)
        self._commits = Commits(
            self._database,
            self._sessions,
            pages=self._pages,
            leftovers=self._leftovers,
            mover=self._new_writer(),
            clock=self._clock if self._expires_by_server else None,
        )
        try:
            await self._database.open()
            await self._retried(self._prepare)
        except BaseException:
            await self._database.close()
            raise

    async def _prepare(self) -> None:
        await self._database.check_version()
        await self._clock.refresh()
        made = [*indexes(), self._leftovers.index()]
        await self._database.command({"createIndexes": self._sessions, "indexes": made})
        made = list(self._old_keys.index())
        await self._database.command({"createIndexes": self._key_collection, "indexes": made})
        await self._database.check_write_concern(self._sessions)

    @override
    async def _close(self) -> None:
        try:
            await self._commits.finish()
            async with asyncio.timeout(min(self._timeout, _TIDYING_SECONDS)):
                await self._commits.name_all_pages()
            await self._commits.finish()
        except self._driver_errors:
            pass  # What isn't tidied up does no harm.
        finally:
            await self._database.close()

    @override
    async def _ping(self) -> None:
        await self._retried(lambda: self._database.command({"ping": 1}))

    @override
    def _is_lost(self, exc: Exception) -> bool:
        return errors.is_lost(exc)

    @override
    def _explain(self, exc: Exception) -> tuple[type[StoreUnavailableError], str]:
        return errors.explain(exc)

    # Writes.

    @override
    async def _append(self, batch: Sequence[Append]) -> Sequence[Outcome[Appended]]:
        jobs: dict[str, AppendJob] = {}
        for index, append in enumerate(batch):
            session_id = append.session_id
            job = jobs.get(session_id)
            if job is None:
                job = AppendJob(session_id, self._pages, self._old_keys, self._retention)
                jobs[session_id] = job
            job.add(index, append)
        return await self._flush(list(jobs.values()), len(batch))

    @override
    async def _update(self, batch: Sequence[Update]) -> Sequence[Outcome[list[JSONValue] | None]]:
        jobs: dict[str, UpdateJob] = {}
        for index, update in enumerate(batch):
            jobs.setdefault(update.session_id, UpdateJob(update.session_id)).add(index, update)
        return await self._flush(list(jobs.values()), len(batch))

    async def _commit(
        self, jobs: Sequence[Job], writer: Writer, *, since: float | None = None
    ) -> None:
        # A job knows what was sent for it before.
        await self._retried(lambda: self._commits.run(jobs, writer), since=since)

    async def _flush(self, jobs: Sequence[J], count: int) -> Sequence[Outcome[Any]]:
        """Commit jobs, and return the outcomes of the writes in them."""
        failure: Exception | None = None
        try:
            await self._commit(jobs, self._writer)
        except self._driver_errors as exc:
            failure = exc
        outcomes: list[Any] = [failure] * count
        for job in jobs:
            answer = job.answer
            if not job.is_done:
                assert failure is not None  # noqa: S101  # or it would be done
                answer = self._failure(failure, job.session_id)
            elif isinstance(answer, self._driver_errors):
                answer = self._failure(answer, job.session_id)
            if isinstance(answer, SessionStoreError):
                answer = [answer] * len(job.indexes)
            for index, outcome in zip(job.indexes, answer, strict=True):
                outcomes[index] = outcome
        return outcomes

    @override
    async def _replace(self, replace: Replace) -> Replaced | None:
        done: Replaced | None = await self._act(ReplaceJob(replace, self._pages))
        return done

    @override
    async def _delete(self, session_id: str, *, expired_at: float | None = None) -> bool:
        try:
            return bool(await self._act(DeleteJob(session_id, expired_at)))
        except CorruptSessionError:
            moment = None if expired_at is None else await self._moment(expired_at)
            return await self._in_turn(
                lambda: self._leftovers.remove_damaged(session_id, expired_at=moment)
            )

    async def _act(self, job: Job) -> Any:
        """Commit one job, remove what the session has let go of, and return the answer."""
        async with self._turns.take() as since:
            writer = self._idle_writers.pop() if self._idle_writers else self._new_writer()
            try:
                await self._commit([job], writer, since=since)
            finally:
                self._idle_writers.append(writer)
        if isinstance(job.answer, Exception):
            raise job.answer
        # Where there was nothing to write, somebody else may have left what they began.
        if job.head is None or job.head.garbage:
            await self._clean_up_after(job)
        return job.answer

    async def _clean_up_after(self, job: Job) -> None:
        """Remove what a session has let go of when a job was committed.

        Raises:
            StoreUnavailableError: The session is deleted, but what it had stored is still there.
        """
        session_id = job.session_id
        try:
            await self._in_turn(lambda: self._commits.clean_up(session_id))
        except self._driver_errors as exc:
            if not isinstance(job, DeleteJob):
                # What the caller asked for is done; asked for again, it would be done twice.
                self._commits.clean_up_later(session_id)
                return
            kind, reason = self._explain(exc)
            text = f"session {session_id!r} is deleted, but not all that it had stored: {reason}"
            raise kind(f"{text}; delete it again", session_id=session_id) from exc

    def _new_writer(self) -> Writer:
        self._writer_count += 1
        return Writer(f"{self._writer_id}-{self._writer_count}")

    # Reads.

    async def _moment(self, now: float) -> float:
        """Return the time that decides what has expired."""
        if not self._expires_by_server:
            return now
        await self._clock.refresh()
        return self._clock.now()

    @override
    async def _head(self, session_id: str) -> SessionInfo | None:
        async def attempt() -> SessionInfo | None:
            info = await self._reads.info(session_id)
            if info is None or not self._expires_by_server:
                return info
            return None if info.is_expired(await self._moment(0.0)) else info

        return await self._in_turn(attempt)

    @override
    async def _tail(self, session_id: str, window: Window) -> Tail | None:
        if window.limit and not window.oldest and window.before is None:
            self._commits.note_read(session_id)

        async def attempt() -> Tail | None:
            found = await self._reads.messages(session_id, window)
            if found is None:
                return None
            head, bodies = found
            if not self._expires_by_server:
                return Tail(bodies, head.expires_at)
            return None if head.has_vanished(await self._moment(0.0)) else Tail(bodies)

        return await self._in_turn(attempt)

    @override
    async def _scan(self, scan: Scan) -> list[SessionInfo]:
        async def attempt() -> list[SessionInfo]:
            if scan.expired:
                await self._leftovers.sweep()
            return await self._reads.scan(scan, await self._moment(scan.now))

        return await self._in_turn(attempt)
