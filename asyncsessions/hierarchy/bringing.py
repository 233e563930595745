"""What merges have begun to append to sessions, brought to an end once.

A merge notes in a session's record which messages it is about to append, appends them under an
idempotency key, and notes that they are there. Where it was killed in between, whoever comes next
does the rest. So does whoever remembers what a session shows, hides some of it, or deletes it;
or what was remembered would be half of a merge, and nobody could tell later which half.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from asyncsessions.errors import (
    CorruptSessionError,
    IdempotencyConflictError,
    SessionChangedError,
    SessionNotFoundError,
)
from asyncsessions.hierarchy.lineage import Lineage
from asyncsessions.hierarchy.records import Records
from asyncsessions.hierarchy.saved import new_token
from asyncsessions.hooks import Change, Window
from asyncsessions.models import Message

__all__ = ["Bringing", "UnfinishedError"]


class Bringing:
    """Brings what is new in one session to another.

    Args:
        records: The sessions' records.
    """

    def __init__(self, records: Records) -> None:
        self._records = records
        self._reader = records.reader
        self._store = records.store

    async def new_messages(self, fork: Lineage, target: Lineage) -> list[Message]:
        """Return what a session has that another one hasn't, and that wasn't brought to it."""
        common = fork.in_common(target)
        after = common[-1].upto if common else 0
        merged = target.merge_of(fork)
        return await self._reader.read_at(fork, Window(after=max(after, merged.seq)))

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
        """
        fork_id = fork.info.session_id
        target = await self._records.known(session_id)
        merged = target.merge_of(fork)
        if not merged.is_begun:
            return 0
        if merged.claim > fork.info.last_seq:
            fork = await self._records.known(fork_id)
        new = [each for each in await self.new_messages(fork, target) if each.seq <= merged.claim]
        stored = await self._append_once(session_id, new, merged.key)
        while True:
            target = await self._records.known(session_id)
            now = target.merge_of(fork)
            if now.key != merged.key:
                return 0
            places = [(there.seq, here.seq) for there, here in zip(stored, new, strict=False)]
            done = now.finished(places or [(target.info.last_seq, merged.claim)])
            if await self.note(target, done.change(fork_id)):
                return len(new)

    async def _append_once(
        self, session_id: str, messages: Sequence[Message], key: str
    ) -> Sequence[Message]:
        """Append messages; return them, or nothing where others were appended with this key."""
        if not messages:
            return ()
        try:
            return await self._store.append(session_id, messages, idempotency_key=f"merge:{key}")
        except IdempotencyConflictError:
            # The fork shows others by now than when they were appended.
            return ()

    async def keeping(
        self, session_id: str, make: Callable[[Lineage, str], Awaitable[list[Change]]]
    ) -> tuple[Lineage, str]:
        """Do what `Records.keeping` does once no merge into the session is under way."""

        async def make_whole(lineage: Lineage, pin: str) -> list[Change]:
            if lineage.is_being_merged:
                raise UnfinishedError
            return await make(lineage, pin)

        while True:
            try:
                return await self._records.keeping(session_id, make_whole)
            except UnfinishedError:
                # Or one that is deleted meanwhile would be made again.
                async with self._records.pinned(session_id):
                    await self.finish_all(session_id)

    async def finish_all(self, session_id: str) -> None:
        """Finish what any session's merge into this one has begun to append."""
        target = await self._records.known(session_id)
        for fork_id, merged in target.merges.items():
            if not merged.is_begun:
                continue
            try:
                fork = await self._records.known(fork_id)
                if fork.life == merged.life:
                    await self.finish(fork, session_id)
                    continue
            except (SessionNotFoundError, CorruptSessionError):
                pass
            # What was to come is gone.
            await self.note(target, merged.unclaimed().change(fork_id))


class UnfinishedError(Exception):
    """A merge has begun to append messages."""
