"""Documents that many write: names, locks, one write for many callers, and full disks."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import json
import multiprocessing
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from asyncsessions import (
    CorruptSessionError,
    LockTimeoutError,
    Message,
    StoreUnavailableError,
    open_store,
)
from asyncsessions.hooks import Window
from asyncsessions.stores._disk import Disk
from asyncsessions.stores._docplace import names_of
from asyncsessions.stores._documentfile import DocumentFile
from asyncsessions.stores.json import JSONSessionStore
from asyncsessions.testing.timing import LONG_ENOUGH, slowness

LONG = "x" * 245


def documents(path: Path) -> set[str]:
    return {each.name for each in path.iterdir() if each.suffix == ".json"}


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock as PraisonAI does."""
    with path.open("w") as file:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX)
        yield


# Names.


async def test_reading_what_is_missing_creates_nothing(tmp_path: Path) -> None:
    async with JSONSessionStore(tmp_path) as store:
        assert await store.get_messages("s") == []
        assert not await store.clear_session("s")
        assert not await store.expire_session("s", 1)
        assert not await store.delete_session("s")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("session_id", "name"),
    [
        ("chat-1_A", "chat-1_A.json"),
        ("a.b@x", "a_b_x.json"),
        ("..", "__.json"),
        (".json", "_json.json"),
        ("../../x", "______x.json"),
        ("CON", "CON.json"),
        ("群/ü٣", "群_ü٣.json"),
        ("😀", "_.json"),
        (LONG, f"{LONG}.json"),
    ],
)
async def test_names_are_those_of_praisonai(tmp_path: Path, session_id: str, name: str) -> None:
    async with JSONSessionStore(tmp_path, durability="os") as store:
        await store.add_message(session_id, "user", "x")
    assert documents(tmp_path) == {name}
    assert (tmp_path / f"{name}.lock").exists()


@pytest.mark.parametrize("session_id", [LONG + "y", "x" * 512, "群" * 100, "😀" * 128])
async def test_long_ids_fit_into_names(tmp_path: Path, session_id: str) -> None:
    async with JSONSessionStore(tmp_path, durability="os") as store:
        await store.add_message(session_id, "user", "x")
        assert [info.session_id for info in await store.list_sessions()] == [session_id]
        assert await store.delete_session(session_id)
    assert documents(tmp_path) == set()


async def test_ids_of_one_name_never_share_a_document(tmp_path: Path) -> None:
    ids = ["a.b", "a_b", "a/b", "a😀b", "A.b"]
    async with JSONSessionStore(tmp_path, durability="os") as store:
        await asyncio.gather(*(store.add_message(each, "user", each) for each in ids))
        for each in ids:
            assert await store.get_chat_history(each) == [{"role": "user", "content": each}]
        assert {info.session_id for info in await store.list_sessions()} == set(ids)
        owner = json.loads((tmp_path / "a_b.json").read_text())["session_id"]
        # Where the name becomes free, the others stay where they are.
        assert await store.delete_session(owner)
        (other, *_) = {"a.b", "a_b", "a/b"} - {owner}
        await store.add_message(other, "user", "more")
        assert len(await store.get_messages(other)) == 2
        assert not await store.session_exists(owner)
    assert len(documents(tmp_path)) == len(ids) - 1


async def test_a_document_without_an_id_belongs_to_its_name(tmp_path: Path) -> None:
    (tmp_path / "a_b.json").write_text('{"messages": [{"role": "user", "content": "x"}]}')
    async with JSONSessionStore(tmp_path, durability="os") as store:
        assert await store.get_messages("a.b") == []
        assert len(await store.get_messages("a_b")) == 1
        await store.add_message("a.b", "user", "y")
        assert {info.session_id for info in await store.list_sessions()} == {"a.b", "a_b"}


async def test_damage_spares_other_ids_where_the_owner_is_known(tmp_path: Path) -> None:
    (tmp_path / "a_b.json").write_text('{\n  "session_id": "a/b",\n  "messages": [')
    (tmp_path / "c_d.json").write_text("garbage")
    async with JSONSessionStore(tmp_path, durability="os") as store:
        await store.add_message("a.b", "user", "x")
        assert len(await store.get_messages("a.b")) == 1
        for damaged in ("a/b", "c.d", "c_d"):
            with pytest.raises(CorruptSessionError):
                await store.get_messages(damaged)


async def test_copies_and_strangers_are_not_listed(tmp_path: Path) -> None:
    async with JSONSessionStore(tmp_path, durability="os") as store:
        await store.add_message("s", "user", "x")
        (tmp_path / "copy.json").write_bytes((tmp_path / "s.json").read_bytes())
        (tmp_path / "directory.json").mkdir()
        assert [info.session_id for info in await store.list_sessions()] == ["s"]
        with pytest.raises(StoreUnavailableError):
            await store.get_messages("directory")


def test_names_keep_their_digest_whatever_is_cut_off() -> None:
    names = {names_of(f"{'群' * 100}{number}").suffixed for number in range(20)}
    assert len(names) == 20
    assert max(len(f"{name}.lock".encode()) for name in names) <= 255


# Locks.


async def test_a_held_lock_times_out_while_the_loop_runs(tmp_path: Path) -> None:
    async with JSONSessionStore(tmp_path, durability="os", lock_timeout=2 * slowness()) as store:
        await store.add_message("s", "user", "a")
        with locked(tmp_path / "s.json.lock"):
            late = asyncio.create_task(store.add_message("s", "user", "b"))
            ticks = 0
            while not late.done():
                # Other sessions and reads go on.
                await store.add_message("other", "user", "x")
                assert len(await store.get_messages("s")) == 1
                ticks += 1
            with pytest.raises(LockTimeoutError):
                await late
        assert ticks > 5
        await store.add_message("s", "user", "c")
        assert [each.content for each in await store.get_messages("s")] == ["a", "c"]


async def test_who_waits_for_a_lock_gets_it(tmp_path: Path) -> None:
    async with JSONSessionStore(tmp_path, durability="os") as store:
        with locked(tmp_path / "s.json.lock"):
            waiting = asyncio.create_task(store.add_message("s", "user", "x"))
            await asyncio.sleep(0.05)
            assert not waiting.done()
        assert await asyncio.wait_for(waiting, LONG_ENOUGH)


async def test_the_file_of_a_lock_is_never_replaced(tmp_path: Path) -> None:
    async with JSONSessionStore(tmp_path, durability="os") as store:
        await store.add_message("s", "user", "x")
        before = (tmp_path / "s.json.lock").stat().st_ino
        await store.delete_session("s")
        await store.add_message("s", "user", "y")
    assert (tmp_path / "s.json.lock").stat().st_ino == before


async def test_a_directory_made_anew_is_used_with_its_own_lock(tmp_path: Path) -> None:
    directory = tmp_path / "d"
    async with JSONSessionStore(directory, durability="os", lock_timeout=0.05) as store:
        await store.add_message("s", "user", "x")
        directory.rename(tmp_path / "away")
        with pytest.raises(StoreUnavailableError):
            await store.add_message("s", "user", "lost")
        directory.mkdir()
        with locked(directory / "s.json.lock"), pytest.raises(LockTimeoutError):
            await store.add_message("s", "user", "y")
        await store.add_message("s", "user", "z")
        assert [each.content for each in await store.get_messages("s")] == ["z"]


def test_a_busy_process_leaves_the_lock_alone_at_times(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    monkeypatch.setattr(time, "time", lambda: now)
    writer = DocumentFile(Disk(), tmp_path, "s", is_synced=False, lock_timeout=5.0)
    refused = []
    for step in range(512):
        now = 1000.0 + step / 128
        if writer.acquire(create=True):
            writer.release()
        else:
            refused.append(step)
    # 60 ms of each 2 s, but not in the first one.
    assert refused == list(range(256, 264))
    writer.close()


# One write for all who wait.


class CountingDisk(Disk):
    def __init__(self) -> None:
        self.replaced = 0

    def replace(self, source: Path, target: Path) -> None:
        self.replaced += 1
        super().replace(source, target)


async def test_concurrent_callers_share_a_write(tmp_path: Path) -> None:
    disk = CountingDisk()
    async with JSONSessionStore(tmp_path, durability="os", disk=disk) as store:
        await store.ping()
        await asyncio.gather(*(store.add_message("s", "user", str(n)) for n in range(64)))
        assert len(await store.get_messages("s")) == 64
    assert disk.replaced <= 2


def append_in_process(directory: str, session_ids: list[str], name: str) -> None:
    async def run() -> None:
        async with open_store(f"json://{directory}?durability=os&lock_timeout=300") as store:
            for number in range(10):
                await asyncio.gather(
                    *(store.add_message(each, "user", f"{name}-{number}") for each in session_ids)
                )

    asyncio.run(run())


async def test_processes_agree_on_who_has_which_name(tmp_path: Path) -> None:
    ids = ["a.b", "a_b", "a/b", "a b"]
    spawn = multiprocessing.get_context("spawn")
    processes = [
        spawn.Process(target=append_in_process, args=(str(tmp_path), ids[n:] + ids[:n], f"p{n}"))
        for n in range(3)
    ]
    for process in processes:
        process.start()
    for process in processes:
        await asyncio.to_thread(process.join)
        assert process.exitcode == 0
    async with JSONSessionStore(tmp_path) as store:
        for each in ids:
            messages = await store.get_messages(each)
            assert [message.seq for message in messages] == list(range(1, 31))
            assert len({message.content for message in messages}) == 30
    assert len(documents(tmp_path)) == len(ids)


# Disks that fail.


class FailingDisk(Disk):
    """Fails one operation with an error of the system."""

    def __init__(self) -> None:
        self.failing: str | None = None

    def _check(self, operation: str) -> None:
        if self.failing == operation:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def write(self, fd: int, data: bytes, offset: int) -> None:
        if self.failing == "write":
            super().write(fd, data[: len(data) // 2], offset)
        self._check("write")
        super().write(fd, data, offset)

    def sync(self, fd: int) -> None:
        self._check("sync")
        super().sync(fd)

    def replace(self, source: Path, target: Path) -> None:
        self._check("replace")
        super().replace(source, target)


@pytest.mark.parametrize("operation", ["write", "sync", "replace"])
async def test_a_full_disk_leaves_the_old_document(tmp_path: Path, operation: str) -> None:
    disk = FailingDisk()
    async with JSONSessionStore(tmp_path, disk=disk) as store:
        await store.add_message("s", "user", "a")
        before = (tmp_path / "s.json").read_bytes()
        disk.failing = operation
        calls: list[Any] = [
            store.add_message("s", "user", "b"),
            store.clear_session("s"),
            store.set_state("s", "k", 1),
            store.add_message("new", "user", "x"),
        ]
        for call in calls:
            with pytest.raises(StoreUnavailableError) as caught:
                await call
            assert isinstance(caught.value.__cause__, OSError)
        assert (tmp_path / "s.json").read_bytes() == before
        disk.failing = None
        (stored,) = await store.append("s", [Message("user", "c")])
        assert stored.seq == 2
        assert not await store.session_exists("new")
    assert not list(tmp_path.glob("*.tmp"))


async def test_what_a_crash_left_is_written_over_or_deleted(tmp_path: Path) -> None:
    left = tmp_path / names_of("s").temp
    async with JSONSessionStore(tmp_path) as store:
        left.write_text("x" * 10_000)
        await store.add_message("s", "user", "a")
        assert json.loads((tmp_path / "s.json").read_text())["session_id"] == "s"
        left.write_text("secret")
        await store.delete_session("s")
    assert not list(tmp_path.glob("*.tmp"))


async def test_a_message_is_located_in_its_document(tmp_path: Path) -> None:
    async with JSONSessionStore(tmp_path) as store:
        await store.append("s", [Message("user", "a"), Message("user", "b")])
        tail = await store._tail("s", Window())
        assert tail is not None
        assert await store._locate("s", tail.messages[1]) == (str(tmp_path / "s.json"), 10)
        assert (await store._locate("s", b'{"seq":9,"role":"no"}'))[1] is None


@pytest.mark.parametrize("change", [(b"turn 1500", b"turn \xff500"), (b'"turn 1500', b"turn 1500")])
async def test_damage_in_a_long_document_is_found_and_named(
    tmp_path: Path, change: tuple[bytes, bytes]
) -> None:
    async with JSONSessionStore(tmp_path, durability="os") as store:
        turns = [Message("user", f"turn {number:04}") for number in range(3000)]
        await store.set_chat_history("chat", turns)
        assert len(await store.get_messages("chat")) == 3000
        path = tmp_path / "chat.json"
        before = path.read_bytes()
        path.write_bytes(before.replace(*change))
        with pytest.raises(CorruptSessionError) as caught:
            await store.get_messages("chat")
        assert caught.value.line == before[: before.index(b"turn 1500")].count(b"\n") + 1
        with pytest.raises(CorruptSessionError):
            await store.add_message("chat", "user", "refused")
        assert path.read_bytes() == before.replace(*change)
