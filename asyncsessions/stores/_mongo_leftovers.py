"""Removes what sessions have let go of.

A session's document lets go of pages in the same step that makes them invisible, and notes them
as its garbage. They are removed right afterwards; if that is interrupted, the next one to write
to the session finds the note, and so does `MongoSessionStore.purge_expired`.
"""

from __future__ import annotations

import logging
import time

from bson import ObjectId

from asyncsessions.errors import CorruptSessionError
from asyncsessions.stores._mongo_database import Database, Document
from asyncsessions.stores._mongo_keys import OldKeys
from asyncsessions.stores._mongo_pages import Pages
from asyncsessions.stores._mongo_session import HEAD_FIELDS, Head

__all__ = ["Leftovers"]

_SESSIONS_AT_A_TIME = 100
# By then nobody is still about to name pages in a session's document, not even where a machine's
# clock shows another time zone's time.
_FORGOTTEN_SECONDS = 2 * 86_400.0
# What tells whether a damaged session is the same still.
_IDENTITY: Document = {"incarnation": 1, "version": 1}

logger: logging.Logger = logging.getLogger("asyncsessions.mongo")


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
            match piece:
                case {"pages": ObjectId() as volume}:
                    await self._pages.remove_all(session_id, volume)
                    await self._remove_forgotten(head)
                case {"keys": ObjectId() as incarnation}:
                    await self._old_keys.remove_all(session_id, incarnation)
                case {"node": ObjectId() as node, "level": int(level)}:
                    await self._pages.remove_tree(head, node, level)
                case _:
                    detail = "its garbage in MongoDB isn't as this store writes it"
                    raise CorruptSessionError(detail, session_id=session_id)
        if head.updated_at is None:
            where = {"_id": session_id, "version": head.version}
            await self._database.delete(self._sessions, where, limit=1)
        elif head.garbage:
            same = {"_id": session_id, "garbage": list(head.garbage)}
            update = {"q": same, "u": {"$unset": {"garbage": ""}}}
            (await self._database.update(self._sessions, [update])).check()
        return head.garbage

    async def _remove_forgotten(self, head: Head) -> None:
        """Remove volumes that no version of a session has ever named, as killed processes leave.

        What somebody is about to name is younger.
        """
        for volume in await self._pages.volumes(head.session_id):
            age = time.time() - volume.generation_time.timestamp()
            if volume != head.volume and age > _FORGOTTEN_SECONDS:
                await self._pages.remove_all(head.session_id, volume)

    async def remove_damaged(self, session_id: str, *, expired_at: float | None = None) -> bool:
        """Remove a session whose document can't be read, so that nobody can write to it.

        Args:
            session_id: The session.
            expired_at: Only if it has expired by then.

        Returns:
            Whether there was one to remove.
        """
        where: Document = {"_id": session_id}
        if expired_at is not None:
            where["expires_at"] = {"$lte": expired_at}
        # Before the look at the document, or they could be those of a session that is made anew.
        volumes = await self._pages.volumes(session_id)
        found = await self._database.find(self._sessions, where, limit=1, projection=_IDENTITY)
        if not found:
            return False
        for volume in volumes:
            await self._pages.remove_all(session_id, volume)
        if isinstance(incarnation := found[0].get("incarnation"), ObjectId):
            await self._old_keys.remove_all(session_id, incarnation)
        same = {field: found[0].get(field) for field in _IDENTITY}
        return await self._database.delete(self._sessions, where | same, limit=1) > 0

    async def sweep(self) -> None:
        """Remove all garbage that interrupted writers have left."""
        where = {"garbage": {"$exists": True}}
        damaged: list[str] = []
        while True:
            found = await self._database.find(
                self._sessions,
                where | {"_id": {"$nin": damaged}},
                limit=_SESSIONS_AT_A_TIME,
                projection={"_id": 1},
            )
            for document in found:
                try:
                    await self.remove(document["_id"])
                except CorruptSessionError as exc:
                    logger.warning("its garbage stays: %s", exc)
                    damaged.append(document["_id"])
            if len(found) < _SESSIONS_AT_A_TIME:
                return

    def index(self) -> Document:
        """Return the index that finds garbage."""
        exists = {"garbage": {"$exists": True}}
        return {"key": {"garbage": 1}, "name": "garbage", "partialFilterExpression": exists}
