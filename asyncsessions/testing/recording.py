"""Cases of a session's record: metadata, titles, agents, state."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import pytest

from asyncsessions.codec import MAX_DEPTH
from asyncsessions.errors import InvalidMessageError
from asyncsessions.protocols import SessionStore
from asyncsessions.testing._cases import (
    StoreCases,
    fill,
    ids,
    is_absent,
    same,
    trying,
    user,
)

__all__ = ["AliasingCases", "MetadataCases", "StateCases"]


class MetadataCases(StoreCases):
    """Metadata, titles, and who talks in a session."""

    async def test_update_sets_keys_and_leaves_others(self, store: SessionStore) -> None:
        assert await store.update_session_metadata("s", a=1, b={"x": [1]}) is True
        assert await store.update_session_metadata("s", b="new", c=None, d=False) is True
        assert (await store.get_session("s")).metadata == {"a": 1, "b": "new", "d": False}

    async def test_update_with_nothing_creates_nothing(self, store: SessionStore) -> None:
        assert await store.update_session_metadata("s", a=None) is True
        assert await is_absent(store, "s")

    async def test_metadata_may_have_any_key(self, store: SessionStore) -> None:
        keys = ["self", "store", "session_id", "a.b", "a/b", "", "$set", "{", "ключ", "x\0y", "'"]
        await store.update_session_metadata("s", **{key: key for key in keys})
        assert (await store.get_session("s")).metadata == {key: key for key in keys}

    async def test_known_keys_also_set_the_record(self, store: SessionStore) -> None:
        await store.update_session_metadata("s", agent_name="n", user_id="u", agent_id="i")
        session = await store.get_session("s")
        assert (session.agent_name, session.user_id, session.agent_id) == ("n", "u", "i")
        assert ids(await store.get_sessions_by_agent("n")) == ["s"]

    async def test_merge_is_defaults_then_stored_then_updates(self, store: SessionStore) -> None:
        await store.update_session_metadata("s", other=1, map={"a": "stored", "b": "stored"})
        defaults = {"a": "default", "b": "default", "c": "default", "d": "default"}
        updates = {"b": "update", "c": "update"}
        merge = store.merge_session_metadata_map
        assert await merge("s", "map", updates, defaults=defaults) is True
        merged = {"a": "stored", "b": "update", "c": "update", "d": "default"}
        assert (await store.get_session("s")).metadata == {"other": 1, "map": merged}

    async def test_merge_creates_the_map(self, store: SessionStore) -> None:
        await store.merge_session_metadata_map("s", "map", {"a": 1})
        await store.merge_session_metadata_map("s", "map", {"b": 2})
        assert (await store.get_session("s")).metadata == {"map": {"a": 1, "b": 2}}

    async def test_merge_replaces_what_is_no_map(self, store: SessionStore) -> None:
        await store.update_session_metadata("s", map="text")
        await store.merge_session_metadata_map("s", "map", {"a": 1})
        assert (await store.get_session("s")).metadata == {"map": {"a": 1}}

    async def test_rename_sets_and_removes_the_title(self, store: SessionStore) -> None:
        assert await store.rename_session("s", "  Lunch \n") is True
        session = await store.get_session("s")
        assert (session.title, session.metadata) == ("Lunch", {"title": "Lunch"})
        assert await store.rename_session("s", "  ") is True
        session = await store.get_session("s")
        assert (session.title, session.metadata) == (None, {})

    async def test_agent_info_skips_empty_values(self, store: SessionStore) -> None:
        assert await store.set_agent_info("s", "agent", "ada") is True
        assert await store.set_agent_info("s", "", None) is True
        assert await store.set_agent_info("s", agent_name="other") is True
        session = await store.get_session("s")
        assert (session.agent_name, session.user_id) == ("other", "ada")

    async def test_gateway_info_finds_its_session(self, store: SessionStore) -> None:
        stored = await fill(store, "s", 2)
        assert await store.set_gateway_info("s", "gate-1", "agent-1") is True
        await store.set_gateway_info("t", "gate-2")
        found = await store.get_by_gateway_session("gate-1")
        assert found is not None
        assert (found.session_id, found.agent_id, found.messages) == ("s", "agent-1", stored)
        assert await store.get_by_gateway_session("gate") is None

    async def test_record_of_a_new_session_needs_no_message(self, store: SessionStore) -> None:
        await store.set_agent_info("s", "agent")
        assert await store.session_exists("s") is True
        assert await store.get_messages("s") == []
        assert ids(await store.list_sessions()) == ["s"]

    async def test_record_changes_leave_messages_and_seq_alone(self, store: SessionStore) -> None:
        stored = await fill(store, "s", 2)
        await store.rename_session("s", "title")
        await store.increment_state("s", "n")
        assert await store.get_messages("s") == stored
        assert (await store.get_session("s")).last_seq == 2

    async def test_concurrent_merges_of_different_keys_all_survive(
        self, store: SessionStore
    ) -> None:
        calls: list[Any] = []
        for n in range(20):
            calls.append(store.update_session_metadata("s", **{f"k{n}": n}))
            calls.append(store.merge_session_metadata_map("s", "map", {f"m{n}": n}))
            calls.append(store.set_state("s", f"s{n}", n))
        await asyncio.gather(*calls)
        session = await store.get_session("s")
        merged = {f"m{n}": n for n in range(20)}
        assert session.metadata == {"map": merged} | {f"k{n}": n for n in range(20)}
        assert session.state == {f"s{n}": n for n in range(20)}


class StateCases(StoreCases):
    """The state: values by key, and atomic sums."""

    async def test_state_is_read_by_key_or_whole(self, store: SessionStore) -> None:
        await store.set_state("s", "a", {"x": [1, None]})
        await store.set_state("s", "b", None)
        assert await store.get_state("s") == {"a": {"x": [1, None]}, "b": None}
        assert await store.get_state("s", "a") == {"x": [1, None]}
        assert await store.get_state("s", "b", "default") is None
        assert await store.get_state("s", "c") is None
        assert await store.get_state("s", "c", "default") == "default"
        assert await store.get_state("absent", "c", "default") == "default"
        assert await store.get_state("absent") == {}

    async def test_update_sets_and_removes_in_one_step(self, store: SessionStore) -> None:
        await store.update_state("s", {"a": 1, "b": 2, "c": 3})
        await store.update_state("s", {"a": 10, "d": 4}, remove=["b", "absent"])
        assert await store.get_state("s") == {"a": 10, "c": 3, "d": 4}

    async def test_increment_returns_the_new_value(self, store: SessionStore) -> None:
        assert await store.increment_state("s", "n") == 1
        assert await store.increment_state("s", "n", 5) == 6
        assert await store.increment_state("s", "n", -10) == -4
        assert await store.get_state("s") == {"n": -4}
        assert type(await store.get_state("s", "n")) is int

    async def test_increment_takes_floats(self, store: SessionStore) -> None:
        assert await store.increment_state("s", "x", 0.5) == 0.5
        assert await store.increment_state("s", "x", -0.25) == 0.25
        await store.set_state("s", "y", 1.5)
        assert await store.increment_state("s", "y") == 2.5
        assert await store.increment_state("s", "x", 0) == 0.25

    async def test_big_integers_stay_exact(self, store: SessionStore) -> None:
        await store.set_state("s", "n", 2**53)
        assert await store.increment_state("s", "n") == 2**53 + 1
        value = await store.get_state("s", "n")
        assert same(value, 2**53 + 1)

    async def test_only_a_number_is_incremented(self, store: SessionStore) -> None:
        value: Any
        for value in ("1", True, [1], {"a": 1}):
            with trying(value):
                await store.set_state("s", "n", value)
                with pytest.raises(InvalidMessageError) as caught:
                    await store.increment_state("s", "n")
                assert caught.value.field == "state.n"
                assert same(await store.get_state("s", "n"), value)

    async def test_increment_is_by_a_number(self, store: SessionStore) -> None:
        bad: Any
        for bad in ("1", None, True, math.nan, math.inf):
            with trying(bad), pytest.raises(InvalidMessageError):
                await store.increment_state("s", "n", bad)
        assert await is_absent(store, "s")

    async def test_failed_increment_fails_alone(self, store: SessionStore) -> None:
        await store.set_state("s", "text", "x")
        calls = [store.increment_state("s", key) for key in ("n", "text", "n", "n")]
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        assert isinstance(outcomes[1], InvalidMessageError)
        assert sorted(each for each in outcomes if isinstance(each, int)) == [1, 2, 3]
        assert await store.get_state("s") == {"text": "x", "n": 3}

    async def test_concurrent_increments_sum_up(self, store: SessionStore) -> None:
        values = await asyncio.gather(*(store.increment_state("s", "n") for _ in range(50)))
        assert sorted(values) == list(range(1, 51))
        assert await store.get_state("s", "n") == 50

    async def test_state_may_have_any_key(self, store: SessionStore) -> None:
        for key in ("a.b", "a/b", "", "$inc", "{", "ключ", "x\0y", "0", "'"):
            await store.set_state("s", key, {key: key})
            assert await store.get_state("s", key) == {key: key}
        assert len(await store.get_state("s")) == 9


class AliasingCases(StoreCases):
    """What is stored changes only through the store."""

    async def test_arguments_are_the_callers_again(self, store: SessionStore) -> None:
        parts, metadata, value = [{"type": "text", "text": "a"}], {"k": ["v"]}, ["v"]
        await store.append("s", [{"role": "user", "content": parts, "metadata": metadata}])
        await store.set_state("s", "k", value)
        await store.update_session_metadata("s", k=value)
        await store.merge_session_metadata_map("s", "map", {"k": value})
        parts[0]["text"] = metadata["k"][0] = value[0] = "changed"
        # Another write, in case the store keeps the record that it wrote last.
        await store.set_state("s", "other", 1)
        assert "changed" not in str(await store.get_session("s"))

    async def test_arguments_of_a_call_under_way_are_too(self, store: SessionStore) -> None:
        await store.add_message("s", "user", "warm up")
        metadata, value = {"k": ["v"]}, ["v"]
        tasks: list[asyncio.Future[Any]] = [
            asyncio.ensure_future(store.add_message("s", "user", "x", metadata)),
            asyncio.ensure_future(store.set_state("s", "k", value)),
        ]
        await asyncio.sleep(0)
        metadata["k"][0] = value[0] = "changed"
        await asyncio.gather(*tasks)
        assert "changed" not in str(await store.get_session("s"))

    async def test_large_arguments_of_a_call_under_way_are_too(self, store: SessionStore) -> None:
        rows = [{"k": ["v"]} for _ in range(500)]
        value: dict[str, Any] = {"text": "x" * (1 << 20), "rows": rows}
        tasks: list[asyncio.Future[Any]] = [
            asyncio.ensure_future(store.set_state("s", "k", value)),
            asyncio.ensure_future(store.update_session_metadata("s", k=value)),
            asyncio.ensure_future(store.append_compaction_checkpoint("s", "S", metadata=value)),
        ]
        await asyncio.sleep(0)
        rows[0]["k"][0] = rows[-1]["k"][0] = "changed"
        value["new"] = "changed"
        rows.append({"k": ["changed"]})
        await asyncio.gather(*tasks)
        assert "changed" not in str(await store.get_session("s"))

    async def test_deep_values_beside_large_ones_come_back(self, store: SessionStore) -> None:
        deep: Any = "x"
        for _ in range(MAX_DEPTH - 1):
            deep = {"d": deep}
        values = {"deep": deep, "large": "x" * (1 << 19)}
        await store.update_session_metadata("s", k=deep, large=values["large"])
        for key, value in values.items():
            await store.set_state("s", key, value)
        assert await store.get_state("s") == values
        (info,) = await store.list_sessions()
        assert info.metadata["k"] == deep

    async def test_results_are_the_callers_own(self, store: SessionStore) -> None:
        given = user("x") | {"metadata": {"k": ["v"]}}
        (stored,) = await store.append("s", [given])
        await store.set_state("s", "k", {"deep": ["v"]})
        await store.update_session_metadata("s", k={"deep": ["v"]})
        stored.metadata["k"][0] = "changed"
        (message,) = await store.get_messages("s")
        message.metadata["k"][0] = "changed"
        session = await store.get_session("s")
        session.state["k"]["deep"][0] = session.metadata["k"]["deep"][0] = "changed"
        (await store.get_state("s"))["new"] = "changed"
        (await store.get_state("s", "k"))["deep"].append("changed")
        (info,) = await store.list_sessions()
        info.metadata["new"] = info.state["new"] = "changed"
        (await store.export_session("s"))["state"]["k"]["deep"].append("changed")
        await store.set_state("s", "other", 1)
        assert "changed" not in str(await store.get_session("s"))
