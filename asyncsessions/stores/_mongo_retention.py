"""Retention: which of a session's oldest messages go."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence

import msgspec
from bson import ObjectId

from asyncsessions.codec import decode_message
from asyncsessions.errors import CorruptSessionError
from asyncsessions.history import is_tool_result, messages_to_drop
from asyncsessions.stores._mongo_cache import Messages
from asyncsessions.stores._mongo_pages import Pages
from asyncsessions.stores._mongo_session import Head, Page, messages_of

__all__ = ["Retention"]

# For how many sessions the oldest messages are remembered.
_SESSIONS = 2048


class _Front(msgspec.Struct):
    """The oldest messages of a session: their ``seq``, and whether each is a tool result.

    They don't change within an edition. Messages up to ``end`` that aren't here aren't there.
    """

    incarnation: ObjectId
    edition: int
    end: int = 0
    flags: list[tuple[int, bool]] = []


class Retention:
    """Finds out what to drop, and drops it from heads.

    Args:
        pages: Where the oldest messages may be.
    """

    def __init__(self, pages: Pages) -> None:
        self._pages = pages
        self._fronts: OrderedDict[str, _Front] = OrderedDict()

    async def drop(self, head: Head, new: Sequence[tuple[int, bool]], keep: int) -> None:
        """Drop from a head what is too much.

        Args:
            head: It counts the new messages already, but doesn't hold them.
            new: The new messages: their ``seq``, and whether each is a tool result.
            keep: How many messages stay.

        Raises:
            StaleError: The head isn't the stored version any more.
            CorruptSessionError: A message that decides can't be decoded.
        """
        front = self._front(head)
        excess = head.message_count - keep
        while True:
            is_all = front.end >= head.newest_seq
            flags = [*front.flags, *new] if is_all else front.flags
            asked = _Asked(flags)
            count = messages_to_drop(asked, excess)
            if is_all or not asked.is_over:
                break
            await self._look_further(head, front)
        if count:
            head.message_count -= count
            head.first_seq = flags[count][0]
            await self._trim(head)

    def _front(self, head: Head) -> _Front:
        front = self._fronts.pop(head.session_id, None)
        now = (head.incarnation, head.edition)
        if front is None or (front.incarnation, front.edition) != now:
            front = _Front(*now)
        front.flags = [flag for flag in front.flags if flag[0] >= head.first_seq]
        self._fronts[head.session_id] = front
        if len(self._fronts) > _SESSIONS:
            self._fronts.popitem(last=False)
        return front

    async def _look_further(self, head: Head, front: _Front) -> None:
        """Read the next messages of a session."""
        page = next((page for page in head.pages if page.last > front.end), None)
        while page is not None and page.level:
            pages = await self._pages.unfold(head, page)
            page = next((page for page in pages if page.last > front.end), None)
            if page is None:
                detail = "a page of pages doesn't hold what its document says"
                raise CorruptSessionError(detail, session_id=head.session_id)
        messages, end = await self._messages(head, page)
        try:
            front.flags += [
                (seq, is_tool_result(decode_message(body)))
                for seq, body in messages
                if seq > front.end and seq >= head.first_seq
            ]
        except (msgspec.DecodeError, UnicodeDecodeError) as exc:
            detail = f"a message can't be decoded: {exc}"
            raise CorruptSessionError(detail, session_id=head.session_id) from exc
        front.end = end

    async def _messages(self, head: Head, page: Page | None) -> tuple[Messages, int]:
        """Return the messages of a page, or without one those of the tail, and the last seq."""
        if page is not None:
            (found,) = await self._pages.messages(head, [page])
            return found, page.last
        messages: list[tuple[int, bytes]] = []
        for entry in await self._pages.read_tail(head):
            runs = [(entry.seq, entry.count)]
            messages += messages_of(entry.bodies, runs, head.session_id)
        return messages, head.newest_seq

    async def _trim(self, head: Head) -> None:
        """Let go of entries and pages of which nothing can be read any more."""
        first = head.first_seq
        while head.pages and head.pages[0].seq < first:
            page = head.pages[0]
            if page.last >= first and not page.level:
                break
            level = page.level
            head.pages = head.pages[1:]
            if page.last >= first:
                # Only the page of pages itself goes; those in it are looked at next.
                head.pages = (*await self._pages.unfold(head, page), *head.pages)
                level = 0
            head.garbage = (*head.garbage, {"node": page.node, "level": level})
        start = 0
        while start < len(head.tail) and head.tail[start].last < first:
            start += 1
        head.tail = head.tail[start:] if start else head.tail


class _Asked(Iterator[bool]):
    """Tells tool results, and whether anybody asked for more than there is."""

    def __init__(self, flags: Sequence[tuple[int, bool]]) -> None:
        self._flags = iter(flags)
        self.is_over = False

    def __next__(self) -> bool:
        try:
            return next(self._flags)[1]
        except StopIteration:
            self.is_over = True
            raise
