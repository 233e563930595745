"""Rewrites of sessions of which others read messages, or that show only a part of what is stored.

Such a session's messages stay in the store; what changes is what the session shows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from asyncsessions.errors import SessionChangedError, SessionNotFoundError, SessionSharedError
from asyncsessions.hierarchy.branching import Branching
from asyncsessions.hierarchy.lineage import Lineage, Part, View, count_of, cut, view_changes
from asyncsessions.hierarchy.needs import BranchableStore
from asyncsessions.hierarchy.reading import Range, Reader
from asyncsessions.hooks import Change
from asyncsessions.models import Message

__all__ = ["Rewriting"]


class Rewriting:
    """Rewrites sessions of a store.

    Args:
        store: The store.
        reader: Reads its sessions.
        branching: Changes their records.
    """

    def __init__(self, store: BranchableStore, reader: Reader, branching: Branching) -> None:
        self._store = store
        self._reader = reader
        self._branching = branching

    async def clear(self, session_id: str) -> bool:
        """Hide all messages, and remove those that nobody else reads."""

        def hide(lineage: Lineage) -> list[Change]:
            automatic = [each for each, saved in lineage.snapshots.items() if saved.is_automatic]
            checkpoint = Change(("checkpoint",), "set", None)
            return [*lineage.show(()), checkpoint, *Lineage.forget(automatic)]

        try:
            old = await self._branching.change(session_id, hide)
            await self._store.clear_session(session_id)
            await self._branching.change(session_id, lambda now: _recounted(now, old))
        except SessionNotFoundError:
            return False
        except SessionSharedError:
            pass
        return count_of(old.parts) > 0 or old.info.checkpoint is not None

    async def set_history(
        self, session_id: str, messages: Sequence[Message | Mapping[str, Any]]
    ) -> None:
        """Append messages, and show them alone; in between, for a moment, all are shown."""
        stored = await self._store.append(session_id, messages)
        if not stored:
            await self.clear(session_id)
            return
        checkpoint = Change(("checkpoint",), "set", None)
        await self._show_from(session_id, stored[0].seq, lambda _: (), checkpoint)

    async def _show_from(
        self,
        session_id: str,
        seq: int,
        parts: Callable[[Lineage], tuple[Part, ...]],
        *changes: Change,
    ) -> None:
        """Show parts, and what the session itself has from a message on."""

        def show(lineage: Lineage) -> list[Change]:
            info = lineage.info
            hidden = max(0, info.message_count - (info.last_seq - seq + 1))
            view = View(parts(lineage), seq - 1, hidden)
            return [lineage.unless_reverted(), *view_changes(view), *changes]

        await self._branching.change(session_id, show)

    async def pop(
        self, session_id: str, is_wanted: Callable[[Message], bool] = lambda _: True
    ) -> Message | None:
        """Hide the newest message if it is one that is wanted, and return it."""
        while True:
            lineage = await self._reader.lineage(session_id)
            if lineage is None:
                return None
            newest = await self._newest(lineage)
            if newest is None or not is_wanted(newest):
                return None
            try:
                changes = lineage.show(_without(lineage.parts, newest.seq))
                if await self._store.amend_session(session_id, changes):
                    return newest
            except SessionChangedError:
                continue

    async def _newest(self, lineage: Lineage) -> Message | None:
        return next(iter(await self._reader.read_at(lineage, Range(limit=1))), None)

    async def put_partial(self, session_id: str, content: str, *, finalize: bool) -> None:
        """Append a part of a turn, and hide the part of it that was there."""
        lineage = await self._reader.lineage(session_id)
        newest = None if lineage is None else await self._newest(lineage)
        metadata = {} if finalize else {"partial": True}
        message = Message("assistant", content, metadata=metadata)
        (stored,) = await self._store.append(session_id, [message])
        if newest is None or not is_partial(newest):
            return
        old = newest.seq
        await self._show_from(session_id, stored.seq, lambda now: _without(now.parts, old))


def _recounted(now: Lineage, old: Lineage) -> list[Change]:
    """Return what notes that the messages are gone that a clear has hidden."""
    after = old.info.last_seq
    if now.view.parts or now.view.after != after:
        return []
    return [now.unless_reverted(), *view_changes(View((), after, 0))]


def _without(parts: Sequence[Part], seq: int) -> tuple[Part, ...]:
    """Return parts without a message and what came after it."""
    left = list(cut(parts, before=seq + 1))
    last = left.pop()
    whole = next(part for part in parts if part.after == last.after)
    count = min(whole.count, seq - last.after) - 1
    if count > 0:
        left.append(msgspec.structs.replace(last, upto=seq - 1, count=count))
    return tuple(left)


def is_partial(message: Message) -> bool:
    """Whether a message is a part of a turn that isn't complete."""
    return message.role == "assistant" and bool(message.metadata.get("partial"))
