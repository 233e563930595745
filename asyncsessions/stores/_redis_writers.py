"""Who makes a write, by which the server knows it again, and which other one it comes after."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from asyncsessions.stores._redis_scripts import Word

__all__ = ["Sending", "Writers"]


class Sending:
    """A write from when it is first sent until its outcome is known or given up.

    Attributes:
        field: The field of a session's record in which the server notes the writer's last write.
        number: The write's, among those of this writer.
        over: Set as soon as nobody sends it any more.
    """

    __slots__ = ("_before", "field", "number", "over")

    def __init__(self, field: str, number: int, before: Sending | None) -> None:
        self.field = field
        self.number = number
        self.over = asyncio.Event()
        self._before = before

    @property
    def before(self) -> Sending | None:
        """The write that this one comes after, while that is under way."""
        return None if self._before is None or self._before.over.is_set() else self._before

    def after(self) -> tuple[Word, Word]:
        """Return the field and the number of the write that has to be there before, or nothing.

        As soon as that one is over it is nothing, so ask for each attempt.
        """
        before = self.before
        return ("", "") if before is None else (before.field, before.number)

    async def wait(self) -> None:
        """Return when the write before this one is over."""
        if self.before is not None:
            await self.before.over.wait()

    def end(self) -> None:
        """Note that nobody sends it any more."""
        self.over.set()
        # Or each would keep all before it.
        self._before = None


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
        self._idle: list[list[Any]] = []
        # The last of the appends under way to each session.
        self._last: dict[str, Sending] = {}

    @contextmanager
    def sending(self, session_id: str | None = None) -> Iterator[Sending]:
        """Name a writer for a write while it is under way.

        Args:
            session_id: The session, if all of it are appends to that one.
        """
        writer = self._idle.pop() if self._idle else self._new_writer()
        writer[1] += 1
        before = None if session_id is None else self._last.get(session_id)
        sending = Sending(writer[0], writer[1], before)
        if session_id is not None:
            self._last[session_id] = sending
        try:
            yield sending
        finally:
            self._idle.append(writer)
            if session_id is not None and self._last.get(session_id) is sending:
                self._go_back(session_id, sending.before)
            sending.end()

    def _go_back(self, session_id: str, before: Sending | None) -> None:
        if before is None:
            del self._last[session_id]
        else:
            self._last[session_id] = before

    def _new_writer(self) -> list[Any]:
        self._count += 1
        return [f"w:{self._name}-{self._count - 1}", 0]
