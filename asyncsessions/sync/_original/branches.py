"""What the original's forks and snapshots need of the store below them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from asyncsessions.sync.extended import ExtendedSessionData, SessionSnapshot

__all__ = ["Branches", "Node"]


@dataclass(frozen=True)
class Node:
    """A session's place among its forks.

    Attributes:
        title: Its title.
        message_count: How many active messages it has.
        parent_id: The session that it was forked from, or belongs under.
        children_ids: The sessions that were forked from it, oldest first.
        is_shared: Whether it is marked as shared.
    """

    title: str | None = None
    message_count: int = 0
    parent_id: str | None = None
    children_ids: list[str] = field(default_factory=list)
    is_shared: bool = False


class Branches(Protocol):
    """Branches sessions that a `Backing` stores, and raises what the async stores raise."""

    async def read(self, session_id: str) -> ExtendedSessionData | None:
        """Return a session; None where there is none."""

    async def node(self, session_id: str) -> Node | None:
        """Return a session's place; None where there is no session."""

    async def create(self, session_id: str, session: ExtendedSessionData) -> None:
        """Make an empty session with a record's title, parent, agent and metadata.

        Of one that exists, what is given is set, and everything else stays.

        Raises:
            SessionExistsError: It exists, and can't be put under the parent.
        """

    async def fork(self, session_id: str, index: int | None, title: str | None) -> str | None:
        """Fork a session, which is created if it is missing; return the fork's id.

        Args:
            session_id: The session.
            index: The last active message that the fork gets; None: all.
            title: The fork's title; None makes one up.

        Returns:
            None where there is no message at the index.
        """

    async def add_snapshot(
        self, session_id: str, label: str | None, metadata: Mapping[str, Any]
    ) -> str:
        """Remember a session, which is created if it is missing; return the snapshot's id."""

    async def snapshots(self, session_id: str) -> list[SessionSnapshot]:
        """Return a session's snapshots, oldest first; none where there is no session."""

    async def revert_to_snapshot(self, session_id: str, snapshot_id: str) -> bool:
        """Bring a session back to a snapshot; return False where it has none that holds."""

    async def revert_to_message(self, session_id: str, index: int) -> bool:
        """Keep the active messages up to an index; return False where there is none there."""

    async def set_shared(self, session_id: str, *, is_shared: bool) -> None:
        """Mark a session as shared or not; it is created if it is missing."""

    async def set_title(self, session_id: str, title: str, *, only_first: bool = False) -> None:
        """Set a session's title; it is created if it is missing.

        Args:
            session_id: The session.
            title: The title.
            only_first: Leave a title as it is that isn't blank.
        """

    async def restore(self, session: ExtendedSessionData) -> None:
        """Store a session as it is, but for its place among others; replaces one of its id."""
