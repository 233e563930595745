"""A sync store as PraisonAI's agents use it: their statistics cost no write of their own."""

from __future__ import annotations

import atexit
import functools
import logging
import threading
import weakref
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

from asyncsessions._forks import renew_in_children
from asyncsessions.integrations._praisonai_append import append, refused, takes_tool_fields

__all__ = ["STATISTICS", "AgentStore"]

_logger = logging.getLogger("asyncsessions.integrations.praisonai")

STATISTICS = frozenset({"model", "total_tokens", "cost", "source", "agent_id"})
"""What an agent tells of itself twice in every turn."""
# Methods that neither show statistics nor change them.
_UNRELATED = frozenset(
    {
        "append_compaction_checkpoint",
        "discard_partial_assistant_message",
        "set_agent_info",
        "upsert_partial_assistant_message",
    }
)
# For so long they may wait for a message to go with, in seconds.
_DELAY = 1.0
# Sessions of which it is known what was written last.
_REMEMBERED = 1024


class _Held:
    """One session's statistics: what is written, and what waits."""

    __slots__ = ("is_being_written", "waiting", "written")

    def __init__(self) -> None:
        self.written: dict[str, Any] = {}
        self.waiting: dict[str, Any] = {}
        # Newer values must not be overtaken by older ones that are on their way.
        self.is_being_written = False


class AgentStore:
    """Stands between an agent and its sync store, and coalesces the agent's statistics.

    What ``update_session_metadata`` gets from an agent's turn (`STATISTICS`) is written with the
    session's next message where the store can do both in one write (it has
    ``append_with_metadata``), and one second later at the latest; also before any other call that
    goes through here, at `close`, and when the interpreter exits. So whoever reads through here
    sees them at once. Values that were written before are not written again. A killed process
    loses the statistics of its last second, and never a message.

    All other methods are the store's own, with its results and errors.

    Args:
        store: A store with PraisonAI's API or a `SyncSessionStore`.
        delay: How long statistics may wait, in seconds.
    """

    def __init__(self, store: Any, *, delay: float = _DELAY) -> None:
        self._store = store
        self._delay = delay
        self.renew()
        renew_in_children(self)
        self._combined: Any = getattr(store, "append_with_metadata", None)
        self._has_tool_fields = takes_tool_fields(store.add_message)
        self._at_exit = functools.partial(_flush_at_exit, weakref.ref(self))
        atexit.register(self._at_exit)

    def renew(self) -> None:
        """Begin with nothing that waits, as also a forked child does: its parent writes that."""
        self._lock = threading.Lock()
        self._sessions: OrderedDict[str, _Held] = OrderedDict()
        self._timer: threading.Timer | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> AgentStore:
        """Return itself: copies of an agent share the store."""
        return self

    def __getattr__(self, name: str) -> Any:
        # Only for what isn't defined here.
        if name == "_store":
            raise AttributeError(name)  # Of an object that isn't initialised, as while copying.
        attribute = getattr(self._store, name)
        if name in _UNRELATED or not callable(attribute):
            return attribute

        @functools.wraps(attribute)
        def call(*args: Any, **kwargs: Any) -> Any:
            self.flush()
            return attribute(*args, **kwargs)

        return call

    # Messages.

    def add_message(
        self,
        session_id: str,
        role: str,
        content: Any,
        metadata: dict[str, Any] | None = None,
        tool_calls: list[Any] | None = None,
        tool_call_id: str | None = None,
    ) -> bool:
        """Append one message, and the session's statistics that wait.

        A store that takes no tool fields gets the text alone, as from PraisonAI's own agents.
        """
        given = {"metadata": metadata, "tool_calls": tool_calls, "tool_call_id": tool_call_id}
        fields = {key: value for key, value in given.items() if value}
        if self._has_waiting(session_id):
            message = {"role": role, "content": content, **fields}
            return self._write_combined(session_id, [message], {})
        if not self._has_tool_fields:
            fields = {"metadata": metadata} if metadata else {}
        stored: bool = self._store.add_message(session_id, role, content, **fields)
        return stored

    def add_user_message(
        self, session_id: str, content: Any, metadata: dict[str, Any] | None = None
    ) -> bool:
        """Append a message of the role ``user``; see `add_message`."""
        return self.add_message(session_id, "user", content, metadata)

    def add_assistant_message(
        self, session_id: str, content: Any, metadata: dict[str, Any] | None = None
    ) -> bool:
        """Append a message of the role ``assistant``; see `add_message`."""
        return self.add_message(session_id, "assistant", content, metadata)

    def write(
        self,
        session_id: str,
        messages: Sequence[dict[str, Any]],
        *,
        idempotency_key: str,
        statistics: Mapping[str, Any],
    ) -> None:
        """Append messages, in one step where the store can, and statistics with them.

        Args:
            session_id: The session.
            messages: May be empty.
            idempotency_key: Makes a repetition harmless, where the store has ``append``.
            statistics: As for ``update_session_metadata``.

        Raises:
            StoreUnavailableError: The store returned False.
        """
        self._hold(session_id, statistics)
        key = {"idempotency_key": idempotency_key}
        is_batch = len(messages) > 1 and not hasattr(self._store, "append")
        if messages and (self._has_waiting(session_id) or (is_batch and self._combined)):
            if not self._write_combined(session_id, messages, key):
                raise refused(self._store, session_id)
        else:
            append(self._store, session_id, messages, **key)

    def _has_waiting(self, session_id: str) -> bool:
        """Whether a message can take statistics along."""
        held = self._sessions.get(session_id)
        return self._combined is not None and held is not None and bool(held.waiting)

    def _write_combined(
        self, session_id: str, messages: Sequence[dict[str, Any]], key: dict[str, str]
    ) -> bool:
        held, fields = self._take(session_id)
        is_written = False
        try:
            is_written = self._combined(session_id, messages, fields, **key) is not False
        finally:
            self._give_back(held, fields, is_written=is_written)
        return is_written

    # What agents read in every turn, and what doesn't show statistics.

    def get_chat_history(
        self, session_id: str, max_messages: int | None = None
    ) -> list[dict[str, Any]]:
        """Return the newest messages; see the store."""
        history: list[dict[str, Any]] = self._store.get_chat_history(session_id, max_messages)
        return history

    def get_working_history(
        self, session_id: str, max_messages: int | None = None
    ) -> list[dict[str, Any]]:
        """Return what a model should see; see the store."""
        read = getattr(self._store, "get_working_history", self._store.get_chat_history)
        history: list[dict[str, Any]] = read(session_id, max_messages)
        return history

    def clear_session(self, session_id: str) -> bool:
        """Remove all messages; see the store."""
        return bool(self._store.clear_session(session_id))

    def delete_session(self, session_id: str) -> bool:
        """Remove the session; statistics that wait for it are dropped."""
        with self._lock:
            self._sessions.pop(session_id, None)
        return bool(self._store.delete_session(session_id))

    def session_exists(self, session_id: str) -> bool:
        """Return whether the session exists; see the store."""
        return bool(self._store.session_exists(session_id))

    # Statistics.

    def update_session_metadata(self, session_id: str, /, **fields: Any) -> bool:
        """Hold an agent's statistics back; write anything else at once, with what waits."""
        if fields.keys() <= STATISTICS:
            self._hold(session_id, fields)
            return True
        self.flush(session_id)
        return bool(self._store.update_session_metadata(session_id, **fields))

    def flush(self, session_id: str | None = None) -> None:
        """Write the statistics that wait, of one session or of all.

        Raises:
            SessionStoreError: The store refused; they wait on.
        """
        with self._lock:
            waiting = [each for each, held in self._sessions.items() if held.waiting]
        for each in waiting if session_id is None else {session_id}.intersection(waiting):
            self._flush_one(each)

    def _flush_one(self, session_id: str) -> None:
        held, fields = self._take(session_id)
        if not fields:
            return
        is_written = False
        try:
            is_written = self._store.update_session_metadata(session_id, **fields) is not False
        finally:
            self._give_back(held, fields, is_written=is_written)

    def close(self) -> None:
        """Write what waits; the store stays open, as it belongs to the caller."""
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
        atexit.unregister(self._at_exit)
        self.flush()

    def _hold(self, session_id: str, fields: Mapping[str, Any]) -> None:
        if not hasattr(self._store, "update_session_metadata"):
            return
        with self._lock:
            held = self._sessions.get(session_id)
            if held is None:
                held = self._sessions[session_id] = _Held()
                self._forget_oldest()
            self._sessions.move_to_end(session_id)
            for name, value in fields.items():
                known = held.waiting.get(name, held.written.get(name))
                if value is not None and value != known:
                    held.waiting[name] = value
            # One that `close` cancelled may be there still.
            if held.waiting and (self._timer is None or not self._timer.is_alive()):
                self._start_timer()

    def _forget_oldest(self) -> None:
        if len(self._sessions) > _REMEMBERED:
            oldest = next(iter(self._sessions))
            if not self._sessions[oldest].waiting:
                del self._sessions[oldest]

    def _start_timer(self) -> None:
        self._timer = threading.Timer(self._delay, self._flush_late)
        # The exit of a process waits for no timer; `_flush_at_exit` does its work.
        self._timer.daemon = True
        self._timer.start()

    def _flush_late(self) -> None:
        with self._lock:
            self._timer = None
        try:
            self.flush()
        except Exception as exc:  # noqa: BLE001  # nobody waits for this thread
            _logger.warning("an agent's statistics wait for its next message: %s", exc)
            return
        with self._lock:
            if self._timer is None and any(held.waiting for held in self._sessions.values()):
                self._start_timer()

    def _take(self, session_id: str) -> tuple[_Held, dict[str, Any]]:
        """Take what waits to be written now; nothing while another thread writes."""
        with self._lock:
            held = self._sessions.get(session_id) or _Held()
            if held.is_being_written or not held.waiting:
                return held, {}
            held.is_being_written = True
            fields, held.waiting = held.waiting, {}
            return held, fields

    def _give_back(self, held: _Held, fields: dict[str, Any], *, is_written: bool) -> None:
        if not fields:
            return
        with self._lock:
            held.is_being_written = False
            if is_written:
                held.written |= fields
            else:
                held.waiting = fields | held.waiting


def _flush_at_exit(reference: weakref.ref[AgentStore]) -> None:
    store = reference()
    if store is not None:
        try:
            store.flush()
        except Exception as exc:  # noqa: BLE001  # the process exits
            _logger.warning("statistics were not written at exit: %s", exc)
