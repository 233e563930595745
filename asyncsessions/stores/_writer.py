"""Writing one session's file: what is written, and the lock around it."""

from __future__ import annotations

import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from asyncsessions.errors import SessionStoreError
from asyncsessions.hooks import Append, Appended, Replace, Replaced, Update
from asyncsessions.models import JSONValue
from asyncsessions.stores._disk import PAST_DATA, Disk

__all__ = ["SessionWriter"]


class SessionWriter(ABC):
    """Writes one session's file, for one thread of one process at a time.

    `acquire`, then any of the writing methods, then `sync`, then `release`; all but `sync` in one
    thread. Nothing is stored before `sync` returns; if it or a writing method raises, nothing of
    this round is, unless a file got its name but the directory could not be synced: then what was
    written can be read, and may be lost with the power.

    Args:
        disk: How to read and write.
        lock_path: The file that is locked, and stays open until `close`.
    """

    #: What of the file Windows locks.
    _lock_byte = PAST_DATA

    def __init__(self, disk: Disk, lock_path: Path) -> None:
        self._disk = disk
        self._lock_path = lock_path
        self._lock_name = str(lock_path)
        # Threads of this process share the open file, and with it the lock of the system.
        self._mutex = threading.Lock()
        self._is_retired = False
        self._fd = -1
        self._file = (0, 0)  # Which file it is, whatever its name.
        self._pid = os.getpid()

    # The lock.

    def acquire(self, *, create: bool, load: bool = True) -> bool:
        """Take the lock, and read what a writer must know; False where somebody else has it.

        Args:
            create: Whether to make a file if there is no session.
            load: Whether to read; `delete` alone does without.

        Raises:
            CorruptSessionError: What was read is damaged.
            FileNotFoundError: There is no session, and ``create`` is false.
        """
        if not self._mutex.acquire(blocking=False):
            return False
        try:
            if self._pid != os.getpid():
                # A forked child shares the parent's open file, and with it the lock.
                self._forget()
                self._pid = os.getpid()
            while True:
                if self._fd < 0:
                    self._use(self._open(create=create))
                if not self._try_lock():
                    self._leave()
                    return False
                size = self._size_by_name()
                if size is not None:
                    break
                # The name went to another file, or was removed, before the lock was ours.
                self._forget()
            self._read(size, create=create, load=load)
        except BaseException:
            # Closing gives up the lock.
            self._forget()
            self._leave()
            raise
        return True

    def _open(self, *, create: bool) -> int:
        """Open the file that is locked."""
        return self._disk.open(self._lock_path, create=create)

    def _try_lock(self) -> bool:
        """Take the system's lock; return False at once where somebody else has it."""
        return self._disk.try_lock(self._fd, self._lock_byte)

    @abstractmethod
    def _read(self, size: int, *, create: bool, load: bool) -> None:
        """Read what a writer must know, under the lock; ``size`` is that of the locked file."""

    def _use(self, fd: int) -> None:
        """Go on with another open file."""
        self._fd = fd
        stat = os.fstat(fd)
        self._file = (stat.st_ino, stat.st_dev)

    def _size_by_name(self) -> int | None:
        """Return the file's size; None if its name belongs to another file or none by now."""
        try:
            named = os.stat(self._lock_name)  # noqa: PTH116  # half of Path.stat goes to Path
        except FileNotFoundError:
            return None
        return named.st_size if (named.st_ino, named.st_dev) == self._file else None

    @abstractmethod
    def release(self) -> None:
        """Tidy up and give up the lock."""

    def _leave(self) -> None:
        """End this thread's turn."""
        self._mutex.release()
        if self._is_retired:
            self.close()

    def close(self) -> None:
        """Close the file; a thread that is using it, or does so later, closes it at `release`."""
        self._is_retired = True
        if self._mutex.acquire(blocking=False):
            try:
                self._forget()
            finally:
                self._mutex.release()

    def _forget(self) -> None:
        """Close the file, and with it the lock, and start over at the next `acquire`."""
        fd, self._fd = self._fd, -1
        if fd < 0:
            return
        if self._pid == os.getpid():
            # A child that was forked meanwhile has the file open, too, which keeps the lock.
            with suppress(OSError):
                self._disk.unlock(fd, self._lock_byte)
        self._disk.close(fd)

    # Writing.

    @abstractmethod
    def append(self, batch: Sequence[Append]) -> Sequence[Appended | SessionStoreError]:
        """See `BaseSessionStore._append`."""

    @abstractmethod
    def update(
        self, batch: Sequence[Update]
    ) -> Sequence[list[JSONValue] | SessionStoreError | None]:
        """See `BaseSessionStore._update`."""

    @abstractmethod
    def replace(self, replace: Replace) -> Replaced | None:
        """See `BaseSessionStore._replace`."""

    @abstractmethod
    def delete(self, expired_at: float | None) -> bool:
        """See `BaseSessionStore._delete`."""

    @abstractmethod
    def sync(self) -> None:
        """Make what was written durable."""
