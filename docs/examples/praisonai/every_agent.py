"""One store for all agents of a process that have a session id."""

from __future__ import annotations

import os

from praisonaiagents import Agent, MemoryConfig

from asyncsessions.integrations.praisonai import use_as_default
from asyncsessions.sync import open_store

with (
    open_store(os.environ.get("SESSIONS_URL", "json://sessions")) as store,
    use_as_default(store),
):
    for name in ("Ada", "Bob"):
        agent = Agent(name=name, memory=MemoryConfig(session_id=f"about-{name}"), output="silent")
        agent.chat("Who are you?")
    print(sorted(session.session_id for session in store.recent()))
