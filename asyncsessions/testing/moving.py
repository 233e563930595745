"""Cases of moving sessions: export and import."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from asyncsessions.errors import SessionNotFoundError
from asyncsessions.protocols import SessionStore
from asyncsessions.testing._cases import (
    START,
    ManualClock,
    StoreCases,
    fill,
    ids,
    is_absent,
    result,
    seqs,
    texts,
    tool_call,
    trying,
    user,
)

__all__ = ["MoveCases"]

_FULL = [
    user("Hello \0 群 🙂") | {"metadata": {"k": [1, None]}, "timestamp": 5.25},
    tool_call("c") | {"reasoning": {"steps": ["a"]}, "refusal": None},
    result("c") | {"name": "look_up"},
    {"role": "assistant", "content": [{"type": "text", "text": "done"}]},
]


async def _write_full(store: SessionStore, session_id: str) -> None:
    """Make a session that has everything a session can have."""
    await store.append(session_id, _FULL)
    await store.append_compaction_checkpoint(session_id, "so far", seq=2, metadata={"m": 1})
    await store.set_agent_info(session_id, "agent", "ada")
    await store.set_gateway_info(session_id, f"gate of {session_id}", "agent-1")
    await store.update_session_metadata(session_id, topic={"x": [1.5]}, title="Lunch")
    await store.set_state(session_id, "cart", {"n": 2})


class MoveCases(StoreCases):
    """What is exported comes back whole, as JSON, in bounded memory."""

    async def test_round_trip_keeps_everything(self, clock: ManualClock) -> None:
        async with self.make_store(clock=clock) as store:
            await _write_full(store, "s")
            await store.expire_session("s", 1000)
            clock.advance(60)
            before = await store.get_session("s")
            exported = json.loads(json.dumps(await store.export_session("s")))
            await store.delete_session("s")
            report = await store.import_sessions([exported])
            assert (report.imported, report.messages, report.skipped) == (1, 4, [])
            after = await store.get_session("s")
            for field in after.__struct_fields__:
                assert getattr(after, field) == getattr(before, field), field
            assert [m.to_dict() for m in after.messages] == [
                message | {"seq": n, "timestamp": message.get("timestamp", START)}
                for n, message in enumerate(_FULL, 1)
            ]
            found = await store.get_by_gateway_session("gate of s")
            assert found is not None
            assert found.session_id == "s"

    async def test_import_under_another_id(self, store: SessionStore) -> None:
        await _write_full(store, "s")
        exported = await store.export_session("s")
        await store.import_sessions([exported | {"session_id": "t", "gateway_session_id": None}])
        one, other = await store.get_session("s"), await store.get_session("t")
        assert other.messages == one.messages
        assert (other.state, other.metadata) == (one.state, one.metadata)
        assert await store.get_working_history("t") == await store.get_working_history("s")

    async def test_checkpoint_follows_its_message(self, store: SessionStore) -> None:
        await fill(store, "s", 4)
        await store.clear_session("s")
        await fill(store, "s", 3)
        await store.append_compaction_checkpoint("s", "so far", seq=6)
        history = await store.get_working_history("s")
        exported = await store.export_session("s")
        await store.delete_session("s")
        await store.import_sessions([exported])
        assert seqs(await store.get_messages("s")) == [1, 2, 3]
        assert await store.get_working_history("s") == history
        assert history == [{"role": "system", "content": "so far"}, user("m3")]

    async def test_all_sessions_come_back(self, store: SessionStore) -> None:
        for n in range(5):
            await _write_full(store, f"s/{n}")
        await store.set_state("no messages", "k", 1)
        exported = [part async for part in store.export_all()]
        before = {i: await store.get_session(i) for i in ids(await store.list_sessions())}
        for session_id in before:
            await store.delete_session(session_id)
        report = await store.import_sessions(json.loads(json.dumps({"sessions": exported})))
        assert (report.imported, report.skipped_count) == (6, 0)
        after = {i: await store.get_session(i) for i in ids(await store.list_sessions())}
        assert after.keys() == before.keys()
        for session_id, session in after.items():
            assert session.messages == before[session_id].messages
            assert session.state == before[session_id].state
            assert session.metadata == before[session_id].metadata
            assert session.updated_at == before[session_id].updated_at

    async def test_long_session_comes_in_parts(self, store: SessionStore) -> None:
        stored = await fill(store, "long", 2600)
        await store.set_state("long", "k", 1)
        await fill(store, "short", 2)
        parts = [part async for part in store.export_all()]
        long = [part for part in parts if part["session_id"] == "long"]
        assert len(long) > 1
        assert [part.get("part", 1) for part in long] == list(range(1, len(long) + 1))
        assert max(len(part["messages"]) for part in parts) < 2600
        await store.delete_session("long")
        await store.delete_session("short")

        async def stream() -> AsyncIterator[dict[str, Any]]:
            for part in parts:
                yield part

        report = await store.import_sessions(stream())
        assert (report.imported, report.messages, report.skipped) == (2, 2602, [])
        assert await store.get_messages("long") == stored
        assert await store.get_state("long") == {"k": 1}
        assert len(await store.get_messages("short")) == 2

    async def test_existing_sessions_are_skipped_or_replaced(self, store: SessionStore) -> None:
        await fill(store, "s", 3)
        await store.set_state("s", "old", 1)
        given = [{"session_id": "s", "messages": [user("new")], "state": {"new": 1}}]
        report = await store.import_sessions(given)
        assert (report.imported, report.skipped_count) == (0, 1)
        assert report.skipped[0]["session_id"] == "s"
        assert len(await store.get_messages("s")) == 3
        report = await store.import_sessions(given, overwrite=True)
        assert (report.imported, report.skipped_count) == (1, 0)
        assert texts(await store.get_messages("s")) == ["new"]
        assert await store.get_state("s") == {"new": 1}

    async def test_what_cannot_be_stored_replaces_nothing(self) -> None:
        unstorable: list[dict[str, Any]] = [
            {"messages": [user("good"), user("x") | {"content": 5}]},
            {"messages": [user("x" * 2000)]},
            {"messages": [user("\ud800")]},
            {"messages": [], "state": {"k": "x" * 2000}},
        ]
        async with self.make_store(max_message_bytes=1000) as store:
            stored = await fill(store, "s", 3)
            for bad in unstorable:
                with trying(bad):
                    given = [{"session_id": "s"} | bad]
                    report = await store.import_sessions(given, overwrite=True)
                    assert (report.imported, report.skipped_count) == (0, 1)
                    assert await store.get_messages("s") == stored

    async def test_a_part_without_its_first_part_is_reported(self, store: SessionStore) -> None:
        parts: list[dict[str, Any]] = [
            {"session_id": "s", "part": 2, "messages": [user("x")]},
            {"session_id": "t", "messages": [{"content": "no role"}]},
            {"session_id": "t", "part": 2, "messages": [user("y")]},
        ]
        report = await store.import_sessions(parts)
        assert report.imported == 0
        assert [skip["session_id"] for skip in report.skipped] == ["s", "t"]
        assert await is_absent(store, "s")
        assert await is_absent(store, "t")

    async def test_plain_objects_are_taken(self, store: SessionStore) -> None:
        given = {"session_id": "s", "metadata": {"k": 1}, "messages": [user("a"), user("b")]}
        report = await store.import_sessions(given)
        assert (report.imported, report.messages) == (1, 2)
        session = await store.get_session("s")
        assert (texts(session.messages), session.metadata) == (["a", "b"], {"k": 1})

    async def test_one_bad_object_stops_nothing(self, store: SessionStore) -> None:
        given: list[Any] = [
            {"session_id": "good 1", "messages": [user("a")]},
            {"messages": [user("no id")]},
            {"session_id": "", "messages": []},
            {"session_id": "no role", "messages": [{"content": "x"}]},
            {"session_id": "bad content", "messages": [user("a"), {"role": "user", "content": 1}]},
            {"session_id": "bad messages", "messages": "text"},
            {"session_id": "bad state", "messages": [], "state": ["x"]},
            {"session_id": "bad field", "messages": [], "created_at": "yesterday"},
            {"session_id": "no time", "messages": [], "updated_at": float("nan")},
            {"session_id": "never", "messages": [], "expires_at": float("inf")},
            "text",
            {"session_id": "good 2", "messages": [user("b")]},
        ]
        report = await store.import_sessions(given)
        assert (report.imported, report.messages, report.skipped_count) == (2, 2, 10)
        assert all(skip["reason"] for skip in report.skipped)
        assert sorted(ids(await store.list_sessions())) == ["good 1", "good 2"]

    async def test_import_stops_after_so_many(self, store: SessionStore) -> None:
        given = [{"session_id": f"s{n}", "messages": [user("x")]} for n in range(5)]
        assert (await store.import_sessions(given, max_sessions=0)).imported == 0
        assert (await store.import_sessions(given, max_sessions=2)).imported == 2
        assert sorted(ids(await store.list_sessions())) == ["s0", "s1"]
        with pytest.raises(ValueError, match="max_sessions"):
            await store.import_sessions(given, max_sessions=-1)

    async def test_export_of_nothing(self, store: SessionStore) -> None:
        with pytest.raises(SessionNotFoundError) as caught:
            await store.export_session("s")
        assert caught.value.session_id == "s"
        assert [part async for part in store.export_all()] == []
        assert await is_absent(store, "s")

    async def test_imported_session_goes_on(self, store: SessionStore) -> None:
        await store.import_sessions([{"session_id": "s", "messages": [user("a"), user("b")]}])
        assert seqs(await store.append("s", [user("c")], expected_seq=2)) == [3]

    async def test_import_keeps_when_a_session_began(self, store: SessionStore) -> None:
        times = {"created_at": 1000.5, "updated_at": 2000.5}
        await store.import_sessions([times | {"session_id": "s", "messages": [user("x")]}])
        assert (await store.get_session("s")).created_at == 1000.5

    async def test_import_keeps_the_time_that_is_left(self, store: SessionStore) -> None:
        now = time.time()
        written = {"created_at": now - 9000, "updated_at": now - 7200, "messages": [user("x")]}
        later = written | {"session_id": "later", "expires_at": now + 3600}
        past = written | {"session_id": "past", "expires_at": now - 3600}
        await fill(store, "past", 1)
        report = await store.import_sessions([later, past], overwrite=True)
        assert report.skipped == [{"session_id": "past", "reason": "it has expired"}]
        # A server's own clock decides, and may differ a little.
        expires_at = (await store.get_session("later")).expires_at
        assert expires_at is not None
        assert abs(expires_at - (now + 3600)) < 60
        assert len(await store.get_messages("past")) == 1

    async def test_import_twice_changes_nothing(self, store: SessionStore) -> None:
        await _write_full(store, "s")
        exported = await store.export_session("s")
        await store.delete_session("s")
        await store.import_sessions([exported])
        before = await store.get_session("s")
        report = await store.import_sessions([exported])
        assert (report.imported, report.messages) == (0, 0)
        assert report.skipped == [{"session_id": "s", "reason": "it exists"}]
        assert await store.get_session("s") == before

    async def test_import_goes_on_where_it_stopped(self, store: SessionStore) -> None:
        texts_of = [user(f"m{n}") | {"timestamp": 1000.5 + n} for n in range(6)]
        times = {"created_at": 1000.5, "updated_at": 2000.5}
        first = times | {"session_id": "s", "metadata": {"k": 1}, "messages": texts_of[:2]}
        second = {"session_id": "s", "part": 2, "messages": texts_of[2:4]}
        third = {"session_id": "s", "part": 3, "messages": texts_of[4:]}
        await store.import_sessions([first, second])
        report = await store.import_sessions([first, second, third])
        assert (report.imported, report.messages, report.skipped) == (1, 2, [])
        messages = await store.get_messages("s")
        assert [(m.seq, m.content, m.timestamp) for m in messages] == [
            (n + 1, f"m{n}", 1000.5 + n) for n in range(6)
        ]
        assert (await store.get_session("s", max_messages=0)).metadata == {"k": 1}

    async def test_import_leaves_another_session_alone(self, store: SessionStore) -> None:
        given = {"session_id": "s", "messages": [user("a") | {"timestamp": 5.5}, user("b")]}
        await store.append("s", [user("a") | {"timestamp": 6.5}])
        report = await store.import_sessions([given, given | {"session_id": "t"}])
        assert report.imported == 1
        assert report.skipped == [{"session_id": "s", "reason": "it exists and differs"}]
        assert texts(await store.get_messages("s")) == ["a"]

    async def test_import_under_the_id_of_an_expired_session(self, store: SessionStore) -> None:
        await fill(store, "s", 3)
        await store.expire_session("s", 0)
        report = await store.import_sessions([{"session_id": "s", "messages": [user("new")]}])
        assert (report.imported, report.skipped) == (1, [])
        assert texts(await store.get_messages("s")) == ["new"]
