"""Branch a conversation, compare the branches, and merge one back: `python branching.py`."""

from __future__ import annotations

import asyncio

from asyncsessions import HierarchicalSessionStore, open_store


async def main():
    async with HierarchicalSessionStore(open_store("jsonl://branching")) as store:
        await store.delete_session("trip")
        await store.add_user_message("trip", "Three days in Lisbon. What should I see?")
        await store.add_assistant_message("trip", "Alfama, Belém, and a day in Sintra.")
        await store.set_state("trip", "nights", 3)

        # What if we stay longer? And what if we go to the coast?
        longer = await store.fork_session("trip", title="Five days")
        coast = await store.fork_session("trip", title="The coast")
        await store.increment_state(longer, "nights", 2)
        await store.add_user_message(longer, "And with five days?")
        await store.add_assistant_message(longer, "Then add Évora and Óbidos.")
        await store.add_user_message(coast, "I'd rather see the sea.")

        tree = await store.get_session_tree("trip")
        print("forks:", [(child.title, child.message_count) for child in tree.children])

        diff = await store.diff(longer, coast)
        print("in common:", diff.common)
        print("five days:", [message.content for message in diff.left])
        print("the coast:", [message.content for message in diff.right])

        # Five days it is: its messages and what it changed come back.
        merged = await store.merge_sessions(longer)
        print("merged:", merged.messages, "conflicts:", merged.conflicts)
        print("nights:", await store.get_state("trip", "nights"))

        # A checkpoint, something that goes wrong, and back.
        before = await store.create_snapshot("trip", label="before booking")
        await store.add_assistant_message("trip", "I have booked twelve hotels.")
        await store.revert_to_snapshot("trip", before)
        print("newest:", (await store.get_messages("trip", limit=1))[0].content)

        for session_id in ("trip", longer, coast):
            await store.delete_session(session_id)


if __name__ == "__main__":
    asyncio.run(main())
