"""Sync code on the async stores: `SyncSessionStore`, and PraisonAI's original API.

from asyncsessions.sync import open_store

with open_store("postgresql://localhost/app") as store:
    store.add_message("chat-1", "user", "Hello")
"""

from __future__ import annotations

from asyncsessions.sync.default import DefaultSessionStore, FileLock, get_default_session_store
from asyncsessions.sync.records import (
    CompactionCheckpoint,
    ImportReport,
    SessionData,
    SessionHit,
    SessionMessage,
    SessionSummary,
)
from asyncsessions.sync.store import SyncSessionStore, open_store

__all__ = [
    "CompactionCheckpoint",
    "DefaultSessionStore",
    "FileLock",
    "ImportReport",
    "SessionData",
    "SessionHit",
    "SessionMessage",
    "SessionSummary",
    "SyncSessionStore",
    "get_default_session_store",
    "open_store",
]
