"""The storages of aiogram, with the history as a list in the data of a chat."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from benchmarks.payload import METADATA, TEXT
from benchmarks.systems.contender import Contender

__all__ = ["MONGO", "REDIS"]


class ChatData:
    """The data of one user in one chat for each session id."""

    def __init__(self, storage: Any) -> None:
        self._storage = storage

    def _key(self, session_id: str) -> Any:
        from aiogram.fsm.storage.base import StorageKey

        # Chats have numbers, and the same session must have the same one again.
        chat = int.from_bytes(hashlib.blake2b(session_id.encode(), digest_size=6).digest())
        return StorageKey(bot_id=1, chat_id=chat, user_id=chat)

    async def _history(self, session_id: str) -> list[object]:
        data = await self._storage.get_data(self._key(session_id))
        history: list[object] = data.get("history", [])
        return history

    async def append(self, session_id: str, text: str) -> None:
        await self._extend(session_id, [_message(text)])

    async def _extend(self, session_id: str, messages: list[object]) -> None:
        history = await self._history(session_id)
        await self._storage.update_data(self._key(session_id), {"history": [*history, *messages]})

    async def tail(self, session_id: str, count: int) -> Sequence[object]:
        return (await self._history(session_id))[-count:]

    async def set_state(self, session_id: str, step: int) -> None:
        await self._storage.update_data(self._key(session_id), {"step": step})

    async def fill(self, session_id: str, count: int) -> None:
        await self._extend(session_id, [_message(TEXT)] * count)

    async def count(self, session_ids: Sequence[str]) -> int:
        return sum([len(await self._history(each)) for each in session_ids])


def _message(text: str) -> object:
    return {"role": "user", "content": text, "metadata": METADATA}


@asynccontextmanager
async def _redis(url: str) -> AsyncIterator[ChatData]:
    from aiogram.fsm.storage.redis import RedisStorage
    from redis.asyncio import BlockingConnectionPool, Redis

    # One that waits for a connection: the default pool raises an error at 100.
    pool = BlockingConnectionPool.from_url(url, max_connections=64)
    storage = RedisStorage(Redis.from_pool(pool))
    try:
        yield ChatData(storage)
    finally:
        await storage.close()


@asynccontextmanager
async def _mongo(url: str) -> AsyncIterator[ChatData]:
    from aiogram.fsm.storage.pymongo import PyMongoStorage
    from pymongo import AsyncMongoClient

    durable: Any = {"w": "majority", "journal": True}
    async with AsyncMongoClient[dict[str, Any]](url, **durable) as client:
        yield ChatData(PyMongoStorage(client))


_NOTE = (
    "The history is a list in the chat's data, of which each append reads and writes everything;"
    " each read reads everything. Nothing guards it: callers who append at the same time lose"
    " messages, and so its rate there compares with nothing. Has no numbers."
)
REDIS = Contender(
    "aiogram RedisStorage",
    "peer",
    _redis,
    ("aiogram", "redis"),
    note=f"Shared pool of 64 connections. {_NOTE}",
    longest=10_000,
)
MONGO = Contender(
    "aiogram PyMongoStorage",
    "peer",
    _mongo,
    ("aiogram", "pymongo"),
    note=f"One client; majority and journal. {_NOTE}",
    longest=10_000,
)
