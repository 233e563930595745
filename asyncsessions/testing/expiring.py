"""Cases of expiry: what has expired is gone, at that moment, in every part."""

from __future__ import annotations

import asyncio
import math
from decimal import Decimal
from typing import Any

import pytest

from asyncsessions.protocols import SessionStore
from asyncsessions.testing._cases import (
    START,
    ManualClock,
    StoreCases,
    fill,
    ids,
    is_absent,
    seqs,
    texts,
    trying,
    user,
)

__all__ = ["ExpiryCases"]

# A whole number beyond all floats.
_HUGE = 10**400


class ExpiryCases(StoreCases):
    """Expiry by ``ttl_seconds`` and by `expire_session`, on a clock that the test moves."""

    async def test_session_vanishes_at_its_moment(self, clock: ManualClock) -> None:
        async with self.make_store(clock=clock, ttl_seconds=10) as store:
            await store.append("s", [user("needle")])
            await store.set_gateway_info("s", "gate", "agent")
            await store.append_compaction_checkpoint("s", "so far")
            assert (await store.get_session("s")).expires_at == START + 10
            clock.advance(9.5)
            assert await store.session_exists("s") is True
            assert len(await store.get_messages("s")) == 1
            clock.advance(0.5)
            assert await is_absent(store, "s")
            assert await store.search("needle") == []
            assert await store.get_by_gateway_session("gate") is None
            assert await store.list_sessions(agent_id="agent") == []
            assert await store.recent() == []
            assert [part async for part in store.export_all()] == []

    async def test_every_write_renews_the_ttl(self, clock: ManualClock) -> None:
        writes: dict[str, Any] = {
            "append": lambda store: store.append("s", [user("x")]),
            "state": lambda store: store.set_state("s", "k", 1),
            "metadata": lambda store: store.rename_session("s", "title"),
            "partial": lambda store: store.upsert_partial_assistant_message("s", "x"),
            "pop": lambda store: store.pop_message("s"),
            "clear": lambda store: store.clear_session("s"),
            "replace": lambda store: store.set_chat_history("s", [user("x")]),
        }
        async with self.make_store(clock=clock, ttl_seconds=10) as store:
            await store.add_message("s", "user", "x")
            for name, write in writes.items():
                clock.advance(9)
                await write(store)
                assert (await store.get_session("s")).expires_at == clock.now + 10, name
            clock.advance(9)
            await store.get_messages("s")
            await store.get_state("s")
            clock.advance(1)
            assert await is_absent(store, "s")

    async def test_store_without_ttl_keeps_sessions(self, clock: ManualClock) -> None:
        async with self.make_store(clock=clock) as store:
            await store.add_message("s", "user", "x")
            clock.advance(1e9)
            assert (await store.get_session("s")).expires_at is None
            assert texts(await store.get_messages("s")) == ["x"]

    async def test_nothing_of_an_expired_session_comes_back(self, clock: ManualClock) -> None:
        async with self.make_store(clock=clock, ttl_seconds=10) as store:
            await fill(store, "s", 3)
            await store.set_state("s", "k", 1)
            await store.update_session_metadata("s", m=1)
            await store.append_compaction_checkpoint("s", "so far")
            clock.advance(10)
            assert seqs(await store.append("s", [user("new")])) == [1]
            session = await store.get_session("s")
            assert texts(session.messages) == ["new"]
            assert (session.state, session.metadata, session.checkpoint) == ({}, {}, None)
            assert (session.created_at, session.message_count) == (clock.now, 1)

    @pytest.mark.parametrize("write", ["state", "metadata", "partial", "replace"])
    async def test_every_write_starts_over_after_expiry(
        self, clock: ManualClock, write: str
    ) -> None:
        async with self.make_store(clock=clock) as store:
            await fill(store, "s", 3)
            await store.set_state("s", "old", 1)
            await store.expire_session("s", 5)
            clock.advance(5)
            if write == "state":
                await store.increment_state("s", "new")
            elif write == "metadata":
                await store.rename_session("s", "new")
            elif write == "partial":
                await store.upsert_partial_assistant_message("s", "new")
            else:
                await store.set_chat_history("s", [user("new")])
            session = await store.get_session("s")
            assert "old" not in session.state
            assert texts(session.messages) == (["new"] if write in {"partial", "replace"} else [])
            assert session.last_seq == len(session.messages)
            assert (session.expires_at, session.created_at) == (None, START + 5)

    async def test_expired_session_has_nothing_to_remove(self, clock: ManualClock) -> None:
        async with self.make_store(clock=clock) as store:
            for session_id in ("a", "b", "c", "d"):
                await store.add_message(session_id, "user", "x")
                await store.expire_session(session_id, 5)
            clock.advance(5)
            assert await store.pop_message("a") is None
            assert await store.clear_session("b") is False
            assert await store.delete_session("c") is False
            assert await store.expire_session("d", 100) is False
            for session_id in ("a", "b", "c", "d"):
                assert await is_absent(store, session_id)

    async def test_expire_session_sets_and_lifts_the_moment(self, clock: ManualClock) -> None:
        async with self.make_store(clock=clock) as store:
            await fill(store, "s", 2)
            assert await store.expire_session("s", 10) is True
            clock.advance(9)
            assert await store.expire_session("s", 10) is True
            clock.advance(9)
            assert len(await store.get_messages("s")) == 2
            assert await store.expire_session("s", None) is True
            clock.advance(1e6)
            assert len(await store.get_messages("s")) == 2

    async def test_expiry_stays_through_writes_without_ttl(self, clock: ManualClock) -> None:
        async with self.make_store(clock=clock) as store:
            await store.add_message("s", "user", "x")
            await store.expire_session("s", 10)
            clock.advance(5)
            await store.add_message("s", "user", "y")
            await store.set_state("s", "k", 1)
            assert (await store.get_session("s")).expires_at == START + 10
            clock.advance(5)
            assert await is_absent(store, "s")

    async def test_expire_at_once(self, store: SessionStore) -> None:
        await store.add_message("s", "user", "x")
        assert await store.expire_session("s", 0) is True
        assert await is_absent(store, "s")

    async def test_many_may_expire_a_session_at_once(self, store: SessionStore) -> None:
        await fill(store, "s", 2)
        # Together, so that they are in one flush.
        done = await asyncio.gather(*(store.expire_session("s", 0) for _ in range(3)))
        assert done[0] is True
        assert await is_absent(store, "s")
        assert seqs(await store.append("s", [user("new")])) == [1]
        assert len(await store.get_messages("s")) == 1

    async def test_expire_of_an_absent_session_says_so(self, store: SessionStore) -> None:
        assert await store.expire_session("s", 10) is False
        assert await store.expire_session("s", None) is False
        assert await is_absent(store, "s")

    async def test_bad_seconds_are_refused(self, store: SessionStore) -> None:
        await store.add_message("s", "user", "x")
        bad: Any
        for bad in (-1, -0.001, math.nan, math.inf, _HUGE, Decimal(5)):
            with trying(bad), pytest.raises(ValueError, match="seconds"):
                await store.expire_session("s", bad)
        assert await store.session_exists("s") is True

    async def test_bad_ttl_is_refused(self) -> None:
        for seconds in (0, -1, math.nan, math.inf, _HUGE):
            with trying(seconds), pytest.raises(ValueError, match="ttl_seconds"):
                self.make_store(ttl_seconds=seconds)

    async def test_purge_removes_what_has_expired(self, clock: ManualClock) -> None:
        async with self.make_store(clock=clock) as store:
            for n in range(6):
                await store.add_message(f"s{n}", "user", "x")
                await store.set_state(f"s{n}", "k", 1)
            for n in range(4):
                await store.expire_session(f"s{n}", 10 + n % 2 * 1000)
            assert await store.purge_expired() == 0
            clock.advance(10)
            assert sorted(ids(await store.list_sessions())) == ["s1", "s3", "s4", "s5"]
            assert await store.purge_expired() == 2
            assert await store.purge_expired() == 0
            assert sorted(ids(await store.list_sessions())) == ["s1", "s3", "s4", "s5"]
            # Even a clock that is turned back finds nothing of them.
            clock.advance(-10)
            assert sorted(ids(await store.list_sessions())) == ["s1", "s3", "s4", "s5"]
            assert await is_absent(store, "s0")

    async def test_purge_removes_what_expires_sooner_than_it_did(self, clock: ManualClock) -> None:
        async with self.make_store(clock=clock, ttl_seconds=1000) as store:
            await store.add_message("s", "user", "x")
            await store.set_agent_info("s", "agent")
            assert await store.expire_session("s", 10) is True
            clock.advance(20)
            assert await store.purge_expired() == 1

    async def test_purge_takes_many(self, clock: ManualClock) -> None:
        async with self.make_store(clock=clock, ttl_seconds=5) as store:
            for n in range(230):
                await store.add_message(f"s{n}", "user", "x")
            clock.advance(5)
            await store.add_message("s7", "user", "alive again")
            assert await store.purge_expired() == 229
            assert ids(await store.list_sessions()) == ["s7"]
