"""Writing an agent's turns, with a sync store or an async one."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from asyncsessions.integrations._praisonai_store import AgentStore
from asyncsessions.integrations._praisonai_turns import Turn, TurnNotStoredError
from asyncsessions.protocols import SessionStore

__all__ = ["AsyncRecorder", "SyncRecorder"]

_logger = logging.getLogger("asyncsessions.integrations.praisonai")


class SyncRecorder:
    """Writes turns with a sync store; those of ``achat`` in a worker thread.

    Args:
        agent: Whose turns they are.
        store: Where to.
        session_id: The session that holds them.
    """

    def __init__(self, agent: Any, store: AgentStore, session_id: str) -> None:
        self._agent = agent
        self._store = store
        self._session_id = session_id

    def check_sync(self) -> None:
        """Accept sync calls."""

    def user_said(self, turn: Turn) -> None:
        """Write the user's message, or start to; what fails is tried again at the end."""
        if turn.is_async:
            loop = asyncio.get_running_loop()
            turn.writing = loop.run_in_executor(None, self._try_user, turn)
        else:
            self._try_user(turn)

    def _try_user(self, turn: Turn) -> None:
        key, messages = turn.unsaved()[0]
        try:
            self._store.write(self._session_id, messages, idempotency_key=key, statistics={})
        except Exception as exc:  # noqa: BLE001  # it is tried again at the end
            _logger.warning("the user's message is not stored yet: %s", exc)
        else:
            turn.is_user_stored = True

    def finish(self, turn: Turn) -> None:
        """Write what is missing of a turn, and the agent's statistics with it.

        Raises:
            TurnNotStoredError: The store refused.
        """
        batches = turn.unsaved()
        statistics = statistics_of(self._agent)
        try:
            while batches:
                key, messages = batches[0]
                given = statistics if len(batches) == 1 else {}
                self._store.write(self._session_id, messages, idempotency_key=key, statistics=given)
                del batches[0]
        except Exception as exc:
            raise TurnNotStoredError(self._session_id, batches) from exc

    async def afinish(self, turn: Turn) -> None:
        """Do as `finish` does, without blocking the event loop."""
        if turn.writing is not None:
            await asyncio.wait([turn.writing])  # Also where the end of the loop cancelled it.
        await asyncio.to_thread(self.finish, turn)

    def close(self) -> None:
        """Write the statistics that wait."""
        self._store.close()


class AsyncRecorder:
    """Writes turns with an async store.

    Args:
        agent: Whose turns they are.
        store: Where to.
        session_id: The session that holds them.
    """

    def __init__(self, agent: Any, store: SessionStore, session_id: str) -> None:
        self._agent = agent
        self._store = store
        self._session_id = session_id
        self._written: dict[str, Any] = {}

    def check_sync(self) -> None:
        """Refuse sync calls, which would block the store's event loop or wait for it forever.

        Raises:
            TypeError: Always.
        """
        raise TypeError(
            "this agent is attached to an async store: await agent.achat() or agent.astart(); "
            "for chat() and start(), attach() a sync store"
        )

    def user_said(self, turn: Turn) -> None:
        """Start to write the user's message, while the model thinks."""
        turn.writing = asyncio.get_running_loop().create_task(self._try_user(turn))

    async def _try_user(self, turn: Turn) -> None:
        key, messages = turn.unsaved()[0]
        try:
            await self._store.append(self._session_id, messages, idempotency_key=key)
        except Exception as exc:  # noqa: BLE001  # it is tried again at the end
            _logger.warning("the user's message is not stored yet: %s", exc)
        else:
            turn.is_user_stored = True

    def finish(self, turn: Turn) -> None:
        """Do nothing: `check_sync` refused the turn."""

    async def afinish(self, turn: Turn) -> None:
        """Write what is missing of a turn, and the agent's statistics at the same time.

        Raises:
            TurnNotStoredError: The store refused.
        """
        if turn.writing is not None:
            await asyncio.wait([turn.writing])  # Also where the end of the loop cancelled it.
        batches = turn.unsaved()
        if batches:
            await asyncio.gather(self._append(batches), self._update_statistics())

    async def _append(self, batches: list[tuple[str, list[dict[str, Any]]]]) -> None:
        try:
            while batches:
                key, messages = batches[0]
                await self._store.append(self._session_id, messages, idempotency_key=key)
                del batches[0]
        except Exception as exc:
            raise TurnNotStoredError(self._session_id, batches) from exc

    async def _update_statistics(self) -> None:
        fields = statistics_of(self._agent)
        changed = {key: value for key, value in fields.items() if self._written.get(key) != value}
        if not changed:
            return
        try:
            await self._store.update_session_metadata(self._session_id, **changed)
        except Exception as exc:  # noqa: BLE001  # the conversation is what counts
            _logger.warning("an agent's statistics wait for its next turn: %s", exc)
        else:
            self._written |= changed


def statistics_of(agent: Any) -> dict[str, Any]:
    """Return what PraisonAI's agents keep of themselves in a session's metadata."""
    summary = getattr(agent, "cost_summary", None) or {}
    llm = getattr(agent, "llm", None)
    fields = {
        "model": None if llm is None else str(llm),
        "total_tokens": summary.get("tokens_in", 0) + summary.get("tokens_out", 0),
        "cost": summary.get("cost", 0),
        "source": getattr(agent, "_session_source", "chat"),
        "agent_id": getattr(agent, "agent_id", None) or getattr(agent, "_agent_id", None),
    }
    return {key: value for key, value in fields.items() if value is not None}
