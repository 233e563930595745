"""Finding and repairing damaged files of a JSON Lines store.

Both are safe beside live writers: nothing is changed but under the session's lock, and what looks
unfinished is looked at again under the lock before it is called so. No bytes are thrown away: the
original of a repaired file stays beside it under a name that ends in ``.damaged-<n>``.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Literal

import msgspec

from asyncsessions.errors import CorruptSessionError, LockTimeoutError, SessionStoreError
from asyncsessions.ids import file_stem
from asyncsessions.stores._disk import Disk
from asyncsessions.stores._log import LogReader
from asyncsessions.stores._logfile import SessionFile
from asyncsessions.stores._salvage import Salvage, salvage, write_salvaged

__all__ = ["Finding", "RepairError", "examine", "is_left_behind", "keep_copy", "repair"]

Kind = Literal["damaged", "torn", "empty", "misnamed", "leftover", "kept", "unreadable"]

_DAMAGED_NAME = re.compile(r"\.(damaged|corrupt)-\d+(-\d+)?\Z")
# How often a lock that somebody holds is tried, in seconds.
_POLL = 0.02
# So old, in seconds, a file that nobody has written to or locked has no writer who still will.
_LEFT_BEHIND = 60.0


class Finding(msgspec.Struct, frozen=True):
    """Something in a store's directory that isn't as it should be.

    Attributes:
        path: The file.
        kind: ``damaged``: a session can't be read in full. ``torn``: a crash left the start of a
            write that was never acknowledged. ``empty``: a crash left a file without content.
            ``misnamed``: the store doesn't see the session under this name. ``leftover``: a
            temporary file of a process that is gone. ``kept``: bytes that a repair, or the store
            itself, put aside. ``unreadable``: the system refuses to read it.
        detail: What exactly, for a person.
        session_id: The session concerned; None where it can't be told.
        line: The first damaged line, counted from 1.
    """

    path: str
    kind: Kind
    detail: str
    session_id: str | None = None
    line: int | None = None

    @property
    def is_harmless(self) -> bool:
        """Whether the store works just as well with it."""
        return self.kind == "kept"


class RepairError(SessionStoreError):
    """A file can't be repaired; it is as it was."""


def examine(
    directory: Path, *, disk: Disk | None = None, lock_timeout: float = 5.0
) -> Iterator[Finding]:
    """Iterate over what isn't as it should be in a JSON Lines store's directory, by name.

    Nothing is changed. Files of other programs are passed over. A file without content, or a
    temporary one, counts from its second minute: before, a writer may just have made it.

    Args:
        directory: Where the store keeps its files.
        disk: The file operations; for tests.
        lock_timeout: How long to wait, in seconds, to look at a file that is being written.

    Raises:
        OSError: The directory can't be read.
    """
    disk = disk or Disk()
    for path in sorted(directory.iterdir()):
        with suppress(FileNotFoundError):  # Deleted since it was listed.
            try:
                yield from _examine_path(disk, path, lock_timeout)
            except FileNotFoundError:
                raise
            except OSError as exc:
                yield Finding(str(path), "unreadable", f"it can't be read: {exc.strerror}")


def _examine_path(disk: Disk, path: Path, lock_timeout: float) -> Iterator[Finding]:
    name = path.name
    if _DAMAGED_NAME.search(name) or name.endswith(".torn"):
        detail = "bytes that were put aside; remove the file when nobody needs them"
        yield Finding(str(path), "kept", detail)
    elif name.endswith(".tmp") or name.startswith(".ping-"):
        if is_left_behind(path.stat()) and not _is_live(disk, path):
            yield Finding(str(path), "leftover", "a temporary file of a process that is gone")
    elif name.endswith(".jsonl"):
        if path.is_dir():
            yield Finding(str(path), "unreadable", "a directory has the name of a session's file")
        else:
            yield from _examine_file(disk, path, lock_timeout)


def is_left_behind(stat: os.stat_result) -> bool:
    """Whether a file is too old for its writer to be between making and locking it."""
    return time.time() - stat.st_mtime > _LEFT_BEHIND


def _is_live(disk: Disk, path: Path) -> bool:
    """Whether a writer holds the lock of a temporary file."""
    fd = disk.open_to_read(path)
    try:
        return not disk.try_lock(fd)
    finally:
        disk.close(fd)


def _examine_file(disk: Disk, path: Path, lock_timeout: float) -> list[Finding]:
    fd = disk.open_to_read(path)
    try:
        findings = _inspect(disk, fd, path)
    finally:
        disk.close(fd)
    if not any(finding.kind in {"damaged", "torn", "empty"} for finding in findings):
        return findings
    # It may be a write under way, so look when nobody writes.
    try:
        with _locked(disk, path, None, lock_timeout, to_write=False) as fd:
            return _inspect(disk, fd, path)
    except LockTimeoutError:
        return [finding for finding in findings if finding.kind not in {"torn", "empty"}]


def _inspect(disk: Disk, fd: int, path: Path) -> list[Finding]:
    """Return what is wrong with one open file."""
    stat = os.fstat(fd)
    size = stat.st_size
    if not size:
        if not is_left_behind(stat):
            return []
        detail = "a crash left it before anything was stored"
        return [Finding(str(path), "empty", detail, session_id=_id_of(path))]
    found = _salvage(disk, fd, path, size)
    sid = found.session_id
    findings = []
    if found.faults:
        findings.append(_damage(path, found))
    elif found.end < size:
        detail = f"{size - found.end} bytes of a write that was never acknowledged"
        findings.append(Finding(str(path), "torn", detail, session_id=sid))
    if sid is not None and found.end and file_stem(sid) != path.stem:
        detail = f"the session's file is named {file_stem(sid)}.jsonl"
        findings.append(Finding(str(path), "misnamed", detail, session_id=sid))
    return findings


def _damage(path: Path, found: Salvage) -> Finding:
    line, detail = found.faults[0]
    others = len(found.faults) - 1
    more = f", and {others} more place{'s' if others > 1 else ''}" if others else ""
    can = f"{len(found.places)} messages can be recovered"
    text = f"line {line}: {detail}{more}; {can}"
    return Finding(str(path), "damaged", text, session_id=found.session_id, line=line)


def _id_of(path: Path) -> str | None:
    """Return the id that a file's name stands for, where the name tells."""
    return path.stem if path.stem and file_stem(path.stem) == path.stem else None


def _salvage(disk: Disk, fd: int, path: Path, size: int) -> Salvage:
    """Read what can be read of a file, up to its last acknowledged byte."""
    reader = LogReader(disk, fd, path, path.stem)
    end: int | None = None
    try:
        commit = reader.read_commit(size)
        # What follows the newest commit was never acknowledged.
        end = 0 if commit is None else commit[1]
    except CorruptSessionError:
        # The end itself is damaged: all that can be decoded counts.
        pass
    return salvage(reader, size if end is None else end, path.stem)


@contextmanager
def _locked(
    disk: Disk, path: Path, session_id: str | None, timeout: float, *, to_write: bool = True
) -> Iterator[int]:
    """Open a session's file and hold its lock.

    Args:
        disk: The file operations.
        path: The file.
        session_id: The session, for errors; None where it can't be told.
        timeout: How long to wait, in seconds.
        to_write: Whether to open it to write, too.

    Raises:
        LockTimeoutError: Somebody else held it for all that time.
        FileNotFoundError: There is no such file.
    """
    deadline = time.monotonic() + timeout
    while True:
        fd = disk.open(path) if to_write else disk.open_to_read(path)
        try:
            # Its name may have passed to another file while this one was opened.
            if disk.try_lock(fd) and os.path.samestat(os.fstat(fd), path.stat()):
                yield fd
                return
        finally:
            disk.close(fd)
        if time.monotonic() >= deadline:
            raise LockTimeoutError(session_id or path.name, timeout=timeout)
        time.sleep(_POLL)


def repair(finding: Finding, *, disk: Disk | None = None, lock_timeout: float = 5.0) -> str | None:
    """Repair what `examine` found, keeping the bytes of what was there.

    A damaged file is replaced by one with every message that can still be decoded, in the order
    of their ``seq``, which they keep.

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
    path, sid = Path(finding.path), finding.session_id
    try:
        if finding.kind == "damaged":
            return _rebuild(disk, path, sid, lock_timeout)
        if finding.kind in {"torn", "empty"}:
            return _tidy(disk, path, sid, lock_timeout)
        if finding.kind == "misnamed":
            return _rename(disk, path, sid, lock_timeout)
        if finding.kind == "leftover":
            return _put_aside(disk, path, lock_timeout)
    except FileNotFoundError:
        return None  # Somebody else removed it, which is as good.
    if finding.kind == "unreadable":
        raise RepairError(f"{path} can't be repaired: {finding.detail}")
    return None


def _rebuild(disk: Disk, path: Path, session_id: str | None, lock_timeout: float) -> str | None:
    with _locked(disk, path, session_id, lock_timeout) as fd:
        found = _salvage(disk, fd, path, os.fstat(fd).st_size)
        if not found.faults:
            return None
        if found.is_foreign:
            return _renamed_aside(disk, path)
        if found.session_id is None:
            raise RepairError(f"{path} can't be repaired: no line tells its session's id")
        new = path.with_suffix(".tmp")
        draft = disk.open(new, create=True)
        try:
            # Locked before it gets the name, so nobody writes to it before the name is durable.
            disk.try_lock(draft)
            disk.truncate(draft, 0)
            write_salvaged(found, LogReader(disk, fd, path, found.session_id), disk, draft)
            disk.sync(draft)
            _check(disk, draft, new, found)
            kept = keep_copy(disk, path)
            disk.replace(new, path)
            disk.sync_directory(path.parent)
        finally:
            disk.close(draft)
    unsure = f", {found.unverified} of them unverified" if found.unverified else ""
    return f"recovered {len(found.places)} messages{unsure}; the original is {kept.name}"


def _check(disk: Disk, fd: int, path: Path, expected: Salvage) -> None:
    """Read a new file back before it takes the place of the old one."""
    assert expected.session_id is not None  # noqa: S101  # `_rebuild` has refused that
    size = os.fstat(fd).st_size
    reader = LogReader(disk, fd, path, expected.session_id)
    again = salvage(reader, size, file_stem(expected.session_id))
    if again.faults or list(again.places) != list(expected.places):
        raise RepairError(f"{path} was written, but doesn't read back as it should")


def keep_copy(disk: Disk, path: Path) -> Path:
    """Give a file's present bytes a second name ending in ``.damaged-<n>``; return it.

    The first name goes on existing, so no writer makes a new file under it meanwhile.
    """
    number = 0
    while True:
        number += 1
        kept = path.with_name(f"{path.name}.damaged-{number}")
        try:
            os.link(path, kept)
        except FileExistsError:
            continue
        except OSError:
            # Some file systems have no second names.
            if kept.exists():
                continue
            shutil.copy2(path, kept)
            fd = disk.open(kept)
            try:
                disk.sync(fd)
            finally:
                disk.close(fd)
        return kept


def _tidy(disk: Disk, path: Path, session_id: str | None, lock_timeout: float) -> str | None:
    """Let the store itself remove what a crash left at the end of a file."""
    was = path.stat().st_size
    file = SessionFile(disk, path, session_id or path.name, is_synced=True)
    deadline = time.monotonic() + lock_timeout
    try:
        while not file.acquire(create=False):
            if time.monotonic() >= deadline:
                raise LockTimeoutError(session_id or path.name, timeout=lock_timeout)
            time.sleep(_POLL)
        file.release()
    finally:
        file.close()
    if not path.exists():
        kept = f"; its bytes are in {path.stem}.torn" if was else ""
        return f"removed the file, which held no session{kept}"
    return f"removed the unfinished write; its bytes are in {path.stem}.torn"


def _rename(disk: Disk, path: Path, session_id: str | None, lock_timeout: float) -> str | None:
    with _locked(disk, path, session_id, lock_timeout) as fd:
        found = _salvage(disk, fd, path, os.fstat(fd).st_size)
        if found.session_id is None or file_stem(found.session_id) == path.stem:
            return None
        target = path.with_name(f"{file_stem(found.session_id)}.jsonl")
        try:
            # A link fails where the name is taken; a rename would overwrite that session.
            os.link(path, target)
            done = f"renamed to {target.name}"
        except FileExistsError:
            kept = keep_copy(disk, path)
            done = f"{target.name} has this session already, so this file is now {kept.name}"
        except OSError as exc:
            text = f"{path} can't be renamed safely on this file system; rename it to {target.name}"
            raise RepairError(text) from exc
        disk.unlink(path)
        disk.sync_directory(path.parent)
    return done


def _put_aside(disk: Disk, path: Path, lock_timeout: float) -> str | None:
    """Move a temporary file away, unless a writer took its name into use again.

    Its session's lock keeps writers out meanwhile.
    """
    session = path.with_suffix(".jsonl")
    with ExitStack() as stack:
        if session.exists():
            sid = _id_of(session)
            stack.enter_context(_locked(disk, session, sid, lock_timeout, to_write=False))
        if not is_left_behind(path.stat()) or _is_live(disk, path):
            return None
        return _renamed_aside(disk, path)


def _renamed_aside(disk: Disk, path: Path) -> str:
    kept = keep_copy(disk, path)
    disk.unlink(path)
    disk.sync_directory(path.parent)
    return f"moved aside as {kept.name}"
