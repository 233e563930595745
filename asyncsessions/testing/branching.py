"""Cases of hierarchical sessions: forks, and what a store needs for them."""

from __future__ import annotations

import itertools
from typing import cast

import pytest

from asyncsessions.base import BaseSessionStore
from asyncsessions.errors import (
    MessageNotFoundError,
    SessionChangedError,
    SessionNotFoundError,
    SessionSharedError,
    VersionConflictError,
)
from asyncsessions.hierarchy import HierarchicalSessionStore
from asyncsessions.hooks import SHARED, Change
from asyncsessions.models import Message
from asyncsessions.testing._branch_cases import Call, Hierarchy, HierarchyCases, add, said, shown_in
from asyncsessions.testing._cases import (
    ManualClock,
    fill,
    ids,
    is_absent,
    result,
    seqs,
    texts,
    tool_call,
    user,
)
from asyncsessions.testing.branching_edges import BranchEdgeCases
from asyncsessions.testing.branching_interrupted import InterruptedMergeCases
from asyncsessions.testing.branching_lineage import LineageCases, MoveCases
from asyncsessions.testing.branching_merges import MergeCases
from asyncsessions.testing.branching_properties import BranchModelCases
from asyncsessions.testing.branching_repeated import RepeatedMergeCases
from asyncsessions.testing.branching_rewrites import (
    BranchingTogetherCases,
    RemovalCases,
    SnapshotCases,
)

__all__ = ["HierarchyConformance"]


class NeedsCases(HierarchyCases):
    """What hierarchical sessions need of a store."""

    async def test_an_amendment_is_made_whole_or_not_at_all(
        self, tree: Hierarchy, plain: BaseSessionStore
    ) -> None:
        del tree
        title = Change(("metadata", "title"), "set", "t")
        assert await plain.amend_session("s", [title]) is None
        assert await is_absent(plain, "s")
        skip = Change(("last_seq",), "increment", 7)
        assert await plain.amend_session("s", [title, skip], create=True) == ["t", 7]
        assert seqs(await add(plain, "s", "a", "b")) == [8, 9]
        for path, value in [
            (("metadata", "title"), "other"),
            (("metadata", "title"), None),
            (("metadata", "map", "key"), 1),
            (("last_seq",), 8),
        ]:
            changes = [Change(("state", "n"), "set", 1), Change(path, "expect", value)]
            with pytest.raises(SessionChangedError) as caught:
                await plain.amend_session("s", changes)
            assert caught.value.session_id == "s"
        assert await plain.get_state("s") == {}
        expected = [
            Change(("metadata", "title"), "expect", "t"),
            Change(("metadata", "map", "key"), "expect", None),
            Change(("last_seq",), "expect", 9),
        ]
        changes = [*expected, Change(("metadata", "map", "key"), "set", 5)]
        assert await plain.amend_session("s", changes) == ["t", None, 9, 5]
        with pytest.raises(SessionChangedError):
            await plain.amend_session("s", [*changes, skip])
        info = await plain.get_info("s")
        assert info is not None
        assert info.metadata == {"title": "t", "map": {"key": 5}}
        assert (info.last_seq, info.message_count) == (9, 2)

    async def test_numbers_can_be_left_out(self, tree: Hierarchy, plain: BaseSessionStore) -> None:
        del tree
        await fill(plain, "s", 3)

        def skip(count: int) -> list[Change]:
            return [Change(("last_seq",), "increment", count)]

        assert await plain.amend_session("s", skip(4)) == [7]
        assert seqs(await add(plain, "s", "m8", "m9")) == [8, 9]
        await plain.amend_session("s", skip(3))
        assert (await plain.get_session("s")).last_seq == 12
        assert seqs(await plain.get_messages("s")) == [1, 2, 3, 8, 9]
        assert seqs(await plain.get_messages("s", limit=2, after=2)) == [3, 8]
        assert seqs(await plain.get_messages("s", limit=2, before=9)) == [3, 8]
        assert await plain.pop_message("s") is not None
        assert seqs(await add(plain, "s", "m13")) == [13]
        assert seqs(await plain.append("s", [user("x")], expected_seq=13)) == [14]
        assert seqs(await plain.get_messages("s")) == [1, 2, 3, 8, 13, 14]
        await plain.clear_session("s")
        assert await plain.amend_session("s", skip(6)) == [20]
        assert seqs(await add(plain, "s", "m21")) == [21]
        assert texts(await plain.get_messages("s")) == ["m21"]

    async def test_messages_that_others_read_stay(
        self, tree: Hierarchy, plain: BaseSessionStore
    ) -> None:
        del tree
        await fill(plain, "s", 5)
        await plain.amend_session("s", [Change(("metadata", SHARED, "fork"), "set", 3)])
        refusals: list[Call] = [
            lambda: plain.clear_session("s"),
            lambda: plain.delete_session("s"),
            lambda: plain.set_chat_history("s", [user("x")]),
            lambda: plain.expire_session("s", 10),
            lambda: plain.expire_session("s", 0),
        ]
        for refused in refusals:
            with pytest.raises(SessionSharedError) as caught:
                await refused()
            assert (caught.value.session_id, caught.value.last_seq) == ("s", 3)
        assert await plain.expire_session("s", None)
        assert [await plain.pop_message("s") is not None for _ in range(2)] == [True, True]
        with pytest.raises(SessionSharedError):
            await plain.pop_message("s")
        assert texts(await plain.get_messages("s")) == said(1, 3)
        await plain.amend_session("s", [Change(("metadata", SHARED, "fork"), "remove")])
        assert await plain.pop_message("s") is not None
        assert await plain.delete_session("s")
        assert await is_absent(plain, "s")

    async def test_a_session_is_discarded_only_as_it_was(
        self, tree: Hierarchy, plain: BaseSessionStore, clock: ManualClock
    ) -> None:
        del tree
        await fill(plain, "s", 2)
        info = await plain.get_info("s")
        assert info is not None
        clock.advance(1)
        await plain.add_message("s", "user", "x")
        now = await plain.get_info("s")
        assert now is not None
        for seq, updated_at in [(2, info.updated_at), (3, info.updated_at), (2, now.updated_at)]:
            with pytest.raises(SessionChangedError):
                await plain.discard_session("s", last_seq=seq, updated_at=updated_at)
        assert len(await plain.get_messages("s")) == 3
        assert await plain.discard_session("s", last_seq=3, updated_at=now.updated_at)
        assert await is_absent(plain, "s")
        assert not await plain.discard_session("s", last_seq=3, updated_at=now.updated_at)
        assert seqs(await add(plain, "s", "new")) == [1]


class ForkCases(HierarchyCases):
    """A fork begins as its parent, and each goes on alone."""

    async def test_a_fork_begins_as_its_parent(self, tree: Hierarchy) -> None:
        await fill(tree, "s", 5)
        await tree.update_session_metadata("s", topic="x", agent_name="bot")
        await tree.set_gateway_info("s", gateway_session_id="g")
        await tree.set_state("s", "step", {"n": 1})
        await tree.append_compaction_checkpoint("s", "so far", seq=3)
        fork = await tree.fork_session("s")
        mine, theirs = await tree.get_session(fork), await tree.get_session("s")
        assert mine.messages == theirs.messages
        assert mine.metadata == theirs.metadata | {"title": "Fork of s"}
        assert (mine.state, mine.checkpoint) == (theirs.state, theirs.checkpoint)
        assert (mine.agent_name, mine.gateway_session_id) == ("bot", None)
        assert (mine.last_seq, mine.message_count) == (5, 5)
        assert await tree.get_working_history(fork) == await tree.get_working_history("s")
        assert await shown_in(tree, fork) == said(1, 5)
        titled = await tree.fork_session(fork, title="A")
        assert (await tree.get_session(titled)).title == "A"

    async def test_each_goes_on_alone(self, tree: Hierarchy) -> None:
        await fill(tree, "s", 3)
        await tree.set_state("s", "n", 1)
        fork = await tree.fork_session("s")
        assert seqs(await add(tree, fork, "fork")) == [4]
        assert seqs(await add(tree, "s", "parent")) == [4]
        await tree.increment_state(fork, "n")
        await tree.update_session_metadata("s", only="here")
        assert await shown_in(tree, fork) == [*said(1, 3), "fork"]
        assert await shown_in(tree, "s") == [*said(1, 3), "parent"]
        assert (await tree.get_state(fork), await tree.get_state("s")) == ({"n": 2}, {"n": 1})
        assert "only" not in (await tree.get_session(fork)).metadata

    async def test_a_fork_may_begin_anywhere(self, tree: Hierarchy) -> None:
        await fill(tree, "s", 6)
        await tree.pop_message("s")
        await add(tree, "s", "m7", "m8")
        await tree.append_compaction_checkpoint("s", "so far", seq=4)
        shown = [*said(1, 5), "m7", "m8"]
        for index, seq in enumerate([1, 2, 3, 4, 5, 7, 8]):
            by_seq = await tree.fork_session("s", from_seq=seq)
            by_index = await tree.fork_session("s", from_message_index=index)
            for fork in (by_seq, by_index):
                assert await shown_in(tree, fork) == shown[: index + 1]
                session = await tree.get_session(fork)
                assert session.last_seq == seq
                assert (session.checkpoint is not None) is (seq >= 4)

    async def test_fork_points_that_are_not_there_change_nothing(
        self, tree: Hierarchy, plain: BaseSessionStore
    ) -> None:
        await fill(tree, "s", 3)
        await tree.pop_message("s")
        before = await plain.get_info("s")
        assert before is not None
        for seq in (0, 3, 4, -1):
            with pytest.raises(MessageNotFoundError) as caught:
                await tree.fork_session("s", from_seq=seq)
            assert (caught.value.session_id, caught.value.seq) == ("s", seq)
        for index in (2, -1):
            with pytest.raises(MessageNotFoundError):
                await tree.fork_session("s", from_message_index=index)
        with pytest.raises(ValueError, match="not both"):
            await tree.fork_session("s", from_seq=1, from_message_index=1)
        with pytest.raises(SessionNotFoundError):
            await tree.fork_session("nobody")
        assert await is_absent(tree, "nobody")
        assert ids(await plain.list_sessions()) == ["s"]
        assert await tree.get_children("s") == []
        # Nobody reads it, so it can be removed without further ado.
        assert await plain.delete_session("s")

    async def test_reads_cross_the_forks(self, tree: Hierarchy) -> None:
        await fill(tree, "s", 3)
        model: list[Message] = await tree.get_messages("s")
        name = "s"
        for depth in range(4):
            name = await tree.fork_session(name)
            model += await add(tree, name, *(f"{depth}-{number}" for number in range(depth + 1)))
            if depth == 2:
                model.remove(cast("Message", await tree.pop_message(name)))
        assert [await shown_in(tree, name)] == [texts(model)]
        for limit, before, after in itertools.product(
            [None, 1, 2, 5, 100], [None, 1, 4, 6, 9, 99], [None, 0, 2, 5, 8, 50]
        ):
            kept = [each for each in model if (after or 0) < each.seq < (before or 100)]
            if limit is not None:
                is_oldest = after is not None and before is None
                kept = kept[:limit] if is_oldest else kept[max(0, len(kept) - limit) :]
            found = await tree.get_messages(name, limit=limit, before=before, after=after)
            assert found == kept, (limit, before, after)
        assert await tree.window(name, 5, window=1) == model[3:6]
        assert await tree.window(name, window=2) == model[-3:]
        assert (await tree.get_session(name, max_messages=2)).messages == model[-2:]
        between = [each async for each in tree.iter_messages(name, after=2, before=8)]
        assert between == [each for each in model if 2 < each.seq < 8]

    async def test_a_window_over_a_fork_is_pair_safe(self, tree: Hierarchy) -> None:
        await tree.append("s", [user("a"), tool_call("1")])
        fork = await tree.fork_session("s")
        await tree.append(fork, [result("1"), user("b")])
        roles = [message["role"] for message in await tree.get_chat_history(fork)]
        assert roles == ["user", "assistant", "tool", "user"]
        roles = [message["role"] for message in await tree.get_chat_history(fork, 2)]
        assert roles == ["user"]
        assert len(await tree.get_chat_history(fork, 3)) == 3

    async def test_an_expected_seq_goes_across_the_fork(self, tree: Hierarchy) -> None:
        await fill(tree, "s", 3)
        fork = await tree.fork_session("s")
        assert seqs(await tree.append(fork, [user("x")], expected_seq=3)) == [4]
        with pytest.raises(VersionConflictError) as caught:
            await tree.append(fork, [user("y")], expected_seq=1)
        assert texts(caught.value.messages) == ["m2", "m3", "x"]

    async def test_a_fork_of_nothing_is_empty(self, tree: Hierarchy) -> None:
        await tree.create_session("s")
        fork = await tree.fork_session("s")
        assert await shown_in(tree, fork) == []
        assert await tree.get_parent(fork) == "s"
        assert await tree.delete_session("s")
        assert await tree.session_exists(fork)

    async def test_forks_are_found_and_moved_like_others(self, tree: Hierarchy) -> None:
        await fill(tree, "s", 3)
        fork = await tree.fork_session("s", title="the fork")
        await add(tree, fork, "needle")
        assert {each.session_id for each in await tree.list_sessions()} == {"s", fork}
        counts = {each.session_id: each.message_count for each in await tree.list_sessions()}
        assert counts == {"s": 3, fork: 4}
        (hit,) = await tree.search("needle")
        assert (hit.session_id, hit.title) == (fork, "the fork")
        assert len(await tree.search("m2")) == 2
        data = await tree.export_session(fork)
        assert [each["content"] for each in data["messages"]] == [*said(1, 3), "needle"]
        assert data["metadata"] == {"title": "the fork"}
        await tree.delete_session(fork)
        assert (await tree.import_sessions(data)).imported == 1
        assert await shown_in(tree, fork) == [*said(1, 3), "needle"]

    async def test_an_import_leaves_forks_as_they_are(
        self, tree: Hierarchy, plain: BaseSessionStore
    ) -> None:
        await fill(tree, "s", 3)
        await tree.rename_session("s", "t")
        fork = await tree.fork_session("s")
        data = await tree.export_session("s")
        for _ in range(2):
            assert (await tree.import_sessions(data, overwrite=True)).imported == 1
            assert await shown_in(tree, "s") == said(1, 3)
            assert (await tree.get_session("s")).metadata == {"title": "t"}
        await tree.delete_session("s")
        assert (await tree.import_sessions(data)).imported == 1
        assert await shown_in(tree, "s") == said(1, 3)
        with pytest.raises(SessionSharedError):
            await plain.clear_session("s")
        await tree.delete_session("s")
        assert await shown_in(tree, fork) == said(1, 3)
        await tree.delete_session(fork)
        assert await plain.list_sessions() == []

    async def test_what_the_store_forgets_is_copied(self, clock: ManualClock) -> None:
        for options in ({"ttl_seconds": 100.0}, {"max_messages": 4}):
            store = HierarchicalSessionStore(self.make_store(clock=clock, **options))
            async with store:
                name = f"s-{len(options)}-{next(iter(options))}"
                await fill(store, name, 4)
                await store.set_state(name, "n", 1)
                fork = await store.fork_session(name, from_seq=3)
                clock.advance(60)
                await add(store, fork, "x")
                for number in range(3):
                    await add(store, name, f"more {number}")
                assert await shown_in(store, fork) == [*said(1, 3), "x"]
                assert seqs(await store.get_messages(fork)) == [1, 2, 3, 4]
                assert await store.get_state(fork) == {"n": 1}
                assert await store.get_parent(fork) == name
                assert await store.delete_session(name)
                clock.advance(60)
                assert await shown_in(store, fork) == [*said(1, 3), "x"]
                clock.advance(1000)
                assert await store.session_exists(fork) is ("max_messages" in options)

    async def test_a_long_session_is_copied_whole(self) -> None:
        async with HierarchicalSessionStore(self.make_store(ttl_seconds=1000.0)) as store:
            await fill(store, "s", 600)
            for newest in (300, 600):
                fork = await store.fork_session("s", from_seq=newest)
                assert await shown_in(store, fork) == said(1, newest)
                assert seqs(await store.get_messages(fork, limit=1)) == [newest]


class HierarchyConformance(
    NeedsCases,
    ForkCases,
    LineageCases,
    MoveCases,
    MergeCases,
    InterruptedMergeCases,
    RepeatedMergeCases,
    SnapshotCases,
    RemovalCases,
    BranchingTogetherCases,
    BranchModelCases,
    BranchEdgeCases,
):
    """What `HierarchicalSessionStore` guarantees over a store, which `make_store` returns."""
