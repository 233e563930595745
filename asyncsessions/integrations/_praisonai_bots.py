"""A bot's histories, which are only ever appended to."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Sequence
from typing import Any

from asyncsessions._forks import renew_in_children
from asyncsessions.integrations._praisonai_append import append
from asyncsessions.integrations._praisonai_checks import check_sync, import_package

__all__ = ["BotStore", "attach_bot", "bot_sessions"]


class _Stored(dict[str, Any]):
    """A message that is in the store already.

    The bot hands messages on as the objects that they are, so new ones are told apart by this.
    """

    __slots__ = ("session_id",)

    def __init__(self, session_id: str, message: dict[str, Any]) -> None:
        super().__init__(message)
        self.session_id = session_id

    def __reduce__(self) -> tuple[Any, ...]:
        return _Stored, (self.session_id, dict(self))


class _History(list[dict[str, Any]]):
    """A history that counts as one even where it is empty.

    Otherwise the bot takes an empty one for none, and goes on with what it remembers itself: a
    history that another worker has cleared would come back.
    """

    __slots__ = ()

    def __bool__(self) -> bool:
        return True


class BotStore:
    """Stands between a bot's session manager and its sync store, and only appends.

    The manager loads a history, lets the agent answer, and hands back the whole history to be
    stored in place of the old one. Here only the turn's own messages are stored, together, behind
    whatever other workers have stored meanwhile. Nothing is trimmed: the store keeps what it
    keeps, and the agent gets the newest ``max_history`` messages.

    What the store refused is stored with the next turn, in order and once; until then it is part
    of what is loaded here.

    Args:
        store: A `SyncSessionStore`, or a store with PraisonAI's API.
        max_history: How many messages are loaded at most; 0 or less is all.
    """

    def __init__(self, store: Any, max_history: int) -> None:
        self._store = store
        self._limit = max_history if max_history > 0 else None
        # Sessions that were not empty when they were last loaded.
        self._begun: set[str] = set()
        self.renew()
        renew_in_children(self)

    def renew(self) -> None:
        """Begin with nothing unsent, as also a forked child does: its parent stores that."""
        self._lock = threading.Lock()
        self._unsent: dict[str, list[tuple[str, list[_Stored]]]] = {}

    def __getattr__(self, name: str) -> Any:
        # Only for what isn't defined here.
        if name == "_store":
            raise AttributeError(name)  # Of an object that isn't initialised, as while copying.
        return getattr(self._store, name)

    def get_chat_history(
        self, session_id: str, max_messages: int | None = None
    ) -> list[dict[str, Any]]:
        """Return the newest messages, and at their end what couldn't be stored so far."""
        limit = self._limit if max_messages is None else max_messages
        found = self._store.get_chat_history(session_id, limit)
        history = _History(_Stored(session_id, message) for message in found)
        with self._lock:
            for _, messages in self._unsent.get(session_id, ()):
                history += messages
        (self._begun.add if len(history) else self._begun.discard)(session_id)
        return history

    def set_chat_history(self, session_id: str, messages: list[dict[str, Any]]) -> bool:
        """Append what is new in a history; the list then holds it as stored.

        Returns:
            True.

        Raises:
            Exception: The store's; what is new waits for the next call.
        """
        start = _start_of_new(session_id, messages, has_begun=session_id in self._begun)
        new = [_Stored(session_id, message) for message in messages[start:]]
        # The manager keeps this list for when the store can't be read.
        messages[start:] = new
        with self._lock:
            batches = self._unsent.pop(session_id, [])
        if new:
            batches.append((uuid.uuid4().hex, new))
        try:
            while batches:
                key, batch = batches[0]
                append(self._store, session_id, list(map(_clean, batch)), idempotency_key=key)
                del batches[0]
        finally:
            if batches:
                with self._lock:
                    self._unsent[session_id] = batches + self._unsent.get(session_id, [])
        return True

    def add_message(
        self,
        session_id: str,
        role: str,
        content: Any,
        metadata: dict[str, Any] | None = None,
        **fields: Any,
    ) -> bool:
        """Append one message; see the store."""
        return bool(self._store.add_message(session_id, role, content, metadata, **fields))

    def clear_session(self, session_id: str) -> bool:
        """Remove all messages; see the store. What couldn't be stored is dropped."""
        with self._lock:
            self._unsent.pop(session_id, None)
        return bool(self._store.clear_session(session_id))

    def delete_session(self, session_id: str) -> bool:
        """Remove the session; see the store. What couldn't be stored is dropped."""
        with self._lock:
            self._unsent.pop(session_id, None)
        return bool(self._store.delete_session(session_id))

    def session_exists(self, session_id: str) -> bool:
        """Return whether the session exists; see the store."""
        return bool(self._store.session_exists(session_id))


def bot_sessions(store: Any, *, platform: str = "", max_history: int = 100, **options: Any) -> Any:
    """Return a bot's session manager whose histories are append-only.

    It is praisonai-bot's own ``BotSessionManager``, so bots, gateway and commands use it as they
    do the original. Any number of workers may serve the same users: each turn is stored as a
    whole behind the others, and each load sees all of them. ``/new`` clears for all workers.

    Args:
        store: A `SyncSessionStore` or a ``DefaultSessionStore``; it stays yours to close.
        platform: As the manager takes it; part of the sessions' ids.
        max_history: How many messages the agent gets at most; the store keeps the others.
        **options: Further arguments of ``BotSessionManager``.

    Raises:
        TypeError: It is no sync store; says what to give.
        ValueError: ``compaction`` is on, which rewrites histories.
        ImportError: praisonai-bot isn't installed; says what to install.
    """
    check_sync(store, "bot_sessions()")
    module = import_package("praisonai_bot.bots._session", "bot_sessions()")
    manager = module.BotSessionManager(max_history=max_history, platform=platform, **options)
    return attach_bot(manager, store)


def attach_bot(bot: Any, store: Any) -> Any:
    """Keep a bot's histories in a store, append-only; see `bot_sessions`.

    Args:
        bot: A bot of praisonai-bot, before it starts, or its ``BotSessionManager``.
        store: A `SyncSessionStore` or a ``DefaultSessionStore``; it stays yours to close.

    Returns:
        The session manager.

    Raises:
        TypeError: It is no such bot, or no sync store; says what to give.
        ValueError: The bot's ``compaction`` is on, which rewrites histories.
    """
    check_sync(store, "attach_bot()")
    manager: Any = bot if hasattr(bot, "_load_history") else getattr(bot, "_session", None)
    if not hasattr(manager, "_load_history") or not hasattr(manager, "_store"):
        raise TypeError(f"{type(bot).__name__} is no bot of praisonai-bot with a session manager")
    if getattr(manager, "_compaction_enabled", False):
        raise ValueError(
            "this bot's compaction would rewrite the history; turn it off: the store keeps all "
            "messages, and the agent gets the newest max_history"
        )
    manager._store = BotStore(store, manager._max_history)
    return manager


def _start_of_new(session_id: str, messages: Sequence[dict[str, Any]], *, has_begun: bool) -> int:
    """Return where the messages begin that aren't stored in a session.

    An agent that compacts its history may hand back copies alone: then it is the last turn.
    """
    places = range(len(messages), 0, -1)
    for end in places:
        message = messages[end - 1]
        if isinstance(message, _Stored) and message.session_id == session_id:
            return end
    if not has_begun:
        return 0
    users = (end - 1 for end in places if messages[end - 1].get("role") == "user")
    return next(users, len(messages))


def _clean(message: dict[str, Any]) -> dict[str, Any]:
    """Return a message as stores take it; the store tells the time where the bot wrote text."""
    return {
        key: value
        for key, value in message.items()
        if key != "timestamp" or isinstance(value, int | float)
    }
