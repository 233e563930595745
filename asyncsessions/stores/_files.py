"""What the two file stores share: worker threads, locks, and one hop per flush."""

from __future__ import annotations

import asyncio
import os
import random
import time
from abc import abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, Protocol, Self, TypeVar
from urllib.parse import parse_qsl, unquote, urlsplit

from asyncsessions._compat import override
from asyncsessions.base import BaseSessionStore
from asyncsessions.batching import Outcome
from asyncsessions.errors import LockTimeoutError, SessionStoreError, StoreUnavailableError
from asyncsessions.hooks import Append, Appended, Replace, Replaced, Update
from asyncsessions.models import JSONValue
from asyncsessions.stores._disk import Disk
from asyncsessions.stores._threads import Workers

__all__ = ["FileStore", "SessionWriter"]

T = TypeVar("T")

# Sessions whose file stays open between writes.
_OPEN_FILES = 128
# Sessions whose lock one thread holds at the same time.
_JOBS_AT_ONCE = 64
# Reads and flushes that run at the same time.
_THREADS = 16
# Threads that share the syncs of one flush. Each syncs its part of the files in a row, because
# waking a thread for every single file takes longer than the sync.
_SYNC_THREADS = 8
# How often a lock held by another process is tried, in seconds; random around these, so that
# no waiter is favoured.
_FIRST_POLL = 0.001
_LAST_POLL = 0.004


class SessionWriter(Protocol):
    """Writes one session's file; its methods run in a worker thread.

    ``acquire``, then any of the writing methods, then ``sync``, then ``release``. Nothing is
    stored before ``sync`` returns; if it or a writing method raises, nothing of this round is.
    """

    def acquire(self, *, create: bool, load: bool = True) -> bool:
        """Take the lock; return False at once where somebody else has it.

        Raises:
            FileNotFoundError: There is no file, and ``create`` is false.
        """
        ...

    def append(self, batch: Sequence[Append]) -> Sequence[Appended | SessionStoreError]:
        """See `BaseSessionStore._append`."""
        ...

    def update(
        self, batch: Sequence[Update]
    ) -> Sequence[list[JSONValue] | SessionStoreError | None]:
        """See `BaseSessionStore._update`."""
        ...

    def replace(self, replace: Replace) -> Replaced | None:
        """See `BaseSessionStore._replace`."""
        ...

    def delete(self, expired_at: float | None) -> bool:
        """See `BaseSessionStore._delete`."""
        ...

    def sync(self) -> None:
        """Make what was written durable."""
        ...

    def release(self) -> None:
        """Tidy up and give up the lock."""
        ...

    def close(self) -> None:
        """Close the file unless another thread is using it."""
        ...


class _Job:
    """What one worker does for one session in one hop."""

    __slots__ = ("closes", "create", "error", "load", "result", "session_id", "work", "writer")

    def __init__(
        self,
        session_id: str,
        work: Callable[[SessionWriter], Any],
        *,
        create: bool,
        load: bool = True,
    ) -> None:
        self.session_id = session_id
        self.work = work
        self.create = create
        self.load = load
        self.writer: SessionWriter | None = None
        self.closes = False
        self.result: Any = None
        self.error: Exception | None = None


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
        self._in_use: dict[str, int] = {}
        self._waiting: set[asyncio.Task[None]] = set()

    @override
    @classmethod
    def from_url(cls, url: str, **options: Any) -> Self:
        parts = urlsplit(url)
        directory = unquote(parts.netloc + parts.path)
        if not directory:
            raise ValueError(f"{url!r} names no directory; write {parts.scheme}://DIRECTORY")
        return cls(directory, **_query_options(parts.query) | options)

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
        self._syncers = ThreadPoolExecutor(_SYNC_THREADS, thread_name_prefix="asyncsessions-sync")

    def _make_directory(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)

    @override
    async def _close(self) -> None:
        if self._waiting:
            await asyncio.wait(self._waiting)
        writers = list(self._writers.values())
        self._writers.clear()
        await self._in_thread(self._close_all, writers)
        self._workers.stop()

    def _close_all(self, writers: Sequence[SessionWriter]) -> None:
        for writer in writers:
            writer.close()
        self._syncers.shutdown()

    async def _in_thread(self, function: Callable[..., T], *args: Any) -> T:
        if self._pid != os.getpid():
            # In a forked child: the threads stayed behind.
            self._start_threads()
        return await self._workers.run(function, *args)

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
        self, verb: Literal["append", "update"], batch: Sequence[Any], *, creates: bool
    ) -> list[Outcome[Any]]:
        """Write a batch for many sessions in one hop; what is locked follows later."""
        groups: dict[str, list[int]] = {}
        for index, request in enumerate(batch):
            groups.setdefault(request.session_id, []).append(index)
        jobs = []
        for session_id, indexes in groups.items():
            requests = [batch[index] for index in indexes]
            create = creates or any(request.create for request in requests)
            jobs.append(_Job(session_id, _batch_work(verb, requests), create=create))
        busy = await self._hop(jobs)
        outcomes: list[Any] = [None] * len(batch)
        for job, indexes in zip(jobs, groups.values(), strict=True):
            results = self._results(job, len(indexes), is_busy=job in busy)
            for index, result in zip(indexes, results, strict=True):
                outcomes[index] = result
        return outcomes

    def _results(self, job: _Job, count: int, *, is_busy: bool) -> Sequence[Outcome[Any]]:
        if is_busy:
            # Its callers, and later ones of that session, wait; other sessions don't.
            return self._finish_later(job, count)
        if job.error is not None:
            return [job.error] * count
        return [None] * count if job.result is None else job.result

    def _finish_later(self, job: _Job, count: int) -> list[asyncio.Future[Any]]:
        loop = asyncio.get_running_loop()
        futures: list[asyncio.Future[Any]] = [loop.create_future() for _ in range(count)]

        async def finish() -> None:
            await self._wait_for_lock(job)
            for index, future in enumerate(futures):
                if job.error is not None:
                    future.set_exception(job.error)
                else:
                    result = None if job.result is None else job.result[index]
                    if isinstance(result, Exception):
                        future.set_exception(result)
                    else:
                        future.set_result(result)

        task = loop.create_task(finish())
        self._waiting.add(task)
        task.add_done_callback(self._waiting.discard)
        return futures

    async def _wait_for_lock(self, job: _Job) -> None:
        """Try a job whose session is locked until its turn comes or the time is up."""
        deadline = time.monotonic() + self._lock_timeout
        delay = _FIRST_POLL
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                job.error = LockTimeoutError(job.session_id, timeout=self._lock_timeout)
                return
            await asyncio.sleep(min(left, delay * (0.5 + random.random())))  # noqa: S311
            if not await self._hop([job]):
                return
            delay = min(_LAST_POLL, delay * 1.5)

    @override
    async def _replace(self, replace: Replace) -> Replaced | None:
        job = _Job(
            replace.session_id, lambda writer: writer.replace(replace), create=replace.create
        )
        result: Replaced | None = await self._alone(job)
        return result

    @override
    async def _delete(self, session_id: str, *, expired_at: float | None = None) -> bool:
        # What is damaged can still be deleted, so only a purge looks inside.
        job = _Job(
            session_id,
            lambda writer: writer.delete(expired_at),
            create=False,
            load=expired_at is not None,
        )
        return bool(await self._alone(job))

    async def _alone(self, job: _Job) -> Any:
        if await self._hop([job]):
            await self._wait_for_lock(job)
        if job.error is not None:
            raise job.error
        return job.result

    async def _hop(self, jobs: Sequence[_Job]) -> Sequence[_Job]:
        """Do jobs in one worker thread; return those whose session is locked."""
        for index, job in enumerate(jobs):
            job.writer = self._check_out(job.session_id)
            job.closes = index >= _OPEN_FILES
        try:
            return await self._in_thread(self._do, jobs, self._idle_writers())
        finally:
            for job in jobs:
                self._check_in(job.session_id)
            self._forget_closed(jobs)

    def _check_out(self, session_id: str) -> SessionWriter:
        writer = self._writers.get(session_id)
        if writer is None:
            writer = self._writers[session_id] = self._writer(session_id)
        else:
            self._writers.move_to_end(session_id)
        self._in_use[session_id] = self._in_use.get(session_id, 0) + 1
        return writer

    def _check_in(self, session_id: str) -> None:
        self._in_use[session_id] -= 1
        if not self._in_use[session_id]:
            del self._in_use[session_id]

    def _forget_closed(self, jobs: Sequence[_Job]) -> None:
        """Drop the writers of a large hop that were closed at its end."""
        for job in jobs[_OPEN_FILES:]:
            if job.session_id not in self._in_use:
                self._writers.pop(job.session_id, None)

    def _idle_writers(self) -> list[SessionWriter]:
        """Take the writers that haven't been used for longest out of the cache, to be closed."""
        excess = len(self._writers) - _OPEN_FILES
        if excess <= 0:
            return []
        idle = [session_id for session_id in self._writers if session_id not in self._in_use]
        return [self._writers.pop(session_id) for session_id in idle[:excess]]

    def _do(self, jobs: Sequence[_Job], idle: Sequence[SessionWriter]) -> list[_Job]:
        """Do jobs; return those whose session is locked."""
        for writer in idle:
            writer.close()
        busy: list[_Job] = []
        for start in range(0, len(jobs), _JOBS_AT_ONCE):
            busy += self._do_some(jobs[start : start + _JOBS_AT_ONCE])
        # Who else writes takes no longer over it, so by now the lock may be free.
        return self._do_some(busy)

    def _do_some(self, jobs: Sequence[_Job]) -> list[_Job]:
        """Write to all files, one by one, and then sync them, many at a time.

        A sync waits for the disk and writing for the interpreter, which one thread has at a time.
        When all is written before the first sync, one commit of the file system's journal serves
        many files.
        """
        held: list[_Job] = []
        busy = [job for job in jobs if not self._write(job, held)]
        count = min(len(held), _SYNC_THREADS) if self._is_synced else 1
        parts = [held[start::count] for start in range(count)]
        others = [self._syncers.submit(self._sync, part) for part in parts[1:]]
        for part in parts[:1]:
            self._sync(part)
        for other in others:
            other.result()
        return busy

    def _write(self, job: _Job, held: list[_Job]) -> bool:
        """Take a job's lock and do its work; return False if its session is locked."""
        writer = job.writer
        assert writer is not None  # noqa: S101  # `_hop` has just set it
        try:
            if not writer.acquire(create=job.create, load=job.load):
                return False
            held.append(job)
            job.result = job.work(writer)
        except FileNotFoundError as exc:
            if job.create or not self.directory.is_dir():
                job.error = self._failed(exc, job.session_id)
        except Exception as exc:  # noqa: BLE001  # it reaches this session's callers only
            job.error = self._failed(exc, job.session_id)
        return True

    def _sync(self, jobs: Sequence[_Job]) -> None:
        """Make what jobs wrote durable, and give up their locks."""
        for job in jobs:
            writer = job.writer
            assert writer is not None  # noqa: S101  # `_hop` has set it
            try:
                try:
                    if job.error is None:
                        writer.sync()
                finally:
                    writer.release()
                    if job.closes:
                        writer.close()
            except Exception as exc:  # noqa: BLE001  # it reaches this session's callers only
                job.error = job.error or self._failed(exc, job.session_id)

    def _failed(self, exc: Exception, session_id: str) -> Exception:
        if not isinstance(exc, OSError) or isinstance(exc, SessionStoreError):
            return exc
        text = f"the file of session {session_id!r} can't be written: {exc}"
        error = StoreUnavailableError(text, session_id=session_id)
        error.__cause__ = exc
        return error


def _batch_work(
    verb: Literal["append", "update"], requests: Sequence[Any]
) -> Callable[[SessionWriter], Any]:
    if verb == "append":
        return lambda writer: writer.append(requests)
    return lambda writer: writer.update(requests)


def _query_options(query: str) -> dict[str, Any]:
    """Return a URL's options with the types that the constructors take.

    Raises:
        ValueError: An option isn't known, or its value isn't of its type.
    """
    kinds: dict[str, Callable[[str], Any]] = {
        "durability": str,
        "lock_timeout": float,
        "max_messages": int,
        "ttl_seconds": float,
        "max_message_bytes": int,
    }
    options = {}
    for name, text in parse_qsl(query, keep_blank_values=True):
        if name not in kinds:
            raise ValueError(f"unknown option {name!r} in the URL; known are {', '.join(kinds)}")
        try:
            options[name] = kinds[name](text)
        except ValueError as exc:
            raise ValueError(f"option {name}={text!r} in the URL is not a number") from exc
    return options
