"""Messages that PraisonAI spilled because it could not write them: each is taken over once."""

from __future__ import annotations

import asyncio
import fcntl
import json
import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from asyncsessions import CorruptSessionError, StoreUnavailableError, open_store
from asyncsessions.stores._disk import PAST_DATA, Disk
from asyncsessions.stores.json import JSONSessionStore
from asyncsessions.sync._original.spill import take_over_spills
from asyncsessions.testing.timing import LONG_ENOUGH

AT = 1_700_000_000.0
"""When the messages of these tests were spilled, in seconds since the epoch."""


def message(content: Any, timestamp: float = AT, **fields: Any) -> dict[str, Any]:
    return {"role": "user", "content": content, "timestamp": timestamp, "metadata": {}} | fields


def touch(directory: Path, session_id: str, at: float = AT) -> None:
    """Leave the lock of a session as PraisonAI does when it opens it."""
    safe = "".join(char if char.isalnum() or char in "-_" else "_" for char in session_id)
    directory.mkdir(exist_ok=True)
    lock = directory / f"{safe}.json.lock"
    lock.touch()
    os.utime(lock, (0, at))


class Spilled:
    """PraisonAI's directory of spilled messages, and one of sessions."""

    def __init__(self, path: Path) -> None:
        self.path = path / "home" / "state" / "session_spill"
        self.path.mkdir(parents=True)
        self.directory = path / "sessions"
        self._count = 0

    def add(self, session_id: str, *messages: Any, at: float = AT) -> Path:
        """Spill messages as PraisonAI does, after it opened the lock of their session."""
        touch(self.directory, session_id, at)
        safe = "".join(char if char.isalnum() or char in "-_" else "_" for char in session_id)
        self._count += 1
        path = self.path / f"{safe}.{int(at * 1000)}.77.{self._count:08x}.json"
        payload = {"session_id": session_id, "spilled_at": "", "messages": messages}
        path.write_text(json.dumps(payload, ensure_ascii=False))
        return path

    def left(self) -> list[str]:
        return sorted(each.name for each in self.path.iterdir())


@pytest.fixture
def spilled(tmp_path: Path) -> Spilled:
    return Spilled(tmp_path)


async def contents(store: JSONSessionStore, session_id: str) -> list[Any]:
    return [each.content for each in await store.get_messages(session_id)]


async def test_messages_come_last_in_the_order_of_the_files(spilled: Spilled) -> None:
    async with JSONSessionStore(spilled.directory) as store:
        await store.add_message("s", "user", "stored")
        spilled.add("s", message("third"), at=AT + 1)
        spilled.add("s", message("first"), message("second"), at=AT)
        assert await store.take_over_spills("s", spilled.path) == 3
        messages = await store.get_messages("s")
        assert [each.content for each in messages] == ["stored", "first", "second", "third"]
        assert [each.seq for each in messages] == [1, 2, 3, 4]
        assert spilled.left() == []
        assert await store.take_over_spills("s", spilled.path) == 0


async def test_messages_are_stored_as_they_are(spilled: Spilled) -> None:
    given = [
        message({"text": "ü"}, timestamp=1.25, metadata={"partial": True}),
        message(None, role="assistant", tool_calls=[{"id": "c"}]),
        message("4", role="tool", tool_call_id="c", unknown=[1]),
    ]
    spilled.add("s", *given, "no message")
    async with JSONSessionStore(spilled.directory) as store:
        assert await store.take_over_spills("s", spilled.path) == 3
    assert json.loads((spilled.directory / "s.json").read_text())["messages"] == given


async def test_what_the_session_has_is_not_added_again(spilled: Spilled) -> None:
    touch(spilled.directory, "s")
    document = {
        "session_id": "s",
        "messages": [message("a"), message({"k": [1, {"x": 2}]})],
        "archived_messages": [message("old"), "no message"],
    }
    (spilled.directory / "s.json").write_text(json.dumps(document))
    spilled.add("s", message("a"), message({"k": [1, {"x": 2}]}), message("old"))
    spilled.add("s", message("a", AT + 1), message("a", role="assistant"), message("b"))
    spilled.add("s", message("b"), message("b"))
    async with JSONSessionStore(spilled.directory) as store:
        assert await store.take_over_spills("s", spilled.path) == 3
        assert (await contents(store, "s"))[2:] == ["a", "a", "b"]
    assert spilled.left() == []


async def test_the_id_inside_says_whose_it_is(spilled: Spilled) -> None:
    for session_id in ("a.b", "a_b", "a/b"):
        spilled.add(session_id, message(session_id))
    async with JSONSessionStore(spilled.directory) as store:
        for session_id in ("a_b", "a.b"):
            assert await store.take_over_spills(session_id, spilled.path) == 1
            assert await contents(store, session_id) == [session_id]
        assert not await store.session_exists("a/b")
    assert len(spilled.left()) == 1


async def test_nothing_is_made_where_nothing_is_spilled(spilled: Spilled, tmp_path: Path) -> None:
    spilled.add("other", message("x"))
    (spilled.path / "s.json").write_text(json.dumps({"session_id": "s", "messages": []}))
    before = sorted(spilled.directory.iterdir())
    async with JSONSessionStore(spilled.directory) as store:
        assert await store.take_over_spills("s", spilled.path) == 0
        assert await store.take_over_spills("s", tmp_path / "missing") == 0
        assert await store.take_over_spills("x" * 300, spilled.path) == 0
    assert sorted(spilled.directory.iterdir()) == before


async def test_what_cannot_be_read_stays_and_is_logged_by_its_path(
    spilled: Spilled, caplog: pytest.LogCaptureFixture
) -> None:
    contents_of = {
        "1": b'{"session_id": "s", "messages": ["secret',
        "2": b"",
        "3": b'{"session_id": "s", "messages": "secret"}',
        "4": b'["secret"]',
        "5": b'{"messages": []}',
        "6": b'{"session_id": "s", "messages": [{"content": "secret \xff"}]}',
    }
    for name, content in contents_of.items():
        (spilled.path / f"s.170000000000{name}.77.0a.json").write_bytes(content)
    (spilled.path / "s.1700000000007.77.0a.json").mkdir()
    (spilled.path / "s.1700000000000.77.0a.json.tmp").write_text("secret")
    before = spilled.left()
    spilled.add("s", message("x"), at=AT + 5)
    async with JSONSessionStore(spilled.directory) as store:
        with caplog.at_level(logging.WARNING, "asyncsessions"):
            assert await store.take_over_spills("s", spilled.path) == 1
    assert spilled.left() == before
    texts = [record.getMessage() for record in caplog.records]
    assert len(texts) == 7
    assert all(str(spilled.path) in text and "secret" not in text for text in texts)


def opened_before(store: JSONSessionStore) -> None:
    touch(store.directory, "s", at=AT - 3600)


def opened_since(store: JSONSessionStore) -> None:
    touch(store.directory, "s", at=AT + 3600)


def made_since(store: JSONSessionStore) -> None:
    assert (store.directory / "s.json.lock").stat().st_mtime > AT


def removed(store: JSONSessionStore) -> None:
    (store.directory / "s.json.lock").unlink()


@pytest.mark.parametrize(
    ("change", "count"), [(removed, 0), (opened_before, 0), (made_since, 0), (opened_since, 1)]
)
async def test_what_was_spilled_for_another_directory_stays(
    spilled: Spilled, tmp_path: Path, change: Callable[[JSONSessionStore], None], count: int
) -> None:
    spilled.add("s", message("theirs"))
    async with JSONSessionStore(tmp_path / "other") as store:
        await store.add_message("s", "user", "ours")
        change(store)
        # That PraisonAI opened it since is all that can be known.
        assert await store.take_over_spills("s", spilled.path) == count
        assert len(spilled.left()) == 1 - count


async def test_what_was_spilled_for_this_directory_is_found(spilled: Spilled) -> None:
    spilled.add("s", message("a"))
    touch(spilled.directory, "s", at=AT + 3600)
    async with JSONSessionStore(spilled.directory) as store:
        assert await store.take_over_spills("s", spilled.path) == 1


async def test_a_damaged_document_leaves_the_files(spilled: Spilled) -> None:
    spilled.add("s", message("x"))
    (spilled.directory / "s.json").write_text("damaged")
    async with JSONSessionStore(spilled.directory) as store:
        with pytest.raises(CorruptSessionError):
            await store.take_over_spills("s", spilled.path)
        assert len(spilled.left()) == 1
        assert await store.quarantine("s") is not None
        assert await store.take_over_spills("s", spilled.path) == 1


async def test_what_is_taken_over_before_a_deletion_goes_with_it(spilled: Spilled) -> None:
    async with JSONSessionStore(spilled.directory) as store:
        await store.add_message("s", "user", "a")
        for remove in (store.clear_session, store.delete_session):
            spilled.add("s", message("b"))
            await store.take_over_spills("s", spilled.path)
            assert await remove("s")
            assert await store.take_over_spills("s", spilled.path) == 0
            assert await contents(store, "s") == []


async def test_retention_and_expiry_are_those_of_an_append(spilled: Spilled) -> None:
    now = AT
    options: dict[str, Any] = {"max_messages": 2, "ttl_seconds": 10, "clock": lambda: now}
    async with JSONSessionStore(spilled.directory, **options) as store:
        await store.add_message("s", "user", "a")
        spilled.add("s", message("b"), message("c"))
        now = AT + 9
        assert await store.take_over_spills("s", spilled.path) == 2
        assert await contents(store, "s") == ["b", "c"]
        now = AT + 18
        assert await store.session_exists("s")
        now = AT + 40
        spilled.add("s", message("d"))
        assert await store.take_over_spills("s", spilled.path) == 1
        # What had expired doesn't come back.
        assert await contents(store, "s") == ["d"]


# What fails, and who is killed.


class LoggingDisk(Disk):
    """Notes the order of operations, and fails one of them."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.failing: str | None = None

    def _note(self, operation: str) -> None:
        if self.failing == operation:
            raise PermissionError(f"no {operation}")
        self.done.append(operation)

    def sync(self, fd: int) -> None:
        self._note("sync")
        super().sync(fd)

    def sync_directory(self, path: Path) -> None:
        self._note("sync_directory")
        super().sync_directory(path)

    def replace(self, source: Path, target: Path) -> None:
        self._note("replace")
        super().replace(source, target)

    def unlink(self, path: Path) -> None:
        if path.suffix != ".tmp":
            self._note("unlink")
        super().unlink(path)


@pytest.mark.parametrize("durability", ["fsync", "os"])
async def test_a_file_is_removed_when_the_disk_has_its_messages(
    spilled: Spilled, durability: Any
) -> None:
    disk = LoggingDisk()
    spilled.add("s", message("x"))
    async with JSONSessionStore(spilled.directory, durability=durability, disk=disk) as store:
        assert await store.take_over_spills("s", spilled.path) == 1
    assert disk.done == ["sync", "replace", "sync_directory", "unlink"]


@pytest.mark.parametrize("operation", ["sync", "replace", "sync_directory"])
async def test_a_failed_write_leaves_the_file(spilled: Spilled, operation: str) -> None:
    disk = LoggingDisk()
    spilled.add("s", message("x"))
    async with JSONSessionStore(spilled.directory, disk=disk) as store:
        disk.failing = operation
        with pytest.raises(StoreUnavailableError):
            await store.take_over_spills("s", spilled.path)
        assert len(spilled.left()) == 1
        disk.failing = None
        await store.take_over_spills("s", spilled.path)
        assert await contents(store, "s") == ["x"]
    assert spilled.left() == []


async def test_a_file_that_stays_is_not_taken_over_twice(spilled: Spilled) -> None:
    disk = LoggingDisk()
    spilled.add("s", message("x"))
    async with JSONSessionStore(spilled.directory, disk=disk) as store:
        disk.failing = "unlink"
        assert await store.take_over_spills("s", spilled.path) == 1
        assert await store.take_over_spills("s", spilled.path) == 0
        # Not even when its messages are gone by now.
        await store.clear_session("s")
        assert await store.take_over_spills("s", spilled.path) == 0
        assert len(spilled.left()) == 1
        disk.failing = None
        assert await store.take_over_spills("s", spilled.path) == 0
        assert spilled.left() == []
        assert await contents(store, "s") == []


class WatchedDisk(Disk):
    """Tells when somebody found a lock held."""

    def __init__(self) -> None:
        self.refused = threading.Event()

    def try_lock(self, fd: int, byte: int = PAST_DATA) -> bool:
        if super().try_lock(fd, byte):
            return True
        self.refused.set()
        return False


async def test_what_vanished_while_the_lock_was_held_is_not_added(spilled: Spilled) -> None:
    disk = WatchedDisk()
    path = spilled.add("s", message("x"))
    async with JSONSessionStore(spilled.directory, disk=disk, lock_timeout=LONG_ENOUGH) as store:
        with (spilled.directory / "s.json.lock").open("r+") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            taking = asyncio.create_task(store.take_over_spills("s", spilled.path))
            await asyncio.to_thread(disk.refused.wait, 60)
            # PraisonAI takes it over, and clears the session at once.
            path.unlink()
        assert await taking == 0
        assert not await store.session_exists("s")


class KillingDisk(Disk):
    """Kills the process in place of the first operation of a name."""

    def __init__(self, operation: str) -> None:
        setattr(self, operation, self._die)

    def _die(self, *_: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


def take_over_in_process(directory: str, spills: str, killed_at: str | None) -> None:
    disk = Disk() if killed_at is None else KillingDisk(killed_at)

    async def run() -> None:
        async with open_store(f"json://{directory}", disk=disk, lock_timeout=LONG_ENOUGH) as store:
            assert isinstance(store, JSONSessionStore)
            await take_over_spills(store, "s", Path(spills))

    asyncio.run(run())


async def in_processes(count: int, target: Callable[..., None], *args: object) -> list[int | None]:
    spawn = multiprocessing.get_context("spawn")
    processes = [spawn.Process(target=target, args=args) for _ in range(count)]
    for process in processes:
        process.start()
    for process in processes:
        await asyncio.to_thread(process.join)
    return [process.exitcode for process in processes]


@pytest.mark.parametrize("killed_at", ["sync", "replace", "sync_directory", "unlink"])
async def test_a_killed_process_doubles_and_loses_nothing(spilled: Spilled, killed_at: str) -> None:
    spilled.add("s", message("a"), message("b"))
    given = (str(spilled.directory), str(spilled.path))
    assert await in_processes(1, take_over_in_process, *given, killed_at) == [-signal.SIGKILL]
    assert len(spilled.left()) == 1
    async with JSONSessionStore(spilled.directory) as store:
        await store.take_over_spills("s", spilled.path)
        assert await contents(store, "s") == ["a", "b"]
    assert spilled.left() == []


async def test_many_at_once_take_each_file_over_once(spilled: Spilled) -> None:
    for number in range(30):
        spilled.add("s", message(str(number), AT + number), at=AT + number)
    given = (str(spilled.directory), str(spilled.path), None)
    async with JSONSessionStore(spilled.directory, lock_timeout=LONG_ENOUGH) as store:
        calls = [store.take_over_spills("s", spilled.path) for _ in range(8)]
        others = asyncio.create_task(in_processes(3, take_over_in_process, *given))
        counts = await asyncio.gather(*calls)
        assert await others == [0, 0, 0]
        # All is taken over in one go, by whoever comes first.
        assert sorted(counts) in ([0] * 8, [0] * 7 + [30])
        assert await contents(store, "s") == [str(number) for number in range(30)]
    assert spilled.left() == []


async def test_the_directory_is_looked_up_where_none_is_given(
    spilled: Spilled, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PRAISONAI_HOME", str(spilled.path.parents[1]))
    spilled.add("s", message("x"))
    async with JSONSessionStore(spilled.directory) as store:
        assert await take_over_spills(store, "s") == 1
        assert await take_over_spills(store, "s") == 0
