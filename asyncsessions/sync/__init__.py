"""Sync code on the async stores: `SyncSessionStore`, and PraisonAI's original API.

::

    from asyncsessions.sync import open_store

    with open_store("postgresql://localhost/app") as store:
        store.add_message("chat-1", "user", "Hello")
"""

from __future__ import annotations

from typing import Any

from asyncsessions.sync import default
from asyncsessions.sync._original.constants import (
    ARCHIVE_WARN_THRESHOLD,
    DEFAULT_CACHE_MAXSIZE,
    DEFAULT_LOCK_TIMEOUT,
    DEFAULT_MAX_MESSAGES,
    DEFAULT_MIRROR_MAX_RETRIES,
    DEFAULT_MIRROR_QUEUE_SIZE,
    DEFAULT_RETENTION,
    RETENTION_COMPACT,
    RETENTION_KEEP_ALL,
    RETENTION_TRUNCATE,
)
from asyncsessions.sync.default import DefaultSessionStore, FileLock, get_default_session_store
from asyncsessions.sync.hierarchical import (
    ExtendedSessionData,
    HierarchicalSessionStore,
    SessionSnapshot,
    get_hierarchical_session_store,
)
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
    "ARCHIVE_WARN_THRESHOLD",
    "DEFAULT_CACHE_MAXSIZE",
    "DEFAULT_LOCK_TIMEOUT",
    "DEFAULT_MAX_MESSAGES",
    "DEFAULT_MIRROR_MAX_RETRIES",
    "DEFAULT_MIRROR_QUEUE_SIZE",
    "DEFAULT_RETENTION",
    "RETENTION_COMPACT",
    "RETENTION_KEEP_ALL",
    "RETENTION_TRUNCATE",
    "CompactionCheckpoint",
    "DefaultSessionStore",
    "ExtendedSessionData",
    "FileLock",
    "HierarchicalSessionStore",
    "ImportReport",
    "SessionData",
    "SessionHit",
    "SessionMessage",
    "SessionSnapshot",
    "SessionSummary",
    "SyncSessionStore",
    "get_default_session_store",
    "get_hierarchical_session_store",
    "open_store",
]


def __getattr__(name: str) -> Any:
    """Return ``DEFAULT_SESSION_DIR`` as it is now; whoever assigns it sets the default."""
    if name == "DEFAULT_SESSION_DIR":
        return default.DEFAULT_SESSION_DIR
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
