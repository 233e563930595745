"""Reads what sessions show: parts that are stored here and there, and their own newer messages."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Sequence

import msgspec

from asyncsessions.base import BaseSessionStore
from asyncsessions.codec import decode_messages, seq_of
from asyncsessions.errors import MessageNotFoundError
from asyncsessions.hierarchy.lineage import Lineage
from asyncsessions.hierarchy.saved import Part, View, count_of, cut
from asyncsessions.hooks import Tail, Window
from asyncsessions.models import Message

__all__ = ["Reader"]

_REMEMBERED = 1024


class Reader:
    """Reads sessions of a store, each as it shows itself at one moment.

    Args:
        store: The store; it is open.
    """

    def __init__(self, store: BaseSessionStore) -> None:
        self._store = store
        # What sessions showed last. It is read while their records are, which say if it was right.
        self._views: OrderedDict[str, tuple[str | None, View]] = OrderedDict()

    async def record(self, session_id: str) -> Lineage | None:
        """Return a session's record, also of one that was deleted; None where there is none."""
        info = await self._store.get_info(session_id)
        return None if info is None else Lineage(info)

    async def lineage(self, session_id: str) -> Lineage | None:
        """Return a session's record; None where there is no session, or it was deleted."""
        lineage = await self.record(session_id)
        return None if lineage is None or lineage.is_gone else lineage

    async def read(self, session_id: str, window: Window) -> Tail | None:
        """Return a session's messages; None where there is no session. See `BaseSessionStore`."""
        token, view = self._views.get(session_id, (None, View((), 0, 0)))
        while True:
            lineage, bodies = await self._look(session_id, view, window)
            if lineage is None:
                return None
            if lineage.token == token:
                return Tail(bodies, lineage.info.expires_at)
            token, view = lineage.token, lineage.view
            self._remember(session_id, lineage)

    async def _look(
        self, session_id: str, view: View, window: Window
    ) -> tuple[Lineage | None, Sequence[bytes]]:
        """Return what a view of a session shows, and the record that says if it is right."""
        if view.parts:
            # Several reads, and only a record that is read afterwards tells that nothing changed.
            bodies = await self._read_view(session_id, view, window)
            return await self.lineage(session_id), bodies
        lineage, bodies = await asyncio.gather(
            self.lineage(session_id), self._read_view(session_id, view, window)
        )
        if lineage is not None and bodies and seq_of(bodies[-1]) > lineage.info.last_seq:
            # Some came after the record was read, maybe in place of others.
            lineage = await self.lineage(session_id)
        return lineage, bodies

    async def read_at(self, lineage: Lineage, window: Window) -> list[Message]:
        """Return messages that a session showed when its record was read."""
        return await _decoded(await self._read_at(lineage, window))

    async def read_parts(self, parts: Sequence[Part]) -> list[Message]:
        """Return the messages of parts, oldest first."""
        found = await asyncio.gather(*(self._read_part(part) for part in parts))
        return await _decoded([body for each in found for body in each])

    async def parts_upto(self, lineage: Lineage, seq: int | None) -> tuple[Part, ...]:
        """Return what a session shows up to a message.

        Raises:
            MessageNotFoundError: It shows no such message.
            ValueError: It isn't a number.
        """
        if seq is None:
            return lineage.parts
        _check_number("seq", seq)
        parts = tuple(cut(lineage.parts, before=seq + 1))
        last = parts[-1] if parts else None
        if last is None or last.upto != seq:
            raise MessageNotFoundError(lineage.info.session_id, seq)
        bounds = {"after": seq - 1, "before": seq + 1}
        if not await self._store.get_messages(last.source, **bounds):
            raise MessageNotFoundError(lineage.info.session_id, seq)
        whole = next(part for part in lineage.parts if part.after == last.after)
        if whole.count != whole.upto - whole.after:
            # Some are missing, and nobody knows where.
            bounds = {"after": seq, "before": whole.upto + 1}
            newer = await self._store.get_messages(last.source, **bounds)
            last = msgspec.structs.replace(last, count=max(1, whole.count - len(newer)))
        return (*parts[:-1], last)

    async def seq_at(self, lineage: Lineage, index: int) -> int:
        """Return the ``seq`` of the message at an index, counted from 0.

        Raises:
            MessageNotFoundError: There aren't so many.
            ValueError: It isn't a number.
        """
        _check_number("index", index)
        session_id = lineage.info.session_id
        if index < 0:
            raise MessageNotFoundError(session_id, index)
        left = index
        # Retention removes messages without a word to whoever counted them.
        is_counted = self._store.policy.max_messages is None
        for part in lineage.parts:
            if not is_counted or part.count != part.upto - part.after:
                break
            if 0 <= left < part.count:
                return part.after + 1 + left
            left -= part.count
        else:
            raise MessageNotFoundError(session_id, index)
        messages = await self.read_at(lineage, Window(limit=index + 1, oldest=True))
        if not 0 <= index < len(messages):
            raise MessageNotFoundError(session_id, index)
        return messages[index].seq

    async def _read_at(self, lineage: Lineage, window: Window) -> Sequence[bytes]:
        session_id, newest = lineage.info.session_id, lineage.info.last_seq
        self._remember(session_id, lineage)
        if window.before is None or window.before > newest:
            window = msgspec.structs.replace(window, before=newest + 1)
        return await self._read_view(session_id, lineage.view, window)

    def _remember(self, session_id: str, lineage: Lineage) -> None:
        if lineage.token is None:
            self._views.pop(session_id, None)
            return
        self._views[session_id] = (lineage.token, lineage.view)
        if len(self._views) > _REMEMBERED:
            self._views.popitem(last=False)

    async def _read_view(self, session_id: str, view: View, window: Window) -> Sequence[bytes]:
        parts = list(cut(view.parts, window.after, window.before))
        live = msgspec.structs.replace(window, after=max(window.after, view.after))
        if window.oldest or window.max_bytes is not None:
            return await self._read_oldest(session_id, parts, live)
        return await self._read_newest(session_id, parts, live)

    async def _read_newest(
        self, session_id: str, parts: Sequence[Part], live: Window
    ) -> Sequence[bytes]:
        limit = live.limit
        first = len(parts)
        while first and (limit is None or count_of(parts[first:]) < limit):
            first -= 1
        chosen = [self._read_part(part, limit) for part in parts[first:]]
        found = await asyncio.gather(*chosen, self._fetch(session_id, live))
        if len(found) == 1 and not first:
            return found[0]
        bodies = [body for each in found for body in each]
        while first and limit is not None and len(bodies) < limit:
            # Some were removed, one by one, before they became part of anything.
            first -= 1
            bodies = [*await self._read_part(parts[first], limit), *bodies]
        return bodies if limit is None else bodies[max(0, len(bodies) - limit) :]

    async def _read_oldest(
        self, session_id: str, parts: Sequence[Part], live: Window
    ) -> Sequence[bytes]:
        bodies: list[bytes] = []
        limit = live.limit
        windows = [_window(part, oldest=True) for part in parts]
        sources = [part.source for part in parts]
        for source, window in zip([*sources, session_id], [*windows, live], strict=True):
            left = None if limit is None else limit - len(bodies)
            bounds = {"limit": left, "max_bytes": live.max_bytes, "oldest": True}
            bodies += await self._fetch(source, msgspec.structs.replace(window, **bounds))
            if limit is not None and len(bodies) >= limit:
                break
            if live.max_bytes is not None and bodies:
                # Only the store knows whether it has stopped before the end of this source.
                break
        return bodies

    async def _read_part(self, part: Part, limit: int | None = None) -> Sequence[bytes]:
        return await self._fetch(part.source, _window(part, limit=limit))

    async def _fetch(self, session_id: str, window: Window) -> Sequence[bytes]:
        if window.before is not None and window.before <= window.after + 1:
            return ()
        tail = await self._store._consult(self._store._tail, session_id, window)
        return () if tail is None else tail.messages


def _window(part: Part, *, limit: int | None = None, oldest: bool = False) -> Window:
    return Window(limit, part.after, part.upto + 1, oldest)


def _check_number(name: str, value: object) -> None:
    if type(value) is not int:
        raise ValueError(f"{name}={value!r}: give a whole number")


async def _decoded(bodies: Sequence[bytes]) -> list[Message]:
    messages: list[Message] = []
    await decode_messages(bodies, messages)
    return messages
