"""Sessions as JSON Lines files, one append-only log each: the embedded default."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import msgspec

from asyncsessions._compat import override
from asyncsessions.errors import CorruptSessionError
from asyncsessions.hooks import Scan, Tail, Window
from asyncsessions.ids import file_stem
from asyncsessions.models import SessionInfo
from asyncsessions.omissions import leave_out
from asyncsessions.pacing import Breather
from asyncsessions.stores._files import FileStore
from asyncsessions.stores._log import Commit, LogReader
from asyncsessions.stores._logfile import SessionFile

__all__ = ["JSONLinesSessionStore"]

T = TypeVar("T")

logger: logging.Logger = logging.getLogger("asyncsessions.jsonl")


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
    async def _open(self) -> None:
        # What the files of the last list held, by name; see `_briefs`.
        self._listed: dict[str, tuple[tuple[int, int, int], SessionInfo | None]] = {}
        await super()._open()

    @override
    def _writer(self, session_id: str) -> SessionFile:
        path = self._path(session_id)
        return SessionFile(self._disk, path, session_id, is_synced=self._is_synced)

    def _path(self, session_id: str) -> Path:
        return self.directory / f"{file_stem(session_id)}.jsonl"

    # Reads take no lock: a file only grows, or is replaced as a whole.

    @override
    async def _head(self, session_id: str) -> SessionInfo | None:
        return await self._in_thread(self._read, session_id, LogReader.read_record)

    @override
    async def _tail(self, session_id: str, window: Window) -> Tail | None:
        def read(reader: LogReader, commit: Commit) -> Tail:
            return Tail(reader.read_messages(commit, window), commit.expires_at)

        return await self._in_thread(self._read, session_id, read)

    def _read(self, session_id: str, read: Callable[[LogReader, Commit], T]) -> T | None:
        try:
            return self._read_file(self._path(session_id), session_id, read)
        except FileNotFoundError as exc:
            self._missing(exc)
            return None

    def _read_file(
        self, path: Path, session_id: str, read: Callable[[LogReader, Commit], T]
    ) -> T | None:
        fd = self._disk.open_to_read(path)
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
        found = [brief for brief in self._briefs() if scan.matches(brief)]
        found.sort(key=lambda brief: (brief.updated_at, brief.session_id), reverse=True)
        page: list[SessionInfo] = []
        for brief in found:
            if len(page) == scan.limit:
                break
            info = self._read_listed(self._path(brief.session_id))
            if info is None:
                continue
            # One that was written since it was sorted keeps its place, for the next page begins
            # where the last one of this page stands.
            info = msgspec.structs.replace(info, updated_at=brief.updated_at)
            if scan.matches(info):
                page.append(info)
        return page

    def _briefs(self) -> Iterator[SessionInfo]:
        """Iterate over what a list is sorted and filtered by, for all sessions.

        Only files that changed since the last time are read. What is known of the others is
        kept under what the system says of them, so nothing stale is listed.
        """
        old, self._listed = self._listed, {}
        breather = Breather()
        with os.scandir(self.directory) as entries:
            for entry in entries:
                breather.breathe()
                if not entry.name.endswith(".jsonl"):
                    continue
                try:
                    stat = entry.stat()
                except FileNotFoundError:
                    continue
                seen = (stat.st_ino, stat.st_size, stat.st_mtime_ns)
                listed = old.get(entry.name)
                if listed is None or listed[0] != seen:
                    listed = (seen, self._brief(self.directory / entry.name))
                self._listed[entry.name] = listed
                if listed[1] is not None:
                    yield listed[1]

    def _brief(self, path: Path) -> SessionInfo | None:
        info = self._read_listed(path)
        # A copy under another name isn't a session of its own.
        if info is None or self._path(info.session_id) != path:
            return None
        return msgspec.structs.replace(info, metadata={}, state={}, checkpoint=None)

    def _read_listed(self, path: Path) -> SessionInfo | None:
        """Return a session's record; None, with a warning, if it can't be read."""
        try:
            return self._read_file(path, path.stem, LogReader.read_record)
        except FileNotFoundError:
            return None
        except (CorruptSessionError, OSError) as exc:
            leave_out(logger, "list", exc)
            return None

    @override
    async def _locate(self, session_id: str, damaged: bytes) -> tuple[str | None, int | None]:
        def find(reader: LogReader, commit: Commit) -> int | None:
            for offset, line in reader.lines(0, commit.tail):
                if line[:-1] == damaged:
                    return reader.line_number(offset)
            return None

        line = await self._in_thread(self._read, session_id, find)
        return str(self._path(session_id)), line
