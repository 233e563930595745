"""Cases of reading: limits, paging by ``seq``, windows, working history."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest

from asyncsessions.models import Message, SessionData
from asyncsessions.protocols import SessionStore
from asyncsessions.testing._cases import (
    START,
    ManualClock,
    StoreCases,
    fill,
    result,
    seqs,
    texts,
    tool_call,
    trying,
    user,
)

__all__ = ["ReadCases", "WindowCases", "answers_without_call"]


def answers_without_call(history: list[dict[str, Any]]) -> list[str]:
    """Return the ids that a chat history answers without having asked."""
    called: set[str] = set()
    orphans = []
    for message in history:
        called.update(each["id"] for each in message.get("tool_calls", ()))
        parts = message["content"] if isinstance(message["content"], list) else []
        called.update(part["id"] for part in parts if part["type"] == "tool_use")
        answered = [part["tool_use_id"] for part in parts if part["type"] == "tool_result"]
        answered += [message["tool_call_id"]] if "tool_call_id" in message else []
        orphans += [each for each in answered if each not in called]
    return orphans


class ReadCases(StoreCases):
    """What reads return, and how limits and bounds count."""

    async def test_absent_session_reads_as_empty(self, store: SessionStore) -> None:
        assert await store.session_exists("s") is False
        assert await store.get_chat_history("s") == []
        assert await store.get_messages("s") == []
        assert await store.get_working_history("s") == []
        assert await store.window("s") == []
        assert [message async for message in store.iter_messages("s")] == []
        assert await store.get_session("s") == SessionData(session_id="s")
        assert await store.list_sessions() == []

    async def test_limit_keeps_the_newest(self, store: SessionStore) -> None:
        stored = await fill(store, "s", 10)
        for limit in (None, 0, 1, 3, 10, 11, 10_000):
            with trying(limit):
                expected = stored if limit is None else stored[max(0, 10 - limit) :]
                chat = [message.to_chat() for message in expected]
                assert await store.get_messages("s", limit=limit) == expected
                assert await store.get_chat_history("s", limit) == chat
                assert await store.get_chat_history("s", max_messages=limit) == chat
                assert await store.get_working_history("s", limit) == chat
                assert (await store.get_session("s", max_messages=limit)).messages == expected

    async def test_bad_limits_are_refused(self, store: SessionStore) -> None:
        await fill(store, "s", 3)
        bad: Any
        for bad in (-1, 1.5, True, "1"):
            for name in ("limit", "before", "after"):
                with pytest.raises(ValueError, match=name):
                    await store.get_messages("s", **{name: bad})
            with pytest.raises(ValueError, match="max_messages"):
                await store.get_chat_history("s", bad)
            with pytest.raises(ValueError, match="max_messages"):
                await store.get_working_history("s", bad)
            with pytest.raises(ValueError, match="max_messages"):
                await store.get_session("s", max_messages=bad)
            with pytest.raises(ValueError, match="window"):
                await store.window("s", 2, window=bad)

    async def test_bounds_are_exclusive(self, store: SessionStore) -> None:
        stored = await fill(store, "s", 12)
        for before, after in product((None, 0, 1, 2, 7, 12, 99), (None, 0, 1, 4, 11, 12, 99)):
            with trying({"before": before, "after": after}):
                low = after or 0
                high = 13 if before is None else before
                inside = [message for message in stored if low < message.seq < high]
                assert await store.get_messages("s", before=before, after=after) == inside
                read = await store.get_messages("s", before=before, after=after, limit=3)
                # With `after` alone the oldest are kept, so that forward paging leaves no gap.
                keeps_oldest = after is not None and before is None
                assert read == (inside[:3] if keeps_oldest else inside[-3:])

    async def test_paging_forward_and_back_leaves_no_gap(self, store: SessionStore) -> None:
        stored = await fill(store, "s", 20)
        for size in (1, 3, 7):
            with trying(size):
                forward: list[Message] = []
                seq = 0
                while page := await store.get_messages("s", limit=size, after=seq):
                    forward += page
                    seq = page[-1].seq
                assert forward == stored
                back: list[Message] = []
                seq = 21
                while page := await store.get_messages("s", limit=size, before=seq):
                    back = page + back
                    seq = page[0].seq
                assert back == stored

    async def test_paging_goes_on_over_removed_messages(self, store: SessionStore) -> None:
        await fill(store, "s", 4)
        await store.pop_message("s")
        await store.pop_message("s")
        await fill(store, "s", 3)
        assert seqs(await store.get_messages("s")) == [1, 2, 5, 6, 7]
        assert seqs(await store.get_messages("s", after=1, limit=2)) == [2, 5]
        assert seqs(await store.get_messages("s", before=6, limit=2)) == [2, 5]
        assert seqs(await store.get_messages("s", after=2, before=5)) == []

    async def test_iter_messages_reads_long_sessions(self, store: SessionStore) -> None:
        stored = await fill(store, "s", 2600)
        assert [message async for message in store.iter_messages("s")] == stored
        some = [message.seq async for message in store.iter_messages("s", after=990, before=2101)]
        assert some == list(range(991, 2101))

    async def test_iter_messages_sees_later_appends(self, store: SessionStore) -> None:
        await fill(store, "s", 3)
        seen = []
        async for message in store.iter_messages("s"):
            if message.seq == 1:
                await store.add_message("s", "user", "late")
            seen.append(message.content)
        assert seen == ["m1", "m2", "m3", "late"]

    async def test_iter_messages_can_be_left_early(self, store: SessionStore) -> None:
        await fill(store, "s", 5)
        async for message in store.iter_messages("s"):
            if message.seq == 2:
                break
        await store.add_message("s", "user", "still usable")
        assert len(await store.get_messages("s")) == 6

    async def test_get_session_returns_the_whole_record(self, clock: ManualClock) -> None:
        async with self.make_store(clock=clock) as store:
            stored = await fill(store, "s", 3)
            clock.advance(10)
            await store.set_agent_info("s", "agent", "ada")
            await store.set_gateway_info("s", "gate-1", "agent-1")
            await store.update_session_metadata("s", topic="x")
            await store.set_state("s", "k", [1])
            assert await store.get_session("s") == SessionData(
                session_id="s",
                created_at=START,
                updated_at=START + 10,
                last_seq=3,
                message_count=3,
                agent_name="agent",
                user_id="ada",
                agent_id="agent-1",
                gateway_session_id="gate-1",
                metadata={"topic": "x"},
                state={"k": [1]},
                messages=stored,
            )

    async def test_reads_write_nothing(self, clock: ManualClock) -> None:
        async with self.make_store(clock=clock, ttl_seconds=100) as store:
            await fill(store, "s", 3)
            before = await store.get_session("s")
            clock.advance(50)
            await store.get_chat_history("s")
            await store.get_state("s")
            await store.search("m1")
            await store.export_session("s")
            assert await store.get_session("s") == before


class WindowCases(StoreCases):
    """Windows that keep tool calls with their results, and what a model should see."""

    async def test_no_history_answers_a_call_that_it_lacks(self, store: SessionStore) -> None:
        for n in range(4):
            calls = tool_call(f"a{n}")["tool_calls"] + tool_call(f"b{n}")["tool_calls"]
            turn = {"role": "assistant", "content": None, "tool_calls": calls}
            answers = [result(f"a{n}"), result(f"b{n}")]
            await store.append("s", [user("?"), turn, *answers, user("!")])
        for limit in range(1, 22):
            history = await store.get_chat_history("s", limit)
            assert answers_without_call(history) == [], f"with max_messages={limit}"
            assert len(history) >= limit - 2
            assert history[-1] == user("!")

    async def test_content_parts_are_pairs_too(self, store: SessionStore) -> None:
        for n in range(3):
            use = {"type": "tool_use", "id": f"u{n}", "name": "look_up", "input": {}}
            answer = {"type": "tool_result", "tool_use_id": f"u{n}", "content": "42"}
            turns = [user("?"), {"role": "assistant", "content": [use]}]
            await store.append("s", [*turns, {"role": "user", "content": [answer]}])
        for limit in range(1, 10):
            history = await store.get_chat_history("s", limit)
            assert answers_without_call(history) == [], f"with max_messages={limit}"

    async def test_get_messages_returns_what_is_stored(self, store: SessionStore) -> None:
        stored = await store.append("s", [user("?"), tool_call("c"), result("c")])
        assert await store.get_messages("s", limit=1) == stored[2:]

    async def test_window_is_around_a_message(self, store: SessionStore) -> None:
        await fill(store, "s", 20)
        assert seqs(await store.window("s", 10, window=2)) == [8, 9, 10, 11, 12]
        assert seqs(await store.window("s", 1, window=2)) == [1, 2, 3]
        assert seqs(await store.window("s", 20, window=2)) == [18, 19, 20]
        assert seqs(await store.window("s", 10, window=0)) == [10]
        assert seqs(await store.window("s", window=3)) == [17, 18, 19, 20]
        assert seqs(await store.window("s", 10)) == list(range(5, 16))

    async def test_checkpoint_stands_for_older_messages(self, store: SessionStore) -> None:
        await fill(store, "s", 5)
        assert await store.get_working_history("s") == await store.get_chat_history("s")
        assert await store.append_compaction_checkpoint("s", "so far") is True
        await store.append("s", [user("a"), user("b")])
        summary = {"role": "system", "content": "so far"}
        assert await store.get_working_history("s") == [summary, user("a"), user("b")]
        assert await store.get_working_history("s", 1) == [summary, user("b")]
        assert await store.get_working_history("s", 0) == [summary]
        assert len(await store.get_chat_history("s")) == 7

    async def test_checkpoint_keeps_what_it_was_given(self, clock: ManualClock) -> None:
        async with self.make_store(clock=clock) as store:
            await fill(store, "s", 5)
            await store.append_compaction_checkpoint(
                "s",
                "so far",
                role="user",
                tokens_before=900,
                tokens_after=40,
                metadata={"model": "m"},
                seq=3,
            )
            checkpoint = (await store.get_session("s")).checkpoint
            assert checkpoint is not None
            assert (checkpoint.summary, checkpoint.seq, checkpoint.role) == ("so far", 3, "user")
            assert (checkpoint.tokens_before, checkpoint.tokens_after) == (900, 40)
            assert (checkpoint.timestamp, checkpoint.metadata) == (START, {"model": "m"})
            history = await store.get_working_history("s")
            assert texts(await store.get_messages("s", after=3)) == ["m4", "m5"]
            assert history == [user("so far"), user("m4"), user("m5")]

    async def test_newest_checkpoint_counts(self, store: SessionStore) -> None:
        await fill(store, "s", 2)
        await store.append_compaction_checkpoint("s", "first")
        await store.add_message("s", "user", "x")
        await store.append_compaction_checkpoint("s", "second")
        summary = {"role": "system", "content": "second"}
        assert await store.get_working_history("s") == [summary]

    async def test_working_history_is_pair_safe(self, store: SessionStore) -> None:
        await store.append("s", [user("?"), tool_call("c"), result("c"), user("next")])
        await store.append_compaction_checkpoint("s", "so far", seq=2)
        summary = {"role": "system", "content": "so far"}
        assert await store.get_working_history("s") == [summary, user("next")]
