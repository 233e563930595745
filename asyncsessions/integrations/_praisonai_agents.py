"""Attaching a store to an agent, and the end of it."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

from asyncsessions.integrations._praisonai_methods import Recorder, attached_class

__all__ = ["Attachment"]

# Of an attribute that an agent doesn't have.
_ABSENT: Any = object()


class Attachment:
    """A store that is attached to an agent, until `detach`.

    Args:
        agent: The agent.
        session_id: The session that holds its turns.
        recorder: Writes them.
        store: What the agent itself gets as its store.
        history: What it starts with.
    """

    def __init__(
        self,
        agent: Any,
        session_id: str,
        recorder: Recorder,
        store: Any,
        history: list[dict[str, Any]],
    ) -> None:
        self.session_id = session_id
        self._agent = agent
        self.recorder = recorder
        self._class = type(agent)
        # The history is in chat_history now: injected or saved by the agent it would come twice.
        auto_save = getattr(agent, "auto_save", None)
        changes = {
            "_session_id": session_id,
            "_history_session_id": session_id,
            "_session_store": store,
            "_session_store_initialized": True,
            "_history_enabled": False,
            "_auto_save_last_index": len(history),
            "auto_save": None if auto_save == session_id else auto_save,
            "_asyncsessions": self,
            "_asyncsessions_said": None,
        }
        self._before = {name: agent.__dict__.get(name, _ABSENT) for name in changes}
        agent.chat_history[:] = history
        agent.__dict__.update(changes)
        agent.__class__ = attached_class(self._class)

    def __deepcopy__(self, memo: dict[int, Any]) -> None:
        """Return None: a copy of the agent has nothing attached."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.detach()

    def detach(self) -> None:
        """Make the agent what it was, but for its history, and write what still waits.

        Doing it again does nothing. The store stays open.
        """
        agent, before = self._agent, self._before
        self._before = {}
        if not before:
            return
        agent.__class__ = self._class
        for name, value in before.items():
            if value is _ABSENT:
                agent.__dict__.pop(name, None)
            else:
                agent.__dict__[name] = value
        close = getattr(self.recorder, "close", None)
        if close is not None:
            close()
