"""Sessions' records: found, changed, and removed once nobody reads what they keep.

Whoever needs a session's messages says so in its record first, and looks at it afterwards; and no
store removes messages that somebody needs (`hooks.check_unshared`). So a session that is cleared or
deleted at the same time either takes its messages along before they were asked for, or leaves them.
What a killed process leaves behind is at most such a note, which keeps messages that nobody reads.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

from asyncsessions.base import BaseSessionStore
from asyncsessions.errors import (
    SessionChangedError,
    SessionNotFoundError,
    SessionSharedError,
    SessionStoreError,
    StoreUnavailableError,
)
from asyncsessions.hierarchy.lineage import Lineage
from asyncsessions.hierarchy.reading import Reader
from asyncsessions.hierarchy.saved import shared
from asyncsessions.hooks import Change
from asyncsessions.models import JSONValue

__all__ = ["EVERYTHING", "TEXTS", "Records"]

# Up to where somebody reads who doesn't know yet. Every store holds whole numbers up to here.
EVERYTHING = 2**53 - 1
# What sessions are looked up by.
TEXTS = ("agent_name", "user_id", "agent_id", "gateway_session_id")


class Records:
    """The records of a store's sessions.

    Args:
        store: The store.
        reader: Reads its sessions.
    """

    def __init__(self, store: BaseSessionStore, reader: Reader) -> None:
        self.store = store
        self.reader = reader

    async def known(self, session_id: str) -> Lineage:
        """Return a session's record.

        Raises:
            SessionNotFoundError: There is no such session.
        """
        lineage = await self.reader.lineage(session_id)
        if lineage is None:
            raise SessionNotFoundError(session_id)
        return lineage

    def now(self) -> float:
        """Return the time, in seconds since the epoch."""
        return self.store.policy.clock()

    async def change(self, session_id: str, make: Callable[[Lineage], list[Change]]) -> Lineage:
        """Change a session's record as what is in it demands; return what that was.

        Raises:
            SessionNotFoundError: There is no such session.
        """
        while True:
            lineage = await self.known(session_id)
            try:
                await self.amend(session_id, *make(lineage))
            except SessionChangedError:
                await asyncio.sleep(0)
            else:
                return lineage

    async def amend(self, session_id: str, *changes: Change) -> list[JSONValue]:
        """Change a session's record; return the new values.

        Raises:
            SessionNotFoundError: There is no such session.
            SessionChangedError: Something isn't as a change expects.
        """
        values = await self.store.amend_session(session_id, changes)
        if values is None:
            raise SessionNotFoundError(session_id)
        return values

    async def noted(self, session_id: str, reader: str, *changes: Change) -> Lineage:
        """Note that somebody reads all of a session, and return its record with that note.

        A session may be removed for good as it is noted, and made anew before it is looked at. The
        new one knows nothing of the note, so it is made again.

        Args:
            session_id: The session.
            reader: Who reads it.
            changes: What else to note.

        Raises:
            SessionNotFoundError: There is no such session.
        """
        while True:
            await self.amend(session_id, shared(reader, EVERYTHING), *changes)
            async with self.letting_go(session_id, reader):
                lineage = await self.known(session_id)
            if reader in lineage.sharers:
                return lineage

    async def keeping(
        self, session_id: str, make: Callable[[Lineage, str], Awaitable[list[Change]]]
    ) -> tuple[Lineage, str]:
        """Change a session's record while all of its messages stay.

        Otherwise some could go between the look at it and the change.

        Args:
            session_id: The session.
            make: Returns the changes, from the record and the id of who keeps the messages; they
                say up to which one it keeps them from then on.

        Returns:
            The record before, and that id.

        Raises:
            SessionNotFoundError: There is no such session.
        """
        pin = str(uuid.uuid4())
        lineage = await self.noted(session_id, pin)
        async with self.letting_go(session_id, pin):
            while True:
                changes = await make(lineage, pin)
                try:
                    await self.amend(session_id, *changes)
                except SessionChangedError:
                    await asyncio.sleep(0)
                else:
                    return lineage, pin
                lineage = await self.known(session_id)

    @asynccontextmanager
    async def pinned(self, session_id: str) -> AsyncIterator[None]:
        """Keep a session's record, also if it is deleted meanwhile.

        So an append that comes after that finds its idempotency key, and makes no new session.

        Raises:
            SessionNotFoundError: There is no such session.
        """
        pin = str(uuid.uuid4())
        await self.amend(session_id, shared(pin, 1))
        async with self.letting_go(session_id, pin):
            yield
        await self.release(session_id, pin)

    @asynccontextmanager
    async def letting_go(self, session_id: str, reader: str) -> AsyncIterator[None]:
        """Release a session for somebody for whom what needed it fails.

        Where the store can't be reached, nobody knows what came of it, so the note stays.
        """
        try:
            yield
        except StoreUnavailableError:
            raise
        except Exception:
            with suppress(SessionStoreError):  # The first failure is the one to tell.
                await self.release(session_id, reader)
            raise

    async def release(self, session_id: str, reader: str) -> None:
        """Note that somebody doesn't read a session any more, which may have been the last one."""
        if await self._let_go(session_id, reader):
            await self.collect(session_id)

    async def _let_go(self, session_id: str, reader: str) -> bool:
        """Note that somebody doesn't read a session any more; return whether it exists."""
        changes = [shared(reader), Lineage.child(reader, None), Lineage.unmerged(reader)]
        return await self.store.amend_session(session_id, changes) is not None

    async def collect(self, session_id: str) -> None:
        """Remove a deleted session for good once nobody reads it, and then its deleted parents."""
        left = [session_id]
        while left:
            collected = left.pop()
            sources = await self._discard(collected)
            left += [each for each in sources if await self._let_go(each, collected)]

    async def _discard(self, session_id: str) -> list[str]:
        """Remove a deleted session that nobody reads; return which ones it kept until now."""
        while True:
            info = await self.store.get_info(session_id)
            lineage = None if info is None else Lineage(info)
            if info is None or lineage is None or not lineage.is_gone or lineage.sharers:
                return []
            try:
                await self.store.discard_session(
                    session_id, last_seq=info.last_seq, updated_at=info.updated_at
                )
            except SessionChangedError:
                continue
            except SessionSharedError:
                return []
            return lineage.sources
