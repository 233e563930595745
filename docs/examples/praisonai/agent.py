"""A sync agent that goes on where it stopped, on any store."""

from __future__ import annotations

import os

from praisonaiagents import Agent

from asyncsessions.integrations.praisonai import attach
from asyncsessions.sync import open_store


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


with open_store(os.environ.get("SESSIONS_URL", "json://sessions")) as store:
    agent = Agent(name="Ada", instructions="Help with sums.", tools=[add], output="silent")
    with attach(agent, store, "ann@example.org"):
        print(agent.chat("What is 2 + 3?"))
    print(len(store.get_messages("ann@example.org")), "messages are stored")
