"""Print the file of a short session, to show the format: it is docs/examples/session_file.jsonl."""

from __future__ import annotations

import asyncio
import itertools
import tempfile
from pathlib import Path

from asyncsessions import JSONLinesSessionStore


async def write(directory: str) -> None:
    seconds = itertools.count(1_767_225_600)
    store = JSONLinesSessionStore(directory, clock=lambda: float(next(seconds)))
    async with store:
        await store.add_message("chat-1", "user", "Hello", idempotency_key="update-1")
        await store.add_message("chat-1", "assistant", "Hi! What can I do for you?")
        await store.set_agent_info("chat-1", agent_name="travel-bot", user_id="ann")
        await store.add_message("chat-1", "user", "Nothing, tanks")
        await store.pop_message("chat-1")
        await store.add_message("chat-1", "user", "Nothing, thanks")


def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        asyncio.run(write(directory))
        print(Path(directory, "chat-1.jsonl").read_text(encoding="utf-8"), end="")


if __name__ == "__main__":
    main()
