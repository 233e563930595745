"""Cases of several store objects over the same data, at once and one after the other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest_asyncio

from asyncsessions.protocols import SessionStore
from asyncsessions.testing._cases import (
    ManualClock,
    StoreCases,
    fill,
    flat,
    ids,
    is_absent,
    seqs,
    texts,
    user,
)

__all__ = ["ReopenCases", "TwoStoreCases"]


class TwoStoreCases(StoreCases):
    """What one store object wrote, another one over the same data reads at once."""

    @pytest_asyncio.fixture
    async def other(self) -> AsyncIterator[SessionStore]:
        async with self.make_store() as store:
            yield store

    async def test_no_read_is_stale(self, store: SessionStore, other: SessionStore) -> None:
        for n in range(5):
            # Each of them reads after each write, so that whoever caches has something to serve.
            for writer, text in ((store, f"a{n}"), (other, f"b{n}")):
                await writer.add_message("s", "user", text)
                await writer.set_state("s", "last", text)
                for reader in (store, other):
                    assert texts(await reader.get_messages("s"))[-1] == text
                    assert texts(await reader.get_messages("s", limit=1)) == [text]
                    assert await reader.get_state("s", "last") == text
            assert (await store.list_sessions())[0].last_seq == 2 * n + 2
        assert seqs(await store.get_messages("s")) == list(range(1, 11))

    async def test_every_kind_of_write_is_seen(
        self, store: SessionStore, other: SessionStore
    ) -> None:
        await fill(store, "s", 4)
        assert len(await other.get_messages("s")) == 4
        await store.pop_message("s")
        assert len(await other.get_messages("s")) == 3
        await other.set_state("s", "k", 1)
        assert await store.get_state("s", "k") == 1
        assert await store.increment_state("s", "k") == 2
        assert await other.increment_state("s", "k") == 3
        await store.rename_session("s", "one")
        await other.update_session_metadata("s", b=2)
        assert (await store.get_session("s")).metadata == {"title": "one", "b": 2}
        await other.append_compaction_checkpoint("s", "so far")
        assert len(await store.get_working_history("s")) == 1
        await store.upsert_partial_assistant_message("s", "a")
        await other.upsert_partial_assistant_message("s", "ab")
        await store.upsert_partial_assistant_message("s", "abc", finalize=True)
        assert texts(await other.get_messages("s")) == ["m1", "m2", "m3", "abc"]
        await other.set_chat_history("s", [user("new")])
        assert texts(await store.get_messages("s")) == ["new"]
        assert seqs(await store.append("s", [user("x")])) == [7]
        assert await other.clear_session("s") is True
        assert await store.get_messages("s") == []
        assert (await store.get_session("s")).checkpoint is None

    async def test_deleted_session_stays_deleted(
        self, store: SessionStore, other: SessionStore
    ) -> None:
        for _ in range(3):
            await fill(store, "s", 3)
            await store.set_state("s", "k", 1)
            assert len(await other.get_messages("s")) == 3
            assert await other.delete_session("s") is True
            assert await is_absent(store, "s")
            # What the first store still remembers of the session must not come back.
            assert seqs(await store.append("s", [user("new")])) == [1]
            session = await other.get_session("s")
            assert (texts(session.messages), session.state) == (["new"], {})
            await other.delete_session("s")

    async def test_two_stores_append_without_loss(
        self, store: SessionStore, other: SessionStore
    ) -> None:
        calls = [
            each.append(f"s{n % 2}", [user(f"{name}{n}")] * 2)
            for n in range(60)
            for name, each in (("a", store), ("b", other))
        ]
        stored = flat(await asyncio.gather(*calls))
        assert len(stored) == 240
        for which in range(2):
            kept = await store.get_messages(f"s{which}")
            assert seqs(kept) == list(range(1, 121))
            assert kept == await other.get_messages(f"s{which}")
            for name in "ab":
                own = [text for text in texts(kept) if text.startswith(name)]
                assert own == [f"{name}{n}" for n in range(which, 60, 2) for _ in range(2)]

    async def test_two_stores_update_without_loss(
        self, store: SessionStore, other: SessionStore
    ) -> None:
        calls = []
        for n in range(25):
            calls += [
                store.increment_state("s", "n"),
                other.increment_state("s", "n"),
                store.update_session_metadata("s", **{f"a{n}": n}),
                other.update_session_metadata("s", **{f"b{n}": n}),
            ]
        await asyncio.gather(*calls)
        session = await store.get_session("s")
        assert session.state == {"n": 50}
        assert len(session.metadata) == 50

    async def test_two_stores_mix_writes_without_loss(
        self, store: SessionStore, other: SessionStore
    ) -> None:
        async def append(one: SessionStore, name: str) -> None:
            for n in range(20):
                await one.append("s", [user(f"{name}{n}")])

        async def change(one: SessionStore, name: str) -> None:
            for n in range(20):
                await one.increment_state("s", "n")
                await one.merge_session_metadata_map("s", "map", {f"{name}{n}": n})

        await asyncio.gather(
            append(store, "a"), change(store, "a"), append(other, "b"), change(other, "b")
        )
        session = await store.get_session("s")
        assert seqs(session.messages) == list(range(1, 41))
        assert session.state == {"n": 40}
        merged = {f"{name}{n}": n for name in "ab" for n in range(20)}
        assert session.metadata == {"map": merged}

    async def test_keys_are_known_to_both(self, store: SessionStore, other: SessionStore) -> None:
        for n in range(5):
            first = await store.append("s", [user(f"m{n}")], idempotency_key=f"k{n}")
            assert await other.append("s", [user(f"m{n}")], idempotency_key=f"k{n}") == first
        retries = [
            each.append("s", [user("race")], idempotency_key="race")
            for each in (store, other)
            for _ in range(5)
        ]
        outcomes = await asyncio.gather(*retries)
        assert all(outcome == outcomes[0] for outcome in outcomes)
        assert len(await store.get_messages("s")) == 6

    async def test_two_stores_pop_each_message_once(
        self, store: SessionStore, other: SessionStore
    ) -> None:
        await fill(store, "s", 10)
        calls = [each.pop_message("s") for each in (store, other) for _ in range(6)]
        popped = [message for message in await asyncio.gather(*calls) if message is not None]
        assert sorted(seqs(popped)) == list(range(1, 11))

    async def test_expiry_holds_for_both(self, clock: ManualClock) -> None:
        async with (
            self.make_store(clock=clock) as store,
            self.make_store(clock=clock, ttl_seconds=10) as other,
        ):
            await store.add_message("s", "user", "old")
            await store.expire_session("s", 5)
            clock.advance(5)
            assert await is_absent(other, "s")
            await other.add_message("s", "user", "new")
            assert texts(await store.get_messages("s")) == ["new"]
            assert seqs(await store.append("s", [user("newer")])) == [2]
            clock.advance(10)
            assert await store.purge_expired() == 1
            assert seqs(await other.append("s", [user("newest")])) == [1]

    async def test_retention_of_one_is_seen_by_the_other(self, store: SessionStore) -> None:
        await fill(store, "s", 6)
        async with self.make_store(max_messages=3) as other:
            assert len(await other.get_messages("s")) == 6
            await other.add_message("s", "user", "x")
            assert texts(await store.get_messages("s")) == ["m5", "m6", "x"]
            await store.add_message("s", "user", "y")
            assert seqs(await other.get_messages("s")) == [5, 6, 7, 8]

    async def test_many_sessions_change_hands(
        self, store: SessionStore, other: SessionStore
    ) -> None:
        names = [f"s{n}" for n in range(200)]
        for each in (store, other, store):
            await asyncio.gather(*(each.append(name, [user(name)]) for name in names))
        for name in names:
            kept = await other.get_messages(name)
            assert (texts(kept), seqs(kept)) == ([name] * 3, [1, 2, 3])

    async def test_closing_one_leaves_the_other(self, store: SessionStore) -> None:
        async with self.make_store() as other:
            await other.add_message("s", "user", "x")
        await store.add_message("s", "user", "y")
        assert texts(await store.get_messages("s")) == ["x", "y"]


class ReopenCases(StoreCases):
    """What was acknowledged is there when the store is opened again."""

    async def test_reopened_store_has_everything(self, clock: ManualClock) -> None:
        async with self.make_store(clock=clock) as store:
            await fill(store, "s", 30)
            await store.clear_session("s")
            await fill(store, "s", 3)
            await store.pop_message("s")
            await store.append("s", [user("k")], idempotency_key="key")
            await store.set_agent_info("s", "agent", "ada")
            await store.rename_session("s", "title")
            await store.set_state("s", "k", {"x": 1})
            await store.append_compaction_checkpoint("s", "so far")
            await store.expire_session("s", 100)
            before = await store.get_session("s")
        async with self.make_store(clock=clock) as store:
            assert await store.get_session("s") == before
            assert ids(await store.list_sessions(agent_name="agent")) == ["s"]
            (again,) = await store.append("s", [user("k")], idempotency_key="key")
            assert again == before.messages[-1]
            assert seqs(await store.append("s", [user("x")])) == [35]
            clock.advance(100)
            assert await is_absent(store, "s")

    async def test_closing_stores_what_is_under_way(self) -> None:
        store = self.make_store()
        await store.ping()
        tasks = [
            asyncio.ensure_future(store.append(f"s{n % 3}", [user(f"m{n}")])) for n in range(30)
        ]
        await asyncio.sleep(0)
        await store.aclose()
        stored = flat(await asyncio.gather(*tasks))
        assert len(stored) == 30
        async with self.make_store() as store:
            for which in range(3):
                expected = [f"m{n}" for n in range(which, 30, 3)]
                assert texts(await store.get_messages(f"s{which}")) == expected

    async def test_cursor_works_after_reopening(self, clock: ManualClock) -> None:
        async with self.make_store(clock=clock) as store:
            for n in range(5):
                clock.advance(1)
                await store.add_message(f"s{n}", "user", "x")
            page = await store.list_sessions(2)
        async with self.make_store(clock=clock) as store:
            rest = await store.list_sessions(10, page.next_cursor)
            assert ids(rest) == ["s2", "s1", "s0"]

    async def test_deleted_and_purged_sessions_stay_away(self, clock: ManualClock) -> None:
        async with self.make_store(clock=clock) as store:
            for name in ("kept", "deleted", "expired"):
                await store.append(name, [user("x")] * 3)
            await store.delete_session("deleted")
            await store.expire_session("expired", 5)
            clock.advance(5)
            assert await store.purge_expired() == 1
        async with self.make_store(clock=clock) as store:
            assert ids(await store.list_sessions()) == ["kept"]
            assert await is_absent(store, "deleted")
            assert await is_absent(store, "expired")
