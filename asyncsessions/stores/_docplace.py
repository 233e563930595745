"""Which file holds a session's document, and reading it."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import msgspec

from asyncsessions.errors import CorruptSessionError
from asyncsessions.ids import id_digest
from asyncsessions.pacing import Breather
from asyncsessions.stores._disk import Disk
from asyncsessions.stores._docformat import (
    DamageError,
    VersionError,
    owner,
    owner_of_damaged,
    parse_document,
    parse_object,
)
from asyncsessions.stores._document import Document

__all__ = [
    "Names",
    "Place",
    "find",
    "free_name",
    "id_of",
    "lock_of",
    "names_of",
    "read_place",
]

_LOCK = ".lock"
_MAX_NAME = 255
# What Windows gives to devices, whatever their extension.
_DEVICE = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)\Z", re.IGNORECASE)
_SUFFIXED = re.compile(r"(.*)~[0-9a-f]{32}\.json\Z", re.DOTALL)
# What may be left of an id's safe name in a suffixed one that was cut off.
_CUT = _MAX_NAME - len(f"~{32 * '0'}.json{_LOCK}") - 3


class Names(NamedTuple):
    """The files of one session.

    Attributes:
        primary: What PraisonAI calls its document, and any other id's of the same safe name;
            None where that name is too long, or a device.
        suffixed: What it is called where ``primary`` holds another id.
        lock: Guards both names, and the decision between them.
        temp: What becomes the document; one for each session, so no crash leaves many behind.
    """

    primary: str | None
    suffixed: str
    lock: str
    temp: str


def names_of(session_id: str) -> Names:
    """Return the names that a session's files may have."""
    safe = "".join(char if char.isalnum() or char in "-_" else "_" for char in session_id)
    digest = id_digest(session_id)
    ending = f"~{digest}.json"
    room = _MAX_NAME - len(ending) - len(_LOCK)
    suffixed = safe.encode()[:room].decode(errors="ignore") + ending
    primary: str | None = f"{safe}.json"
    if len(f"{primary}{_LOCK}".encode()) > _MAX_NAME or (
        sys.platform == "win32" and _DEVICE.match(safe)
    ):
        primary = None
    return Names(primary, suffixed, (primary or suffixed) + _LOCK, f"tmp{digest}.tmp")


def id_of(name: str) -> str | None:
    """Return the one id whose document has this name; None where several may have it."""
    # Any character may have become a "_".
    stem = name.removesuffix(".json")
    is_plain = stem and all(char.isalnum() or char == "-" for char in stem)
    return stem if is_plain and names_of(stem).primary == name else None


def lock_of(name: str) -> str | None:
    """Return the lock of the ids whose document has this name; None where the name can't tell."""
    suffixed = _SUFFIXED.match(name)
    if suffixed is None:
        return name + _LOCK
    safe = suffixed[1]
    if sys.platform == "win32" and _DEVICE.match(safe):
        return name + _LOCK
    return None if len(os.fsencode(safe)) >= _CUT else f"{safe}.json{_LOCK}"


class Place(NamedTuple):
    """Where a session's document is, or would be.

    Attributes:
        path: The file.
        data: Its content; None where there is none.
        top: Its values; None where there are none or they can't be parsed.
        modified: When it was last written, in seconds since the epoch.
        damage: Why it can't be parsed.
        kept: The document, where it was kept in memory; then ``data`` and ``top`` aren't there.
    """

    path: Path
    data: bytes | None = None
    top: dict[str, msgspec.Raw] | None = None
    modified: float = 0.0
    damage: DamageError | None = None
    kept: Document | None = None

    @property
    def is_free(self) -> bool:
        """Whether there is no file."""
        return self.data is None and self.kept is None

    def owner(self) -> str | None:
        """Return whose document it is; None where that can't be told."""
        if self.top is None:
            return owner_of_damaged(self.data or b"")
        return owner(self.top, self.path.stem)

    def inside(self) -> str | None:
        """Return the id that stands in it; None where that can't be told."""
        if self.top is None:
            return owner_of_damaged(self.data or b"")
        return owner(self.top, "") or None

    def document(self, session_id: str) -> Document | None:
        """Return the document; None where there is none.

        Raises:
            CorruptSessionError: It can't be understood.
        """
        if self.kept is not None or self.data is None:
            return self.kept
        with self.understanding(session_id):
            if self.damage is not None:
                raise self.damage
            try:
                return Document(session_id, self.top or {}, self.modified)
            except DamageError as exc:
                if exc.key != "messages":
                    raise
            # It is damaged, or in a layout that only looks like the one that is cut in slices.
            return Document(session_id, parse_object(self.data), self.modified)

    def is_damaged(self) -> bool:
        """Whether nobody can understand it, a later version of this library included."""
        try:
            # What is this library's counts only for the id that it was written for.
            session_id = self.owner() or self.path.stem
            document = self.document(session_id)
            with self.understanding(session_id):
                for _ in () if document is None else document.bodies():
                    pass
        except CorruptSessionError as exc:
            return not isinstance(exc.__cause__, VersionError)
        return False

    @contextmanager
    def understanding(self, session_id: str) -> Iterator[None]:
        """Raise `CorruptSessionError` for what turns out to be damaged in this block."""
        try:
            yield
        except DamageError as exc:
            raise self._corrupt(exc, session_id) from exc

    def _corrupt(self, damage: DamageError, session_id: str) -> CorruptSessionError:
        """Return the error for a damaged document."""
        line = damage.line
        if line is None and damage.key is not None and self.data is not None:
            found = self.data.find(b'"%b"' % damage.key.encode())
            line = None if found < 0 else self.data.count(b"\n", 0, found) + 1
        return CorruptSessionError(
            str(damage), session_id=session_id, path=str(self.path), line=line
        )


def read_place(disk: Disk, path: Path) -> Place:
    """Read a document, if there is one; it is replaced as a whole, so that takes no lock."""
    try:
        fd = disk.open_to_read(path)
    except FileNotFoundError:
        return Place(path)
    breather = Breather()
    try:
        stat = os.fstat(fd)
        data = disk.read(fd, stat.st_size, 0)
    finally:
        disk.close(fd)
    try:
        top = parse_document(data)
        breather.breathe()
        return Place(path, data, top, stat.st_mtime)
    except DamageError as exc:
        return Place(path, data, None, stat.st_mtime, exc)


def find(disk: Disk, directory: Path, session_id: str) -> Place:
    """Return where a session's document is, or would be.

    A session whose name was taken keeps its suffixed one for good. A damaged document belongs to
    the id at its start or, if that is lost, to every id of its name.
    """
    names = names_of(session_id)
    place = read_place(disk, directory / names.suffixed)
    if place.data is not None or names.primary is None:
        return place
    primary = read_place(disk, directory / names.primary)
    if primary.data is None or primary.owner() in {session_id, None}:
        return primary
    return place


def free_name(path: Path) -> Path:
    """Return where PraisonAI would move a damaged document: a name that nothing has yet."""
    ending = f".corrupt-{time.time_ns() // 1_000_000}"
    # Of a name that gets too long, the end tells ids apart.
    room = _MAX_NAME - len(f"{ending}-999")
    name = path.name.encode()[-room:].decode(errors="ignore") + ending
    aside, number = path.with_name(name), 0
    while os.path.lexists(aside):
        number += 1
        aside = path.with_name(f"{name}-{number}")
    return aside
