"""Cases of hierarchical sessions: forks, snapshots, reverts, and what becomes of messages."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, cast

import pytest
import pytest_asyncio

from asyncsessions.base import BaseSessionStore
from asyncsessions.errors import (
    CorruptSessionError,
    InvalidMessageError,
    MessageNotFoundError,
    SessionChangedError,
    SessionCycleError,
    SessionExistsError,
    SessionNotFoundError,
    SessionSharedError,
    SnapshotNotFoundError,
    UnrelatedSessionsError,
    VersionConflictError,
)
from asyncsessions.hierarchy import HierarchicalSessionStore
from asyncsessions.hierarchy.lineage import TREE
from asyncsessions.hooks import SHARED, Change
from asyncsessions.models import Message
from asyncsessions.protocols import SessionStore
from asyncsessions.testing._cases import (
    ManualClock,
    StoreCases,
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
from asyncsessions.testing.branching_properties import BranchModelCases

__all__ = ["HierarchyConformance"]

Hierarchy = HierarchicalSessionStore
_Call = Callable[[], Awaitable[object]]


def _said(first: int, last: int) -> list[str]:
    return [f"m{number}" for number in range(first, last + 1)]


async def _add(store: SessionStore, session_id: str, *contents: str) -> list[Message]:
    return await store.append(session_id, [user(content) for content in contents])


async def _shown(store: SessionStore, session_id: str) -> list[Any]:
    """Return what a session says, which has to be the same whichever way one looks."""
    messages = await store.get_messages(session_id)
    session = await store.get_session(session_id)
    assert session.messages == messages
    assert session.message_count == len(messages)
    assert [each async for each in store.iter_messages(session_id)] == messages
    assert seqs(messages) == sorted(set(seqs(messages)))
    return texts(messages)


class _HierarchyCases(StoreCases):
    """Makes the stores that the cases use."""

    @pytest.fixture
    def plain(self, clock: ManualClock) -> BaseSessionStore:
        return cast("BaseSessionStore", self.make_store(clock=clock))

    @pytest_asyncio.fixture
    async def tree(self, plain: BaseSessionStore) -> AsyncIterator[Hierarchy]:
        async with HierarchicalSessionStore(plain) as store:
            yield store


class NeedsCases(_HierarchyCases):
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
        assert seqs(await _add(plain, "s", "a", "b")) == [8, 9]
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
        assert seqs(await _add(plain, "s", "m8", "m9")) == [8, 9]
        await plain.amend_session("s", skip(3))
        assert (await plain.get_session("s")).last_seq == 12
        assert seqs(await plain.get_messages("s")) == [1, 2, 3, 8, 9]
        assert seqs(await plain.get_messages("s", limit=2, after=2)) == [3, 8]
        assert seqs(await plain.get_messages("s", limit=2, before=9)) == [3, 8]
        assert await plain.pop_message("s") is not None
        assert seqs(await _add(plain, "s", "m13")) == [13]
        assert seqs(await plain.append("s", [user("x")], expected_seq=13)) == [14]
        assert seqs(await plain.get_messages("s")) == [1, 2, 3, 8, 13, 14]
        await plain.clear_session("s")
        assert await plain.amend_session("s", skip(6)) == [20]
        assert seqs(await _add(plain, "s", "m21")) == [21]
        assert texts(await plain.get_messages("s")) == ["m21"]

    async def test_messages_that_others_read_stay(
        self, tree: Hierarchy, plain: BaseSessionStore
    ) -> None:
        del tree
        await fill(plain, "s", 5)
        await plain.amend_session("s", [Change(("metadata", SHARED, "fork"), "set", 3)])
        refusals: list[_Call] = [
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
        assert texts(await plain.get_messages("s")) == _said(1, 3)
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
        assert seqs(await _add(plain, "s", "new")) == [1]


class ForkCases(_HierarchyCases):
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
        assert await _shown(tree, fork) == _said(1, 5)
        titled = await tree.fork_session(fork, title="A")
        assert (await tree.get_session(titled)).title == "A"

    async def test_each_goes_on_alone(self, tree: Hierarchy) -> None:
        await fill(tree, "s", 3)
        await tree.set_state("s", "n", 1)
        fork = await tree.fork_session("s")
        assert seqs(await _add(tree, fork, "fork")) == [4]
        assert seqs(await _add(tree, "s", "parent")) == [4]
        await tree.increment_state(fork, "n")
        await tree.update_session_metadata("s", only="here")
        assert await _shown(tree, fork) == [*_said(1, 3), "fork"]
        assert await _shown(tree, "s") == [*_said(1, 3), "parent"]
        assert (await tree.get_state(fork), await tree.get_state("s")) == ({"n": 2}, {"n": 1})
        assert "only" not in (await tree.get_session(fork)).metadata

    async def test_a_fork_may_begin_anywhere(self, tree: Hierarchy) -> None:
        await fill(tree, "s", 6)
        await tree.pop_message("s")
        await _add(tree, "s", "m7", "m8")
        await tree.append_compaction_checkpoint("s", "so far", seq=4)
        shown = [*_said(1, 5), "m7", "m8"]
        for index, seq in enumerate([1, 2, 3, 4, 5, 7, 8]):
            by_seq = await tree.fork_session("s", from_seq=seq)
            by_index = await tree.fork_session("s", from_message_index=index)
            for fork in (by_seq, by_index):
                assert await _shown(tree, fork) == shown[: index + 1]
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
            model += await _add(tree, name, *(f"{depth}-{number}" for number in range(depth + 1)))
            if depth == 2:
                model.remove(cast("Message", await tree.pop_message(name)))
        assert [await _shown(tree, name)] == [texts(model)]
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
        assert await _shown(tree, fork) == []
        assert await tree.get_parent(fork) == "s"
        assert await tree.delete_session("s")
        assert await tree.session_exists(fork)

    async def test_forks_are_found_and_moved_like_others(self, tree: Hierarchy) -> None:
        await fill(tree, "s", 3)
        fork = await tree.fork_session("s", title="the fork")
        await _add(tree, fork, "needle")
        assert {each.session_id for each in await tree.list_sessions()} == {"s", fork}
        counts = {each.session_id: each.message_count for each in await tree.list_sessions()}
        assert counts == {"s": 3, fork: 4}
        (hit,) = await tree.search("needle")
        assert (hit.session_id, hit.title) == (fork, "the fork")
        assert len(await tree.search("m2")) == 2
        data = await tree.export_session(fork)
        assert [each["content"] for each in data["messages"]] == [*_said(1, 3), "needle"]
        assert data["metadata"] == {"title": "the fork"}
        await tree.delete_session(fork)
        assert (await tree.import_sessions(data)).imported == 1
        assert await _shown(tree, fork) == [*_said(1, 3), "needle"]

    async def test_an_import_leaves_forks_as_they_are(
        self, tree: Hierarchy, plain: BaseSessionStore
    ) -> None:
        await fill(tree, "s", 3)
        await tree.rename_session("s", "t")
        fork = await tree.fork_session("s")
        data = await tree.export_session("s")
        for _ in range(2):
            assert (await tree.import_sessions(data, overwrite=True)).imported == 1
            assert await _shown(tree, "s") == _said(1, 3)
            assert (await tree.get_session("s")).metadata == {"title": "t"}
        await tree.delete_session("s")
        assert (await tree.import_sessions(data)).imported == 1
        assert await _shown(tree, "s") == _said(1, 3)
        with pytest.raises(SessionSharedError):
            await plain.clear_session("s")
        await tree.delete_session("s")
        assert await _shown(tree, fork) == _said(1, 3)
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
                await _add(store, fork, "x")
                for number in range(3):
                    await _add(store, name, f"more {number}")
                assert await _shown(store, fork) == [*_said(1, 3), "x"]
                assert seqs(await store.get_messages(fork)) == [1, 2, 3, 4]
                assert await store.get_state(fork) == {"n": 1}
                assert await store.get_parent(fork) == name
                assert await store.delete_session(name)
                clock.advance(60)
                assert await _shown(store, fork) == [*_said(1, 3), "x"]
                clock.advance(1000)
                assert await store.session_exists(fork) is ("max_messages" in options)


class LineageCases(_HierarchyCases):
    """Who comes from whom, and what they have in common."""

    async def test_a_tree_shows_all_forks(self, tree: Hierarchy, clock: ManualClock) -> None:
        await fill(tree, "s", 2)
        first = await tree.fork_session("s", title="first")
        clock.advance(1)
        second = await tree.fork_session("s", title="second")
        below = await tree.fork_session(first, title="below")
        await _add(tree, below, "x")
        assert await tree.get_children("s") == [first, second]
        assert await tree.get_children(below) == []
        assert [await tree.get_parent(each) for each in (below, first, "s")] == [first, "s", None]
        root = await tree.get_session_tree("s")
        assert [child.title for child in root.children] == ["first", "second"]
        (node,) = root.children[0].children
        assert (node.session_id, node.message_count, node.children) == (below, 3, [])
        for look in (tree.get_parent, tree.get_children, tree.get_session_tree):
            with pytest.raises(SessionNotFoundError):
                await look("nobody")

    async def test_sessions_are_made_once(self, tree: Hierarchy) -> None:
        await fill(tree, "s", 1)
        with pytest.raises(SessionExistsError):
            await tree.create_session("s")
        with pytest.raises(SessionNotFoundError):
            await tree.create_session("child", parent_id="nobody")
        assert await is_absent(tree, "child")
        made = await tree.create_session(
            "child", title="t", parent_id="s", agent_name="bot", metadata={"k": 1}
        )
        session = await tree.get_session(made)
        assert (session.metadata, session.agent_name) == ({"k": 1, "title": "t"}, "bot")
        assert await tree.get_children("s") == ["child"]
        assert await tree.get_parent("child") == "s"
        assert await _shown(tree, "child") == []
        other = await tree.create_session()
        assert await tree.session_exists(other)
        await tree.set_title(other, "o")
        assert (await tree.get_session(other)).title == "o"

    async def test_nobody_comes_from_itself(self, tree: Hierarchy, plain: BaseSessionStore) -> None:
        await fill(tree, "s", 2)
        fork = await tree.fork_session("s")
        below = await tree.fork_session(fork)
        await tree.delete_session("s")
        for parent in (fork, below):
            with pytest.raises(SessionCycleError) as caught:
                await tree.create_session("s", parent_id=parent)
            assert (caught.value.session_id, caught.value.parent_id) == ("s", parent)
        with pytest.raises((SessionCycleError, SessionNotFoundError)):
            await tree.create_session("new", parent_id="new")
        assert await is_absent(tree, "s")
        for session_id in (fork, below):
            assert await tree.delete_session(session_id)
        assert await plain.list_sessions() == []

    async def test_a_damaged_lineage_can_be_deleted(
        self, tree: Hierarchy, plain: BaseSessionStore
    ) -> None:
        await fill(tree, "s", 2)
        keys = ("view", "token")
        await plain.amend_session(
            "s", [Change(("metadata", TREE, key), "set", "x") for key in keys]
        )
        with pytest.raises(CorruptSessionError):
            await tree.get_messages("s")
        assert await tree.delete_session("s")
        assert await plain.list_sessions() == []

    async def test_sharing_is_a_mark(self, tree: Hierarchy) -> None:
        await fill(tree, "s", 1)
        assert not await tree.is_shared("s")
        await tree.share_session("s")
        assert await tree.is_shared("s")
        await tree.unshare_session("s")
        assert not await tree.is_shared("s")
        assert (await tree.get_session("s")).metadata == {}
        with pytest.raises(SessionNotFoundError):
            await tree.share_session("nobody")

    async def test_what_keeps_sessions_together_is_out_of_reach(self, tree: Hierarchy) -> None:
        await fill(tree, "s", 2)
        fork = await tree.fork_session("s")
        for key in ("asyncsessions:tree", SHARED):
            with pytest.raises(InvalidMessageError):
                await tree.update_session_metadata("s", **{key: {}})
            with pytest.raises(InvalidMessageError):
                await tree.merge_session_metadata_map(fork, key, {"a": 1})
            with pytest.raises(InvalidMessageError):
                await tree.create_session("new", metadata={key: {}})
        assert await is_absent(tree, "new")
        for session in await tree.list_sessions():
            assert set(session.metadata) <= {"title"}

    async def test_a_diff_shows_what_each_has_alone(self, tree: Hierarchy) -> None:
        await fill(tree, "s", 4)
        left = await tree.fork_session("s", from_seq=3)
        right = await tree.fork_session("s")
        await _add(tree, left, "l")
        await _add(tree, right, "r")
        diff = await tree.diff(left, right)
        assert (diff.ancestor_id, diff.seq, diff.common) == ("s", 3, 3)
        assert (texts(diff.left), texts(diff.right)) == (["l"], ["m4", "r"])
        diff = await tree.diff("s", right)
        assert (diff.seq, texts(diff.left), texts(diff.right)) == (4, [], ["r"])
        deeper = await tree.fork_session(right)
        diff = await tree.diff(deeper, left)
        assert (diff.seq, texts(diff.left), texts(diff.right)) == (3, ["m4", "r"], ["l"])
        await tree.delete_session("s")
        assert (await tree.diff(left, right)).common == 3
        await fill(tree, "other", 1)
        with pytest.raises(UnrelatedSessionsError) as caught:
            await tree.diff(left, "other")
        assert (caught.value.session_id, caught.value.other_id) == (left, "other")
        with pytest.raises(SessionNotFoundError):
            await tree.diff(left, "nobody")


class MoveCases(_HierarchyCases):
    """Sessions move with their snapshots."""

    async def test_snapshots_move_along(self, tree: Hierarchy) -> None:
        await fill(tree, "s", 3)
        await tree.set_state("s", "n", 1)
        first = await tree.create_snapshot("s", "first", {"k": 1})
        await tree.revert_to_message("s", 2)
        await _add(tree, "s", "x", "y")
        await tree.set_state("s", "n", 2)
        second = await tree.create_snapshot("s", "second")
        await tree.pop_message("s")
        await tree.share_session("s")
        fork = await tree.fork_session("s")
        data = await tree.export_session("s", include_lineage=True)
        assert "lineage" not in await tree.export_session("s")
        with pytest.raises(SessionExistsError):
            await tree.import_session(data)
        copy = await tree.import_session(data, new_session_id="copy")
        assert copy == "copy"
        assert await _shown(tree, "copy") == ["m1", "m2", "x"]
        mine, theirs = await tree.get_snapshots("copy"), await tree.get_snapshots("s")
        assert [each.label for each in mine] == ["first", "second"]
        for one, other in zip(mine, theirs, strict=True):
            for field in ("snapshot_id", "metadata", "message_count", "created_at"):
                assert getattr(one, field) == getattr(other, field)
        assert await tree.is_shared("copy")
        for snapshot, shown, state in [
            (second, ["m1", "m2", "x", "y"], {"n": 2}),
            (first, ["m1", "m2", "m3"], {"n": 1}),
        ]:
            await tree.revert_to_snapshot("copy", snapshot)
            assert await _shown(tree, "copy") == shown
            assert await tree.get_state("copy") == state
        await _add(tree, "copy", "z")
        assert await _shown(tree, "copy") == ["m1", "m2", "m3", "z"]
        await tree.delete_session("copy")
        data = await tree.export_session(fork, include_lineage=True)
        await tree.delete_session(fork)
        assert await tree.import_session(data) == fork
        assert await tree.get_parent(fork) == "s"
        assert fork in await tree.get_children("s")

    async def test_bad_lineage_is_refused_before_anything_is_written(
        self, tree: Hierarchy, plain: BaseSessionStore
    ) -> None:
        await fill(tree, "s", 2)
        await tree.create_snapshot("s")
        data = await tree.export_session("s", include_lineage=True)
        (snapshot,) = data["lineage"]["snapshots"]
        for bad in (
            data | {"lineage": 1},
            data | {"lineage": {"snapshots": [{}]}},
            data | {"lineage": {"snapshots": [snapshot | {"messages": [{"content": "x"}]}]}},
            data | {"lineage": {"snapshots": [snapshot | {"messages": [user("\ud800")]}]}},
            data | {"messages": [{"content": "x"}]},
        ):
            with pytest.raises(InvalidMessageError):
                await tree.import_session(bad, new_session_id="copy")
        assert ids(await plain.list_sessions()) == ["s"]


class MergeCases(_HierarchyCases):
    """A merge brings what is new, once, and says what it can't decide."""

    async def test_a_merge_appends_what_is_new_once(self, tree: Hierarchy) -> None:
        await fill(tree, "s", 2)
        fork = await tree.fork_session("s")
        await _add(tree, fork, "f1", "f2")
        await _add(tree, "s", "s1")
        for _ in range(2):
            await tree.merge_sessions(fork)
            assert await _shown(tree, "s") == ["m1", "m2", "s1", "f1", "f2"]
        await _add(tree, fork, "f3")
        assert (await tree.merge_sessions(fork, into="s")).messages == 1
        assert await _shown(tree, "s") == ["m1", "m2", "s1", "f1", "f2", "f3"]
        assert await _shown(tree, fork) == ["m1", "m2", "f1", "f2", "f3"]

    async def test_a_merge_may_order_by_time_or_as_one_likes(
        self, tree: Hierarchy, clock: ManualClock
    ) -> None:
        await fill(tree, "s", 2)
        fork = await tree.fork_session("s")
        for number in range(2):
            for session_id in ("s", fork):
                clock.advance(1)
                await tree.add_message(session_id, "user", f"{session_id[:1]}{number}")
        mine, theirs = "s0", f"{fork[:1]}0"
        assert (await tree.merge_sessions(fork, strategy="interleave")).messages == 2
        shown = ["m1", "m2", "s0", theirs, "s1", f"{fork[:1]}1"]
        assert await _shown(tree, "s") == shown
        await tree.undo_revert("s")
        assert await _shown(tree, "s") == ["m1", "m2", mine, "s1"]
        other = await tree.fork_session("s", from_seq=2)
        await _add(tree, other, "o")
        seen = []

        def choose(target: Any, fork: Any) -> Any:
            seen.append((texts(target), texts(fork)))
            return [*fork, user("and"), *target[:1]]

        await tree.merge_sessions(other, strategy=choose)
        assert seen == [(["s0", "s1"], ["o"])]
        assert await _shown(tree, "s") == ["m1", "m2", "o", "and", "s0"]

    async def test_records_are_merged_by_what_changed(self, tree: Hierarchy) -> None:
        await fill(tree, "s", 1)
        start: dict[str, Any] = {
            "count": 5,
            "same": 1,
            "list": [1],
            "map": {"a": 1, "b": 1, "n": 1},
            "gone": True,
            "clash": "old",
            "mine": 0,
        }
        await tree.update_state("s", start)
        await tree.update_session_metadata("s", topic="x", color="red")
        fork = await tree.fork_session("s", title="the fork")
        changed = {"count": 8, "list": [1, 2], "map": {"a": 2, "b": 1, "n": 3}, "clash": "fork"}
        await tree.update_state(fork, changed | {"new": [True]}, remove=["gone"])
        await tree.update_session_metadata(fork, topic="y", color="blue")
        ours = {"count": 6, "list": [1, 3], "map": {"a": 1, "b": 2, "n": 2}, "clash": "target"}
        await tree.update_state("s", ours | {"mine": 1})
        await tree.update_session_metadata("s", color="green")
        done = await tree.merge_sessions(fork)
        assert done.messages == 0
        assert await tree.get_state("s") == {
            "count": 9,
            "same": 1,
            "list": [1, 3, 2],
            "map": {"a": 2, "b": 2, "n": 4},
            "clash": "target",
            "mine": 1,
            "new": [True],
        }
        metadata = (await tree.get_session("s")).metadata
        assert metadata == {"topic": "y", "color": "green"}
        conflicts = {tuple(each.path): each for each in done.conflicts}
        assert set(conflicts) == {("metadata", "color"), ("state", "clash")}
        clash = conflicts["state", "clash"]
        assert (clash.base, clash.target, clash.fork) == ("old", "target", "fork")
        # Once more there is nothing new.
        await tree.increment_state(fork, "count")
        assert (await tree.merge_sessions(fork)).conflicts == []
        assert await tree.get_state("s", "count") == 10

    async def test_a_parent_can_be_merged_into_its_fork(self, tree: Hierarchy) -> None:
        await fill(tree, "s", 2)
        fork = await tree.fork_session("s")
        below = await tree.fork_session(fork, from_seq=1)
        await _add(tree, "s", "s1")
        await tree.set_state("s", "n", 1)
        await tree.merge_sessions("s", into=fork)
        assert await _shown(tree, fork) == ["m1", "m2", "s1"]
        await _add(tree, below, "b1")
        assert (await tree.merge_sessions(below, into="s")).messages == 1
        assert await _shown(tree, "s") == ["m1", "m2", "s1", "b1"]
        assert await tree.get_state(fork) == {"n": 1}

    async def test_what_can_not_be_merged_stays_as_it_is(self, tree: Hierarchy) -> None:
        await fill(tree, "s", 1)
        await fill(tree, "other", 1)
        fork = await tree.fork_session("s")
        with pytest.raises(UnrelatedSessionsError):
            await tree.merge_sessions(fork, into="other")
        with pytest.raises(UnrelatedSessionsError):
            await tree.merge_sessions(fork, into=fork)
        with pytest.raises(SessionNotFoundError):
            await tree.merge_sessions(fork, into="nobody")
        with pytest.raises(SessionNotFoundError):
            await tree.merge_sessions("nobody")
        with pytest.raises(ValueError, match="not forked"):
            await tree.merge_sessions("s")
        with pytest.raises(ValueError, match="strategy"):
            await tree.merge_sessions(fork, strategy=cast("Any", "theirs"))
        for session_id in ("s", "other", fork):
            assert await _shown(tree, session_id) == ["m1"]

    async def test_merges_and_appends_at_once_lose_nothing(self, tree: Hierarchy) -> None:
        await fill(tree, "s", 1)
        forks = [await tree.fork_session("s") for _ in range(3)]
        for number, fork in enumerate(forks):
            await _add(tree, fork, f"f{number}")
            await tree.increment_state(fork, "n")
        strategies: list[Any] = ["append", "interleave", "interleave"]
        await asyncio.gather(
            *(
                tree.merge_sessions(fork, strategy=strategy)
                for fork, strategy in zip(forks, strategies, strict=True)
            ),
            *(tree.add_message("s", "user", f"a{number}") for number in range(10)),
        )
        shown = await _shown(tree, "s")
        assert sorted(shown) == sorted(
            ["m1", *(f"f{number}" for number in range(3)), *(f"a{number}" for number in range(10))]
        )
        assert await tree.get_state("s", "n") == 3


class SnapshotCases(_HierarchyCases):
    """Snapshots bring back messages, metadata, state and checkpoint; reverts can be undone."""

    async def test_a_snapshot_brings_everything_back(
        self, tree: Hierarchy, clock: ManualClock
    ) -> None:
        await fill(tree, "s", 4)
        await tree.update_session_metadata("s", a=1, b=1)
        await tree.update_state("s", {"x": 1, "y": 1})
        await tree.append_compaction_checkpoint("s", "so far", seq=2)
        before = await tree.get_session("s")
        clock.advance(5)
        snapshot_id = await tree.create_snapshot("s", "here", {"why": [1]})
        (snapshot,) = await tree.get_snapshots("s")
        assert snapshot.snapshot_id == snapshot_id
        assert (snapshot.label, snapshot.metadata) == ("here", {"why": [1]})
        assert (snapshot.seq, snapshot.message_count) == (4, 4)
        assert (snapshot.session_id, snapshot.created_at) == ("s", clock.now)
        await _add(tree, "s", "m5")
        await tree.update_session_metadata("s", b=2, c=2)
        await tree.update_state("s", {"y": 2, "z": 2}, remove=["x"])
        await tree.append_compaction_checkpoint("s", "later", seq=5)
        await tree.revert_to_snapshot("s", snapshot_id)
        after = await tree.get_session("s")
        for field in ("messages", "metadata", "state", "checkpoint", "message_count"):
            assert getattr(after, field) == getattr(before, field), field
        assert await _shown(tree, "s") == _said(1, 4)
        assert seqs(await _add(tree, "s", "m6")) == [6]

    async def test_a_revert_can_be_undone_and_redone(self, tree: Hierarchy) -> None:
        await fill(tree, "s", 5)
        await tree.set_state("s", "n", 1)
        await tree.revert_to_message("s", 2)
        assert await _shown(tree, "s") == _said(1, 2)
        assert await tree.get_state("s") == {"n": 1}
        await _add(tree, "s", "m6")
        await tree.set_state("s", "n", 2)
        assert await _shown(tree, "s") == ["m1", "m2", "m6"]
        assert await tree.get_snapshots("s") == []
        await tree.undo_revert("s")
        assert await _shown(tree, "s") == _said(1, 5)
        assert await tree.get_state("s") == {"n": 1}
        await tree.undo_revert("s")
        assert await _shown(tree, "s") == ["m1", "m2", "m6"]
        assert await tree.get_state("s") == {"n": 2}
        assert seqs(await _add(tree, "s", "m7")) == [7]
        automatic = await tree.get_snapshots("s", include_automatic=True)
        assert [each.is_automatic for each in automatic] == [True] * 3
        assert await tree.purge_reverts("s") == 3
        with pytest.raises(SnapshotNotFoundError):
            await tree.undo_revert("s")
        assert await _shown(tree, "s") == ["m1", "m2", "m6", "m7"]

    async def test_reverts_go_back_and_forth(self, tree: Hierarchy) -> None:
        await fill(tree, "s", 3)
        early = await tree.create_snapshot("s")
        await _add(tree, "s", "m4", "m5")
        late = await tree.create_snapshot("s")
        await tree.revert_to_snapshot("s", early)
        await _add(tree, "s", "m6")
        other = await tree.create_snapshot("s")
        for snapshot, shown in [
            (late, _said(1, 5)),
            (early, _said(1, 3)),
            (other, [*_said(1, 3), "m6"]),
            (late, _said(1, 5)),
        ]:
            await tree.revert_to_snapshot("s", snapshot)
            assert await _shown(tree, "s") == shown
            await _add(tree, "s", "more")
            assert await _shown(tree, "s") == [*shown, "more"]
        await tree.revert_to_message("s", 4)
        assert await _shown(tree, "s") == _said(1, 4)
        fork = await tree.fork_session("s")
        assert await _shown(tree, fork) == _said(1, 4)
        with pytest.raises(MessageNotFoundError):
            await tree.fork_session("s", from_seq=5)
        with pytest.raises(MessageNotFoundError):
            await tree.revert_to_message("s", 6)

    async def test_snapshots_of_others_are_unknown(self, tree: Hierarchy) -> None:
        await fill(tree, "s", 1)
        await fill(tree, "other", 1)
        snapshot = await tree.create_snapshot("s")
        before = await tree.get_session("other")
        with pytest.raises(SnapshotNotFoundError) as caught:
            await tree.revert_to_snapshot("other", snapshot)
        assert (caught.value.session_id, caught.value.snapshot_id) == ("other", snapshot)
        assert not await tree.delete_snapshot("other", snapshot)
        fork = await tree.fork_session("s")
        with pytest.raises(SnapshotNotFoundError):
            await tree.revert_to_snapshot(fork, snapshot)
        refusals: list[_Call] = [
            lambda: tree.create_snapshot("nobody"),
            lambda: tree.get_snapshots("nobody"),
            lambda: tree.revert_to_snapshot("nobody", snapshot),
            lambda: tree.revert_to_message("nobody", 1),
            lambda: tree.undo_revert("nobody"),
        ]
        for refused in refusals:
            with pytest.raises(SessionNotFoundError):
                await refused()
        assert await is_absent(tree, "nobody")
        assert await tree.get_session("other") == before

    async def test_a_snapshot_outlives_rewrites(self, tree: Hierarchy) -> None:
        await fill(tree, "s", 3)
        snapshot = await tree.create_snapshot("s")
        popped = await tree.pop_message("s")
        assert popped is not None
        assert popped.content == "m3"
        assert await _shown(tree, "s") == _said(1, 2)
        rewrites: list[_Call] = [
            lambda: tree.clear_session("s"),
            lambda: tree.set_chat_history("s", [user("x")]),
            lambda: tree.set_chat_history("s", []),
        ]
        for rewrite in rewrites:
            await rewrite()
            await tree.revert_to_snapshot("s", snapshot)
            assert await _shown(tree, "s") == _said(1, 3)
        await tree.upsert_partial_assistant_message("s", "par")
        during = await tree.create_snapshot("s")
        await tree.upsert_partial_assistant_message("s", "partly")
        assert await _shown(tree, "s") == [*_said(1, 3), "partly"]
        await tree.upsert_partial_assistant_message("s", "whole", finalize=True)
        assert await _shown(tree, "s") == [*_said(1, 3), "whole"]
        await tree.revert_to_snapshot("s", during)
        assert await _shown(tree, "s") == [*_said(1, 3), "par"]
        await tree.discard_partial_assistant_message("s")
        assert await _shown(tree, "s") == _said(1, 3)

    async def test_a_forgotten_snapshot_holds_nothing(
        self, tree: Hierarchy, plain: BaseSessionStore
    ) -> None:
        await fill(tree, "s", 3)
        snapshot = await tree.create_snapshot("s")
        with pytest.raises(SessionSharedError):
            await plain.clear_session("s")
        assert await tree.delete_snapshot("s", snapshot)
        assert not await tree.delete_snapshot("s", snapshot)
        assert await tree.get_snapshots("s") == []
        assert await plain.clear_session("s")

    async def test_a_clear_takes_what_reverts_remembered(self, tree: Hierarchy) -> None:
        await fill(tree, "s", 3)
        await tree.revert_to_message("s", 1)
        assert await tree.clear_session("s")
        assert await _shown(tree, "s") == []
        with pytest.raises(SnapshotNotFoundError):
            await tree.undo_revert("s")
        assert not await tree.clear_session("s")
        assert seqs(await _add(tree, "s", "m4")) == [4]
        assert await _shown(tree, "s") == ["m4"]


class RemovalCases(_HierarchyCases):
    """What is removed in one session stays in those that were forked from it."""

    async def test_rewrites_of_a_parent_leave_its_forks_alone(self, tree: Hierarchy) -> None:
        await fill(tree, "s", 4)
        fork = await tree.fork_session("s")
        assert (await tree.get_messages("s"))[-1] == await tree.pop_message("s")
        assert await _shown(tree, "s") == _said(1, 3)
        assert await tree.set_chat_history("s", [user("new")])
        assert await _shown(tree, "s") == ["new"]
        assert await tree.clear_session("s")
        assert await _shown(tree, "s") == []
        assert not await tree.clear_session("s")
        assert seqs(await _add(tree, "s", "late")) == [6]
        assert await _shown(tree, "s") == ["late"]
        assert await _shown(tree, fork) == _said(1, 4)

    async def test_rewrites_of_a_fork_leave_its_parent_alone(self, tree: Hierarchy) -> None:
        await fill(tree, "s", 3)
        fork = await tree.fork_session("s")
        for expected in (["m1", "m2"], ["m1"], [], []):
            await tree.pop_message(fork)
            assert await _shown(tree, fork) == expected
        assert await tree.pop_message(fork) is None
        fork = await tree.fork_session("s")
        await tree.upsert_partial_assistant_message(fork, "p")
        await tree.upsert_partial_assistant_message(fork, "partial")
        assert await _shown(tree, fork) == [*_said(1, 3), "partial"]
        await tree.discard_partial_assistant_message(fork)
        await tree.discard_partial_assistant_message(fork)
        assert await _shown(tree, fork) == _said(1, 3)
        await tree.set_chat_history(fork, [user("x"), user("y")])
        assert await _shown(tree, fork) == ["x", "y"]
        await tree.clear_session(fork)
        assert await _shown(tree, fork) == []
        assert await _shown(tree, "s") == _said(1, 3)

    async def test_bad_input_leaves_a_fork_as_it_is(self, tree: Hierarchy) -> None:
        await fill(tree, "s", 3)
        fork = await tree.fork_session("s")
        bad: Any = [user("x"), {"role": "user", "content": "\ud800"}]
        with pytest.raises(InvalidMessageError):
            await tree.set_chat_history(fork, bad)
        with pytest.raises(InvalidMessageError):
            await tree.upsert_partial_assistant_message(fork, "\ud800")
        assert await _shown(tree, fork) == _said(1, 3)

    async def test_a_deleted_parent_stays_in_its_forks(
        self, tree: Hierarchy, plain: BaseSessionStore
    ) -> None:
        await fill(tree, "s", 3)
        await tree.set_gateway_info("s", gateway_session_id="g")
        await tree.set_state("s", "n", 1)
        await tree.create_snapshot("s")
        fork = await tree.fork_session("s")
        below = await tree.fork_session(fork, from_seq=2)
        assert await tree.delete_session("s")
        assert await is_absent(tree, "s")
        assert not await tree.delete_session("s")
        assert not await tree.clear_session("s")
        assert await tree.pop_message("s") is None
        assert await tree.get_by_gateway_session("g") is None
        with pytest.raises(SessionNotFoundError):
            await tree.fork_session("s")
        with pytest.raises(SessionNotFoundError):
            await tree.create_snapshot("s")
        assert await tree.get_parent(fork) is None
        assert await _shown(tree, fork) == _said(1, 3)
        assert await tree.delete_session(fork)
        assert await _shown(tree, below) == _said(1, 2)
        assert await tree.search("m1") != []
        assert await tree.delete_session(below)
        assert await plain.list_sessions() == []

    async def test_an_id_can_be_used_again(self, tree: Hierarchy, plain: BaseSessionStore) -> None:
        await fill(tree, "s", 3)
        await tree.update_session_metadata("s", old=True)
        fork = await tree.fork_session("s")
        for begin in (
            lambda: tree.add_message("s", "user", "new"),
            lambda: tree.update_session_metadata("s", new=1),
            lambda: tree.set_state("s", "n", 1),
            lambda: tree.set_agent_info("s", agent_name="bot"),
            lambda: tree.create_session("s"),
        ):
            assert await tree.delete_session("s")
            assert await is_absent(tree, "s")
            await begin()
            assert await tree.session_exists("s")
            assert "s" in ids(await tree.list_sessions())
            session = await tree.get_session("s")
            assert texts(session.messages) in ([], ["new"])
            assert "old" not in session.metadata
        assert await _shown(tree, fork) == _said(1, 3)
        await _add(tree, "s", "more")
        assert await tree.delete_session(fork)
        assert await _shown(tree, "s") == ["more"]
        assert await tree.delete_session("s")
        assert await plain.list_sessions() == []

    async def test_a_session_that_others_read_does_not_expire(
        self, tree: Hierarchy, clock: ManualClock
    ) -> None:
        await fill(tree, "s", 2)
        fork = await tree.fork_session("s")
        with pytest.raises(SessionSharedError):
            await tree.expire_session("s", 5)
        assert await tree.expire_session(fork, 5)
        below = await tree.fork_session(fork)
        clock.advance(10)
        assert not await tree.session_exists(fork)
        assert await _shown(tree, below) == _said(1, 2)


class BranchingTogetherCases(_HierarchyCases):
    """Many callers branch the same session at once."""

    async def test_appends_and_forks_at_once_lose_nothing(self, tree: Hierarchy) -> None:
        await _add(tree, "s", "first")

        async def append(number: int) -> None:
            await tree.add_message("s", "user", f"a{number}")

        async def fork() -> list[Any]:
            return await _shown(tree, await tree.fork_session("s"))

        calls = [append(number) if number % 4 else fork() for number in range(40)]
        forks = [each for each in await asyncio.gather(*calls) if each is not None]
        shown = await _shown(tree, "s")
        assert len(shown) == 31
        for each in forks:
            assert each == shown[: len(each)]
        assert len(await tree.get_children("s")) == 10

    async def test_reverts_and_appends_at_once_lose_nothing(self, tree: Hierarchy) -> None:
        await fill(tree, "s", 5)
        snapshot = await tree.create_snapshot("s")
        acknowledged: list[str] = []

        async def append(number: int) -> None:
            await tree.add_message("s", "user", f"a{number}")
            acknowledged.append(f"a{number}")

        async def revert(number: int) -> None:
            if number % 2:
                await tree.revert_to_snapshot("s", snapshot)
            else:
                await tree.revert_to_message("s", 3)

        await asyncio.gather(
            *(append(number) for number in range(20)), *(revert(number) for number in range(10))
        )
        shown = await _shown(tree, "s")
        assert shown[:3] == _said(1, 3)
        seen = set(shown)
        for each in await tree.get_snapshots("s", include_automatic=True):
            await tree.revert_to_snapshot("s", each.snapshot_id)
            seen |= set(await _shown(tree, "s"))
        assert seen >= set(acknowledged)

    async def test_deletions_and_forks_at_once_leave_nothing_behind(
        self, tree: Hierarchy, plain: BaseSessionStore
    ) -> None:
        for _ in range(5):
            await fill(tree, "s", 3)
            forks = await asyncio.gather(
                *(tree.fork_session("s") for _ in range(4)),
                tree.delete_session("s"),
                *(tree.fork_session("s") for _ in range(4)),
                return_exceptions=True,
            )
            made = [each for each in forks if isinstance(each, str)]
            for each in forks:
                assert isinstance(each, str | bool | SessionNotFoundError), each
            for each in made:
                assert await _shown(tree, each) == _said(1, 3)
            assert await is_absent(tree, "s")
            removed = await asyncio.gather(*map(tree.delete_session, made))
            assert all(removed)
            assert await plain.list_sessions() == []

    async def test_clears_and_forks_at_once_break_no_fork(self, tree: Hierarchy) -> None:
        for _ in range(5):
            await fill(tree, "s", 3)
            before = await _shown(tree, "s")
            forks = await asyncio.gather(
                *(tree.fork_session("s") for _ in range(3)),
                tree.clear_session("s"),
                *(tree.fork_session("s") for _ in range(3)),
            )
            for each in forks:
                if isinstance(each, str):
                    assert await _shown(tree, each) in (before, [])
            assert await _shown(tree, "s") == []


class HierarchyConformance(
    NeedsCases,
    ForkCases,
    LineageCases,
    MoveCases,
    MergeCases,
    SnapshotCases,
    RemovalCases,
    BranchingTogetherCases,
    BranchModelCases,
    BranchEdgeCases,
):
    """What `HierarchicalSessionStore` guarantees over a store, which `make_store` returns."""
