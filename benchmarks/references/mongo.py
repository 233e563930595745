"""PyMongo's async client used directly, and the MongoDB session of OpenAI's Agents SDK."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from pymongo import AsyncMongoClient, WriteConcern

from benchmarks.payload import METADATA, TEXT

__all__ = ["Collection", "OpenAIAgents"]

_DURABLE = WriteConcern(w="majority", j=True)


class Collection:
    """One insert_one by each caller, majority and journaled."""

    def __init__(self, collection: Any) -> None:
        self._collection = collection

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str) -> AsyncIterator[Collection]:
        async with AsyncMongoClient[dict[str, Any]](url) as client:
            database = client.get_default_database()
            collection = database.get_collection("naive", write_concern=_DURABLE)
            await collection.create_index([("session", 1), ("_id", 1)])
            yield cls(collection)

    async def append(self, session_id: str) -> None:
        message = {"role": "user", "content": TEXT, "metadata": METADATA}
        await self._collection.insert_one({"session": session_id} | message)

    async def count(self) -> int:
        return int(await self._collection.count_documents({}))

    async def read(self, session_id: str) -> list[Any]:
        """Fetch everything; the driver decodes it."""
        return [each async for each in self._collection.find({"session": session_id}).sort("_id")]


class OpenAIAgents:
    """One session object for each session, on one client."""

    def __init__(self, client: Any, database: Any) -> None:
        self._client = client
        self._database = database
        self._sessions: dict[str, Any] = {}

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str) -> AsyncIterator[OpenAIAgents]:
        parameters = {"w": "majority", "journal": True}
        async with AsyncMongoClient[dict[str, Any]](url, **parameters) as client:
            yield cls(client, client.get_default_database())

    def _session(self, session_id: str) -> Any:
        from agents.extensions.memory.mongodb_session import MongoDBSession

        if session_id not in self._sessions:
            self._sessions[session_id] = MongoDBSession(
                session_id, client=self._client, database=self._database.name
            )
        return self._sessions[session_id]

    async def append(self, session_id: str) -> None:
        item = {"role": "user", "content": TEXT, "metadata": METADATA}
        await self._session(session_id).add_items([item])

    async def count(self) -> int:
        return sum([len(await each.get_items()) for each in self._sessions.values()])
