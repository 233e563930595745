"""What tests of faults write, and how they look at what is left."""

from __future__ import annotations

from typing import Any

from asyncsessions.protocols import SessionStore

__all__ = ["said", "user"]


def user(text: str) -> dict[str, Any]:
    """Return a message to append."""
    return {"role": "user", "content": text}


async def said(store: SessionStore, session_id: str) -> list[Any]:
    """Return the contents of a session's messages, whose order must be right."""
    messages = await store.get_messages(session_id)
    assert [each.seq for each in messages] == sorted({each.seq for each in messages})
    return [each.content for each in messages]
