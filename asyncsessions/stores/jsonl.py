"""Sessions as JSON Lines files, one append-only log each: the embedded default."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from asyncsessions._compat import override
from asyncsessions.errors import CorruptSessionError
from asyncsessions.hooks import Scan, Tail, Window
from asyncsessions.ids import file_stem
from asyncsessions.models import SessionInfo
from asyncsessions.stores._files import FileStore
from asyncsessions.stores._log import Commit, LogReader
from asyncsessions.stores._logfile import SessionFile

__all__ = ["JSONLinesSessionStore"]

T = TypeVar("T")

logger = logging.getLogger("asyncsessions.jsonl")


class JSONLinesSessionStore(FileStore):
    """Keeps each session in a file of its own to which lines are only appended.

    Any number of processes may use one directory; each write holds the lock of the session's
    file. An append costs one write and one sync, a read of the newest messages one read from
    the end, whatever the length of the conversation.

    Args:
        directory: Where the files are; made if missing.
        durability: ``fsync`` returns when the disk has the data; ``os`` when the operating
            system has it, which survives a crash of the process but not of the machine.
        lock_timeout: How long to wait, in seconds, for a session locked by another process.
        disk: The file operations; for tests.
        **options: See `BaseSessionStore`.
    """

    @override
    def _writer(self, session_id: str) -> SessionFile:
        path = self._path(session_id)
        return SessionFile(self._disk, path, session_id, is_synced=self._is_synced)

    def _path(self, session_id: str) -> Path:
        return self.directory / f"{file_stem(session_id)}.jsonl"

    # Reads take no lock: a file only grows, or is replaced as a whole.

    @override
    async def _head(self, session_id: str) -> SessionInfo | None:
        return await self._in_thread(self._read, session_id, _read_info)

    @override
    async def _tail(self, session_id: str, window: Window) -> Tail | None:
        def read(reader: LogReader, commit: Commit) -> Tail:
            return Tail(reader.read_messages(commit, window), commit.expires_at)

        return await self._in_thread(self._read, session_id, read)

    def _read(self, session_id: str, read: Callable[[LogReader, Commit], T]) -> T | None:
        path = self._path(session_id)
        try:
            fd = self._disk.open_to_read(path)
        except FileNotFoundError as exc:
            self._missing(exc)
            return None
        try:
            reader = LogReader(self._disk, fd, path, session_id)
            found = reader.read_commit(os.fstat(fd).st_size)
            return None if found is None else read(reader, found[0])
        finally:
            self._disk.close(fd)

    @override
    async def _scan(self, scan: Scan) -> list[SessionInfo]:
        return await self._in_thread(self._list, scan)

    def _list(self, scan: Scan) -> list[SessionInfo]:
        found = [info for info in self._infos() if scan.matches(info)]
        found.sort(key=lambda info: (info.updated_at, info.session_id), reverse=True)
        return found[: scan.limit]

    def _infos(self) -> Iterator[SessionInfo]:
        """Iterate over all sessions that can be read; the damaged ones are left out."""
        with os.scandir(self.directory) as entries:
            names = [entry.name for entry in entries if entry.name.endswith(".jsonl")]
        for name in names:
            path = self.directory / name
            try:
                info = self._read_file(path)
            except (CorruptSessionError, OSError) as exc:
                logger.warning("left out of the list: %s", exc)
                continue
            # A copy under another name isn't a session of its own.
            if info is not None and f"{file_stem(info.session_id)}.jsonl" == name:
                yield info

    def _read_file(self, path: Path) -> SessionInfo | None:
        fd = self._disk.open_to_read(path)
        try:
            reader = LogReader(self._disk, fd, path, path.stem)
            found = reader.read_commit(os.fstat(fd).st_size)
            return None if found is None else _read_info(reader, found[0])
        finally:
            self._disk.close(fd)

    @override
    async def _locate(self, session_id: str, damaged: bytes) -> tuple[str | None, int | None]:
        def find(reader: LogReader, commit: Commit) -> int | None:
            for offset, line in reader.lines(0, commit.tail):
                if line[:-1] == damaged:
                    return reader.line_number(offset)
            return None

        line = await self._in_thread(self._read, session_id, find)
        return str(self._path(session_id)), line


def _read_info(reader: LogReader, commit: Commit) -> SessionInfo:
    return reader.read_record(commit)
