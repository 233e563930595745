"""Rewrites of sessions of which others read messages, or that show only a part of what is stored.

Such a session's messages stay in the store; what changes is what the session shows.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeAlias

import msgspec

from asyncsessions.errors import (
    SessionChangedError,
    SessionNotFoundError,
    SessionSharedError,
)
from asyncsessions.hierarchy.bringing import Bringing, UnfinishedError
from asyncsessions.hierarchy.lineage import Lineage
from asyncsessions.hierarchy.records import EVERYTHING, TEXTS, Records
from asyncsessions.hierarchy.saved import (
    Part,
    SavedRecord,
    View,
    count_of,
    in_tree,
    shared,
    skip,
    view_changes,
    without,
)
from asyncsessions.hooks import Change, Window
from asyncsessions.models import Message

__all__ = ["Plan", "Rewriting"]

Plan: TypeAlias = tuple[tuple[Part, ...], Sequence[Message | Mapping[str, Any]]]
"""What a session is to show: parts, and then these messages."""


class Rewriting:
    """Rewrites sessions of a store.

    Args:
        records: The sessions' records.
        bringing: Finishes what merges have begun.
    """

    def __init__(self, records: Records, bringing: Bringing) -> None:
        self._bringing = bringing
        self._store = records.store
        self._reader = records.reader
        self._records = records

    async def clear(self, session_id: str) -> bool:
        """Hide all messages, and remove those that nobody else reads."""

        async def hide(lineage: Lineage, pin: str) -> list[Change]:
            automatic = [each for each, saved in lineage.snapshots.items() if saved.is_automatic]
            return [
                lineage.unless_changed(),
                # As if they were removed by now, which is what is left if this is cut off.
                *view_changes(View((), lineage.info.last_seq, 0)),
                Change(("checkpoint",), "set", None),
                *Lineage.forget(automatic),
                shared(pin),
            ]

        try:
            old, _ = await self._bringing.keeping(session_id, hide, appends=False)
            try:
                await self._store.clear_session(session_id)
            except SessionSharedError:
                await self._count_hidden(session_id)
            else:
                await self._let_go(session_id, old.annexes)
                now = await self._reader.lineage(session_id)
                if now is not None and now.view.hidden:
                    # Somebody else has counted what is gone by now.
                    await self._count_hidden(session_id)
        except SessionNotFoundError:
            return False
        return count_of(old.parts) > 0 or old.info.checkpoint is not None

    async def _count_hidden(self, session_id: str) -> None:
        """Note how many messages are hidden, once it is certain which ones stay."""

        async def count(lineage: Lineage, pin: str) -> list[Change]:
            info, view = lineage.info, lineage.view
            own = await self.part(session_id, view.after, info.last_seq)
            counted = msgspec.structs.replace(view, hidden=info.message_count - own.count)
            return [lineage.unless_changed(), *view_changes(counted), shared(pin)]

        await self._records.keeping(session_id, count)

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
                *map(in_tree, ("origin", "copied", "is_shared", "life")),
                *Lineage.forget(now.snapshots),
                *now.only_merged({}),
                *SavedRecord({}, {}).changes(info),
                *(Change((field,), "set", None) for field in TEXTS if getattr(info, field)),
            ]

        try:
            await self._bringing.keeping(session_id, leave)
        except SessionNotFoundError:
            return False
        await self._records.collect(session_id)
        return True

    async def _let_go(self, session_id: str, annexes: Sequence[str]) -> None:
        if annexes:
            forgotten = (Lineage.annex(annex_id, None) for annex_id in annexes)
            await self._records.amend(session_id, *forgotten)
        for annex_id in annexes:
            await self._records.release(annex_id, session_id)

    async def set_history(
        self, session_id: str, messages: Sequence[Message | Mapping[str, Any]]
    ) -> None:
        """Show other messages in place of all, also in a session that was deleted.

        Raises:
            SessionNotFoundError: There is nothing left of the session.
        """
        if not messages:
            await self._show_nothing(session_id)
            return

        async def plan(now: Lineage) -> Plan:
            if now.is_being_merged:
                raise UnfinishedError
            return (), messages

        def changes(_: Lineage, pin: str, __: int) -> list[Change]:
            return [Change(("checkpoint",), "set", None), shared(pin)]

        while True:
            try:
                await self.put(session_id, plan, changes, revives=True)
            except UnfinishedError:
                await self._bringing.put_off(session_id)
            else:
                return

    async def _show_nothing(self, session_id: str) -> None:
        record = await self._reader.record(session_id)
        if record is None:
            raise SessionNotFoundError(session_id)
        if record.is_gone:
            with contextlib.suppress(SessionChangedError):
                await self._records.amend(session_id, *record.again())
        else:
            await self.clear(session_id)

    async def put(
        self,
        session_id: str,
        plan: Callable[[Lineage], Awaitable[Plan]],
        changes: Callable[[Lineage, str, int], Sequence[Change]],
        *,
        keeps_late: bool = False,
        revives: bool = False,
    ) -> None:
        """Show parts and messages that are new, in place of all, in one step.

        Args:
            session_id: The session.
            plan: Says which.
            changes: What else to change in the same step; gets who keeps the session's messages
                until then, and the ``seq`` of the newest message that it puts there.
            keeps_late: Whether to show, before the new ones, what comes after it was planned.
            revives: Whether to make a session again that was deleted.

        Raises:
            SessionNotFoundError: There is no such session.
        """
        pin = str(uuid.uuid4())
        await self._records.amend(session_id, shared(pin, EVERYTHING))
        find = self._reader.record if revives else self._reader.lineage

        def more(now: Lineage, upto: int) -> Sequence[Change]:
            return changes(now, pin, upto)

        async with self._records.letting_go(session_id, pin):
            await self._put(session_id, find, plan, more, keeps_late)

    async def _put(
        self,
        session_id: str,
        find: Callable[[str], Awaitable[Lineage | None]],
        plan: Callable[[Lineage], Awaitable[Plan]],
        changes: Callable[[Lineage, int], Sequence[Change]],
        keeps_late: bool,  # noqa: FBT001  # see `put`
    ) -> None:
        is_first = True
        while True:
            lineage = await find(session_id)
            if lineage is None:
                raise SessionNotFoundError(session_id)
            parts, messages = await plan(lineage)
            info, count = lineage.info, len(messages)
            guards = lineage.again() if lineage.is_gone else [lineage.unless_changed()]
            if is_first:
                annex, noted = await self._store_after(session_id, messages, info.last_seq)
                guards += [Change(("last_seq",), "expect", info.last_seq), skip(count)]
            else:
                # Others are faster; so the numbers are set aside first.
                annex, noted = await self.store_beside(session_id, messages)
                if keeps_late:
                    late = await self.part(session_id, info.last_seq, annex.after)
                    parts = (*parts, late) if late.count else parts
                info = await self._store.get_info(session_id) or info
            newer = await self.part(session_id, annex.upto, info.last_seq)
            hidden = Lineage(info).hiding(newer.count)
            view = View((*parts, annex), annex.upto, hidden)
            shown = view_changes(view)
            try:
                async with self._records.letting_go(annex.source, session_id):
                    more = (*shown, noted, *changes(lineage, annex.upto))
                    await self._records.amend(session_id, *guards, *more)
            except (SessionChangedError, SessionNotFoundError):
                is_first = False
            else:
                return

    async def part(self, source: str, after: int, upto: int) -> Part:
        """Return the messages of a session between two ``seq`` as a part, counted."""
        if upto <= after:
            return Part(source, after, upto, 0)
        messages = await self._store.get_messages(source, after=after, before=upto + 1)
        return Part(source, after, upto, len(messages))

    async def store_beside(
        self, session_id: str, messages: Sequence[Message | Mapping[str, Any]]
    ) -> tuple[Part, Change]:
        """Store messages where only a session finds them, under numbers of their own.

        Returns:
            Where they are, and what the session has to note when it begins to need them.
        """
        (upto,) = await self._records.amend(session_id, skip(len(messages)))
        return await self._store_after(session_id, messages, int(upto) - len(messages))

    async def _store_after(
        self, session_id: str, messages: Sequence[Message | Mapping[str, Any]], after: int
    ) -> tuple[Part, Change]:
        """Store messages in a session of their own that is deleted from the start."""
        annex_id = str(uuid.uuid4())
        upto = after + len(messages)
        changes = [in_tree("gone", upto), shared(session_id, upto), skip(after)]
        await self._store.amend_session(annex_id, changes, create=True)
        async with self._records.letting_go(annex_id, session_id):
            await self._store.append(annex_id, messages)
        await self._store.expire_session(annex_id, None)
        info = await self._store.get_info(annex_id)
        part = Part(annex_id, after, upto, 0 if info is None else info.message_count)
        return part, Lineage.annex(annex_id, self._records.now())

    async def pop(self, session_id: str, is_wanted: Callable[[Message], bool]) -> Message | None:
        """Hide the newest message if it is one that is wanted, and return it."""
        popped: Message | None = None

        async def hide(lineage: Lineage, pin: str) -> list[Change]:
            nonlocal popped
            popped = await self._newest(lineage)
            if popped is None or not is_wanted(popped):
                popped = None
                return [shared(pin)]
            return [*lineage.show(without(lineage.parts, popped.seq)), shared(pin)]

        try:
            await self._records.keeping(session_id, hide)
        except SessionNotFoundError:
            return None
        return popped

    async def _newest(self, lineage: Lineage) -> Message | None:
        return next(iter(await self._reader.read_at(lineage, Window(limit=1))), None)
