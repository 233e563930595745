"""A model of a session store in plain Python, and what compares a store with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from asyncsessions.errors import VersionConflictError
from asyncsessions.models import Message
from asyncsessions.protocols import SessionStore
from asyncsessions.testing._cases import ManualClock, user

__all__ = ["Comparison"]


@dataclass(frozen=True, slots=True)
class _Turn:
    seq: int
    role: str
    content: str
    is_partial: bool = False


@dataclass(slots=True)
class _Session:
    turns: list[_Turn] = field(default_factory=list)
    last_seq: int = 0
    state: dict[str, Any] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)
    # What each idempotency key stored: the content and its seq.
    keys: dict[str, tuple[str, int]] = field(default_factory=dict)
    checkpoint: int | None = None
    expires_at: float | None = None

    def add(self, role: str, content: str, *, is_partial: bool = False) -> _Turn:
        self.last_seq += 1
        turn = _Turn(self.last_seq, role, content, is_partial)
        self.turns.append(turn)
        return turn


def _turns(messages: Sequence[Message]) -> list[_Turn]:
    return [
        _Turn(each.seq, each.role, str(each.content), bool(each.metadata.get("partial")))
        for each in messages
    ]


class Comparison:
    """Makes each call on a store and on the model, and compares answers and contents.

    Args:
        store: The store; its clock is ``clock``.
        clock: Moved by ``advance``.
        prefix: Keeps the sessions of this comparison apart from others.
    """

    def __init__(self, store: SessionStore, clock: ManualClock, *, prefix: str) -> None:
        self._store = store
        self._clock = clock
        self._prefix = prefix
        self._sessions: dict[str, _Session] = {}

    async def call(self, verb: str, arguments: Sequence[Any]) -> None:
        """Make one call on both, then compare all that can be read."""
        await getattr(self, verb)(*arguments)
        for name in ("a", "A"):
            await self._compare(name)

    async def _compare(self, name: str) -> None:
        model = self._find(name) or _Session()
        session = await self._store.get_session(self._id(name))
        assert _turns(session.messages) == model.turns
        assert session.message_count == len(model.turns)
        assert session.last_seq == model.last_seq
        assert session.state == model.state
        assert session.metadata == model.metadata
        assert session.expires_at == model.expires_at
        covered = None if session.checkpoint is None else session.checkpoint.seq
        assert covered == model.checkpoint
        assert await self._store.session_exists(self._id(name)) is (self._find(name) is not None)

    def _id(self, name: str) -> str:
        return f"{self._prefix} {name}"

    def _find(self, name: str) -> _Session | None:
        session = self._sessions.get(name)
        if session is None or session.expires_at is None or session.expires_at > self._clock.now:
            return session
        del self._sessions[name]
        return None

    def _make(self, name: str) -> _Session:
        session = self._find(name)
        if session is None:
            session = self._sessions[name] = _Session()
        return session

    # One method for each kind of call.

    async def append(self, name: str, contents: list[str]) -> None:
        stored = await self._store.append(self._id(name), [user(text) for text in contents])
        if contents:
            model = self._make(name)
            assert _turns(stored) == [model.add("user", text) for text in contents]

    async def append_with_key(self, name: str, content: str, key: str) -> None:
        model = self._make(name)
        old = model.keys.get(key)
        if old is not None:
            # Other content would be an error, so a key known by now is always retried.
            content = old[0]
        (message,) = await self._store.append(self._id(name), [user(content)], idempotency_key=key)
        if old is None:
            model.keys[key] = (content, model.add("user", content).seq)
        assert (message.content, message.seq) == model.keys[key]

    async def append_expecting(self, name: str, content: str, expected_seq: int) -> None:
        model = self._find(name) or _Session()
        call = self._store.append(self._id(name), [user(content)], expected_seq=expected_seq)
        if expected_seq == model.last_seq:
            assert _turns(await call) == [self._make(name).add("user", content)]
            return
        with pytest.raises(VersionConflictError) as caught:
            await call
        assert caught.value.last_seq == model.last_seq
        assert _turns(caught.value.messages) == [t for t in model.turns if t.seq > expected_seq]

    async def upsert_partial(self, name: str, content: str, finalize: bool) -> None:  # noqa: FBT001  # drawn by position
        session_id = self._id(name)
        upsert = self._store.upsert_partial_assistant_message
        assert await upsert(session_id, content, finalize=finalize) is True
        model = self._find(name)
        partial = model is not None and bool(model.turns) and model.turns[-1].is_partial
        if model is not None and partial:
            old = model.turns.pop()
            if content or not finalize:
                model.turns.append(_Turn(old.seq, "assistant", content, not finalize))
        elif content or not finalize:
            self._make(name).add("assistant", content, is_partial=not finalize)

    async def discard_partial(self, name: str) -> None:
        assert await self._store.discard_partial_assistant_message(self._id(name)) is True
        model = self._find(name)
        if model is not None and model.turns and model.turns[-1].is_partial:
            model.turns.pop()

    async def pop(self, name: str) -> None:
        popped = await self._store.pop_message(self._id(name))
        model = self._find(name)
        expected = model.turns.pop() if model is not None and model.turns else None
        assert (None if popped is None else _turns([popped])[0]) == expected

    async def clear(self, name: str) -> None:
        model = self._find(name) or _Session()
        had_any = bool(model.turns) or model.checkpoint is not None
        assert await self._store.clear_session(self._id(name)) is had_any
        model.turns.clear()
        model.checkpoint = None

    async def set_chat_history(self, name: str, contents: list[str]) -> None:
        given = [user(text) for text in contents]
        assert await self._store.set_chat_history(self._id(name), given) is True
        model = self._make(name)
        model.turns.clear()
        model.checkpoint = None
        for text in contents:
            model.add("user", text)

    async def set_checkpoint(self, name: str) -> None:
        assert await self._store.append_compaction_checkpoint(self._id(name), "so far") is True
        model = self._make(name)
        model.checkpoint = model.last_seq

    async def delete(self, name: str) -> None:
        existed = self._find(name) is not None
        assert await self._store.delete_session(self._id(name)) is existed
        self._sessions.pop(name, None)

    async def set_state(self, name: str, key: str, value: int) -> None:
        await self._store.set_state(self._id(name), key, value)
        self._make(name).state[key] = value

    async def increment(self, name: str, by: int) -> None:
        state = self._make(name).state
        state["n"] = state.get("n", 0) + by
        assert await self._store.increment_state(self._id(name), "n", by) == state["n"]

    async def set_metadata(self, name: str, key: str, value: int) -> None:
        await self._store.update_session_metadata(self._id(name), **{key: value})
        self._make(name).metadata[key] = value

    async def expire(self, name: str, seconds: int | None) -> None:
        model = self._find(name)
        assert await self._store.expire_session(self._id(name), seconds) is (model is not None)
        if model is not None:
            model.expires_at = None if seconds is None else self._clock.now + seconds

    async def advance(self, seconds: int) -> None:
        self._clock.advance(seconds)

    async def purge(self) -> None:
        assert await self._store.purge_expired() >= 0

    async def read(
        self, name: str, limit: int | None, before: int | None, after: int | None
    ) -> None:
        turns = (self._find(name) or _Session()).turns
        high = float("inf") if before is None else before
        inside = [turn for turn in turns if (after or 0) < turn.seq < high]
        if limit is not None:
            is_forward = after is not None and before is None
            inside = inside[:limit] if is_forward else inside[max(0, len(inside) - limit) :]
        read = await self._store.get_messages(
            self._id(name), limit=limit, before=before, after=after
        )
        assert _turns(read) == inside
