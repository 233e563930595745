"""Cases of appending: batches, order, ``expected_seq``, idempotency keys."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from asyncsessions.errors import IdempotencyConflictError, VersionConflictError
from asyncsessions.models import Message
from asyncsessions.protocols import AsyncSessionStoreProtocol, SessionStore, check_async_store
from asyncsessions.testing._cases import (
    START,
    ManualClock,
    StoreCases,
    fill,
    is_absent,
    seqs,
    texts,
    tool_call,
    trying,
    user,
)

__all__ = ["AppendCases", "IdempotencyCases"]

_DAY = 24 * 3600.0


class AppendCases(StoreCases):
    """What `append` and its relatives store and return."""

    async def test_store_satisfies_the_protocol(self, store: SessionStore) -> None:
        check_async_store(store)
        assert isinstance(store, AsyncSessionStoreProtocol)

    async def test_message_is_read_back(self, store: SessionStore) -> None:
        assert await store.add_message("s", "user", "Hello") is True
        assert await store.get_chat_history("s") == [{"role": "user", "content": "Hello"}]
        assert await store.session_exists("s") is True

    async def test_all_fields_are_kept(self, store: SessionStore) -> None:
        calls = tool_call("c1")["tool_calls"]
        given = {
            "role": "assistant",
            "content": [{"type": "text", "text": "Hi"}],
            "timestamp": 1234.5,
            "metadata": {"model": "m", "nested": {"list": [1, 2.5, None, True]}},
            "tool_calls": calls,
            "name": "Ada",
            "refusal": None,
            "annotations": [{"url": "https://example.org"}],
        }
        (stored,) = await store.append("s", [given])
        (read,) = await store.get_messages("s")
        assert read == stored
        assert read.to_dict() == given | {"seq": 1}

    async def test_add_message_takes_the_tool_fields(self, store: SessionStore) -> None:
        calls = tool_call("c1")["tool_calls"]
        await store.add_message("s", "assistant", None, tool_calls=calls)
        await store.add_message("s", "tool", "42", {"ms": 3}, tool_call_id="c1", name="look_up")
        answer = {"role": "tool", "content": "42", "tool_call_id": "c1", "name": "look_up"}
        called = {"role": "assistant", "content": None, "tool_calls": calls}
        assert await store.get_chat_history("s") == [called, answer]
        assert (await store.get_messages("s"))[1].metadata == {"ms": 3}

    async def test_user_and_assistant_have_shortcuts(self, store: SessionStore) -> None:
        assert await store.add_user_message("s", "a", {"k": 1}) is True
        assert await store.add_assistant_message("s", "b") is True
        assert [(m.role, m.content, m.metadata) for m in await store.get_messages("s")] == [
            ("user", "a", {"k": 1}),
            ("assistant", "b", {}),
        ]

    async def test_messages_and_dicts_mix_in_a_batch(self, store: SessionStore) -> None:
        stored = await store.append("s", [Message("user", "a", seq=99), user("b")])
        assert texts(stored) == ["a", "b"]
        assert seqs(stored) == [1, 2]
        assert await store.get_messages("s") == stored

    async def test_seq_counts_from_one_without_gaps(self, store: SessionStore) -> None:
        stored = [await store.append("s", [user("x")] * count) for count in (1, 3, 2)]
        assert [seqs(batch) for batch in stored] == [[1], [2, 3, 4], [5, 6]]
        assert seqs(await store.get_messages("s")) == [1, 2, 3, 4, 5, 6]

    async def test_timestamp_is_the_stores_unless_given(self, clock: ManualClock) -> None:
        async with self.make_store(clock=clock) as store:
            given = [user("a"), user("b") | {"timestamp": 7.5}]
            stored = await store.append("s", given)
            assert [message.timestamp for message in stored] == [START, 7.5]
            assert await store.get_messages("s") == stored

    async def test_order_is_the_stores_when_the_clock_jumps_back(self, clock: ManualClock) -> None:
        async with self.make_store(clock=clock) as store:
            for text in "abc":
                await store.add_message("s", "user", text)
                clock.advance(-1000)
            assert texts(await store.get_messages("s")) == ["a", "b", "c"]
            assert seqs(await store.get_messages("s")) == [1, 2, 3]

    async def test_empty_batch_stores_nothing(self, store: SessionStore) -> None:
        assert await store.append("s", []) == []
        assert await is_absent(store, "s")

    async def test_empty_batch_with_expected_seq_stores_nothing(self, store: SessionStore) -> None:
        assert await store.append("s", [], expected_seq=0) == []
        assert await is_absent(store, "s")

    async def test_large_batch_is_one_step(self, store: SessionStore) -> None:
        stored = await store.append("s", [user(f"m{n}") for n in range(1500)])
        assert seqs(stored) == list(range(1, 1501))
        assert texts(await store.get_messages("s")) == [f"m{n}" for n in range(1500)]

    async def test_long_message_round_trips(self, store: SessionStore) -> None:
        text = "0123456789abcdefé群" * 60_000
        await store.add_message("s", "user", text)
        await store.add_message("s", "user", "next")
        assert texts(await store.get_messages("s")) == [text, "next"]
        assert texts(await store.get_messages("s", limit=1)) == ["next"]

    async def test_append_lands_where_expected_seq_says(self, store: SessionStore) -> None:
        first = await store.append("s", [user("a"), user("b")], expected_seq=0)
        second = await store.append("s", [user("c")], expected_seq=2)
        assert seqs(first + second) == [1, 2, 3]

    async def test_wrong_expected_seq_stores_nothing_and_tells_what_was_missed(
        self, store: SessionStore
    ) -> None:
        stored = await fill(store, "s", 5)
        with pytest.raises(VersionConflictError) as caught:
            await store.append("s", [user("x"), user("y")], expected_seq=2)
        error = caught.value
        assert (error.session_id, error.expected_seq, error.last_seq) == ("s", 2, 5)
        assert error.messages == stored[2:]
        assert await store.get_messages("s") == stored

    async def test_expected_seq_above_the_newest_conflicts(self, store: SessionStore) -> None:
        stored = await fill(store, "s", 2)
        with pytest.raises(VersionConflictError) as caught:
            await store.append("s", [user("x")], expected_seq=3)
        assert (caught.value.last_seq, caught.value.messages) == (2, [])
        assert await store.get_messages("s") == stored

    async def test_conflict_on_an_absent_session_creates_none(self, store: SessionStore) -> None:
        with pytest.raises(VersionConflictError) as caught:
            await store.append("s", [user("x")], expected_seq=1)
        assert (caught.value.last_seq, caught.value.messages) == (0, [])
        assert await is_absent(store, "s")

    async def test_expected_seq_counts_what_was_cleared(self, store: SessionStore) -> None:
        await fill(store, "s", 2)
        await store.clear_session("s")
        with pytest.raises(VersionConflictError):
            await store.append("s", [user("x")], expected_seq=0)
        assert seqs(await store.append("s", [user("x")], expected_seq=2)) == [3]

    async def test_of_equal_expected_seq_one_append_wins(self, store: SessionStore) -> None:
        calls = [store.append("s", [user(f"m{n}")], expected_seq=0) for n in range(8)]
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        won = [outcome for outcome in outcomes if isinstance(outcome, list)]
        lost = [outcome for outcome in outcomes if isinstance(outcome, VersionConflictError)]
        assert (len(won), len(lost)) == (1, 7)
        assert await store.get_messages("s") == won[0]
        assert all(error.messages == won[0] for error in lost)

    async def test_negative_expected_seq_is_refused(self, store: SessionStore) -> None:
        with pytest.raises(ValueError, match="expected_seq"):
            await store.append("s", [user("x")], expected_seq=-1)
        assert await is_absent(store, "s")


class IdempotencyCases(StoreCases):
    """What an ``idempotency_key`` guarantees: stored once, the same answer again."""

    async def test_retry_stores_once_and_returns_the_first_result(self, clock: ManualClock) -> None:
        async with self.make_store(clock=clock) as store:
            first = await store.append("s", [user("a"), user("b")], idempotency_key="k")
            await store.add_message("s", "user", "between")
            clock.advance(5)
            again = await store.append("s", [user("a"), user("b")], idempotency_key="k")
            assert again == first
            assert texts(await store.get_messages("s")) == ["a", "b", "between"]
            assert (await store.get_messages("s"))[:2] == first

    async def test_add_message_takes_a_key(self, store: SessionStore) -> None:
        for _ in range(3):
            assert await store.add_message("s", "user", "a", idempotency_key="k") is True
        assert texts(await store.get_messages("s")) == ["a"]

    async def test_concurrent_retries_store_once(self, store: SessionStore) -> None:
        calls = [store.append("s", [user("a")], idempotency_key="k") for _ in range(10)]
        outcomes = await asyncio.gather(*calls)
        assert all(outcome == outcomes[0] for outcome in outcomes)
        assert await store.get_messages("s") == outcomes[0]

    async def test_same_key_with_other_content_is_an_error(self, store: SessionStore) -> None:
        stored = await store.append("s", [user("a")], idempotency_key="k")
        others: list[list[dict[str, Any]]] = [
            [user("other")],
            [{"role": "assistant", "content": "a"}],
            [user("a") | {"metadata": {"x": 1}}],
            [user("a"), user("b")],
        ]
        for other in others:
            with trying(other):
                with pytest.raises(IdempotencyConflictError) as caught:
                    await store.append("s", other, idempotency_key="k")
                assert (caught.value.session_id, caught.value.idempotency_key) == ("s", "k")
                assert await store.get_messages("s") == stored

    async def test_order_of_dict_keys_is_not_content(self, store: SessionStore) -> None:
        one, two = {"a": 1, "b": 2}, {"b": 2, "a": 1}
        await store.add_message("s", "user", "x", one, idempotency_key="k")
        await store.add_message("s", "user", "x", two, idempotency_key="k")
        assert len(await store.get_messages("s")) == 1

    async def test_keys_belong_to_their_session(self, store: SessionStore) -> None:
        await store.append("s", [user("a")], idempotency_key="k")
        await store.append("t", [user("b")], idempotency_key="k")
        assert texts(await store.get_messages("s")) == ["a"]
        assert texts(await store.get_messages("t")) == ["b"]

    async def test_different_keys_store_equal_messages(self, store: SessionStore) -> None:
        for key in ("k", "K", "k ", "k\0", "ключ"):
            await store.append("s", [user("same")], idempotency_key=key)
        assert seqs(await store.get_messages("s")) == [1, 2, 3, 4, 5]

    async def test_retry_wins_over_expected_seq(self, store: SessionStore) -> None:
        first = await store.append("s", [user("a")], idempotency_key="k", expected_seq=0)
        again = await store.append("s", [user("a")], idempotency_key="k", expected_seq=0)
        assert again == first
        assert seqs(await store.get_messages("s")) == [1]

    async def test_failed_append_leaves_its_key_free(self, store: SessionStore) -> None:
        with pytest.raises(VersionConflictError):
            await store.append("s", [user("a")], idempotency_key="k", expected_seq=9)
        stored = await store.append("s", [user("b")], idempotency_key="k")
        assert await store.get_messages("s") == stored

    async def test_key_outlives_its_messages_by_a_day(self, clock: ManualClock) -> None:
        async with self.make_store(clock=clock) as store:
            first = await store.append("s", [user("a")], idempotency_key="k")
            await store.clear_session("s")
            clock.advance(_DAY - 1)
            # Other keys come meanwhile, so that whoever forgets keys has reason to.
            for n in range(100):
                await store.append("s", [user("x")], idempotency_key=f"k{n}")
            await store.clear_session("s")
            assert await store.append("s", [user("a")], idempotency_key="k") == first
            assert await store.get_messages("s") == []

    async def test_key_lives_as_long_as_its_messages(self, clock: ManualClock) -> None:
        async with self.make_store(clock=clock) as store:
            first = await store.append("s", [user("a")], idempotency_key="k")
            clock.advance(30 * _DAY)
            for n in range(200):
                await store.append("s", [user("x")], idempotency_key=f"k{n}")
            assert await store.append("s", [user("a")], idempotency_key="k") == first
            assert len(await store.get_messages("s")) == 201

    async def test_key_outlives_pop_and_set_chat_history(self, store: SessionStore) -> None:
        first = await store.append("s", [user("a")], idempotency_key="k")
        await store.pop_message("s")
        await store.set_chat_history("s", [user("new")])
        assert await store.append("s", [user("a")], idempotency_key="k") == first
        assert texts(await store.get_messages("s")) == ["new"]

    async def test_many_keys_are_all_remembered(self, store: SessionStore) -> None:
        async def send(n: int) -> list[Message]:
            return await store.append("s", [user(f"m{n}")], idempotency_key=f"k{n}")

        first = await asyncio.gather(*map(send, range(300)))
        again = await asyncio.gather(*map(send, range(300)))
        assert again == first
        assert len(await store.get_messages("s")) == 300
