"""PraisonAI's session stores, which are synchronous: each call runs in a thread."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

from benchmarks.payload import METADATA, TEXT
from benchmarks.systems.contender import Contender

__all__ = ["INDEXED", "JSON", "SQLITE"]


class Threads:
    """One store, whose calls block."""

    def __init__(self, store: Any) -> None:
        self._store = store

    async def append(self, session_id: str, text: str) -> None:
        await self._kept(self._store.add_message, session_id, "user", text, METADATA)

    async def tail(self, session_id: str, count: int) -> Sequence[object]:
        return await asyncio.to_thread(self._store.get_chat_history, session_id, count)

    async def set_state(self, session_id: str, step: int) -> None:
        await self._kept(self._store.update_session_metadata, session_id, step=step)

    async def fill(self, session_id: str, count: int) -> None:
        message = {"role": "user", "content": TEXT, "metadata": METADATA}
        await self._kept(self._store.set_chat_history, session_id, [message] * count)

    async def count(self, session_ids: Sequence[str]) -> int:
        sessions = [await asyncio.to_thread(self._store.get_session, each) for each in session_ids]
        return sum(len(session.messages) for session in sessions)

    async def _kept(self, call: Callable[..., bool], *args: Any, **kwargs: Any) -> None:
        # Its stores return False where they could not write.
        if not await asyncio.to_thread(call, *args, **kwargs):
            raise OSError("PraisonAI's store could not write")


def _opener(name: str) -> Callable[[str], AbstractAsyncContextManager[Threads]]:
    """Return what opens one of its stores, by the name of the class."""

    @asynccontextmanager
    async def opened(directory: str) -> AsyncIterator[Threads]:
        # Nothing of a benchmark goes to anybody's statistics.
        os.environ["PRAISONAI_TELEMETRY_DISABLED"] = os.environ["DO_NOT_TRACK"] = "1"
        logging.getLogger("praisonaiagents").setLevel(logging.CRITICAL)
        from praisonaiagents import session

        # Both write a document for each session, under its id.
        own = str(Path(directory, name))
        yield Threads(getattr(session, name)(session_dir=own, retention="keep_all"))

    return opened


_REWRITES = "Each append, and each change of the metadata that stands for state, reads and writes"
_LACKS = "No history is dropped (keep_all). Each call runs in a thread. Has no numbers."
JSON = Contender(
    "PraisonAI DefaultSessionStore",
    "peer",
    _opener("DefaultSessionStore"),
    ("praisonaiagents",),
    note=f"{_REWRITES} the session's whole file under a lock, unsynced; callers wait 5 s at most"
    f" for the lock, and then fail. {_LACKS}",
    longest=10_000,
    most_callers=64,
)
INDEXED = Contender(
    "PraisonAI SqliteSessionStore",
    "peer",
    _opener("SqliteSessionStore"),
    ("praisonaiagents",),
    note=f"{_REWRITES} the session's whole file, as the default store does, and then indexes the"
    f" session's text for search anew. {_LACKS}",
    longest=10_000,
    most_callers=64,
)
SQLITE = Contender(
    "PraisonAI SqliteTranscriptStore",
    "peer",
    _opener("SqliteTranscriptStore"),
    ("praisonaiagents",),
    note=f"{_REWRITES} the session's whole row, as JSON, in one file in WAL mode, synced. {_LACKS}",
    longest=10_000,
    most_callers=64,
)
