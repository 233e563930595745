"""The sessions of a PraisonAI directory: which there are, and where each of them is.

Sessions are in ``*.json`` files, in a ``sessions.db``, and again in both in the directories of
projects. Where several places hold the same id, the newest keeps it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from asyncsessions._praisonai.database import Database, Row
from asyncsessions._praisonai.message import identity, seconds
from asyncsessions._praisonai.parsing import checked, parse
from asyncsessions._praisonai.session import from_praisonai
from asyncsessions._praisonai.spill import put_back, read_spilled, spill_directory
from asyncsessions._praisonai.transcript import stands_for
from asyncsessions.errors import SessionFileError

__all__ = ["Directory"]

# How much of a file is read for its id, which PraisonAI writes first.
_HEAD = 4096
_ID_AT_START = re.compile(rb'\s*\{\s*"session_id"\s*:\s*("(?:[^"\\]|\\.)+")')
_QUARANTINED = re.compile(r".+\.corrupt-\d+(-\d+)?\Z")


class _Place(NamedTuple):
    """Where a session is: a file, or a row of a database."""

    path: Path
    project: str | None
    database: Database | None = None
    row: Row | None = None


class Directory:
    """A directory of PraisonAI's sessions, or one database, open for reading.

    It blocks, and may be used from any thread, one at a time.

    Args:
        path: The directory or the file.

    Attributes:
        damaged: What can't be read, and is left out.
        notes: What somebody should know of the rest.
        is_empty: Whether there was no file of sessions, good or not.
    """

    def __init__(self, path: Path) -> None:
        self.damaged: list[SessionFileError] = []
        self.notes: list[str] = []
        self.is_empty = True
        self._path = path
        self._root = path if path.is_dir() else path.parent
        self._databases: list[Database] = []
        self._places: dict[str, list[_Place]] = {}
        self._spilled: dict[str, list[dict[str, Any]]] = {}
        self._copies = 0

    @staticmethod
    def size(path: Path) -> int:
        """Return about how many bytes of sessions are in a directory."""
        patterns = ("*.json", "sessions.db*", "projects/*/*.json", "projects/*/sessions.db*")
        files = (file for pattern in patterns for file in path.glob(pattern))
        return sum(file.stat().st_size for file in files if file.is_file())

    def look_through(self) -> Iterator[None]:
        """Find all sessions, step by step."""
        if self._path is not self._root:
            self._add_database(self._path, None)
            return
        projects = sorted(each for each in self._root.glob("projects/*") if each.is_dir())
        for area in (self._root, *projects):
            for file in sorted(area.iterdir()):
                self._add(file, None if area is self._root else area.name)
                yield
        spilled, damaged = read_spilled(spill_directory(self._root))
        self._spilled = spilled
        self.damaged += damaged
        for session_id in spilled:
            self._places.setdefault(session_id, [])

    def _add(self, file: Path, project: str | None) -> None:
        if not file.is_file():
            return
        if file.name.endswith(".json"):
            self._add_file(_Place(file, project))
        elif file.name == "sessions.db":
            self._add_database(file, project)
        elif _QUARANTINED.match(file.name):
            text = "PraisonAI set this file aside as damaged"
            self.damaged.append(SessionFileError(text, path=str(file)))

    def _add_file(self, place: _Place) -> None:
        self.is_empty = False
        try:
            session_id = _id_of(place)
        except FileNotFoundError:
            return  # Deleted since it was listed.
        except SessionFileError as exc:
            self.damaged.append(exc)
            return
        self._places.setdefault(session_id, []).append(place)

    def _add_database(self, path: Path, project: str | None) -> None:
        self.is_empty = False
        try:
            database = Database(path)
        except SessionFileError as exc:
            self.damaged.append(exc)
            return
        self._databases.append(database)
        rows, faults = database.rows()
        for row in rows:
            # SQLite lets even a primary key be null.
            session_id = row.session_id or f"@{path.name}:{row.number}"
            place = _Place(path, project, database, row)
            self._places.setdefault(session_id, []).append(place)
        self.damaged += [SessionFileError(fault, path=str(path)) for fault in faults]

    def __iter__(self) -> Iterator[tuple[list[dict[str, Any]], int]]:
        """Read one id after the other.

        Yields:
            Objects for `SessionStore.import_sessions`, and how many bytes were read for them.
        """
        while self._places:
            session_id = next(iter(self._places))
            found, size = self._read(session_id, self._places.pop(session_id))
            yield [record for data in found for record in from_praisonai(data)], size
        if self._copies:
            what = "1 older copy was" if self._copies == 1 else f"{self._copies} older copies were"
            self.notes.append(f"{what} left aside: a newer session has all of its messages")

    def _read(self, session_id: str, places: list[_Place]) -> tuple[list[dict[str, Any]], int]:
        size = 0
        found = []
        for place in places:
            try:
                data = _load(place)
                size += len(data)
                found.append((place, _record(data, place, session_id)))
            except FileNotFoundError:
                continue  # Deleted since it was listed.
            except SessionFileError as exc:
                self.damaged.append(exc)
        sessions = self._resolved(found)
        spilled = self._spilled.get(session_id)
        # Without any place the first write failed already.
        if spilled and (sessions or not places):
            first = sessions[0] if sessions else {"session_id": session_id}
            sessions[:1] = [put_back(first, spilled)]
            self.notes.append(f"{session_id!r} has messages again that PraisonAI had set aside")
        return sessions, size

    def _resolved(self, found: list[tuple[_Place, dict[str, Any]]]) -> list[dict[str, Any]]:
        """Return what to import of the places that hold the same id.

        Where one has all of the others, that is the newest. Otherwise the first place keeps the
        id: the directory's own before those of its projects, there the newest.
        """
        found.sort(key=lambda pair: _newness(pair[1]), reverse=True)
        found.sort(key=lambda pair: pair[0].project or "")
        sessions: list[dict[str, Any]] = []
        for place, record in found:
            name = place.path.relative_to(self._root).as_posix()
            if not sessions:
                # No store takes an empty id.
                sessions.append({**record, "session_id": record["session_id"] or f"@{name}"})
                continue
            first = sessions[0]
            older, newer = sorted((record, first), key=_newness)
            if _messages(older) <= _messages(newer):
                # A database lacks what only a hierarchical session has, such as snapshots.
                sessions[0] = {**older, **newer, "session_id": first["session_id"]}
                self._copies += 1
            else:
                own = f"{first['session_id']}@{name}"
                sessions.append({**record, "session_id": own})
                self.notes.append(f"{name} holds another {first['session_id']!r}: now {own!r}")
        return sessions

    def close(self) -> None:
        """Close what is open; again is a no-op."""
        for database in self._databases:
            database.close()


def _id_of(place: _Place) -> str:
    """Return the id of a file's session: the one in it, else the file's name.

    Raises:
        SessionFileError: The file can't be read.
    """
    with _reading(place.path), place.path.open("rb") as file:
        head = _ID_AT_START.match(file.read(_HEAD))
    if head is not None:
        # What isn't JSON is told better of the whole file.
        with suppress(ValueError):
            return str(json.loads(head[1]))
    return str(_record(_load(place), place, None)["session_id"])


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Translate the errors of reading a file, but for that of one that is gone."""
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as exc:
        raise SessionFileError(f"can't be read: {exc.strerror}", path=str(path)) from exc


def _load(place: _Place) -> bytes:
    if place.database is not None and place.row is not None:
        return place.database.read(place.row)
    with _reading(place.path):
        return place.path.read_bytes()


def _newness(record: dict[str, Any]) -> tuple[float, int]:
    # A time that can't be understood is the oldest; of two at one time, the longer one is newer.
    return seconds(record.get("updated_at")), len(_messages(record))


def _record(data: bytes, place: _Place, session_id: str | None) -> dict[str, Any]:
    """Return a session as PraisonAI has it.

    Raises:
        SessionFileError: It isn't one.
    """
    if not data.strip():
        text = "the file is empty; remove it or look for a whole copy"
        raise SessionFileError(text, path=str(place.path))
    try:
        record = parse(data, place.path)
        if isinstance(record, dict):
            if session_id is not None:
                record["session_id"] = session_id
            elif not isinstance(record.get("session_id"), str):
                record["session_id"] = place.path.stem
            if place.project is not None:
                record["project"] = place.project
        return checked(record, place.path, None)
    except SessionFileError as exc:
        if place.row is None:
            raise
        text = f"the session {place.row.session_id!r} is damaged: {exc}"
        raise SessionFileError(text, path=str(place.path)) from exc


def _messages(record: dict[str, Any]) -> set[str]:
    """Return what tells a session's messages apart, without its summary."""
    everything = [*(record.get("messages") or []), *(record.get("archived_messages") or [])]
    return {
        identity(each) for each in everything if isinstance(each, dict) and stands_for(each) is None
    }
