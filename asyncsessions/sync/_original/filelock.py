"""PraisonAI's lock beside a file, for programs that take it themselves."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from asyncsessions.stores._disk import Disk
from asyncsessions.sync._original.constants import DEFAULT_LOCK_TIMEOUT

__all__ = ["FileLock"]

logger: logging.Logger = logging.getLogger("asyncsessions.sync")

# How often a lock that is held is tried, in seconds.
_POLL = 0.01


class FileLock:
    """Holds ``<filepath>.lock``, which PraisonAI and this library hold around each write.

    Not re-entrant: the same thread can't take it twice. The lock's file stays.

    Args:
        filepath: The file that is guarded.
        timeout: How long to wait, in seconds.
    """

    def __init__(self, filepath: str, timeout: float = DEFAULT_LOCK_TIMEOUT) -> None:
        self.filepath = filepath
        self.timeout = timeout
        self._disk = Disk()
        self._fd = -1

    def __enter__(self) -> Self:
        """Take the lock.

        Raises:
            OSError: Somebody else held it for too long.
        """
        if not self.acquire():
            raise OSError(self._failure())
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()

    def acquire(self) -> bool:
        """Take the lock; return False if it couldn't be taken in time."""
        path = Path(f"{self.filepath}.lock")
        path.parent.mkdir(parents=True, exist_ok=True)
        deadline = time.monotonic() + self.timeout
        while not self._try(path):
            if time.monotonic() > deadline:
                logger.warning("%s", self._failure())
                return False
            time.sleep(_POLL)
        return True

    def _failure(self) -> str:
        return f"Failed to acquire file lock for {self.filepath} after {self.timeout:g} s"

    def _try(self, path: Path) -> bool:
        try:
            fd = self._disk.open(path, create=True)
        except OSError:
            return False  # It may pass, as when too many files are open.
        try:
            is_taken = self._disk.try_lock(fd, 0)
        except OSError:
            is_taken = False
        if is_taken:
            self._fd = fd
        else:
            self._disk.close(fd)
        return is_taken

    def release(self) -> None:
        """Give up the lock; does nothing where it isn't held."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            self._disk.close(fd)
