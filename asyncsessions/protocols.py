"""The contract of a session store.

`AsyncSessionStoreProtocol` is frozen: five coroutines, for whoever writes a store of their own.
`SessionStore` is everything that the stores of this library offer.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Protocol, Self, TypeAlias, runtime_checkable

from asyncsessions.models import (
    ImportReport,
    JSONValue,
    Message,
    SearchHit,
    SessionData,
    SessionInfo,
    SessionPage,
)

__all__ = ["AsyncSessionStoreProtocol", "SessionStore", "Sessions", "check_async_store"]

Sessions: TypeAlias = (
    Mapping[str, Any] | Iterable[Mapping[str, Any]] | AsyncIterable[Mapping[str, Any]]
)
"""Exported sessions: a stream of objects, or one object with the list under ``sessions``."""


@runtime_checkable
class AsyncSessionStoreProtocol(Protocol):
    """The five coroutines that every async session store has.

    A class satisfies it without inheriting. ``isinstance`` sees only the names, so a store with
    plain methods passes, too: use `check_async_store` on what comes from outside.
    """

    async def add_message(
        self,
        session_id: str,
        role: str,
        content: Any,
        metadata: dict[str, Any] | None = None,
    ) -> bool:
        """Append one message, creating the session if needed.

        When this returns, the message is durable to the degree the store is configured for, and
        every process reads it.

        Returns:
            True. A failure raises.
        """
        ...

    async def get_chat_history(
        self, session_id: str, max_messages: int | None = None
    ) -> list[dict[str, Any]]:
        """Return the newest messages as a chat model API takes them, oldest first.

        Each dict has ``role`` and ``content``, and ``tool_calls``, ``tool_call_id`` and ``name``
        where they are set. A tool result whose call lies outside the window is left out.

        Args:
            session_id: Opaque; 1 to 512 bytes in UTF-8.
            max_messages: The most messages to return; None means all, 0 none.

        Returns:
            The messages; empty where there is no session.
        """
        ...

    async def clear_session(self, session_id: str) -> bool:
        """Remove all messages for good; metadata and state stay, and ``seq`` goes on.

        Returns:
            Whether there was anything to remove.
        """
        ...

    async def delete_session(self, session_id: str) -> bool:
        """Remove the session and everything in it for good.

        Returns:
            Whether it existed.
        """
        ...

    async def session_exists(self, session_id: str) -> bool:
        """Return whether the session exists and hasn't expired."""
        ...


class SessionStore(AsyncSessionStoreProtocol, Protocol):
    """Everything that a store of this library does, and guarantees.

    Every method that takes a ``session_id`` raises `InvalidSessionIdError` for one that is
    empty, over 512 bytes in UTF-8 or not valid Unicode; `StoreUnavailableError` where the disk or
    server refuses; `LockTimeoutError` where another process holds the session for too long;
    `CorruptSessionError` where what is stored is damaged; `StoreClosedError` after `aclose`.
    Every method that stores raises `InvalidMessageError` for what JSON can't hold, before
    anything is written. A cancelled call either never wrote or completed its write.

    What a call stores is what its arguments were when it was made. Long lists of messages, and
    texts and values of state of some 100 KiB and more, are taken in slices of work, so that the
    event loop goes on: of these the outer lists and dicts are as they were then, and what is deep
    within them is as it is when its turn comes. Leave it as it is until the call returns.
    """

    async def add_message(
        self,
        session_id: str,
        role: str,
        content: Any,
        metadata: dict[str, Any] | None = None,
        *,
        tool_calls: list[Any] | None = None,
        tool_call_id: str | None = None,
        name: str | None = None,
        idempotency_key: str | None = None,
    ) -> bool:
        """Append one message, creating the session if needed.

        When this returns, the message is durable to the degree the store is configured for, and
        every process reads it.

        Args:
            session_id: Opaque; 1 to 512 bytes in UTF-8.
            role: Not empty.
            content: Text, a list of content parts, or None.
            metadata: Any JSON object; not part of a chat history.
            tool_calls: The tool calls of an assistant turn.
            tool_call_id: On a tool's result: the call that it answers.
            name: The speaker's or the tool's name.
            idempotency_key: As in `append`.

        Returns:
            True. A failure raises.
        """
        ...

    async def append(
        self,
        session_id: str,
        messages: Sequence[Message | Mapping[str, Any]],
        *,
        idempotency_key: str | None = None,
        expected_seq: int | None = None,
    ) -> list[Message]:
        """Append messages to a session, creating it if needed.

        The batch is atomic: readers see all of it or none, and concurrent batches never
        interleave. Its ``seq`` are contiguous.

        Args:
            session_id: Opaque; 1 to 512 bytes in UTF-8.
            messages: May be empty, which stores nothing.
            idempotency_key: A retry with the same key stores nothing and returns the first
                result again. Remembered as long as the messages live, and at least 24 hours.
            expected_seq: Store only if the newest ``seq`` is this one; 0 means none yet.

        Returns:
            The stored messages, oldest first, with their ``seq``.

        Raises:
            InvalidMessageError: A message isn't JSON or breaks the contract; names the field.
            MessageTooLargeError: One message exceeds ``max_message_bytes``.
            VersionConflictError: ``expected_seq`` isn't the newest; holds the messages after it.
            IdempotencyConflictError: The key stored other content before.
        """
        ...

    async def add_user_message(
        self, session_id: str, content: Any, metadata: dict[str, Any] | None = None
    ) -> bool:
        """Append a message of the role ``user``; see `add_message`."""
        ...

    async def add_assistant_message(
        self, session_id: str, content: Any, metadata: dict[str, Any] | None = None
    ) -> bool:
        """Append a message of the role ``assistant``; see `add_message`."""
        ...

    async def upsert_partial_assistant_message(
        self, session_id: str, content: str, *, finalize: bool = False
    ) -> bool:
        """Write the text so far of an assistant turn that is being streamed.

        While the newest message is such a partial turn (``metadata.partial`` is true), its
        content is replaced and it keeps its ``seq``; otherwise one is appended.

        Args:
            session_id: Opaque; 1 to 512 bytes in UTF-8.
            content: The whole text so far.
            finalize: Ends the turn: the message is no longer partial. With an empty content, the
                partial turn is removed instead.

        Returns:
            True.
        """
        ...

    async def discard_partial_assistant_message(self, session_id: str) -> bool:
        """Remove the newest message if it is a partial assistant turn.

        Returns:
            True, also where there was nothing to do.
        """
        ...

    async def get_messages(
        self,
        session_id: str,
        *,
        limit: int | None = None,
        before: int | None = None,
        after: int | None = None,
    ) -> list[Message]:
        """Return stored messages by ``seq``, oldest first, exactly as they are stored.

        Args:
            session_id: Opaque; 1 to 512 bytes in UTF-8.
            limit: The most messages to return; None means all, 0 none. The newest ones are kept,
                or, where only ``after`` is given, the oldest: so both page without a gap.
            before: Only messages with a lower ``seq``.
            after: Only messages with a higher ``seq``.

        Returns:
            The messages; empty where there is no session.

        Raises:
            ValueError: A number is negative.
        """
        ...

    def iter_messages(
        self, session_id: str, *, after: int = 0, before: int | None = None
    ) -> AsyncIterator[Message]:
        """Iterate over stored messages by ``seq``, oldest first, in bounded memory.

        Messages appended meanwhile are included where ``before`` allows.
        """
        ...

    async def get_session(self, session_id: str, *, max_messages: int | None = None) -> SessionData:
        """Return a session's record with its newest messages.

        Args:
            session_id: Opaque; 1 to 512 bytes in UTF-8.
            max_messages: The most messages to include; None means all, 0 none.

        Returns:
            The session; an empty one, with ``created_at`` 0.0, where it doesn't exist.
        """
        ...

    async def get_working_history(
        self, session_id: str, max_messages: int | None = None
    ) -> list[dict[str, Any]]:
        """Return what a model should see: the newest summary, then the messages after it.

        Without a compaction checkpoint this is `get_chat_history`. The summary always stays and
        doesn't count towards ``max_messages``.
        """
        ...

    async def pop_message(self, session_id: str) -> Message | None:
        """Remove the newest message and return it; None where there is none."""
        ...

    async def set_chat_history(
        self, session_id: str, messages: Sequence[Message | Mapping[str, Any]]
    ) -> bool:
        """Replace all messages in one step; the session is created if needed.

        The compaction checkpoint goes; metadata and state stay; ``seq`` goes on.

        Returns:
            True.
        """
        ...

    async def append_compaction_checkpoint(
        self,
        session_id: str,
        summary: str,
        *,
        role: str = "system",
        tokens_before: int = 0,
        tokens_after: int = 0,
        metadata: dict[str, Any] | None = None,
        seq: int | None = None,
    ) -> bool:
        """Let a summary stand for the older messages in the working history.

        Args:
            session_id: Opaque; 1 to 512 bytes in UTF-8.
            summary: Not blank.
            role: The role the summary gets.
            tokens_before: As the caller counted them.
            tokens_after: As the caller counted them.
            metadata: Any JSON object.
            seq: The newest message that it covers; None: the newest one now.

        Returns:
            True.
        """
        ...

    async def update_session_metadata(self, session_id: str, /, **fields: Any) -> bool:
        """Set metadata keys in one atomic step; others stay, and None is skipped.

        ``agent_name``, ``user_id`` and ``agent_id`` also set the record's fields of that name.
        The session is created if needed, unless there is nothing to set.

        Returns:
            True.
        """
        ...

    async def merge_session_metadata_map(
        self,
        session_id: str,
        key: str,
        updates: Mapping[str, Any],
        *,
        defaults: Mapping[str, Any] | None = None,
    ) -> bool:
        """Merge into the dict at a metadata key, atomically: defaults, then stored, then updates.

        Returns:
            True.
        """
        ...

    async def rename_session(self, session_id: str, title: str) -> bool:
        """Set the title (``metadata.title``), stripped; a blank one removes it.

        Returns:
            True.
        """
        ...

    async def set_agent_info(
        self, session_id: str, agent_name: str | None = None, user_id: str | None = None
    ) -> bool:
        """Set who talks in this session; empty values are skipped. Creates the session.

        Returns:
            True.
        """
        ...

    async def set_gateway_info(
        self,
        session_id: str,
        gateway_session_id: str | None = None,
        agent_id: str | None = None,
    ) -> bool:
        """Set what a gateway routes by; empty values are skipped. Creates the session.

        Returns:
            True.
        """
        ...

    async def get_state(
        self, session_id: str, key: str | None = None, default: JSONValue = None
    ) -> JSONValue:
        """Return the whole state as a dict, or the value of one key.

        Args:
            session_id: Opaque; 1 to 512 bytes in UTF-8.
            key: The key; None returns the whole state.
            default: What to return where the key is absent.
        """
        ...

    async def set_state(self, session_id: str, key: str, value: JSONValue) -> None:
        """Set one key of the state, atomically; the session is created if needed."""
        ...

    async def update_state(
        self, session_id: str, values: Mapping[str, JSONValue], *, remove: Iterable[str] = ()
    ) -> None:
        """Set some keys of the state and remove others, in one atomic step."""
        ...

    async def increment_state(self, session_id: str, key: str, by: float = 1) -> float:
        """Add to a number in the state, atomically; an absent one counts as 0.

        Returns:
            The new value.

        Raises:
            InvalidMessageError: The stored value isn't a number.
        """
        ...

    async def list_sessions(
        self,
        limit: int = 50,
        cursor: str | None = None,
        *,
        agent_name: str | None = None,
        user_id: str | None = None,
        agent_id: str | None = None,
        gateway_session_id: str | None = None,
    ) -> SessionPage:
        """Return sessions, last written first.

        A session that is written while its list is being paged moves to the front, so a later
        page may lack it; no page repeats one that wasn't written. A damaged session is left out.

        Args:
            limit: The most sessions to return; 0 returns none.
            cursor: ``next_cursor`` of the page before.
            agent_name: Only sessions with this ``agent_name``.
            user_id: Only sessions with this ``user_id``.
            agent_id: Only sessions with this ``agent_id``.
            gateway_session_id: Only sessions with this ``gateway_session_id``.

        Raises:
            ValueError: The limit is negative or the cursor isn't one of this method's.
        """
        ...

    async def get_sessions_by_agent(self, agent_name: str, limit: int = 10) -> list[SessionInfo]:
        """Return an agent's sessions, last written first."""
        ...

    async def get_by_gateway_session(self, gateway_session_id: str) -> SessionData | None:
        """Return the session that a gateway's session belongs to; None where there is none."""
        ...

    async def recent(self, *, limit: int = 10) -> list[SessionInfo]:
        """Return the sessions last written, newest first."""
        ...

    async def search(self, query: str, *, limit: int = 5, window: int = 5) -> list[SearchHit]:
        """Return sessions whose messages contain the words of a query, best first.

        Best effort: it looks, ignoring case, at the newest 1,000 sessions and the newest 1,000
        messages of each, unless the store has a text index.

        Args:
            query: Words; a blank query finds nothing.
            limit: The most sessions to return.
            window: How many messages around the best match come with each hit.
        """
        ...

    async def window(
        self, session_id: str, around_seq: int | None = None, *, window: int = 5
    ) -> list[Message]:
        """Return the messages around one of them, oldest first.

        Args:
            session_id: Opaque; 1 to 512 bytes in UTF-8.
            around_seq: The message in the middle; None: the newest.
            window: How many messages to include on each side.
        """
        ...

    async def export_session(self, session_id: str) -> dict[str, Any]:
        """Return a session as one JSON object with its messages, as `import_sessions` takes it.

        Raises:
            SessionNotFoundError: There is no such session.
        """
        ...

    def export_all(self) -> AsyncIterator[dict[str, Any]]:
        """Iterate over all sessions as JSON objects, in bounded memory.

        A long session comes in several objects: each after its first has ``"part"`` 2, 3, ...

        Raises:
            CorruptSessionError: A session is damaged; only after all others were returned.
        """
        ...

    async def import_sessions(
        self,
        sessions: Sessions,
        *,
        overwrite: bool = False,
        max_sessions: int | None = None,
    ) -> ImportReport:
        """Store sessions that were exported, from this library or as plain JSON objects.

        Each object has ``session_id`` and ``messages``, and whatever else `export_session` gives.
        An object that can't be stored, or that has expired, is skipped and reported; the others
        go on. A session's ``expires_at`` is kept.

        An import that was interrupted can be run again: a session that holds only the beginning
        of what comes, message for message with their times, gets the rest. Any other session
        that exists is skipped, or replaced where ``overwrite`` says so. Nothing is replaced by an
        object that can't be stored; of a session in several, the first one counts.

        Args:
            sessions: The objects; or one dict with the list of them under ``sessions``.
            overwrite: Replace sessions that exist; otherwise they are skipped.
            max_sessions: Stop after so many.
        """
        ...

    async def expire_session(self, session_id: str, seconds: float | None) -> bool:
        """Let a session vanish, with all its parts, after so many seconds.

        Where the store has ``ttl_seconds``, the next write counts from there again.

        Args:
            session_id: Opaque; 1 to 512 bytes in UTF-8.
            seconds: From now; 0 is at once, None is never.

        Returns:
            Whether the session existed.
        """
        ...

    async def purge_expired(self) -> int:
        """Remove what has expired; it was invisible before. Returns how many sessions went."""
        ...

    async def ping(self) -> None:
        """Raise `StoreUnavailableError` unless the store can be reached; on files, written."""
        ...

    async def aclose(self) -> None:
        """Complete the writes under way, refuse new ones and let go of all resources."""
        ...

    async def __aenter__(self) -> Self:
        """Open the store."""
        ...

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the store; see `aclose`."""
        ...


_FIVE = ("add_message", "get_chat_history", "clear_session", "delete_session", "session_exists")


def check_async_store(store: object) -> None:
    """Check that an object from outside is an async session store.

    Raises:
        TypeError: A method is missing, or isn't a coroutine function (as in a sync store).
    """
    kind = type(store).__name__
    for name in _FIVE:
        method = getattr(store, name, None)
        if method is None:
            raise TypeError(f"{kind} is no session store: it has no {name}()")
        if not inspect.iscoroutinefunction(method):
            text = f"{kind}.{name} is not a coroutine function; this is a sync store"
            raise TypeError(f"{text}: give an async one")
