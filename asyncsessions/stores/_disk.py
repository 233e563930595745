"""The file operations that the file stores use, in one place.

Stores do nothing to a disk but through a `Disk`, so a test can hand them one that records,
fails or tears what is written.
"""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

__all__ = ["PAST_DATA", "Disk"]

PAST_DATA = 1 << 62

if sys.platform == "win32":
    import msvcrt

    def _read_at(fd: int, size: int, offset: int) -> bytes:
        os.lseek(fd, offset, os.SEEK_SET)
        return os.read(fd, size)

    def _write_at(fd: int, data: bytes | memoryview, offset: int) -> int:
        os.lseek(fd, offset, os.SEEK_SET)
        return os.write(fd, data)
else:
    import fcntl

    _EXCLUSIVE = fcntl.LOCK_EX | fcntl.LOCK_NB
    _read_at = os.pread
    _write_at = os.pwrite

_BINARY = getattr(os, "O_BINARY", 0)
_CLOEXEC = getattr(os, "O_CLOEXEC", 0)
# Or whoever opens a pipe, by whatever mistake it is there, waits for somebody who writes to it.
_NO_WAITING = getattr(os, "O_NONBLOCK", 0)
_BUSY = {errno.EACCES, errno.EAGAIN, errno.EWOULDBLOCK, errno.EDEADLK}


class Disk:
    """The operating system's files. Every method raises `OSError` where the system refuses."""

    def open(self, path: Path, *, create: bool = False) -> int:
        """Open a file to read and write; ``create`` makes an empty one, for this user only."""
        flags = os.O_RDWR | _BINARY | _CLOEXEC | (os.O_CREAT if create else 0)
        return os.open(path, flags, 0o600)

    def open_to_read(self, path: Path) -> int:
        """Open a file that exists, to read."""
        return os.open(path, os.O_RDONLY | _BINARY | _CLOEXEC | _NO_WAITING)

    def close(self, fd: int) -> None:
        """Close a file, which also gives up its lock."""
        os.close(fd)

    def try_lock(self, fd: int, byte: int = PAST_DATA) -> bool:
        """Take the exclusive lock of a file; return False where another holder has it.

        Args:
            fd: The open file.
            byte: What Windows locks, and keeps others from reading: by default far past any data.
        """
        try:
            if sys.platform == "win32":
                os.lseek(fd, byte, os.SEEK_SET)
                msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)
            else:
                fcntl.flock(fd, _EXCLUSIVE)
        except OSError as exc:
            if exc.errno in _BUSY:
                return False
            raise
        return True

    def unlock(self, fd: int, byte: int = PAST_DATA) -> None:
        """Give up the lock of a file."""
        if sys.platform == "win32":
            os.lseek(fd, byte, os.SEEK_SET)
            msvcrt.locking(fd, msvcrt.LK_UNLCK, 1)
        else:
            fcntl.flock(fd, fcntl.LOCK_UN)

    def read(self, fd: int, size: int, offset: int) -> bytes:
        """Return up to ``size`` bytes at ``offset``; fewer only at the end of the file."""
        data = _read_at(fd, size, offset)
        while len(data) < size:
            more = _read_at(fd, size - len(data), offset + len(data))
            if not more:
                break
            data += more
        return data

    def write(self, fd: int, data: bytes, offset: int) -> None:
        """Write all of ``data`` at ``offset``."""
        written = _write_at(fd, data, offset)
        # A disk that fills up, or a file over the size limit, takes a part first.
        while written < len(data):
            written += _write_at(fd, memoryview(data)[written:], offset + written)

    def truncate(self, fd: int, size: int) -> None:
        """Cut a file off."""
        os.ftruncate(fd, size)

    def sync(self, fd: int) -> None:
        """Return when a file's content, and its size, would survive a power loss."""
        if sys.platform == "darwin":
            # On macOS only this flushes the drive's own cache.
            fcntl.fcntl(fd, fcntl.F_FULLFSYNC)
        elif sys.platform == "win32":
            os.fsync(fd)
        else:
            os.fdatasync(fd)

    def sync_directory(self, path: Path) -> None:
        """Return when the names in a directory would survive a power loss."""
        if sys.platform == "win32":
            return  # NTFS journals names; a directory can't be opened there.
        fd = os.open(path, os.O_RDONLY | _CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def replace(self, source: Path, target: Path) -> None:
        """Give a file another file's name, in one step; the other is gone."""
        source.replace(target)

    def unlink(self, path: Path) -> None:
        """Remove a file's name."""
        path.unlink()
