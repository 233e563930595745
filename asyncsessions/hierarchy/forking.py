"""Forks, and sessions that come under others; each is a few atomic changes of records."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import Iterator, Sequence

import msgspec

from asyncsessions.errors import (
    SessionChangedError,
    SessionCycleError,
    UnrelatedSessionsError,
)
from asyncsessions.hierarchy.lineage import Lineage
from asyncsessions.hierarchy.records import EVERYTHING, TEXTS, Records
from asyncsessions.hierarchy.saved import (
    TREE,
    Part,
    SavedRecord,
    View,
    in_tree,
    new_token,
    own_fields,
    shared,
    skip,
    under,
    view_changes,
    without,
)
from asyncsessions.hooks import SHARED, Change
from asyncsessions.models import Message, SessionInfo
from asyncsessions.requests import check_text

__all__ = ["Forking"]

_COPIED_AT_ONCE = 256


class Forking:
    """Forks sessions of a store.

    Args:
        records: The sessions' records.
    """

    def __init__(self, records: Records) -> None:
        self._records = records
        self._reader = records.reader
        self._store = records.store

    async def fork(self, session_id: str, seq: int | None, title: str | None) -> str:
        """Make a session that begins as another; see `HierarchicalSessionStore`."""
        if title is not None:
            check_text("title", title)
        child_id = str(uuid.uuid4())
        now = self._records.now()
        lineage = await self._records.noted(session_id, child_id, Lineage.child(child_id, now))
        async with self._records.letting_go(session_id, child_id):
            parts = await self._reader.parts_upto(lineage, seq)
            beginning = self._begin_as(child_id, lineage, parts, seq, title)
            shares = self._shares(lineage.info)
            reached = None
            if shares:
                # Of at least one message, or the parent could be removed, and what it reads.
                reach = self._reach(session_id, child_id, max(1, lineage.own_upto(parts)))
                begun, reached = await asyncio.gather(beginning, reach, return_exceptions=True)
                if begun is not None:
                    raise begun
            else:
                await beginning
        # The fork is there by now, so what it reads stays, whatever fails.
        if reached is not None:
            raise reached
        if not shares:
            await self._reach(session_id, child_id, None)
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
            *_inherited(lineage, seq, title),
            *under(info.session_id, seq),
            in_tree("origin", msgspec.to_builtins(SavedRecord.of(info))),
        ]
        originals = tuple(lineage.originals(parts))
        if self._shares(info):
            if originals != parts:
                changes.append(in_tree("copied", msgspec.to_builtins(originals)))
            changes += [skip(seq), *view_changes(View(parts, seq, 0))]
            await self._store.amend_session(child_id, changes, create=True)
        else:
            newest = await self._copy(child_id, parts, seq)
            if newest is not None and newest.metadata.get("partial"):
                # The original and the copy may both be finished in place.
                originals = without(originals, newest.seq)
            changes += [in_tree("gone"), in_tree("copied", msgspec.to_builtins(originals))]
            await self._store.amend_session(child_id, changes)

    def _shares(self, info: SessionInfo) -> bool:
        """Whether messages stay where they are for as long as somebody reads them."""
        policy = self._store.policy
        limits = (policy.max_messages, policy.ttl_seconds, info.expires_at)
        return self._store._keeps_messages and limits == (None, None, None)

    async def _copy(self, child_id: str, parts: Sequence[Part], seq: int) -> Message | None:
        """Copy messages to a session that isn't there yet, for all that a caller can tell.

        Each keeps its ``seq``, and the next message gets the one after ``seq``.

        Returns:
            The newest of them.
        """
        copied: Message | None = None
        await self._store.amend_session(child_id, [in_tree("gone", seq)], create=True)
        newest = 0
        for part in parts:
            after = part.after
            while after < part.upto:
                page = await self._store.get_messages(
                    part.source, limit=_COPIED_AT_ONCE, after=after
                )
                page = [message for message in page if message.seq <= part.upto]
                if not page:
                    break
                for run in _runs(page):
                    await self._skip_to(child_id, newest, run[0].seq - 1)
                    await self._store.append(child_id, run)
                    copied, newest = run[-1], run[-1].seq
                after = newest
        await self._skip_to(child_id, newest, seq)
        return copied

    async def _skip_to(self, child_id: str, newest: int, seq: int) -> None:
        if newest < seq:
            await self._store.amend_session(child_id, [skip(seq - newest)])

    async def adopt(self, parent_id: str, child_id: str) -> Lineage:
        """Note a session that belongs under another one, but reads nothing of it."""
        return await self._records.change(
            parent_id, lambda _: [Lineage.child(child_id, self._records.now())]
        )

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
            line = await self._line(await self._records.known(parent_id))
            if any(each.info.session_id == session_id for each in line):
                raise SessionCycleError(session_id, parent_id)
            parent = await self.adopt(parent_id, session_id)
            first += [in_tree("gone"), *under(parent_id, parent.info.last_seq)]
            if old is not None and old.source is not None:
                # Those who read the old one may need it.
                first.append(Lineage.annex(old.source.id, self._records.now()))
        first.append(new_token())
        await self._store.amend_session(session_id, [*first, *changes], create=True)

    async def lines(self, left: Lineage, right: Lineage) -> tuple[list[Lineage], list[Lineage]]:
        """Return two sessions with their ancestors, each up to the nearest one of both.

        Raises:
            UnrelatedSessionsError: They have no common ancestor.
        """
        lines = [await self._line(left), await self._line(right)]
        places = [{key: place for place, key in enumerate(_lives(line))} for line in lines]
        for key, place in places[0].items():
            if key in places[1]:
                return lines[0][: place + 1], lines[1][: places[1][key] + 1]
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


def _runs(messages: Sequence[Message]) -> Iterator[Sequence[Message]]:
    """Iterate over messages in runs without a gap between their ``seq``."""
    start = 0
    for index in range(1, len(messages) + 1):
        if index == len(messages) or messages[index].seq != messages[index - 1].seq + 1:
            yield messages[start:index]
            start = index


def _lives(line: Sequence[Lineage]) -> Iterator[tuple[str, bool]]:
    """Iterate over what tells sessions of a line apart, also from later ones of the same id.

    A session that was made anew knows its own forks, and none of the one that was deleted.
    """
    below = None
    for each in line:
        is_this = below is None or each.is_gone or below in each.noted_children
        yield each.info.session_id, is_this
        below = each.info.session_id


def _inherited(lineage: Lineage, seq: int, title: str | None) -> list[Change]:
    """Return what gives a fork the record of the session that it is forked from."""
    info = lineage.info
    metadata = own_fields(info.metadata)
    metadata["title"] = title or f"Fork of {info.title or info.session_id}"
    changes = [Change(("metadata", key), "set", value) for key, value in metadata.items()]
    changes += [Change(("state", key), "set", value) for key, value in info.state.items()]
    # Only one session is to be found by what a gateway calls it.
    changes += [
        Change((field,), "set", text) for field in TEXTS[:3] if (text := getattr(info, field))
    ]
    checkpoint = lineage.checkpoint_at(seq)
    if checkpoint is not None:
        changes.append(Change(("checkpoint",), "set", checkpoint))
    return changes
