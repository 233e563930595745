"""Documents that stay in memory: never longer than their files are the same."""

from __future__ import annotations

import asyncio
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from asyncsessions import Message, StoreUnavailableError
from asyncsessions._compat import override
from asyncsessions.stores import _docshelf
from asyncsessions.stores._disk import Disk
from asyncsessions.stores._docplace import names_of
from asyncsessions.stores.json import JSONSessionStore

LONG = "x" * 20_000


def store_at(path: Path, **options: Any) -> JSONSessionStore:
    return JSONSessionStore(path, **{"durability": "os", **options})


def load(path: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(path.read_text())
    return document


class CountingDisk(Disk):
    """Counts the bytes that are read."""

    def __init__(self) -> None:
        self.read_bytes = 0

    @override
    def read(self, fd: int, size: int, offset: int) -> bytes:
        self.read_bytes += size
        return super().read(fd, size, offset)


async def texts(store: JSONSessionStore) -> list[Any]:
    return [each.content for each in await store.get_messages("s")]


async def test_what_was_written_is_not_read_again(tmp_path: Path) -> None:
    disk = CountingDisk()
    async with store_at(tmp_path, disk=disk) as store:
        await store.add_message("s", "user", LONG)
        for number in range(5):
            await store.add_message("s", "user", str(number))
            await store.update_session_metadata("s", number=number)
        assert await texts(store) == [LONG, *"01234"]
        assert (await store.get_session("s")).metadata == {"number": 4}
    assert disk.read_bytes == 0


async def test_another_programs_document_is_seen_at_once(tmp_path: Path) -> None:
    async with store_at(tmp_path) as store:
        await store.add_message("s", "user", LONG)
        document = load(tmp_path / "s.json")
        document["messages"][0]["content"] = LONG[:-1] + "y"
        document["metadata"]["theirs"] = 1
        (tmp_path / "new").write_text(json.dumps(document))
        (tmp_path / "new").replace(tmp_path / "s.json")
        assert await texts(store) == [LONG[:-1] + "y"]
        await store.add_message("s", "user", "more")
        assert (await store.get_session("s")).metadata == {"theirs": 1}


async def test_a_change_in_place_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "s.json"
    async with store_at(tmp_path) as store:
        await store.add_message("s", "user", LONG)
        before = path.stat()
        path.write_text(path.read_text().replace("xx", "yy"))
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert path.stat().st_size == before.st_size
        assert await texts(store) == [LONG.replace("xx", "yy")]


async def test_a_removed_document_is_gone(tmp_path: Path) -> None:
    async with store_at(tmp_path) as store:
        await store.add_message("s", "user", LONG)
        (tmp_path / "s.json").unlink()
        assert not await store.session_exists("s")
        await store.add_message("s", "user", "new")
        assert await texts(store) == ["new"]


async def test_a_document_of_a_suffixed_name_wins(tmp_path: Path) -> None:
    async with store_at(tmp_path) as store:
        await store.add_message("s", "user", LONG)
        other = {"session_id": "s", "messages": [{"role": "user", "content": "other"}]}
        (tmp_path / names_of("s").suffixed).write_text(json.dumps(other))
        assert await texts(store) == ["other"]


async def test_callers_may_change_what_they_got(tmp_path: Path) -> None:
    async with store_at(tmp_path) as store:
        await store.append("s", [Message("user", LONG, metadata={"a": [1]})])
        await store.set_state("s", "k", {"deep": [1]})
        await store.update_session_metadata("s", tags=[1])
        await store.append_compaction_checkpoint("s", "S", metadata={"m": [1]})
        for _ in range(2):
            session = await store.get_session("s")
            assert session.checkpoint is not None
            assert (session.state, session.metadata) == ({"k": {"deep": [1]}}, {"tags": [1]})
            assert session.checkpoint.metadata == {"m": [1]}
            assert session.messages[0].metadata == {"a": [1]}
            session.state["k"]["deep"].append(2)
            session.metadata["tags"].append(2)
            session.checkpoint.metadata["m"].append(2)
            session.messages[0].metadata["a"].append(2)


async def test_a_failed_write_leaves_no_trace(tmp_path: Path) -> None:
    class FailingDisk(Disk):
        fails = False

        @override
        def replace(self, source: Path, target: Path) -> None:
            if self.fails:
                raise OSError("no")
            super().replace(source, target)

    disk = FailingDisk()
    async with store_at(tmp_path, disk=disk) as store:
        await store.append("s", [Message("user", LONG)], idempotency_key="k")
        disk.fails = True
        with pytest.raises(StoreUnavailableError):
            await store.add_message("s", "user", "lost")
        with pytest.raises(StoreUnavailableError):
            await store.append("s", [Message("user", "lost")], idempotency_key="k2")
        with pytest.raises(StoreUnavailableError):
            await store.update_session_metadata("s", lost=1)
        disk.fails = False
        assert await texts(store) == [LONG]
        (again,) = await store.append("s", [Message("user", "2")], idempotency_key="k2")
        assert again.seq == 2
        assert (await store.get_session("s")).metadata == {}


async def test_kept_documents_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_docshelf, "_DOCUMENTS", 3)
    disk = CountingDisk()
    async with store_at(tmp_path, disk=disk) as store:
        for number in range(5):
            await store.add_message(f"s{number}", "user", LONG)
        await store.add_message("s4", "user", "kept")
        await store.add_message("s2", "user", "kept")
        assert disk.read_bytes == 0
        await store.add_message("s0", "user", "read")
        assert disk.read_bytes > 0


async def test_kept_bytes_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_docshelf, "_BYTES", 50_000)
    disk = CountingDisk()
    async with store_at(tmp_path, disk=disk) as store:
        for number in range(3):
            await store.add_message(f"s{number}", "user", LONG)
        await store.add_message("s0", "user", "read")
        assert disk.read_bytes > 0


async def test_a_closed_store_keeps_no_file_open(tmp_path: Path) -> None:
    async with store_at(tmp_path) as store:
        for number in range(10):
            await store.add_message(f"s{number}", "user", LONG)
    open_files = [link.resolve() for link in Path("/proc/self/fd").iterdir()]
    assert not [path for path in open_files if path.is_relative_to(tmp_path)]


def settled_files(path: Path, count: int) -> list[Path]:
    """Return the open files of a path as soon as there are no more than so many."""
    deadline = time.monotonic() + 60
    while True:
        links = [link.readlink() for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
        # Also those that have lost their name, which the system marks.
        found = [link for link in links if str(link).startswith(str(path))]
        if len(found) <= count or time.monotonic() > deadline:
            return found
        time.sleep(0.01)


async def test_replaced_files_are_closed(tmp_path: Path) -> None:
    async with store_at(tmp_path) as store:
        for number in range(200):
            await store.add_message("s", "user", "x" if number else LONG)
        # The document as it is now, and its lock.
        assert len(await asyncio.to_thread(settled_files, tmp_path / "s.json", 2)) == 2


async def test_a_kept_document_is_written_as_one_that_was_read(tmp_path: Path) -> None:
    async def change(store: JSONSessionStore) -> None:
        await store.add_message("s", "user", "ü", {"a": {"b": [1, 2]}})
        await store.pop_message("s")
        await store.append_compaction_checkpoint("s", "S")
        await store.append("s", [Message("user", "3", 1.5), Message("user", "4", 1.5)])
        await store.update_session_metadata("s", model="m")

    for directory in ("kept", "read"):
        path = tmp_path / directory
        async with store_at(path, clock=lambda: 1767225600.1234567) as store:
            await store.append("s", [Message("user", LONG)], idempotency_key="k")
            for _ in range(3):
                if directory == "read":
                    store._shelf = store._shelf.__class__(Disk(), path)
                    store._writers.clear()
                await change(store)
    kept, read = (tmp_path / name / "s.json" for name in ("kept", "read"))
    assert kept.read_text() == read.read_text()
    assert kept.read_text() == json.dumps(load(kept), indent=2, ensure_ascii=False)
