"""Pages that were read lately.

A page never changes, and belongs to whoever finds it named in a session's document, which is read
anew each time. So nothing that is kept here can be out of date.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

from bson import ObjectId

from asyncsessions.stores._mongo_session import Head, Page

__all__ = ["Messages", "PageCache"]

Messages: TypeAlias = Sequence[tuple[int, bytes]]
"""Encoded messages with their ``seq``, oldest first."""

_Key: TypeAlias = tuple[str, ObjectId, Page]

# What it takes to have one more message, and not only its text.
_BYTES_EACH = 128
# The part of it that one read may take, or a long history would push out everything else.
_SHARE = 4


class PageCache:
    """The messages of the pages that were read last.

    Args:
        max_bytes: The most bytes that they take.
    """

    def __init__(self, max_bytes: int = 16 << 20) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        # The ones used last are at the end.
        self._kept: dict[_Key, Messages] = {}

    def find(self, head: Head, pages: Sequence[Page]) -> dict[Page, Messages]:
        """Return the messages of those pages of a session that are there."""
        found: dict[Page, Messages] = {}
        for page in pages:
            key = _key(head, page)
            messages = self._kept.pop(key, None)
            if messages is not None:
                found[page] = self._kept[key] = messages
        return found

    def keep(self, head: Head, read: Mapping[Page, Messages]) -> None:
        """Keep what wasn't there, in place of what wasn't used for the longest time."""
        if sum(map(_size, read)) > self._max_bytes // _SHARE:
            return
        for page, messages in read.items():
            key = _key(head, page)
            if key not in self._kept:
                self._kept[key] = messages
                self._bytes += _size(page)
        while self._bytes > self._max_bytes:
            oldest = next(iter(self._kept))
            del self._kept[oldest]
            self._bytes -= _size(oldest[-1])


def _key(head: Head, page: Page) -> _Key:
    return head.session_id, head.volume, page


def _size(page: Page) -> int:
    return page.size + _BYTES_EACH * page.count
