"""Export of sessions as JSON objects, in bounded memory."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import msgspec

from asyncsessions import codec
from asyncsessions.errors import (
    CorruptSessionError,
    InvalidSessionIdError,
    SessionNotFoundError,
)
from asyncsessions.models import Message, SessionInfo
from asyncsessions.omissions import leave_out

if TYPE_CHECKING:
    from asyncsessions.protocols import SessionStore

__all__ = ["export_all", "export_session"]

logger: logging.Logger = logging.getLogger("asyncsessions.exporting")

# One exported object holds at most about so much of a session.
_PART_MESSAGES = 1000
_PART_BYTES = 4 << 20
_SESSIONS_PER_PAGE = 1000


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
    began: float | None = None
    found = True
    # A session that is written meanwhile moves to the front of the list, past the cursor, so the
    # list is read again until it holds nothing new. What was created since this began is no
    # reason to go on, or it might never end.
    while found:
        found = False
        async for info in _listed(store):
            if info.session_id in seen:
                continue
            seen.add(info.session_id)
            # The last write, by the clock of whoever made it, which may not be this machine's.
            began = info.updated_at if began is None else began
            found = found or info.created_at <= began
            try:
                async for part in _parts(store, info):
                    yield part
            except CorruptSessionError as exc:
                if damaged is not None:
                    leave_out(logger, "export", exc)
                damaged = damaged or exc
            except InvalidSessionIdError as exc:
                # Another program named it, in a directory that it shares with this one.
                leave_out(logger, "export", f"session {info.session_id[:40]!r}: {exc}")
    if damaged is not None:
        raise damaged


async def _listed(store: SessionStore) -> AsyncIterator[SessionInfo]:
    """Iterate over the list of all sessions, last written first."""
    cursor: str | None = None
    while True:
        page = await store.list_sessions(_SESSIONS_PER_PAGE, cursor)
        for info in page:
            yield info
        cursor = page.next_cursor
        if cursor is None:
            break


async def _parts(store: SessionStore, info: SessionInfo) -> AsyncIterator[dict[str, Any]]:
    data: dict[str, Any] = _record(info) | {"messages": []}
    size = len(codec.encode_json(data))
    number = 1
    async for message in store.iter_messages(info.session_id, before=info.last_seq + 1):
        more = _size(message)
        count = len(data["messages"])
        if count == _PART_MESSAGES or (count and size + more > _PART_BYTES):
            yield data
            number += 1
            size = 0
            data = {"session_id": info.session_id, "part": number, "messages": []}
        data["messages"].append(message.to_dict())
        size += more
    yield data


def _size(message: Message) -> int:
    """Return about how many bytes a message takes as JSON."""
    content = message.content
    if not isinstance(content, str) or not codec.is_large(message):
        return len(codec.encode_json(message))
    # To encode so long a text at once would hold up the event loop.
    text = len(content) if content.isascii() else len(content.encode())
    return text + _size(msgspec.structs.replace(message, content=None))


def _record(info: SessionInfo) -> dict[str, Any]:
    """Return a session's record without what is empty and without its messages."""
    fields = {field: getattr(info, field) for field in SessionInfo.__struct_fields__}
    fields["checkpoint"] = msgspec.to_builtins(info.checkpoint)
    del fields["last_seq"]
    return {key: value for key, value in fields.items() if value not in (None, {})}
