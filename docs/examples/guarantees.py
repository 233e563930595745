"""Retries, conflicts and streaming: the guarantees as a caller meets them."""

from __future__ import annotations

import asyncio

from asyncsessions import IdempotencyConflictError, Message, VersionConflictError, open_store


async def main() -> None:
    async with open_store("jsonl://sessions?max_messages=1000") as store:
        # --8<-- [start:idempotency]
        order = [Message("user", "Two tickets to Oslo, please.")]
        first = await store.append("chat-2", order, idempotency_key="telegram-update-4711")
        again = await store.append("chat-2", order, idempotency_key="telegram-update-4711")
        assert again == first  # Stored once; the retry gets the first result.

        try:
            other = [Message("user", "Make that three.")]
            await store.append("chat-2", other, idempotency_key="telegram-update-4711")
        except IdempotencyConflictError:
            pass  # The key stands for the first message. Nothing was written.
        # --8<-- [end:idempotency]

        # --8<-- [start:expected]
        seen = first[-1].seq
        await store.add_user_message("chat-2", "Window seats!")  # From another worker, meanwhile.
        try:
            reply = Message("assistant", "Booked.")
            await store.append("chat-2", [reply], expected_seq=seen)
        except VersionConflictError as conflict:
            missed = [message.content for message in conflict.messages]
            assert missed == ["Window seats!"]  # Think again, then answer all of it.
            reply = Message("assistant", "Booked, with window seats.")
            await store.append("chat-2", [reply], expected_seq=conflict.last_seq)
        # --8<-- [end:expected]

        # --8<-- [start:streaming]
        text = ""
        for piece in ("Have ", "a nice ", "trip."):
            text += piece
            await store.upsert_partial_assistant_message("chat-2", text)
        await store.upsert_partial_assistant_message("chat-2", text, finalize=True)
        # --8<-- [end:streaming]
        (newest,) = await store.get_messages("chat-2", limit=1)
        assert (newest.seq, newest.content) == (4, "Have a nice trip.")

        # --8<-- [start:compaction]
        seen = await store.get_messages("chat-2")
        summary = "Ann booked two window seats to Oslo."  # A model may take its time for this.
        await store.append_compaction_checkpoint("chat-2", summary, seq=seen[-1].seq)
        await store.add_user_message("chat-2", "And a hotel?")
        working = await store.get_working_history("chat-2")
        assert [message["role"] for message in working] == ["system", "user"]
        assert len(await store.get_chat_history("chat-2")) == 5  # Nothing was removed.
        # --8<-- [end:compaction]

        # --8<-- [start:expiry]
        await store.expire_session("chat-2", 0)
        assert not await store.session_exists("chat-2")  # Invisible at once.
        assert await store.purge_expired() == 1  # And now its file is gone, too.
        # --8<-- [end:expiry]


if __name__ == "__main__":
    asyncio.run(main())
