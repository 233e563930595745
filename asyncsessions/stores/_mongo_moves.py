"""Moves the oldest messages in sessions' documents into pages, while the sessions are written.

A move is made in two steps, and only the second one counts: pages are written, and wait for the
session's document to name them. The next write does so, in the same step as what it writes.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Sequence
from itertools import islice
from typing import NamedTuple

import msgspec

from asyncsessions.stores._mongo_background import Background
from asyncsessions.stores._mongo_database import Database, Document
from asyncsessions.stores._mongo_pages import Move, Pages
from asyncsessions.stores._mongo_session import Entry, Head, size_of, step

__all__ = ["Moves"]


class _Bounds(NamedTuple):
    """When a tail is moved into pages, and how much of it stays."""

    entries: int
    size: int
    staying_entries: int
    staying_size: int


# A longer tail makes every append to it dearer, a shorter one means more pages.
_BOUNDS = _Bounds(16, 96 << 10, 2, 24 << 10)
# Of a session that was written by itself: nobody else shares the two commands of a move.
_BOUNDS_IF_ALONE = _Bounds(32, 96 << 10, 2, 24 << 10)
# Of a session that is read, so that most reads find all they want in its document.
_BOUNDS_IF_READ = _Bounds(36, 96 << 10, 20, 24 << 10)
# Of how many sessions it is remembered that they are read.
_READ_SESSIONS = 8192
# How many tails are moved in one go, and how many bytes the server returns of them.
_TAILS_AT_ONCE = 32
_BYTES_AT_ONCE = 2 << 20
_ALL = 1 << 30
# In how many sessions pages may wait for the next write, and in how many they do after a part of
# them was named without one.
_MOST_WAITING = 1024
_LEFT_WAITING = 512


class _Due(NamedTuple):
    """A version of a session, and how many entries of its tail are to move."""

    head: Head
    entries: int
    is_contested: bool


class Moves:
    """The moves of one store, each of a session of its own.

    Args:
        database: Where.
        sessions: The collection of sessions.
        pages: Pages of sessions.
        background: Where moves are made.
    """

    def __init__(
        self, database: Database, sessions: str, pages: Pages, background: Background
    ) -> None:
        self._database = database
        self._sessions = sessions
        self._pages = pages
        self._background = background
        self._waiting: dict[str, Move] = {}
        self._read: OrderedDict[str, None] = OrderedDict()
        # Sessions whose tails are to move, or are on the way.
        self._moving: set[str] = set()
        self._queue: deque[_Due] = deque()
        self._is_busy = False

    def note_read(self, session_id: str) -> None:
        """Note that somebody reads a session's newest messages."""
        self._read[session_id] = None
        self._read.move_to_end(session_id)
        if len(self._read) > _READ_SESSIONS:
            self._read.popitem(last=False)

    def of(self, session_id: str) -> Move | None:
        """Return the pages of a session that wait to be named."""
        return self._waiting.get(session_id)

    def sessions(self) -> list[str]:
        """Return the sessions that have pages which wait."""
        return list(self._waiting)

    def overdue(self) -> list[str]:
        """Return those of them that nobody has written for longest, where they are too many."""
        if len(self._waiting) <= _MOST_WAITING:
            return []
        return list(islice(self._waiting, len(self._waiting) - _LEFT_WAITING))

    def let_go(self, move: Move) -> None:
        """Remove pages that waited, because no later version will name them."""
        # Another job may have done so while this one was planned.
        if self._waiting.get(move.head.session_id) is move:
            del self._waiting[move.head.session_id]
            self._background.spawn(self._pages.remove_unnamed(move))

    def settle(
        self, head: Head, named: Move | None, *, first_seq: int, is_alone: bool, is_contested: bool
    ) -> None:
        """Go on from a session's new version.

        Args:
            head: The version.
            named: The move whose pages it names.
            first_seq: Of several processes, the one whose messages from here on have made the tail
                too long moves it, or if it doesn't, whoever makes it that much longer again.
            is_alone: Whether no other session was written in the same flush.
            is_contested: Whether other processes write to the session as well.
        """
        session_id = head.session_id
        move = self._waiting.get(session_id)
        if move is not None and named is move:
            del self._waiting[session_id]
        elif move is not None and _is_past(head, move.head) and not move.fits(head):
            self.let_go(move)
        elif move is None and session_id not in self._moving:
            bounds = _BOUNDS_IF_ALONE if is_alone else _BOUNDS
            if session_id in self._read:
                bounds = _BOUNDS_IF_READ
            count = _entries_to_move(head.tail, bounds)
            before = [entry for entry in head.tail if entry.seq < first_seq] if count else ()
            if count and _steps(head.tail, bounds) > _steps(before, bounds):
                self._moving.add(session_id)
                self._queue.append(_Due(head, count, is_contested))
                if not self._is_busy:
                    self._is_busy = True
                    self._background.spawn(self._move_all())

    async def _move_all(self) -> None:
        try:
            while self._queue:
                await self._move(self._take())
        except BaseException:
            # Whoever writes to these sessions next tries again.
            self._moving.difference_update([due.head.session_id for due in self._queue])
            self._queue.clear()
            raise
        finally:
            self._is_busy = False

    def _take(self) -> list[_Due]:
        """Return as many tails as may move in one go."""
        taken: list[_Due] = []
        size = 0
        while self._queue and len(taken) < _TAILS_AT_ONCE:
            size += size_of(self._queue[0].head.tail)
            if taken and size > _BYTES_AT_ONCE:
                break
            taken.append(self._queue.popleft())
        return taken

    async def _move(self, tails: Sequence[_Due]) -> None:
        contested = {due.head.session_id for due in tails if due.is_contested}
        try:
            moves = await self._pages.move_tails([(due.head, due.entries) for due in tails])
            named = []
            for move in moves:
                if move.head.session_id in contested:
                    named.append(self._name(move))
                else:
                    self._waiting[move.head.session_id] = move
            for failure in await asyncio.gather(*named, return_exceptions=True):
                if failure is not None:
                    raise failure
        finally:
            self._moving.difference_update([due.head.session_id for due in tails])

    async def _name(self, move: Move) -> None:
        """Have a session that others write name the pages of a move; if it can't, they wait."""
        move.sent_onto = move.head.version
        update = [{"$set": _fields(move)}]
        named = None
        try:
            named = await self._database.update_one(
                self._sessions, _filter(move), update, {"_id": 1}
            )
        finally:
            # After an error, too: whoever writes next finds out.
            if named is None:
                self._waiting[move.head.session_id] = move


def _is_past(head: Head, other: Head) -> bool:
    """Whether a version came after another one; a session that was made anew counts afresh."""
    return head.incarnation != other.incarnation or head.version >= other.version


def _steps(tail: Sequence[Entry], bounds: _Bounds) -> int:
    """Return how many times as long as it should be a tail is."""
    return max(len(tail) // (bounds.entries + 1), size_of(tail) // (bounds.size + 1))


def _entries_to_move(tail: Sequence[Entry], bounds: _Bounds) -> int:
    """Return how many entries of a tail move into pages; 0 where it is short enough."""
    if len(tail) <= bounds.entries and size_of(tail) <= bounds.size:
        return 0
    staying = size = 0
    for entry in reversed(tail):
        size += entry.size
        if staying == bounds.staying_entries or size > bounds.staying_size:
            break
        staying += 1
    return len(tail) - staying


def _filter(move: Move) -> Document:
    """Return which document may name the pages of a move; the same as `Move.fits`.

    Once it fits no longer, it never will again, however late this comes.
    """
    head, last = move.head, move.entries - 1
    return {
        "_id": head.session_id,
        "incarnation": head.incarnation,
        "edition": head.edition,
        "pages": [msgspec.structs.asdict(page) for page in head.pages],
        "tail.0.seq": head.tail[0].seq,
        f"tail.{last}.seq": head.tail[last].seq,
    }


def _fields(move: Move) -> Document:
    """Return the fields of a session that names the pages of a move."""
    return {
        "version": {"$add": ["$version", step()]},
        "tail": {"$slice": ["$tail", move.entries, _ALL]},
        "pages": {"$literal": [msgspec.structs.asdict(page) for page in move.pages]},
    }
