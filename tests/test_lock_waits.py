"""Sessions that another process has locked: who waits for them, and who doesn't."""

from __future__ import annotations

import asyncio
import fcntl
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
    async def try_again(jobs: Sequence[Job]) -> Sequence[Job]:
        (job,) = jobs
        job.result = [request.upper() for request in job.request]
        return []

    callers: list[Deferred[str]] = [Deferred() for _ in range(3)]
    for caller in callers[:2]:
        caller.since -= LONG_ENOUGH
    callers[1].cancel()
    waits = LockWaits(LONG_ENOUGH)
    job = Job("s", writer(tmp_path), "append", ["a", "b", "c"], create=True)
    waits.add(job, list(callers), try_again)
    with pytest.raises(LockTimeoutError):
        await asyncio.wait_for(callers[0], LONG_ENOUGH)
    assert await asyncio.wait_for(callers[2], LONG_ENOUGH) == "C"
    assert job.request == ["c"]
    await waits.end()


async def test_a_failure_to_try_again_reaches_those_who_wait(tmp_path: Path) -> None:
    async def refuse(_: Sequence[Job]) -> Sequence[Job]:
        raise StoreUnavailableError("no thread")

    callers: list[Deferred[str]] = [Deferred() for _ in range(2)]
    callers[1].cancel()
    waits = LockWaits(LONG_ENOUGH)
    job = Job("s", writer(tmp_path), "append", ["a", "b"], create=True)
    waits.add(job, list(callers), refuse)
    with pytest.raises(StoreUnavailableError, match="no thread"):
        await asyncio.wait_for(callers[0], LONG_ENOUGH)
    await waits.end()
