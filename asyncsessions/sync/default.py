"""`DefaultSessionStore`: PraisonAI's own store, as an API on this library's stores.

This module has the public names of ``praisonaiagents.session.store`` and can stand in its place.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

from asyncsessions.sync._original.constants import (
    ARCHIVE_WARN_THRESHOLD,
    DEFAULT_CACHE_MAXSIZE,
    DEFAULT_LOCK_TIMEOUT,
    DEFAULT_MAX_MESSAGES,
    DEFAULT_MIRROR_MAX_RETRIES,
    DEFAULT_MIRROR_QUEUE_SIZE,
    DEFAULT_RETENTION,
    RETENTION_COMPACT,
    RETENTION_KEEP_ALL,
    RETENTION_TRUNCATE,
)
from asyncsessions.sync._original.filelock import FileLock
from asyncsessions.sync._original.methods import PORTABLE_VERSION, Original
from asyncsessions.sync._original.mirror import Mirror
from asyncsessions.sync._original.opening import REFUSALS, Errors, Opening, directory_of
from asyncsessions.sync._original.paths import get_sessions_dir
from asyncsessions.sync._original.recall import Ranking
from asyncsessions.sync.records import (
    CompactionCheckpoint,
    ImportReport,
    SessionData,
    SessionHit,
    SessionMessage,
    SessionSummary,
)

__all__ = [
    "ARCHIVE_WARN_THRESHOLD",
    "DEFAULT_CACHE_MAXSIZE",
    "DEFAULT_LOCK_TIMEOUT",
    "DEFAULT_MAX_MESSAGES",
    "DEFAULT_MIRROR_MAX_RETRIES",
    "DEFAULT_MIRROR_QUEUE_SIZE",
    "DEFAULT_RETENTION",
    "RETENTION_COMPACT",
    "RETENTION_KEEP_ALL",
    "RETENTION_TRUNCATE",
    "CompactionCheckpoint",
    "DefaultSessionStore",
    "FileLock",
    "SessionData",
    "SessionMessage",
    "get_default_session_store",
    "get_sessions_dir",
]

logger: logging.Logger = logging.getLogger("asyncsessions.sync")


class DefaultSessionStore(Opening):
    """PraisonAI's session store on this library: the same methods, results and files.

    It reads and writes the files of praisonaiagents 1.7, in its directory and beside its own
    processes; `from_url` has the same methods on any store. Any number of threads may use it, also
    a thread whose own event loop runs (which then stands still). Nothing needs to be closed.

    What a method couldn't store it answers with False, and a read of an unavailable store with
    what an empty session has; both are logged. A session that another process keeps locked raises
    `LockTimeoutError`, an OSError; an id that is no text raises TypeError.

    Args:
        session_dir: Where the files are; made if missing. None is PraisonAI's own directory:
            ``$PRAISONAI_HOME/sessions``, else ``~/.praisonai/sessions``.
        max_messages: How long a working history is at most, and the default of ``active_window``.
        lock_timeout: How long a write waits for a session that another process has locked, in
            seconds.
        retention: What becomes of messages beyond the active window: ``compact`` moves them to the
            session's archive, ``truncate`` drops them, ``keep_all`` keeps them active. None is
            ``truncate`` where ``max_messages`` isn't 100, else ``compact``.
        active_window: How many messages stay active; 0 or less keeps all.
        mirror: Gets a copy of each message, in a thread that delays nothing.
        cache_maxsize: Has no effect: nothing is answered from a cache.
        errors: ``raise`` raises the async stores' typed errors instead of returning False.
        durability: ``os`` survives a crash of the process, as the original does; ``fsync`` one of
            the machine, too, and is slower.

    Raises:
        ValueError: ``retention``, ``errors`` or ``durability`` is none of those.
        OSError: The directory can't be made.
    """

    BOOKEND_SIZE: ClassVar[int] = Ranking().bookends
    """How many of a session's first and last messages `search` shows."""
    AUTOMATED_RATE_THRESHOLD: ClassVar[float] = Ranking().rate
    """`search` takes a session with more messages than this in an hour for a machine's."""
    AUTOMATED_DEMOTION: ClassVar[float] = Ranking().demotion
    """What a machine's session counts in `search`, where another one counts 1."""
    PORTABLE_VERSION: ClassVar[int] = PORTABLE_VERSION
    """Of the format of exports."""

    _made_for: str | None = None

    def __init__(
        self,
        session_dir: str | None = None,
        max_messages: int = DEFAULT_MAX_MESSAGES,
        lock_timeout: float = DEFAULT_LOCK_TIMEOUT,
        retention: str | None = None,
        active_window: int | None = None,
        mirror: Mirror | None = None,
        cache_maxsize: int = DEFAULT_CACHE_MAXSIZE,
        *,
        errors: Errors = "original",
        durability: str = "os",
    ) -> None:
        del cache_maxsize
        if durability not in {"os", "fsync"}:
            raise ValueError(f"durability={durability!r}: give 'os' or 'fsync'")
        self.session_dir: str = session_dir or _resolve_default_session_dir()
        Path(self.session_dir).mkdir(parents=True, exist_ok=True)
        self._set_up(
            max_messages=max_messages,
            lock_timeout=lock_timeout,
            retention=retention,
            active_window=active_window,
            mirror=mirror,
            errors=errors,
            options={"durability": durability},
        )

    @classmethod
    def from_url(
        cls,
        url: str,
        *,
        max_messages: int = DEFAULT_MAX_MESSAGES,
        retention: str | None = None,
        active_window: int | None = None,
        mirror: Mirror | None = None,
        errors: Errors = "original",
        **options: Any,
    ) -> Self:
        """Return a store with the same methods on any of this library's stores.

        There, ``compact`` moves nothing: all messages stay where they are, and those beyond the
        active window are shown as the archive. So `clear_session` and `set_chat_history` remove the
        archive, too.

        Args:
            url: As `asyncsessions.open_store` takes it.
            max_messages: As for the class.
            retention: As for the class.
            active_window: As for the class.
            mirror: As for the class.
            errors: As for the class.
            **options: The arguments of the store's class.

        Raises:
            ValueError: An argument isn't valid. The URL is looked at when it is first used.
        """
        store = cls.__new__(cls)
        store.session_dir = directory_of(url)
        store._set_up(  # noqa: SLF001  # its own class
            max_messages=max_messages,
            lock_timeout=options.get("lock_timeout", DEFAULT_LOCK_TIMEOUT),
            retention=retention,
            active_window=active_window,
            mirror=mirror,
            errors=errors,
            url=url,
            options=options,
        )
        return store

    # Messages.

    def add_message(
        self,
        session_id: str,
        role: str,
        content: Any,
        metadata: dict[str, Any] | None = None,
        tool_calls: list[dict[str, Any]] | None = None,
        tool_call_id: str | None = None,
    ) -> bool:
        """Append a message, creating the session if needed; return whether it is stored.

        Args:
            session_id: The session.
            role: Such as ``user``, ``assistant``, ``system`` or ``tool``.
            content: Text, or any JSON.
            metadata: A JSON object.
            tool_calls: The tool calls of an assistant turn.
            tool_call_id: On a tool's result: the call that it answers.
        """
        message = SessionMessage(role, content, time.time(), metadata or {}, tool_calls)
        message.tool_call_id = tool_call_id
        try:
            self._run(Original.add, session_id, message)
        except REFUSALS as exc:
            self._refused(exc)
            self._run(Original.salvage, session_id, message, str(exc))
            return False
        self._mirrored(session_id, [message])
        return True

    def add_user_message(
        self, session_id: str, content: Any, metadata: dict[str, Any] | None = None
    ) -> bool:
        """Append a message of the user; see `add_message`."""
        return self.add_message(session_id, "user", content, metadata)

    def add_assistant_message(
        self, session_id: str, content: Any, metadata: dict[str, Any] | None = None
    ) -> bool:
        """Append a message of the assistant; see `add_message`."""
        return self.add_message(session_id, "assistant", content, metadata)

    def append_with_metadata(
        self,
        session_id: str,
        messages: Sequence[Mapping[str, Any]],
        metadata: Mapping[str, Any],
        *,
        idempotency_key: str | None = None,
    ) -> bool:
        """Append messages, all or none, and set metadata; on files, both in one write.

        The original has no such method. It is what makes the turn of an agent cheap.

        Args:
            session_id: The session.
            messages: As dicts; keys that a `SessionMessage` doesn't have are left out.
            metadata: As for `update_session_metadata`.
            idempotency_key: A repetition with the same key and messages appends nothing.

        Returns:
            Whether all is stored. Where it isn't, messages without a key are kept as
            `add_message` keeps them.
        """
        # Where no time is given, the time of storing counts: a repetition is the same then.
        appended = [SessionMessage.from_dict({"timestamp": 0.0, **each}) for each in messages]
        method = Original.append_with_metadata
        try:
            self._run(method, session_id, appended, metadata, idempotency_key)
        except REFUSALS as exc:
            self._refused(exc)
            for message in self._timed(appended) if idempotency_key is None else ():
                self._run(Original.salvage, session_id, message, str(exc))
            return False
        self._mirrored(session_id, self._timed(appended))
        return True

    @staticmethod
    def _timed(messages: list[SessionMessage]) -> list[SessionMessage]:
        for message in messages:
            message.timestamp = message.timestamp or time.time()
        return messages

    def upsert_partial_assistant_message(
        self, session_id: str, content: str, *, finalize: bool = False
    ) -> bool:
        """Store the assistant's turn as far as it is known, in place of an earlier part of it.

        Args:
            session_id: The session.
            content: The whole text so far.
            finalize: Whether it is complete; without any text, the unfinished turn is removed.
        """
        turns: list[SessionMessage] = []

        async def put(original: Original) -> None:
            turn = await original.put_partial(session_id, content, finalize=finalize)
            turns.extend([] if turn is None else [turn])

        is_stored = self._write(put)
        if is_stored:
            self._mirrored(session_id, turns)
        return is_stored

    def discard_partial_assistant_message(self, session_id: str) -> bool:
        """Remove the newest message if it is an unfinished turn."""
        return self._write(Original.drop_partial, session_id)

    def set_chat_history(self, session_id: str, messages: Sequence[Mapping[str, Any]]) -> bool:
        """Replace the active messages and remove the checkpoint; the archive stays.

        Args:
            session_id: The session.
            messages: As dicts; keys that a `SessionMessage` doesn't have are left out.
        """
        replaced: list[SessionMessage] = []

        async def replace(original: Original) -> None:
            replaced.extend(await original.set_chat_history(session_id, messages))

        is_stored = self._write(replace)
        if is_stored:
            self._mirrored(session_id, replaced)
        return is_stored

    def clear_session(self, session_id: str) -> bool:
        """Remove the active messages and the checkpoint; a missing session is created.

        The archive stays, and is still searched; delete the session where that must not be.
        """
        return self._write(Original.clear, session_id)

    def delete_session(self, session_id: str) -> bool:
        """Remove a session; True also where there is none."""
        return self._write(Original.delete, session_id)

    # Reading.

    def get_chat_history(
        self, session_id: str, max_messages: int | None = None
    ) -> list[dict[str, Any]]:
        """Return the newest active messages as a chat model API takes them, oldest first.

        Args:
            session_id: The session.
            max_messages: At most so many, and fewer where the first ones would be results of a
                tool call that was cut off; None and 0 mean all.
        """
        return self._read(list, Original.get_chat_history, session_id, max_messages)

    def get_working_history(
        self, session_id: str, max_messages: int | None = None
    ) -> list[dict[str, Any]]:
        """Return the checkpoint's summary and the messages after it; else the newest messages.

        Args:
            session_id: The session.
            max_messages: At most so many, the summary included; None and 0 mean the store's
                ``max_messages``.
        """
        limit = max_messages or self.max_messages
        return self._read(list, Original.get_working_history, session_id, limit)

    def get_session(self, session_id: str) -> SessionData:
        """Return a session with everything that belongs to it; an empty one where there is none."""
        return self._read(lambda: SessionData(session_id), Original.get_session, session_id)

    def session_exists(self, session_id: str) -> bool:
        """Return whether there is a session, even one without messages."""
        return self._read(bool, Original.exists, session_id)

    def get_session_model(self, session_id: str) -> str | None:
        """Return the model that the session was last run with; None where that isn't known."""
        return self._last_set(session_id, "model", "llm")

    def get_session_reasoning_effort(self, session_id: str) -> str | None:
        """Return the reasoning effort that the session was last run with; None if unknown."""
        return self._last_set(session_id, "reasoning_effort")

    def _last_set(self, session_id: str, *keys: str) -> str | None:
        return self._read(lambda: None, Original.last_set, session_id, *keys)

    # The record.

    def set_agent_info(
        self, session_id: str, agent_name: str | None = None, user_id: str | None = None
    ) -> bool:
        """Set whose session it is; what isn't given stays. A missing session is created."""
        texts = {"agent_name": agent_name, "user_id": user_id}
        return self._write(Original.set_texts, session_id, **texts)

    def set_gateway_info(
        self,
        session_id: str,
        gateway_session_id: str | None = None,
        agent_id: str | None = None,
    ) -> bool:
        """Link a session to a gateway's; what isn't given stays. A missing session is created."""
        texts = {"gateway_session_id": gateway_session_id, "agent_id": agent_id}
        return self._write(Original.set_texts, session_id, **texts)

    def update_session_metadata(self, session_id: str, **fields: Any) -> bool:
        """Merge fields into the metadata; None leaves a field as it is.

        ``agent_id``, ``agent_name`` and ``user_id`` are set as fields of the session, too.
        """
        return not fields or self._write(Original.update_metadata, session_id, fields)

    def merge_session_metadata_map(
        self,
        session_id: str,
        key: str,
        updates: dict[str, Any],
        *,
        defaults: dict[str, Any] | None = None,
    ) -> bool:
        """Merge entries into a map in the metadata, in one step.

        Args:
            session_id: The session.
            key: Where in the metadata the map is.
            updates: Win over what is stored.
            defaults: Only add what isn't there.
        """
        return self._write(Original.merge_map, session_id, key, updates, defaults)

    def rename_session(self, session_id: str, title: str) -> bool:
        """Set the title, without the spaces around it; empty removes it."""
        return self._write(Original.rename, session_id, title)

    def append_compaction_checkpoint(
        self,
        session_id: str,
        summary: str,
        *,
        role: str = "system",
        tokens_before: int = 0,
        tokens_after: int = 0,
        metadata: dict[str, Any] | None = None,
    ) -> bool:
        """Store a summary that stands for all messages so far in the working history.

        Args:
            session_id: The session.
            summary: The text; blank stores nothing and returns False.
            role: The role that it has in the working history.
            tokens_before: As the caller counted them.
            tokens_after: As the caller counted them.
            metadata: A JSON object.
        """
        if not (summary or "").strip():
            return False
        checkpoint = CompactionCheckpoint(
            summary, 0, role, tokens_before, tokens_after, time.time(), metadata or {}
        )
        return self._write(Original.set_checkpoint, session_id, checkpoint)

    # Runtime state.

    def set_runtime_state(
        self,
        session_id: str,
        runtime_id: str,
        turn_id: str,
        state: dict[str, Any],
        mirror_enabled: bool = True,  # noqa: FBT001, FBT002  # the original's signature
    ) -> bool:
        """Store what a runtime wants to remember of a turn.

        Args:
            session_id: The session.
            runtime_id: The runtime.
            turn_id: The turn.
            state: A JSON object.
            mirror_enabled: False stores nothing and returns True.
        """
        if not mirror_enabled:
            return True
        return self._write(Original.set_runtime, session_id, runtime_id, turn_id, state)

    def get_runtime_state(
        self, session_id: str, runtime_id: str, turn_id: str | None = None
    ) -> dict[str, Any]:
        """Return what a runtime remembers of a turn, or of each turn; empty where it is nothing."""
        return self._read(dict, Original.get_runtime, session_id, runtime_id, turn_id)

    def clear_runtime_state(self, session_id: str, runtime_id: str | None = None) -> bool:
        """Remove what a runtime remembers, or what all of them do."""
        return self._write(Original.clear_runtime, session_id, runtime_id)

    # Finding.

    def list_sessions(self, limit: int | None = 50) -> list[dict[str, Any]]:
        """Return what a list of sessions shows of each, the one last written first.

        Args:
            limit: At most so many; None means all.
        """
        return self._read(list, Original.list_sessions, limit)

    def list_sessions_by_agent(self, agent_name: str, limit: int | None = 50) -> list[str]:
        """Return the ids of an agent's sessions."""
        return self._read(list, Original.find, "agent_name", agent_name, limit)

    def get_sessions_by_agent(self, agent_name: str, limit: int | None = 10) -> list[SessionData]:
        """Return an agent's sessions."""
        ids = self.list_sessions_by_agent(agent_name, limit)
        return [self.get_session(session_id) for session_id in ids]

    def get_agent_chat_history(
        self, agent_name: str, max_messages: int | None = None, max_sessions: int = 5
    ) -> list[dict[str, Any]]:
        """Return the messages of an agent's sessions, each with its session and the agent.

        Args:
            agent_name: The agent.
            max_messages: At most so many of each session; None means all.
            max_sessions: At most so many sessions.
        """
        return [
            {**turn, "session_id": session.session_id, "agent_name": agent_name}
            for session in self.get_sessions_by_agent(agent_name, max_sessions)
            for turn in session.get_chat_history(max_messages)
        ]

    def get_by_gateway_session(self, gateway_session_id: str) -> SessionData | None:
        """Return the session that is linked to a gateway's; None where there is none."""
        wanted = ("gateway_session_id", gateway_session_id)
        return self._read(lambda: None, Original.find_session, *wanted)

    def list_sessions_by_gateway_agent(self, agent_id: str, limit: int | None = 50) -> list[str]:
        """Return the ids of the sessions that are linked to a gateway's agent."""
        return self._read(list, Original.find, "agent_id", agent_id, limit)

    def search(self, query: str, *, limit: int = 5, window: int = 5) -> list[SessionHit]:
        """Return the sessions, archives included, that match a query best; blank finds nothing.

        Args:
            query: Words; a message scores one for each, and two for all of the query as it is.
            limit: At most so many sessions.
            window: How many messages to show on each side of the best one.
        """
        ranking = Ranking(self.BOOKEND_SIZE, self.AUTOMATED_RATE_THRESHOLD, self.AUTOMATED_DEMOTION)
        options = {"limit": limit, "window": window, "ranking": ranking}
        return self._read(list, Original.search, query, **options)

    def window(
        self, session_id: str, around_message_id: str | None = None, *, window: int = 5
    ) -> list[dict[str, Any]]:
        """Return the messages around one, archived ones first.

        Args:
            session_id: The session.
            around_message_id: Its place, as a `SessionHit` says it; else the newest message.
            window: How many on each side.
        """
        given = (session_id, around_message_id)
        return self._read(list, Original.window, *given, window=window)

    def recent(self, *, limit: int = 10) -> list[SessionSummary]:
        """Return the sessions that were last written."""
        return [
            SessionSummary(
                session.get("session_id", ""),
                session.get("agent_name") or session.get("session_id", ""),
                session.get("updated_at") or session.get("created_at"),
                session.get("message_count", 0),
            )
            for session in self.list_sessions(limit)
        ]

    # Moving.

    def export_session(self, session_id: str, *, include_lineage: bool = True) -> dict[str, Any]:
        """Return a session as JSON for `import_sessions`; without one, an empty list of sessions.

        Args:
            session_id: The session.
            include_lineage: Whether to add the sessions that it continues, or that continue it.

        Raises:
            OSError: A session can't be read, so the export would be incomplete.
        """
        return self._run(Original.export_session, session_id, include_lineage=include_lineage)

    def export_all(self) -> dict[str, Any]:
        """Return all sessions as JSON for `import_sessions`.

        Raises:
            OSError: A session can't be read, so the export would be incomplete.
        """
        return self._run(Original.export_all)

    def import_sessions(
        self,
        payload: dict[str, Any],
        *,
        max_sessions: int = 10_000,
        reset_live_fields: bool = True,
        overwrite: bool = False,
    ) -> ImportReport:
        """Store exported sessions as they are; what can't be stored is in the report.

        Args:
            payload: What `export_session` or `export_all` returned.
            max_sessions: Stop after so many.
            reset_live_fields: Whether to remove the links to a gateway.
            overwrite: Whether to replace sessions that exist.
        """
        return self._run(
            Original.import_sessions,
            payload,
            max_sessions=max_sessions,
            reset_live_fields=reset_live_fields,
            overwrite=overwrite,
        )

    # Beside the sessions.

    def invalidate_cache(self, session_id: str | None = None) -> None:
        """Do nothing: each read looks at the file, or asks the server."""

    def flush_mirror(self, timeout: float | None = None) -> bool:
        """Wait until the mirror has every message so far; return False if that takes too long."""
        return self._mirror is None or self._mirror.flush(timeout)

    def close_mirror(self) -> None:
        """Hand over what the mirror doesn't have yet, and end its thread."""
        if self._mirror is not None:
            self._mirror.close()

    def _mirrored(self, session_id: str, messages: Sequence[SessionMessage]) -> None:
        if self._mirror is not None:
            self._mirror.put(session_id, messages)


# Where an application may assign `DEFAULT_SESSION_DIR`; PraisonAI says so of its own module.
_ASSIGNABLE = (__name__, "asyncsessions.sync", "praisonaiagents.session.store")

# An application, or a test, may set its own store here; it is returned as it is.
_default_store: Any = None
_default_lock = threading.Lock()


def _renew_lock() -> None:
    """Start anew in a forked child: another thread of the parent may have held the lock."""
    global _default_lock
    _default_lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock)


def __getattr__(name: str) -> Any:
    """Return ``DEFAULT_SESSION_DIR`` as it is now; whoever assigns it sets the default."""
    if name == "DEFAULT_SESSION_DIR":
        return _resolve_default_session_dir()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _resolve_default_session_dir() -> str:
    loaded = (sys.modules.get(name) for name in _ASSIGNABLE)
    assigned = (vars(module).get("DEFAULT_SESSION_DIR") for module in loaded if module is not None)
    return str(next(filter(None, assigned), None) or get_sessions_dir())


def get_default_session_store() -> Any:
    """Return the store that all of a process shares, made when it is first asked for.

    It is on PraisonAI's own directory, and made anew when that is another one by now.
    ``PRAISONAI_SESSION_RETENTION`` and ``PRAISONAI_SESSION_ACTIVE_WINDOW`` set its retention; what
    isn't valid there is logged and left out.
    """
    global _default_store
    directory = _resolve_default_session_dir()
    if not _is_usable(_default_store, directory):
        with _default_lock:
            if not _is_usable(_default_store, directory):
                _default_store = _make_default_store(directory)
    return _default_store


def _is_usable(store: Any, directory: str) -> bool:
    return store is not None and getattr(store, "_made_for", None) in {None, directory}


def _make_default_store(directory: str) -> DefaultSessionStore:
    retention = os.environ.get("PRAISONAI_SESSION_RETENTION")
    given = os.environ.get("PRAISONAI_SESSION_ACTIVE_WINDOW")
    window: int | None = None
    if given:
        try:
            window = int(given)
        except ValueError:
            logger.warning("PRAISONAI_SESSION_ACTIVE_WINDOW=%r is no number", given)
    try:
        store = DefaultSessionStore(directory, retention=retention, active_window=window)
    except ValueError:
        logger.warning("PRAISONAI_SESSION_RETENTION=%r is no retention", retention)
        store = DefaultSessionStore(directory, active_window=window)
    store._made_for = directory  # noqa: SLF001  # what marks those that are made here
    return store
