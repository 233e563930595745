"""Two conversations at the same time, each with an agent of its own, on one async store."""

from __future__ import annotations

import asyncio
import os

from praisonaiagents import Agent

from asyncsessions import open_store
from asyncsessions.integrations.praisonai import aattach


async def main():
    async with open_store(os.environ.get("SESSIONS_URL", "json://sessions")) as store:

        async def converse(user: str, text: str) -> None:
            agent = Agent(name="Ada", instructions="Be brief.", output="silent")
            with await aattach(agent, store, user):
                print(user, await agent.achat(text))

        await asyncio.gather(converse("ann", "Hello"), converse("bob", "Good evening"))
        for user in ("ann", "bob"):
            print(user, len(await store.get_messages(user)))


asyncio.run(main())
