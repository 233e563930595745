"""What can still be read of a damaged JSON Lines file, and a new file made of it."""

from __future__ import annotations

import sys
import zlib
from collections.abc import Iterator, Sequence

import msgspec

from asyncsessions.codec import decode_message
from asyncsessions.ids import file_stem
from asyncsessions.models import SessionInfo
from asyncsessions.stores._disk import Disk
from asyncsessions.stores._draft import header_line, record_line
from asyncsessions.stores._log import (
    COMMIT,
    FLUSH_BYTES,
    HEADER,
    INDEX,
    KEY,
    MESSAGE,
    RECORD,
    Commit,
    LogReader,
    sealed,
)

__all__ = ["Salvage", "salvage", "write_salvaged"]

_BLOCK = 1 << 18


class _CommitLine(msgspec.Struct):
    commit: Commit
    crc: str


class _HeaderLine(msgspec.Struct):
    session_id: str


_decode_commit = msgspec.json.Decoder(_CommitLine).decode
_decode_header = msgspec.json.Decoder(_HeaderLine).decode
_decode_record = msgspec.json.Decoder(dict[str, SessionInfo]).decode
_UNDECODABLE = (msgspec.DecodeError, UnicodeDecodeError, ValueError, KeyError, RecursionError)


class _Line(msgspec.Struct, frozen=True):
    number: int
    offset: int
    data: bytes


class _Flush(msgspec.Struct):
    """What is known of a flush whose lines are taken over.

    Attributes:
        commit: What its commit line says; None where that can't be decoded, or can't be true.
        is_verified: Whether the checksum holds.
        size: How many lines it has.
        coming: How many messages still come.
    """

    commit: Commit | None
    is_verified: bool
    size: int
    coming: int


class Salvage:
    """What one pass over a file found.

    Attributes:
        end: Where the pass stopped.
        faults: Line and description of each damage; empty for a whole file.
        session_id: The session; None where no line tells.
        info: Its newest record; one made up where none can be decoded.
        commit: The newest trustworthy commit.
        last_seq: The highest ``seq`` that was given, as far as can be told.
        places: Offset and size of each live message by its ``seq``, in that order.
        keys: Offset and size of each idempotency key's line.
        unverified: How many of the messages stand in a damaged flush: they can be decoded, but
            nothing proves that they are as they were written.
    """

    def __init__(self, end: int) -> None:
        self.end = end
        self.faults: list[tuple[int, str]] = []
        self.session_id: str | None = None
        self.info: SessionInfo | None = None
        self.commit = Commit()
        self.last_seq = 0
        self.places: dict[int, tuple[int, int]] = {}
        self.keys: list[tuple[int, int]] = []
        self.unverified = 0
        self.is_known = False  # Whether the header could be read.
        self._unsure: set[int] = set()

    @property
    def is_foreign(self) -> bool:
        """Whether not a single line is one of this format."""
        return not (self.is_known or self.info or self.places or self.keys or self.last_seq)

    def take(self, lines: Sequence[_Line], commit: Commit | None, *, is_verified: bool) -> None:
        """Take over the lines of one flush.

        Args:
            lines: All lines before its commit line.
            commit: What its commit line says; None where that can't be decoded.
            is_verified: Whether the checksum holds.
        """
        faults = len(self.faults)
        count = sum(line.data.startswith(MESSAGE) for line in lines)
        told = commit if self._is_possible(commit) else None
        flush = _Flush(told, is_verified, size=len(lines), coming=count)
        for line in lines:
            try:
                self._take_line(line, flush)
            except _UNDECODABLE:
                self.faults.append((line.number, "it can't be decoded"))
        has_bad_line = len(self.faults) > faults
        if not (is_verified or has_bad_line) and lines:
            self.faults.append((lines[0].number, "it was changed after it was written"))
        # Where a line before it is the damaged one, the commit line is most likely whole.
        if commit is not None and (is_verified or has_bad_line):
            self.commit = commit
            self.last_seq = max(self.last_seq, commit.seq)

    def _is_possible(self, commit: Commit | None) -> bool:
        """Whether the numbers of a commit can be true, those before it being so."""
        if commit is None or commit.first < self.commit.first:
            return False
        return commit.seq >= max(self.commit.seq, commit.first + commit.count - 1)

    def _take_line(self, line: _Line, flush: _Flush) -> None:
        data = line.data
        if data.startswith(MESSAGE):
            self._take_message(line, flush)
        elif data.startswith(KEY):
            msgspec.json.decode(data)
            # An index isn't true of another file.
            if not data.startswith(INDEX):
                self.keys.append((line.offset, len(data)))
        elif data.startswith(RECORD):
            self.info = _decode_record(data)["record"]
        elif data.startswith(HEADER):
            self.session_id = _decode_header(data).session_id
            self.is_known = True
        else:
            raise ValueError(data)

    def _take_message(self, line: _Line, flush: _Flush) -> None:
        flush.coming -= 1
        seq = decode_message(line.data).seq
        if flush.is_verified:
            self._unsure.discard(seq)
        else:
            seq = self._likely(seq, flush)
            self._unsure.add(seq)
        self.places[seq] = (line.offset, len(line.data))
        self.last_seq = max(self.last_seq, seq)

    def _likely(self, seq: int, flush: _Flush) -> int:
        """Return the number of a message of a damaged flush, which may be what was damaged."""
        free = self._free(flush)
        if seq in free:
            return seq
        gone = flush.commit or self.commit
        newest = next((each for each in reversed(self.places) if not gone.is_gap(each)), None)
        if newest is not None and self._is_repeat(flush, is_full=not free, says_so=seq == newest):
            return newest
        return free.start

    def _free(self, flush: _Flush) -> range:
        """Return the numbers that the next message of a flush can have if it is new."""
        commit, following = flush.commit, self.last_seq + 1
        # A file that was rewritten starts with any number.
        if commit is None:
            return range(following, following + flush.size if self.last_seq else sys.maxsize)
        # Those that still come have the numbers up to the newest.
        highest = commit.seq - flush.coming
        lowest = following if self.last_seq else max(following, min(commit.first, highest))
        return range(lowest, highest + 1)

    def _is_repeat(self, flush: _Flush, *, is_full: bool, says_so: bool) -> bool:
        """Whether a message of a damaged flush is most likely the newest one, written anew.

        Of what tells, one thing may be what was damaged.

        Args:
            flush: The flush.
            is_full: Whether it has no number for a new message there.
            says_so: Whether the message has the newest one's number.
        """
        commit = flush.commit
        if commit is None:
            return says_so
        is_as_many = (commit.first, commit.count) == (self.commit.first, self.commit.count)
        signs = (says_so, is_full, is_as_many)
        # With others behind it, it may be one of several that are new.
        return commit.repeats and sum(signs) > 1 and (says_so or not flush.coming)

    def finish(self, stem: str) -> None:
        """Leave out what was removed, and settle on the session's id."""
        commit = self.commit
        self.places = {
            seq: self.places[seq]
            for seq in sorted(self.places)
            if seq >= commit.first and not commit.is_gap(seq)
        }
        self.unverified = sum(seq in self.places for seq in self._unsure)
        ids = [self.session_id, None if self.info is None else self.info.session_id]
        told = [sid for sid in ids if sid]
        named = [sid for sid in told if file_stem(sid) == stem]
        # Without a line that tells, a plain name does.
        plain = [stem] if stem and file_stem(stem) == stem else []
        self.session_id = next(iter(named + told + plain), None)


def salvage(reader: LogReader, end: int, stem: str) -> Salvage:
    """Read all that can be decoded of a file.

    Args:
        reader: Reads the file.
        end: Where to stop.
        stem: The file's name without its ending, which may tell the session's id.
    """
    found = Salvage(end)
    flush: list[_Line] = []
    for line in _lines(reader, end):
        if not line.data.startswith(COMMIT):
            flush.append(line)
            continue
        commit = _commit(line.data)
        is_verified = commit is not None and _is_whole(flush, line.data, commit)
        if commit is None:
            found.faults.append((line.number, "a commit line can't be decoded"))
        elif not is_verified and not flush:
            found.faults.append((line.number, "a commit line was changed after it was written"))
        found.take(flush, commit, is_verified=is_verified)
        flush = []
    if flush:
        found.take(flush, None, is_verified=False)
    found.finish(stem)
    return found


def _lines(reader: LogReader, end: int) -> Iterator[_Line]:
    """Iterate over a file's lines, whatever is in them."""
    number, offset, position = 1, 0, 0
    pieces: list[bytes] = []
    while position < end:
        block = reader.read(position, min(_BLOCK, end - position))
        if not block:
            break
        position += len(block)
        *ends, rest = block.split(b"\n")
        for piece in ends:
            pieces.append(piece)
            data = b"".join(pieces) + b"\n"
            yield _Line(number, offset, data)
            number += 1
            offset += len(data)
            pieces.clear()
        pieces.append(rest)
    data = b"".join(pieces)
    if data:
        yield _Line(number, offset, data)


def _commit(line: bytes) -> Commit | None:
    try:
        parsed = _decode_commit(line)
        int(parsed.crc, 16)
    except _UNDECODABLE:
        return None
    return parsed.commit


def _is_whole(flush: Sequence[_Line], line: bytes, commit: Commit) -> bool:
    """Whether a flush is as it was written."""
    body = b"".join(part.data for part in flush)
    cut = line.rindex(b',"crc"')
    crc = zlib.crc32(line[:cut], zlib.crc32(body))
    return len(body) == commit.size and crc == int(_decode_commit(line).crc, 16)


def write_salvaged(found: Salvage, reader: LogReader, disk: Disk, fd: int) -> None:
    """Write a new file, at the start of ``fd``, with what was found in another.

    Args:
        found: What to write; its session's id is known.
        reader: Reads the file that it was found in.
        disk: How to write.
        fd: The new, empty file.
    """
    assert found.session_id is not None  # noqa: S101  # the caller has checked
    header = header_line(found.session_id)
    old = found.commit
    lines = [header, record_line(_record(found, reader))]
    commit = Commit(
        record=len(header), updated_at=_updated_at(found, reader), expires_at=old.expires_at
    )
    lines += [reader.read(offset, size) for offset, size in found.keys]
    end, size = 0, sum(map(len, lines))
    for seq, place in found.places.items():
        line = _with_seq(reader.read(*place), seq)
        if not commit.count:
            commit.first, commit.first_at = seq, end + size
        lines.append(line)
        size += len(line)
        commit.seq = seq
        commit.count += 1
        commit.tail = end + size
        if size > FLUSH_BYTES:
            end = _write_part(disk, fd, lines, commit, end)
            lines, size = [], 0
    commit.seq = max(found.last_seq, commit.seq)
    if not commit.count:
        commit.first = commit.seq + 1
    _write_part(disk, fd, lines, commit, end)


def _write_part(disk: Disk, fd: int, lines: Sequence[bytes], commit: Commit, end: int) -> int:
    data = sealed(commit, b"".join(lines))
    disk.write(fd, data, end)
    return end + len(data)


def _with_seq(line: bytes, seq: int) -> bytes:
    """Return a message line, with its end, under another ``seq``."""
    return b"%b%d%b\n" % (MESSAGE, seq, line[line.index(b",") :].rstrip())


def _record(found: Salvage, reader: LogReader) -> SessionInfo:
    if found.info is not None:
        return msgspec.structs.replace(found.info, session_id=found.session_id)
    times = (decode_message(reader.read(*place)).timestamp for place in found.places.values())
    # Not 0, which stands for a session that doesn't exist.
    created_at = next(times, 0.0) or found.commit.updated_at or 1.0
    return SessionInfo(session_id=found.session_id or "", created_at=created_at)


def _updated_at(found: Salvage, reader: LogReader) -> float:
    if found.commit.updated_at:
        return found.commit.updated_at
    times = [decode_message(reader.read(*place)).timestamp for place in found.places.values()]
    return max(times, default=1.0)
