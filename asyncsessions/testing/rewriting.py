"""Cases of rewriting: pop, clear, delete, replace, streaming turns, retention."""

from __future__ import annotations

import asyncio
from typing import Any

from asyncsessions.models import Message
from asyncsessions.protocols import SessionStore
from asyncsessions.testing._cases import (
    StoreCases,
    fill,
    is_absent,
    result,
    seqs,
    texts,
    tool_call,
    trying,
    user,
)
from asyncsessions.testing.reading import answers_without_call

__all__ = ["PartialTurnCases", "RetentionCases", "RewriteCases"]


async def _partials(store: SessionStore) -> list[tuple[int, Any, bool]]:
    messages = await store.get_messages("s")
    return [(m.seq, m.content, bool(m.metadata.get("partial"))) for m in messages]


class RewriteCases(StoreCases):
    """What removes or replaces messages does so for good, and ``seq`` goes on."""

    async def test_pop_removes_and_returns_the_newest(self, store: SessionStore) -> None:
        stored = await fill(store, "s", 3)
        assert await store.pop_message("s") == stored[2]
        assert await store.get_messages("s") == stored[:2]
        session = await store.get_session("s")
        assert (session.message_count, session.last_seq) == (2, 3)

    async def test_the_newest_are_all_found_after_a_pop(self, store: SessionStore) -> None:
        stored = await fill(store, "s", 10)
        await store.pop_message("s")
        await store.add_message("s", "user", "new")
        newest = await store.get_messages("s", limit=1)
        expected = [*stored[5:9], *newest]
        assert (await store.get_session("s", max_messages=5)).messages == expected
        before = newest[0].seq + 1
        assert await store.get_messages("s", limit=5, before=before) == expected

    async def test_popped_seq_is_not_given_again(self, store: SessionStore) -> None:
        await fill(store, "s", 3)
        await store.pop_message("s")
        assert seqs(await store.append("s", [user("x")])) == [4]
        assert seqs(await store.get_messages("s")) == [1, 2, 4]

    async def test_pop_of_nothing_returns_none(self, store: SessionStore) -> None:
        assert await store.pop_message("s") is None
        assert await is_absent(store, "s")
        await store.add_message("s", "user", "x")
        await store.pop_message("s")
        assert await store.pop_message("s") is None
        assert await store.session_exists("s") is True

    async def test_concurrent_pops_take_each_message_once(self, store: SessionStore) -> None:
        # So many that it would take minutes if each of them tried each time.
        await fill(store, "s", 120)
        popped = await asyncio.gather(*(store.pop_message("s") for _ in range(150)))
        taken = [message.seq for message in popped if message is not None]
        assert sorted(taken) == list(range(1, 121))
        assert await store.get_messages("s") == []

    async def test_set_chat_history_replaces_all_messages(self, store: SessionStore) -> None:
        await fill(store, "s", 3)
        await store.set_state("s", "k", 1)
        await store.update_session_metadata("s", m=2)
        await store.append_compaction_checkpoint("s", "so far")
        assert await store.set_chat_history("s", [user("a"), Message("user", "b")]) is True
        session = await store.get_session("s")
        assert texts(session.messages) == ["a", "b"]
        assert seqs(session.messages) == [4, 5]
        assert (session.state, session.metadata, session.checkpoint) == ({"k": 1}, {"m": 2}, None)
        assert seqs(await store.append("s", [user("c")])) == [6]

    async def test_set_chat_history_creates_a_session(self, store: SessionStore) -> None:
        await store.set_chat_history("s", [user("a")])
        assert seqs(await store.get_messages("s")) == [1]

    async def test_set_chat_history_may_be_empty(self, store: SessionStore) -> None:
        await fill(store, "s", 3)
        await store.set_chat_history("s", [])
        assert await store.get_messages("s") == []
        assert seqs(await store.append("s", [user("x")])) == [4]

    async def test_clear_removes_all_messages_and_keeps_the_record(
        self, store: SessionStore
    ) -> None:
        await fill(store, "s", 3)
        await store.set_state("s", "k", 1)
        await store.update_session_metadata("s", m=2)
        await store.set_agent_info("s", "agent")
        await store.append_compaction_checkpoint("s", "so far")
        assert await store.clear_session("s") is True
        session = await store.get_session("s")
        assert (session.messages, session.message_count, session.checkpoint) == ([], 0, None)
        assert (session.state, session.metadata) == ({"k": 1}, {"m": 2})
        assert session.agent_name == "agent"
        assert await store.session_exists("s") is True
        assert await store.get_working_history("s") == []

    async def test_clear_does_not_reset_seq(self, store: SessionStore) -> None:
        await fill(store, "s", 3)
        await store.clear_session("s")
        assert (await store.get_session("s")).last_seq == 3
        assert seqs(await store.append("s", [user("x")])) == [4]
        await store.clear_session("s")
        await store.clear_session("s")
        assert seqs(await store.append("s", [user("x")])) == [5]

    async def test_clear_says_whether_there_was_something(self, store: SessionStore) -> None:
        assert await store.clear_session("s") is False
        assert await is_absent(store, "s")
        await store.add_message("s", "user", "x")
        assert await store.clear_session("s") is True
        assert await store.clear_session("s") is False

    async def test_cleared_messages_are_nowhere(self, store: SessionStore) -> None:
        await store.append("s", [user("needle one"), user("needle two")])
        await store.clear_session("s")
        await store.add_message("s", "user", "hay")
        assert await store.search("needle") == []
        assert texts(await store.get_messages("s", after=0)) == ["hay"]
        assert [message.content async for message in store.iter_messages("s")] == ["hay"]
        assert texts(await store.window("s", 1)) == ["hay"]
        assert "needle" not in str(await store.export_session("s"))

    async def test_delete_removes_everything(self, store: SessionStore) -> None:
        await store.append("s", [user("needle")])
        await store.set_state("s", "k", 1)
        await store.update_session_metadata("s", m=2)
        await store.set_gateway_info("s", "gate", "agent")
        await store.append_compaction_checkpoint("s", "so far")
        assert await store.delete_session("s") is True
        assert await is_absent(store, "s")
        assert await store.search("needle") == []
        assert await store.get_by_gateway_session("gate") is None
        assert [part async for part in store.export_all()] == []
        # A new session of that name starts from nothing.
        assert seqs(await store.append("s", [user("new")])) == [1]
        session = await store.get_session("s")
        assert (session.state, session.metadata, session.checkpoint) == ({}, {}, None)
        assert (session.agent_id, session.gateway_session_id) == (None, None)
        assert texts(session.messages) == ["new"]

    async def test_delete_says_whether_there_was_something(self, store: SessionStore) -> None:
        assert await store.delete_session("s") is False
        await store.add_message("s", "user", "x")
        assert await store.delete_session("s") is True
        assert await store.delete_session("s") is False

    async def test_many_rewrites_leave_the_right_messages(self, store: SessionStore) -> None:
        expected: list[Message] = []
        for n in range(150):
            expected += await store.append("s", [user(f"m{n}"), user("x" * 200)])
            assert await store.pop_message("s") == expected.pop()
            if n % 40 == 39:
                await store.clear_session("s")
                expected.clear()
        assert await store.get_messages("s") == expected
        assert (await store.get_session("s")).last_seq == 300


class PartialTurnCases(StoreCases):
    """A turn that is being streamed is one message, until it is final."""

    async def test_partial_turn_keeps_its_seq(self, store: SessionStore) -> None:
        await store.add_message("s", "user", "?")
        for text in ("a", "ab", "abc"):
            assert await store.upsert_partial_assistant_message("s", text) is True
            assert await _partials(store) == [(1, "?", False), (2, text, True)]
        assert await store.upsert_partial_assistant_message("s", "abcd", finalize=True) is True
        assert await _partials(store) == [(1, "?", False), (2, "abcd", False)]
        assert (await store.get_session("s")).message_count == 2

    async def test_final_turn_is_left_alone(self, store: SessionStore) -> None:
        await store.upsert_partial_assistant_message("s", "a", finalize=True)
        await store.upsert_partial_assistant_message("s", "b")
        assert await _partials(store) == [(1, "a", False), (2, "b", True)]

    async def test_turn_behind_another_message_is_left_alone(self, store: SessionStore) -> None:
        await store.upsert_partial_assistant_message("s", "a")
        await store.add_message("s", "user", "wait")
        await store.upsert_partial_assistant_message("s", "b")
        assert await _partials(store) == [(1, "a", True), (2, "wait", False), (3, "b", True)]

    async def test_streamed_turn_follows_removed_ones(self, store: SessionStore) -> None:
        await fill(store, "s", 3)
        await store.pop_message("s")
        await store.upsert_partial_assistant_message("s", "a")
        assert seqs(await store.get_messages("s")) == [1, 2, 4]
        await store.clear_session("s")
        await store.upsert_partial_assistant_message("s", "b")
        assert await _partials(store) == [(5, "b", True)]

    async def test_empty_final_content_removes_the_turn(self, store: SessionStore) -> None:
        await store.add_message("s", "user", "?")
        await store.upsert_partial_assistant_message("s", "a")
        await store.upsert_partial_assistant_message("s", "", finalize=True)
        assert await _partials(store) == [(1, "?", False)]
        await store.upsert_partial_assistant_message("s", "", finalize=True)
        assert await _partials(store) == [(1, "?", False)]

    async def test_discard_removes_only_a_partial_turn(self, store: SessionStore) -> None:
        assert await store.discard_partial_assistant_message("s") is True
        assert await is_absent(store, "s")
        await store.add_message("s", "assistant", "whole")
        await store.upsert_partial_assistant_message("s", "a")
        assert await store.discard_partial_assistant_message("s") is True
        assert await store.discard_partial_assistant_message("s") is True
        assert await _partials(store) == [(1, "whole", False)]

    async def test_messages_follow_a_rewritten_turn(self, store: SessionStore) -> None:
        for n in range(40):
            await store.upsert_partial_assistant_message("s", "x" * n)
        await store.upsert_partial_assistant_message("s", "done", finalize=True)
        stored = await store.append("s", [user("a"), user("b")])
        assert seqs(stored) == [2, 3]
        assert texts(await store.get_messages("s")) == ["done", "a", "b"]
        assert texts(await store.get_messages("s", limit=2)) == ["a", "b"]
        assert texts(await store.get_messages("s", before=2)) == ["done"]


class RetentionCases(StoreCases):
    """``max_messages`` drops the oldest for good, and never splits an exchange."""

    async def test_newest_messages_stay(self) -> None:
        async with self.make_store(max_messages=4) as store:
            for n in range(1, 11):
                await store.add_message("s", "user", f"m{n}")
            session = await store.get_session("s")
            assert texts(session.messages) == ["m7", "m8", "m9", "m10"]
            assert seqs(session.messages) == [7, 8, 9, 10]
            assert (session.message_count, session.last_seq) == (4, 10)

    async def test_dropped_messages_are_nowhere(self) -> None:
        async with self.make_store(max_messages=2) as store:
            await store.append("s", [user("needle"), user("a"), user("b"), user("c")])
            assert await store.search("needle") == []
            assert texts(await store.get_messages("s", after=0, limit=10)) == ["b", "c"]
            assert texts([m async for m in store.iter_messages("s")]) == ["b", "c"]
        # A store that keeps everything doesn't bring them back either.
        async with self.make_store() as store:
            assert "needle" not in texts(await store.get_messages("s"))

    async def test_batch_above_the_limit_keeps_its_newest(self) -> None:
        async with self.make_store(max_messages=3) as store:
            stored = await fill(store, "s", 10)
            assert seqs(stored) == list(range(1, 11))
            assert await store.get_messages("s") == stored[-3:]

    async def test_streamed_turns_count_too(self) -> None:
        async with self.make_store(max_messages=2) as store:
            for seq, text in ((1, "a"), (3, "b"), (5, "c")):
                await store.add_message("s", "user", text)
                await store.upsert_partial_assistant_message("s", text)
                assert await _partials(store) == [(seq, text, False), (seq + 1, text, True)]
                await store.upsert_partial_assistant_message("s", text * 2, finalize=True)
                assert texts(await store.get_messages("s")) == [text, text * 2]

    async def test_exchanges_stay_whole(self) -> None:
        turns = []
        for n in range(6):
            calls = tool_call(f"a{n}")["tool_calls"] + tool_call(f"b{n}")["tool_calls"]
            turns += [user(f"q{n}"), {"role": "assistant", "content": None, "tool_calls": calls}]
            turns += [result(f"a{n}"), result(f"b{n}")]
        for keep in (1, 2, 3, 4, 5, 6):
            async with self.make_store(max_messages=keep) as store:
                for count, turn in enumerate(turns, 1):
                    await store.append(f"s{keep}", [turn])
                    kept = await store.get_messages(f"s{keep}")
                    with trying({"keep": keep, "count": count}):
                        assert not answers_without_call([message.to_chat() for message in kept])
                        # The newest call with its results stays, even if that is over the limit.
                        exchange = (1, 1, 2, 3)[(count - 1) % 4]
                        assert min(exchange, count) <= len(kept) <= max(keep, exchange)
                        assert seqs(kept) == list(range(count - len(kept) + 1, count + 1))

    async def test_call_with_many_results_may_exceed_the_limit(self) -> None:
        calls = [call for n in range(5) for call in tool_call(f"c{n}")["tool_calls"]]
        turn = {"role": "assistant", "content": None, "tool_calls": calls}
        async with self.make_store(max_messages=2) as store:
            await store.append("s", [user("a"), user("b"), turn])
            for n in range(5):
                await store.append("s", [result(f"c{n}")])
            assert seqs(await store.get_messages("s")) == [3, 4, 5, 6, 7, 8]
            await store.append("s", [user("next")])
            assert texts(await store.get_messages("s")) == ["next"]
            await store.append("s", [user("last")])
            assert texts(await store.get_messages("s")) == ["next", "last"]

    async def test_set_chat_history_trims_too(self) -> None:
        async with self.make_store(max_messages=3) as store:
            turns = [user("a"), tool_call("c"), result("c"), user("b"), user("d")]
            await store.set_chat_history("s", turns)
            assert texts(await store.get_messages("s")) == ["b", "d"]

    async def test_retention_counts_each_session_alone(self) -> None:
        async with self.make_store(max_messages=2) as store:
            calls = [store.add_message(f"s{n % 3}", "user", f"m{n}") for n in range(12)]
            await asyncio.gather(*calls)
            for n in range(3):
                kept = texts(await store.get_messages(f"s{n}"))
                assert kept == [f"m{n + 6}", f"m{n + 9}"]

    async def test_cleared_and_popped_messages_do_not_count(self) -> None:
        async with self.make_store(max_messages=3) as store:
            await fill(store, "s", 3)
            await store.clear_session("s")
            await fill(store, "s", 2)
            await store.pop_message("s")
            await fill(store, "s", 2)
            assert seqs(await store.get_messages("s")) == [4, 6, 7]
