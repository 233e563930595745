"""What can still be read of a damaged JSON Lines file, and a new file made of it."""

from __future__ import annotations

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
_UNDECODABLE = (msgspec.DecodeError, UnicodeDecodeError, ValueError, KeyError)


class _Line(msgspec.Struct, frozen=True):
    number: int
    offset: int
    data: bytes


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
        for line in lines:
            try:
                self._take_line(line, len(lines), commit, is_verified=is_verified)
            except _UNDECODABLE:
                self.faults.append((line.number, "it can't be decoded"))
        has_bad_line = len(self.faults) > faults
        if not (is_verified or has_bad_line) and lines:
            self.faults.append((lines[0].number, "it was changed after it was written"))
        # Where a line before it is the damaged one, the commit line is most likely whole.
        if commit is not None and (is_verified or has_bad_line):
            self.commit = commit
            self.last_seq = max(self.last_seq, commit.seq)

    def _take_line(
        self, line: _Line, in_flush: int, commit: Commit | None, *, is_verified: bool
    ) -> None:
        data = line.data
        if data.startswith(MESSAGE):
            self._take_message(line, in_flush, commit, is_verified=is_verified)
        elif data.startswith(KEY):
            msgspec.json.decode(data)
            self.keys.append((line.offset, len(data)))
        elif data.startswith(RECORD):
            self.info = _decode_record(data)["record"]
        elif data.startswith(HEADER):
            self.session_id = _decode_header(data).session_id
            self.is_known = True
        else:
            raise ValueError(data)

    def _take_message(
        self, line: _Line, in_flush: int, commit: Commit | None, *, is_verified: bool
    ) -> None:
        seq = decode_message(line.data).seq
        if not is_verified:
            highest = self.last_seq + in_flush if commit is None else commit.seq
            is_repeat = commit is not None and commit.repeats and seq in self.places
            if not (self.last_seq < seq <= highest or is_repeat):
                # Its number is what was damaged, so it gets the next one.
                seq = self.last_seq + 1
            self._unsure.add(seq)
        else:
            self._unsure.discard(seq)
        self.places[seq] = (line.offset, len(line.data))
        self.last_seq = max(self.last_seq, seq)

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
