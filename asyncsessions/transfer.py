"""Sessions as JSON objects: export in bounded memory, and import."""

from __future__ import annotations

import math
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

import anyio
import msgspec

from asyncsessions import codec
from asyncsessions.errors import CorruptSessionError, SessionNotFoundError, SessionStoreError
from asyncsessions.hooks import Change
from asyncsessions.models import Checkpoint, ImportReport, Message, SessionInfo

if TYPE_CHECKING:
    from asyncsessions.protocols import Sessions, SessionStore

__all__ = [
    "EXISTS",
    "EXPIRED",
    "export_all",
    "export_session",
    "import_sessions",
    "record_changes",
]

EXISTS = "it exists"
EXPIRED = "it has expired"
"""Reasons why an import skips a session that could be stored."""

# One exported object holds at most about so much of a session.
_PART_MESSAGES = 1000
_PART_BYTES = 4 << 20
_SESSIONS_PER_PAGE = 1000
# Imported sessions that are written at the same time, and so share group commits.
_AT_ONCE = 64

_RECORD_FIELDS = (
    "created_at",
    "agent_name",
    "user_id",
    "agent_id",
    "gateway_session_id",
    "metadata",
    "state",
)
Restore = Callable[[SessionInfo, list[Message]], Awaitable[None]]


def record_changes(info: SessionInfo) -> tuple[Change, ...]:
    """Return the changes that give a new session this record."""
    changes = []
    for field in _RECORD_FIELDS:
        value = getattr(info, field)
        if value:
            changes.append(Change((field,), "set", value))
    if info.checkpoint is not None:
        changes.append(Change(("checkpoint",), "set", info.checkpoint))
    return tuple(changes)


async def export_session(store: SessionStore, session_id: str) -> dict[str, Any]:
    """Return one session as one object; see `SessionStore.export_session`."""
    if not await store.session_exists(session_id):
        raise SessionNotFoundError(session_id)
    info = await store.get_session(session_id, max_messages=0)
    data = _record(info)
    data["messages"] = [message.to_dict() async for message in store.iter_messages(session_id)]
    return data


async def export_all(store: SessionStore) -> AsyncIterator[dict[str, Any]]:
    """Iterate over all sessions in parts; see `SessionStore.export_all`."""
    seen: set[str] = set()
    damaged: CorruptSessionError | None = None
    while True:
        # A session that is written meanwhile moves to the front of the list, past the cursor,
        # so the list is read again until it holds nothing new.
        found = False
        cursor: str | None = None
        while True:
            page = await store.list_sessions(_SESSIONS_PER_PAGE, cursor)
            for info in page:
                if info.session_id not in seen:
                    seen.add(info.session_id)
                    found = True
                    try:
                        async for part in _parts(store, info):
                            yield part
                    except CorruptSessionError as exc:
                        damaged = damaged or exc
            cursor = page.next_cursor
            if cursor is None:
                break
        if not found:
            break
    if damaged is not None:
        raise damaged


async def _parts(store: SessionStore, info: SessionInfo) -> AsyncIterator[dict[str, Any]]:
    data: dict[str, Any] = _record(info) | {"messages": []}
    size = 0
    number = 1
    async for message in store.iter_messages(info.session_id, before=info.last_seq + 1):
        if len(data["messages"]) == _PART_MESSAGES or size > _PART_BYTES:
            yield data
            number += 1
            size = 0
            data = {"session_id": info.session_id, "part": number, "messages": []}
        data["messages"].append(message.to_dict())
        size += len(message.content) if isinstance(message.content, str) else 0
    yield data


def _record(info: SessionInfo) -> dict[str, Any]:
    """Return a session's record without what is empty and without its messages."""
    fields = {field: getattr(info, field) for field in SessionInfo.__struct_fields__}
    fields["checkpoint"] = msgspec.to_builtins(info.checkpoint)
    del fields["last_seq"]
    return {key: value for key, value in fields.items() if value not in (None, {})}


async def import_sessions(
    store: SessionStore,
    sessions: Sessions,
    restore: Restore,
    *,
    clock: Callable[[], float],
    overwrite: bool,
    max_sessions: int | None,
) -> ImportReport:
    """Store sessions; see `SessionStore.import_sessions`.

    Args:
        store: Where they go.
        sessions: The objects.
        restore: Stores one session's record and messages, or a later part of it.
        clock: Says what time it is.
        overwrite: Whether to replace sessions that exist.
        max_sessions: Stop after so many.
    """
    run = _Import(store, restore, clock=clock, overwrite=overwrite)
    async for data in _iterate(sessions):
        if max_sessions is not None and run.started >= max_sessions and not data.get("part"):
            break
        await run.add(data)
    await run.flush()
    return ImportReport(run.imported, run.messages, run.skipped)


class _Import:
    """Imports objects, many at a time, and the parts of one session in order."""

    def __init__(
        self,
        store: SessionStore,
        restore: Restore,
        *,
        clock: Callable[[], float],
        overwrite: bool,
    ) -> None:
        self._store = store
        self._restore = restore
        self._clock = clock
        self._overwrite = overwrite
        self._group: dict[str, Mapping[str, Any]] = {}
        self._last_imported: str | None = None
        self._failure: SessionStoreError | None = None
        self.started = 0
        self.imported = 0
        self.messages = 0
        self.skipped: list[dict[str, str]] = []

    async def add(self, data: Mapping[str, Any]) -> None:
        session_id = data.get("session_id") if isinstance(data, Mapping) else None
        if not isinstance(session_id, str):
            self._skip("", "there is no session_id")
            return
        if data.get("part"):
            await self.flush()
            if session_id == self._last_imported:
                await self._store_one(data, is_part=True)
            return
        self.started += 1
        if session_id in self._group:
            await self.flush()
        self._group[session_id] = data
        if len(self._group) == _AT_ONCE:
            await self.flush()

    async def flush(self) -> None:
        group, self._group = list(self._group.values()), {}
        async with anyio.create_task_group() as tasks:
            for data in group:
                tasks.start_soon(self._store_one, data)
        if self._failure is not None:
            raise self._failure
        if group:
            last = group[-1]["session_id"]
            was_skipped = any(skip["session_id"] == last for skip in self.skipped)
            self._last_imported = None if was_skipped else last

    async def _store_one(self, data: Mapping[str, Any], *, is_part: bool = False) -> None:
        session_id = data["session_id"]
        try:
            info, messages = _parse(data)
            if info.expires_at is not None and info.expires_at <= self._clock():
                self._skip(session_id, EXPIRED)
                return
            if not is_part and await self._store.session_exists(session_id):
                if not self._overwrite:
                    self._skip(session_id, EXISTS)
                    return
                await self._store.delete_session(session_id)
            await self._restore(info, messages)
        except (ValueError, TypeError, CorruptSessionError) as exc:
            self._skip(session_id, str(exc))
            return
        except SessionStoreError as exc:
            # The store fails, not this object; all that were under way end first.
            self._failure = self._failure or exc
            return
        self.imported += not is_part
        self.messages += len(messages)

    def _skip(self, session_id: str, reason: str) -> None:
        self.skipped.append({"session_id": session_id, "reason": reason})


async def _iterate(
    sessions: Sessions,
) -> AsyncIterator[Mapping[str, Any]]:
    if isinstance(sessions, Mapping):
        sessions = sessions["sessions"] if "sessions" in sessions else [sessions]  # noqa: SIM401  # mypy
    if isinstance(sessions, AsyncIterable):
        async for data in sessions:
            yield data
    else:
        for data in sessions:
            yield data


def _parse(data: Mapping[str, Any]) -> tuple[SessionInfo, list[Message]]:
    """Return the record and the messages of an object, with its checkpoint's ``seq`` moved along.

    Imported messages get new ``seq`` from 1 up, so a checkpoint must follow its message.
    """
    given = data.get("messages", [])
    messages = [codec.message_from(index, value) for index, value in enumerate(given)]
    record = {key: value for key, value in data.items() if key in SessionInfo.__struct_fields__} | {
        "last_seq": 0
    }
    info = msgspec.convert(record, SessionInfo, strict=True)
    for field in ("created_at", "updated_at", "expires_at"):
        if not math.isfinite(getattr(info, field) or 0.0):
            raise ValueError(f"{field} is no time")
    if info.checkpoint is not None:
        covered = sum(1 for message in messages if 0 < message.seq <= info.checkpoint.seq)
        moved: Checkpoint = msgspec.structs.replace(info.checkpoint, seq=covered)
        info = msgspec.structs.replace(info, checkpoint=moved)
    return info, messages
