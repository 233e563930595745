"""Entries: how messages are laid out in a session's document."""

from __future__ import annotations

from collections.abc import Sequence

from asyncsessions.stores._mongo_session import Entry

__all__ = ["entries_of", "entries_with_gaps", "entry_below"]

# So that a reader of the newest messages need not take many more.
_ENTRY_MESSAGES = 64
_ENTRY_BYTES = 32 << 10


def entries_of(seq: int, bodies: Sequence[bytes]) -> Sequence[Entry]:
    """Return consecutive messages as entries of a good size."""
    entries = []
    start = size = 0
    for index, body in enumerate(bodies):
        is_full = index - start >= _ENTRY_MESSAGES or size + len(body) > _ENTRY_BYTES
        if index > start and is_full:
            entries.append(_entry(seq + start, bodies[start:index]))
            start, size = index, 0
        size += len(body)
    if bodies:
        entries.append(_entry(seq + start, bodies[start:]))
    return entries


def _entry(seq: int, bodies: Sequence[bytes]) -> Entry:
    joined = b"\n".join(bodies)
    return Entry(seq, len(bodies), len(joined), joined)


def entry_below(entry: Entry, seq: int) -> list[Entry]:
    """Return what of an entry is below ``seq``."""
    if entry.last < seq:
        return [entry]
    if entry.seq >= seq:
        return []
    assert entry.bodies is not None  # noqa: S101  # read for this
    return [_entry(entry.seq, entry.bodies.split(b"\n")[: seq - entry.seq])]


def entries_with_gaps(messages: Sequence[tuple[int, bytes]]) -> list[Entry]:
    """Return messages, between which some may be missing, as entries."""
    entries: list[Entry] = []
    start = 0
    for index in range(1, len(messages) + 1):
        if index == len(messages) or messages[index][0] != messages[index - 1][0] + 1:
            bodies = [body for _, body in messages[start:index]]
            entries += entries_of(messages[start][0], bodies)
            start = index
    return entries
