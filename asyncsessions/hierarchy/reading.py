"""Reads what sessions show: parts that are stored here and there, and their own newer messages."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Sequence

import msgspec

from asyncsessions.hierarchy.lineage import Lineage, Part, View, count_of, cut
from asyncsessions.hierarchy.needs import BranchableStore
from asyncsessions.models import Message

__all__ = ["Range", "Reader"]

_REMEMBERED = 1024


class Range(msgspec.Struct, frozen=True):
    """Which messages to read.

    Attributes:
        limit: At most so many; None means no limit.
        after: Only messages with a higher ``seq``.
        before: Only messages with a lower ``seq``; None means no bound.
        oldest: Whether ``limit`` keeps the oldest of them rather than the newest.
    """

    limit: int | None = None
    after: int = 0
    before: int | None = None
    oldest: bool = False


class Reader:
    """Reads sessions of a store, each as it shows itself at one moment.

    Args:
        store: The store.
    """

    def __init__(self, store: BranchableStore) -> None:
        self._store = store
        # What sessions showed last. It is read while their records are, which say if it was right.
        self._views: OrderedDict[str, tuple[str | None, View]] = OrderedDict()

    async def record(self, session_id: str) -> Lineage | None:
        """Return a session's record, also of one that was deleted; None where there is none."""
        info = await self._store.get_info(session_id)
        return None if info is None else Lineage(info)

    async def lineage(self, session_id: str) -> Lineage | None:
        """Return a session's record; None where there is no session, or it was deleted."""
        lineage = await self.record(session_id)
        return None if lineage is None or lineage.is_gone else lineage

    async def read(self, session_id: str, wanted: Range) -> list[Message]:
        """Return messages, oldest first; none where there is no session."""
        token, view = self._views.get(session_id, (None, View((), 0, 0)))
        lineage, messages = await asyncio.gather(
            self.lineage(session_id), self._read_view(session_id, view, wanted)
        )
        if lineage is None:
            return []
        if lineage.token == token:
            newest = lineage.info.last_seq
            if not messages or messages[-1].seq <= newest:
                return messages
            if wanted.limit is None or wanted.oldest:
                # The others came after the moment that the record shows.
                return [message for message in messages if message.seq <= newest]
        return await self.read_at(lineage, wanted)

    async def read_parts(self, parts: Sequence[Part]) -> list[Message]:
        """Return the messages of parts, oldest first."""
        found = await asyncio.gather(*(self._read_part(part, None) for part in parts))
        return [message for each in found for message in each]

    async def read_at(self, lineage: Lineage, wanted: Range) -> list[Message]:
        """Return messages that a session showed when its record was read."""
        session_id, newest = lineage.info.session_id, lineage.info.last_seq
        self._remember(session_id, lineage)
        if wanted.oldest:
            messages = await self._read_view(session_id, lineage.view, wanted)
            return [message for message in messages if message.seq <= newest]
        if wanted.before is None or wanted.before > newest:
            wanted = msgspec.structs.replace(wanted, before=newest + 1)
        return await self._read_view(session_id, lineage.view, wanted)

    def _remember(self, session_id: str, lineage: Lineage) -> None:
        if lineage.token is None:
            self._views.pop(session_id, None)
            return
        self._views[session_id] = (lineage.token, lineage.view)
        if len(self._views) > _REMEMBERED:
            self._views.popitem(last=False)

    async def _read_view(self, session_id: str, view: View, wanted: Range) -> list[Message]:
        parts = list(cut(view.parts, wanted.after, wanted.before))
        live = msgspec.structs.replace(wanted, after=max(wanted.after, view.after))
        if wanted.oldest:
            return await self._read_oldest(session_id, parts, live)
        return await self._read_newest(session_id, parts, live)

    async def _read_newest(
        self, session_id: str, parts: Sequence[Part], live: Range
    ) -> list[Message]:
        limit = live.limit
        first = len(parts)
        while first and (limit is None or count_of(parts[first:]) < limit):
            first -= 1
        chosen = [self._read_part(part, limit) for part in parts[first:]]
        found = await asyncio.gather(*chosen, self._read_live(session_id, live))
        messages = [message for each in found for message in each]
        while first and limit is not None and len(messages) < limit:
            # Some were removed, one by one, before they became part of anything.
            first -= 1
            messages = [*await self._read_part(parts[first], limit), *messages]
        return messages if limit is None else messages[max(0, len(messages) - limit) :]

    async def _read_oldest(
        self, session_id: str, parts: Sequence[Part], live: Range
    ) -> list[Message]:
        messages: list[Message] = []
        for part in parts:
            if live.limit is not None and len(messages) >= live.limit:
                return messages[: live.limit]
            if live.limit is None or live.limit >= part.upto - part.after:
                messages += await self._read_part(part, None)
                continue
            found = await self._store.get_messages(part.source, limit=live.limit, after=part.after)
            messages += [message for message in found if message.seq <= part.upto]
        left = None if live.limit is None else max(0, live.limit - len(messages))
        messages += await self._read_live(session_id, msgspec.structs.replace(live, limit=left))
        return messages[: live.limit]

    async def _read_part(self, part: Part, limit: int | None) -> list[Message]:
        bounds = {"after": part.after, "before": part.upto + 1}
        return await self._store.get_messages(part.source, limit=limit, **bounds)

    async def _read_live(self, session_id: str, live: Range) -> list[Message]:
        before = live.before
        if not live.oldest and before is None and live.after:
            before = 2**53  # Or it would be the oldest that `limit` keeps.
        if live.limit == 0 or (before is not None and before <= live.after + 1):
            return []
        after = live.after if live.after or live.oldest else None
        return await self._store.get_messages(
            session_id, limit=live.limit, after=after, before=before
        )
