"""What the two file stores share: worker threads, locks, and one hop per flush."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from abc import abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, TypeVar
from urllib.parse import unquote

from asyncsessions._compat import override
from asyncsessions.base import BaseSessionStore
from asyncsessions.batching import Deferred, Outcome
from asyncsessions.errors import (
    CorruptSessionError,
    SessionStoreError,
    StoreUnavailableError,
)
from asyncsessions.hooks import Append, Appended, Replace, Replaced, Update
from asyncsessions.models import JSONValue
from asyncsessions.stores._disk import Disk
from asyncsessions.stores._jobs import Job, Verb
from asyncsessions.stores._lockwaits import LockWaits
from asyncsessions.stores._threads import Workers
from asyncsessions.stores._urls import STORE_OPTIONS, query_options, split_url
from asyncsessions.stores._writer import SessionWriter

if sys.platform != "win32":
    import resource

__all__ = ["URL_OPTIONS", "FileStore"]

T = TypeVar("T")

# Sessions whose file stays open between writes at the most, and what share they are of all that
# the process may open.
_OPEN_FILES = 4096
_SHARE_OF_FILES = 4
# The limit where the system doesn't tell of one.
_ALL_FILES = 512
# Sessions whose lock one thread holds at the same time.
_JOBS_AT_ONCE = 64
# Reads and flushes that run at the same time.
_THREADS = 16
# Threads that share the syncs of one flush. Each syncs its part of the files in a row, because
# waking a thread for every single file takes longer than the sync.
_SYNC_THREADS = 8
# Between two tries of a lock that is tried hard, in seconds for each job.
_HARD_TRY_POLL = 0.0001
URL_OPTIONS = {"durability": str, "lock_timeout": float} | STORE_OPTIONS


def _open_files() -> int:
    """Return how many sessions' files may stay open."""
    if sys.platform == "win32":
        return _ALL_FILES // _SHARE_OF_FILES
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY:
        return _OPEN_FILES
    return min(limit // _SHARE_OF_FILES, _OPEN_FILES)


class FileStore(BaseSessionStore):
    """A store with one file for each session in one directory.

    Args:
        directory: Where the files are; made if missing.
        durability: ``fsync`` returns when the disk has the data; ``os`` when the operating
            system has it, which survives a crash of the process but not of the machine.
        lock_timeout: How long to wait, in seconds, for a session locked by another process.
        disk: The file operations; for tests.
        **options: See `BaseSessionStore`.
    """

    #: What may stand in the query of a URL, with the type of each.
    _url_options: ClassVar[Mapping[str, Any]] = URL_OPTIONS
    # How long a lock that is waited for is tried at a time, in seconds; 0 tries it once.
    _hard_try: ClassVar[float] = 0.0

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        durability: Literal["fsync", "os"] = "fsync",
        lock_timeout: float = 5.0,
        disk: Disk | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        if durability not in {"fsync", "os"}:
            raise ValueError(f"durability={durability!r}: give 'fsync' or 'os'")
        if not 0 <= lock_timeout < float("inf"):
            raise ValueError(f"lock_timeout={lock_timeout!r}: give seconds, 0 or more")
        self.directory: Path = Path(directory)
        self._is_synced = durability == "fsync"
        self._lock_timeout = lock_timeout
        self._disk = Disk() if disk is None else disk
        self._writers: OrderedDict[str, SessionWriter] = OrderedDict()
        self._open_files = _open_files()

    @override
    @classmethod
    def from_url(cls, url: str, **options: Any) -> Self:
        parts = split_url(url)
        directory = unquote(parts.netloc + parts.path)
        if not directory:
            raise ValueError(f"{url!r} names no directory; write {parts.scheme}://DIRECTORY")
        return cls(directory, **query_options(parts.query, cls._url_options) | options)

    @abstractmethod
    def _writer(self, session_id: str) -> SessionWriter:
        """Return a new writer for a session; nothing is opened yet."""

    # Threads.

    @override
    async def _open(self) -> None:
        self._start_threads()
        await self._in_thread(self._make_directory)

    def _start_threads(self) -> None:
        self._pid = os.getpid()
        self._workers = Workers(_THREADS, "asyncsessions")
        # Threads of their own, or flushes that hold all threads would wait for one more.
        self._syncers = Workers(_SYNC_THREADS, "asyncsessions-sync")
        # A forked child doesn't wait for what its parent waits for.
        self._lock_waits = LockWaits(self._lock_timeout, _JOBS_AT_ONCE)

    def _make_directory(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)

    @override
    async def _close(self) -> None:
        await self._lock_waits.end()
        writers = list(self._writers.values())
        self._writers.clear()
        await self._in_thread(self._close_all, writers)
        self._workers.stop()
        self._syncers.stop()

    def _close_all(self, writers: Sequence[SessionWriter]) -> None:
        for writer in writers:
            # Nothing that was acknowledged depends on it, and no flush should fail for another's.
            with suppress(OSError):
                writer.close()

    def _in_thread(self, function: Callable[..., T], *args: Any) -> asyncio.Future[T]:
        if self._pid != os.getpid():
            # In a forked child: the threads stayed behind.
            self._start_threads()
        return self._workers.run(function, *args)

    @override
    async def _ping(self) -> None:
        await self._in_thread(self._try_directory)

    def _try_directory(self) -> None:
        probe = self.directory / f".ping-{os.getpid()}-{time.monotonic_ns()}"
        self._disk.close(self._disk.open(probe, create=True))
        self._disk.unlink(probe)

    def _missing(self, exc: FileNotFoundError) -> None:
        """Accept that a session's file is missing, but not that its directory is."""
        if not self.directory.is_dir():
            raise exc

    # Writes.

    @override
    async def _append(self, batch: Sequence[Append]) -> Sequence[Outcome[Appended]]:
        return await self._flush("append", batch, creates=True)

    @override
    async def _update(self, batch: Sequence[Update]) -> Sequence[Outcome[list[JSONValue] | None]]:
        return await self._flush("update", batch, creates=False)

    async def _flush(
        self, verb: Verb, batch: Sequence[Any], *, creates: bool
    ) -> Sequence[Outcome[Any]]:
        """Write a batch for many sessions in one hop; what is locked follows later."""
        groups: dict[str, list[Any]] = {}
        for request in batch:
            group = groups.get(request.session_id)
            if group is None:
                groups[request.session_id] = [request]
            else:
                group.append(request)
        jobs = []
        for session_id, requests in groups.items():
            create = creates or any(request.create for request in requests)
            jobs.append(self._job(session_id, verb, requests, create=create))
        busy = set(await self._hop(jobs))
        results = [self._results(job, is_busy=job in busy) for job in jobs]
        if len(jobs) == 1:
            return results[0]
        ordered = dict(zip(groups, map(iter, results), strict=True))
        return [next(ordered[request.session_id]) for request in batch]

    def _results(self, job: Job, *, is_busy: bool) -> Sequence[Outcome[Any]]:
        if is_busy:
            # Its callers, and later ones of that session, wait; other sessions don't.
            return self._finish_later(job)
        return job.outcomes()

    def _finish_later(self, job: Job) -> list[Deferred[Any]]:
        callers: list[Deferred[Any]] = [Deferred() for _ in job.request]
        self._lock_waits.add(job, list(callers), self._hop_again)
        return callers

    @override
    async def _replace(self, replace: Replace) -> Replaced | None:
        job = self._job(replace.session_id, "replace", replace, create=replace.create)
        result: Replaced | None = await self._alone(job)
        return result

    @override
    async def _delete(self, session_id: str, *, expired_at: float | None = None) -> bool:
        try:
            job = self._job(session_id, "delete", expired_at, create=False)
            return bool(await self._alone(job))
        except CorruptSessionError:
            if expired_at is not None:
                raise
            # What is damaged can still be deleted, without a look inside.
            job = self._job(session_id, "delete", None, create=False, load=False)
            return bool(await self._alone(job))

    async def _alone(self, job: Job) -> Any:
        if await self._hop([job]):
            caller: Deferred[Any] = Deferred()
            self._lock_waits.add(job, [caller], self._hop_again)
            return await caller
        if job.error is not None:
            raise job.error
        return job.result

    def _job(
        self,
        session_id: str,
        verb: Verb,
        request: Any,
        *,
        create: bool,
        load: bool = True,
    ) -> Job:
        writer = self._writers.get(session_id)
        if writer is None:
            writer = self._writers[session_id] = self._writer(session_id)
        else:
            self._writers.move_to_end(session_id)
        return Job(session_id, writer, verb, request, create, load)

    def _hop(self, jobs: Sequence[Job]) -> asyncio.Future[Sequence[Job]]:
        """Do jobs in one worker thread; return those whose session is locked."""
        excess = len(self._writers) - self._open_files
        # The ones that weren't used for longest; with very many jobs, some of these.
        idle = [self._writers.popitem(last=False)[1] for _ in range(excess)]
        return self._in_thread(self._do, jobs, idle)

    def _hop_again(
        self, jobs: Sequence[Job], tell: Callable[[Sequence[Job]], None]
    ) -> asyncio.Future[Sequence[Job]]:
        """Do jobs whose session was locked in one worker thread, as `_hop` does.

        Args:
            jobs: The jobs.
            tell: Gets those whose session is locked before the others are done, if there are any.
        """
        return self._in_thread(self._try_hard, jobs, tell)

    def _do(self, jobs: Sequence[Job], idle: Sequence[SessionWriter]) -> Sequence[Job]:
        """Do jobs; return those whose session is locked."""
        self._close_all(idle)
        # Twice, because who else writes takes no longer over it, so by then the lock may be free.
        for _ in range(2):
            busy: list[Job] = []
            for start in range(0, len(jobs), _JOBS_AT_ONCE):
                held = self._lock(jobs[start : start + _JOBS_AT_ONCE], busy)
                self._carry_out(held)
            jobs = busy
        return jobs

    def _try_hard(
        self, jobs: Sequence[Job], tell: Callable[[Sequence[Job]], None]
    ) -> Sequence[Job]:
        """Do jobs whose session was locked; return those where it still is."""
        deadline = time.monotonic() + self._hard_try
        while True:
            busy: list[Job] = []
            held = self._lock(jobs, busy)
            # The callers of what is done are to be told, and the others not to wait for it.
            if len(busy) < len(jobs):
                tell(busy)
                self._carry_out(held)
                return busy
            if time.monotonic() >= deadline:
                return busy
            time.sleep(_HARD_TRY_POLL * len(jobs))

    def _lock(self, jobs: Sequence[Job], busy: list[Job]) -> list[Job]:
        """Take the locks of jobs; return those that have it now.

        Args:
            jobs: The jobs. One that fails has its error afterwards.
            busy: Gets those whose session is locked.
        """
        held: list[Job] = []
        for job in jobs:
            try:
                is_free = job.writer.acquire(create=job.create, load=job.load)
                (held if is_free else busy).append(job)
            except Exception as exc:  # noqa: BLE001  # it reaches this session's callers only
                self._note_failure(job, exc)
        return held

    def _carry_out(self, held: Sequence[Job]) -> None:
        """Write to all files, one by one, and then sync them, many at a time.

        A sync waits for the disk and writing for the interpreter, which one thread has at a time.
        When all is written before the first sync, one commit of the file system's journal serves
        many files.
        """
        count = min(len(held), _SYNC_THREADS) if self._is_synced else 1
        try:
            for job in held:
                self._write(job)
            self._syncers.share(self._sync, [held[start::count] for start in range(count)])
        finally:
            self._release(held)

    def _write(self, job: Job) -> None:
        """Do a job's work."""
        try:
            job.result = getattr(job.writer, job.verb)(job.request)
        except Exception as exc:  # noqa: BLE001  # as above
            self._note_failure(job, exc)

    def _note_failure(self, job: Job, exc: Exception) -> None:
        # Without a session there is nothing to do, unless it is to be made.
        is_missing = isinstance(exc, FileNotFoundError) and not job.create
        if not is_missing or not self.directory.is_dir():
            job.error = self._failed(exc, job.session_id)

    def _sync(self, jobs: Sequence[Job]) -> None:
        """Make what jobs wrote durable."""
        for job in jobs:
            if job.error is None:
                try:
                    job.writer.sync()
                except Exception as exc:  # noqa: BLE001  # as above
                    job.error = self._failed(exc, job.session_id)

    def _release(self, jobs: Sequence[Job]) -> None:
        """Give up the locks of jobs."""
        for job in jobs:
            try:
                job.writer.release()
            except Exception as exc:  # noqa: BLE001  # as above
                job.error = job.error or self._failed(exc, job.session_id)

    def _failed(self, exc: Exception, session_id: str) -> Exception:
        if not isinstance(exc, OSError) or isinstance(exc, SessionStoreError):
            return exc
        text = f"the file of session {session_id!r} can't be written: {exc}"
        error = StoreUnavailableError(text, session_id=session_id)
        error.__cause__ = exc
        return error
