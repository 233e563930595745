"""The original's sessions in any async store."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from asyncsessions.history import is_tool_result
from asyncsessions.importing import EXISTS, OTHER
from asyncsessions.models import Message, SessionInfo
from asyncsessions.models import SessionData as StoredSession
from asyncsessions.protocols import SessionStore
from asyncsessions.stores._docformat import from_iso, to_iso
from asyncsessions.stores._docsummary import summary_text
from asyncsessions.sync._original.backing import row_of
from asyncsessions.sync._original.plain import dumps, plain
from asyncsessions.sync.records import (
    MIRRORED,
    CompactionCheckpoint,
    SessionData,
    SessionMessage,
)

__all__ = ["AnyStore"]

T = TypeVar("T")

_PAGE = 100
# A turn's runtime state is under one key, so that writing it is one atomic step.
_RUNTIME = "runtime_state"
_TEXTS = ("agent_name", "user_id", "gateway_session_id", "agent_id")
# Where a message keeps what the original takes and a `Message` has no place for.
_ODD = "asyncsessions_original"


class AnyStore:
    """A `Backing` on the methods that every async store has.

    The archive is a matter of looking: all messages stay where they are, the newest ones count as
    active, and a summary that isn't stored stands for the others. So an append costs the same at
    any length, and clearing removes the archive, too.

    Args:
        store: Where the sessions are.
        window: How many messages are active; None: all.
    """

    def __init__(self, store: SessionStore, window: int | None) -> None:
        self._store = store
        self._window = window

    async def aclose(self) -> None:
        await self._store.aclose()

    # Reading.

    async def read(
        self, session_id: str, *, newest: int | None = None, archive: bool = True
    ) -> SessionData | None:
        stored, active, is_windowed = await self._active(session_id, newest)
        if not stored.created_at:
            return None
        count = stored.message_count - len(active)
        session = _session(stored, active)
        if not is_windowed or (newest is not None and newest < len(active)):
            return session
        session.messages.insert(0, _summary(count, active[0]))
        _cover(session, stored, [active[0].seq - 1, *(message.seq for message in active)])
        if archive:
            older = await self._store.get_messages(session_id, before=active[0].seq)
            session.archived_messages = [_message(message) for message in older]
        return session

    async def _active(
        self, session_id: str, newest: int | None = None
    ) -> tuple[StoredSession, list[Message], bool]:
        """Return a session, its active messages, and whether a summary stands for older ones."""
        limits = [limit for limit in (self._window, newest) if limit is not None]
        stored = await self._store.get_session(session_id, max_messages=min(limits, default=None))
        active = list(stored.messages)
        is_windowed = self._window is not None and stored.message_count > self._window
        if is_windowed and len(active) == self._window:
            active = _from_a_turn(active)
        return stored, active, is_windowed

    async def seqs(self, session_id: str) -> list[int]:
        """Return the ``seq`` of each active message.

        That of a summary is the ``seq`` of the last message that it stands for.
        """
        _, active, is_windowed = await self._active(session_id)
        seqs = [message.seq for message in active]
        if is_windowed:
            older = await self._store.get_messages(session_id, limit=1, before=seqs[0])
            seqs[:0] = [message.seq for message in older]
        return seqs

    def shown_count(self, count: int) -> int:
        """Return how many of a session's messages are active, the summary included."""
        window = self._window
        return count if window is None or count <= window else window + 1

    async def exists(self, session_id: str) -> bool:
        return await self._store.session_exists(session_id)

    async def rows(self, limit: int | None) -> list[dict[str, Any]]:
        return [self._row(info) for info in await self._infos(limit)]

    def _row(self, info: SessionInfo) -> dict[str, Any]:
        times = {"created_at": to_iso(info.created_at), "updated_at": to_iso(info.updated_at)}
        texts = {key: getattr(info, key) for key in _TEXTS}
        mirrored = {key: info.metadata.get(key) for key in MIRRORED}
        fields = {"session_id": info.session_id, "metadata": info.metadata, **mirrored}
        return row_of(fields | texts | times) | {
            "message_count": self.shown_count(info.message_count)
        }

    async def _infos(self, limit: int | None, **where: str) -> list[SessionInfo]:
        infos: list[SessionInfo] = []
        cursor: str | None = None
        while limit is None or len(infos) < limit:
            count = _PAGE if limit is None else min(_PAGE, limit - len(infos))
            page = await self._store.list_sessions(count, cursor, **where)
            infos += page
            cursor = page.next_cursor
            if cursor is None:
                break
        return infos

    async def find(self, field: str, value: str, limit: int | None) -> list[str]:
        return [info.session_id for info in await self._infos(limit, **{field: value})]

    async def scan(
        self, visit: Callable[[dict[str, Any]], T | None], *, strict: bool = False
    ) -> list[T]:
        del strict  # What can't be read raises, here always.
        found = []
        for info in await self._infos(None):
            session = await self.read(info.session_id)
            result = None if session is None else visit(session.to_dict())
            if result is not None:
                found.append(result)
        return found

    # Messages.

    async def append(self, session_id: str, message: SessionMessage) -> None:
        await self._store.append(session_id, [_to_store(message)])

    async def append_all(
        self,
        session_id: str,
        messages: Sequence[SessionMessage],
        metadata: Mapping[str, Any],
        idempotency_key: str | None,
    ) -> None:
        # The messages last, so that whoever repeats what failed doubles none.
        if metadata:
            await self.set_metadata(session_id, metadata)
        stored = [_to_store(message) for message in messages]
        await self._store.append(session_id, stored, idempotency_key=idempotency_key)

    async def salvage(self, session_id: str, message: SessionMessage) -> Path | None:
        del session_id, message
        return None  # A server that doesn't answer has no other place.

    async def replace(self, session_id: str, messages: Sequence[SessionMessage]) -> None:
        await self._store.set_chat_history(session_id, [_to_store(each) for each in messages])

    async def clear(self, session_id: str) -> None:
        await self._store.set_chat_history(session_id, [])

    async def delete(self, session_id: str) -> None:
        await self._store.delete_session(session_id)

    async def put_partial(self, session_id: str, message: SessionMessage) -> None:
        await self._store.upsert_partial_assistant_message(
            session_id, message.content, finalize=not message.is_partial
        )

    async def drop_partial(self, session_id: str) -> None:
        await self._store.discard_partial_assistant_message(session_id)

    # The record.

    async def set_checkpoint(self, session_id: str, checkpoint: CompactionCheckpoint) -> None:
        fields = asdict(checkpoint)
        del fields["message_index"], fields["timestamp"]
        await self._store.append_compaction_checkpoint(session_id, **fields)

    async def set_texts(self, session_id: str, texts: Mapping[str, str]) -> None:
        agent = {key: texts[key] for key in ("agent_name", "user_id") if key in texts}
        gateway = {key: text for key, text in texts.items() if key not in agent}
        if agent or not gateway:
            await self._store.set_agent_info(session_id, **agent)
        if gateway:
            await self._store.set_gateway_info(session_id, **gateway)

    async def set_metadata(self, session_id: str, fields: Mapping[str, Any]) -> None:
        if fields:
            await self._store.update_session_metadata(session_id, **plain(fields))
        else:
            await self._store.set_agent_info(session_id)  # Which creates the session.

    async def merge_map(
        self,
        session_id: str,
        key: str,
        updates: Mapping[str, Any],
        defaults: Mapping[str, Any],
    ) -> None:
        merge = self._store.merge_session_metadata_map
        await merge(session_id, key, plain(updates), defaults=plain(defaults))

    async def rename(self, session_id: str, title: str) -> None:
        await self._store.rename_session(session_id, title)

    async def set_runtime(
        self, session_id: str, runtime_id: str, turn_id: str, state: Mapping[str, Any]
    ) -> None:
        await self._store.set_state(session_id, _runtime_key(runtime_id, turn_id), plain(state))

    async def clear_runtime(self, session_id: str, runtime_id: str | None) -> None:
        keys = await self._store.get_state(session_id)
        turns = ((key, _runtime_turn(key)) for key in keys)
        removed = [key for key, turn in turns if turn and runtime_id in (None, turn[0])]
        await self._store.update_state(session_id, {}, remove=removed)

    async def restore(self, session: SessionData, *, overwrite: bool) -> bool:
        # An async store would continue a session that is the beginning of this one.
        if not overwrite and await self._store.session_exists(session.session_id):
            return False
        report = await self._store.import_sessions([_exported(session)], overwrite=overwrite)
        if report.skipped and report.skipped[0]["reason"] not in {EXISTS, OTHER}:
            raise ValueError(report.skipped[0]["reason"])
        return report.imported == 1


def _exported(session: SessionData) -> dict[str, Any]:
    """Return a session as `SessionStore.import_sessions` takes it."""
    archived, active = session.archived_messages, session.messages
    # A summary isn't stored here, and what it stands for isn't apart.
    is_led = bool(archived) and bool(active) and bool((active[0].metadata or {}).get("compaction"))
    messages = map(_to_store, [*archived, *active[is_led:]])
    data: dict[str, Any] = {
        "session_id": session.session_id,
        "created_at": from_iso(session.created_at) or 0.0,
        "updated_at": from_iso(session.updated_at) or 0.0,
        "metadata": plain(session.metadata),
        "state": {
            _runtime_key(runtime_id, turn_id): plain(state)
            for runtime_id, turns in session.runtime_state.items()
            for turn_id, state in turns.items()
        },
        "messages": [each.to_dict() | {"seq": seq} for seq, each in enumerate(messages, 1)],
        **{key: getattr(session, key) for key in _TEXTS},
    }
    if session.last_compaction is not None:
        fields = plain(asdict(session.last_compaction))
        seq = fields.pop("message_index") + len(archived) - is_led
        data["checkpoint"] = fields | {"seq": max(0, seq)}
    return data


def _from_a_turn(messages: list[Message]) -> list[Message]:
    """Return messages without the tool results at their start; all where nothing would be left."""
    turns = (index for index, message in enumerate(messages) if not is_tool_result(message))
    return messages[next(turns, 0) :]


def _session(stored: StoredSession, active: Sequence[Message]) -> SessionData:
    session = SessionData(
        session_id=stored.session_id,
        messages=[_message(message) for message in active],
        created_at=to_iso(stored.created_at),
        updated_at=to_iso(stored.updated_at),
        metadata=stored.metadata,
        **{key: getattr(stored, key) for key in _TEXTS},
    )
    for key, state in stored.state.items():
        turn = _runtime_turn(key)
        if turn is not None:
            session.runtime_state.setdefault(turn[0], {})[turn[1]] = state
    _cover(session, stored, [message.seq for message in active])
    return session


def _cover(session: SessionData, stored: StoredSession, seqs: Sequence[int]) -> None:
    """Give a session its checkpoint, with the number of its messages that it covers."""
    checkpoint = stored.checkpoint
    if checkpoint is not None:
        session.last_compaction = CompactionCheckpoint(
            checkpoint.summary,
            sum(seq <= checkpoint.seq for seq in seqs),
            checkpoint.role,
            checkpoint.tokens_before,
            checkpoint.tokens_after,
            checkpoint.timestamp,
            checkpoint.metadata,
        )


def _message(message: Message) -> SessionMessage:
    stored = SessionMessage(
        message.role,
        message.content,
        message.timestamp,
        message.metadata,
        message.tool_calls,
        message.tool_call_id,
    )
    vars(stored).update(message.extra.get(_ODD, {}))
    return stored


def _summary(count: int, first: Message) -> SessionMessage:
    metadata = {"compaction": True, "compacted_count": count}
    return SessionMessage("system", summary_text(count), first.timestamp, metadata)


def _to_store(message: SessionMessage) -> Message:
    given = plain(message.to_dict())
    odd: dict[str, Any] = {}

    def fitting(field: str, fits: bool, otherwise: Any) -> Any:  # noqa: FBT001  # reads as a sentence
        if not fits:
            odd[field] = given[field]
        return given[field] if fits else otherwise

    role, content, timestamp = given["role"], given["content"], given["timestamp"]
    is_time = isinstance(timestamp, int | float) and not isinstance(timestamp, bool)
    fields = (
        fitting("role", isinstance(role, str) and role != "", "user"),
        fitting("content", content is None or isinstance(content, str | list), _text(content)),
        fitting("timestamp", is_time, from_iso(timestamp) or 0.0),
        fitting("metadata", isinstance(given["metadata"], dict), {}),
        given.get("tool_calls"),
        given.get("tool_call_id"),
    )
    return Message(*fields, extra={_ODD: odd} if odd else {})


def _text(content: Any) -> str:
    return dumps(content).decode()


def _runtime_key(runtime_id: str, turn_id: str) -> str:
    return f"{_RUNTIME}:{json.dumps([runtime_id, turn_id])}"


def _runtime_turn(key: str) -> tuple[str, str] | None:
    """Return the runtime and turn of a key of the state; None where it is another."""
    kind, _, turn = key.partition(":")
    if kind != _RUNTIME or not turn:
        return None
    runtime_id, turn_id = json.loads(turn)
    return runtime_id, turn_id
