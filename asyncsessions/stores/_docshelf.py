"""Parsed documents that stay in memory while their files are the same."""

from __future__ import annotations

import os
import sys
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from asyncsessions.stores._disk import Disk
from asyncsessions.stores._docplace import Place, names_of
from asyncsessions.stores._document import Document

__all__ = ["CAN_KEEP", "OpenFile", "Shelf"]

# Shorter documents are parsed about as fast as their files are looked at.
_SHORT = 16 << 10
# What is kept at most.
_DOCUMENTS = 64
_BYTES = 64 << 20
# Files that wait to be closed; more than these are closed at once.
_CLOSING = 32
CAN_KEEP = sys.platform != "win32"
"""Whether documents can be kept: on Windows no file that is open can be replaced."""


class _Version(NamedTuple):
    device: int
    number: int
    size: int
    written: int
    changed: int  # Unlike the time before, no program can set it.


class OpenFile:
    """A file that is open as long as somebody holds this, so that no other gets its number."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def version(self) -> _Version:
        """Return what tells the file, and its content, from any other."""
        stat = os.fstat(self._fd)
        return _Version(stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        close(self._fd)


class _Shelved(NamedTuple):
    path: Path
    file: OpenFile
    version: _Version
    document: Document


class Shelf:
    """Keeps the documents that were used last; each is to be copied, not changed.

    A document is given out only while its file is the one that it was read from or written to. A
    writer replaces the file, and the number of a file that is open goes to no other, so a change
    can't be missed; a change in place shows in the file's times (on Linux before 6.13, unless it
    keeps the size and comes within the same few milliseconds as the write before it).

    Any number of threads use it. No lock is needed, because who finds a document missing that
    another thread has just taken reads the file instead.

    Args:
        disk: How to open the files.
        directory: Where they are.
    """

    def __init__(self, disk: Disk, directory: Path) -> None:
        self._disk = disk
        self._directory = directory
        # The one that wasn't used for longest is first.
        self._shelved: dict[str, _Shelved] = {}
        self._closing: deque[OpenFile] = deque()
        #: Lets another thread call a function; returns whether it will.
        self.later: Callable[[Callable[[], object]], bool] = lambda _: False

    def find(self, session_id: str) -> Place | None:
        """Return where a session's document is, with the document; None where it isn't kept."""
        shelved = self._shelved.pop(session_id, None)
        if shelved is None:
            return None
        self._shelved[session_id] = shelved
        if self._is_current(session_id, shelved):
            return Place(shelved.path, kept=shelved.document)
        del shelved
        self._drop(session_id)
        return None

    def _is_current(self, session_id: str, shelved: _Shelved) -> bool:
        suffixed = self._directory / names_of(session_id).suffixed
        if shelved.path != suffixed and self._version(suffixed) is not None:
            return False
        return self._version(shelved.path) == shelved.version

    def _version(self, path: Path) -> _Version | None:
        # Opened, because a network file system looks again only then.
        try:
            fd = self._disk.open_to_read(path)
        except FileNotFoundError:
            return None
        return OpenFile(fd).version()

    def keep(self, session_id: str, path: Path, file: OpenFile, document: Document) -> None:
        """Keep a document that has its file by now, if it is worth it."""
        version = file.version()
        self._drop(session_id)
        if not _SHORT <= version.size <= _BYTES:
            return
        self._shelved[session_id] = _Shelved(path, file, version, document)
        kept = list(self._shelved.items())
        size = sum(shelved.version.size for _, shelved in kept)
        for oldest, shelved in kept:
            if len(kept) <= _DOCUMENTS and size <= _BYTES:
                break
            size -= shelved.version.size
            self._shelved.pop(oldest, None)
            del kept[0]

    def _drop(self, session_id: str) -> None:
        """Keep a document no more, and close its file soon and in another thread.

        As a rule the file has lost its name, so that closing it removes it. That takes a disk
        milliseconds, more than all else of a write.
        """
        shelved = self._shelved.pop(session_id, None)
        if shelved is None:
            return
        self._closing.append(shelved.file)
        del shelved  # Or this thread would be the last to have it.
        if len(self._closing) > _CLOSING or not self.later(self._close_oldest):
            self._close_oldest()

    def _close_oldest(self) -> None:
        with suppress(IndexError):
            self._closing.popleft()  # Which closes it, as nobody holds it any more.

    def clear(self) -> None:
        """Keep nothing any more."""
        self._shelved.clear()
        self._closing.clear()
