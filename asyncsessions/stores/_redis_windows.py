"""Where in a session's list the messages of a window are, as far as that can be known beforehand.

A script finds them in any case, but hands each of them through Lua, which takes two to four times
as long as a plain read of the list. Mostly no number is missing in a session from its first message
on, so that a ``seq`` says the place; a look at what was read shows whether it was so.
"""

from __future__ import annotations

import bisect
from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

from asyncsessions.codec import seq_of
from asyncsessions.hooks import Window

__all__ = ["Place", "Places"]

_REMEMBERED = 10_000


class Place(NamedTuple):
    """Where to read, as LRANGE takes it: -1 is the last message, -2 the one before."""

    first: int
    last: int
    #: What the ``seq`` at ``first`` must be; None where it doesn't matter.
    seq: int | None = None


class Places:
    """Knows, or guesses, where messages are."""

    def __init__(self) -> None:
        # How much the seq in a session is ahead of the place, 1 for the first; None where it
        # differs from message to message.
        self._leads: OrderedDict[str, int | None] = OrderedDict()

    def find(self, session_id: str, window: Window) -> Place | None:
        """Return where the messages of a window are likely to be; None where a script must look."""
        limit, before = window.limit, window.before
        if window.max_bytes is not None or limit == 0:
            return None
        if before is None and not window.oldest and (limit is not None or not window.after):
            return Place(0 if limit is None else -limit, -1)
        lead = self._leads.get(session_id, 1)
        if lead is None or (window.oldest and before is not None):
            return None
        first, last = max(0, window.after + 1 - lead), -1
        if before is not None:
            last = before - 1 - lead
            first = first if limit is None else max(first, last + 1 - limit)
            if last < first:
                return None
        elif limit is not None:
            last = first + limit - 1
        return Place(first, last, first + lead)

    def check(self, window: Window, place: Place, found: Sequence[bytes]) -> Sequence[bytes] | None:
        """Return the messages of a window; None where what is at a place doesn't tell."""
        after, before = window.after, window.before
        if place.seq is None:
            return found[bisect.bisect_right(found, after, key=seq_of) :] if after else found
        if not found or seq_of(found[0]) != place.seq:
            return None
        if before is None:
            return found
        if window.limit is None:
            # Where some are missing further on, others have moved up.
            return found[: bisect.bisect_left(found, before, key=seq_of)]
        # Where some are missing in between, fewer are left at the end of the list.
        is_whole = len(found) == place.last - place.first + 1
        return found if is_whole and seq_of(found[-1]) == before - 1 else None

    def learn(self, session_id: str, first: int, messages: Sequence[bytes]) -> None:
        """Take note of where a script found messages, because they weren't where they should be."""
        if not messages:
            return
        lead = seq_of(messages[0]) - first
        # Once may be because it is a session that begins with another number.
        self._leads[session_id] = None if session_id in self._leads else lead
        if len(self._leads) > _REMEMBERED:
            self._leads.popitem(last=False)
