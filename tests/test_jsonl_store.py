"""What is particular to JSON Lines files: the format, the cost, and the housekeeping."""

from __future__ import annotations

import asyncio
import fcntl
import json
import multiprocessing
import os
import threading
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from asyncsessions import CorruptSessionError, IdempotencyConflictError, Message, open_store
from asyncsessions.hooks import Append
from asyncsessions.stores._disk import Disk
from asyncsessions.stores._logfile import SessionFile
from asyncsessions.stores.jsonl import JSONLinesSessionStore
from asyncsessions.testing import ManualClock


class CountingDisk(Disk):
    """Counts the bytes that are read and written."""

    def __init__(self) -> None:
        self.read_bytes = 0
        self.written_bytes = 0

    def read(self, fd: int, size: int, offset: int) -> bytes:
        data = super().read(fd, size, offset)
        self.read_bytes += len(data)
        return data

    def write(self, fd: int, data: bytes, offset: int) -> None:
        self.written_bytes += len(data)
        super().write(fd, data, offset)

    def take(self) -> tuple[int, int]:
        taken = self.read_bytes, self.written_bytes
        self.read_bytes = self.written_bytes = 0
        return taken


def turns(count: int, text: str = "x" * 200) -> list[Message]:
    return [Message("user", f"{number} {text}") for number in range(1, count + 1)]


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


async def test_the_format_at_rest(tmp_path: Path) -> None:
    async with JSONLinesSessionStore(tmp_path, clock=lambda: 1767225600.0) as store:
        await store.add_message("chat-1", "user", "Hello", {"lang": "en"})
        await store.set_state("chat-1", "topic", "greeting")
        await store.append("chat-1", [Message("assistant", "Hi")], idempotency_key="k1")
    assert (tmp_path / "chat-1.jsonl").read_text().splitlines() == [
        '{"asyncsessions":1,"session_id":"chat-1"}',
        '{"record":{"session_id":"chat-1","created_at":1767225600.0}}',
        '{"seq":1,"role":"user","content":"Hello","timestamp":1767225600.0,"metadata":{"lang":"en"}}',
        '{"commit":{"seq":1,"count":1,"first_at":103,"tail":195,"record":42,"updated_at":1767225600.0,"size":195},"crc":"c7c9bc20"}',
        '{"record":{"session_id":"chat-1","created_at":1767225600.0,"state":{"topic":"greeting"}}}',
        '{"commit":{"seq":1,"count":1,"first_at":103,"tail":195,"record":318,"updated_at":1767225600.0,"dead":184,"size":90},"crc":"9dd42f09"}',
        '{"seq":2,"role":"assistant","content":"Hi","timestamp":1767225600.0}',
        '{"key":"k1","first_seq":2,"count":1,"digest":"2b04bfe7365ff5bc67d8f3e219f1eaf0","now":1767225600.0}',
        '{"commit":{"seq":2,"count":2,"first_at":103,"tail":611,"record":318,"updated_at":1767225600.0,"dead":184,"size":169},"crc":"cc084ffe"}',
    ]


@pytest.mark.parametrize("ttl_seconds", [None, 60.0])
@pytest.mark.parametrize("sizes", [(1,), (0,), (2, 0, 3), (2, 1, 3), (1,) * 300])
def test_the_fast_way_to_append_writes_the_same_bytes(
    tmp_path: Path, sizes: Sequence[int], ttl_seconds: float | None
) -> None:
    def flush(name: str, keep: int | None) -> tuple[list[Any], bytes]:
        path = tmp_path / name
        file = SessionFile(Disk(), path, "chat", is_synced=False)
        outcomes: list[Any] = []
        # The first flush makes the session, and a limit on what is kept takes the general way.
        for now, batch_sizes in ((1.0, (1,)), (2.0, sizes)):
            batch = [
                Append("chat", bodies(size), (False,) * size, now, keep, ttl_seconds=ttl_seconds)
                for size in batch_sizes
            ]
            assert file.acquire(create=True)
            outcomes += file.append(batch)
            file.sync()
            file.release()
        file.close()
        return outcomes, path.read_bytes()

    assert flush("fast", None) == flush("general", 10_000)


def bodies(count: int) -> tuple[bytes, ...]:
    return tuple(b'{"role":"user","content":"%d"}' % number for number in range(count))


@pytest.mark.parametrize("count", [10, 10_000])
async def test_no_cost_grows_with_the_history(tmp_path: Path, count: int) -> None:
    disk = CountingDisk()
    async with JSONLinesSessionStore(tmp_path, disk=disk, durability="os") as store:
        await store.append("chat", turns(count))
        for warm_up in range(2):
            disk.take()
            await store.add_message("chat", "user", "one more")
            read, written = disk.take()
            assert read <= 70_000 * (1 - warm_up)
            assert written < 300
            await store.set_state("chat", "key", warm_up)
            await store.update_session_metadata("chat", key=warm_up)
            read, written = disk.take()
            assert read < 70_000
            assert written < 700
        assert len(await store.get_messages("chat", limit=20)) == min(20, count + 2)
        assert disk.take()[0] < 140_000
        middle = await store.get_messages("chat", before=count // 2, limit=3)
        assert [message.seq for message in middle] == [
            count // 2 - 3,
            count // 2 - 2,
            count // 2 - 1,
        ]
        assert disk.take()[0] < 2_000_000
        assert [m.seq for m in await store.get_messages("chat", after=count - 5, limit=2)] == [
            count - 4,
            count - 3,
        ]
        assert disk.take()[0] < 2_000_000


async def test_a_large_batch_leaves_later_reads_cheap(tmp_path: Path) -> None:
    disk = CountingDisk()
    async with JSONLinesSessionStore(tmp_path, disk=disk) as store:
        await store.append("chat", turns(20, "x" * 100_000))
        disk.take()
        await store.get_messages("chat", limit=1)
        assert disk.take()[0] < 600_000


async def test_turn_that_went_on_behind_a_removed_message_is_read_as_it_ended(
    tmp_path: Path,
) -> None:
    async with JSONLinesSessionStore(tmp_path, durability="os") as store:
        await store.append("chat", turns(300, "x" * 1000))
        await store.upsert_partial_assistant_message("chat", "piece")
        await store.add_message("chat", "user", "taken back")
        await store.pop_message("chat")
        for number in range(100):
            await store.upsert_partial_assistant_message("chat", f"piece {number} " + "x" * 1000)
        await store.upsert_partial_assistant_message("chat", "the end", finalize=True)
        newest = (await store.get_messages("chat"))[-1]
        assert (newest.seq, newest.content) == (301, "the end")
        for before in (302, 303):
            assert await store.get_messages("chat", before=before, limit=1) == [newest]
        await store.append("chat", turns(3))
        for before in (302, 303):
            assert await store.get_messages("chat", before=before, limit=1) == [newest]


async def test_damaged_message_past_retention_is_told_as_such(tmp_path: Path) -> None:
    async with JSONLinesSessionStore(tmp_path) as store:
        await store.append("chat", turns(3))
        await store.append("chat", turns(1))
    path = tmp_path / "chat.jsonl"
    damaged = path.read_bytes().replace(b'{"seq":1,"role":"user"', b'{"seq":1,"role":user*"', 1)
    path.write_bytes(damaged)
    async with JSONLinesSessionStore(tmp_path, max_messages=2) as store:
        with pytest.raises(CorruptSessionError) as caught:
            await store.append("chat", turns(1))
        assert caught.value.path == str(path)


def test_event_loop_that_ends_while_a_session_is_locked_ends(tmp_path: Path) -> None:
    async def main() -> None:
        store = JSONLinesSessionStore(tmp_path)
        await store.add_message("chat", "user", "Hello")
        with (tmp_path / "chat.jsonl").open("rb") as file:
            fcntl.flock(file.fileno(), fcntl.LOCK_EX)
            waiting = asyncio.create_task(store.add_message("chat", "user", "Hello again"))
            await asyncio.sleep(0.1)
            assert not waiting.done()
            locks.append(os.dup(file.fileno()))

    locks: list[int] = []
    thread = threading.Thread(target=asyncio.run, args=(main(),), daemon=True)
    thread.start()
    thread.join(60)
    for lock in locks:
        os.close(lock)
    assert not thread.is_alive()


async def test_dead_records_are_compacted_away(tmp_path: Path) -> None:
    async with JSONLinesSessionStore(tmp_path, durability="os") as store:
        await store.append("chat", turns(50), idempotency_key="first")
        for number in range(300):
            await store.update_session_metadata("chat", notes="n" * 1000, number=number)
        path = tmp_path / "chat.jsonl"
        assert path.stat().st_size < 200_000
        assert [m.seq for m in await store.get_messages("chat")] == list(range(1, 51))
        info = await store.get_session("chat", max_messages=0)
        assert info.metadata["number"] == 299
        assert info.message_count == 50
        # Keys live on through it, and so does the order of seq.
        again = await store.append("chat", turns(50), idempotency_key="first")
        assert [message.seq for message in again] == list(range(1, 51))
        with pytest.raises(IdempotencyConflictError):
            await store.append("chat", turns(49), idempotency_key="first")
        await store.add_message("chat", "user", "after")
        assert (await store.get_messages("chat", limit=1))[0].seq == 51


async def _count(store: JSONLinesSessionStore) -> None:
    await store.increment_state("s", "n")


async def _keep_alive(store: JSONLinesSessionStore) -> None:
    await store.expire_session("s", 60)


async def _stream(store: JSONLinesSessionStore) -> None:
    await store.upsert_partial_assistant_message("s", "so far")


@pytest.mark.parametrize("write", [_count, _keep_alive, _stream])
async def test_small_writes_without_a_message_keep_the_file_small(
    tmp_path: Path, write: Callable[[JSONLinesSessionStore], Awaitable[None]]
) -> None:
    async with JSONLinesSessionStore(tmp_path, durability="os") as store:
        await store.add_message("s", "user", "x")
        for _ in range(3000):
            await write(store)
        assert (tmp_path / "s.jsonl").stat().st_size < 200_000


async def test_popped_messages_are_removed_from_the_disk(tmp_path: Path) -> None:
    async with JSONLinesSessionStore(tmp_path, durability="os") as store:
        await store.add_message("chat", "user", "kept")
        for number in range(40):
            await store.add_message("chat", "user", f"secret {number}")
            await store.pop_message("chat")
        await store.add_message("chat", "user", "newest")
        assert [m.seq for m in await store.get_messages("chat")] == [1, 42]
        assert [m.seq for m in await store.get_messages("chat", after=0, limit=5)] == [1, 42]
        assert [m.seq for m in await store.get_messages("chat", before=42)] == [1]
    assert (tmp_path / "chat.jsonl").read_bytes().count(b"secret") < 10


async def test_cleared_messages_are_off_the_disk_at_once(tmp_path: Path) -> None:
    async with JSONLinesSessionStore(tmp_path) as store:
        await store.add_message("chat", "user", "secret")
        await store.set_state("chat", "kept", 1)
        await store.clear_session("chat")
        assert b"secret" not in (tmp_path / "chat.jsonl").read_bytes()
        assert await store.get_state("chat") == {"kept": 1}
        await store.delete_session("chat")
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", [".tmp", ".torn"])
async def test_what_a_killed_process_left_goes_with_its_session(
    tmp_path: Path, suffix: str
) -> None:
    clock = ManualClock()
    async with JSONLinesSessionStore(tmp_path, clock=clock) as store:
        await store.add_message("s", "user", "x")
        (path,) = tmp_path.glob("*.jsonl")
        left = path.with_suffix(suffix)
        left.write_bytes(b"secret")
        await store.delete_session("s")
        assert not left.exists()
        await store.add_message("s", "user", "x")
        await store.expire_session("s", 5)
        left.write_bytes(b"secret")
        clock.advance(5)
        await store.add_message("s", "user", "y")
        assert [message.content for message in await store.get_messages("s")] == ["y"]
        assert not left.exists()


async def test_what_is_left_goes_before_the_lock_does(tmp_path: Path) -> None:
    """Or it could be what the next one who has the session's lock is writing."""

    class Noting(Disk):
        def unlink(self, path: Path) -> None:
            super().unlink(path)
            gone.append(path.suffix)

    gone: list[str] = []
    async with JSONLinesSessionStore(tmp_path, disk=Noting()) as store:
        await store.add_message("s", "user", "x")
        (path,) = tmp_path.glob("*.jsonl")
        path.with_suffix(".tmp").touch()
        await store.delete_session("s")
    assert gone[-2:] == [".tmp", ".jsonl"]


async def test_retention_shrinks_the_file(tmp_path: Path) -> None:
    async with JSONLinesSessionStore(tmp_path, durability="os", max_messages=10) as store:
        for message in turns(2000):
            await store.append("chat", [message])
        assert (tmp_path / "chat.jsonl").stat().st_size < 200_000
        assert [m.seq for m in await store.get_messages("chat")] == list(range(1991, 2001))


async def test_reading_leaves_nothing_behind(tmp_path: Path) -> None:
    async with JSONLinesSessionStore(tmp_path) as store:
        assert await store.get_chat_history("chat") == []
        assert not await store.session_exists("chat")
        assert not await store.clear_session("chat")
        assert not await store.delete_session("chat")
        assert not await store.expire_session("chat", 5)
        assert await store.pop_message("chat") is None
        assert await store.discard_partial_assistant_message("chat")
        assert list(tmp_path.iterdir()) == []


async def test_files_are_for_their_owner_only(tmp_path: Path) -> None:
    async with JSONLinesSessionStore(tmp_path) as store:
        await store.add_message("chat", "user", "private")
        await store.clear_session("chat")
    assert (tmp_path / "chat.jsonl").stat().st_mode & 0o777 == 0o600


async def test_more_sessions_than_open_files(tmp_path: Path, few_files: int) -> None:
    before = len(open_files())
    async with JSONLinesSessionStore(tmp_path, durability="os") as store:
        for _ in range(2):
            await asyncio.gather(
                *(store.add_message(f"chat-{number}", "user", "hi") for number in range(400))
            )
        assert len(open_files()) <= before + few_files // 4 + 20
        page = await store.list_sessions(1000)
        assert {info.message_count for info in page} == {2}
        assert len(page) == 400
    assert len(open_files()) <= before + 2


def open_files() -> list[str]:
    return os.listdir("/proc/self/fd")


def append_in_child(directory: str) -> None:
    async def append() -> None:
        async with open_store(f"jsonl://{directory}") as store:
            for number in range(20):
                await store.append(
                    "chat", [Message("user", str(number))], idempotency_key=f"k{number}"
                )

    asyncio.run(append())


async def test_keys_written_by_another_process_are_known(tmp_path: Path) -> None:
    async with JSONLinesSessionStore(tmp_path) as store:
        await store.append("chat", [Message("user", "0")], idempotency_key="k0")
        process = multiprocessing.get_context("spawn").Process(
            target=append_in_child, args=(str(tmp_path),)
        )
        process.start()
        await asyncio.to_thread(process.join)
        assert process.exitcode == 0
        (stored,) = await store.append("chat", [Message("user", "19")], idempotency_key="k19")
        assert stored.seq == 20
        assert len(await store.get_messages("chat")) == 20


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("jsonl://", "directory"),
        ("jsonl://x?durability=never", "durability"),
        ("jsonl://x?max_messages=0", "max_messages"),
        ("jsonl://x?max_messages=many", "max_messages"),
        ("jsonl://x?lock_timeout=-1", "lock_timeout"),
        ("jsonl://x?colour=red", "colour"),
        ("oracle://x", "oracle"),
        ("x", "'x'"),
    ],
)
def test_a_wrong_url_says_what_is_wrong(url: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        open_store(url)
