"""Idempotency keys that a session's document has no room for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec
from bson import MaxKey, MinKey, ObjectId

from asyncsessions.hooks import Append, KeyRecord
from asyncsessions.stores._mongo_database import Database, Document
from asyncsessions.stores._mongo_session import Head, key_record

__all__ = ["OldKeys"]

# How many keys a session's document holds before the oldest move out, and how many then do.
_MANY = 64
_MOVED = 32
# How many old keys are looked at, whether they are still needed, whenever some move out.
_EXAMINED = 2 * _MOVED


class OldKeys:
    """Remembers keys outside of the sessions' documents.

    A key moves out by being copied before the session's document lets go of it, so it is always
    in one place at least.

    Args:
        database: Where.
        collection: The collection of keys.
    """

    def __init__(self, database: Database, collection: str) -> None:
        self._database = database
        self._collection = collection

    async def prepare(self, head: Head, appends: Sequence[Append]) -> dict[str, KeyRecord]:
        """Return what is remembered here of appends' keys, and make room in a head."""
        if len(head.keys) > _MANY:
            await self._move_out(head, appends[-1].now)
        wanted = {append.key for append in appends if append.key is not None}
        wanted -= head.keys.keys()
        if not wanted or not head.has_old_keys:
            return {}
        where = {"_id": {"$in": [_id(head, key) for key in wanted]}}
        found = await self._database.find(self._collection, where)
        return {key.key: key for key in map(key_record, found)}

    async def _move_out(self, head: Head, now: float) -> None:
        oldest = head.oldest_seq
        moved = list(head.keys.values())[:_MOVED]
        needed = [key for key in moved if key.is_needed(oldest, now)]
        if needed:
            await self._database.update(self._collection, [_remember(head, key) for key in needed])
            head.has_old_keys = True
            await self._forget(head, oldest, now)
        head.keys = {name: head.keys[name] for name in list(head.keys)[_MOVED:]}

    async def _forget(self, head: Head, oldest: int, now: float) -> None:
        """Remove the oldest keys if nobody needs them any more."""
        where = {"_id.s": head.session_id, "_id.i": head.incarnation}
        found = await self._database.find(
            self._collection, where, sort={"first_seq": 1}, limit=_EXAMINED
        )
        keys = [key for key in map(key_record, found) if not key.is_needed(oldest, now)]
        if keys:
            where = {"_id": {"$in": [_id(head, key.key) for key in keys]}}
            await self._database.delete(self._collection, where)

    async def remove_all(self, session_id: str, incarnation: ObjectId) -> None:
        """Remove every key of a session that is gone."""
        low = {"s": session_id, "i": incarnation, "k": MinKey()}
        await self._database.delete(
            self._collection, {"_id": {"$gte": low, "$lte": low | {"k": MaxKey()}}}
        )

    def index(self) -> Iterable[Document]:
        """Return the indexes that this takes."""
        key = {"_id.s": 1, "_id.i": 1, "first_seq": 1}
        return [{"key": key, "name": "oldest"}]


def _id(head: Head, key: str) -> Document:
    return {"s": head.session_id, "i": head.incarnation, "k": key}


def _remember(head: Head, key: KeyRecord) -> Document:
    # A late writer never overwrites what a later use of the same key has left: the insert that
    # is tried then meets the document, and nothing happens.
    where = {"_id": _id(head, key.key), "first_seq": {"$lt": key.first_seq}}
    return {"q": where, "u": {"$set": msgspec.structs.asdict(key)}, "upsert": True}
