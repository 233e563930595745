"""Writing one JSON Lines session file, under its lock."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

from asyncsessions._compat import override
from asyncsessions.codec import decode_message, encode_json, seq_of, with_seq
from asyncsessions.errors import (
    CorruptSessionError,
    SessionStoreError,
)
from asyncsessions.history import is_tool_result, messages_to_drop
from asyncsessions.hooks import (
    Append,
    Appended,
    KeyRecord,
    Replace,
    Replaced,
    Update,
    Window,
    admit,
    apply_changes,
    check_unshared,
)
from asyncsessions.models import JSONValue, SessionInfo
from asyncsessions.stores._disk import Disk
from asyncsessions.stores._draft import Draft, header_line, plain_flush, record_line
from asyncsessions.stores._log import (
    FLUSH_BYTES,
    MESSAGE,
    Commit,
    LogReader,
    flushed,
    line_size,
    sealed,
    with_counters,
)
from asyncsessions.stores._logkeys import INDEX_BYTES, KnownKeys, entry_of, index_lines
from asyncsessions.stores._writer import SessionWriter

__all__ = ["SessionFile"]

logger: logging.Logger = logging.getLogger("asyncsessions.jsonl")

# A file is rewritten when so many of its bytes are dead, and they are more than half of it.
_DEAD_BYTES = 1 << 16
_GAPS = 32


class SessionFile(SessionWriter):
    """One session's file, which is also what is locked; see `SessionWriter`.

    It stays open between writes. What is known of its end is used again only if its size and
    name show that nobody else wrote.

    Args:
        disk: How to read and write.
        path: The file; it needn't exist.
        session_id: Whose file it is.
        is_synced: Whether `sync` waits for the disk.
    """

    def __init__(self, disk: Disk, path: Path, session_id: str, *, is_synced: bool) -> None:
        super().__init__(disk, path)
        self._path = path
        self._session_id = session_id
        self._is_synced = is_synced
        self._commit = Commit()
        self._end = 0  # Past the newest commit line.
        self._synced_end = 0
        self._is_known = False  # Whether the fields above describe the file.
        # Whether all that was read of it, and its name, may be lost with the power: whoever wrote
        # it may have ended before they synced it.
        self._is_unsure = False
        self._info: SessionInfo | None = None
        self._record_size = 0
        self._keys = KnownKeys()
        self._compact_from = 0  # No smaller file is rewritten: it was tried in vain.

    # The lock.

    @override
    def _read(self, size: int, *, create: bool, load: bool) -> None:
        del create  # The file that was opened is all there is.
        if load and (size != self._end or not self._is_known):
            self._load(size)

    @override
    def release(self) -> None:
        """Give up the lock."""
        try:
            if self._is_known and not self._end:
                # Nothing came of the session that this file was made for.
                self._disk.unlink(self._path)
                self._forget()
            else:
                if self._is_known and (self._commit.dead > _DEAD_BYTES or self._commit.gaps):
                    self._compact_if_due()
                if self._fd >= 0:
                    self._disk.unlock(self._fd)
        finally:
            self._leave()

    @override
    def _forget(self) -> None:
        self._is_known = False
        self._info = None
        self._end = self._synced_end = 0
        self._keys = KnownKeys()
        self._compact_from = 0
        super()._forget()

    # Reading under the lock.

    def _reader(self) -> LogReader:
        return LogReader(self._disk, self._fd, self._path, self._session_id)

    def _load(self, size: int) -> None:
        """Learn the end of the file, and remove what a crash left behind it."""
        found = self._reader().read_commit(size)
        self._commit, self._end = found or (Commit(), 0)
        if self._end < size:
            self._save_torn(self._end, size)
            self._disk.truncate(self._fd, self._end)
        self._synced_end = self._end
        self._is_unsure = True
        self._info = None
        self._is_known = True

    def _save_torn(self, start: int, end: int) -> None:
        """Keep the bytes of an unfinished flush beside the file, in case somebody wants them."""
        torn = self._disk.open(self._path.with_suffix(".torn"), create=True)
        try:
            self._disk.write(torn, self._reader().read(start, end - start), os.fstat(torn).st_size)
        finally:
            self._disk.close(torn)
        logger.warning("removed %d bytes of an unfinished write from %s", end - start, self._path)

    def _exists(self, now: float) -> bool:
        expires_at = self._commit.expires_at
        return self._end > 0 and (expires_at is None or expires_at > now)

    def _record(self) -> SessionInfo:
        if self._info is None:
            self._info = self._reader().read_record(self._commit)
            self._record_size = len(record_line(self._info))
        return with_counters(self._info, self._commit)

    # Writing.

    @override
    def append(self, batch: Sequence[Append]) -> Sequence[Appended | SessionStoreError]:
        """Append, all in one write; see `BaseSessionStore._append`."""
        keep = batch[-1].keep
        if keep is None and self._exists(batch[0].now):
            plain = plain_flush(self._commit, self._end, batch)
            if plain is not None:
                data, commit, stored = plain
                self._write(data, commit)
                return stored
        draft = self._begin(batch[0].now)
        outcomes = [self._add(draft, append) for append in batch]
        if keep is not None and draft.commit.count > keep:
            self._drop_oldest(draft, draft.commit.count - keep)
        self._finish(draft)
        return outcomes

    def _add(self, draft: Draft, append: Append) -> Appended | SessionStoreError:
        known = None
        if append.key is not None:
            known = draft.keys.get(append.key)
            if known is None and self._exists(append.now):
                known = self._keys.find(self._reader(), self._commit.index, self._end, append.key)
        outcome = admit(append, last_seq=draft.commit.seq, known=known)
        if outcome is not None:
            return outcome
        if append.key is not None and not draft.keys:
            self._index_keys(draft)
        first = draft.add_messages(append.bodies)
        if append.key is not None:
            record = KeyRecord(append.key, first, len(append.bodies), append.digest, append.now)
            draft.keys[append.key] = record
            draft.add(encode_json(record) + b"\n")
        draft.touch(append)
        return Appended(first, append.now)

    def _index_keys(self, draft: Draft) -> None:
        """Add an index of the keys before a draft's own, where there is much to read for them."""
        commit = draft.commit
        if self._end - commit.index > INDEX_BYTES and self._keys.end == self._end:
            entries = self._keys.entries
            lines, dead = index_lines(self._reader(), commit.index, entries, draft.end)
            commit.index = [draft.add(line) for line in lines][-1]
            commit.dead += dead

    @override
    def update(self, batch: Sequence[Update]) -> list[list[JSONValue] | SessionStoreError | None]:
        """Change the record, all in one write; see `BaseSessionStore._update`."""
        exists = self._exists(batch[0].now)
        info = self._record() if exists else SessionInfo(session_id=self._session_id)
        outcomes: list[list[JSONValue] | SessionStoreError | None] = []
        done: list[Update] = []
        for update in batch:
            if not (exists or done or update.create):
                outcomes.append(None)
                continue
            try:
                info, values = apply_changes(info, update)
            except SessionStoreError as exc:
                outcomes.append(exc)
                continue
            outcomes.append(values)
            done.append(update)
        if not done:
            return outcomes
        draft = self._begin(batch[0].now, info)
        draft.commit.seq = info.last_seq
        if exists:
            # Or a counter would make the file grow without a bound.
            draft.commit.dead += line_size(self._commit)
            if any(update.changes for update in done):
                draft.commit.dead += self._record_size
                draft.set_record(info)
        for update in done:
            draft.touch(update)
        # An update without changes only moves the expiry.
        draft.commit.updated_at = info.updated_at
        self._finish(draft, info)
        return outcomes

    @override
    def replace(self, replace: Replace) -> Replaced | None:
        """Replace the newest messages; see `BaseSessionStore._replace`."""
        exists = self._exists(replace.now)
        commit = self._commit if exists else Commit()
        newest = 0
        if commit.count:
            newest = seq_of(self._reader().read_messages(commit, Window(limit=1))[0])
        if replace.if_newest not in (None, newest) or not (exists or replace.create):
            return None
        info = self._record() if exists else SessionInfo(session_id=self._session_id)
        check_unshared(self._session_id, info.metadata, replace.from_seq)
        had_checkpoint = info.checkpoint is not None
        if replace.drop_checkpoint:
            info = msgspec.structs.replace(info, checkpoint=None)
        if not exists or (replace.from_seq <= commit.first and not replace.in_place):
            removed, first = commit.count, commit.seq + 1
            if not exists:
                info = msgspec.structs.replace(info, created_at=replace.now)
            self._rewrite(info, replace)
            self._remove_leftovers()
            return Replaced(removed, first, had_checkpoint)
        draft = self._begin(replace.now)
        removed, first = self._replace_tail(draft, replace)
        if replace.drop_checkpoint and had_checkpoint:
            draft.set_record(info)
        draft.touch(replace)
        self._finish(draft, info)
        return Replaced(removed, first, had_checkpoint)

    def _replace_tail(self, draft: Draft, replace: Replace) -> tuple[int, int]:
        commit = draft.commit
        gone = self._reader().read_messages(commit, Window(after=replace.from_seq - 1))
        commit.dead += sum(len(line) + 1 for line in gone)
        commit.count -= len(gone)
        if replace.in_place:
            commit.repeats = True
            commit.dead += line_size(self._commit)
            line = with_seq(replace.bodies[0], replace.from_seq) + b"\n"
            offset = draft.add(line)
            if not commit.count:
                commit.first, commit.first_at = replace.from_seq, offset
            commit.count += 1
            commit.tail = draft.end
            return len(gone), replace.from_seq
        if gone:
            commit.gaps += ((replace.from_seq, commit.seq),)
        return len(gone), draft.add_messages(replace.bodies)

    def _drop_oldest(self, draft: Draft, excess: int) -> None:
        """Move the start of what is kept, in ``draft``, past messages over the limit."""
        places: list[tuple[int, int]] = []

        def results() -> Iterator[bool]:
            for offset, seq, line in self._live_with(draft):
                places.append((offset, seq))
                try:
                    yield is_tool_result(decode_message(line))
                except msgspec.DecodeError as exc:
                    self._reader().corrupt(offset, f"a message can't be decoded: {exc}")

        drop = messages_to_drop(results(), excess)
        if drop:
            offset, seq = places[drop]
            draft.commit.dead += offset - draft.commit.first_at
            draft.commit.count -= drop
            draft.commit.first, draft.commit.first_at = seq, offset

    def _live_with(self, draft: Draft) -> Iterator[tuple[int, int, bytes]]:
        """Iterate over live messages, those of the draft included."""
        if self._commit.count and draft.commit.first_at < self._end:
            yield from self._reader().live(self._commit)
        offset = draft.end - sum(map(len, draft.lines))
        for line in draft.lines:
            if line.startswith(MESSAGE):
                yield offset, seq_of(line), line
            offset += len(line)

    def _begin(self, now: float, info: SessionInfo | None = None) -> Draft:
        """Return an empty draft; for a new session, one with its header and record."""
        if self._exists(now):
            return Draft(self._commit, self._end)
        if self._end:
            self._start_over()
        draft = Draft(Commit(), 0)
        draft.add(header_line(self._session_id))
        draft.set_record(info or SessionInfo(session_id=self._session_id, created_at=now))
        draft.is_changed = False
        return draft

    def _start_over(self) -> None:
        """Put an empty file in place of an expired session's, of which nothing may come back."""
        new = self._path.with_suffix(".tmp")
        fd = self._disk.open(new, create=True)
        try:
            self._disk.try_lock(fd)
            self._disk.truncate(fd, 0)
            self._disk.replace(new, self._path)
            self._remove_leftovers()
        except BaseException:
            self._disk.close(fd)
            raise
        self._forget()
        self._use(fd)
        self._load(0)

    def _finish(self, draft: Draft, info: SessionInfo | None = None) -> None:
        """Write a draft, and take over what it says."""
        if not draft.is_changed:
            return
        self._write(flushed(draft.commit, b"".join(draft.lines)), draft.commit)
        if draft.record_size:
            self._record_size = draft.record_size
            self._info = info

    def _write(self, data: bytes, commit: Commit) -> None:
        """Write a flush that ends with ``commit``."""
        try:
            self._disk.write(self._fd, data, self._end)
        except BaseException:
            self._undo()
            raise
        self._end += len(data)
        self._commit = commit

    def _undo(self) -> None:
        """Remove what was written but not synced; nobody was told that it is stored."""
        try:
            self._disk.truncate(self._fd, self._synced_end)
        finally:
            self._forget()

    @override
    def sync(self) -> None:
        """Make durable what was written and what answers rest on; on failure the former goes."""
        is_unsure = self._is_unsure and self._end > 0
        if self._end == self._synced_end and not is_unsure:
            return
        if self._is_synced:
            try:
                self._disk.sync(self._fd)
                if is_unsure:
                    self._disk.sync_directory(self._path.parent)
            except BaseException:
                self._undo()
                raise
        self._synced_end = self._end
        self._is_unsure = False
        if self._commit.size > FLUSH_BYTES:
            self._follow_large_flush()

    def _follow_large_flush(self) -> None:
        """Write an empty flush, so that no reader has to check the large one before it.

        In the same write it could survive a power loss that tears the large one, which nobody
        would check then. Where it can't be written, readers have more to check, and that is all.
        """
        commit = msgspec.structs.replace(self._commit)
        with suppress(OSError):
            self._write(flushed(commit, b""), commit)
            self._synced_end = self._end

    def _compact_if_due(self) -> None:
        """Rewrite the file without what is dead in it, if that is most of it."""
        commit = self._commit
        is_mostly_dead = commit.dead > _DEAD_BYTES and 2 * commit.dead > self._end
        if self._end < self._compact_from or not (is_mostly_dead or len(commit.gaps) > _GAPS):
            return
        try:
            self._rewrite(self._record(), None)
        except (OSError, SessionStoreError) as exc:
            # What was written stands. To try at each write would read the file each time.
            self._compact_from = 2 * self._end
            logger.warning("could not compact %s: %s", self._path, exc)

    @override
    def delete(self, expired_at: float | None) -> bool:
        """Remove the file and what lies beside it; see `BaseSessionStore._delete`."""
        if expired_at is not None and self._exists(expired_at):
            return False
        if self._is_known and self._end and expired_at is None:
            with suppress(CorruptSessionError):
                check_unshared(self._session_id, self._record().metadata)
        existed = os.fstat(self._fd).st_size > 0
        # While the file has its name, and so its lock: later they may be somebody else's.
        self._remove_leftovers()
        self._disk.unlink(self._path)
        if self._is_synced:
            self._disk.sync_directory(self._path.parent)
        self._forget()
        return existed

    def _remove_leftovers(self) -> None:
        """Remove what is beside the file: a torn write set aside, an unfinished rewrite."""
        for suffix in (".torn", ".tmp"):
            with suppress(FileNotFoundError):
                self._disk.unlink(self._path.with_suffix(suffix))

    def _rewrite(self, info: SessionInfo, replace: Replace | None) -> None:
        """Put a new file in place of this one, with the messages of ``replace`` or the live ones.

        The new file is locked before it gets the name, so nobody writes to it before its name
        is durable, too.
        """
        draft = self._new_draft(info, replace)
        new = self._path.with_suffix(".tmp")
        fd = self._disk.open(new, create=True)
        try:
            self._disk.try_lock(fd)
            self._disk.truncate(fd, 0)
            end = 0
            for _ in self._fill(draft, replace):
                if draft.end - end > FLUSH_BYTES:
                    end = self._write_part(fd, draft, end)
            end = self._write_part(fd, draft, end)
            if self._is_synced:
                self._disk.sync(fd)
            self._disk.replace(new, self._path)
        except BaseException:
            self._disk.close(fd)
            with suppress(OSError):
                self._disk.unlink(new)
            raise
        self._forget()
        self._use(fd)
        self._commit, self._end, self._synced_end = draft.commit, end, end
        self._info, self._record_size = info, draft.record_size
        self._is_known = self._is_unsure = True
        if self._is_synced:
            self._disk.sync_directory(self._path.parent)
        self._is_unsure = False

    def _new_draft(self, info: SessionInfo, replace: Replace | None) -> Draft:
        old = self._commit
        draft = Draft(Commit(updated_at=old.updated_at, expires_at=old.expires_at), 0)
        if replace is not None:
            if not self._exists(replace.now):
                draft.commit.expires_at = None
            draft.touch(replace)
        draft.add(header_line(self._session_id))
        draft.set_record(info)
        return draft

    def _fill(self, draft: Draft, replace: Replace | None) -> Iterator[None]:
        """Add what stays of the file, yielding after each line."""
        commit = draft.commit
        last_seq = self._commit.seq
        now = commit.updated_at
        if replace is not None and not self._exists(replace.now):
            last_seq = 0
        else:
            oldest = self._commit.first if replace is None else last_seq + 1
            entries = []
            for record in self._keys.all(self._reader(), self._commit.index, self._end).values():
                if record.is_needed(oldest, now):
                    offset = draft.add(encode_json(record) + b"\n")
                    entries.append(entry_of(record.key, offset))
                    yield
            if draft.end > INDEX_BYTES:
                lines, _ = index_lines(self._reader(), 0, entries, draft.end)
                commit.index = [draft.add(line) for line in lines][-1]
                yield
        if replace is not None:
            commit.seq = last_seq
            for body in replace.bodies:
                draft.add_messages((body,))
                yield
            return
        for _, seq, line in self._reader().live(self._commit):
            offset = draft.add(line)
            # Each part commits what it holds, so that a search by seq finds its way.
            commit.seq = seq
            if not commit.count:
                commit.first, commit.first_at = seq, offset
            commit.count += 1
            commit.tail = draft.end
            yield
        commit.seq = last_seq
        if not commit.count:
            commit.first = last_seq + 1

    def _write_part(self, fd: int, draft: Draft, end: int) -> int:
        """Write a draft's lines and their commit to a new file; return the file's new end."""
        data = sealed(draft.commit, b"".join(draft.lines))
        self._disk.write(fd, data, end)
        draft.lines.clear()
        draft.end = end + len(data)
        return draft.end
