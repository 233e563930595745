"""PraisonAI's agents and bots on any store.

`attach` gives an agent a sync store, `aattach` an async one, `use_as_default` gives a store to
every agent of the process, and `bot_sessions` keeps the histories of a bot. Written for
praisonaiagents 1.7.17 and praisonai-bot 0.1.16; nothing of them is imported before it is needed.
"""

from __future__ import annotations

from typing import Any

from asyncsessions.integrations._praisonai_agents import Attachment
from asyncsessions.integrations._praisonai_bots import attach_bot, bot_sessions
from asyncsessions.integrations._praisonai_checks import (
    check_agent,
    check_async,
    check_limit,
    check_sync,
)
from asyncsessions.integrations._praisonai_default import DefaultStore, use_as_default
from asyncsessions.integrations._praisonai_recorders import AsyncRecorder, SyncRecorder
from asyncsessions.integrations._praisonai_store import AgentStore
from asyncsessions.integrations._praisonai_turns import TurnNotStoredError
from asyncsessions.protocols import SessionStore

__all__ = [
    "AgentStore",
    "Attachment",
    "DefaultStore",
    "TurnNotStoredError",
    "aattach",
    "attach",
    "attach_bot",
    "bot_sessions",
    "use_as_default",
]

# More messages than any session has, but a number that every server takes.
_ALL = 2**31 - 1


def attach(
    agent: Any, store: Any, session_id: str, *, max_messages: int | None = 100
) -> Attachment:
    """Let an agent go on with a session, and store its turns there from now on.

    The agent starts with the session's newest messages, tool calls and results included. The
    user's message is stored before the model is asked; the finished tool calls, the reply and the
    agent's statistics follow together. A turn that fails or is interrupted keeps the user's
    message and the tool calls that have a result. All this also holds for ``achat``, which writes
    in a worker thread. Streams (``iter_stream``) are stored as PraisonAI does it.

    Args:
        agent: A PraisonAI ``Agent`` that has no history yet.
        store: A `SyncSessionStore`, a ``DefaultSessionStore`` (this library's or PraisonAI's), or
            any store with their methods. It stays yours to close.
        session_id: The session; it is created if needed.
        max_messages: How many messages the agent starts with at most; None is all.

    Returns:
        The attachment; its ``detach`` ends it, as the end of a ``with`` does.

    Raises:
        TypeError: It is no agent, or the store isn't a sync one; says what to give.
        ValueError: The agent has a history, a database or another store already.
        SessionStoreError: The store refused to read or write. Later failures raise
            `TurnNotStoredError` out of ``chat``.
    """
    check_agent(agent)
    check_sync(store, "attach()", ", or await aattach() for achat() and astart()")
    check_limit(max_messages)
    wrapped = AgentStore(store)
    try:
        history = _newest(wrapped, session_id, max_messages)
        if hasattr(store, "set_agent_info"):
            store.set_agent_info(session_id, agent_name=agent.name, user_id=agent.user_id)
    except BaseException:
        wrapped.close()
        raise
    recorder = SyncRecorder(agent, wrapped, session_id)
    return Attachment(agent, session_id, recorder, wrapped, history)


def _newest(store: AgentStore, session_id: str, max_messages: int | None) -> list[dict[str, Any]]:
    # PraisonAI's stores take 0 and None for as many as they have set.
    if max_messages == 0:
        return []
    return store.get_working_history(session_id, _ALL if max_messages is None else max_messages)


async def aattach(
    agent: Any, store: SessionStore, session_id: str, *, max_messages: int | None = 100
) -> Attachment:
    """Let an agent's ``achat`` and ``astart`` go on with a session, and store their turns there.

    As `attach` does it, on the event loop and without blocking it: the user's message is written
    while the model thinks. A cancelled turn is stored before the cancellation goes on. ``chat``
    and the other sync methods raise TypeError meanwhile.

    Args:
        agent: A PraisonAI ``Agent`` that has no history yet.
        store: An async store of this library; it stays yours to close.
        session_id: The session; it is created if needed.
        max_messages: How many messages the agent starts with at most; None is all.

    Returns:
        The attachment; its ``detach`` ends it, as the end of a ``with`` does.

    Raises:
        TypeError: It is no agent, or the store isn't an async one; says what to give.
        ValueError: The agent has a history, a database or another store already.
        SessionStoreError: The store refused to read or write. Later failures raise
            `TurnNotStoredError` out of ``achat``.
    """
    check_agent(agent)
    check_async(store)
    check_limit(max_messages)
    history = await store.get_working_history(session_id, max_messages)
    await store.set_agent_info(session_id, agent.name, agent.user_id)
    check_agent(agent)  # It may have started to talk meanwhile.
    recorder = AsyncRecorder(agent, store, session_id)
    return Attachment(agent, session_id, recorder, None, history)
