"""What the original store returns: plain, mutable records with its attributes and methods."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

__all__ = [
    "MIRRORED",
    "CompactionCheckpoint",
    "ImportReport",
    "SessionData",
    "SessionHit",
    "SessionMessage",
    "SessionSummary",
    "iso_now",
    "newest_turns",
    "skip_results",
]

MIRRORED = (
    "model",
    "llm",
    "total_tokens",
    "token_count",
    "cost",
    "source",
    "reasoning_effort",
)
"""Metadata that a session's dict repeats at the top level."""


def iso_now() -> str:
    """Return the time as the records hold it: ISO 8601, in UTC."""
    return datetime.now(UTC).isoformat()


@dataclass
class SessionMessage:
    """One message of a session.

    Attributes:
        role: ``user``, ``assistant``, ``system`` or ``tool``.
        content: Text as a rule; any other JSON comes back as it was stored.
        timestamp: Seconds since the epoch; another program may have stored ISO text.
        metadata: Any JSON object.
        tool_calls: The tool calls of an assistant turn.
        tool_call_id: On a tool's result: the call that it answers.
    """

    role: str
    content: Any
    timestamp: Any = field(default_factory=time.time)
    metadata: dict[str, Any] = field(default_factory=dict)
    tool_calls: list[dict[str, Any]] | None = None
    tool_call_id: str | None = None

    @property
    def is_partial(self) -> bool:
        """Whether this is an assistant turn that is still being written."""
        return self.role == "assistant" and bool((self.metadata or {}).get("partial"))

    def to_dict(self) -> dict[str, Any]:
        """Return the message as it is stored; the tool fields only where they are set."""
        stored = {"timestamp": self.timestamp, "metadata": self.metadata}
        return {"role": self.role, "content": self.content, **stored, **self._tool_fields()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> SessionMessage:
        """Return a message from its dict; what is missing gets its default."""
        return cls(
            data.get("role", "user"),
            data.get("content", ""),
            data.get("timestamp", time.time()),
            data.get("metadata", {}),
            data.get("tool_calls"),
            data.get("tool_call_id"),
        )

    def to_llm_message(self) -> dict[str, Any]:
        """Return what a chat model API takes: role, content and the tool fields that are set."""
        return {"role": self.role, "content": self.content, **self._tool_fields()}

    def _tool_fields(self) -> dict[str, Any]:
        fields: dict[str, Any] = {}
        if self.tool_calls:
            fields["tool_calls"] = self.tool_calls
        if self.tool_call_id is not None:
            fields["tool_call_id"] = self.tool_call_id
        return fields


@dataclass
class CompactionCheckpoint:
    """A summary that stands for the first messages of a session.

    Attributes:
        summary: The text.
        message_index: How many of the session's messages it stands for.
        role: The role that it has in the working history.
        tokens_before: As the caller counted them.
        tokens_after: As the caller counted them.
        timestamp: Seconds since the epoch.
        metadata: Any JSON object.
    """

    summary: str
    message_index: int = 0
    role: str = "system"
    tokens_before: int = 0
    tokens_after: int = 0
    timestamp: Any = field(default_factory=time.time)
    metadata: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return the checkpoint as it is stored."""
        return dict(vars(self))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> CompactionCheckpoint:
        """Return a checkpoint from its dict; what is missing gets its default."""
        known = {name: data[name] for name in cls.__dataclass_fields__ if name in data}
        return cls(**{"summary": "", **known})

    def as_message(self) -> dict[str, str]:
        """Return the summary as a chat model API takes it."""
        return {"role": self.role, "content": self.summary}


@dataclass
class SessionData:
    """One session with everything that belongs to it.

    Attributes:
        session_id: Its id.
        messages: The active messages, oldest first.
        created_at: ISO 8601, in UTC.
        updated_at: ISO 8601, in UTC.
        agent_name: See ``set_agent_info``.
        user_id: See ``set_agent_info``.
        metadata: Any JSON object.
        gateway_session_id: See ``set_gateway_info``.
        agent_id: See ``set_gateway_info``.
        runtime_state: By runtime, by turn; see ``set_runtime_state``.
        archived_messages: Messages that left the active window, oldest first.
        last_compaction: The newest compaction checkpoint.
    """

    session_id: str
    messages: list[SessionMessage] = field(default_factory=list)
    created_at: str = field(default_factory=iso_now)
    updated_at: str = field(default_factory=iso_now)
    agent_name: str | None = None
    user_id: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    gateway_session_id: str | None = None
    agent_id: str | None = None
    runtime_state: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    archived_messages: list[SessionMessage] = field(default_factory=list)
    last_compaction: CompactionCheckpoint | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the session as the object that its file holds."""
        data: dict[str, Any] = dict(vars(self))
        data["messages"] = [message.to_dict() for message in self.messages]
        # In this order in a file, the checkpoint behind all others.
        data["archived_messages"] = [message.to_dict() for message in self.archived_messages]
        del data["last_compaction"]
        if self.last_compaction is not None:
            data["last_compaction"] = self.last_compaction.to_dict()
        return data | {key: self.metadata[key] for key in MIRRORED if key in self.metadata}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> SessionData:
        """Return a session from its dict; what is no object among its messages is left out."""
        messages = data.get("messages") or []
        metadata = dict(data.get("metadata") or {})
        for key in MIRRORED:
            if data.get(key) is not None:
                metadata.setdefault(key, data[key])
        return cls(
            data.get("session_id", ""),
            _messages(messages),
            data.get("created_at", iso_now()),
            data.get("updated_at", iso_now()),
            data.get("agent_name"),
            data.get("user_id"),
            metadata,
            data.get("gateway_session_id"),
            data.get("agent_id"),
            data.get("runtime_state") or {},
            _messages(data.get("archived_messages") or []),
            _checkpoint(data.get("last_compaction"), messages),
        )

    def get_chat_history(self, max_messages: int | None = None) -> list[dict[str, Any]]:
        """Return the newest messages as a chat model API takes them, oldest first.

        Args:
            max_messages: At most so many, and fewer where the first ones would be results of a
                tool call that was cut off; None and 0 mean all.
        """
        turns = newest_turns(self.messages, max_messages)
        return [message.to_llm_message() for message in turns]

    def trim_messages(self, max_messages: int) -> None:
        """Drop the oldest messages, and let the checkpoint follow its place."""
        excess = len(self.messages) - max_messages
        if excess <= 0:
            return
        self.messages = self.messages[excess:]
        checkpoint = self.last_compaction
        if checkpoint is not None:
            checkpoint.message_index = max(0, checkpoint.message_index - excess)

    def get_working_history(self, max_messages: int | None = None) -> list[dict[str, Any]]:
        """Return the checkpoint's summary and the messages after it; without one, all messages.

        Args:
            max_messages: At most so many, the summary included; None and 0 mean all.
        """
        checkpoint = self.last_compaction
        if checkpoint is None:
            return self.get_chat_history(max_messages)
        after = self.messages[max(0, checkpoint.message_index) :]
        if max_messages and len(after) >= max_messages:
            after = skip_results(after[len(after) - max(0, max_messages - 1) :])
        return [checkpoint.as_message(), *(message.to_llm_message() for message in after)]


def newest_turns(messages: list[SessionMessage], limit: int | None) -> list[SessionMessage]:
    """Return the newest messages, at most ``limit``, that don't start with a tool's result."""
    if not limit or len(messages) <= limit:
        return messages
    return skip_results(messages[len(messages) - limit :]) if limit > 0 else []


def skip_results(messages: list[SessionMessage]) -> list[SessionMessage]:
    """Return messages without the tool results at their start, whose call was cut off."""
    turns = (index for index, message in enumerate(messages) if message.role != "tool")
    return messages[next(turns, len(messages)) :]


def _messages(given: list[Any]) -> list[SessionMessage]:
    return [SessionMessage.from_dict(entry) for entry in given if isinstance(entry, dict)]


def _checkpoint(
    given: Mapping[str, Any] | None, messages: list[Any]
) -> CompactionCheckpoint | None:
    if not given:
        return None
    checkpoint = CompactionCheckpoint.from_dict(given)
    before = messages[: checkpoint.message_index]
    dropped = sum(not isinstance(entry, dict) for entry in before)
    if dropped:
        checkpoint.message_index = max(0, checkpoint.message_index - dropped)
    return checkpoint


@dataclass
class SessionHit:
    """One session that matched a search.

    Attributes:
        session_id: The session.
        title: Its title, its agent's name, the start of its first question, or its id.
        when: When it was last written, in ISO 8601.
        snippet: The best matching message around the match.
        score: Higher is better.
        anchor_index: Where that message is among the archived and active messages.
        messages: The messages around it, with ``index`` and ``archived``.
        bookends: The first and last messages of user and assistant.
    """

    session_id: str
    title: str = ""
    when: str | None = None
    snippet: str = ""
    score: float = 0.0
    anchor_index: int = -1
    messages: list[dict[str, Any]] = field(default_factory=list)
    bookends: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Return the hit as a JSON object, without empty ``bookends``."""
        data = dict(vars(self))
        if not self.bookends:
            del data["bookends"]
        return data


@dataclass
class SessionSummary:
    """One session in a list of recent ones.

    Attributes:
        session_id: The session.
        title: Its agent's name or its id.
        when: When it was last written, in ISO 8601.
        message_count: How many active messages it has.
    """

    session_id: str
    title: str = ""
    when: str | None = None
    message_count: int = 0

    def as_dict(self) -> dict[str, Any]:
        """Return the summary as a JSON object."""
        return dict(vars(self))


@dataclass
class ImportReport:
    """What an import did.

    Attributes:
        imported: How many sessions were stored.
        skipped: One ``{"session_id": ..., "reason": ...}`` for each that was left out.
        version: Of the payload's format.
    """

    imported: int = 0
    skipped: list[dict[str, str]] = field(default_factory=list)
    version: int = 1

    @property
    def skipped_count(self) -> int:
        """How many sessions were left out."""
        return len(self.skipped)

    def as_dict(self) -> dict[str, Any]:
        """Return the report as a JSON object."""
        counts = {"imported": self.imported, "skipped": self.skipped}
        return {**counts, "skipped_count": self.skipped_count, "version": self.version}
