"""A model of sessions that branch in plain Python, and what compares a store with it."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from asyncsessions.base import BaseSessionStore
from asyncsessions.errors import (
    MessageNotFoundError,
    SessionCycleError,
    SessionExistsError,
    SessionNotFoundError,
    SnapshotNotFoundError,
    VersionConflictError,
)
from asyncsessions.hierarchy import HierarchicalSessionStore
from asyncsessions.models import Message
from asyncsessions.testing._cases import ids, user

__all__ = ["Branches"]

_MOST_SESSIONS = 7


@dataclass(frozen=True, slots=True)
class _Turn:
    seq: int
    content: str
    is_partial: bool = False


@dataclass(frozen=True, slots=True)
class _Content:
    """What a snapshot remembers of a session."""

    turns: tuple[_Turn, ...] = ()
    state: dict[str, Any] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)
    checkpoint: int | None = None

    def upto(self, seq: int) -> _Content:
        """Return the same with the messages up to one of them."""
        covered = self.checkpoint
        return replace(
            self,
            turns=tuple(turn for turn in self.turns if turn.seq <= seq),
            checkpoint=None if covered is None or covered > seq else covered,
        )


@dataclass(slots=True, eq=False)
class _Session:
    now: _Content = _Content()
    last_seq: int = 0
    snapshots: dict[str, _Content] = field(default_factory=dict)
    undo: list[_Content] = field(default_factory=list)
    keys: dict[str, _Turn] = field(default_factory=dict)
    parent: _Session | None = None
    children: list[_Session] = field(default_factory=list)

    def show(self, *turns: _Turn) -> None:
        self.now = replace(self.now, turns=turns)


def _turns(messages: Sequence[Message]) -> tuple[_Turn, ...]:
    return tuple(
        _Turn(each.seq, str(each.content), bool(each.metadata.get("partial"))) for each in messages
    )


class Branches:
    """Makes each call on a store and on the model, and compares answers and all sessions.

    Where a message may get one of several numbers, the model takes the store's, if it is a new one.

    Args:
        store: The store.
        plain: The one that it is made of.
        prefix: Keeps the sessions of this comparison apart from others.
    """

    def __init__(
        self, store: HierarchicalSessionStore, plain: BaseSessionStore, *, prefix: str
    ) -> None:
        self._store = store
        self._plain = plain
        # Every id that was ever used; a session is gone from the model once it is deleted.
        self._ids = [f"{prefix} {name}" for name in "ab"]
        self._sessions: dict[str, _Session] = {}
        self._texts = (f"m{number}" for number in itertools.count(1))

    async def call(self, verb: str, which: int, arguments: Sequence[Any]) -> None:
        """Make one call on both, then compare every session."""
        session_id = self._ids[which % len(self._ids)]
        await getattr(self, verb)(session_id, *arguments)
        await asyncio.gather(*map(self._compare, self._ids))

    async def end(self) -> None:
        """Compare what is known of kin, delete all sessions, and expect that nothing is left."""
        for session_id in self._ids:
            await self.look_at_kin(session_id)
        for session_id in self._ids:
            await self.delete(session_id)
            await asyncio.gather(*map(self._compare, self._ids))
        left = await asyncio.gather(*map(self._plain.get_info, self._ids))
        assert left == [None] * len(self._ids)
        # Nor anything that never had a name here.
        assert ids(await self._plain.list_sessions()) == []

    async def _compare(self, session_id: str) -> None:
        model = self._sessions.get(session_id)
        assert await self._store.session_exists(session_id) is (model is not None)
        model = model or _Session()
        session = await self._store.get_session(session_id)
        assert _turns(session.messages) == model.now.turns
        assert session.message_count == len(model.now.turns)
        assert session.last_seq >= model.last_seq
        assert session.state == model.now.state
        assert session.metadata == model.now.metadata
        covered = None if session.checkpoint is None else session.checkpoint.seq
        assert covered == model.now.checkpoint
        model.last_seq = session.last_seq

    def _make(self, session_id: str) -> _Session:
        return self._sessions.setdefault(session_id, _Session())

    def _said(self, session_id: str, stored: Sequence[Message], contents: list[str]) -> None:
        """Note messages that were appended, and take their numbers if they are new and dense."""
        model = self._make(session_id)
        turns = _turns(stored)
        assert [turn.content for turn in turns] == contents
        first = turns[0].seq
        assert [turn.seq for turn in turns] == list(range(first, first + len(turns)))
        assert first > model.last_seq
        model.show(*model.now.turns, *turns)
        model.last_seq = turns[-1].seq

    def _texts_of(self, count: int) -> list[str]:
        return list(itertools.islice(self._texts, count))

    # One method for each kind of call.

    async def append(self, session_id: str, count: int) -> None:
        contents = self._texts_of(count)
        stored = await self._store.append(session_id, [user(text) for text in contents])
        self._said(session_id, stored, contents)

    async def append_expecting(self, session_id: str, behind: int) -> None:
        model = self._sessions.get(session_id) or _Session()
        expected_seq = max(0, model.last_seq - behind)
        contents = self._texts_of(1)
        call = self._store.append(session_id, [user(contents[0])], expected_seq=expected_seq)
        if expected_seq == model.last_seq:
            self._said(session_id, await call, contents)
            return
        with pytest.raises(VersionConflictError) as caught:
            await call
        assert caught.value.last_seq == model.last_seq
        newer = tuple(turn for turn in model.now.turns if turn.seq > expected_seq)
        assert _turns(caught.value.messages) == newer

    async def append_with_key(self, session_id: str, key: str) -> None:
        model = self._make(session_id)
        old = model.keys.get(key)
        contents = self._texts_of(1) if old is None else [old.content]
        (message,) = await self._store.append(session_id, [user(contents[0])], idempotency_key=key)
        if old is None:
            self._said(session_id, [message], contents)
            model.keys[key] = model.now.turns[-1]
        assert _turns([message]) == (model.keys[key],)

    async def upsert_partial(self, session_id: str, finalize: bool) -> None:  # noqa: FBT001  # drawn by position
        (content,) = self._texts_of(1)
        upsert = self._store.upsert_partial_assistant_message
        assert await upsert(session_id, content, finalize=finalize) is True
        model = self._make(session_id)
        before, old = model.now.turns, None
        if before and before[-1].is_partial:
            before, old = before[:-1], before[-1]
        (message,) = await self._store.get_messages(session_id, limit=1)
        assert message.seq > model.last_seq or (old is not None and message.seq == old.seq)
        model.show(*before, _Turn(message.seq, content, not finalize))

    async def finalize_empty(self, session_id: str) -> None:
        upsert = self._store.upsert_partial_assistant_message
        assert await upsert(session_id, "", finalize=True) is True
        self._drop_partial(session_id)

    async def discard_partial(self, session_id: str) -> None:
        assert await self._store.discard_partial_assistant_message(session_id) is True
        self._drop_partial(session_id)

    def _drop_partial(self, session_id: str) -> None:
        model = self._sessions.get(session_id)
        if model is not None and model.now.turns and model.now.turns[-1].is_partial:
            model.show(*model.now.turns[:-1])

    async def pop(self, session_id: str) -> None:
        popped = await self._store.pop_message(session_id)
        model = self._sessions.get(session_id) or _Session()
        assert (() if popped is None else _turns([popped])) == model.now.turns[-1:]
        model.show(*model.now.turns[:-1])

    async def clear(self, session_id: str) -> None:
        model = self._sessions.get(session_id) or _Session()
        had_any = bool(model.now.turns) or model.now.checkpoint is not None
        assert await self._store.clear_session(session_id) is had_any
        model.now = replace(model.now, turns=(), checkpoint=None)
        model.undo.clear()

    async def set_chat_history(self, session_id: str, count: int) -> None:
        contents = self._texts_of(count)
        given = [user(text) for text in contents]
        assert await self._store.set_chat_history(session_id, given) is True
        model = self._make(session_id)
        model.now = replace(model.now, turns=(), checkpoint=None)
        if contents:
            self._said(session_id, await self._store.get_messages(session_id), contents)
        else:
            model.undo.clear()

    async def set_checkpoint(self, session_id: str) -> None:
        is_new = session_id not in self._sessions
        model = self._make(session_id)
        assert await self._store.append_compaction_checkpoint(session_id, "so far") is True
        # It covers nothing of a session that was deleted, and may go on with its numbers.
        session = await self._store.get_session(session_id, max_messages=0)
        assert session.last_seq >= model.last_seq
        model.now = replace(model.now, checkpoint=0 if is_new else session.last_seq)

    async def set_state(self, session_id: str, key: str, value: int) -> None:
        await self._store.set_state(session_id, key, value)
        model = self._make(session_id)
        model.now = replace(model.now, state=model.now.state | {key: value})

    async def set_metadata(self, session_id: str, key: str, value: int) -> None:
        await self._store.update_session_metadata(session_id, **{key: value})
        model = self._make(session_id)
        model.now = replace(model.now, metadata=model.now.metadata | {key: value})

    async def create(self, session_id: str, which: int | None) -> None:
        parent_id = None if which is None else self._ids[which % len(self._ids)]
        parent = None if parent_id is None else self._sessions.get(parent_id)
        call = self._store.create_session(session_id, parent_id=parent_id)
        if session_id in self._sessions or (parent_id is not None and parent is None):
            with pytest.raises((SessionExistsError, SessionNotFoundError)):
                await call
            return
        try:
            assert await call == session_id
        except SessionCycleError:
            # The parent comes from a session that had this id, and was deleted.
            assert parent is not None
            return
        model = self._make(session_id)
        model.parent = parent
        if parent is not None:
            parent.children.append(model)

    async def fork(self, session_id: str, place: int | None) -> None:
        model = self._sessions.get(session_id)
        if model is None:
            with pytest.raises(SessionNotFoundError):
                await self._store.fork_session(session_id)
            return
        if len(self._ids) >= _MOST_SESSIONS:
            return
        now = model.now
        if place is None:
            fork_id = await self._store.fork_session(session_id)
        elif place < len(now.turns):
            now = now.upto(now.turns[place].seq)
            fork_id = await self._store.fork_session(session_id, from_message_index=place)
        else:
            with pytest.raises(MessageNotFoundError):
                await self._store.fork_session(session_id, from_message_index=place)
            return
        title = f"Fork of {model.now.metadata.get('title', session_id)}"
        child = _Session(replace(now, metadata=now.metadata | {"title": title}), parent=model)
        child.last_seq = now.turns[-1].seq if now.turns else 0
        model.children.append(child)
        self._ids.append(fork_id)
        self._sessions[fork_id] = child

    async def snapshot(self, session_id: str) -> None:
        model = self._sessions.get(session_id)
        if model is None:
            with pytest.raises(SessionNotFoundError):
                await self._store.create_snapshot(session_id)
            return
        model.snapshots[await self._store.create_snapshot(session_id)] = model.now

    async def delete_snapshot(self, session_id: str, which: int) -> None:
        model = self._sessions.get(session_id)
        if model is not None and model.snapshots:
            snapshot_id = list(model.snapshots)[which % len(model.snapshots)]
            assert await self._store.delete_snapshot(session_id, snapshot_id) is True
            del model.snapshots[snapshot_id]

    async def revert_to_snapshot(self, session_id: str, which: int) -> None:
        model = self._sessions.get(session_id)
        if model is not None and model.snapshots:
            snapshot_id = list(model.snapshots)[which % len(model.snapshots)]
            await self._store.revert_to_snapshot(session_id, snapshot_id)
            model.undo.append(model.now)
            model.now = model.snapshots[snapshot_id]

    async def revert_to_message(self, session_id: str, place: int) -> None:
        model = self._sessions.get(session_id)
        if model is None or not model.now.turns:
            error = SessionNotFoundError if model is None else MessageNotFoundError
            with pytest.raises(error):
                await self._store.revert_to_message(session_id, 1)
            return
        seq = model.now.turns[place % len(model.now.turns)].seq
        await self._store.revert_to_message(session_id, seq)
        model.undo.append(model.now)
        model.now = model.now.upto(seq)

    async def undo_revert(self, session_id: str) -> None:
        model = self._sessions.get(session_id)
        if model is None or not model.undo:
            error = SessionNotFoundError if model is None else SnapshotNotFoundError
            with pytest.raises(error):
                await self._store.undo_revert(session_id)
            return
        await self._store.undo_revert(session_id)
        model.undo.append(model.now)
        model.now = model.undo[-2]

    async def purge_reverts(self, session_id: str) -> None:
        model = self._sessions.get(session_id)
        if model is not None:
            assert await self._store.purge_reverts(session_id) == len(model.undo)
            model.undo.clear()

    async def delete(self, session_id: str) -> None:
        model = self._sessions.pop(session_id, None)
        assert await self._store.delete_session(session_id) is (model is not None)

    async def read(
        self, session_id: str, limit: int | None, before: int | None, after: int | None
    ) -> None:
        model = self._sessions.get(session_id) or _Session()
        high = float("inf") if before is None else before
        inside = [turn for turn in model.now.turns if (after or 0) < turn.seq < high]
        if limit is not None:
            is_forward = after is not None and before is None
            inside = inside[:limit] if is_forward else inside[max(0, len(inside) - limit) :]
        read = await self._store.get_messages(session_id, limit=limit, before=before, after=after)
        assert _turns(read) == tuple(inside)

    async def look_at_kin(self, session_id: str) -> None:
        model = self._sessions.get(session_id)
        if model is None:
            with pytest.raises(SessionNotFoundError):
                await self._store.get_parent(session_id)
            return
        names = {session: name for name, session in self._sessions.items()}
        parent = None if model.parent is None else names.get(model.parent)
        assert await self._store.get_parent(session_id) == parent
        children = [names[child] for child in model.children if child in names]
        assert sorted(await self._store.get_children(session_id)) == sorted(children)
        snapshots = await self._store.get_snapshots(session_id)
        counts = {each.snapshot_id: each.message_count for each in snapshots}
        assert counts == {each: len(then.turns) for each, then in model.snapshots.items()}
