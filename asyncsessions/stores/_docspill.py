"""The files in which PraisonAI keeps the messages that it could not write to a session's document.

One directory has those of all session directories. A name, ``<safe>.<ms>.<pid>.<hex>.json``, says
when a file was made; whose it is, and what it holds, is inside.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path

import msgspec

from asyncsessions.hooks import Append, KeyRecord
from asyncsessions.omissions import leave_out
from asyncsessions.stores._disk import Disk
from asyncsessions.stores._docformat import DamageError, is_object, loads, parse_list, parse_object
from asyncsessions.stores._docmessage import identity
from asyncsessions.stores._docplace import names_of
from asyncsessions.stores._document import Document

__all__ = ["Spills", "absorb", "find_spills", "read_spill"]

logger: logging.Logger = logging.getLogger("asyncsessions.json")

# PraisonAI opens the lock's file, reads, fails to write, and spills, all within so many seconds.
_FAILING_SECONDS = 60.0
# The clocks of files and names may differ by so many seconds.
_CLOCK_SECONDS = 0.1


class Spills(msgspec.Struct, frozen=True):
    """Take over the messages of some files.

    Attributes:
        append: What every append says, without messages.
        paths: The files, oldest first.
    """

    append: Append
    paths: tuple[Path, ...]


def find_spills(disk: Disk, spills: Path, directory: Path, session_id: str) -> list[Path]:
    """Return the files that hold messages of a session of this directory, oldest first.

    What can't be read is left out, and logged by its path.
    """
    names = names_of(session_id)
    if names.primary is None:
        return []  # Which PraisonAI could never lock.
    safe = re.escape(names.primary.removesuffix(".json"))
    pattern = re.compile(rf"{safe}\.(\d+)\.\d+\.[0-9a-f]+\.json")
    try:
        with os.scandir(spills) as entries:
            matches = [pattern.fullmatch(entry.name) for entry in entries]
    except FileNotFoundError:
        return []
    except OSError as exc:
        leave_out(logger, "history", f"PraisonAI's spilled messages: {exc}")
        return []
    found = sorted((int(match[1]), match[0]) for match in matches if match is not None)
    if not found:
        return []
    lock = directory / names.lock
    here = [spills / name for ms, name in found if _may_have_locked(lock, ms / 1000)]
    return [path for path in here if _owner(disk, path) == session_id]


def _may_have_locked(lock: Path, seconds: float) -> bool:
    """Whether PraisonAI may have held a lock at a time, by the times of the lock's file.

    It truncates the file whenever it opens it, which sets one of its times; this library doesn't.
    So the file is never older than the last time that PraisonAI held the lock, and while its times
    are equal it is as it was made, by whomever.
    """
    try:
        stat = lock.stat()
    except FileNotFoundError:
        return False
    was_made_later = (
        stat.st_atime_ns == stat.st_mtime_ns and stat.st_mtime > seconds + _CLOCK_SECONDS
    )
    return stat.st_mtime >= seconds - _FAILING_SECONDS and not was_made_later


def _owner(disk: Disk, path: Path) -> str | None:
    try:
        return read_spill(disk, path)[0]
    except FileNotFoundError:
        return None
    except (DamageError, OSError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else "it is damaged"
        leave_out(logger, "history", f"PraisonAI's spilled messages in {path}: {reason}")
        return None


def read_spill(disk: Disk, path: Path) -> tuple[str, list[msgspec.Raw]]:
    """Return whose messages a file has, and these as a document holds them.

    Raises:
        DamageError: It can't be understood.
        OSError: It can't be read; `FileNotFoundError` once somebody has taken them over.
    """
    fd = disk.open_to_read(path)
    try:
        data = disk.read(fd, os.fstat(fd).st_size, 0)
    finally:
        disk.close(fd)
    top = parse_object(data)
    session_id = loads(top.get("session_id", msgspec.Raw(b"null")))
    if not isinstance(session_id, str):
        raise DamageError("it names no session", key="session_id")
    entries = parse_list(top.get("messages", msgspec.Raw(b"null")))
    return session_id, [entry for entry in entries if is_object(entry)]


def absorb(document: Document, files: Iterator[tuple[str, list[msgspec.Raw]]], now: float) -> int:
    """Add to a document what files hold, each once; return how many messages it was.

    A message that the session has by now, in its archive too, isn't added again: PraisonAI, or
    the writer's own retry, was faster. A file that was taken over before adds nothing, whatever
    has become of its messages since.

    Args:
        document: The session's.
        files: The name and the messages of each.
        now: Seconds since the epoch.
    """
    known = set(document.identities())
    count = 0
    for name, entries in files:
        key = f"praisonai-spill:{name}"
        if document.own.key(key) is not None:
            continue
        added = []
        for entry in entries:
            told_by = identity(entry)
            if told_by not in known:
                known.add(told_by)
                added.append(entry)
        if added:
            first = document.add_entries(added)
            record = KeyRecord(key, first, len(added), "spill", now)
            document.own.remember(record, document.seqs[0])
            count += len(added)
    return count
