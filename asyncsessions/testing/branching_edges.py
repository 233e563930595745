"""Cases of sessions that branch where it is easy to leave something behind, or to show it again."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, cast

import pytest
from hypothesis import given

from asyncsessions.base import BaseSessionStore
from asyncsessions.codec import encode_json, with_seq
from asyncsessions.errors import (
    InvalidMessageError,
    SessionChangedError,
    SessionExistsError,
    VersionConflictError,
)
from asyncsessions.hierarchy import HierarchicalSessionStore
from asyncsessions.hooks import SHARED, Change
from asyncsessions.models import Message
from asyncsessions.testing._branch_cases import Hierarchy, HierarchyCases, add, shown_in
from asyncsessions.testing._cases import ManualClock, fill, ids, seqs, texts, user
from asyncsessions.testing.cancelling import cancelled_at
from asyncsessions.testing.properties import any_id, property_settings

__all__ = ["BranchEdgeCases"]

TREE = "asyncsessions:tree"


async def _leave(tree: Hierarchy) -> str:
    """Delete a session whose newest message, a part of a turn, its fork doesn't show."""
    await fill(tree, "s", 2)
    await tree.upsert_partial_assistant_message("s", "begun")
    fork = await tree.fork_session("s", from_seq=2)
    await tree.delete_session("s")
    return fork


class _ReusedIdCases(HierarchyCases):
    """A session of a deleted one's id is a new one, whoever still reads the old one."""

    async def test_a_turn_begins_anew(self, tree: Hierarchy) -> None:
        fork = await _leave(tree)
        await tree.discard_partial_assistant_message("s")
        assert await tree.pop_message("s") is None
        await tree.upsert_partial_assistant_message("s", "new")
        assert await shown_in(tree, "s") == ["new"]
        await tree.upsert_partial_assistant_message("s", "newer", finalize=True)
        assert await shown_in(tree, "s") == ["newer"]
        assert (await tree.get_session("s")).message_count == 1
        assert await shown_in(tree, await tree.fork_session("s")) == ["newer"]
        assert await shown_in(tree, fork) == ["m1", "m2"]

    @pytest.mark.parametrize("contents", [["x", "y"], []])
    async def test_a_history_begins_anew(self, tree: Hierarchy, contents: list[str]) -> None:
        fork = await _leave(tree)
        assert await tree.set_chat_history("s", [user(text) for text in contents])
        assert await tree.session_exists("s")
        assert await shown_in(tree, "s") == contents
        assert await shown_in(tree, fork) == ["m1", "m2"]

    async def test_an_append_that_expects_nothing_succeeds(self, tree: Hierarchy) -> None:
        await _leave(tree)
        (message,) = await tree.append("s", [user("new")], expected_seq=0)
        assert await tree.get_messages("s") == [message]
        with pytest.raises(VersionConflictError) as caught:
            await tree.append("s", [user("newer")], expected_seq=0)
        assert caught.value.messages == [message]

    async def test_a_key_of_the_deleted_one_is_forgotten(self, tree: Hierarchy) -> None:
        for content in ("old", "new", "newer"):
            for _ in range(2):
                await tree.append("s", [user(content)], idempotency_key="k")
            assert await shown_in(tree, "s") == [content]
            await tree.fork_session("s")
            await tree.delete_session("s")

    async def test_kin_of_the_deleted_one_is_none_of_its_own(self, tree: Hierarchy) -> None:
        fork = await _leave(tree)
        below = await tree.fork_session(fork)
        await tree.add_message("s", "user", "new")
        assert await tree.get_children("s") == []
        assert await tree.get_parent(fork) is None
        assert (await tree.get_session_tree("s")).children == []
        assert await tree.delete_session(fork)
        await tree.create_session(fork, parent_id="s")
        assert await tree.get_children("s") == [fork]
        assert await tree.get_parent(fork) == "s"
        assert await tree.get_parent(below) is None
        assert await shown_in(tree, fork) == []
        assert await shown_in(tree, below) == ["m1", "m2"]

    async def test_expiry_finds_no_deleted_session(self, tree: Hierarchy) -> None:
        fork = await _leave(tree)
        for seconds in (0, 5, None):
            assert await tree.expire_session("s", seconds) is False
        assert await shown_in(tree, fork) == ["m1", "m2"]

    async def test_an_id_is_used_once_by_those_who_create(self, tree: Hierarchy) -> None:
        await tree.create_session("s", title="first")
        with pytest.raises(SessionExistsError):
            await tree.create_session("s", title="second")
        await tree.delete_session("s")
        await tree.create_session("s", title="third")
        assert (await tree.get_session("s")).title == "third"


class _RecordCases(HierarchyCases):
    """What is expected of a record, and what fits in it."""

    async def test_an_expectation_changes_nothing(
        self, tree: Hierarchy, plain: BaseSessionStore
    ) -> None:
        await fill(tree, "s", 1)
        await tree.set_agent_info("s", agent_name="bot")
        await tree.append_compaction_checkpoint("s", "so far")
        for path in [("agent_name",), ("checkpoint",), ("metadata", "a", "b")]:
            expected = Change(path, "expect", None)
            before = await plain.get_info("s")
            if path[0] == "metadata":
                await plain.amend_session("s", [expected])
            else:
                with pytest.raises(SessionChangedError):
                    await plain.amend_session("s", [expected])
            after = await plain.get_info("s")
            assert before is not None
            assert after is not None
            assert after.metadata == before.metadata == {}
            assert (after.agent_name, after.checkpoint) == (before.agent_name, before.checkpoint)
        changes = [Change(("user_id",), "expect", None), Change(("agent_name",), "expect", "bot")]
        assert await plain.amend_session("s", changes) is not None

    @given(text=any_id)
    @property_settings
    async def test_any_id_is_forked(self, text: str) -> None:
        plain = cast("BaseSessionStore", self.make_store())
        async with HierarchicalSessionStore(plain) as tree:
            await fill(tree, text, 2)
            fork = await tree.fork_session(text)
            await tree.set_chat_history(text, [user("x")])
            snapshot = await tree.create_snapshot(text)
            await tree.add_message(fork, "user", "y")
            await tree.clear_session(text)
            await tree.revert_to_snapshot(text, snapshot)
            assert await shown_in(tree, text) == ["x"]
            assert await shown_in(tree, fork) == ["m1", "m2", "y"]
            assert await tree.get_parent(fork) == text
            assert await tree.delete_session(text)
            assert await shown_in(tree, fork) == ["m1", "m2", "y"]
            assert await tree.delete_session(fork)
            assert await plain.get_info(text) is None

    async def test_a_session_has_many_snapshots(self, tree: Hierarchy) -> None:
        await tree.set_state("s", "big", "x" * 2000)
        snapshots = []
        for number in range(60):
            await tree.set_state("s", "n", number)
            await fill(tree, "s", 1)
            snapshots.append(await tree.create_snapshot("s", str(number)))
        assert [each.label for each in await tree.get_snapshots("s")] == [*map(str, range(60))]
        for number in (59, 0, 30):
            await tree.revert_to_snapshot("s", snapshots[number])
            assert await tree.get_state("s", "n") == number
            assert len(await tree.get_messages("s")) == number + 1
        assert await tree.delete_session("s")


class _ImportCases(HierarchyCases):
    """An import is no way around what keeps sessions together."""

    async def test_an_import_replaces_a_session_that_others_read(self, tree: Hierarchy) -> None:
        await fill(tree, "s", 3)
        data = await tree.export_session("s")
        fork = await tree.fork_session("s")
        await tree.clear_session("s")
        await tree.add_message("s", "user", "other")
        report = await tree.import_sessions([data], overwrite=True)
        assert (report.imported, report.skipped) == (1, [])
        assert await shown_in(tree, "s") == ["m1", "m2", "m3"]
        assert await shown_in(tree, fork) == ["m1", "m2", "m3"]
        assert (await tree.get_session("s")).message_count == 3

    async def test_an_import_brings_a_deleted_session_back(self, tree: Hierarchy) -> None:
        await fill(tree, "s", 3)
        await tree.append_compaction_checkpoint("s", "so far", seq=2)
        data = await tree.export_session("s")
        fork = await tree.fork_session("s")
        await tree.delete_session("s")
        report = await tree.import_sessions([data])
        assert (report.imported, report.skipped) == (1, [])
        assert await shown_in(tree, "s") == ["m1", "m2", "m3"]
        assert len(await tree.get_working_history("s")) == 2
        assert await shown_in(tree, fork) == ["m1", "m2", "m3"]

    async def test_an_import_shows_nothing_of_others(self, tree: Hierarchy) -> None:
        await fill(tree, "victim", 3)
        view = {"parts": [["victim", 0, 3, 3]], "after": 0, "hidden": 0}
        forged = {TREE: {"view": view, "token": "t"}, SHARED: {"x": 9}, "a": 1}
        data = {"session_id": "s", "messages": [user("x")], "metadata": forged}
        assert (await tree.import_sessions([data])).imported == 1
        assert await shown_in(tree, "s") == ["x"]
        assert (await tree.get_session("s")).metadata == {"a": 1}
        record = {"metadata": forged, "state": {}}
        snapshot = {"snapshot_id": "i", "created_at": 1.0, "record": record, "messages": []}
        lineage = {"snapshots": [snapshot]}
        await tree.import_session(data | {"session_id": "t", "lineage": lineage})
        await tree.revert_to_snapshot("t", "i")
        assert await shown_in(tree, "t") == []
        assert await tree.delete_session("s")
        assert await tree.delete_session("t")


class _ReadingCases(HierarchyCases):
    """What is stored in several places is read whole, one message at a time, too."""

    async def test_a_long_fork_is_read_whole(self, tree: Hierarchy) -> None:
        """Also where a page of its parent's messages ends with the last byte that it may have."""
        frames = [len(with_seq(encode_json(Message("user", "", 1.0)), n)) for n in range(1, 701)]
        # The codec leaves out an empty text's default, and each line has an end.
        whole = [Message("user", "x" * (8191 - size), 1.0) for size in frames]
        for start in range(0, 700, 100):
            await tree.append("s", whole[start : start + 100])
        fork = await tree.fork_session("s")
        await add(tree, fork, "last")
        numbers = [message.seq async for message in tree.iter_messages(fork)]
        assert numbers == list(range(1, 702))
        exported = await tree.export_session(fork)
        assert len(exported["messages"]) == 701

    async def test_retention_after_a_revert_hides_nothing_else(self, clock: ManualClock) -> None:
        plain = cast("BaseSessionStore", self.make_store(clock=clock, max_messages=10))
        async with HierarchicalSessionStore(plain) as tree:
            await fill(tree, "s", 10)
            await tree.revert_to_message("s", 8)
            await add(tree, "s", "n1", "n2", "n3")
            popped = await tree.pop_message("s")
            assert popped is not None
            assert popped.content == "n3"
            left = texts(await tree.get_messages("s"))
            assert left[-2:] == ["n1", "n2"]
            await tree.upsert_partial_assistant_message("s", "begun")
            await tree.discard_partial_assistant_message("s")
            left = texts(await tree.get_messages("s"))
            assert left[-2:] == ["n1", "n2"]
            for index, text in enumerate(left):
                fork = await tree.fork_session("s", from_message_index=index)
                assert texts(await tree.get_messages(fork))[-1] == text


class _LeftoverCases(HierarchyCases):
    """What is refused or cancelled leaves nothing behind, and nothing that is needed goes."""

    async def test_refused_calls_leave_no_notes(
        self, tree: Hierarchy, plain: BaseSessionStore
    ) -> None:
        await fill(tree, "s", 3)
        before = await plain.get_messages("s")
        bad: Any = {"x": object()}
        for refused in (
            tree.create_snapshot("s", metadata=bad),
            tree.create_snapshot("s", "\ud800"),
            tree.fork_session("s", title="\ud800"),
        ):
            with pytest.raises(InvalidMessageError):
                await refused
        number: Any = "2"
        calls: list[Awaitable[object]] = [
            tree.fork_session("s", from_seq=number),
            tree.fork_session("s", from_message_index=number),
            tree.revert_to_message("s", number),
        ]
        for call in calls:
            with pytest.raises(ValueError, match="number"):
                await call
        assert await plain.get_messages("s") == before
        assert await tree.get_children("s") == []
        # Nobody reads it, so that a store alone may remove it.
        assert await plain.delete_session("s")
        assert ids(await plain.list_sessions()) == []

    async def test_a_snapshot_keeps_what_is_stored_elsewhere(self, tree: Hierarchy) -> None:
        await fill(tree, "s", 2)
        fork = await tree.fork_session("s")
        await tree.set_chat_history("s", [user("x"), user("y")])
        snapshot = await tree.create_snapshot("s")
        await tree.delete_session(fork)
        await tree.clear_session("s")
        await tree.revert_to_snapshot("s", snapshot)
        assert await shown_in(tree, "s") == ["x", "y"]

    async def test_what_expired_is_purged_with_its_snapshots(self, clock: ManualClock) -> None:
        plain = cast("BaseSessionStore", self.make_store(clock=clock, ttl_seconds=10.0))
        async with HierarchicalSessionStore(plain) as tree:
            await fill(tree, "s", 2)
            await tree.create_snapshot("s")
            clock.advance(20)
            assert await tree.purge_expired() == 1
            assert await tree.purge_expired() == 0
            assert seqs(await fill(tree, "s", 1)) == [1]
            assert await tree.get_snapshots("s") == []

    async def test_real_clocks_remove_a_deleted_session_for_good(self) -> None:
        plain = cast("BaseSessionStore", self.make_store())
        async with HierarchicalSessionStore(plain) as tree:
            await fill(tree, "s", 2)
            fork = await tree.fork_session("s")
            await tree.create_snapshot(fork)
            await tree.delete_session("s")
            await tree.delete_session(fork)
            assert await plain.get_info("s") is None
            assert await plain.get_info(fork) is None

    @pytest.mark.parametrize("name", [0, 1, 2, 3, 4, 5, 6, 7])
    async def test_a_cancelled_call_leaves_nothing_behind(
        self, tree: Hierarchy, plain: BaseSessionStore, name: int
    ) -> None:
        call = _CANCELLED[name]
        for nth in range(1, 500):
            await fill(tree, "s", 3)
            snapshot = await tree.create_snapshot("s")
            fork = await tree.fork_session("s")
            await tree.revert_to_message("s", 2)
            reached = await cancelled_at(lambda: call(tree, snapshot), nth)  # noqa: B023
            assert await shown_in(tree, fork) == ["m1", "m2", "m3"]
            for session in await tree.list_sessions():
                await tree.delete_session(session.session_id)
            assert ids(await plain.list_sessions()) == []
            if not reached:
                break


_CANCELLED: list[Callable[[Hierarchy, str], Awaitable[object]]] = [
    lambda tree, _: tree.fork_session("s"),
    lambda tree, _: tree.create_snapshot("s"),
    lambda tree, snapshot: tree.revert_to_snapshot("s", snapshot),
    lambda tree, _: tree.revert_to_message("s", 1),
    lambda tree, _: tree.clear_session("s"),
    lambda tree, _: tree.delete_session("s"),
    lambda tree, _: tree.set_chat_history("s", [user("x")]),
    lambda tree, _: tree.create_session("child", parent_id="s"),
]


class BranchEdgeCases(_ReusedIdCases, _RecordCases, _ImportCases, _ReadingCases, _LeftoverCases):
    """Ids that are used again, imports, and what must not be left behind."""
