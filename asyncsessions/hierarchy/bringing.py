"""What merges have begun to append to sessions, brought to an end once.

A merge notes in a session's record which messages it is about to append, appends them under an
idempotency key, and notes that they are there. Where it was killed in between, whoever comes next
does the rest. So does whoever remembers what a session shows, hides some of it, or deletes it;
or what was remembered would be half of a merge, and nobody could tell later which half. Whoever
clears it only looks whether they are there: the rest is still to come, when it is merged again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence

from asyncsessions.errors import (
    CorruptSessionError,
    IdempotencyConflictError,
    InvalidMessageError,
    SessionChangedError,
    SessionNotFoundError,
    UnrelatedSessionsError,
    VersionConflictError,
)
from asyncsessions.hierarchy.forking import Forking
from asyncsessions.hierarchy.lineage import Lineage
from asyncsessions.hierarchy.records import EVERYTHING, Records
from asyncsessions.hierarchy.saved import Run, SavedMerge, new_token, runs_of
from asyncsessions.hooks import Change, Window
from asyncsessions.models import Message

__all__ = ["Bringing", "UnfinishedError"]


class Bringing:
    """Brings what is new in one session to another.

    Args:
        records: The sessions' records.
        forking: Knows how they are related.
    """

    def __init__(self, records: Records, forking: Forking) -> None:
        self._records = records
        self._reader = records.reader
        self._store = records.store
        self._forking = forking

    async def new_messages(self, fork: Lineage, target: Lineage) -> list[Message]:
        """Return what a session has that another one hasn't, and that wasn't brought to it."""
        return await self._between(fork, target.merge_of(fork).gaps())

    async def _between(
        self, fork: Lineage, bounds: Iterable[tuple[int, int | None]]
    ) -> list[Message]:
        """Return what a session shows between some ``seq``, oldest first."""
        windows = [Window(after=after, before=before) for after, before in bounds]
        found = await asyncio.gather(*(self._reader.read_at(fork, each) for each in windows))
        return [message for each in found for message in each]

    async def note(self, target: Lineage, *changes: Change) -> bool:
        """Change a session's record, unless another merge or a revert has; return whether."""
        guards = (target.unless_changed(), new_token())
        try:
            await self._records.amend(target.info.session_id, *guards, *changes)
        except SessionChangedError:
            return False
        return True

    async def finish(self, fork: Lineage, session_id: str) -> int:
        """Append what somebody has begun to append, unless it is there by now.

        Returns:
            How many messages that were; 0 if somebody else has noted it.

        Raises:
            CorruptSessionError: It can't be read. Nobody has begun it any more.
            InvalidMessageError: It can't be stored. The same.
        """
        fork_id = fork.info.session_id
        target = await self._records.known(session_id)
        merged = target.merge_of(fork)
        if any(run.here + run.count - 1 > fork.info.last_seq for run in merged.claim):
            fork = await self._records.known(fork_id)
            merged = target.merge_of(fork)
        if not merged.is_begun:
            return 0
        try:
            bounds = ((run.here - 1, run.here + run.count) for run in merged.claim)
            new = await self._between(fork, bounds)
            runs = await self._append_once(session_id, new, merged)
        except (CorruptSessionError, InvalidMessageError):
            await self._settle(fork_id, session_id, merged)
            raise
        return len(new) if await self._end(fork_id, session_id, merged, runs) else 0

    async def _settle(self, fork_id: str, session_id: str, merged: SavedMerge) -> None:
        """Note whether messages were appended, and append none."""
        await self._end(
            fork_id, session_id, merged, await self._append_once(session_id, (), merged)
        )

    async def _end(
        self, fork_id: str, session_id: str, merged: SavedMerge, runs: Sequence[Run]
    ) -> bool:
        """Note that messages were appended, and no others come; return whether nobody else has."""
        while True:
            target = await self._records.known(session_id)
            now = target.merges.get(fork_id, SavedMerge(None, life=merged.life))
            if now.life != merged.life:
                return False
            if now.key == merged.key:
                ended = now.unclaimed().brought(runs)
            else:
                # Whoever noted that they don't come may have been too early.
                late = [run for run in runs if target.has(run.there) and not now.has(run.here)]
                if not late:
                    return False
                ended = now.brought(late)
            if await self.note(target, ended.change(fork_id)):
                return True

    async def _append_once(
        self, session_id: str, messages: Sequence[Message], merged: SavedMerge
    ) -> Sequence[Run]:
        """Append messages, unless it was done; return what was appended then or now."""
        # No messages can't be appended; so this only tells whether the key is known.
        expected_seq = None if messages else EVERYTHING
        try:
            stored = await self._store.append(
                session_id,
                messages,
                idempotency_key=f"merge:{merged.key}",
                expected_seq=expected_seq,
            )
        except IdempotencyConflictError:
            # The fork shows others by now than when they were appended.
            return merged.claim
        except VersionConflictError:
            return ()
        pairs = zip(stored, messages, strict=True)
        return runs_of((there.seq, here.seq) for there, here in pairs)

    async def keeping(
        self,
        session_id: str,
        make: Callable[[Lineage, str], Awaitable[list[Change]]],
        *,
        appends: bool = True,
    ) -> tuple[Lineage, str]:
        """Do what `Records.keeping` does once no merge into the session is under way.

        Args:
            session_id: The session.
            make: See there.
            appends: Whether to finish such a merge, rather than put it off.
        """

        async def make_whole(lineage: Lineage, pin: str) -> list[Change]:
            if lineage.is_being_merged:
                raise UnfinishedError
            return await make(lineage, pin)

        while True:
            try:
                return await self._records.keeping(session_id, make_whole)
            except UnfinishedError:
                await (self.finish_all if appends else self.put_off)(session_id)

    async def finish_all(self, session_id: str) -> None:
        """Finish what any session's merge into this one has begun to append."""
        # Or one that is deleted meanwhile would be made again.
        async with self._records.pinned(session_id):
            target = await self._records.known(session_id)
            for fork_id, merged in target.merges.items():
                if merged.is_begun and not await self._finish(fork_id, target, merged):
                    # What was to come is gone.
                    await self.note(target, merged.unclaimed().change(fork_id))

    async def _finish(self, fork_id: str, target: Lineage, merged: SavedMerge) -> bool:
        """Finish a merge; return whether there still is what is to be merged."""
        try:
            fork = await self._records.known(fork_id)
            await self._forking.lines(fork, target)
            if fork.life != merged.life:
                return False
            await self.finish(fork, target.info.session_id)
        except (SessionNotFoundError, UnrelatedSessionsError):
            return False
        except InvalidMessageError:
            pass  # What can't be stored is for whoever merges it again.
        except CorruptSessionError as exc:
            if exc.session_id == target.info.session_id:
                raise
        return True

    async def put_off(self, session_id: str) -> None:
        """Note what any session's merge into this one has appended; the rest is still to come."""
        target = await self._records.known(session_id)
        for fork_id, merged in target.merges.items():
            if merged.is_begun:
                await self._settle(fork_id, session_id, merged)


class UnfinishedError(Exception):
    """A merge has begun to append messages."""
