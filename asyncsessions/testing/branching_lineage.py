"""Cases of who comes from whom, of what sessions have in common, and of moving them."""

from __future__ import annotations

from typing import Any, cast

import pytest

from asyncsessions.base import BaseSessionStore
from asyncsessions.errors import (
    CorruptSessionError,
    InvalidMessageError,
    SessionCycleError,
    SessionExistsError,
    SessionNotFoundError,
    UnrelatedSessionsError,
)
from asyncsessions.hierarchy.saved import TREE
from asyncsessions.hooks import SHARED, Change
from asyncsessions.testing._branch_cases import Hierarchy, HierarchyCases, add, shown_in
from asyncsessions.testing._cases import (
    ManualClock,
    fill,
    ids,
    is_absent,
    texts,
    user,
)

__all__ = ["LineageCases", "MoveCases"]


class LineageCases(HierarchyCases):
    """Who comes from whom, and what they have in common."""

    async def test_a_tree_shows_all_forks(self, tree: Hierarchy, clock: ManualClock) -> None:
        await fill(tree, "s", 2)
        first = await tree.fork_session("s", title="first")
        clock.advance(1)
        second = await tree.fork_session("s", title="second")
        below = await tree.fork_session(first, title="below")
        await add(tree, below, "x")
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
        assert await shown_in(tree, "child") == []
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

    async def test_a_function_makes_the_title(self, tree: Hierarchy) -> None:
        await fill(tree, "s", 3)

        def count(chat: list[dict[str, Any]]) -> str:
            return f"{len(chat)} messages"

        async def newest(chat: list[dict[str, Any]]) -> str:
            return f"ends with {chat[-1]['content']}"

        assert await tree.auto_title("s", count) == "3 messages"
        assert (await tree.get_session("s")).title == "3 messages"
        assert await tree.auto_title("s", newest, max_messages=1) == "ends with m3"
        assert (await tree.get_session("s")).title == "ends with m3"
        with pytest.raises(InvalidMessageError):
            await tree.auto_title("s", cast("Any", len))
        with pytest.raises(SessionNotFoundError):
            await tree.auto_title("nobody", count)
        assert (await tree.get_session("s")).title == "ends with m3"

    async def test_sharing_is_a_mark(self, tree: Hierarchy) -> None:
        await fill(tree, "s", 1)
        assert not await tree.is_shared("s")
        assert await tree.share_session("s") is True
        assert await tree.is_shared("s")
        assert await tree.unshare_session("s") is True
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
        await add(tree, left, "l")
        await add(tree, right, "r")
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


class MoveCases(HierarchyCases):
    """Sessions move with their snapshots."""

    async def test_snapshots_move_along(self, tree: Hierarchy) -> None:
        await fill(tree, "s", 3)
        await tree.set_state("s", "n", 1)
        first = await tree.create_snapshot("s", "first", {"k": 1})
        await tree.revert_to_message("s", 2)
        await add(tree, "s", "x", "y")
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
        assert await shown_in(tree, "copy") == ["m1", "m2", "x"]
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
            assert await shown_in(tree, "copy") == shown
            assert await tree.get_state("copy") == state
        await add(tree, "copy", "z")
        assert await shown_in(tree, "copy") == ["m1", "m2", "m3", "z"]
        await tree.delete_session("copy")
        data = await tree.export_session(fork, include_lineage=True)
        await tree.delete_session(fork)
        assert await tree.import_session(data) == fork
        assert await tree.get_parent(fork) == "s"
        assert fork in await tree.get_children("s")

    async def test_a_snapshots_checkpoint_moves_along(self, tree: Hierarchy) -> None:
        """It stands for as many messages as before, which get other numbers."""
        await fill(tree, "s", 9)
        await tree.clear_session("s")
        await add(tree, "s", "a", "b", "c", "d")
        await tree.append_compaction_checkpoint("s", "summary", seq=11)
        snapshot = await tree.create_snapshot("s")
        await tree.pop_message("s")
        data = await tree.export_session("s", include_lineage=True)
        await tree.import_session(data, new_session_id="copy")
        for session_id, kept in (("s", ["c", "d"]), ("copy", ["c", "d"])):
            await tree.revert_to_snapshot(session_id, snapshot)
            await add(tree, session_id, "e")
            history = await tree.get_working_history(session_id)
            assert [each["content"] for each in history] == ["summary", *kept, "e"]

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
