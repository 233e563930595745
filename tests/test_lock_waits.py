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

from asyncsessions import StoreUnavailableError, open_store
from asyncsessions.stores._disk import Disk
from asyncsessions.stores._jobs import Job
from asyncsessions.stores._lockwaits import LockWaits
from asyncsessions.stores._logfile import SessionFile
from asyncsessions.testing.timing import LONG_ENOUGH

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


async def test_a_failure_to_try_again_reaches_those_who_wait(tmp_path: Path) -> None:
    async def refuse(_: Sequence[Job]) -> Sequence[Job]:
        raise StoreUnavailableError("no thread")

    writer = SessionFile(Disk(), tmp_path / "s.jsonl", "s", is_synced=False)
    waits = LockWaits(LONG_ENOUGH)
    callers = [asyncio.get_running_loop().create_future() for _ in range(2)]
    callers[1].cancel()
    waits.add(Job("s", writer, "append", [None, None], create=True), callers, refuse)
    with pytest.raises(StoreUnavailableError, match="no thread"):
        await asyncio.wait_for(callers[0], LONG_ENOUGH)
    await waits.end()
