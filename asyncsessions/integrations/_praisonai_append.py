"""Appending to whatever sync store an application has."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from asyncsessions.errors import StoreUnavailableError

__all__ = ["append", "refused", "takes_tool_fields"]


def append(
    store: Any, session_id: str, messages: Sequence[Mapping[str, Any]], *, idempotency_key: str
) -> None:
    """Append messages to a sync store: at once where it has ``append``, else one by one.

    Args:
        store: A `SyncSessionStore`, or a store with PraisonAI's API.
        session_id: The session.
        messages: As a model API takes them, oldest first; none stores nothing.
        idempotency_key: Makes a repetition harmless, where the store has ``append``.

    Raises:
        StoreUnavailableError: The store returned False.
    """
    if not messages:
        return
    if hasattr(store, "append"):
        store.append(session_id, messages, idempotency_key=idempotency_key)
        return
    names = ["metadata"]
    if takes_tool_fields(store.add_message):
        names += ["tool_calls", "tool_call_id"]
    for message in messages:
        fields = {name: message[name] for name in names if message.get(name)}
        content = message.get("content")
        if store.add_message(session_id, message["role"], content, **fields) is False:
            raise refused(store, session_id)


def refused(store: object, session_id: str) -> StoreUnavailableError:
    """Return the error for a store that returned False, as PraisonAI's own does."""
    text = f"{type(store).__name__} could not write to session {session_id!r}; see its log"
    return StoreUnavailableError(text, session_id=session_id)


def takes_tool_fields(add_message: Any) -> bool:
    """Return whether a store's ``add_message`` takes ``tool_calls`` and ``tool_call_id``."""
    parameters = inspect.signature(add_message).parameters
    has_any = any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters.values())
    return has_any or {"tool_calls", "tool_call_id"} <= parameters.keys()
