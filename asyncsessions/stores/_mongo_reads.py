"""Reads sessions from MongoDB: first their document, then as many pages as the window takes."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from asyncsessions.codec import with_seq
from asyncsessions.errors import CorruptSessionError
from asyncsessions.hooks import Scan, Window
from asyncsessions.models import SessionInfo
from asyncsessions.omissions import leave_out
from asyncsessions.pacing import paced_map
from asyncsessions.stores._mongo_database import Database, Document
from asyncsessions.stores._mongo_pages import Pages, StaleError
from asyncsessions.stores._mongo_session import (
    NAMES,
    NOT_INFO,
    Head,
    Page,
    info_of,
    messages_of,
)

__all__ = ["Reads", "indexes"]

# What one look at the pages takes at the most; the server's limit for a reply is 16 MB.
_READ_BYTES = 8 << 20
# A reader between whose look at the document and at the pages somebody removed the latter looks
# again; that it happens so often means that they are missing.
_LOOKS = 20
_Message = tuple[int, bytes]

logger: logging.Logger = logging.getLogger("asyncsessions.mongo")


class Reads:
    """Reads sessions.

    Args:
        database: Where.
        sessions: The collection of sessions.
        pages: Pages of sessions.
    """

    def __init__(self, database: Database, sessions: str, pages: Pages) -> None:
        self._database = database
        self._sessions = sessions
        self._pages = pages

    async def info(self, session_id: str) -> SessionInfo | None:
        """Return a session's record."""
        where = {"_id": session_id}
        found = await self._database.find(self._sessions, where, limit=1, projection=NOT_INFO)
        if not found or "updated_at" not in found[0]:
            return None
        return info_of(found[0])

    async def messages(
        self, session_id: str, window: Window
    ) -> tuple[Head, Sequence[bytes]] | None:
        """Return a session's messages with their ``seq``, and the version that they are of.

        Raises:
            CorruptSessionError: Some are missing.
        """
        for _ in range(_LOOKS):
            head = await self._head(session_id)
            if head is None or head.updated_at is None:
                return None
            try:
                found = await self._messages(head, window)
            except StaleError:
                continue
            return head, await paced_map(_with_seq, found)
        detail = "pages that its document names aren't there"
        raise CorruptSessionError(detail, session_id=session_id)

    async def _head(self, session_id: str) -> Head | None:
        projection: Document = {"record": 0, "keys": 0, "writers": 0, "garbage": 0}
        found = await self._database.find(
            self._sessions, {"_id": session_id}, limit=1, projection=projection
        )
        return Head.read({"writers": {}} | found[0]) if found else None

    async def _messages(self, head: Head, window: Window) -> list[_Message]:
        if window.limit is not None and not window.oldest:
            return await self._newest(head, window, window.limit)
        return await self._oldest(head, window)

    async def _newest(self, head: Head, window: Window, limit: int) -> list[_Message]:
        """Return the newest messages of a window."""
        found = _in_tail(head, window)
        pages = list(head.pages)
        while len(found) < limit and (wanted := _wanted(pages, head, window)):
            # From the end, as many as may be enough.
            taken = [wanted.pop()]
            missing = limit - len(found) - taken[0].count
            size = taken[0].size
            while wanted and missing > 0 and not taken[0].level and not wanted[-1].level:
                if size + wanted[-1].size > _READ_BYTES:
                    break
                taken.insert(0, wanted.pop())
                missing -= taken[0].count
                size += taken[0].size
            if taken[0].level:
                pages = [*wanted, *await self._pages.unfold(head, taken[0])]
            else:
                found = [*await self._in_pages(head, taken, window), *found]
                pages = wanted
        return found[-limit:]

    async def _oldest(self, head: Head, window: Window) -> list[_Message]:
        """Return the oldest messages of a window, or all."""
        found: list[_Message] = []
        pages = list(head.pages)
        size = 0
        while wanted := _wanted(pages, head, window):
            if _is_enough(found, size, window):
                break
            taken = [wanted.pop(0)]
            if taken[0].level:
                pages = [*await self._pages.unfold(head, taken[0]), *wanted]
                continue
            goal = min(_READ_BYTES, (window.max_bytes or _READ_BYTES) - size)
            while wanted and not wanted[0].level:
                is_counted = window.limit is not None and _count(taken) >= window.limit
                if is_counted or sum([p.size for p in taken]) + wanted[0].size > goal:
                    break
                taken.append(wanted.pop(0))
            more = await self._in_pages(head, taken, window)
            found += more
            size += sum([len(body) for _, body in more])
            pages = wanted
        if not wanted and not _is_enough(found, size, window):
            found += _in_tail(head, window)
        return _cut(found, window)

    async def _in_pages(self, head: Head, pages: Sequence[Page], window: Window) -> list[_Message]:
        low, high = _bounds(head, window)
        # What is read piece by piece is a long history, and seldom read twice.
        read = await self._pages.messages(head, pages, keep=window.max_bytes is None)
        found: list[_Message] = []
        for page, messages in zip(pages, read, strict=True):
            if page.seq < low or page.last > high:
                found += [each for each in messages if low <= each[0] <= high]
            else:
                found += messages
        return found

    async def scan(self, scan: Scan, moment: float) -> list[SessionInfo]:
        """Return sessions as `Scan` says, where it is ``moment`` now."""
        where: Document = {"updated_at": {"$lte": float("inf")}} | scan.where
        past = {"$lte": moment}
        where["expires_at"] = past if scan.expired else {"$not": past}
        if scan.below is not None:
            updated_at, session_id = scan.below
            where["updated_at"] = {"$lte": updated_at}
            older = {"updated_at": {"$lt": updated_at}}
            where["$or"] = [older, {"_id": {"$lt": session_id}}]
        infos: list[SessionInfo] = []
        while len(infos) < scan.limit:
            # A reply holds 16 MB, and leaves out what is beyond.
            found = await self._database.find(
                self._sessions,
                where,
                limit=scan.limit - len(infos),
                sort={"updated_at": -1, "_id": -1},
                projection=NOT_INFO,
            )
            for document in found:
                try:
                    infos.append(info_of(document))
                except CorruptSessionError as exc:
                    leave_out(logger, "list", exc)
            if not found:
                break
            updated_at, session_id = found[-1]["updated_at"], found[-1]["_id"]
            where["updated_at"] = {"$lte": updated_at}
            older = {"updated_at": {"$lt": updated_at}}
            where["$or"] = [older, {"_id": {"$lt": session_id}}]
        return infos


def indexes() -> list[Document]:
    """Return the indexes that lists and look-ups take."""
    order = {"updated_at": -1, "_id": -1}
    made: list[Document] = [{"key": order, "name": "newest"}]
    for field in NAMES:
        exists = {field: {"$exists": True}}
        made.append({"key": {field: 1} | order, "name": field, "partialFilterExpression": exists})
    exists = {"expires_at": {"$exists": True}}
    key = {"expires_at": 1}
    made.append({"key": key, "name": "expiry", "partialFilterExpression": exists})
    return made


def _bounds(head: Head, window: Window) -> tuple[int, int]:
    """Return the lowest and the highest ``seq`` that may be read."""
    high = head.last_seq if window.before is None else min(window.before - 1, head.last_seq)
    return max(head.first_seq, window.after + 1), high


def _wanted(pages: Sequence[Page], head: Head, window: Window) -> list[Page]:
    low, high = _bounds(head, window)
    return [page for page in pages if page.last >= low and page.seq <= high]


def _in_tail(head: Head, window: Window) -> list[_Message]:
    low, high = _bounds(head, window)
    found: list[_Message] = []
    for entry in head.tail:
        if entry.bodies is None or entry.last < low or entry.seq > high:
            continue
        messages = messages_of(entry.bodies, [(entry.seq, entry.count)], head.session_id)
        if entry.seq < low or entry.last > high:
            messages = [each for each in messages if low <= each[0] <= high]
        found += messages
    return found


def _count(pages: Sequence[Page]) -> int:
    return sum([page.count for page in pages])


def _is_enough(found: Sequence[_Message], size: int, window: Window) -> bool:
    if window.max_bytes is not None and size >= window.max_bytes:
        return True
    return window.limit is not None and len(found) >= window.limit


def _cut(found: list[_Message], window: Window) -> list[_Message]:
    """Return what a window's limit and bytes leave of it."""
    found = found if window.limit is None else found[: window.limit]
    if window.max_bytes is None:
        return found
    size = 0
    for index, (_, body) in enumerate(found):
        size += len(body)
        if size >= window.max_bytes:
            return found[: index + 1]
    return found


def _with_seq(message: _Message) -> bytes:
    return with_seq(message[1], message[0])
