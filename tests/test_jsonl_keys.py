"""Idempotency keys in JSON Lines files: found without reading the file from its start."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncsessions import CorruptSessionError, JSONLinesSessionStore, Message
from asyncsessions.stores import _logfile, _logkeys
from asyncsessions.stores._disk import Disk
from asyncsessions.stores._log import LogReader, flushed


class CountingDisk(Disk):
    """Counts the bytes that are read."""

    def __init__(self) -> None:
        self.read_bytes = 0

    def read(self, fd: int, size: int, offset: int) -> bytes:
        data = super().read(fd, size, offset)
        self.read_bytes += len(data)
        return data


def opened(directory: Path, disk: Disk | None = None) -> JSONLinesSessionStore:
    return JSONLinesSessionStore(directory, durability="os", disk=disk or Disk())


async def append(store: JSONLinesSessionStore, key: str) -> int:
    (stored,) = await store.append("s", [Message("user", key)], idempotency_key=key)
    return stored.seq


async def read_for(directory: Path, key: str) -> int:
    """Return how many bytes are read for an append with a key when a file was just opened."""
    disk = CountingDisk()
    async with opened(directory, disk) as store:
        await append(store, key)
    return disk.read_bytes


async def test_a_key_costs_the_same_in_a_long_file(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        for number in range(3_000):
            await append(store, f"k{number}")
    size = (tmp_path / "s.jsonl").stat().st_size
    assert await read_for(tmp_path, "new") < size // 6
    assert await read_for(tmp_path, "k0") < size // 6
    assert await read_for(tmp_path, "k2999") < size // 6
    lines = (tmp_path / "s.jsonl").read_bytes().splitlines()
    assert sum(len(line) for line in lines if line.startswith(b'{"key":"",')) < size // 4


async def test_a_long_file_without_an_index_is_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_logfile, "INDEX_BYTES", 1 << 60)
    async with opened(tmp_path) as store:
        for number in range(2_000):
            await append(store, f"k{number}")
    monkeypatch.undo()
    size = (tmp_path / "s.jsonl").stat().st_size
    assert await read_for(tmp_path, "one") > size
    assert await read_for(tmp_path, "two") < size // 4
    async with opened(tmp_path) as store:
        assert [await append(store, f"k{number}") for number in range(0, 2_000, 99)] == [
            *range(1, 2_001, 99)
        ]


STEP = st.one_of(
    st.tuples(st.just("append"), st.integers(0, 60)),
    st.sampled_from([("plain", 0), ("reopen", 0), ("clear", 0), ("compact", 0), ("other", 0)]),
)


@settings(max_examples=60)
@given(st.lists(STEP, max_size=120))
async def test_every_key_stays_known(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int]]
) -> None:
    directory = tmp_path_factory.mktemp("keys")
    known: dict[str, int] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_logfile, "INDEX_BYTES", 600)
        patch.setattr(_logkeys, "_RUNS", 2)
        patch.setattr(_logkeys, "_TIERS", (3, 6))
        patch.setattr(_logkeys, "_LARGEST", 8)
        patch.setattr(_logkeys, "_LOOKUPS", 10)
        patch.setattr(_logfile, "_GAPS", 0)
        store, other = opened(directory), opened(directory)
        for step, number in steps:
            if step == "append":
                key = f"k{number}"
                seq = await append(store, key)
                assert known.setdefault(key, seq) == seq
            elif step == "plain":
                await store.add_message("s", "user", "x" * 300)
            elif step == "reopen":
                await store.aclose()
                store = opened(directory)
            elif step == "clear":
                await store.clear_session("s")
            elif step == "compact":
                # A gap, with which the file is rewritten.
                await store.add_message("s", "user", "popped")
                await store.pop_message("s")
                await store.add_message("s", "user", "next")
            else:
                store, other = other, store
        await store.aclose()
        await other.aclose()
        async with opened(directory) as store:
            for key, seq in known.items():
                assert await append(store, key) == seq


async def test_a_busy_session_looks_into_the_index_no_more(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        for number in range(2_000):
            await append(store, f"k{number}")
    disk = CountingDisk()
    async with opened(tmp_path, disk) as store:
        for number in range(300):
            await append(store, f"new {number}")
        before = disk.read_bytes
        await append(store, "k0")
        assert disk.read_bytes - before < 4096


async def test_keys_stay_known_where_others_know_of_no_index(tmp_path: Path) -> None:
    """They drop what a commit says of it."""
    async with opened(tmp_path) as live:
        for number in range(400):
            await append(live, f"k{number}")
        async with opened(tmp_path) as other:
            for number in range(0, 400, 40):
                assert await append(other, f"k{number}") == number + 1
            forget_the_index(tmp_path / "s.jsonl")
            for store in (other, live):
                assert [await append(store, f"k{n}") for n in range(400)] == [*range(1, 401)]
                await append(store, f"by {store is live}")
    async with opened(tmp_path) as store:
        assert [await append(store, f"k{n}") for n in range(400)] == [*range(1, 401)]


def forget_the_index(path: Path) -> None:
    with path.open("r+b") as file:
        disk = Disk()
        end = len(file.read())
        commit = LogReader(disk, file.fileno(), path, "s").read_commit(end)
        assert commit is not None
        written = msgspec.structs.replace(commit[0], index=0)
        disk.write(file.fileno(), flushed(written, b""), end)


async def test_a_damaged_index_is_told(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        for number in range(500):
            await append(store, f"k{number}")
    path = tmp_path / "s.jsonl"
    data = path.read_bytes()
    at = data.rindex(b'{"key":"",')
    path.write_bytes(data[:at] + data[at:].replace(b'"count":', b'"count";', 1))
    async with opened(tmp_path) as store:
        with pytest.raises(CorruptSessionError, match="index"):
            await append(store, "new")


async def test_a_damaged_place_in_an_index_is_told(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        for number in range(500):
            await append(store, f"k{number}")
    path = tmp_path / "s.jsonl"
    data = bytearray(path.read_bytes())
    at = data.index(_logkeys.entry_of("k0", data.index(b'{"key":"k0"')))
    data[at + 20] = ord("z")
    path.write_bytes(data)
    async with opened(tmp_path) as store:
        with pytest.raises(CorruptSessionError, match="index"):
            await append(store, "k0")
        assert await append(store, "k1") == 2
