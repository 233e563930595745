"""Finding and repairing damaged documents of a JSON store.

As in `_repair`: nothing is changed but under the session's lock, which is PraisonAI's, too, and
no bytes are thrown away.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import msgspec

from asyncsessions.codec import decode_message
from asyncsessions.errors import CorruptSessionError, LockTimeoutError
from asyncsessions.stores._disk import Disk
from asyncsessions.stores._docformat import DamageError, owner_of_damaged
from asyncsessions.stores._docplace import (
    Place,
    find,
    id_of,
    lock_of,
    names_of,
    read_place,
)
from asyncsessions.stores._repair import Finding, RepairError, is_left_behind, keep_copy
from asyncsessions.stores._salvage_json import salvage

__all__ = ["examine", "repair"]

_KEPT = re.compile(r"\.(damaged|corrupt)-\d+(-\d+)?\Z")
_TEMP = re.compile(r"tmp[0-9a-f]{32}\.tmp\Z")
# As much of a document as holds the id at its start.
_HEAD = 4096
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
    if not place.data.strip():
        yield Finding(str(path), "empty", "it holds nothing", session_id=id_of(path.name))
        return
    # Without an id it is never misnamed: nothing but its name tells whose it is, if anybody's.
    sid = place.inside()
    fault = _fault(place)
    if fault is not None:
        line, detail = fault
        found = salvage(place)
        count = len(found.messages)
        text = f"{f'line {line}: ' if line else ''}{detail}; {count} messages can be recovered"
        yield Finding(str(path), "damaged", text, session_id=found.session_id, line=line)
        sid = None if sid is None else found.session_id
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
def _locked(disk: Disk, path: Path, session_id: str | None, timeout: float) -> Iterator[None]:
    """Hold a session's lock.

    Args:
        disk: The file operations.
        path: Where the session is, or something of it.
        session_id: The session; None where only the file's name tells which lock it is.
        timeout: How long to wait, in seconds.

    Raises:
        LockTimeoutError: Somebody else held it for all that time.
        RepairError: The file's name doesn't tell.
    """
    name = lock_of(path.name) if session_id is None else names_of(session_id).lock
    if name is None:
        raise RepairError(_untold(path))
    lock = path.with_name(name)
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
            raise LockTimeoutError(session_id or path.name, timeout=timeout)
        time.sleep(_POLL)


def _untold(path: Path) -> str:
    return (
        f"{path} can't be repaired: nothing tells for sure whose session it is; "
        'write {"session_id": "<its id>", at its start, and repair it again'
    )


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
    try:
        if finding.kind == "leftover":
            return _put_aside(disk, path, lock_timeout)
        with _locked(disk, path, finding.session_id, lock_timeout):
            if finding.kind == "misnamed":
                return _rename(disk, path, finding.session_id or path.stem)
            if finding.kind == "empty":
                place = read_place(disk, path)
                return None if (place.data or b"").strip() else _renamed_aside(disk, path)
            return _rebuild(disk, path)
    except FileNotFoundError:
        return None  # Somebody else removed it, which is as good.


def _rebuild(disk: Disk, path: Path) -> str | None:
    place = read_place(disk, path)
    if place.data is None or _fault(place) is None:
        return None
    found = salvage(place)
    if found.is_foreign:
        return _renamed_aside(disk, path)
    sid = found.session_id
    if found.document is None or sid is None:
        raise RepairError(_untold(path))
    if place.inside() is None and _right_name(disk, path, sid) != path.name:
        # The session that its name stands for has another file, so this one is of somebody else.
        raise RepairError(_untold(path))
    data = b"".join(found.document.dump())
    new = path.with_name(names_of(sid).temp)
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
    if read_place(disk, path).inside() != session_id:
        return None  # It was replaced, or repaired, meanwhile.
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


def _put_aside(disk: Disk, path: Path, lock_timeout: float) -> str | None:
    """Move a temporary file away, unless a writer took its name into use again."""
    with ExitStack() as stack:
        sid = _writer_of(disk, path)
        if sid is not None:
            stack.enter_context(_locked(disk, path, sid, lock_timeout))
        if not is_left_behind(path.stat()):
            return None
        return _renamed_aside(disk, path)


def _writer_of(disk: Disk, temp: Path) -> str | None:
    """Return the session whose temporary file has this name; None where no other file tells."""
    if _TEMP.match(temp.name):
        for path in temp.parent.iterdir():
            with suppress(OSError, UnicodeError):
                for sid in _ids_of(disk, path):
                    if names_of(sid).temp == temp.name:
                        return sid
    return None


def _ids_of(disk: Disk, path: Path) -> Iterator[str]:
    """Iterate over the ids that a document or its lock may be of."""
    if path.name.endswith(".json.lock"):
        yield path.name.removesuffix(".json.lock")
    elif path.name.endswith(".json"):
        yield path.stem
        fd = disk.open_to_read(path)
        try:
            sid = owner_of_damaged(disk.read(fd, _HEAD, 0))
        finally:
            disk.close(fd)
        if sid is not None:
            yield sid


def _renamed_aside(disk: Disk, path: Path) -> str:
    kept = keep_copy(disk, path)
    disk.unlink(path)
    disk.sync_directory(path.parent)
    return f"moved aside as {kept.name}"
