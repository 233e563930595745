"""The errors of this library, in one tree.

    SessionStoreError
    ├── InvalidSessionIdError      (also a ValueError)
    ├── InvalidMessageError        (also a ValueError)
    │   └── MessageTooLargeError
    ├── VersionConflictError
    ├── IdempotencyConflictError
    ├── CorruptSessionError
    ├── SessionFileError           (also a ValueError)
    ├── SessionNotFoundError       (also a LookupError)
    ├── MessageNotFoundError       (also a LookupError)
    ├── SnapshotNotFoundError      (also a LookupError)
    ├── SessionExistsError         (also a ValueError)
    ├── SessionCycleError          (also a ValueError)
    ├── UnrelatedSessionsError     (also a ValueError)
    ├── SessionChangedError
    ├── SessionSharedError
    ├── LockTimeoutError           (also a TimeoutError)
    ├── CallTimeoutError           (also a TimeoutError)
    ├── StoreUnavailableError
    │   ├── StoreRefusedError
    │   └── StoreFullError
    ├── StoreClosedError
    └── ForkedStoreError           (also a RuntimeError)

Two more stand where they are raised: `TurnNotStoredError` in the integration of PraisonAI, and that
of a repair, which the command line reports.

An error's text says what happened, to which session, and what to do. It never holds message
content or credentials. An error of the operating system or of a driver is chained as the cause.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from asyncsessions.models import Message

__all__ = [
    "CallTimeoutError",
    "CorruptSessionError",
    "ForkedStoreError",
    "IdempotencyConflictError",
    "InvalidMessageError",
    "InvalidSessionIdError",
    "LockTimeoutError",
    "MessageNotFoundError",
    "MessageTooLargeError",
    "SessionChangedError",
    "SessionCycleError",
    "SessionExistsError",
    "SessionFileError",
    "SessionNotFoundError",
    "SessionSharedError",
    "SessionStoreError",
    "SnapshotNotFoundError",
    "StoreClosedError",
    "StoreFullError",
    "StoreRefusedError",
    "StoreUnavailableError",
    "UnrelatedSessionsError",
    "VersionConflictError",
]


class SessionStoreError(Exception):
    """The root of every error that this library raises for a store.

    Attributes:
        session_id: The session concerned; None where no single session is.
    """

    def __init__(self, text: str, *, session_id: str | None = None) -> None:
        super().__init__(text)
        self.session_id = session_id


class InvalidSessionIdError(SessionStoreError, ValueError):
    """The id is empty, too long, or not text that UTF-8 can hold. Nothing was written."""


class InvalidMessageError(SessionStoreError, ValueError):
    """A value can't be stored as JSON or breaks the contract. Nothing was written.

    Attributes:
        field: The offending field as a path, such as ``metadata.tags[2]``.
    """

    def __init__(self, text: str, *, field: str, session_id: str | None = None) -> None:
        super().__init__(text, session_id=session_id)
        self.field = field


class MessageTooLargeError(InvalidMessageError):
    """One message is larger than the store's ``max_message_bytes``. Nothing was written.

    Attributes:
        size: The message's size in bytes; a lower bound where it was refused unencoded.
        limit: The store's ``max_message_bytes``.
    """

    def __init__(self, *, size: int, limit: int, session_id: str | None = None) -> None:
        super().__init__(
            f"a message of at least {size} bytes is over max_message_bytes={limit}; "
            "shorten it or raise the store's limit",
            field="content",
            session_id=session_id,
        )
        self.size = size
        self.limit = limit


class VersionConflictError(SessionStoreError):
    """Another writer was first: ``expected_seq`` isn't the newest ``seq``. Nothing was written.

    Attributes:
        expected_seq: What the caller gave.
        last_seq: The session's newest ``seq`` at that moment.
        messages: The messages after ``expected_seq``, oldest first: what the caller missed.
    """

    def __init__(
        self,
        session_id: str,
        *,
        expected_seq: int,
        last_seq: int,
        messages: list[Message] | None = None,
    ) -> None:
        super().__init__(
            f"session {session_id!r} is at seq {last_seq}, not {expected_seq}; "
            "read what was missed from .messages and try again",
            session_id=session_id,
        )
        self.expected_seq = expected_seq
        self.last_seq = last_seq
        self.messages: list[Message] = [] if messages is None else messages


class IdempotencyConflictError(SessionStoreError):
    """The idempotency key was used before for other content. Nothing was written.

    Attributes:
        idempotency_key: The key.
    """

    def __init__(self, session_id: str, idempotency_key: str) -> None:
        super().__init__(
            f"idempotency key {idempotency_key!r} already stored other messages in session "
            f"{session_id!r}; use a new key for new content",
            session_id=session_id,
        )
        self.idempotency_key = idempotency_key


class CorruptSessionError(SessionStoreError):
    """What is stored for this session is damaged. The bytes are kept; others are unaffected.

    Attributes:
        detail: What is wrong.
        path: The damaged file; None where the store has no files.
        line: The damaged line, counted from 1; None where it isn't known.
    """

    def __init__(
        self,
        detail: str,
        *,
        session_id: str | None = None,
        path: str | None = None,
        line: int | None = None,
    ) -> None:
        where = "" if path is None else f" in {path}" if line is None else f" in {path}:{line}"
        which = "a session" if session_id is None else f"session {session_id!r}"
        super().__init__(f"{which} is damaged{where}: {detail}", session_id=session_id)
        self.detail = detail
        self.path = path
        self.line = line


class SessionFileError(SessionStoreError, ValueError):
    """A file of sessions holds something else.

    Attributes:
        path: The file.
        line: The line, counted from 1; None where it isn't known.
    """

    def __init__(self, detail: str, *, path: str, line: int | None = None) -> None:
        where = path if line is None else f"{path}:{line}"
        super().__init__(f"{where}: {detail}")
        self.path = path
        self.line = line


class SessionNotFoundError(SessionStoreError, LookupError):
    """The operation needs a session that doesn't exist."""

    def __init__(self, session_id: str) -> None:
        super().__init__(f"there is no session {session_id!r}", session_id=session_id)


class MessageNotFoundError(SessionStoreError, LookupError):
    """A session shows no message with this ``seq``.

    Attributes:
        seq: What the caller gave.
    """

    def __init__(self, session_id: str, seq: int) -> None:
        super().__init__(
            f"session {session_id!r} shows no message {seq}; give the seq of one that "
            "get_messages returns",
            session_id=session_id,
        )
        self.seq = seq


class SnapshotNotFoundError(SessionStoreError, LookupError):
    """A session has no snapshot of this id.

    Attributes:
        snapshot_id: What the caller gave; None where there is no revert to undo.
    """

    def __init__(self, session_id: str, snapshot_id: str | None) -> None:
        what = "revert to undo" if snapshot_id is None else f"snapshot {snapshot_id!r}"
        super().__init__(f"session {session_id!r} has no {what}", session_id=session_id)
        self.snapshot_id = snapshot_id


class UnrelatedSessionsError(SessionStoreError, ValueError):
    """Two sessions have no messages in common, because neither is a fork of the other's kin.

    Attributes:
        other_id: The other session.
    """

    def __init__(self, session_id: str, other_id: str) -> None:
        super().__init__(
            f"sessions {session_id!r} and {other_id!r} are unrelated: neither was forked from "
            "the other, nor both from a third",
            session_id=session_id,
        )
        self.other_id = other_id


class SessionCycleError(SessionStoreError, ValueError):
    """A session would come under one that comes from it. Nothing was written.

    Attributes:
        parent_id: What the caller gave as its parent.
    """

    def __init__(self, session_id: str, parent_id: str) -> None:
        super().__init__(
            f"session {session_id!r} can't come under {parent_id!r}, which comes from a session "
            "of this id; choose another id",
            session_id=session_id,
        )
        self.parent_id = parent_id


class SessionExistsError(SessionStoreError, ValueError):
    """There is a session of this id already. Nothing was written."""

    def __init__(self, session_id: str) -> None:
        super().__init__(
            f"there is a session {session_id!r} already; choose another id", session_id=session_id
        )


class SessionChangedError(SessionStoreError):
    """Somebody else changed the session's record since it was read. Nothing was written."""

    def __init__(self, session_id: str) -> None:
        super().__init__(
            f"session {session_id!r} was changed meanwhile; read it again and decide anew",
            session_id=session_id,
        )


class SessionSharedError(SessionStoreError):
    """The operation would remove messages that forks or snapshots of the session still read.

    Nothing was written. `HierarchicalSessionStore` does such operations; it moves the messages
    to where only those find them first.

    Attributes:
        last_seq: The newest ``seq`` that others read.
    """

    def __init__(self, session_id: str, *, last_seq: int) -> None:
        super().__init__(
            f"forks or snapshots read the messages of session {session_id!r} up to {last_seq}; "
            "do this through a HierarchicalSessionStore, which keeps those for them",
            session_id=session_id,
        )
        self.last_seq = last_seq


class LockTimeoutError(SessionStoreError, TimeoutError):
    """Another process held the session's lock for too long. Nothing was written.

    Attributes:
        timeout: How long this call waited, in seconds.
    """

    def __init__(self, session_id: str, *, timeout: float) -> None:
        super().__init__(
            f"session {session_id!r} stayed locked by another process for {timeout:g} s; "
            "try again, or look for a stopped process that holds the lock",
            session_id=session_id,
        )
        self.timeout = timeout


class CallTimeoutError(SessionStoreError, TimeoutError):
    """A call of a sync store took longer than its ``call_timeout`` and was cancelled.

    Either it never wrote, or its write completes.

    Attributes:
        timeout: The limit, in seconds.
    """

    def __init__(self, timeout: float) -> None:
        super().__init__(
            f"the call took longer than its limit of {timeout:g} s and was cancelled; "
            "read before you repeat what it was to write"
        )
        self.timeout = timeout


class StoreUnavailableError(SessionStoreError):
    """The server, disk or directory refused or couldn't be reached; the cause is chained."""


class StoreRefusedError(StoreUnavailableError):
    """The server answers, but not to this client: somebody has to change a setting.

    A wrong password, a missing permission or database, a read-only replica, a server too old.
    """


class StoreFullError(StoreUnavailableError):
    """The server has no room for more; reading still works. Nothing was written."""


class StoreClosedError(SessionStoreError):
    """The store was closed, so it takes no more calls."""

    def __init__(self) -> None:
        super().__init__("this store is closed; open a new one")


class ForkedStoreError(SessionStoreError, RuntimeError):
    """A sync store was used before this process was forked off, and can't be opened anew here."""

    def __init__(self) -> None:
        super().__init__(
            "this sync store was opened before the process was forked, and its connections are "
            "its parent's; make the store after the fork, or from a URL of a file or server store"
        )
