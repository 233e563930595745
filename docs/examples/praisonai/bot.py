"""One of several workers that serve the same users; run it as often as you like."""

from __future__ import annotations

import asyncio
import os
import sys

from praisonaiagents import Agent

from asyncsessions.integrations.praisonai import bot_sessions
from asyncsessions.sync import open_store


async def main(*texts: str) -> None:
    with open_store(os.environ.get("SESSIONS_URL", "json://sessions")) as store:
        sessions = bot_sessions(store, platform="telegram", max_history=20)
        agent = Agent(name="Ada", instructions="Be brief.", output="silent")
        for text in texts:
            print(await sessions.chat(agent, "ann", text))


asyncio.run(main(*sys.argv[1:]))
