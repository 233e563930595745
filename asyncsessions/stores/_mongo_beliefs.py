"""What a store believes about sessions, so that it needn't read them before each write."""

from __future__ import annotations

import random
from collections import OrderedDict

from asyncsessions.stores._mongo_session import Head

__all__ = ["Beliefs"]

# How many sessions are remembered, and how large a record may be for that.
_HEADS = 8192
_RECORD_BYTES = 4096
# How often a write that met no other writer ends the belief that there are others.
_CALMS_DOWN = 1 / 16


class Beliefs:
    """The newest versions that this store knows; only a commit proves that they still are.

    A session is *contested* where others write, too. What is believed about it is out of date
    most of the time, so it is read first.
    """

    def __init__(self) -> None:
        self._heads: OrderedDict[str, Head] = OrderedDict()
        # Each with the version that this store made last.
        self._contested: dict[str, int] = {}

    def head(self, session_id: str) -> Head | None:
        """Return the version that a session is believed to have."""
        return self._heads.get(session_id)

    def remember(self, head: Head) -> None:
        """Believe that this is its session's version."""
        session_id, heads = head.session_id, self._heads
        if head.updated_at is None or len(head.record) > _RECORD_BYTES:
            heads.pop(session_id, None)
            return
        is_new = session_id not in heads
        heads[session_id] = head
        if not is_new:
            heads.move_to_end(session_id)
        elif len(heads) > _HEADS:
            heads.popitem(last=False)

    def remember_read(self, head: Head) -> None:
        """Believe what was read; a session that nobody else has written isn't contested."""
        self.remember(head)
        if self._contested.get(head.session_id) == head.version:
            del self._contested[head.session_id]

    def forget(self, session_id: str) -> None:
        """Believe nothing about a session's version."""
        self._heads.pop(session_id, None)

    @property
    def has_contested(self) -> bool:
        """Whether any session is contested."""
        return bool(self._contested)

    def is_contested(self, session_id: str) -> bool:
        """Whether others write to a session, too."""
        return session_id in self._contested

    def contest(self, head: Head) -> None:
        """Note that others write to a session, of which this store has made this version."""
        self._contested[head.session_id] = head.version
        if len(self._contested) > _HEADS:
            self._contested.clear()

    def calm_down(self, session_id: str) -> None:
        """Note that a write to a contested session met no other writer."""
        if random.random() < _CALMS_DOWN:  # noqa: S311  # no secret
            self._contested.pop(session_id, None)
