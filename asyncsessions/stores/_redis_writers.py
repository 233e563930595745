"""Who makes a write, by which the server knows it again, and which other one it comes after."""

from __future__ import annotations

import asyncio

from asyncsessions.stores._redis_scripts import Word

__all__ = ["Sending", "Writers"]


class Sending:
    """A write from when it is first sent until its outcome is known or given up.

    Attributes:
        field: The field of a session's record in which the server notes the writer's last write.
        number: The write's, among those of this writer.
        session_id: The session, if all of it are appends to that one.
        is_over: Whether nobody sends it any more.
    """

    __slots__ = ("_before", "_over", "field", "is_over", "number", "session_id")

    def __init__(
        self, field: str, number: int, session_id: str | None, before: Sending | None
    ) -> None:
        self.field = field
        self.number = number
        self.session_id = session_id
        self._before = before
        self.is_over = False
        # Made for who waits, as nearly nobody does.
        self._over: asyncio.Event | None = None

    def before(self) -> Sending | None:
        """Return the write that this one comes after, while that is under way."""
        before = self._before
        return None if before is None or before.is_over else before

    def after(self) -> tuple[Word, Word]:
        """Return the field and the number of the write that has to be there before, or nothing.

        As soon as that one is over it is nothing, so ask for each attempt.
        """
        before = self.before()
        return ("", "") if before is None else (before.field, before.number)

    async def wait(self) -> None:
        """Return when the write before this one is over."""
        before = self.before()
        if before is not None:
            await before.ended()

    async def ended(self) -> None:
        """Return when nobody sends it any more."""
        if not self.is_over:
            self._over = self._over or asyncio.Event()
            await self._over.wait()

    def end(self) -> None:
        """Note that nobody sends it any more."""
        self.is_over = True
        # Or each would keep all before it.
        self._before = None
        if self._over is not None:
            self._over.set()


class Writers:
    """Names a writer for each write under way, so that each has a number above its last one.

    Of appends to one session that are under way at the same time, each comes after the one that was
    sent before: the server refuses it until that one is there, or is given up.

    Args:
        name: What no other store's writers are called.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._count = 0
        # Those that have no write under way, each with the number of its last one.
        self._idle: list[tuple[str, int]] = []
        # The last of the appends under way to each session.
        self._last: dict[str, Sending] = {}

    def begin(self, session_id: str | None = None) -> Sending:
        """Name a writer for a write, until `end`.

        Args:
            session_id: The session, if all of it are appends to that one.
        """
        field, number = self._idle.pop() if self._idle else self._new_writer()
        if session_id is None:
            return Sending(field, number + 1, None, None)
        last = self._last.get(session_id)
        sending = self._last[session_id] = Sending(field, number + 1, session_id, last)
        return sending

    def end(self, sending: Sending) -> None:
        """Note that a write's outcome is known or given up."""
        self._idle.append((sending.field, sending.number))
        session_id = sending.session_id
        if session_id is not None and self._last.get(session_id) is sending:
            before = sending.before()
            if before is None:
                del self._last[session_id]
            else:
                self._last[session_id] = before
        sending.end()

    def _new_writer(self) -> tuple[str, int]:
        self._count += 1
        return f"w:{self._name}-{self._count - 1}", 0
