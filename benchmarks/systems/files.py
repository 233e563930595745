"""Files without a store: what a program would write first, and the most a disk gives."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path

from asyncsessions.codec import decode_json, encode_json
from benchmarks.payload import TEXT, body
from benchmarks.systems.batching import Batcher, Batches
from benchmarks.systems.contender import Contender, System

__all__ = ["append", "limit"]

_BLOCK = 16 << 10
_THREADS = 8


class Append:
    """Open, append, sync and close in one hop to a thread for each call; no locks, no numbers."""

    def __init__(self, directory: Path, *, is_synced: bool) -> None:
        self._directory = directory
        self._is_synced = is_synced
        directory.mkdir(exist_ok=True)

    def _path(self, session_id: str) -> Path:
        return self._directory / f"{session_id}.jsonl"

    async def append(self, session_id: str, text: str) -> object:
        return await asyncio.to_thread(self._write, self._path(session_id), [body(text)])

    def _write(self, path: Path, bodies: Sequence[bytes]) -> None:
        fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            self._write_to(fd, bodies)
        finally:
            os.close(fd)

    def _write_to(self, fd: int, bodies: Sequence[bytes]) -> None:
        os.write(fd, b"\n".join(bodies) + b"\n")
        if self._is_synced:
            os.fdatasync(fd)

    async def tail(self, session_id: str, count: int) -> Sequence[object]:
        return await asyncio.to_thread(_tail, self._path(session_id), count)

    async def set_state(self, session_id: str, step: int) -> None:
        path = self._directory / f"{session_id}.state"
        await asyncio.to_thread(path.write_bytes, encode_json({"step": step}))

    async def fill(self, session_id: str, count: int) -> None:
        await asyncio.to_thread(self._write, self._path(session_id), [body(TEXT)] * count)

    async def count(self, session_ids: Sequence[str]) -> int:
        paths = list(map(self._path, session_ids))
        return await asyncio.to_thread(_count_lines, paths)


class Limit(Append):
    """All that waits goes out in one hop: a write and a sync for each file, in eight threads."""

    def __init__(self, directory: Path, *, is_synced: bool) -> None:
        super().__init__(directory, is_synced=is_synced)
        self._fds: dict[str, int] = {}
        self._last: dict[str, int] = {}
        self._batcher = Batcher(self._flush)
        self._threads = ThreadPoolExecutor(_THREADS)

    async def append(self, session_id: str, text: str) -> object:
        return await self._batcher.append(session_id, body(text))

    async def _flush(self, batches: Batches) -> dict[str, int]:
        items = list(batches.items())
        count = min(_THREADS if self._is_synced else 1, len(items))
        loop = asyncio.get_running_loop()
        parts = [items[start::count] for start in range(count)]
        await asyncio.gather(
            *(loop.run_in_executor(self._threads, self._write_all, part) for part in parts)
        )
        for session_id, bodies in items:
            self._last[session_id] = self._last.get(session_id, 0) + len(bodies)
        return {session_id: self._last[session_id] for session_id in batches}

    def _write_all(self, items: Sequence[tuple[str, list[bytes]]]) -> None:
        for session_id, bodies in items:
            fd = self._fds.get(session_id)
            if fd is None:
                flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
                fd = self._fds[session_id] = os.open(self._path(session_id), flags, 0o600)
            self._write_to(fd, bodies)

    def close(self) -> None:
        self._threads.shutdown()
        for fd in self._fds.values():
            os.close(fd)


def _tail(path: Path, count: int) -> list[object]:
    """Read blocks from the end until there are enough lines."""
    if not path.exists():
        return []
    with path.open("rb") as file:
        start = file.seek(0, os.SEEK_END)
        data = b""
        while start and data.count(b"\n") <= count:
            size = min(max(_BLOCK, len(data)), start)
            start = file.seek(start - size)
            data = file.read(size) + data
    return [decode_json(line) for line in data.splitlines()[-count:]]


def _count_lines(paths: Sequence[Path]) -> int:
    return sum(path.read_bytes().count(b"\n") for path in paths if path.exists())


def append(*, is_synced: bool) -> Contender:
    """Return the reference of files."""
    how = "open, append, sync, close" if is_synced else "open, append, close"
    note = f"{how} in `asyncio.to_thread`, once a call; no locks, numbers or checks."

    @asynccontextmanager
    async def opened(directory: str) -> AsyncIterator[System]:
        yield Append(Path(directory, "append"), is_synced=is_synced)

    return Contender("one hop per append", "driver", opened, (), note)


def limit(*, is_synced: bool) -> Contender:
    """Return the most that one process gets out of a file for each session."""
    note = "Files stay open; one write and one sync per file and flush; for one process only."

    @asynccontextmanager
    async def opened(directory: str) -> AsyncIterator[System]:
        system = Limit(Path(directory, "limit"), is_synced=is_synced)
        try:
            yield system
        finally:
            system.close()

    return Contender("hand-written batch", "limit", opened, (), note)
