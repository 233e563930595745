"""What hierarchical sessions need of a store beside `SessionStore`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from asyncsessions.hooks import Change
from asyncsessions.models import JSONValue, Message, SessionInfo
from asyncsessions.protocols import SessionStore

__all__ = ["BranchableStore"]


@runtime_checkable
class BranchableStore(SessionStore, Protocol):
    """A store on which sessions can branch; every store that derives from `BaseSessionStore`.

    It removes no messages of a session that others read: `hooks.check_unshared` says when, and
    the error is `SessionSharedError`.
    """

    @property
    def max_messages(self) -> int | None:
        """Retention: how many of its newest messages a session keeps; None: all."""

    @property
    def ttl_seconds(self) -> float | None:
        """How long after its last write a session vanishes; None: never."""

    @property
    def max_message_bytes(self) -> int:
        """The largest message, in bytes of JSON."""

    def now(self) -> float:
        """Return the time by the store's clock, in seconds since the epoch."""

    async def restore_session(
        self, info: SessionInfo, messages: Sequence[Message], expected_seq: int | None
    ) -> None:
        """Store an imported session, or a later part of it.

        Args:
            info: Its record; nothing of it but the id where it is a later part.
            messages: Its messages.
            expected_seq: Store them only if this is the session's newest ``seq``.

        Raises:
            VersionConflictError: It isn't.
        """

    async def get_info(self, session_id: str) -> SessionInfo | None:
        """Return a session's record; None where there is no session."""

    async def amend_session(
        self,
        session_id: str,
        changes: Sequence[Change],
        *,
        create: bool = False,
    ) -> list[JSONValue] | None:
        """Change a session's record in one atomic step: all changes or none.

        Args:
            session_id: The session.
            changes: What to change, in this order.
            create: Whether to create a session that doesn't exist.

        Returns:
            The new value of each change; None where there is no session.

        Raises:
            SessionChangedError: Something isn't as one of the changes expects.
        """

    async def discard_session(self, session_id: str, *, last_seq: int, updated_at: float) -> bool:
        """Remove a session for good, unless it goes on, or others read it.

        Args:
            session_id: The session.
            last_seq: Only if this is its newest ``seq`` still,
            updated_at: and it was last written then.

        Returns:
            Whether there was a session to remove.

        Raises:
            SessionChangedError: It was written meanwhile.
            SessionSharedError: Others read its messages.
        """
