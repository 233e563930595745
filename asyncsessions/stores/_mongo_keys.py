"""Idempotency keys that a session's document has no room for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec
from bson import MaxKey, MinKey, ObjectId

from asyncsessions.hooks import Append, KeyRecord
from asyncsessions.stores._mongo_database import Database, Document
from asyncsessions.stores._mongo_session import Head, checked

__all__ = ["OldKeys"]

# How many keys a session's document holds before the oldest move out, and how many then stay.
_MANY = 64
_STAYING = 32
# For each key that moves out, how many old ones are looked at, whether they are still needed.
_EXAMINED = 2


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
        return {key.key: key for key in _keys(head, found)}

    async def _move_out(self, head: Head, now: float) -> None:
        oldest = head.oldest_seq
        names = list(head.keys)
        moved = [head.keys[name] for name in names[:-_STAYING]]
        needed = [key for key in moved if key.is_needed(oldest, now)]
        if needed:
            await self._remember(head, needed)
            head.has_old_keys = True
            await self._forget(head, _EXAMINED * len(moved), oldest, now)
        head.keys = {name: head.keys[name] for name in names[-_STAYING:]}

    async def _remember(self, head: Head, keys: Sequence[KeyRecord]) -> None:
        documents = [{"_id": _id(head, key.key)} | msgspec.structs.asdict(key) for key in keys]
        inserted = (await self._database.insert(self._collection, documents)).check()
        if inserted.failures:
            # Used before, or copied already. A late writer never overwrites a later use: then the
            # insert that is tried meets the document, and nothing happens.
            updates = [_renewal(head, keys[index]) for index in inserted.failures]
            (await self._database.update(self._collection, updates)).check()

    async def _forget(self, head: Head, count: int, oldest: int, now: float) -> None:
        """Remove those of the oldest keys that nobody needs any more."""
        where: Document = {"_id.s": head.session_id, "_id.i": head.incarnation}
        found = await self._database.find(
            self._collection, where, sort={"first_seq": 1}, limit=count
        )
        keys = [key for key in _keys(head, found) if not key.is_needed(oldest, now)]
        if keys:
            where = {"_id": {"$in": [_id(head, key.key) for key in keys]}}
            # Not what another writer has remembered meanwhile of a later use.
            where["first_seq"] = {"$lte": keys[-1].first_seq}
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


def _keys(head: Head, documents: Iterable[Document]) -> list[KeyRecord]:
    return [checked(each, KeyRecord, head.session_id) for each in documents]


def _renewal(head: Head, key: KeyRecord) -> Document:
    where = {"_id": _id(head, key.key), "first_seq": {"$lt": key.first_seq}}
    return {"q": where, "u": {"$set": msgspec.structs.asdict(key)}, "upsert": True}
