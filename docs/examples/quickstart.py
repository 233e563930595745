"""The main things that a chat bot does with a store."""

from __future__ import annotations

import asyncio

from asyncsessions import open_store


async def main() -> None:
    async with open_store("jsonl://sessions") as store:
        # --8<-- [start:append]
        await store.add_user_message("chat-1", "What is the weather in Oslo?")
        await store.append(
            "chat-1",
            [
                {
                    "role": "assistant",
                    "content": None,
                    "tool_calls": [{"id": "call-1", "function": {"name": "weather"}}],
                },
                {"role": "tool", "content": "3 degrees, rain", "tool_call_id": "call-1"},
                {"role": "assistant", "content": "It rains, at 3 degrees."},
            ],
        )
        # --8<-- [end:append]

        # --8<-- [start:read]
        history = await store.get_chat_history("chat-1", max_messages=20)
        assert history[0] == {"role": "user", "content": "What is the weather in Oslo?"}
        # --8<-- [end:read]
        assert len(history) == 4

        # --8<-- [start:page]
        page = await store.get_messages("chat-1", limit=2)
        older = await store.get_messages("chat-1", limit=2, before=page[0].seq)
        assert [message.seq for message in older + page] == [1, 2, 3, 4]
        # --8<-- [end:page]

        # --8<-- [start:state]
        await store.set_agent_info("chat-1", agent_name="weather-bot", user_id="ann")
        await store.set_state("chat-1", "language", "en")
        turns = await store.increment_state("chat-1", "turns")
        # --8<-- [end:state]
        assert turns == 1

        # --8<-- [start:find]
        sessions = await store.list_sessions(10, user_id="ann")
        hits = await store.search("weather oslo")
        # --8<-- [end:find]
        assert sessions[0].session_id == hits[0].session_id == "chat-1"

        # --8<-- [start:remove]
        assert await store.clear_session("chat-1")  # The messages go; metadata and state stay.
        assert await store.delete_session("chat-1")  # Everything goes.
        assert not await store.session_exists("chat-1")
        # --8<-- [end:remove]


if __name__ == "__main__":
    asyncio.run(main())
