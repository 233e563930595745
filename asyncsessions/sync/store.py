"""Any async store, for sync code."""

from __future__ import annotations

from collections.abc import (
    AsyncIterator,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from typing import TYPE_CHECKING, Any

import anyio.to_thread

from asyncsessions.models import (
    ImportReport,
    Message,
    SearchHit,
    SessionData,
    SessionInfo,
    SessionPage,
)
from asyncsessions.sync._bridged import BridgedStore

if TYPE_CHECKING:
    from asyncsessions.models import JSONValue
    from asyncsessions.protocols import Sessions

__all__ = ["SyncSessionStore", "open_store"]

# So many messages come from the loop's thread at once.
_MESSAGES = 100
_END: Any = object()


class SyncSessionStore(BridgedStore):
    """Every method of `SessionStore`, blocking until it is done.

    Its calls run in one event loop that all sync stores of the process share, in a daemon thread;
    so concurrent threads are combined as concurrent tasks are. It may be called from any number of
    threads, also from one whose own event loop runs (which then stands still: await an async
    store there if you can). It opens at the first call, and a process that never closes it exits
    cleanly. Results, errors and guarantees are those of the async store; where Ctrl-C or
    ``call_timeout`` ends a call, it either never wrote or completes its write.

    In a forked child, a store made from a URL opens connections of its own. One that was made from
    a store, or from ``memory://``, raises `ForkedStoreError` there if it was used before, and so
    does an iteration that began before the fork.

    Args:
        store: A URL, as `asyncsessions.open_store` takes it, or an async store that isn't open.
        call_timeout: The longest that a call may take, in seconds; None is no limit but those of
            the store itself.
        **options: With a URL, the arguments of the store's class.

    Raises:
        ValueError: The URL, an option or ``call_timeout`` isn't valid; names it.
        TypeError: It is no async store, it is open, or it comes with options.
        ImportError: The store's driver isn't installed; says what to install.
    """

    def ping(self) -> None:
        """Raise `StoreUnavailableError` unless the store can be reached; on files, written."""
        self._run(self._async.ping)

    # Append.

    def add_message(
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
        """Append one message, creating the session if needed; see `SessionStore.add_message`.

        Returns:
            True: the message is durable, and every process reads it. A failure raises.
        """
        return self._run(
            self._async.add_message,
            session_id,
            role,
            content,
            metadata,
            tool_calls=tool_calls,
            tool_call_id=tool_call_id,
            name=name,
            idempotency_key=idempotency_key,
        )

    def append(
        self,
        session_id: str,
        messages: Sequence[Message | Mapping[str, Any]],
        *,
        idempotency_key: str | None = None,
        expected_seq: int | None = None,
    ) -> list[Message]:
        """Append messages, all or none and without a gap; see `SessionStore.append`.

        Args:
            session_id: Opaque; 1 to 512 bytes in UTF-8.
            messages: May be empty, which stores nothing.
            idempotency_key: A retry with the same key stores nothing and returns the first
                result again.
            expected_seq: Store only if the newest ``seq`` is this one; 0 means none yet.

        Returns:
            The stored messages, oldest first, with their ``seq``.
        """
        return self._run(
            self._async.append,
            session_id,
            messages,
            idempotency_key=idempotency_key,
            expected_seq=expected_seq,
        )

    def add_user_message(
        self, session_id: str, content: Any, metadata: dict[str, Any] | None = None
    ) -> bool:
        """Append a message of the role ``user``; see `add_message`."""
        return self._run(self._async.add_user_message, session_id, content, metadata)

    def add_assistant_message(
        self, session_id: str, content: Any, metadata: dict[str, Any] | None = None
    ) -> bool:
        """Append a message of the role ``assistant``; see `add_message`."""
        return self._run(self._async.add_assistant_message, session_id, content, metadata)

    def upsert_partial_assistant_message(
        self, session_id: str, content: str, *, finalize: bool = False
    ) -> bool:
        """Write the text so far of an assistant turn that is being streamed; returns True.

        ``finalize`` ends the turn; with an empty content it removes it instead.
        """
        method = self._async.upsert_partial_assistant_message
        return self._run(method, session_id, content, finalize=finalize)

    def discard_partial_assistant_message(self, session_id: str) -> bool:
        """Remove the newest message if it is a partial assistant turn; returns True."""
        return self._run(self._async.discard_partial_assistant_message, session_id)

    # Read.

    def get_chat_history(
        self, session_id: str, max_messages: int | None = None
    ) -> list[dict[str, Any]]:
        """Return the newest messages as a model takes them, oldest first.

        None means all, 0 none; tool calls stay together with their results.
        """
        return self._run(self._async.get_chat_history, session_id, max_messages)

    def get_working_history(
        self, session_id: str, max_messages: int | None = None
    ) -> list[dict[str, Any]]:
        """Return what a model should see: the newest summary, then the messages after it."""
        return self._run(self._async.get_working_history, session_id, max_messages)

    def get_messages(
        self,
        session_id: str,
        *,
        limit: int | None = None,
        before: int | None = None,
        after: int | None = None,
    ) -> list[Message]:
        """Return stored messages by ``seq``, oldest first; see `SessionStore.get_messages`.

        Args:
            session_id: Opaque; 1 to 512 bytes in UTF-8.
            limit: The most messages: the newest ones or, where only ``after`` is given, the
                oldest. None means all, 0 none.
            before: Only messages with a lower ``seq``.
            after: Only messages with a higher ``seq``.
        """
        method = self._async.get_messages
        return self._run(method, session_id, limit=limit, before=before, after=after)

    def iter_messages(
        self, session_id: str, *, after: int = 0, before: int | None = None
    ) -> Iterator[Message]:
        """Iterate over stored messages by ``seq``, oldest first, in bounded memory.

        Messages appended meanwhile are included where ``before`` allows.
        """
        found = True
        while found:
            found = False
            messages = self._async.iter_messages(session_id, after=after, before=before)
            for message in self._iterate(messages, _MESSAGES):
                yield message
                # Once more from here, as some may have come while the last ones were used.
                after, found = message.seq, True

    def window(
        self, session_id: str, around_seq: int | None = None, *, window: int = 5
    ) -> list[Message]:
        """Return the messages around one of them, by default the newest, oldest first."""
        return self._run(self._async.window, session_id, around_seq, window=window)

    def session_exists(self, session_id: str) -> bool:
        """Return whether there is such a session."""
        return self._run(self._async.session_exists, session_id)

    def get_session(self, session_id: str, *, max_messages: int | None = None) -> SessionData:
        """Return a session's record with its newest messages; an empty one if there is none."""
        return self._run(self._async.get_session, session_id, max_messages=max_messages)

    # Rewrite.

    def pop_message(self, session_id: str) -> Message | None:
        """Remove the newest message and return it; None where there is none."""
        return self._run(self._async.pop_message, session_id)

    def set_chat_history(
        self, session_id: str, messages: Sequence[Message | Mapping[str, Any]]
    ) -> bool:
        """Replace all messages in one step; metadata and state stay. Returns True."""
        return self._run(self._async.set_chat_history, session_id, messages)

    def append_compaction_checkpoint(
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
        """Let a summary stand for the older messages in the working history; returns True.

        See `SessionStore.append_compaction_checkpoint` for the arguments.
        """
        return self._run(
            self._async.append_compaction_checkpoint,
            session_id,
            summary,
            role=role,
            tokens_before=tokens_before,
            tokens_after=tokens_after,
            metadata=metadata,
            seq=seq,
        )

    def clear_session(self, session_id: str) -> bool:
        """Remove all messages for good; returns whether there were any."""
        return self._run(self._async.clear_session, session_id)

    def delete_session(self, session_id: str) -> bool:
        """Remove a session for good; returns whether there was one."""
        return self._run(self._async.delete_session, session_id)

    # Record.

    def update_session_metadata(self, session_id: str, /, **fields: Any) -> bool:
        """Set metadata keys in one atomic step; others stay, None is skipped. Returns True."""
        return self._run(self._async.update_session_metadata, session_id, **fields)

    def merge_session_metadata_map(
        self,
        session_id: str,
        key: str,
        updates: Mapping[str, Any],
        *,
        defaults: Mapping[str, Any] | None = None,
    ) -> bool:
        """Merge into the dict at a metadata key: defaults, then stored, then updates."""
        method = self._async.merge_session_metadata_map
        return self._run(method, session_id, key, updates, defaults=defaults)

    def rename_session(self, session_id: str, title: str) -> bool:
        """Set the title (``metadata.title``), stripped; a blank one removes it. Returns True."""
        return self._run(self._async.rename_session, session_id, title)

    def set_agent_info(
        self, session_id: str, agent_name: str | None = None, user_id: str | None = None
    ) -> bool:
        """Set who talks in this session; empty values are skipped. Returns True."""
        return self._run(self._async.set_agent_info, session_id, agent_name, user_id)

    def set_gateway_info(
        self,
        session_id: str,
        gateway_session_id: str | None = None,
        agent_id: str | None = None,
    ) -> bool:
        """Set what a gateway routes by; empty values are skipped. Returns True."""
        method = self._async.set_gateway_info
        return self._run(method, session_id, gateway_session_id, agent_id)

    # State.

    def get_state(
        self, session_id: str, key: str | None = None, default: JSONValue = None
    ) -> JSONValue:
        """Return the whole state as a dict, or the value of one key."""
        return self._run(self._async.get_state, session_id, key, default)

    def set_state(self, session_id: str, key: str, value: JSONValue) -> None:
        """Set one key of the state, atomically; the session is created if needed."""
        self._run(self._async.set_state, session_id, key, value)

    def update_state(
        self, session_id: str, values: Mapping[str, JSONValue], *, remove: Iterable[str] = ()
    ) -> None:
        """Set some keys of the state and remove others, in one atomic step."""
        self._run(self._async.update_state, session_id, values, remove=remove)

    def increment_state(self, session_id: str, key: str, by: float = 1) -> float:
        """Add to a number in the state, atomically; returns the new value."""
        return self._run(self._async.increment_state, session_id, key, by)

    # Find.

    def list_sessions(
        self,
        limit: int = 50,
        cursor: str | None = None,
        *,
        agent_name: str | None = None,
        user_id: str | None = None,
        agent_id: str | None = None,
        gateway_session_id: str | None = None,
    ) -> SessionPage:
        """Return sessions, last written first; see `SessionStore.list_sessions`.

        ``cursor`` is the ``next_cursor`` of the page before; the other arguments select.
        """
        return self._run(
            self._async.list_sessions,
            limit,
            cursor,
            agent_name=agent_name,
            user_id=user_id,
            agent_id=agent_id,
            gateway_session_id=gateway_session_id,
        )

    def get_sessions_by_agent(self, agent_name: str, limit: int = 10) -> list[SessionInfo]:
        """Return an agent's sessions, last written first."""
        return self._run(self._async.get_sessions_by_agent, agent_name, limit)

    def get_by_gateway_session(self, gateway_session_id: str) -> SessionData | None:
        """Return the session that a gateway's session belongs to; None where there is none."""
        return self._run(self._async.get_by_gateway_session, gateway_session_id)

    def recent(self, *, limit: int = 10) -> list[SessionInfo]:
        """Return the sessions last written, newest first."""
        return self._run(self._async.recent, limit=limit)

    def search(self, query: str, *, limit: int = 5, window: int = 5) -> list[SearchHit]:
        """Return sessions whose messages contain the words of a query, best first."""
        return self._run(self._async.search, query, limit=limit, window=window)

    # Move.

    def export_session(self, session_id: str) -> dict[str, Any]:
        """Return a session as one JSON object; raises `SessionNotFoundError` without one."""
        return self._run(self._async.export_session, session_id)

    def export_all(self) -> Iterator[dict[str, Any]]:
        """Iterate over all sessions as JSON objects, in bounded memory.

        See `SessionStore.export_all`: a long session comes in several objects.
        """
        return self._iterate(self._async.export_all(), 1)

    def import_sessions(
        self,
        sessions: Sessions,
        *,
        overwrite: bool = False,
        max_sessions: int | None = None,
    ) -> ImportReport:
        """Store sessions that were exported; see `SessionStore.import_sessions`.

        An iterator is advanced in worker threads, one step at a time; so it may come from another
        sync store's `export_all`.
        """
        given: Sessions = sessions
        if isinstance(sessions, Iterable) and not isinstance(sessions, (Mapping, Sequence)):
            given = _advance(iter(sessions))
        method = self._async.import_sessions
        return self._run(method, given, overwrite=overwrite, max_sessions=max_sessions)

    # Expiry.

    def expire_session(self, session_id: str, seconds: float | None) -> bool:
        """Let a session vanish after so many seconds; None is never.

        Returns:
            Whether the session existed.
        """
        return self._run(self._async.expire_session, session_id, seconds)

    def purge_expired(self) -> int:
        """Remove what has expired; returns how many sessions went."""
        return self._run(self._async.purge_expired)


def open_store(url: str, *, call_timeout: float | None = None, **options: Any) -> SyncSessionStore:
    """Return a sync store for a URL, as `asyncsessions.open_store` does an async one.

    It is usable at once; ``with`` closes it at the end.

    Args:
        url: Where the sessions are.
        call_timeout: See `SyncSessionStore`.
        **options: The arguments of the store's class; they win over the URL's query.

    Raises:
        ValueError: The scheme, the URL or an option isn't valid; names it.
        ImportError: The store's driver isn't installed; says what to install.
    """
    if not isinstance(url, str):
        raise TypeError(f"open_store takes a URL, not {type(url).__name__}")
    return SyncSessionStore(url, call_timeout=call_timeout, **options)


async def _advance(items: Iterator[Mapping[str, Any]]) -> AsyncIterator[Mapping[str, Any]]:
    # In a thread: it may block, or itself call a sync store, which the loop's own thread can't.
    while (item := await anyio.to_thread.run_sync(next, items, _END)) is not _END:
        yield item
