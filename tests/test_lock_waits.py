"""Sessions that another process has locked: who waits for them, and who doesn't."""

from __future__ import annotations

import asyncio
import fcntl
import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from asyncsessions import LockTimeoutError, StoreUnavailableError, open_store
from asyncsessions.batching import Deferred
from asyncsessions.stores._disk import Disk
from asyncsessions.stores._jobs import Job
from asyncsessions.stores._lockwaits import LockWaits
from asyncsessions.stores._logfile import SessionFile
from asyncsessions.testing.timing import LONG_ENOUGH, slowness

LOCKED_FILES = {"jsonl": "jsonl", "json": "json.lock"}


class WatchedDisk(Disk):
    """Counts the locks that somebody else has, and the threads that try locks at the same time."""

    def __init__(self) -> None:
        self.refusals = 0
        self.most_threads = 0
        self._threads: set[int] = set()

    def try_lock(self, fd: int, byte: int = 0) -> bool:
        self._threads.add(threading.get_ident())
        self.most_threads = max(self.most_threads, len(self._threads))
        # Long enough that threads meet here, if there are many.
        time.sleep(0.0005)
        is_locked = super().try_lock(fd, byte)
        self.refusals += not is_locked
        self._threads.discard(threading.get_ident())
        return is_locked


@contextmanager
def locked(directory: Path, scheme: str, names: Sequence[str]) -> Iterator[None]:
    """Hold the locks of sessions, as another process would."""
    with ExitStack() as stack:
        for name in names:
            file = stack.enter_context((directory / f"{name}.{LOCKED_FILES[scheme]}").open("a"))
            fcntl.flock(file.fileno(), fcntl.LOCK_EX)
        yield


def writer(directory: Path) -> SessionFile:
    return SessionFile(Disk(), directory / "s.jsonl", "s", is_synced=False)


async def until_refused(disk: WatchedDisk, times: int) -> None:
    deadline = time.monotonic() + LONG_ENOUGH
    while disk.refusals < times:
        assert time.monotonic() < deadline, "the locks are not tried"
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("scheme", LOCKED_FILES)
async def test_many_locked_sessions_take_one_thread(tmp_path: Path, scheme: str) -> None:
    disk = WatchedDisk()
    names = [f"s{number}" for number in range(64)]
    url = f"{scheme}://{tmp_path}?durability=os&lock_timeout={LONG_ENOUGH}"
    async with open_store(url, disk=disk) as store:
        await asyncio.gather(*(store.add_message(name, "user", "first") for name in names))
        disk.most_threads = 0
        with locked(tmp_path, scheme, names):
            calls = [
                asyncio.create_task(store.add_message(name, "user", text))
                for text in ("second", "third")
                for name in names
            ]
            await until_refused(disk, 20 * len(names))
            # The other one is that of the flush that found them locked.
            assert disk.most_threads <= 2
            assert not any(call.done() for call in calls)
            await store.add_message("free", "user", "Hello")
        assert await asyncio.wait_for(asyncio.gather(*calls), LONG_ENOUGH) == [True] * 128
        for name in names:
            messages = await store.get_messages(name)
            assert [message.content for message in messages] == ["first", "second", "third"]


@pytest.mark.parametrize("scheme", LOCKED_FILES)
async def test_no_caller_waits_for_the_time_of_those_before_it(tmp_path: Path, scheme: str) -> None:
    url = f"{scheme}://{tmp_path}?durability=os&lock_timeout={0.5 * slowness()}"
    async with open_store(url) as store:

        async def wait() -> float:
            began = time.monotonic()
            with pytest.raises(LockTimeoutError):
                await store.add_message("s", "user", "late")
            return time.monotonic() - began

        await store.add_message("s", "user", "first")
        with locked(tmp_path, scheme, ["s"]):
            # A batch takes 512 of them.
            waits = await asyncio.gather(*(wait() for _ in range(3000)))
        assert waits[-1] < 2 * waits[0]
        await store.add_message("s", "user", "second")
        messages = await store.get_messages("s")
        assert [message.content for message in messages] == ["first", "second"]


@pytest.mark.parametrize("scheme", LOCKED_FILES)
async def test_every_lock_is_tried_before_its_callers_fail(tmp_path: Path, scheme: str) -> None:
    """Also where they are more than one thread has at a time, and time is up for all of them."""
    timeout = 0.5 * slowness()
    names = [f"s{number}" for number in range(200)]
    async with open_store(f"{scheme}://{tmp_path}?durability=os&lock_timeout={timeout}") as store:
        await asyncio.gather(*(store.add_message(name, "user", "first") for name in names))
        with locked(tmp_path, scheme, names):
            calls = [store.add_message(name, "user", "second") for name in names]
            answers = asyncio.gather(*calls, return_exceptions=True)
            await asyncio.sleep(timeout / 5)
        # They are free for all of this time, in which the application holds up the event loop.
        time.sleep(timeout)  # noqa: ASYNC251  # that is the point
        assert await answers == [True] * len(names)


async def test_who_comes_later_has_the_whole_time(tmp_path: Path) -> None:
    lock_timeout = 0.2
    async with open_store(f"jsonl://{tmp_path}?lock_timeout={lock_timeout}") as store:

        async def wait(delay: float) -> float:
            await asyncio.sleep(delay)
            began = time.monotonic()
            with pytest.raises(LockTimeoutError):
                await store.add_message("s", "user", "late")
            return time.monotonic() - began

        await store.add_message("s", "user", "first")
        with locked(tmp_path, "jsonl", ["s"]):
            waits = await asyncio.gather(*(wait(0.01 * number) for number in range(50)))
        assert min(waits) >= lock_timeout


async def test_what_waited_for_too_long_is_not_done(tmp_path: Path) -> None:
    def try_again(jobs: Sequence[Job], _: object) -> asyncio.Future[Sequence[Job]]:
        (job,) = jobs
        job.result = [request.upper() for request in job.request]
        done: asyncio.Future[Sequence[Job]] = asyncio.get_running_loop().create_future()
        done.set_result([])
        return done

    callers: list[Deferred[str]] = [Deferred() for _ in range(3)]
    for caller in callers[:2]:
        caller.since -= LONG_ENOUGH
    callers[1].cancel()
    waits = LockWaits(LONG_ENOUGH, 64)
    job = Job("s", writer(tmp_path), "append", ["a", "b", "c"], create=True)
    waits.add(job, list(callers), try_again)
    with pytest.raises(LockTimeoutError):
        await asyncio.wait_for(callers[0], LONG_ENOUGH)
    assert await asyncio.wait_for(callers[2], LONG_ENOUGH) == "C"
    assert job.request == ["c"]
    await waits.end()


async def test_a_failure_to_try_again_reaches_those_who_wait(tmp_path: Path) -> None:
    def refuse(*_: object) -> asyncio.Future[Sequence[Job]]:
        raise StoreUnavailableError("no thread")

    callers: list[Deferred[str]] = [Deferred() for _ in range(2)]
    callers[1].cancel()
    waits = LockWaits(LONG_ENOUGH, 64)
    job = Job("s", writer(tmp_path), "append", ["a", "b"], create=True)
    waits.add(job, list(callers), refuse)
    with pytest.raises(StoreUnavailableError, match="no thread"):
        await asyncio.wait_for(callers[0], LONG_ENOUGH)
    await waits.end()


class SlowDisk(Disk):
    """Syncs one file only when told."""

    def __init__(self) -> None:
        self.slow_file = -1
        self.may_sync = threading.Event()

    def sync(self, fd: int) -> None:
        if os.fstat(fd).st_ino == self.slow_file:
            self.may_sync.wait(LONG_ENOUGH)
        super().sync(fd)


async def test_a_slow_disk_holds_up_only_those_whose_lock_is_free(tmp_path: Path) -> None:
    disk = SlowDisk()
    url = f"jsonl://{tmp_path}?lock_timeout={LONG_ENOUGH}"
    async with open_store(url, disk=disk) as store:
        for name in ("slow", "other"):
            await store.add_message(name, "user", "first")
        with locked(tmp_path, "jsonl", ["other"]):
            with locked(tmp_path, "jsonl", ["slow"]):
                calls = [
                    asyncio.create_task(store.add_message(name, "user", "second"))
                    for name in ("slow", "other")
                ]
                await asyncio.sleep(0.05)
                disk.slow_file = (tmp_path / "slow.jsonl").stat().st_ino
            # By now it is being written.
            await asyncio.sleep(0.05)
        await asyncio.wait_for(calls[1], LONG_ENOUGH / 2)
        assert not calls[0].done()
        disk.may_sync.set()
        assert await calls[0]


def test_a_loop_that_was_closed_takes_its_own_waits_along(tmp_path: Path) -> None:
    store = open_store(f"jsonl://{tmp_path}?lock_timeout={LONG_ENOUGH}")

    async def begin() -> None:
        for name in ("a", "b"):
            await store.add_message(name, "user", "first")

    async def wait_in_vain() -> None:
        calls.append(asyncio.create_task(store.add_message("a", "user", "second")))
        await asyncio.sleep(0.05)

    async def wait_for_another() -> None:
        with locked(tmp_path, "jsonl", ["b"]):
            call = asyncio.create_task(store.add_message("b", "user", "second"))
            await asyncio.sleep(0.05)
            assert not call.done()
        assert await asyncio.wait_for(call, LONG_ENOUGH)

    calls: list[asyncio.Task[bool]] = []
    loop = asyncio.new_event_loop()
    loop.run_until_complete(begin())
    with locked(tmp_path, "jsonl", ["a"]):
        loop.run_until_complete(wait_in_vain())
        loop.close()
    assert not calls[0].done()
    calls[0]._log_destroy_pending = False  # type: ignore[attr-defined]  # it is what this is about
    asyncio.run(wait_for_another())


async def test_a_poller_that_is_cancelled_before_it_begins_leaves_nobody_waiting(
    tmp_path: Path,
) -> None:
    def never(*_: object) -> asyncio.Future[Sequence[Job]]:
        raise AssertionError

    def begin() -> Deferred[str]:
        caller: Deferred[str] = Deferred()
        job = Job("s", writer(tmp_path), "append", ["a"], create=True)
        waits.add(job, [caller], never)
        return caller

    waits = LockWaits(LONG_ENOUGH, 64)
    before = asyncio.all_tasks()
    caller = begin()
    for task in asyncio.all_tasks() - before:
        task.cancel()
    await asyncio.wait_for(waits.end(), LONG_ENOUGH)
    assert caller.cancelled()


async def test_a_job_may_come_as_the_last_one_ends(tmp_path: Path) -> None:
    async def begin() -> str:
        caller: Deferred[str] = Deferred()
        job = Job("s", writer(tmp_path), "append", ["a"], create=True)
        waits.add(job, [caller], do)
        return await caller

    def do(jobs: Sequence[Job], _: object) -> asyncio.Future[Sequence[Job]]:
        for job in jobs:
            job.result = ["done"]
        done: asyncio.Future[Sequence[Job]] = asyncio.get_running_loop().create_future()
        done.set_result([])
        return done

    async def begin_after(turns: int) -> str:
        await begin()
        for _ in range(turns):
            await asyncio.sleep(0)
        return await begin()

    waits = LockWaits(LONG_ENOUGH, 64)
    for turns in range(6):
        assert await asyncio.wait_for(begin_after(turns), LONG_ENOUGH) == "done"
    await waits.end()
