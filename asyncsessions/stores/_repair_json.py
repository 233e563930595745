"""Finding and repairing damaged documents of a JSON store.

As in `_repair`: nothing is changed but under the session's lock, which is PraisonAI's, too, and
no bytes are thrown away.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from asyncsessions.codec import decode_message
from asyncsessions.errors import CorruptSessionError, LockTimeoutError
from asyncsessions.stores._disk import Disk
from asyncsessions.stores._docformat import DamageError
from asyncsessions.stores._docplace import Names, Place, find, names_of, read_place
from asyncsessions.stores._repair import Finding, RepairError, is_left_behind, keep_copy
from asyncsessions.stores._salvage_json import salvage

__all__ = ["examine", "repair"]

_KEPT = re.compile(r"\.(damaged|corrupt)-\d+(-\d+)?\Z")
# How often a lock that somebody holds is tried, in seconds.
_POLL = 0.02


def examine(directory: Path, *, disk: Disk | None = None) -> Iterator[Finding]:
    """Iterate over what isn't as it should be in a JSON store's directory, by name.

    Nothing is changed. Files of other programs are passed over.

    Args:
        directory: Where the store keeps its files.
        disk: The file operations; for tests.

    Raises:
        OSError: The directory can't be read.
    """
    disk = disk or Disk()
    for path in sorted(directory.iterdir()):
        with suppress(FileNotFoundError):  # Deleted since it was listed.
            try:
                yield from _examine_path(disk, path)
            except FileNotFoundError:
                raise
            except OSError as exc:
                yield Finding(str(path), "unreadable", f"it can't be read: {exc.strerror}")


def _examine_path(disk: Disk, path: Path) -> Iterator[Finding]:
    name = path.name
    if _KEPT.search(name):
        detail = "bytes that were put aside; remove the file when nobody needs them"
        yield Finding(str(path), "kept", detail)
    elif name.endswith(".tmp") or name.startswith(".ping-"):
        if is_left_behind(path.stat()):
            yield Finding(str(path), "leftover", "a temporary file of a process that is gone")
    elif name.endswith(".json"):
        if path.is_dir():
            yield Finding(str(path), "unreadable", "a directory has the name of a session's file")
        else:
            yield from _examine_document(disk, path)


def _examine_document(disk: Disk, path: Path) -> Iterator[Finding]:
    place = read_place(disk, path)
    if place.data is None:
        return
    sid = place.owner()
    if not place.data.strip():
        yield Finding(str(path), "empty", "it holds nothing", session_id=path.stem)
        return
    fault = _fault(place)
    if fault is not None:
        line, detail = fault
        count = len(salvage(place).messages)
        text = f"{f'line {line}: ' if line else ''}{detail}; {count} messages can be recovered"
        yield Finding(str(path), "damaged", text, session_id=sid or path.stem, line=line)
    if sid is not None:
        right = _right_name(disk, path, sid)
        if right != path.name:
            detail = f"the session's file is named {right}"
            yield Finding(str(path), "misnamed", detail, session_id=sid)


def _fault(place: Place) -> tuple[int | None, str] | None:
    """Return line and description of what is wrong with a document; None for a whole one."""
    try:
        document = place.document(place.owner() or place.path.stem)
        for body in () if document is None else document.bodies():
            decode_message(body)
    except CorruptSessionError as exc:
        return exc.line, str(exc.__cause__ or exc)
    except (DamageError, msgspec.DecodeError, UnicodeDecodeError) as exc:
        return None, f"a message can't be decoded: {exc}"
    return None


def _right_name(disk: Disk, path: Path, session_id: str) -> str:
    """Return the name under which the store looks for a session."""
    names = names_of(session_id)
    own = {names.primary, names.suffixed}
    if path.name in own and (path.name == names.suffixed or not _exists(path, names.suffixed)):
        return path.name
    found = find(disk, path.parent, session_id)
    if found.data is not None and found.path != path:
        return found.path.name
    if names.primary is None or _exists(path, names.primary):
        return names.suffixed
    return names.primary


def _exists(path: Path, name: str) -> bool:
    return path.with_name(name).exists()


@contextmanager
def _locked(disk: Disk, path: Path, names: Names, timeout: float) -> Iterator[None]:
    """Hold a session's lock.

    Raises:
        LockTimeoutError: Somebody else held it for all that time.
    """
    lock = path.with_name(names.lock)
    deadline = time.monotonic() + timeout
    while True:
        fd = disk.open(lock, create=True)
        try:
            if disk.try_lock(fd) and os.path.samestat(os.fstat(fd), lock.stat()):
                yield
                return
        finally:
            disk.close(fd)
        if time.monotonic() >= deadline:
            raise LockTimeoutError(path.stem, timeout=timeout)
        time.sleep(_POLL)


def repair(finding: Finding, *, disk: Disk | None = None, lock_timeout: float = 5.0) -> str | None:
    """Repair what `examine` found, keeping the bytes of what was there.

    A damaged document is replaced by one with every message, and everything else, that can still
    be decoded.

    Args:
        finding: What to repair.
        disk: The file operations; for tests.
        lock_timeout: How long to wait, in seconds, for a writer of that session.

    Returns:
        What was done, for a person; None where nothing was to be done.

    Raises:
        RepairError: It can't be repaired; the text says why.
        LockTimeoutError: A writer held the session for too long.
        OSError: The disk refuses.
    """
    disk = disk or Disk()
    path = Path(finding.path)
    if finding.kind == "unreadable":
        raise RepairError(f"{path} can't be repaired: {finding.detail}")
    if finding.kind == "kept":
        return None
    names = names_of(finding.session_id or path.stem)
    try:
        if finding.kind == "leftover":
            return _renamed_aside(disk, path)
        with _locked(disk, path, names, lock_timeout):
            if finding.kind == "misnamed":
                return _rename(disk, path, finding.session_id or path.stem)
            if finding.kind == "empty":
                return None if path.stat().st_size else _renamed_aside(disk, path)
            return _rebuild(disk, path, names)
    except FileNotFoundError:
        return None  # Somebody else removed it, which is as good.


def _rebuild(disk: Disk, path: Path, names: Names) -> str | None:
    place = read_place(disk, path)
    if place.data is None or _fault(place) is None:
        return None
    found = salvage(place)
    if found.document is None:
        return _renamed_aside(disk, path)
    data = b"".join(found.document.dump())
    new = path.with_name(names.temp)
    fd = disk.open(new, create=True)
    try:
        disk.truncate(fd, 0)
        disk.write(fd, data, 0)
        disk.sync(fd)
    finally:
        disk.close(fd)
    again = read_place(disk, new)._replace(path=path)
    if _fault(again) is not None:
        disk.unlink(new)
        raise RepairError(f"{path} can't be repaired: what was recovered doesn't read back")
    kept = keep_copy(disk, path)
    disk.replace(new, path)
    disk.sync_directory(path.parent)
    return f"recovered {len(found.messages)} messages; the original is {kept.name}"


def _rename(disk: Disk, path: Path, session_id: str) -> str | None:
    right = _right_name(disk, path, session_id)
    if right == path.name:
        return None
    target = path.with_name(right)
    try:
        # A link fails where the name is taken; a rename would overwrite that session.
        os.link(path, target)
        done = f"renamed to {right}"
    except FileExistsError:
        done = f"{right} has this session already, so this file is now {keep_copy(disk, path).name}"
    except OSError as exc:
        text = f"{path} can't be renamed safely on this file system; rename it to {right}"
        raise RepairError(text) from exc
    disk.unlink(path)
    disk.sync_directory(path.parent)
    return done


def _renamed_aside(disk: Disk, path: Path) -> str:
    kept = keep_copy(disk, path)
    disk.unlink(path)
    disk.sync_directory(path.parent)
    return f"moved aside as {kept.name}"
