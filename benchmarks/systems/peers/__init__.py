"""Other projects' classes for keeping conversations, each used as its documentation recommends.

A module here imports its project where it opens it, so that the list can be made without any of
them installed; the dependency group ``peers`` has them all.

Left out: langchain-redis and LangGraph's Redis saver, which a Redis without RediSearch can't run;
ADK's Redis service, which writes the whole session by each append and begins again where another
caller did so: 64 callers on one session append some two messages a second.
"""

from __future__ import annotations

from benchmarks.systems.contender import Contender
from benchmarks.systems.peers import (
    aiogram,
    google_adk,
    langchain,
    langgraph,
    openai_agents,
    praisonai,
)

__all__ = ["PEERS"]

PEERS: dict[str, tuple[Contender, ...]] = {
    "jsonl": (openai_agents.SQLITE, google_adk.SQLITE, praisonai.SQLITE),
    "json": (praisonai.JSON, praisonai.INDEXED),
    "redis": (openai_agents.REDIS, langchain.REDIS, aiogram.REDIS),
    "postgres": (
        openai_agents.POSTGRES,
        google_adk.POSTGRES,
        langchain.POSTGRES,
        langgraph.POSTGRES,
    ),
    "mongo": (openai_agents.MONGO, google_adk.MONGO, langchain.MONGO, aiogram.MONGO),
}
"""By where messages are kept. Beside JSON Lines stand those that write to a SQLite file, which is
the same promise: embedded, and synced before an append returns."""
