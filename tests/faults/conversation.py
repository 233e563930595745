"""What tests of faults write, and how they look at what is left."""

from __future__ import annotations

from typing import Any

from asyncsessions.base import BaseSessionStore
from asyncsessions.hooks import Change
from asyncsessions.protocols import SessionStore

__all__ = ["amended", "said", "user"]

_ONCE = (
    Change(("metadata", "token"), "expect", None),
    Change(("metadata", "token"), "set", "t"),
    Change(("last_seq",), "increment", 2),
)


def user(text: str) -> dict[str, Any]:
    """Return a message to append."""
    return {"role": "user", "content": text}


async def amended(store: BaseSessionStore) -> tuple[Any, ...] | None:
    """Change the record of session ``s`` in a way that succeeds once only; return the values."""
    values = await store.amend_session("s", _ONCE)
    return None if values is None else tuple(values)


async def said(store: SessionStore, session_id: str) -> list[Any]:
    """Return the contents of a session's messages, whose order must be right."""
    messages = await store.get_messages(session_id)
    assert [each.seq for each in messages] == sorted({each.seq for each in messages})
    return [each.content for each in messages]
