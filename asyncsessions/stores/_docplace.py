"""Which file holds a session's document, and reading it."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import NamedTuple

import msgspec

from asyncsessions.errors import CorruptSessionError
from asyncsessions.ids import id_digest
from asyncsessions.pacing import Breather
from asyncsessions.stores._disk import Disk
from asyncsessions.stores._docformat import (
    DamageError,
    owner,
    owner_of_damaged,
    parse_document,
    parse_object,
)
from asyncsessions.stores._document import Document

__all__ = ["Names", "Place", "find", "names_of", "read_place"]

_LOCK = ".lock"
_MAX_NAME = 255
# What Windows gives to devices, whatever their extension.
_DEVICE = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)\Z", re.IGNORECASE)


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


class Place(NamedTuple):
    """Where a session's document is, or would be.

    Attributes:
        path: The file.
        data: Its content; None where there is none.
        top: Its values; None where there are none or they can't be parsed.
        modified: When it was last written, in seconds since the epoch.
        damage: Why it can't be parsed.
    """

    path: Path
    data: bytes | None = None
    top: dict[str, msgspec.Raw] | None = None
    modified: float = 0.0
    damage: DamageError | None = None

    def owner(self) -> str | None:
        """Return whose document it is; None where that can't be told."""
        if self.top is None:
            return owner_of_damaged(self.data or b"")
        return owner(self.top, self.path.stem)

    def document(self, session_id: str) -> Document | None:
        """Return the document; None where there is none.

        Raises:
            CorruptSessionError: It can't be understood.
        """
        if self.data is None:
            return None
        try:
            if self.damage is not None:
                raise self.damage
            try:
                return Document(session_id, self.top or {}, self.modified)
            except DamageError as exc:
                if exc.key != "messages":
                    raise
            # It is damaged, or in a layout that only looks like the one that is cut in slices.
            return Document(session_id, parse_object(self.data), self.modified)
        except DamageError as exc:
            raise self.corrupt(exc, session_id) from exc

    def corrupt(self, damage: DamageError, session_id: str | None) -> CorruptSessionError:
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
