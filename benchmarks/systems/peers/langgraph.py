"""The checkpoints of LangGraph on PostgreSQL, with the history as a graph's messages."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Annotated, Any, TypedDict

from benchmarks.payload import METADATA, TEXT
from benchmarks.systems.contender import SLOW, Contender

__all__ = ["POSTGRES"]

_CONNECTIONS = 10


class Threads:
    """One thread of a graph for each session id."""

    def __init__(self, graph: Any) -> None:
        self._graph = graph

    async def append(self, session_id: str, text: str) -> None:
        await self._add(session_id, [_message(text)])

    async def _add(self, session_id: str, messages: list[object]) -> None:
        await self._graph.aupdate_state(_config(session_id), {"messages": messages})

    async def tail(self, session_id: str, count: int) -> Sequence[object]:
        return (await self._messages(session_id))[-count:]

    async def _messages(self, session_id: str) -> list[object]:
        state = await self._graph.aget_state(_config(session_id))
        messages: list[object] = state.values.get("messages", [])
        return messages

    async def set_state(self, session_id: str, step: int) -> None:
        await self._graph.aupdate_state(_config(session_id), {"step": step})

    async def fill(self, session_id: str, count: int) -> None:
        await self._add(session_id, [_message(TEXT) for _ in range(count)])

    async def count(self, session_ids: Sequence[str]) -> int:
        return sum([len(await self._messages(each)) for each in session_ids])


def _config(session_id: str) -> dict[str, dict[str, str]]:
    return {"configurable": {"thread_id": session_id}}


def _message(text: str) -> object:
    from langchain_core.messages import HumanMessage

    return HumanMessage(text, additional_kwargs=METADATA)


def _merged(messages: list[Any], added: list[Any]) -> Any:
    from langgraph.graph import add_messages

    return add_messages(messages, added)


class _State(TypedDict):
    messages: Annotated[list[Any], _merged]
    step: int


def _graph(saver: Any) -> Any:
    """Return a graph of one node that does nothing."""
    from langgraph.graph import START, StateGraph

    graph = StateGraph(_State)
    graph.add_node("chat", lambda _: {})
    graph.add_edge(START, "chat")
    return graph.compile(checkpointer=saver)


@asynccontextmanager
async def _postgres(url: str) -> AsyncIterator[Threads]:
    from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
    from psycopg.rows import dict_row
    from psycopg_pool import AsyncConnectionPool

    settings = {"autocommit": True, "prepare_threshold": 0, "row_factory": dict_row}
    # The type of its rows follows from the settings, which no checker can tell.
    pool: Any = AsyncConnectionPool(url, max_size=_CONNECTIONS, kwargs=settings, open=False)
    async with pool:
        saver = AsyncPostgresSaver(pool)
        await saver.setup()
        yield Threads(_graph(saver))


POSTGRES = Contender(
    "LangGraph AsyncPostgresSaver",
    "peer",
    _postgres,
    ("langgraph", "langgraph-checkpoint-postgres", "psycopg-pool"),
    note=f"On psycopg's pool, {_CONNECTIONS} at most, as its documentation shows. Each append and"
    " each change of state reads the newest checkpoint and writes another with the whole history."
    " Nothing guards it: of callers who append at the same time one wins, and so its rate there"
    " compares with nothing. Has no numbers. Measured with up to 64 callers.",
    longest=1_000,
    most_callers=64,
    without=SLOW,
)
