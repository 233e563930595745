"""PyMongo's async client used directly."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from pymongo import AsyncMongoClient, UpdateOne, WriteConcern

from benchmarks.payload import METADATA, TEXT
from benchmarks.systems.batching import Batcher, Batches
from benchmarks.systems.contender import Contender, System

__all__ = ["DRIVERS"]

_DURABLE = WriteConcern(w="majority", j=True)


def _message(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text, "timestamp": time.time(), "metadata": METADATA}


def _key(session_id: str, seq: float) -> dict[str, Any]:
    return {"session": session_id, "seq": seq}


def _of(session_id: str) -> dict[str, Any]:
    """Return what selects a session's messages by their keys."""
    return {"_id": {"$gte": _key(session_id, 0), "$lte": _key(session_id, math.inf)}}


class Collection:
    """One insert_one by each caller, majority and journaled."""

    _name = "naive"

    def __init__(self, database: Any) -> None:
        self._messages = database.get_collection(self._name, write_concern=_DURABLE)
        self._sessions = database.get_collection(f"{self._name}_sessions", write_concern=_DURABLE)

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str) -> AsyncIterator[System]:
        async with AsyncMongoClient[dict[str, Any]](url) as client:
            system = cls(client.get_default_database())
            await system._prepare()
            yield system

    async def _prepare(self) -> None:
        await self._messages.create_index([("session", 1), ("_id", 1)])

    async def append(self, session_id: str, text: str) -> object:
        return await self._messages.insert_one({"session": session_id} | _message(text))

    async def tail(self, session_id: str, count: int) -> Sequence[object]:
        cursor = self._messages.find({"session": session_id}).sort("_id", -1).limit(count)
        return [each async for each in cursor][::-1]

    async def set_state(self, session_id: str, step: int) -> None:
        change = {"$set": {"state": {"step": step}}}
        await self._sessions.update_one({"_id": session_id}, change, upsert=True)

    async def fill(self, session_id: str, count: int) -> None:
        for start in range(0, count, 1000):
            size = min(1000, count - start)
            many = [{"session": session_id} | _message(TEXT) for _ in range(size)]
            await self._messages.insert_many(many)

    async def count(self, session_ids: Sequence[str]) -> int:
        return int(await self._messages.count_documents({"session": {"$in": list(session_ids)}}))


class Limit(Collection):
    """One insert_many for all that waits, a bulk write of the records beside it, in two lanes."""

    _name = "batch"

    def __init__(self, database: Any) -> None:
        super().__init__(database)
        self._last: dict[str, int] = {}
        self._batcher = Batcher(self._flush, lanes=2)

    async def _prepare(self) -> None:
        await self._sessions.create_index([("updated_at", -1)])

    async def append(self, session_id: str, text: str) -> object:
        # Encoding is up to the driver.
        return await self._batcher.append(session_id, text.encode())

    async def _flush(self, batches: Batches) -> dict[str, int]:
        now = time.time()
        documents = self._documents(batches)
        records = [
            UpdateOne(
                {"_id": session_id},
                {"$set": {"last_seq": self._last[session_id], "updated_at": now}},
                upsert=True,
            )
            for session_id in batches
        ]
        await asyncio.gather(
            self._messages.insert_many(documents, ordered=False),
            self._sessions.bulk_write(records, ordered=False),
        )
        return {session_id: self._last[session_id] for session_id in batches}

    def _documents(self, batches: Batches) -> list[dict[str, Any]]:
        documents = []
        for session_id, texts in batches.items():
            for text in texts:
                seq = self._last[session_id] = self._last.get(session_id, 0) + 1
                documents.append({"_id": _key(session_id, seq)} | _message(text.decode()))
        return documents

    async def tail(self, session_id: str, count: int) -> Sequence[object]:
        cursor = self._messages.find(_of(session_id)).sort("_id", -1).limit(count)
        return [each async for each in cursor][::-1]

    async def fill(self, session_id: str, count: int) -> None:
        for start in range(0, count, 1000):
            many = {session_id: [TEXT.encode()] * min(1000, count - start)}
            await self._messages.insert_many(self._documents(many))

    async def count(self, session_ids: Sequence[str]) -> int:
        return sum([await self._messages.count_documents(_of(each)) for each in session_ids])


class Bare(Limit):
    """The same without the records: a log that lists nothing."""

    _name = "bare"

    async def _flush(self, batches: Batches) -> dict[str, int]:
        await self._messages.insert_many(self._documents(batches), ordered=False)
        return {session_id: self._last[session_id] for session_id in batches}


_PACKAGES = ("pymongo",)
_ONE_PROCESS = frozenset({"processes"})

DRIVERS = (
    Contender(
        "insert_one per append",
        "driver",
        Collection.open,
        _PACKAGES,
        "AsyncMongoClient, majority and journaled; no numbers, no record.",
    ),
    Contender(
        "hand-written batch",
        "limit",
        Limit.open,
        _PACKAGES,
        "insert_many and a bulk write of the records per flush, two under way; one process only.",
        without=_ONE_PROCESS,
    ),
    Contender(
        "insert_many only",
        "limit",
        Bare.open,
        _PACKAGES,
        "The same without records: no list of sessions, nothing to find one by.",
        without=_ONE_PROCESS,
    ),
)
