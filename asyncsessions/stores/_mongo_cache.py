"""Pages that were read lately.

A page never changes, and belongs to whoever finds it named in a session's document, which is read
anew each time. So nothing that is kept here can be out of date.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

from asyncsessions.stores._mongo_session import Page

__all__ = ["Found", "PageCache"]

Found: TypeAlias = Sequence[tuple[int, bytes]]
"""Encoded messages with their ``seq``, oldest first."""

# The part of it that one read may take, or a long history would push out everything else.
_SHARE = 4


class PageCache:
    """The messages of the pages that were read last.

    Args:
        max_bytes: The most bytes of messages.
    """

    def __init__(self, max_bytes: int = 16 << 20) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        # The ones used last are at the end.
        self._kept: dict[Page, Found] = {}

    def find(self, pages: Sequence[Page]) -> dict[Page, Found]:
        """Return the messages of those pages that are there."""
        found: dict[Page, Found] = {}
        for page in pages:
            messages = self._kept.pop(page, None)
            if messages is not None:
                found[page] = self._kept[page] = messages
        return found

    def keep(self, read: Mapping[Page, Found]) -> None:
        """Keep what wasn't there, in place of what wasn't used for the longest time."""
        size = sum([page.size for page in read])
        if size > self._max_bytes // _SHARE:
            return
        for page, messages in read.items():
            if page not in self._kept:
                self._kept[page] = messages
                self._bytes += page.size
        while self._bytes > self._max_bytes:
            oldest = next(iter(self._kept))
            del self._kept[oldest]
            self._bytes -= oldest.size
