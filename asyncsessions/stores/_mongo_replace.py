"""What a replacement makes of a session, from a message on or altogether."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import msgspec
from bson import ObjectId

from asyncsessions.errors import SessionSharedError
from asyncsessions.hooks import (
    Replace,
    Replaced,
    check_unshared,
)
from asyncsessions.stores._mongo_entries import entries_of, entries_with_gaps, entry_below
from asyncsessions.stores._mongo_jobs import Job
from asyncsessions.stores._mongo_pages import Pages
from asyncsessions.stores._mongo_plans import INLINE_BYTES, put_in_pages, touch
from asyncsessions.stores._mongo_session import Entry, Head, size_of

__all__ = ["ReplaceJob"]


class ReplaceJob(Job):
    """A replacement; the answer is that of the hook.

    Args:
        replace: What to do.
        pages: Where what it adds goes if it is large.
    """

    needs_bodies = True
    cleans_up = True

    def __init__(self, replace: Replace, pages: Pages) -> None:
        super().__init__(replace.session_id)
        self._replace = replace
        self._pages = pages

    async def plan(self, base: Head | None, moment: float | None) -> Head | None:
        """See `Job.plan`."""
        replace = self._replace
        self.answer = None
        now = replace.now if moment is None else moment
        is_there = base is not None and not base.has_vanished(now)
        head = copy.copy(base) if base is not None and is_there else None
        newest = 0 if head is None else head.newest_seq
        if replace.if_newest not in (None, newest) or (head is None and not replace.create):
            return None
        try:
            metadata = {} if head is None else head.info().metadata
            check_unshared(self.session_id, metadata, replace.from_seq)
        except SessionSharedError as exc:
            self.answer = exc
            return None
        volume = self.unused_volume()
        head = head or Head.new(self.session_id, volume, base)
        removed = await self._cut(head, replace.from_seq, volume)
        info = head.info()
        had_checkpoint = info.checkpoint is not None
        if replace.drop_checkpoint and had_checkpoint:
            head.take(msgspec.structs.replace(info, checkpoint=None))
        seq = replace.from_seq if replace.in_place else head.last_seq + 1
        head.last_seq = max(head.last_seq, seq + len(replace.bodies) - 1)
        head.message_count += len(replace.bodies) - removed
        head.edition += 1
        touch(head, replace, moment)
        await self._put(head, list(entries_of(seq, replace.bodies)))
        self.answer = Replaced(removed, seq, had_checkpoint)
        return head

    async def _cut(self, head: Head, seq: int, volume: ObjectId) -> int:
        """Take away the messages from ``seq`` on, and return how many there were."""
        if seq <= head.oldest_seq:
            head.drop_messages(volume)
            return head.message_count
        kept: list[Entry] = []
        removed = 0
        for entry in head.tail:
            kept += entry_below(entry, seq)
            removed += entry.count - max(0, min(entry.count, seq - entry.seq))
        while head.pages and head.pages[-1].last >= seq:
            page = head.pages[-1]
            head.pages = head.pages[:-1]
            level = page.level
            if page.seq >= seq:
                removed += page.count
            elif level:
                # Only the page of pages itself goes; those in it are looked at next.
                head.pages += await self._pages.unfold(head, page)
                level = 0
            else:
                (messages,) = await self._pages.messages(head, [page])
                kept = [*entries_with_gaps([each for each in messages if each[0] < seq]), *kept]
                removed += sum(each[0] >= seq for each in messages)
            head.garbage = (*head.garbage, {"node": page.node, "level": level})
        head.tail = tuple(kept)
        return removed

    async def _put(self, head: Head, entries: Sequence[Entry]) -> None:
        self.nodes = ()
        tail = (*head.tail, *entries)
        if size_of(tail) <= INLINE_BYTES:
            head.tail = tail
        else:
            self.nodes = await put_in_pages(self._pages, head, tail, ())
