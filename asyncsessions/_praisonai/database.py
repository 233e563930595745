"""The sessions in a ``sessions.db``, which PraisonAI's gateway keeps by default.

It is read as it is at that moment, with what is still in its write-ahead log, and stays as it
is, byte for byte. All of this blocks, and may be called from any thread, one at a time.
"""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from asyncsessions._praisonai.parsing import fail

__all__ = ["Database", "Row", "is_database"]

_HEADER = b"SQLite format 3\x00"
# What of a database isn't in its main file.
_PARTS = ("-wal", "-journal")


class Row(NamedTuple):
    """Where a session is in a database.

    Attributes:
        number: Its row; another one after each write.
        key: Its id, as it is stored.
    """

    number: int
    key: bytes

    @property
    def session_id(self) -> str:
        """Its id."""
        return self.key.decode(errors="replace")


def is_database(path: Path) -> bool:
    """Whether a file is a SQLite database."""
    with path.open("rb") as file:
        return file.read(len(_HEADER)) == _HEADER


class Database:
    """A ``sessions.db``, open for reading.

    Args:
        path: The file.

    Raises:
        SessionFileError: It can't be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._closing = ExitStack()
        try:
            self._connection = self._connect()
            self._connection.execute("SELECT 1 FROM sessions LIMIT 0").fetchone()
            # A view could have rows without end.
            views = "SELECT 1 FROM sqlite_master WHERE lower(name) = 'sessions' AND type = 'view'"
            is_view = self._connection.execute(views).fetchone() is not None
        except (sqlite3.Error, OSError) as exc:
            self.close()
            fail(f"this database can't be read ({exc}); look for a whole copy", path, None)
        if is_view:
            self.close()
            fail("this database has a view in place of its table of sessions", path, None)

    def _connect(self) -> sqlite3.Connection:
        if Path(f"{self.path}-shm").exists():
            # A process uses it, or was killed; the readers' part of the log is all that changes.
            return self._open(self.path, "mode=ro")
        if len(list(_files(self.path))) == 1:
            # SQLite would leave files of its own beside it.
            return self._open(self.path, "immutable=1")
        # The log was left, or copied, without a writer. SQLite would work it in.
        directory = Path(self._closing.enter_context(tempfile.TemporaryDirectory()))
        for file in _files(self.path):
            shutil.copyfile(file, directory / file.name)
        return self._open(directory / self.path.name, "mode=rw")

    def _open(self, path: Path, query: str) -> sqlite3.Connection:
        url = f"file:{quote(str(path.absolute()))}?{query}"
        connection = sqlite3.connect(url, uri=True, timeout=30, check_same_thread=False)
        self._closing.callback(connection.close)
        return connection

    def rows(self) -> tuple[list[Row], list[str]]:
        """Return where its sessions are, by id, and what was wrong on the way."""
        rows: dict[int, Row] = {}
        faults: dict[str, None] = {}
        # From the index of ids first; where that is damaged, the table may have the others.
        for hint in ("", "NOT INDEXED"):
            try:
                for row in self._scan(hint):
                    rows.setdefault(row.number, row)
            except sqlite3.Error as exc:
                faults[f"this database is damaged ({exc}), so sessions may be missing"] = None
            else:
                break
        return sorted(rows.values(), key=lambda row: row.key), list(faults)

    def _scan(self, hint: str) -> Iterator[Row]:
        # As bytes, because a damaged text would end the query.
        query = f"SELECT rowid, CAST(session_id AS BLOB) FROM sessions {hint}"  # noqa: S608  # no input
        for number, key in self._connection.execute(query):
            yield Row(number, key or b"")

    def read(self, row: Row) -> bytes:
        """Return a session as JSON.

        Raises:
            SessionFileError: It can't be read, or is gone.
        """
        try:
            found = self._find("WHERE session_id = CAST(? AS TEXT)", row.key)
        except sqlite3.Error:
            found = None
        try:
            # Where the index is damaged, the table may not be.
            if found is None:
                where = "NOT INDEXED WHERE rowid = ? AND ifnull(CAST(session_id AS BLOB), x'') = ?"
                found = self._find(where, row.number, row.key)
        except sqlite3.Error as exc:
            fail(f"the session {row.session_id!r} can't be read ({exc})", self.path, None)
        if not found:
            fail(f"the session {row.session_id!r} is empty or gone", self.path, None)
        return found

    def _find(self, where: str, *values: bytes | int) -> bytes | None:
        query = f"SELECT CAST(data AS BLOB) FROM sessions {where}"  # noqa: S608  # no input
        found = self._connection.execute(query, values).fetchone()
        return found[0] if found else None

    def close(self) -> None:
        """Close it; again is a no-op."""
        self._closing.close()


def _files(path: Path) -> Iterator[Path]:
    """Yield a database's file and those that hold a part of it."""
    yield path
    for name in _PARTS:
        part = Path(f"{path}{name}")
        if part.exists() and part.stat().st_size:
            yield part
