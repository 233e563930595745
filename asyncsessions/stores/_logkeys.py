"""Indexes in a JSON Lines session file, by which a writer finds one idempotency key among many.

An index line and those before it stand for all key lines in front of it::

    {"key":"","first_seq":0,"count":170,...,"older":[[4711,160]],"entries":"2b90d2ee08aa18..."}

Each entry is the hash of a key and the offset of its line, in hexadecimal. They are sorted, so one
read at about the right place finds a key or shows that it isn't there. ``older`` says where entries
of earlier lines begin and how many they are. Whoever knows of no indexes takes the line for the
record of an empty key, which no caller can give.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Sequence

import msgspec

from asyncsessions.codec import encode_json
from asyncsessions.hooks import KeyRecord
from asyncsessions.stores._log import INDEX, KEY, UNDECODABLE, LogReader

__all__ = ["INDEX_BYTES", "KnownKeys", "entry_of", "index_lines"]

INDEX_BYTES = 1 << 15
"""How many bytes may follow the newest index before what is among them gets another one."""

_HASH = 16
_WIDTH = _HASH + 12
_START = b'"entries":"'
_END = b'"}\n'
# A run has the entries of one line. So many of the smallest ones are put into one, and so many of
# those; what has more entries than these stays, so no append has more than that to write.
_RUNS = 8
_TIERS = (256, 2048)
_LARGEST = 8000
# So many keys are looked up in the index before all are read, which then costs less.
_LOOKUPS = 256

_Run = tuple[int, int]  # Where its entries begin, and how many they are.


class _Head(KeyRecord, frozen=True):
    """An index line without its entries, of which there are ``count``."""

    older: tuple[_Run, ...] = ()
    entries: str = ""


_decode = msgspec.json.Decoder(KeyRecord).decode
_decode_head = msgspec.json.Decoder(_Head).decode


class KnownKeys:
    """The idempotency keys of a file that only grows, as far as they were read.

    Attributes:
        end: Up to where the file was read.
        entries: Those of the keys before that which are in no index.
    """

    def __init__(self) -> None:
        self.end = 0
        self.entries: list[bytes] = []
        self._start = 0
        self._index = 0
        self._lookups = 0
        self._keys: dict[str, KeyRecord] = {}

    def find(self, reader: LogReader, index: int, end: int, key: str) -> KeyRecord | None:
        """Return what is known of a key; what an index stands for isn't read.

        Args:
            reader: Reads the file.
            index: The offset of the newest index line; 0 where there is none, or where somebody
                who knows of no indexes wrote last, so that no earlier one counts.
            end: Where the file ends.
            key: The key.

        Raises:
            CorruptSessionError: What was read is damaged.
        """
        if not self.end:
            self._start = self._index = self.end = index
        if index < self._index:
            self.entries.clear()
            self._start = self._index = self.end = 0
        self._read(reader, index, end)
        known = self._keys.get(key)
        if known is None and self._start:
            self._lookups += 1
            if self._lookups > _LOOKUPS:
                return self.all(reader, index, end).get(key)
            for offset in _places(reader, index, key):
                record = _record_at(reader, offset, reader.line_at(offset))
                if record.key == key:
                    return record
        return known

    def all(self, reader: LogReader, index: int, end: int) -> dict[str, KeyRecord]:
        """Return all keys of a file that ends there.

        Raises:
            CorruptSessionError: What was read is damaged.
        """
        if self._start:
            self.entries.clear()
            self._start = self.end = 0
        self._read(reader, index, end)
        return self._keys

    def _read(self, reader: LogReader, index: int, end: int) -> None:
        for offset, line in reader.lines(self.end, end):
            if line.startswith(INDEX):
                if offset <= index:
                    self.entries.clear()
                    self._index = offset
            elif line.startswith(KEY):
                record = _record_at(reader, offset, line)
                self._keys[record.key] = record
                self.entries.append(entry_of(record.key, offset))
        self.end = end


def _record_at(reader: LogReader, offset: int, line: bytes) -> KeyRecord:
    try:
        return _decode(line)
    except UNDECODABLE as exc:
        reader.corrupt(offset, f"an idempotency key can't be decoded: {exc}")


def entry_of(key: str, offset: int) -> bytes:
    """Return the entry of a key whose line is at an offset."""
    return b"%b%012x" % (_hash(key), offset)


def _hash(key: str) -> bytes:
    return hashlib.blake2b(key.encode(), digest_size=_HASH // 2).hexdigest().encode()


def _runs(reader: LogReader, index: int) -> list[_Run]:
    """Return the runs that an index line knows of, its own last."""
    if not index:
        return []
    head = reader.read(index, 4096)
    while _START not in head:
        more = reader.read(index + len(head), len(head))
        if not more:
            reader.corrupt(index, "it isn't an index of keys")
        head += more
    end = head.index(_START) + len(_START)
    try:
        found = _decode_head(head[:end] + _END)
    except UNDECODABLE as exc:
        reader.corrupt(index, f"an index of keys can't be decoded: {exc}")
    return [*found.older, (index + end, found.count)]


def _places(reader: LogReader, index: int, key: str) -> Iterator[int]:
    """Iterate over the offsets of lines that are most likely a key's.

    Args:
        reader: Reads the file.
        index: The offset of the newest index line; 0 where there is none.
        key: The key.
    """
    wanted = _hash(key)
    for start, count in _runs(reader, index):
        # Hashes are spread evenly; this far from where it should be is one of some ten thousand.
        middle = int(wanted, 16) * count >> 4 * _HASH
        margin = 2 * math.isqrt(count) + 2
        low, high = max(0, middle - margin), min(count, middle + margin)
        entries = reader.read(start + low * _WIDTH, (high - low) * _WIDTH)
        is_after = low > 0 and entries[:_HASH] >= wanted
        if is_after or (high < count and entries[-_WIDTH:] <= wanted + b"g"):
            entries = reader.read(start, count * _WIDTH)
        at = entries.find(wanted)
        while at >= 0:
            if at % _WIDTH == 0:
                try:
                    yield int(entries[at + _HASH : at + _WIDTH], 16)
                except ValueError:
                    reader.corrupt(index, "an index of keys holds what is no offset")
            at = entries.find(wanted, at + 1)


def index_lines(
    reader: LogReader, index: int, entries: Iterable[bytes], offset: int
) -> tuple[list[bytes], int]:
    """Return the lines of an index, and how many bytes of older ones nobody needs any more.

    Args:
        reader: Reads the file.
        index: The offset of the newest index line; 0 where there is none.
        entries: Those of all keys behind it.
        offset: Where the lines will be.
    """
    runs = _runs(reader, index)
    small = _to_join(runs)
    runs = [run for run in runs if run not in small]
    fresh = list(entries)
    for start, count in small:
        run = reader.read(start, count * _WIDTH)
        fresh += [run[at : at + _WIDTH] for at in range(0, len(run), _WIDTH)]
    fresh.sort()
    lines = []
    for start in range(0, max(1, len(fresh)), _LARGEST):
        part = fresh[start : start + _LARGEST]
        head = encode_json(_Head("", 0, len(part), "", 0.0, tuple(runs)))
        lines.append(b"%b%b%b" % (head.removesuffix(b'"}'), b"".join(part), _END))
        offset += len(lines[-1])
        runs = [*runs, (offset - len(_END) - len(part) * _WIDTH, len(part))]
    return lines, sum(count for _, count in small) * _WIDTH


def _to_join(runs: Sequence[_Run]) -> list[_Run]:
    joined: list[_Run] = []
    least = 0
    for tier in _TIERS:
        if sum(least <= count < tier for _, count in runs) >= _RUNS:
            joined = [run for run in runs if run[1] < tier]
        least = tier
    return joined
