"""The format of a JSON Lines session file, and how to read one.

A file is a sequence of *flushes*, each a run of lines that ends with a commit line::

    {"asyncsessions":1,"session_id":"chat-1"}
    {"record":{"session_id":"chat-1","created_at":1767225600.0}}
    {"seq":1,"role":"user","content":"Hello","timestamp":1767225600.0}
    {"commit":{"seq":1,"count":1,...},"crc":"9c1f03aa"}
    {"seq":2,"role":"assistant","content":"Hi","timestamp":1767225601.5}
    {"commit":{"seq":2,"count":2,...},"crc":"44d0c1be"}

* ``header``, once, first: the format's version and the session's id.
* ``record``: a whole `SessionInfo`; the newest one counts. The commit line has its counters.
* ``seq``: a message. It is live if no later line has its ``seq``, and the newest commit line
  neither lists it as a gap nor starts after it.
* ``key``: a `KeyRecord`, or an index of those before it; see `_logkeys`.
* ``commit``: ends a flush and says all that a reader or writer must know first, so both start
  at the end of the file, whatever its length. ``crc`` is the CRC-32 of the flush up to there.

Lines after the last commit line were never acknowledged: a crash left them. Readers ignore them,
the next writer removes them (and keeps the bytes in a file ending in ``.torn``).
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import msgspec

from asyncsessions.codec import seq_of
from asyncsessions.errors import CorruptSessionError
from asyncsessions.hooks import Window
from asyncsessions.models import SessionInfo
from asyncsessions.pacing import Breather
from asyncsessions.stores._disk import Disk

__all__ = [
    "COMMIT",
    "FLUSH_BYTES",
    "HEADER",
    "INDEX",
    "KEY",
    "MESSAGE",
    "RECORD",
    "UNDECODABLE",
    "Commit",
    "LogReader",
    "flushed",
    "sealed",
    "with_counters",
]

HEADER = b'{"asyncsessions":1,'
RECORD = b'{"record":'
MESSAGE = b'{"seq":'
KEY = b'{"key":'
INDEX = b'{"key":"",'
COMMIT = b'{"commit":'
UNDECODABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What a decoder raises for what it can't take, however deep that is nested."""

_KNOWN = (MESSAGE, COMMIT, RECORD, KEY, HEADER)

FLUSH_BYTES = 1 << 18
"""A reader checks the last flush; a larger one, when it is durable, gets an empty one behind it."""

_SMALL_BLOCK = 1 << 13
_BLOCK = 1 << 16
_LARGE_BLOCK = 1 << 18


class Commit(msgspec.Struct, omit_defaults=True, gc=False):
    """The commit line of a flush.

    Attributes:
        seq: The newest ``seq`` ever given.
        count: How many messages are live.
        first: The ``seq`` of the oldest message that retention keeps.
        first_at: Where to start reading forward: no live message is before this offset.
        tail: The offset just past the newest message line.
        record: The offset of the newest record line.
        updated_at: Seconds since the epoch of the flush.
        expires_at: When the session expires.
        dead: How many bytes of the file no reader needs.
        gaps: Removed messages as ``[first seq, last seq]``, until the file is rewritten.
        repeats: Whether some message line was superseded by one with the same ``seq``.
        size: How many bytes the flush has before this line.
        index: The offset of the newest index of idempotency keys; 0 where there is none.
    """

    seq: int = 0
    count: int = 0
    first: int = 1
    first_at: int = 0
    tail: int = 0
    record: int = 0
    updated_at: float = 0.0
    expires_at: float | None = None
    dead: int = 0
    gaps: tuple[tuple[int, int], ...] = ()
    repeats: bool = False
    size: int = 0
    index: int = 0

    def is_gap(self, seq: int) -> bool:
        """Whether a message was removed."""
        return any(first <= seq <= last for first, last in self.gaps)

    def first_kept(self, seq: int) -> int:
        """Return the first ``seq``, from one on, that wasn't removed."""
        for first, last in sorted(self.gaps):
            if first <= seq <= last:
                seq = last + 1
        return seq


class _CommitLine(msgspec.Struct):
    commit: Commit
    crc: str


_encode = msgspec.json.Encoder().encode
_decode_commit = msgspec.json.Decoder(_CommitLine).decode
_decode_record = msgspec.json.Decoder(dict[str, SessionInfo]).decode


def flushed(commit: Commit, body: bytes) -> bytes:
    """Return a whole flush: ``body``, all its other lines, and the line that commits them."""
    commit.size = len(body)
    line = b'{"commit":%b' % _encode(commit)
    return b'%b%b,"crc":"%08x"}\n' % (body, line, zlib.crc32(line, zlib.crc32(body)))


def line_size(commit: Commit) -> int:
    """Return how many bytes the line of a commit has."""
    return len(b'{"commit":%b,"crc":"01234567"}\n' % _encode(commit))


def sealed(commit: Commit, body: bytes) -> bytes:
    """Return a flush of a file that nobody reads before it is durable as a whole."""
    flush = flushed(commit, body)
    return flush if len(body) <= FLUSH_BYTES else flush + flushed(commit, b"")


def with_counters(info: SessionInfo, commit: Commit) -> SessionInfo:
    """Return a record with the counters of a commit."""
    return msgspec.structs.replace(
        info,
        last_seq=commit.seq,
        message_count=commit.count,
        updated_at=commit.updated_at,
        expires_at=commit.expires_at,
    )


def _is_json(line: bytes) -> bool:
    try:
        msgspec.json.decode(line)
    except UNDECODABLE:
        return False
    return True


class LogReader:
    """Reads one open session file; the file may grow meanwhile.

    Args:
        disk: How to read.
        fd: The open file.
        path: Its path, for errors.
        session_id: The session, for errors.
    """

    def __init__(self, disk: Disk, fd: int, path: Path, session_id: str) -> None:
        self._disk = disk
        self._fd = fd
        self._path = path
        self._session_id = session_id

    def read_commit(self, size: int) -> tuple[Commit, int] | None:
        """Return the newest commit and the offset past its line.

        Args:
            size: The file's size, or another offset to look back from.

        Returns:
            None where nothing was ever committed (a crash while the file was made).

        Raises:
            CorruptSessionError: Committed data is damaged.
        """
        for offset, line in self._lines_back(size):
            if line.startswith(COMMIT) and line.endswith(b"}\n") and b"\0" not in line:
                commit = self._verified(offset, line)
                if commit is not None:
                    return commit, offset + len(line)
            elif not self._is_torn(line):
                self.corrupt(offset, "a line isn't of this format")
        start = self.read(0, len(HEADER))
        if not (HEADER.startswith(start) or b"\0" in start):
            self.corrupt(0, "the file isn't of this format")
        return None

    @staticmethod
    def _is_torn(line: bytes) -> bool:
        """Whether an uncommitted line may be what a crash left of a flush.

        A crash leaves the start of what was written, or pages of zeros in its place; no line of
        ours holds a zero byte. Anything else was damaged after it was written.
        """
        if b"\0" in line or not line.endswith(b"\n"):
            return True
        return line.startswith(_KNOWN) and _is_json(line)

    def _verified(self, offset: int, line: bytes) -> Commit | None:
        """Return the commit of a line; None if a crash tore its flush."""
        parsed = self._parse_commit(offset, line)
        start = offset - parsed.commit.size
        body = self.read(start, parsed.commit.size) if start >= 0 else b""
        cut = line.rfind(b',"crc"')
        if b"%08x" % zlib.crc32(line[:cut], zlib.crc32(body)) == parsed.crc.encode():
            return parsed.commit
        if b"\0" not in body:
            self.corrupt(self._damaged_line(offset), "it was changed after it was written")
        return None

    def _parse_commit(self, offset: int, line: bytes) -> _CommitLine:
        try:
            return _decode_commit(line)
        except UNDECODABLE as exc:
            self.corrupt(offset, f"a commit line can't be decoded: {exc}")

    def _damaged_line(self, end: int) -> int:
        """Return the offset of the first line in a damaged flush that isn't JSON, if any."""
        first = damaged = end
        for offset, line in self._lines_back(end):
            if line.startswith(COMMIT):
                break
            first = offset
            if not _is_json(line):
                damaged = offset
        return first if damaged == end else damaged

    def read_record(self, commit: Commit) -> SessionInfo:
        """Return the session's record, with the counters of a commit."""
        line = self.line_at(commit.record)
        try:
            info = _decode_record(line)["record"]
        except (*UNDECODABLE, KeyError) as exc:
            self.corrupt(commit.record, f"the record can't be decoded: {exc}")
        return with_counters(info, commit)

    def read_messages(self, commit: Commit, window: Window) -> list[bytes]:
        """Return the live message lines of a window, oldest first, without line ends."""
        if window.limit is None or window.oldest:
            return self._read_forward(commit, window)
        lines = self._read_dense(commit, window, window.limit)
        return self._read_backward(commit, window) if lines is None else lines

    def _read_dense(self, commit: Commit, window: Window, limit: int) -> list[bytes] | None:
        """Return the newest messages if they follow one another up to the last ``seq``.

        So they do as a rule, and then a block's lines need only one look for all of them, which
        takes half of the time. None where that can't be said, for whatever reason.
        """
        count = min(limit, commit.count, commit.seq - window.after)
        if count <= 0 or commit.gaps or commit.repeats:
            return None
        if window.before is not None or window.max_bytes is not None:
            return None
        written = commit.tail - commit.first_at
        # Twice what messages take on average.
        size = min(written, written // commit.count * count * 2)
        if size > _LARGE_BLOCK:
            return None
        *lines, end = self.read(commit.tail - size, size).split(b"\n")
        if size < written:
            del lines[:1]  # It may be cut off.
        whole = [line for line in lines if line.startswith(_KNOWN) and line.endswith(b"}")]
        messages = [line for line in whole if line.startswith(MESSAGE)][-count:]
        if end or len(whole) < len(lines) or len(messages) < count:
            return None
        for seq, line in enumerate(messages, commit.seq - count + 1):
            if not line.startswith(b'{"seq":%d,' % seq):
                return None
        return messages

    def _read_backward(self, commit: Commit, window: Window) -> list[bytes]:
        end = commit.tail
        if window.before is not None:
            # In front of removed messages, the newest one may have been written anew behind them.
            stays = commit.first_kept(window.before)
            if stays <= commit.seq:
                _, end = self._find(commit, stays)
        lines: list[bytes] = []
        size = 0
        newer = commit.seq + 1 if window.before is None else window.before
        lowest = max(commit.first, window.after + 1)
        for offset, line in self._lines_back(end, messages_only=True):
            seq = self._seq(offset, line)
            if seq < lowest:
                break
            # A line at or above the last one seen was superseded by it.
            if seq >= newer or (commit.gaps and commit.is_gap(seq)):
                continue
            newer = seq
            lines.append(line[:-1])
            size += len(line) - 1
            if len(lines) == window.limit or (window.max_bytes and size >= window.max_bytes):
                break
        lines.reverse()
        return lines

    def _read_forward(self, commit: Commit, window: Window) -> list[bytes]:
        highest = commit.seq if window.before is None else min(window.before - 1, commit.seq)
        lines: list[bytes] = []
        size = 0
        for _, seq, line in self.live(commit, window.after + 1):
            if seq > highest:
                break
            if len(lines) == window.limit or (window.max_bytes and size >= window.max_bytes):
                break
            size += len(line) - 1
            lines.append(line[:-1])
        return lines

    def live(self, commit: Commit, lowest: int = 1) -> Iterator[tuple[int, int, bytes]]:
        """Iterate over live messages, oldest first: offset, ``seq`` and line.

        Args:
            commit: The newest commit.
            lowest: The ``seq`` to start at.
        """
        lowest = max(lowest, commit.first)
        start = self._find(commit, lowest)[0] if lowest > commit.first else commit.first_at
        held: tuple[int, int, bytes] | None = None
        for offset, line in self.lines(start, commit.tail):
            if not line.startswith(MESSAGE):
                continue
            seq = self._seq(offset, line)
            if seq < lowest or (commit.gaps and commit.is_gap(seq)):
                continue
            if not commit.repeats:
                yield offset, seq, line
                continue
            # A message is known to be live when the next one comes.
            if held is not None and held[1] != seq:
                yield held
            held = (offset, seq, line)
        if held is not None:
            yield held

    def _find(self, commit: Commit, seq: int) -> tuple[int, int]:
        """Return offsets of lines with the first message line of ``seq`` or above between them.

        It is a binary search down to one block: the ``seq`` of message and commit lines never go
        down along the file.
        """
        low, high = commit.first_at, commit.tail
        upper = high
        while high - low > _BLOCK:
            middle = (low + high) // 2
            found = self._first_seq(middle, high)
            if found is None:
                high = middle
            elif found[1] < seq:
                low = found[0]
            else:
                high = middle
                upper = found[0]
        return low, upper

    def _first_seq(self, start: int, end: int) -> tuple[int, int] | None:
        """Return offset and ``seq`` of the first message or commit line that starts in a range."""
        for offset, line in self.lines(start, end, is_line_start=False):
            if line.startswith(MESSAGE):
                return offset, self._seq(offset, line)
            if line.startswith(COMMIT):
                return offset, self._parse_commit(offset, line).commit.seq
        return None

    def _seq(self, offset: int, line: bytes) -> int:
        try:
            return seq_of(line)
        except ValueError:
            self.corrupt(offset, "a message has no seq")

    def lines(
        self, start: int, end: int, *, is_line_start: bool = True
    ) -> Iterator[tuple[int, bytes]]:
        """Iterate over the lines in a range, with their offsets, in bounded memory.

        Args:
            start: Where to start reading.
            end: An offset past a line.
            is_line_start: Whether a line starts at ``start``; if not, the one there is left out.

        Raises:
            CorruptSessionError: A line isn't of this format.
        """
        rest = b""
        offset = position = start
        skip = not is_line_start
        block_size = _BLOCK
        breather = Breather()
        while position < end:
            block = self.read(position, min(block_size, end - position))
            if not block:
                break
            position += len(block)
            block_size = _LARGE_BLOCK
            *whole, rest = (rest + block).split(b"\n")
            breather.breathe()
            for line in whole:
                if not skip:
                    self._check(offset, line + b"\n")
                    yield offset, line + b"\n"
                skip = False
                offset += len(line) + 1

    def _check(self, offset: int, line: bytes) -> None:
        if not line.startswith(_KNOWN) or not line.endswith(b"}\n"):
            self.corrupt(offset, "a line isn't of this format")

    def _lines_back(self, end: int, *, messages_only: bool = False) -> Iterator[tuple[int, bytes]]:
        """Iterate over the lines before an offset, newest first, with their offsets.

        Args:
            end: Where to start; the piece before it counts as a line even if it is cut off.
            messages_only: Only message lines; what lies between them is skipped unread where a
                commit line says so.

        Raises:
            CorruptSessionError: With ``messages_only``, a line isn't of this format.
        """
        buffer = b""
        position = end  # Where the buffer starts in the file.
        stop = 0  # Up to where the buffer is still to be looked at.
        block_size = _SMALL_BLOCK
        breather = Breather()
        while True:
            cut = buffer.rfind(b"\n", 0, max(stop - 1, 0))
            if cut < 0 and position > 0:
                breather.breathe()
                # Ever larger blocks, or else a very long line would be copied again and again.
                size = min(position, max(block_size, stop))
                block_size = _BLOCK
                position -= size
                buffer = self.read(position, size) + buffer[:stop]
                stop += size
                continue
            if stop == 0:
                return
            line = buffer[cut + 1 : stop]
            stop = cut + 1
            offset = position + stop
            if not messages_only:
                yield offset, line
                continue
            self._check(offset, line)
            if line.startswith(MESSAGE):
                yield offset, line
            elif line.startswith(COMMIT):
                tail = self._parse_commit(offset, line).commit.tail
                stop = min(stop, max(0, tail - position))
                position = min(position, tail)

    def line_at(self, offset: int) -> bytes:
        """Return the line at an offset."""
        data = self.read(offset, 4096)
        while b"\n" not in data:
            more = self.read(offset + len(data), max(4096, len(data)))
            if not more:
                break
            data += more
        return data[: data.find(b"\n") + 1]

    def read(self, offset: int, size: int) -> bytes:
        """Return the bytes of a range."""
        return self._disk.read(self._fd, size, offset)

    def line_number(self, offset: int) -> int:
        """Return which line, counted from 1, starts at an offset."""
        number = 1
        for start in range(0, offset, _LARGE_BLOCK):
            number += self.read(start, min(_LARGE_BLOCK, offset - start)).count(b"\n")
        return number

    def corrupt(self, offset: int, detail: str) -> NoReturn:
        """Raise `CorruptSessionError` for the line at an offset."""
        line = self.line_number(offset)
        raise CorruptSessionError(
            detail, session_id=self._session_id, path=str(self._path), line=line
        )
