"""An async-first store for the conversations of bots, agents and gateways.

::

    from asyncsessions import open_store

    async with open_store("jsonl://data") as store:
        await store.add_message("chat-1", "user", "Hello")
        history = await store.get_chat_history("chat-1", max_messages=20)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from asyncsessions.errors import (
    CallTimeoutError,
    CorruptSessionError,
    ForkedStoreError,
    IdempotencyConflictError,
    InvalidMessageError,
    InvalidSessionIdError,
    LockTimeoutError,
    MessageNotFoundError,
    MessageTooLargeError,
    SessionChangedError,
    SessionCycleError,
    SessionExistsError,
    SessionFileError,
    SessionNotFoundError,
    SessionSharedError,
    SessionStoreError,
    SnapshotNotFoundError,
    StoreClosedError,
    StoreFullError,
    StoreRefusedError,
    StoreUnavailableError,
    UnrelatedSessionsError,
    VersionConflictError,
)
from asyncsessions.models import (
    Checkpoint,
    ImportReport,
    Message,
    SearchHit,
    SessionData,
    SessionInfo,
    SessionPage,
)
from asyncsessions.protocols import AsyncSessionStoreProtocol, SessionStore, check_async_store
from asyncsessions.registry import open_store

if TYPE_CHECKING:
    from asyncsessions.base import BaseSessionStore
    from asyncsessions.hierarchy import HierarchicalSessionStore
    from asyncsessions.stores.json import JSONSessionStore
    from asyncsessions.stores.jsonl import JSONLinesSessionStore
    from asyncsessions.stores.memory import InMemorySessionStore
    from asyncsessions.stores.mongo import MongoSessionStore
    from asyncsessions.stores.postgres import PostgresSessionStore
    from asyncsessions.stores.redis import RedisSessionStore

__all__ = [
    "AsyncSessionStoreProtocol",
    "BaseSessionStore",
    "CallTimeoutError",
    "Checkpoint",
    "CorruptSessionError",
    "ForkedStoreError",
    "HierarchicalSessionStore",
    "IdempotencyConflictError",
    "ImportReport",
    "InMemorySessionStore",
    "InvalidMessageError",
    "InvalidSessionIdError",
    "JSONLinesSessionStore",
    "JSONSessionStore",
    "LockTimeoutError",
    "Message",
    "MessageNotFoundError",
    "MessageTooLargeError",
    "MongoSessionStore",
    "PostgresSessionStore",
    "RedisSessionStore",
    "SearchHit",
    "SessionChangedError",
    "SessionCycleError",
    "SessionData",
    "SessionExistsError",
    "SessionFileError",
    "SessionInfo",
    "SessionNotFoundError",
    "SessionPage",
    "SessionSharedError",
    "SessionStore",
    "SessionStoreError",
    "SnapshotNotFoundError",
    "StoreClosedError",
    "StoreFullError",
    "StoreRefusedError",
    "StoreUnavailableError",
    "UnrelatedSessionsError",
    "VersionConflictError",
    "check_async_store",
    "open_store",
]

__version__ = "0.1.0"

# Loaded at first use, so that importing the package stays cheap and loads no driver.
_LAZY = {
    "BaseSessionStore": "asyncsessions.base",
    "HierarchicalSessionStore": "asyncsessions.hierarchy",
    "InMemorySessionStore": "asyncsessions.stores.memory",
    "JSONLinesSessionStore": "asyncsessions.stores.jsonl",
    "JSONSessionStore": "asyncsessions.stores.json",
    "MongoSessionStore": "asyncsessions.stores.mongo",
    "PostgresSessionStore": "asyncsessions.stores.postgres",
    "RedisSessionStore": "asyncsessions.stores.redis",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
