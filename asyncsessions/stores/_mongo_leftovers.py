"""Removes what sessions have let go of.

A session's document lets go of pages in the same step that makes them invisible, and notes them
as its garbage. They are removed right afterwards; if that is interrupted, the next one to write
to the session finds the note, and so does `MongoSessionStore.purge_expired`.
"""

from __future__ import annotations

from collections.abc import Sequence

from asyncsessions.stores._mongo_database import Database, Document
from asyncsessions.stores._mongo_keys import OldKeys
from asyncsessions.stores._mongo_pages import Pages
from asyncsessions.stores._mongo_session import HEAD_FIELDS, Head

__all__ = ["Leftovers"]

_SESSIONS_AT_A_TIME = 100


class Leftovers:
    """Removes garbage.

    Args:
        database: Where.
        sessions: The collection of sessions.
        pages: Pages of sessions.
        old_keys: Idempotency keys of sessions.
    """

    def __init__(
        self, database: Database, sessions: str, *, pages: Pages, old_keys: OldKeys
    ) -> None:
        self._database = database
        self._sessions = sessions
        self._pages = pages
        self._old_keys = old_keys

    async def remove(self, session_id: str) -> tuple[Document, ...]:
        """Remove the garbage of a session, and a deleted session with it; return what it was.

        Nothing here depends on another writer: garbage belongs to nobody, and what comes in
        meanwhile stays noted.
        """
        # What a lost primary undoes may name again what would be gone by then.
        found = await self._database.find_durable(self._sessions, session_id, HEAD_FIELDS)
        if found is None:
            return ()
        head = Head.read(found)
        for piece in head.garbage:
            if "incarnation" in piece:
                await self._pages.remove_all(session_id, piece["incarnation"])
                await self._old_keys.remove_all(session_id, piece["incarnation"])
            else:
                await self._pages.remove_tree(head, piece["node"], piece["level"])
        if head.updated_at is None:
            where = {"_id": session_id, "version": head.version}
            await self._database.delete(self._sessions, where, limit=1)
        elif head.garbage:
            same = {"_id": session_id, "garbage": list(head.garbage)}
            update = {"q": same, "u": {"$unset": {"garbage": ""}}}
            await self._database.update(self._sessions, [update])
        return head.garbage

    async def sweep(self) -> None:
        """Remove all garbage that interrupted writers have left."""
        where = {"garbage": {"$exists": True}}
        done: Sequence[str] = ()
        while True:
            found = await self._database.find(
                self._sessions,
                where | {"_id": {"$nin": list(done)}},
                limit=_SESSIONS_AT_A_TIME,
                projection={"_id": 1},
            )
            for document in found:
                await self.remove(document["_id"])
            if len(found) < _SESSIONS_AT_A_TIME:
                return
            done = [document["_id"] for document in found]

    def index(self) -> Document:
        """Return the index that finds garbage."""
        exists = {"garbage": {"$exists": True}}
        return {"key": {"garbage": 1}, "name": "garbage", "partialFilterExpression": exists}
