"""What the original's API needs of the store below it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from asyncsessions.sync.records import CompactionCheckpoint, SessionData, SessionMessage

__all__ = ["Backing", "row_of"]

T = TypeVar("T")


class Backing(Protocol):
    """Stores sessions as the original's API sees them: active messages, and an archive.

    Every method that writes creates the session where there is none, unless it says otherwise, and
    raises what the async stores raise.
    """

    async def aclose(self) -> None:
        """Complete the writes under way and let go of all resources."""

    async def read(
        self, session_id: str, *, newest: int | None = None, archive: bool = True
    ) -> SessionData | None:
        """Return a session; None where there is none.

        Args:
            session_id: The session.
            newest: Leave out all but so many of its newest active messages.
            archive: Whether to read the archived messages, too.
        """

    async def exists(self, session_id: str) -> bool:
        """Return whether there is a session, even a damaged one."""

    async def append(self, session_id: str, message: SessionMessage) -> None:
        """Append a message."""

    async def append_all(
        self,
        session_id: str,
        messages: Sequence[SessionMessage],
        metadata: Mapping[str, Any],
        idempotency_key: str | None,
    ) -> None:
        """Append messages, all or none, and merge fields into the metadata.

        With a key, a repetition appends nothing. A time of 0.0 stands for that of storing.
        """

    async def salvage(self, session_id: str, message: SessionMessage) -> Path | None:
        """Keep a message that couldn't be appended where a later read finds it.

        Returns:
            The file it is in; None where it could not be kept.
        """

    async def replace(self, session_id: str, messages: Sequence[SessionMessage]) -> None:
        """Put messages in place of the active ones, and remove the checkpoint."""

    async def clear(self, session_id: str) -> None:
        """Remove the active messages and the checkpoint."""

    async def delete(self, session_id: str) -> None:
        """Remove a session, if there is one."""

    async def put_partial(self, session_id: str, message: SessionMessage) -> None:
        """Put a message in place of a partial one that is the newest, or append it.

        Its metadata is merged into that one's, whose flag goes unless the message is partial.
        """

    async def drop_partial(self, session_id: str) -> None:
        """Remove the newest message if it is partial; creates nothing."""

    async def set_checkpoint(self, session_id: str, checkpoint: CompactionCheckpoint) -> None:
        """Set the checkpoint; it covers all messages that are there now."""

    async def set_texts(self, session_id: str, texts: Mapping[str, str]) -> None:
        """Set fields of the record, such as ``agent_name``."""

    async def set_metadata(self, session_id: str, fields: Mapping[str, Any]) -> None:
        """Merge fields into the metadata; some of them are fields of the record, too."""

    async def merge_map(
        self,
        session_id: str,
        key: str,
        updates: Mapping[str, Any],
        defaults: Mapping[str, Any],
    ) -> None:
        """Merge entries into a map in the metadata: defaults, then what is there, then updates."""

    async def rename(self, session_id: str, title: str) -> None:
        """Set the title, or remove it where it is empty."""

    async def set_runtime(
        self, session_id: str, runtime_id: str, turn_id: str, state: Mapping[str, Any]
    ) -> None:
        """Set a turn's state of a runtime."""

    async def clear_runtime(self, session_id: str, runtime_id: str | None) -> None:
        """Remove the state of a runtime, or of all."""

    async def restore(self, session: SessionData, *, overwrite: bool) -> bool:
        """Store a whole session as it is; return False if there is one that is to stay."""

    async def rows(self, limit: int | None) -> list[dict[str, Any]]:
        """Return sessions as `row_of` does, the one last written first."""

    async def find(self, field: str, value: str, limit: int | None) -> list[str]:
        """Return the ids of sessions with a value in a field of their record."""

    async def scan(
        self, visit: Callable[[dict[str, Any]], T | None], *, strict: bool = False
    ) -> list[T]:
        """Call a function with each session's dict; return what it returns, without None.

        Args:
            visit: Gets what `SessionData.to_dict` returns, and whatever else is stored. It may run
                in another thread.
            strict: Whether a damaged session raises; else it is left out.
        """


def row_of(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return a session's entry in a list."""
    metadata = data.get("metadata") or {}

    def either(*keys: str) -> Any:
        given = (data.get(key) for key in keys)
        return next(filter(None, given), None) or metadata.get(keys[0])

    return {
        "session_id": data.get("session_id"),
        "id": data.get("session_id"),
        "agent_name": data.get("agent_name"),
        "title": metadata.get("title"),
        "agent_id": either("agent_id"),
        "source": either("source"),
        "parent_id": either("parent_id"),
        "parent_session_id": either("parent_session_id"),
        "agent_key": either("agent_key"),
        "created_at": data.get("created_at"),
        "updated_at": data.get("updated_at"),
        "message_count": len(data.get("messages") or ()),
        "model": either("model", "llm"),
        "total_tokens": either("total_tokens", "token_count"),
        "cost": either("cost"),
    }
