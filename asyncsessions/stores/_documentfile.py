"""Writing one session's document, under the lock that PraisonAI takes, too."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec

from asyncsessions._compat import override
from asyncsessions.codec import decode_message
from asyncsessions.errors import SessionStoreError
from asyncsessions.history import is_tool_result, messages_to_drop
from asyncsessions.hooks import (
    Append,
    Appended,
    KeyRecord,
    Replace,
    Replaced,
    Update,
    admit,
    apply_changes,
    check_unshared,
)
from asyncsessions.models import JSONValue
from asyncsessions.stores._disk import Disk
from asyncsessions.stores._docformat import DamageError
from asyncsessions.stores._docplace import Names, Place, find, free_name, names_of, read_place
from asyncsessions.stores._docshelf import CAN_KEEP, OpenFile, Shelf
from asyncsessions.stores._docspill import Spills, absorb, read_spill
from asyncsessions.stores._document import Document
from asyncsessions.stores._writer import SessionWriter

__all__ = ["DocumentFile", "Edit", "Names", "Place", "find", "names_of", "read_place"]

# PraisonAI tries a lock every 50 ms and gives up after 5 s, so beside a busy process it would
# hardly ever find it free. So all busy processes leave the lock alone at the same time, by the
# clock that they share: seconds of each period, where another program is at work, and elsewhere.
_SHARED = (0.15, 0.5)
_UNSHARED = (0.06, 2.0)
# A document is shared for so long after a change by another program, in seconds.
_SHARED_SECONDS = 10.0
# A process is busy with it when it took the lock for so long without such a pause.
_BUSY_SECONDS = 1.0
_PAUSE = 0.2
# Callers who wait no longer than this couldn't tell it from a lock that is held.
_PATIENCE = 1.0


class Edit(msgspec.Struct, frozen=True):
    """Change one session's document in any way.

    Attributes:
        session_id: The session.
        change: Gets the document; returns the one to write, which may be another, or None where
            there is nothing to write. Called once, also for a write that fails. A
            `SessionStoreError` that it raises is this edit's outcome; it changed nothing then.
        now: Seconds since the epoch.
        keep: Retention, as in `Append`.
        ttl_seconds: Expiry, as in `Append`.
        create: Whether to create a session that doesn't exist.
        is_new: Do it only if the session doesn't exist.
        is_whole: Whether the document stays as it is, with no retention.
    """

    session_id: str
    change: Callable[[Document], Document | None]
    now: float
    keep: int | None = None
    ttl_seconds: float | None = None
    create: bool = True
    is_new: bool = False
    is_whole: bool = False


class DocumentFile(SessionWriter):
    """One session's document, for one writer at a time; see `SessionWriter`.

    Only the lock's file stays open between writes. The document is looked for each time, because
    other programs may have replaced it.

    Args:
        disk: How to read and write.
        directory: Where the files are.
        session_id: Whose document it is.
        is_synced: Whether `sync` waits for the disk.
        lock_timeout: For how long the callers wait for the lock, in seconds.
        window: How many messages stay active; the older ones move to the archive. None: all.
        shelf: Where documents are kept between writes.
    """

    # The one that PraisonAI locks; the lock's file is empty.
    _lock_byte = 0

    def __init__(
        self,
        disk: Disk,
        directory: Path,
        session_id: str,
        *,
        is_synced: bool,
        lock_timeout: float,
        window: int | None = None,
        shelf: Shelf | None = None,
    ) -> None:
        self._names = names_of(session_id)
        super().__init__(disk, directory / self._names.lock)
        self._directory = directory
        self._session_id = session_id
        self._is_synced = is_synced
        self._window = window
        self._shelf = Shelf(disk, directory) if shelf is None else shelf
        self._is_patient = lock_timeout >= _PATIENCE
        self._last_try = self._busy_since = self._shared_until = 0.0
        self._place = Place(directory)
        self._document: Document | None = None
        self._data: list[bytes] | None = None  # What `sync` is to write, in parts.
        self._is_kept = False  # Whether the shelf has the document now.
        self._spills: list[Path] = []  # What `sync` removes after that.

    # The lock.

    @override
    def _open(self, *, create: bool) -> int:
        if not create and find(self._disk, self._directory, self._session_id).is_free:
            raise FileNotFoundError(self._lock_path)
        return self._disk.open(self._lock_path, create=True)

    @override
    def _try_lock(self) -> bool:
        if self._is_patient and self._yields(time.monotonic()):
            return False
        return super()._try_lock()

    def _yields(self, now: float) -> bool:
        """Whether to leave the lock to other programs at this moment."""
        if now - self._last_try > _PAUSE:
            self._busy_since = now
        self._last_try = now
        if now < self._shared_until:
            seconds, period = _SHARED
        elif now - self._busy_since > _BUSY_SECONDS:
            seconds, period = _UNSHARED
        else:
            return False
        return time.time() % period < seconds

    @override
    def _read(self, size: int, *, create: bool, load: bool) -> None:
        del size  # The file that is locked is an empty one.
        kept = self._shelf.find(self._session_id) if load else None
        self._place = kept or find(self._disk, self._directory, self._session_id)
        if self._place.is_free and not create:
            raise FileNotFoundError(self._place.path)
        self._document = self._place.document(self._session_id) if load else None
        if kept is not None and self._document is not None:
            self._document = self._document.copy()
        if self._document is not None and self._document.was_changed:
            self._shared_until = time.monotonic() + _SHARED_SECONDS
        self._data = None
        self._spills = []

    @override
    def release(self) -> None:
        """Give up the lock."""
        document, self._document, self._data = self._document, None, None
        self._place = Place(self._directory)
        try:
            self._disk.unlock(self._fd, self._lock_byte)
        finally:
            if document is not None and not self._is_kept:
                document.close()
            self._is_kept = False
            self._leave()

    @override
    def _forget(self) -> None:
        self._document = self._data = None
        super()._forget()

    # Writing.

    def _existing(self, now: float) -> Document | None:
        document = self._document
        return None if document is None or document.own.is_expired(now) else document

    @override
    def append(self, batch: Sequence[Append]) -> list[Appended | SessionStoreError]:
        """Append, all in one write; see `BaseSessionStore._append`."""
        with self._place.understanding(self._session_id):
            outcomes = [self._add(append) for append in batch]
            self._dump_newest(batch[-1].now, batch[-1].keep)
        return outcomes

    def edit(self, batch: Sequence[Edit]) -> list[bool | SessionStoreError]:
        """Change the document, all in one write; return for each whether it was to be changed."""
        with self._place.understanding(self._session_id):
            outcomes = [self._edit(edit) for edit in batch]
            if not batch[-1].is_whole:
                self._dump_newest(batch[-1].now, batch[-1].keep)
            elif self._data is not None and self._document is not None:
                self._data = self._document.dump()
        return outcomes

    def _edit(self, edit: Edit) -> bool | SessionStoreError:
        existing = self._existing(edit.now)
        if edit.is_new if existing is not None else not edit.create:
            return False
        document = existing or Document(self._session_id, {})
        try:
            changed = edit.change(document)
        except SessionStoreError as exc:
            return exc
        if changed is not None or existing is None:
            document = changed or document
            document.touch(edit)
            self._change(document)
        return True

    def _dump_newest(self, now: float, keep: int | None) -> None:
        """Get a changed document ready for `sync`, with the messages that retention leaves."""
        document = self._document
        if self._data is None or document is None:
            return
        if keep is not None and len(document.seqs) > keep:
            results = (is_tool_result(decode_message(body)) for body in document.bodies())
            document.drop_oldest(messages_to_drop(results, len(document.seqs) - keep))
        if self._window is not None and len(document.seqs) > self._window:
            document.archive(self._window, now)
        self._data = document.dump()

    def _add(self, append: Append) -> Appended | SessionStoreError:
        existing = self._existing(append.now)
        document = existing or Document(self._session_id, {})
        known = document.own.key(append.key)
        outcome = admit(append, last_seq=document.last_seq, known=known)
        if outcome is not None:
            return outcome
        first = document.add(append.bodies)
        if append.key is not None:
            count = len(append.bodies)
            record = KeyRecord(append.key, first, count, append.digest, append.now)
            document.own.remember(record, (document.seqs or [first])[0])
        document.touch(append)
        self._change(document)
        return Appended(first, append.now)

    def _change(self, document: Document) -> None:
        """Note that a document is to be written."""
        self._document = document
        self._data = []

    @override
    def update(self, batch: Sequence[Update]) -> list[list[JSONValue] | SessionStoreError | None]:
        """Change the record, all in one write; see `BaseSessionStore._update`."""
        outcomes: list[list[JSONValue] | SessionStoreError | None] = []
        for update in batch:
            existing = self._existing(update.now)
            if existing is None and not update.create:
                outcomes.append(None)
                continue
            document = existing or Document(self._session_id, {})
            try:
                info, values = apply_changes(document.info, update)
            except SessionStoreError as exc:
                outcomes.append(exc)
                continue
            outcomes.append(values)
            if existing is None or info != document.info:
                document.set_info(info)
                self._change(document)
        if self._data is not None and self._document is not None:
            self._data = self._document.dump()
        return outcomes

    @override
    def replace(self, replace: Replace) -> Replaced | None:
        """Replace the newest messages; see `BaseSessionStore._replace`."""
        document = self._existing(replace.now)
        newest = document.seqs[-1] if document is not None and document.seqs else 0
        if replace.if_newest not in (None, newest) or (document is None and not replace.create):
            return None
        document = document or Document(self._session_id, {})
        had_checkpoint = document.checkpoint is not None
        removed = document.cut(replace.from_seq)
        first = replace.from_seq
        if replace.in_place:
            document.put(replace.bodies[0], first)
        else:
            first = document.add(replace.bodies)
        if replace.drop_checkpoint:
            document.checkpoint = None
            if replace.from_seq <= 1 and not replace.create:
                # Clearing, which leaves nothing that could still be found.
                removed += document.clear_archive()
        document.touch(replace)
        self._change(document)
        self._dump_newest(replace.now, None)
        return Replaced(removed, first, had_checkpoint)

    @override
    def delete(self, expired_at: float | None) -> bool:
        """Remove the document; see `BaseSessionStore._delete`. The lock's file stays."""
        if expired_at is not None and self._existing(expired_at) is not None:
            return False
        if self._document is not None and expired_at is None:
            check_unshared(self._session_id, self._document.info.metadata)
        self._disk.unlink(self._place.path)
        self._remove_temp()
        if self._is_synced:
            self._disk.sync_directory(self._directory)
        return True

    def take_over(self, spills: Spills) -> int:
        """Add the messages of files that PraisonAI spilled; return how many.

        `sync` removes the files, for which it waits for the disk in any case.
        """
        document = self._existing(spills.append.now) or Document(self._session_id, {})
        with self._place.understanding(self._session_id):
            count = absorb(document, self._spilled(spills.paths), spills.append.now)
            if count:
                document.touch(spills.append)
                self._change(document)
                self._dump_newest(spills.append.now, spills.append.keep)
        return count

    def _spilled(self, paths: Sequence[Path]) -> Iterator[tuple[str, list[msgspec.Raw]]]:
        for path in paths:
            try:
                entries = read_spill(self._disk, path)[1]
            except (DamageError, OSError):
                continue  # Whoever had the lock before took it over.
            self._spills.append(path)
            yield path.name, entries

    def quarantine(self, _: None) -> Path | None:
        """Move the document aside if it is damaged; return where it is now."""
        if not self._place.is_damaged():
            return None
        aside = free_name(self._place.path)
        self._disk.replace(self._place.path, aside)
        if self._is_synced:
            self._disk.sync_directory(self._directory)
        return aside

    @override
    def sync(self) -> None:
        """Put the new document in place of the old one; on failure the old one stays.

        Where there is none, the old one becomes durable, because answers rest on it: whoever wrote
        it may have ended before they synced it.
        """
        data, self._data = self._data, None
        is_synced = self._is_synced or bool(self._spills)
        if data is not None:
            self._put(data, is_synced=is_synced)
        elif is_synced and self._document is not None:
            self._sync_as_it_is()
        for path in self._spills:
            # Where it stays, the document says that its messages were taken over.
            with contextlib.suppress(OSError):
                self._disk.unlink(path)

    def _sync_as_it_is(self) -> None:
        try:
            fd = self._disk.open(self._place.path)
        except FileNotFoundError:
            return  # It was removed just now.
        try:
            self._disk.sync(fd)
        finally:
            self._disk.close(fd)
        self._disk.sync_directory(self._directory)

    def _put(self, data: Sequence[bytes], *, is_synced: bool) -> None:
        temp = self._directory / self._names.temp
        try:
            file = self._write(temp, data, is_synced=is_synced)
            self._disk.replace(temp, self._place.path)
        except BaseException:
            self._remove_temp()
            raise
        if self._document is not None and file is not None:
            self._shelf.keep(self._session_id, self._place.path, file, self._document)
            self._is_kept = True
        if is_synced:
            self._disk.sync_directory(self._directory)

    def _write(self, temp: Path, data: Sequence[bytes], *, is_synced: bool) -> OpenFile | None:
        fd = self._disk.open(temp, create=True)
        try:
            self._disk.truncate(fd, 0)  # A crash may have left one behind.
            end = 0
            for part in data:
                self._disk.write(fd, part, end)
                end += len(part)
            if is_synced:
                self._disk.sync(fd)
        except BaseException:
            self._disk.close(fd)
            raise
        if CAN_KEEP:
            return OpenFile(fd)
        self._disk.close(fd)
        return None

    def _remove_temp(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._disk.unlink(self._directory / self._names.temp)
