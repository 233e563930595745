"""What the library stores and returns: messages and sessions.

These are msgspec structs rather than dataclasses: a struct is built ten times as fast, and the
codec fills it straight from the stored bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

import msgspec

__all__ = [
    "Checkpoint",
    "ImportReport",
    "JSONValue",
    "Message",
    "SearchHit",
    "SessionData",
    "SessionInfo",
    "SessionPage",
]

JSONValue: TypeAlias = Any
"""Text, a finite number, a boolean, None, or a list or dict (with text keys) of these."""


class Message(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """One message of a conversation; immutable.

    Attributes:
        role: Who speaks, such as ``user``, ``assistant``, ``system`` or ``tool``; not empty.
        content: Text, a list of content parts, or None (an assistant turn that only calls tools).
        timestamp: Seconds since the epoch, UTC; 0.0 lets the store set the time.
        metadata: Any JSON object; kept beside the message and not part of a chat history.
        tool_calls: The tool calls of an assistant turn, in the shape of chat model APIs.
        tool_call_id: On a tool's result: the id of the call that it answers.
        name: The speaker's or the tool's name.
        seq: 1, 2, 3, ... within the session, given by the store; 0 before it is stored.
        extra: Keys this library doesn't know, whole; `to_dict` puts them back at the top level.
    """

    role: str
    content: str | list[Any] | None = None
    timestamp: float = 0.0
    metadata: dict[str, Any] = {}
    tool_calls: list[Any] | None = None
    tool_call_id: str | None = None
    name: str | None = None
    seq: int = 0
    extra: dict[str, Any] = {}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Message:
        """Return a message from a chat API's dict; unknown keys go to ``extra``.

        Raises:
            KeyError: There is no ``role``.
        """
        known: dict[str, Any] = {}
        extra: dict[str, Any] = {}
        for key, value in data.items():
            (known if key in _MESSAGE_FIELDS else extra)[key] = value
        known["timestamp"] = known.get("timestamp") or 0.0
        known["metadata"] = known.get("metadata") or {}
        return cls(**known, extra=extra)

    def to_dict(self) -> dict[str, Any]:
        """Return role and content, and every other field that is set, as a new dict."""
        data = {**self.extra, "role": self.role, "content": self.content}
        for name, default in _MESSAGE_DEFAULTS.items():
            value = getattr(self, name)
            if value != default:
                data[name] = value
        return data

    def to_chat(self) -> dict[str, Any]:
        """Return what a chat model API takes: role, content and the tool fields that are set."""
        chat: dict[str, Any] = {"role": self.role, "content": self.content}
        if self.tool_calls:
            chat["tool_calls"] = self.tool_calls
        if self.tool_call_id is not None:
            chat["tool_call_id"] = self.tool_call_id
        if self.name is not None:
            chat["name"] = self.name
        return chat


_MESSAGE_DEFAULTS: dict[str, Any] = {
    "timestamp": 0.0,
    "metadata": {},
    "tool_calls": None,
    "tool_call_id": None,
    "name": None,
    "seq": 0,
}
_MESSAGE_FIELDS = frozenset({"role", "content", *_MESSAGE_DEFAULTS})


class Checkpoint(msgspec.Struct, frozen=True):
    """A compaction checkpoint: one summary that stands for all messages up to ``seq``.

    Attributes:
        summary: The text that takes their place in the working history.
        seq: The newest message that the summary covers; 0 covers none.
        role: The role that the summary has in the working history.
        tokens_before: Tokens before compaction, as the caller counted them.
        tokens_after: Tokens after compaction, as the caller counted them.
        timestamp: When it was made, in seconds since the epoch.
        metadata: Any JSON object.
    """

    summary: str
    seq: int
    role: str = "system"
    tokens_before: int = 0
    tokens_after: int = 0
    timestamp: float = 0.0
    metadata: dict[str, Any] = {}

    def to_chat(self) -> dict[str, Any]:
        """Return the summary as a chat model API takes it."""
        return {"role": self.role, "content": self.summary}


class SessionInfo(msgspec.Struct, frozen=True, kw_only=True):
    """Everything about a session but its messages.

    Attributes:
        session_id: The session's id.
        created_at: Seconds since the epoch of the first write.
        updated_at: Seconds since the epoch of the last write.
        last_seq: The newest ``seq`` ever given; 0 before the first message. Never goes back.
        message_count: How many messages can be read now.
        agent_name: Set by ``set_agent_info``.
        user_id: Set by ``set_agent_info``.
        agent_id: Set by ``set_gateway_info``.
        gateway_session_id: Set by ``set_gateway_info``; looked up by ``get_by_gateway_session``.
        metadata: Any JSON object; ``title`` is what ``rename_session`` sets.
        state: Any JSON object; changed by ``set_state``, ``update_state``, ``increment_state``.
        checkpoint: The newest compaction checkpoint.
        expires_at: Seconds since the epoch at which the session vanishes; None means never.
    """

    session_id: str
    created_at: float = 0.0
    updated_at: float = 0.0
    last_seq: int = 0
    message_count: int = 0
    agent_name: str | None = None
    user_id: str | None = None
    agent_id: str | None = None
    gateway_session_id: str | None = None
    metadata: dict[str, Any] = {}
    state: dict[str, Any] = {}
    checkpoint: Checkpoint | None = None
    expires_at: float | None = None

    @property
    def title(self) -> str | None:
        """The title that ``rename_session`` set; None without one."""
        title = self.metadata.get("title")
        return title if isinstance(title, str) else None

    def is_expired(self, now: float) -> bool:
        """Whether the session has vanished at this time (seconds since the epoch)."""
        return self.expires_at is not None and self.expires_at <= now


class SessionData(SessionInfo, frozen=True, kw_only=True):
    """A session with its messages, oldest first."""

    messages: list[Message] = []

    def get_chat_history(self) -> list[dict[str, Any]]:
        """Return the messages as a chat model API takes them, oldest first."""
        return [message.to_chat() for message in self.messages]


class SessionPage(list[SessionInfo]):
    """A list of sessions, newest first, that knows where the next page starts.

    Attributes:
        next_cursor: Give it to ``list_sessions`` for the next page; None on the last page.
    """

    def __init__(self, sessions: Iterable[SessionInfo], next_cursor: str | None) -> None:
        super().__init__(sessions)
        self.next_cursor = next_cursor


class SearchHit(msgspec.Struct, frozen=True):
    """One session that matched a search.

    Attributes:
        session_id: The session.
        title: Its title, else its agent's name, else its id.
        updated_at: When the session was last written, in seconds since the epoch.
        score: Higher is better: +2 for each message with the whole phrase, +1 for each word.
        seq: The best matching message.
        snippet: A part of that message around the match, at most 160 characters.
        messages: The messages around it, oldest first.
    """

    session_id: str
    title: str
    updated_at: float
    score: float
    seq: int
    snippet: str
    messages: list[Message]


class ImportReport(msgspec.Struct, frozen=True):
    """What an import did.

    Attributes:
        imported: How many sessions were stored.
        messages: How many messages they hold.
        skipped: One ``{"session_id": ..., "reason": ...}`` for each session left out.
    """

    imported: int
    messages: int
    skipped: list[dict[str, str]]

    @property
    def skipped_count(self) -> int:
        """How many sessions were left out."""
        return len(self.skipped)
