"""Calls to the disk that fail or take long, at the worst moments."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from asyncsessions import CorruptSessionError, StoreUnavailableError, open_store
from asyncsessions.stores._disk import Disk
from asyncsessions.testing.timing import LONG_ENOUGH

SCHEMES = ["jsonl", "json"]


@contextmanager
def idle_child() -> Iterator[None]:
    """Fork a child that does nothing, but has all files open that this process has open."""
    child = os.fork()
    if not child:
        signal.pause()
    try:
        yield
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


class FailingDisk(Disk):
    """Lets the next call of one kind fail, and notes how many locks were held at once."""

    def __init__(self) -> None:
        self.failing = ""
        self.sync_seconds = 0.0
        self.refusals = 0
        self.held: set[int] = set()
        self.most_held = 0
        self.is_syncing = threading.Event()

    def _fail(self, kind: str) -> None:
        if kind == self.failing:
            self.failing = ""
            raise OSError(errno.EIO, "an error of the test")

    def try_lock(self, fd: int, byte: int = 0) -> bool:
        if self.refusals:
            self.refusals -= 1
            return False
        is_held = super().try_lock(fd, byte)
        if is_held:
            self.held.add(fd)
            self.most_held = max(self.most_held, len(self.held))
        return is_held

    def unlock(self, fd: int, byte: int = 0) -> None:
        self.held.discard(fd)
        super().unlock(fd, byte)

    def sync(self, fd: int) -> None:
        self._fail("sync")
        self.is_syncing.set()
        time.sleep(self.sync_seconds)
        super().sync(fd)

    def close(self, fd: int) -> None:
        self.held.discard(fd)
        super().close(fd)
        self._fail("close")


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_a_session_can_be_deleted_after_a_failed_sync(tmp_path: Path, scheme: str) -> None:
    disk = FailingDisk()
    async with open_store(f"{scheme}://{tmp_path}", disk=disk) as store:
        await store.add_message("a", "user", "one")
        disk.failing = "sync"
        with pytest.raises(StoreUnavailableError):
            await store.add_message("a", "user", "two")
        assert await store.delete_session("a") is True
        await store.add_message("a", "user", "new")
        assert [message.seq for message in await store.get_messages("a")] == [1]


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_a_failed_write_leaves_no_lock_with_a_forked_child(
    tmp_path: Path, scheme: str
) -> None:
    disk = FailingDisk()
    async with open_store(f"{scheme}://{tmp_path}", disk=disk, lock_timeout=LONG_ENOUGH) as store:
        await store.add_message("a", "user", "one")
        with idle_child():
            disk.failing = "sync"
            with pytest.raises(StoreUnavailableError):
                await store.add_message("a", "user", "two")
            await store.add_message("a", "user", "three")
        contents = [message.content for message in await store.get_messages("a")]
    assert contents == ["one", "three"]


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_a_damaged_session_leaves_no_lock_with_a_forked_child(
    tmp_path: Path, scheme: str
) -> None:
    async with open_store(f"{scheme}://{tmp_path}", lock_timeout=LONG_ENOUGH) as store:
        await store.add_message("a", "user", "one")
        whole = (tmp_path / f"a.{scheme}").read_bytes()
        (tmp_path / f"a.{scheme}").write_bytes(whole + b"#\n")
        with idle_child():
            with pytest.raises(CorruptSessionError):
                await store.add_message("a", "user", "two")
            (tmp_path / f"a.{scheme}").write_bytes(whole)
            await store.add_message("a", "user", "three")
        assert len(await store.get_messages("a")) == 2


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_a_file_that_cannot_be_closed_fails_nobody(
    tmp_path: Path, scheme: str, few_files: int
) -> None:
    disk = FailingDisk()
    async with open_store(f"{scheme}://{tmp_path}", disk=disk, durability="os") as store:
        # As many files stay open.
        for number in range(few_files // 4):
            await store.add_message(f"s{number}", "user", "Hello")
        disk.failing = "close"
        calls = [store.add_message(f"t{number}", "user", "Hello") for number in range(10)]
        assert await asyncio.gather(*calls) == [True] * 10
        # In a JSON store, a file that was written is closed first, by its own flush.
        assert disk.failing == "" or scheme == "json"


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_no_more_than_64_locks_at_once(tmp_path: Path, scheme: str) -> None:
    disk = FailingDisk()
    disk.refusals = 300
    async with open_store(f"{scheme}://{tmp_path}", disk=disk, durability="os") as store:
        calls = [store.add_message(f"s{number}", "user", "Hello") for number in range(300)]
        assert await asyncio.gather(*calls) == [True] * 300
    assert 0 < disk.most_held <= 64
    assert not disk.held


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_loop_that_ends_during_a_flush_leaves_no_lock(tmp_path: Path, scheme: str) -> None:
    disk = FailingDisk()
    disk.sync_seconds = 0.002

    async def write() -> None:
        async with open_store(f"{scheme}://{tmp_path}", disk=disk) as store:
            calls = (store.add_message(f"s{number}", "user", "Hello") for number in range(300))
            await asyncio.gather(*calls)

    async def end_early() -> None:
        writing = asyncio.create_task(write())
        await asyncio.to_thread(disk.is_syncing.wait)
        del writing

    async def write_again() -> None:
        async with open_store(f"{scheme}://{tmp_path}", lock_timeout=LONG_ENOUGH) as store:
            calls = (store.add_message(f"s{number}", "user", "again") for number in range(300))
            assert await asyncio.gather(*calls) == [True] * 300
            for number in range(300):
                # The flush under way may still end, before this or after it.
                messages = await store.get_messages(f"s{number}")
                assert "again" in [message.content for message in messages]

    before = set(threading.enumerate())
    asyncio.run(end_early())
    asyncio.run(write_again())
    deadline = time.monotonic() + LONG_ENOUGH
    while set(threading.enumerate()) - before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert set(threading.enumerate()) - before == set()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_parent_and_its_children_share_a_store(tmp_path: Path, scheme: str) -> None:
    store = open_store(f"{scheme}://{tmp_path}", durability="os", lock_timeout=LONG_ENOUGH)

    async def write(name: str) -> None:
        for number in range(40):
            await store.add_message("a", "user", f"{name}{number}")

    asyncio.run(write("before"))
    children = []
    for name in ("left", "right"):
        child = os.fork()
        if not child:
            try:
                asyncio.run(write(name))
                os._exit(0)
            finally:
                os._exit(1)
        children.append(child)
    asyncio.run(write("parent"))
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]

    async def read() -> list[object]:
        messages = await store.get_messages("a")
        assert [message.seq for message in messages] == list(range(1, 161))
        await store.aclose()
        return [message.content for message in messages]

    contents = asyncio.run(read())
    for name in ("before", "left", "right", "parent"):
        mine = [text for text in contents if str(text).startswith(name)]
        assert mine == [f"{name}{number}" for number in range(40)]
