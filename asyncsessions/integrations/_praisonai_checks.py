"""What is wrong with an argument, said before anything is changed."""

from __future__ import annotations

import importlib
import inspect
from types import ModuleType
from typing import Any

from asyncsessions.protocols import check_async_store

__all__ = ["check_agent", "check_async", "check_limit", "check_sync", "import_package"]

# The release whose seams this wiring was written for, by package.
_TESTED = {"praisonaiagents": "1.7.17", "praisonai_bot": "0.1.16"}
# Where a turn passes in an agent, and what it needs to be attached.
_SEAMS = (
    "chat",
    "achat",
    "execute_tool",
    "execute_tool_async",
    "chat_history",
    "_add_to_chat_history",
    "_add_to_chat_history_if_not_duplicate",
    "_append_to_chat_history",
    "_rollback_chat_history_to",
    "_persist_message",
    "_apersist_message",
    "_discard_partial_assistant_turn",
    "_start_stream",
    "_stream_fallback_chat",
    "_session_store",
    "_session_id",
)
_FIVE = ("add_message", "get_chat_history", "clear_session", "delete_session", "session_exists")


def check_agent(agent: Any) -> None:
    """Check that an object is an agent that a store can be attached to.

    Raises:
        TypeError: It is no agent, or not one of a release that this wiring knows.
        ValueError: It has messages already, a database of its own, or another store.
    """
    kind = type(agent).__name__
    for name in _SEAMS:
        if not hasattr(agent, name):
            raise TypeError(
                f"{kind} is no PraisonAI agent that a store can be attached to: it has no {name}; "
                f"this was tested with praisonaiagents {_TESTED['praisonaiagents']}"
            )
    if getattr(agent, "_asyncsessions", None) is not None:
        raise ValueError("a store is attached to this agent already; detach() that one first")
    if getattr(agent, "_db", None) is not None:
        raise ValueError("this agent keeps its turns in the database of db=; make it without one")
    if agent.chat_history:
        raise ValueError(
            f"this agent has a history of {len(agent.chat_history)} messages, which are not this "
            "session's: attach the store before the first turn, or call agent.clear_history()"
        )


def check_sync(store: object, caller: str, otherwise: str = "") -> None:
    """Check that an object is a sync session store.

    Raises:
        TypeError: It is a URL, no store at all, or an async one; says what to give instead.
    """
    if isinstance(store, str):
        raise TypeError(f"{caller} takes a store, not a URL: asyncsessions.sync.open_store(url)")
    for name in _FIVE:
        method = getattr(store, name, None)
        if method is None:
            raise TypeError(f"{type(store).__name__} is no session store: it has no {name}()")
        if inspect.iscoroutinefunction(method):
            raise TypeError(
                f"{caller} takes a sync store, and {type(store).__name__} is an async one: "
                f"give asyncsessions.sync.SyncSessionStore(url){otherwise}"
            )


def check_async(store: object) -> None:
    """Check that an object is an async session store with everything that turns need.

    Raises:
        TypeError: It is a URL, no store at all, or a sync one; says what to give instead.
    """
    if isinstance(store, str):
        raise TypeError("aattach() takes a store, not a URL: asyncsessions.open_store(url)")
    try:
        check_async_store(store)
    except TypeError as exc:
        raise TypeError(f"aattach(): {exc}; a sync store is for attach()") from exc
    for name in ("append", "get_working_history", "update_session_metadata"):
        if not hasattr(store, name):
            raise TypeError(
                f"aattach() takes a store of this library, and {type(store).__name__} has no "
                f"{name}()"
            )


def check_limit(max_messages: int | None) -> None:
    """Check how many messages are to be restored.

    Raises:
        ValueError: It is negative.
    """
    if max_messages is not None and max_messages < 0:
        raise ValueError(f"max_messages={max_messages!r}: give None for all, or 0 or more")


def import_package(name: str, caller: str) -> ModuleType:
    """Import a module of PraisonAI.

    Raises:
        ImportError: It isn't installed; says what to install.
    """
    package = name.partition(".")[0]
    try:
        return importlib.import_module(name)
    except ImportError as exc:
        install = f"{package.replace('_', '-')}=={_TESTED[package]}"
        raise ImportError(f"{caller} needs {package}: pip install '{install}'", name=name) from exc
