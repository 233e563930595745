"""Stores with one defect each, for the conformance suite to catch.

The defects are ones that session stores have had. Each class says what is wrong with it; the rest
is the store that it derives from. Overriding what is final is what a careless store would do.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from asyncsessions.batching import Outcome
from asyncsessions.codec import decode_message
from asyncsessions.errors import InvalidMessageError
from asyncsessions.hooks import (
    SHARED,
    Append,
    Appended,
    Change,
    Replace,
    Replaced,
    Scan,
    Tail,
    Update,
    Window,
)
from asyncsessions.models import JSONValue, Message, SearchHit, SessionInfo
from asyncsessions.protocols import SessionStore
from asyncsessions.stores._disk import Disk
from asyncsessions.stores.jsonl import JSONLinesSessionStore
from asyncsessions.stores.memory import InMemorySessionStore
from asyncsessions.testing import StoreConformance

_replace = msgspec.structs.replace
Messages = Sequence[Message | Mapping[str, Any]]


class Memory(InMemorySessionStore):
    """Gives the broken stores below the messages and records that they spoil."""

    def info(self, session_id: str) -> SessionInfo | None:
        session = self._sessions.get(session_id)
        return None if session is None else session.info

    def set_info(self, session_id: str, **fields: Any) -> None:
        session = self._sessions[session_id]
        session.info = _replace(session.info, **fields)


# Order, seq and batches.


class LastInFirstOut(Memory):
    """Stores the appends of a flush in reverse."""

    async def _append(self, batch: Sequence[Append]) -> list[Any]:
        return (await super()._append(batch[::-1]))[::-1]


class SortsByClock(Memory):
    """Reads messages in the order of their timestamps."""

    async def _tail(self, session_id: str, window: Window) -> Tail | None:
        tail = await super()._tail(session_id, window)
        if tail is None:
            return None
        bodies = sorted(tail.messages, key=lambda body: decode_message(body).timestamp)
        return Tail(bodies, tail.expires_at)


class HalfBatches(Memory):
    """Stores a batch one message at a time, so readers see a part of it."""

    async def _append(self, batch: Sequence[Append]) -> list[Any]:
        outcomes = []
        for append in batch:
            parts = []
            for body in append.bodies:
                parts += await super()._append([_replace(append, bodies=(body,))])
                await asyncio.sleep(0)
            outcomes.append(parts[0] if parts else Appended(0, append.now))
        return outcomes


class CallPerMessage(Memory):
    """Makes a call of its own for each message, so a cancelled batch stays half done."""

    async def append(self, session_id: str, messages: Messages, **options: Any) -> list[Message]:  # type: ignore[misc]  # see above
        stored = []
        for message in messages:
            stored += await super().append(session_id, [message], **options)
        return stored


class ResetsSeq(Memory):
    """Counts from 1 again after a clear."""

    async def _replace(self, replace: Replace) -> Replaced | None:
        done = await super()._replace(replace)
        if replace.from_seq == 1 and not replace.bodies and done is not None:
            self.set_info(replace.session_id, last_seq=0)
        return done


class ReusesSeq(Memory):
    """Gives the ``seq`` of a popped message again."""

    async def _replace(self, replace: Replace) -> Replaced | None:
        done = await super()._replace(replace)
        if done is not None and done.removed == 1 and not replace.bodies:
            self.set_info(replace.session_id, last_seq=replace.from_seq - 1)
        return done


class SkipsSeq(Memory):
    """Uses a ``seq`` up for an append that it refuses."""

    async def _append(self, batch: Sequence[Append]) -> list[Any]:
        outcomes = []
        for append in batch:
            outcomes += await super()._append([append])
            info = self.info(append.session_id)
            if isinstance(outcomes[-1], Exception) and info is not None:
                self.set_info(append.session_id, last_seq=info.last_seq + 1)
        return outcomes


class MovesPartialTurns(Memory):
    """Gives a streamed turn a new ``seq`` with each of its pieces."""

    async def _replace(self, replace: Replace) -> Replaced | None:
        return await super()._replace(_replace(replace, in_place=False))


# Ids.


class _Folded(dict[str, Any]):
    """A dict that takes some keys for the same."""

    def fold(self, key: str) -> str:
        raise NotImplementedError

    def __getitem__(self, key: str) -> Any:
        return super().__getitem__(self.fold(key))

    def __setitem__(self, key: str, value: Any) -> None:
        super().__setitem__(self.fold(key), value)

    def __delitem__(self, key: str) -> None:
        super().__delitem__(self.fold(key))

    def get(self, key: str, default: Any = None) -> Any:
        return super().get(self.fold(key), default)


class _Sanitised(_Folded):
    def fold(self, key: str) -> str:
        return re.sub(r"[^A-Za-z0-9_-]", "_", key)


class _Lowered(_Folded):
    def fold(self, key: str) -> str:
        return key.lower()


class _Cut(_Folded):
    def fold(self, key: str) -> str:
        return key[:255]


class SanitisesIds(Memory):
    """Replaces what doesn't look safe in an id, so ids share a session."""

    async def _open(self) -> None:
        self._sessions = _Sanitised()


class IgnoresCaseOfIds(Memory):
    """Takes ``A`` and ``a`` for the same session."""

    async def _open(self) -> None:
        self._sessions = _Lowered()


class CutsIds(Memory):
    """Takes only the first 255 characters of an id."""

    async def _open(self) -> None:
        self._sessions = _Cut()


class DeletesByPrefix(Memory):
    """Deletes every session whose id begins like the one to delete."""

    async def _delete(self, session_id: str, *, expired_at: float | None = None) -> bool:
        for other in [each for each in self._sessions if each.startswith(session_id)]:
            if other != session_id:
                await super()._delete(other, expired_at=expired_at)
        return await super()._delete(session_id, expired_at=expired_at)


# Lost updates.


class LosesUpdates(Memory):
    """Starts each update of a flush from the record as it was before the flush."""

    async def _update(self, batch: Sequence[Update]) -> list[Any]:
        before = {update.session_id: self.info(update.session_id) for update in batch}
        outcomes: list[Any] = []
        for update in batch:
            info = before[update.session_id] or SessionInfo(session_id=update.session_id)
            if self.info(update.session_id) is not None:
                self.set_info(update.session_id, metadata=info.metadata, state=info.state)
            outcomes += await super()._update([update])
        return outcomes


class OverwritesMetadata(Memory):
    """Sets the whole metadata where one key of it was to be set."""

    async def _update(self, batch: Sequence[Update]) -> list[Any]:
        return await super()._update([_replace(u, changes=self._spoilt(u)) for u in batch])

    def _spoilt(self, update: Update) -> tuple[Change, ...]:
        return tuple(
            Change(("metadata",), "set", {change.path[1]: change.value})
            if change.path[0] == "metadata" and len(change.path) == 2
            else change
            for change in update.changes
        )


class IncrementsInTwoSteps(JSONLinesSessionStore):
    """Reads a number, and writes the sum in a second step."""

    async def _update(self, batch: Sequence[Update]) -> Sequence[Outcome[list[JSONValue] | None]]:
        return await super()._update([await self._spoilt(update) for update in batch])

    async def _spoilt(self, update: Update) -> Update:
        info = await self._head(update.session_id)
        state = {} if info is None else info.state
        changes = tuple(
            Change(change.path, "set", state.get(change.path[1], 0) + change.value)
            if change.kind == "increment"
            else change
            for change in update.changes
        )
        return _replace(update, changes=changes)


class WritesRecordsBack(JSONLinesSessionStore):
    """Writes a session's state with each append, as it was read before."""

    async def _append(self, batch: Sequence[Append]) -> Sequence[Outcome[Appended]]:
        ids = {append.session_id for append in batch}
        before = [info for sid in ids if (info := await self._head(sid)) is not None]
        outcomes = await super()._append(batch)
        for info in before:
            state = [Change(("state", key), "set", value) for key, value in info.state.items()]
            await super()._update([Update(info.session_id, tuple(state), info.updated_at)])
        return outcomes


class _NoLocks(Disk):
    def try_lock(self, fd: int, byte: int = 0) -> bool:
        return True

    def unlock(self, fd: int, byte: int = 0) -> None:
        pass

    def write(self, fd: int, data: bytes, offset: int) -> None:
        # Long enough for the other processes to write to the same place.
        time.sleep(0.005)
        super().write(fd, data, offset)


class TakesNoLock(JSONLinesSessionStore):
    """Writes to a file without its lock."""

    def __init__(self, directory: str | Path, **options: Any) -> None:
        super().__init__(directory, disk=_NoLocks(), **options)


class ServesFromCache(JSONLinesSessionStore):
    """Reads a session's messages once, and again only after a write of its own."""

    def __init__(self, directory: str | Path, **options: Any) -> None:
        super().__init__(directory, **options)
        self._cache: dict[tuple[str, Window], Tail | None] = {}

    async def _append(self, batch: Sequence[Append]) -> Sequence[Outcome[Appended]]:
        self._cache.clear()
        return await super()._append(batch)

    async def _tail(self, session_id: str, window: Window) -> Tail | None:
        if (session_id, window) not in self._cache:
            self._cache[session_id, window] = await super()._tail(session_id, window)
        return self._cache[session_id, window]


# Acknowledging, cancelling, retrying.


class AnswersEarly(Memory):
    """Says that a message is stored, and stores it a moment later."""

    async def _append(self, batch: Sequence[Append]) -> list[Any]:
        outcomes: list[Any] = []
        for append in batch:
            info = self.info(append.session_id)
            outcomes.append(Appended((0 if info is None else info.last_seq) + 1, append.now))
        store = super()._append
        loop = asyncio.get_running_loop()
        loop.call_later(0.005, lambda: setattr(self, "late", loop.create_task(store(batch))))
        return outcomes


class WritesBehind(JSONLinesSessionStore):
    """Says that a message is stored, and writes it behind the caller's back."""

    async def _append(self, batch: Sequence[Append]) -> Sequence[Outcome[Appended]]:
        done: list[Outcome[Appended]] = [Appended(1, append.now) for append in batch]
        previous: asyncio.Task[None] | None = getattr(self, "behind", None)

        async def write() -> None:
            if previous is not None:
                await previous
            await asyncio.sleep(0.05)
            await super(WritesBehind, self)._append(batch)

        self.behind = asyncio.get_running_loop().create_task(write())
        return done


class CancelsNeighbours(Memory):
    """Lets callers wait for one common task, which the first who is cancelled takes along."""

    async def append(self, session_id: str, messages: Messages, **options: Any) -> list[Message]:  # type: ignore[misc]  # see above
        common: asyncio.Task[None] | None = getattr(self, "common", None)
        if common is None or common.done():
            common = self.common = asyncio.get_running_loop().create_task(asyncio.sleep(0.002))
        await common
        return await super().append(session_id, messages, **options)


class ForgetsKeys(Memory):
    """Remembers no idempotency key."""

    async def _append(self, batch: Sequence[Append]) -> list[Any]:
        return await super()._append([_replace(append, key=None) for append in batch])


class ForgetsKeysOnClear(Memory):
    """Remembers an idempotency key only until its message is cleared."""

    async def _replace(self, replace: Replace) -> Replaced | None:
        done = await super()._replace(replace)
        if replace.from_seq == 1 and done is not None:
            self._sessions[replace.session_id].keys.clear()
        return done


class IgnoresContentOfKeys(Memory):
    """Takes anything with a known idempotency key for a retry."""

    async def _append(self, batch: Sequence[Append]) -> list[Any]:
        return await super()._append([_replace(append, digest="") for append in batch])


class AnswersRetriesAnew(Memory):
    """Stores a retry once, but answers it as if it were stored just now."""

    async def _append(self, batch: Sequence[Append]) -> list[Any]:
        outcomes = await super()._append(batch)
        return [
            _replace(outcome, now=append.now) if isinstance(outcome, Appended) else outcome
            for append, outcome in zip(batch, outcomes, strict=True)
        ]


class SwallowsBadMessages(Memory):
    """Returns nothing where it should refuse."""

    async def append(self, session_id: str, messages: Messages, **options: Any) -> list[Message]:  # type: ignore[misc]  # see above
        try:
            return await super().append(session_id, messages, **options)
        except InvalidMessageError:
            return []


class ReadsAllToAppend(Memory):
    """Parses the whole history for each append."""

    async def _append(self, batch: Sequence[Append]) -> list[Any]:
        for append in batch:
            tail = await self._tail(append.session_id, Window())
            for body in [] if tail is None else [*tail.messages] * 4:
                decode_message(body)
        return await super()._append(batch)


class ComputesInOneGo(Memory):
    """Computes for half a second on the event loop, and longer on a slower machine."""

    async def _append(self, batch: Sequence[Append]) -> list[Any]:
        total = 0
        for step in range(10_000_000):
            total += step
        return await super()._append(batch)


class BlocksTheLoop(Memory):
    """Sleeps on the event loop."""

    async def _append(self, batch: Sequence[Append]) -> list[Any]:
        time.sleep(0.0001)  # noqa: ASYNC251  # the defect
        return await super()._append(batch)


# Windows and retention.


class CutsThroughPairs(Memory):
    """Keeps exactly so many messages, whatever they are."""

    async def _append(self, batch: Sequence[Append]) -> list[Any]:
        outcomes: list[Any] = []
        for append in batch:
            outcomes += await super()._append([_replace(append, keep=None, results=())])
            session = self._sessions[append.session_id]
            if append.keep is not None:
                del session.seqs[: -append.keep], session.bodies[: -append.keep]
        return outcomes


class LosesNewestExchange(CutsThroughPairs):
    """Drops results without their call, also where nothing else is left."""

    async def _append(self, batch: Sequence[Append]) -> list[Any]:
        outcomes = await super()._append(batch)
        for append in batch:
            session = self._sessions[append.session_id]
            while append.keep is not None and session.bodies:
                if decode_message(session.bodies[0]).role != "tool":
                    break
                del session.seqs[0], session.bodies[0]
        return outcomes


class SkipsInPaging(Memory):
    """Keeps the newest messages of a page, also when paging forward."""

    async def _tail(self, session_id: str, window: Window) -> Tail | None:
        return await super()._tail(session_id, _replace(window, oldest=False))


# Finding, removing, expiring.


class RepeatsInPages(Memory):
    """Begins a page with the last session of the page before."""

    async def _scan(self, scan: Scan) -> list[SessionInfo]:
        if scan.below is not None:
            scan = _replace(scan, below=(scan.below[0], scan.below[1] + "\0"))
        return await super()._scan(scan)


class SkipsSameMoment(Memory):
    """Continues a list after a moment instead of after a session."""

    async def _scan(self, scan: Scan) -> list[SessionInfo]:
        if scan.below is not None:
            scan = _replace(scan, below=(scan.below[0], ""))
        return await super()._scan(scan)


class ListsExpired(Memory):
    """Lists sessions until a sweeper has removed them."""

    async def _scan(self, scan: Scan) -> list[SessionInfo]:
        now = scan.now if scan.expired else float("-inf")
        return await super()._scan(_replace(scan, now=now))


class RevivesExpired(Memory):
    """Goes on with an expired session where it should start a new one."""

    def _existing(self, session_id: str, now: float) -> Any:
        session = super()._existing(session_id, float("-inf"))
        if session is not None and session.info.is_expired(now):
            session.info = _replace(session.info, expires_at=None)
        return session


class ArchivesWhatIsCleared(Memory):
    """Finds in a search what was cleared."""

    async def _replace(self, replace: Replace) -> Replaced | None:
        old = self._sessions.get(replace.session_id)
        if old is not None and replace.from_seq == 1:
            self.archive = [decode_message(body) for body in old.bodies]
        return await super()._replace(replace)

    async def search(self, query: str, *, limit: int = 5, window: int = 5) -> list[SearchHit]:
        found = await super().search(query, limit=limit, window=window)
        for message in getattr(self, "archive", []):
            if query in message.content:
                found.append(SearchHit("s", "s", 0.0, 1.0, message.seq, message.content, []))
        return found


class KeepsStateOfDeleted(Memory):
    """Keeps a deleted session's state for the next one of that name."""

    async def _delete(self, session_id: str, *, expired_at: float | None = None) -> bool:
        info = self.info(session_id)
        self.left: SessionInfo | None = info
        return await super()._delete(session_id, expired_at=expired_at)

    async def _append(self, batch: Sequence[Append]) -> list[Any]:
        outcomes = await super()._append(batch)
        left = getattr(self, "left", None)
        if left is not None and self.info(left.session_id) is not None:
            self.set_info(left.session_id, state=left.state)
            self.left = None
        return outcomes


# Sessions that branch.


class IgnoresReaders(Memory):
    """Removes messages whoever reads them."""

    async def _replace(self, replace: Replace) -> Replaced | None:
        self._forget_readers(replace.session_id)
        return await super()._replace(replace)

    async def _delete(self, session_id: str, *, expired_at: float | None = None) -> bool:
        self._forget_readers(session_id)
        return await super()._delete(session_id, expired_at=expired_at)

    def _forget_readers(self, session_id: str) -> None:
        info = self.info(session_id)
        if info is not None:
            metadata = {key: info.metadata[key] for key in info.metadata if key != SHARED}
            self.set_info(session_id, metadata=metadata)


class ExpectsNothing(Memory):
    """Changes records whatever they hold."""

    async def _update(self, batch: Sequence[Update]) -> list[Any]:
        return await super()._update([_replace(u, changes=self._blind(u)) for u in batch])

    def _blind(self, update: Update) -> tuple[Change, ...]:
        return tuple(change for change in update.changes if change.kind != "expect")


class AmendsInPart(Memory):
    """Makes the changes before one that fails."""

    async def _update(self, batch: Sequence[Update]) -> list[Any]:
        outcomes: list[Any] = []
        for update in batch:
            for change in update.changes:
                (outcome,) = await super()._update([_replace(update, changes=(change,))])
                if isinstance(outcome, Exception):
                    break
            else:
                (outcome,) = await super()._update([_replace(update, changes=())])
            outcomes.append(outcome)
        return outcomes


class ExpiresWhatIsRead(Memory):
    """Lets a session expire of which others read messages."""

    async def _update(self, batch: Sequence[Update]) -> list[Any]:
        return await super()._update([_replace(u, unless_shared=False) for u in batch])


# For cases that hypothesis drives; `test_conformance_catches.py` runs these in a pytest of their
# own, because their names keep pytest from collecting them here.


class DropsZeros(Memory):
    """Loses U+0000, as a server does that has no place for it in text."""

    async def _append(self, batch: Sequence[Append]) -> list[Any]:
        return await super()._append([_replace(a, bodies=self._spoilt(a)) for a in batch])

    def _spoilt(self, append: Append) -> tuple[bytes, ...]:
        return tuple(body.replace(b"\\u0000", b"") for body in append.bodies)


class ForgetsExpiryOnPop(Memory):
    """Loses a session's expiry when a message is removed."""

    async def _replace(self, replace: Replace) -> Replaced | None:
        done = await super()._replace(replace)
        if done is not None:
            self.set_info(replace.session_id, expires_at=None)
        return done


class TestDropsZeros(StoreConformance):
    def make_store(self, **options: Any) -> SessionStore:
        return DropsZeros(**options)


class TestForgetsExpiryOnPop(StoreConformance):
    def make_store(self, **options: Any) -> SessionStore:
        return ForgetsExpiryOnPop(**options)


def open_without_lock(directory: str) -> SessionStore:
    """For worker processes."""
    return TakesNoLock(directory)


def open_write_behind(directory: str) -> SessionStore:
    """For worker processes."""
    return WritesBehind(directory)
