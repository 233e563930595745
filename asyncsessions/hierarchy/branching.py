"""Forks, snapshots and reverts, each as a few atomic changes of sessions' records.

Whoever needs a session's messages says so in its record first, and looks at it afterwards; and no
store removes messages that somebody needs (`hooks.check_unshared`). So a session that is cleared or
deleted at the same time either takes its messages along before they were asked for, or leaves them.
What a killed process leaves behind is at most such a note, which keeps messages that nobody reads.
"""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import msgspec

from asyncsessions.base import BaseSessionStore
from asyncsessions.codec import check_json_object
from asyncsessions.errors import (
    InvalidMessageError,
    MessageNotFoundError,
    SessionChangedError,
    SessionCycleError,
    SessionNotFoundError,
    SessionSharedError,
    SnapshotNotFoundError,
    UnrelatedSessionsError,
)
from asyncsessions.hierarchy.lineage import (
    TREE,
    Lineage,
    Part,
    SavedRecord,
    SavedSnapshot,
    View,
    count_of,
    cut,
    in_tree,
    new_token,
    own_fields,
    shared,
    skip,
    view_changes,
)
from asyncsessions.hierarchy.reading import Reader
from asyncsessions.hooks import SHARED, Change, Window
from asyncsessions.models import Checkpoint, JSONValue, SessionInfo
from asyncsessions.requests import check_text

__all__ = ["EVERYTHING", "Branching"]

# Up to where somebody reads who doesn't know yet. Every store holds whole numbers up to here.
EVERYTHING = 2**53 - 1
_COPIED_AT_ONCE = 256
# All of them are in the session's record, which most calls read.
_MOST_REVERTS = 32


class Branching:
    """Branches sessions of a store.

    Args:
        store: The store.
        reader: Reads its sessions.
    """

    def __init__(self, store: BaseSessionStore, reader: Reader) -> None:
        self._store = store
        self._reader = reader
        self._clock = store.policy.clock

    async def known(self, session_id: str) -> Lineage:
        """Return a session's record.

        Raises:
            SessionNotFoundError: There is no such session.
        """
        lineage = await self._reader.lineage(session_id)
        if lineage is None:
            raise SessionNotFoundError(session_id)
        return lineage

    def now(self) -> float:
        """Return the time, in seconds since the epoch."""
        return self._clock()

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
        values = await self._store.amend_session(session_id, changes)
        if values is None:
            raise SessionNotFoundError(session_id)
        return values

    # Forks.

    async def fork(self, session_id: str, seq: int | None, title: str | None) -> str:
        """Make a session that begins as another; see `HierarchicalSessionStore`."""
        if title is not None:
            check_text("title", title)
        child_id = str(uuid.uuid4())
        now = self._clock()
        await self.amend(session_id, shared(child_id, EVERYTHING), Lineage.child(child_id, now))
        try:
            lineage = await self.known(session_id)
            parts = await self.parts_upto(lineage, seq)
            beginning = self._begin_as(child_id, lineage, parts, seq, title)
            if self._shares(lineage.info):
                # Of at least one message, or the parent could be removed, and what it reads.
                reach = self._reach(session_id, child_id, max(1, lineage.own_upto(parts)))
                await _both(beginning, reach)
            else:
                await beginning
                await self._reach(session_id, child_id, None)
        except (MessageNotFoundError, SessionNotFoundError, InvalidMessageError):
            await self.release(session_id, child_id)
            raise
        return child_id

    async def _reach(self, session_id: str, child_id: str, upto: int | None) -> None:
        """Note up to where a fork reads, unless somebody has found and deleted it already."""
        known = Change(("metadata", SHARED, child_id), "expect", EVERYTHING)
        with contextlib.suppress(SessionChangedError):
            await self._store.amend_session(session_id, [known, shared(child_id, upto)])

    async def _begin_as(
        self,
        child_id: str,
        lineage: Lineage,
        parts: tuple[Part, ...],
        seq: int | None,
        title: str | None,
    ) -> None:
        """Make a session that shows parts, with the record of the one that it is forked from."""
        info = lineage.info
        seq = info.last_seq if seq is None else seq
        changes = [
            *_inherited(info, seq, title),
            in_tree("parent", {"id": info.session_id, "seq": seq}),
            in_tree("origin", msgspec.to_builtins(SavedRecord.of(info))),
        ]
        if self._shares(info):
            changes += [skip(seq), *view_changes(View(parts, seq, 0))]
            await self._store.amend_session(child_id, changes, create=True)
        else:
            await self._copy(child_id, parts, seq)
            await self._store.amend_session(child_id, [in_tree("gone"), *changes])

    async def adopt(self, parent_id: str, child_id: str) -> Lineage:
        """Note a session that belongs under another one, but reads nothing of it."""
        return await self.change(parent_id, lambda _: [Lineage.child(child_id, self._clock())])

    async def begin(
        self, session_id: str, parent_id: str | None, old: Lineage | None, changes: Sequence[Change]
    ) -> None:
        """Make a session.

        Args:
            session_id: Its id.
            parent_id: The session that it belongs under.
            old: The record of the one that was deleted, and had the same id.
            changes: What gives it its record.

        Raises:
            SessionNotFoundError: There is no such parent.
            SessionCycleError: The parent comes from the one that had the same id.
            SessionChangedError: Somebody else made one.
        """
        first = [Change(("metadata", TREE, "token"), "expect", None)]
        if old is not None:
            first = old.again()
        if parent_id is not None:
            line = await self._line(await self.known(parent_id))
            if any(each.info.session_id == session_id for each in line):
                raise SessionCycleError(session_id, parent_id)
            parent = await self.adopt(parent_id, session_id)
            link = {"id": parent_id, "seq": parent.info.last_seq}
            first += [in_tree("gone"), in_tree("parent", link)]
            if old is not None and old.source is not None:
                # Those who read the old one may need it.
                first.append(Lineage.annex(old.source.id, self._clock()))
        first.append(new_token())
        await self._store.amend_session(session_id, [*first, *changes], create=True)

    def _shares(self, info: SessionInfo) -> bool:
        """Whether messages stay where they are for as long as somebody reads them."""
        policy = self._store.policy
        limits = (policy.max_messages, policy.ttl_seconds, info.expires_at)
        return self._store._keeps_messages and limits == (None, None, None)

    async def _copy(self, child_id: str, parts: Sequence[Part], seq: int) -> None:
        """Copy messages to a session that isn't there yet, for all that a caller can tell."""
        first = seq - count_of(parts)
        await self._store.amend_session(child_id, [in_tree("gone", seq), skip(first)], create=True)
        for part in parts:
            after = part.after
            while after < part.upto:
                page = await self._store.get_messages(
                    part.source, limit=_COPIED_AT_ONCE, after=after
                )
                page = [message for message in page if message.seq <= part.upto]
                if not page:
                    break
                await self._store.append(child_id, page)
                after = page[-1].seq

    async def parts_upto(self, lineage: Lineage, seq: int | None) -> tuple[Part, ...]:
        """Return what a session shows up to a message.

        Raises:
            MessageNotFoundError: It shows no such message.
        """
        if seq is None:
            return lineage.parts
        parts = tuple(cut(lineage.parts, before=seq + 1))
        last = parts[-1] if parts else None
        if last is None or last.upto != seq:
            raise MessageNotFoundError(lineage.info.session_id, seq)
        bounds = {"after": seq - 1, "before": seq + 1}
        if not await self._store.get_messages(last.source, **bounds):
            raise MessageNotFoundError(lineage.info.session_id, seq)
        whole = next(part for part in lineage.parts if part.after == last.after)
        if whole.count != whole.upto - whole.after:
            # Some are missing, and nobody knows where.
            bounds = {"after": seq, "before": whole.upto + 1}
            newer = await self._store.get_messages(last.source, **bounds)
            last = msgspec.structs.replace(last, count=max(1, whole.count - len(newer)))
        return (*parts[:-1], last)

    async def seq_at(self, session_id: str, index: int) -> int:
        """Return the ``seq`` of the message at an index, counted from 0.

        Raises:
            MessageNotFoundError: There aren't so many.
        """
        lineage = await self.known(session_id)
        left = index
        for part in lineage.parts:
            if 0 <= left < part.count == part.upto - part.after:
                return part.after + 1 + left
            if part.count != part.upto - part.after:
                break
            left -= part.count
        else:
            raise MessageNotFoundError(session_id, index)
        messages = await self._reader.read_at(lineage, Window(limit=index + 1, oldest=True))
        if not 0 <= index < len(messages):
            raise MessageNotFoundError(session_id, index)
        return messages[index].seq

    async def lines(self, left: Lineage, right: Lineage) -> tuple[list[Lineage], list[Lineage]]:
        """Return two sessions with their ancestors, each up to the nearest one of both.

        Raises:
            UnrelatedSessionsError: They have no common ancestor.
        """
        lines = [await self._line(left), await self._line(right)]
        places = [
            {each.info.session_id: place for place, each in enumerate(line)} for line in lines
        ]
        for session_id, place in places[0].items():
            if session_id in places[1]:
                return lines[0][: place + 1], lines[1][: places[1][session_id] + 1]
        raise UnrelatedSessionsError(left.info.session_id, right.info.session_id)

    async def _line(self, lineage: Lineage) -> list[Lineage]:
        """Return a session and its ancestors, also those that were deleted."""
        line = [lineage]
        seen = {lineage.info.session_id}
        parent = lineage.parent
        while parent is not None and parent.id not in seen:
            seen.add(parent.id)
            info = await self._store.get_info(parent.id)
            if info is None:
                break
            line.append(Lineage(info))
            parent = line[-1].source
        return line

    # Snapshots and reverts.

    async def snapshot(
        self, session_id: str, label: str | None, metadata: Mapping[str, Any]
    ) -> str:
        """Remember a session's state; see `HierarchicalSessionStore`."""
        if label is not None:
            check_text("label", label)
        check_json_object(dict(metadata), "metadata")

        async def keep(lineage: Lineage, snapshot_id: str) -> list[Change]:
            fields = {"label": label, "metadata": dict(metadata)}
            snapshot = lineage.snapshot(lineage.parts, self._clock(), **fields)
            return [lineage.unless_changed(), *lineage.keep(snapshot_id, snapshot)]

        _, snapshot_id = await self.keeping(session_id, keep)
        return snapshot_id

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
        await self.amend(session_id, shared(pin, EVERYTHING))
        try:
            while True:
                lineage = await self.known(session_id)
                changes = await make(lineage, pin)
                try:
                    await self.amend(session_id, *changes)
                except SessionChangedError:
                    await asyncio.sleep(0)
                else:
                    return lineage, pin
        except (LookupError, InvalidMessageError):
            await self.release(session_id, pin)
            raise

    async def forget(self, session_id: str, chosen: Callable[[str, SavedSnapshot], bool]) -> int:
        """Remove snapshots; return how many."""

        def chosen_of(lineage: Lineage) -> list[str]:
            return [each for each, saved in lineage.snapshots.items() if chosen(each, saved)]

        def remove(now: Lineage) -> list[Change]:
            changes = Lineage.forget(chosen_of(now))
            return [now.unless_changed(), new_token(), *changes] if changes else []

        return len(chosen_of(await self.change(session_id, remove)))

    async def revert_to_snapshot(self, session_id: str, snapshot_id: str | None) -> None:
        """Bring a session back to a snapshot, or with None to the newest automatic one."""

        async def revert(lineage: Lineage, automatic_id: str) -> list[Change]:
            wanted = snapshot_id
            if wanted is None:
                reverts = [each for each, saved in lineage.snapshots.items() if saved.is_automatic]
                wanted = reverts[-1] if reverts else None
            snapshot = lineage.snapshots.get(wanted or "")
            if snapshot is None:
                raise SnapshotNotFoundError(session_id, snapshot_id)
            changes = [*lineage.show(snapshot.parts), *self.automatic(lineage, automatic_id)]
            return changes + snapshot.record.changes(lineage.info)

        await self.keeping(session_id, revert)

    async def revert_to_message(self, session_id: str, seq: int) -> None:
        """Bring a session back to a message."""

        async def revert(lineage: Lineage, automatic_id: str) -> list[Change]:
            parts = await self.parts_upto(lineage, seq)
            changes = [*lineage.show(parts), *self.automatic(lineage, automatic_id)]
            checkpoint = _checkpoint_at(lineage.info, seq)
            if checkpoint is not lineage.info.checkpoint:
                changes.append(Change(("checkpoint",), "set", checkpoint))
            return changes

        await self.keeping(session_id, revert)

    def automatic(self, lineage: Lineage, snapshot_id: str) -> list[Change]:
        """Return what remembers a session as it is, so that what comes now can be undone."""
        snapshot = lineage.snapshot(lineage.parts, self._clock(), is_automatic=True)
        old = [each for each, saved in lineage.snapshots.items() if saved.is_automatic]
        return [
            *Lineage.forget(old[: max(0, len(old) + 1 - _MOST_REVERTS)]),
            *lineage.keep(snapshot_id, snapshot),
        ]

    # Deletion.

    async def delete(self, session_id: str) -> bool:
        """Delete a session, if there is one; what others read of it stays where they find it."""

        async def leave(now: Lineage, pin: str) -> list[Change]:
            info = now.info
            return [
                *now.show(()),
                shared(pin),
                in_tree("gone", info.last_seq),
                in_tree("born", info.last_seq),
                *(Lineage.child(each, None) for each in now.children),
                in_tree("origin"),
                in_tree("is_shared"),
                *Lineage.forget(now.snapshots),
                *SavedRecord({}, {}).changes(info),
                *(Change((field,), "set", None) for field in _TEXTS if getattr(info, field)),
            ]

        try:
            await self.keeping(session_id, leave)
        except SessionNotFoundError:
            return False
        await self.collect(session_id)
        return True

    async def collect(self, session_id: str) -> None:
        """Remove a deleted session for good once nobody reads it, and then its deleted parents."""
        while True:
            info = await self._store.get_info(session_id)
            lineage = None if info is None else Lineage(info)
            if info is None or lineage is None or not lineage.is_gone or lineage.sharers:
                return
            try:
                await self._store.discard_session(
                    session_id, last_seq=info.last_seq, updated_at=info.updated_at
                )
            except SessionChangedError:
                continue
            except SessionSharedError:
                return
            for source in lineage.sources:
                await self.release(source, session_id)
            return

    async def release(self, session_id: str, reader: str) -> None:
        """Note that somebody doesn't read a session any more, which may have been the last one."""
        changes = [shared(reader), Lineage.child(reader, None)]
        if await self._store.amend_session(session_id, changes) is not None:
            await self.collect(session_id)


async def _both(first: Awaitable[None], second: Awaitable[None]) -> None:
    for outcome in await asyncio.gather(first, second, return_exceptions=True):
        if outcome is not None:
            raise outcome


_TEXTS = ("agent_name", "user_id", "agent_id", "gateway_session_id")


def _checkpoint_at(info: SessionInfo, seq: int) -> Checkpoint | None:
    checkpoint = info.checkpoint
    return None if checkpoint is None or checkpoint.seq > seq else checkpoint


def _inherited(info: SessionInfo, seq: int, title: str | None) -> list[Change]:
    """Return what gives a fork the record of the session that it is forked from."""
    metadata = own_fields(info.metadata)
    metadata["title"] = title or f"Fork of {info.title or info.session_id}"
    changes = [Change(("metadata", key), "set", value) for key, value in metadata.items()]
    changes += [Change(("state", key), "set", value) for key, value in info.state.items()]
    # Only one session is to be found by what a gateway calls it.
    changes += [
        Change((field,), "set", text) for field in _TEXTS[:3] if (text := getattr(info, field))
    ]
    checkpoint = _checkpoint_at(info, seq)
    if checkpoint is not None:
        changes.append(Change(("checkpoint",), "set", checkpoint))
    return changes
