"""Moves the oldest messages in sessions' documents into pages, while the sessions are written.

A move is made in two steps, and only the second one counts: pages are written, and wait for the
session's document to name them. The next write does so, in the same step as what it writes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence

import msgspec

from asyncsessions.stores._mongo_background import Background
from asyncsessions.stores._mongo_database import Database, Document
from asyncsessions.stores._mongo_pages import Move, Pages, StaleError
from asyncsessions.stores._mongo_session import Entry, Head, size_of

__all__ = ["Moves"]

# When a tail is moved into pages, and how much of it stays, so that most reads find all they want
# in the session's document. A longer tail makes every append to it dearer, a shorter one means
# more pages.
_TAIL_ENTRIES = 64
_TAIL_BYTES = 96 << 10
_STAYING_ENTRIES = 24
_STAYING_BYTES = 24 << 10
# How many tails are moved at a time.
_MOVERS = 4
_ALL = 1 << 30


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
        self._moving: set[str] = set()
        self._movers = asyncio.Semaphore(_MOVERS)

    def of(self, session_id: str) -> Move | None:
        """Return the pages of a session that wait to be named."""
        return self._waiting.get(session_id)

    def but_of(self, known: Iterable[str]) -> set[str]:
        """Return the other sessions that have pages which wait."""
        return self._waiting.keys() - known

    def let_go(self, move: Move) -> None:
        """Remove pages that waited, because no later version will name them."""
        # Another job may have done so while this one was planned.
        if self._waiting.get(move.head.session_id) is move:
            del self._waiting[move.head.session_id]
            self._background.spawn(self._pages.remove_unnamed(move))

    def settle(self, head: Head, named: Move | None, *, first_seq: int, is_contested: bool) -> None:
        """Go on from a session's new version.

        Args:
            head: The version.
            named: The move whose pages it names.
            first_seq: Of several processes, the one whose messages from here on have made the tail
                too long moves it.
            is_contested: Whether other processes write to the session as well.
        """
        session_id = head.session_id
        move = self._waiting.get(session_id)
        if move is not None and named is move:
            del self._waiting[session_id]
        elif move is not None and head.version >= move.head.version and not move.fits(head):
            self.let_go(move)
        elif move is None and session_id not in self._moving:
            count = _entries_to_move(head.tail)
            before = [entry for entry in head.tail if entry.seq < first_seq]
            if count and not _entries_to_move(before):
                self._moving.add(session_id)
                self._background.spawn(self._move(head, count, is_contested=is_contested))

    async def _move(self, head: Head, count: int, *, is_contested: bool) -> None:
        try:
            async with self._movers:
                move = await self._pages.move_tail(head, count)
                if not is_contested or not await self._name(move):
                    self._waiting[head.session_id] = move
        except StaleError:
            pass  # Another writer was first. Whoever writes next tries again.
        finally:
            self._moving.discard(head.session_id)

    async def _name(self, move: Move) -> bool:
        """Have a session that others write name the pages of a move; return whether it does."""
        move.sent_onto = move.head.version
        update = [{"$set": _fields(move)}]
        try:
            named = await self._database.update_one(
                self._sessions, _filter(move), update, {"_id": 1}
            )
        except BaseException:
            # Whoever writes next finds out.
            self._waiting[move.head.session_id] = move
            raise
        return named is not None


def _entries_to_move(tail: Sequence[Entry]) -> int:
    """Return how many entries of a tail move into pages; 0 where it is short enough."""
    if len(tail) <= _TAIL_ENTRIES and size_of(tail) <= _TAIL_BYTES:
        return 0
    staying = size = 0
    for entry in reversed(tail):
        size += entry.size
        if staying == _STAYING_ENTRIES or size > _STAYING_BYTES:
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
        "version": {"$add": ["$version", 1]},
        "tail": {"$slice": ["$tail", move.entries, _ALL]},
        "pages": {"$literal": [msgspec.structs.asdict(page) for page in move.pages]},
    }
