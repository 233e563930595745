"""Reports of what can't be stored or read, to the hooks of PraisonAI that wait for them."""

from __future__ import annotations

import importlib
import logging
import os
import sys
from typing import Any, NamedTuple

from anyio import to_thread

from asyncsessions.sync.records import iso_now

__all__ = ["Failure", "report"]

logger: logging.Logger = logging.getLogger("asyncsessions.sync")

_HOOKS = "praisonaiagents.hooks"


class Failure(NamedTuple):
    """A message that could not be stored, or a session that could not be read.

    Attributes:
        session_id: The session.
        error: What happened.
        path: Where the message, or the damaged document, was put aside; None where it wasn't.
        role: The message's.
        content: The message's.
    """

    session_id: str
    error: str
    path: str | None = None
    role: str = ""
    content: Any = ""


async def report(failure: Failure) -> None:
    """Let the hooks for ``SESSION_PERSIST_FAILED`` know, and wait for them.

    They run in a thread, so they may call sync stores. What they raise is logged. Without
    PraisonAI, or without such hooks, this does nothing.
    """
    registry = sys.modules.get(f"{_HOOKS}.registry")
    if registry is not None:  # Else nobody can have registered a hook.
        await to_thread.run_sync(_run_hooks, registry.get_default_registry(), failure)


def _run_hooks(registry: Any, failure: Failure) -> None:
    try:
        event = importlib.import_module(f"{_HOOKS}.types").HookEvent.SESSION_PERSIST_FAILED
        if not registry.has_hooks(event):
            return
        make = importlib.import_module(f"{_HOOKS}.events").SessionPersistFailedInput
        given = make(
            session_id=failure.session_id,
            cwd=os.getcwd(),  # noqa: PTH109  # as text
            event_name=event.value,
            timestamp=iso_now(),
            role=failure.role,
            content=failure.content,
            error=failure.error,
            spilled=failure.path is not None,
            spill_path=failure.path,
        )
        importlib.import_module(f"{_HOOKS}.runner").HookRunner(registry).execute_sync(event, given)
    except Exception as exc:  # noqa: BLE001  # whatever a hook does, the store goes on
        logger.warning("PraisonAI's hooks for failures failed: %s", type(exc).__name__)
