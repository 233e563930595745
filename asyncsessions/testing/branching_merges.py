"""Cases of merges of sessions that branched."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from asyncsessions.base import BaseSessionStore
from asyncsessions.errors import (
    SessionNotFoundError,
    UnrelatedSessionsError,
)
from asyncsessions.hierarchy import HierarchicalSessionStore
from asyncsessions.hierarchy.merging import Strategy
from asyncsessions.testing._branch_cases import Hierarchy, HierarchyCases, add, shown_in
from asyncsessions.testing._cases import (
    ManualClock,
    fill,
    ids,
    texts,
    user,
)

__all__ = ["MergeCases"]


class MergeCases(HierarchyCases):
    """A merge brings what is new, once, and says what it can't decide."""

    async def test_a_merge_appends_what_is_new_once(self, tree: Hierarchy) -> None:
        await fill(tree, "s", 2)
        fork = await tree.fork_session("s")
        await add(tree, fork, "f1", "f2")
        await add(tree, "s", "s1")
        for _ in range(2):
            await tree.merge_sessions(fork)
            assert await shown_in(tree, "s") == ["m1", "m2", "s1", "f1", "f2"]
        await add(tree, fork, "f3")
        assert (await tree.merge_sessions(fork, into="s")).messages == 1
        assert await shown_in(tree, "s") == ["m1", "m2", "s1", "f1", "f2", "f3"]
        assert await shown_in(tree, fork) == ["m1", "m2", "f1", "f2", "f3"]

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
        assert await shown_in(tree, "s") == shown
        await tree.undo_revert("s")
        assert await shown_in(tree, "s") == ["m1", "m2", mine, "s1"]
        other = await tree.fork_session("s", from_seq=2)
        await add(tree, other, "o")
        seen = []

        def choose(target: Any, fork: Any) -> Any:
            seen.append((texts(target), texts(fork)))
            return [*fork, user("and"), *target[:1]]

        await tree.merge_sessions(other, strategy=choose)
        assert seen == [(["s0", "s1"], ["o"])]
        assert await shown_in(tree, "s") == ["m1", "m2", "o", "and", "s0"]

    async def test_what_was_undone_can_be_merged_again(self, tree: Hierarchy) -> None:
        await fill(tree, "s", 2)
        fork = await tree.fork_session("s")
        await add(tree, fork, "f")
        await tree.set_state(fork, "n", 1)
        before = await tree.create_snapshot("s")
        for _ in range(2):
            assert (await tree.merge_sessions(fork)).messages == 1
            assert await shown_in(tree, "s") == ["m1", "m2", "f"]
            assert await tree.get_state("s") == {"n": 1}
            await tree.revert_to_snapshot("s", before)
            assert await shown_in(tree, "s") == ["m1", "m2"]
            assert await tree.get_state("s") == {}
        await tree.merge_sessions(fork, strategy="interleave")
        await tree.undo_revert("s")
        assert await shown_in(tree, "s") == ["m1", "m2"]
        assert (await tree.merge_sessions(fork)).messages == 1
        await tree.revert_to_message("s", 2)
        assert (await tree.merge_sessions(fork)).messages == 1
        assert await shown_in(tree, "s") == ["m1", "m2", "f"]
        assert (await tree.merge_sessions(fork)).messages == 0

    async def test_only_messages_that_were_undone_are_merged_again(self, tree: Hierarchy) -> None:
        await fill(tree, "s", 2)
        fork = await tree.fork_session("s")
        await add(tree, fork, "f")
        await tree.increment_state(fork, "n", 5)
        for _ in range(3):
            await tree.merge_sessions(fork)
            assert await shown_in(tree, "s") == ["m1", "m2", "f"]
            assert await tree.get_state("s") == {"n": 5}
            await tree.revert_to_message("s", 2)
            assert await shown_in(tree, "s") == ["m1", "m2"]

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

    @pytest.mark.parametrize("is_later_into_earlier", [True, False])
    async def test_forks_of_different_times_are_merged(
        self, tree: Hierarchy, clock: ManualClock, *, is_later_into_earlier: bool
    ) -> None:
        """What their parent has changed between them comes along with its messages."""
        await fill(tree, "s", 1)
        await tree.set_state("s", "topic", "old")
        forks = [await tree.fork_session("s")]
        clock.advance(1)
        await add(tree, "s", "s1")
        await tree.set_state("s", "topic", "new")
        await tree.increment_state("s", "n", 5)
        forks.append(await tree.fork_session("s"))
        earlier, later = forks
        await tree.increment_state(earlier, "n", 10)
        into, fork = (earlier, later) if is_later_into_earlier else (later, earlier)
        result = await tree.merge_sessions(fork, into=into)
        assert result.conflicts == []
        assert await shown_in(tree, into) == ["m1", "s1"]
        assert await tree.get_state(into) == {"topic": "new", "n": 15}

    async def test_a_parent_can_be_merged_into_its_fork(self, tree: Hierarchy) -> None:
        await fill(tree, "s", 2)
        fork = await tree.fork_session("s")
        below = await tree.fork_session(fork, from_seq=1)
        await add(tree, "s", "s1")
        await tree.set_state("s", "n", 1)
        await tree.merge_sessions("s", into=fork)
        assert await shown_in(tree, fork) == ["m1", "m2", "s1"]
        await add(tree, below, "b1")
        assert (await tree.merge_sessions(below, into="s")).messages == 1
        assert await shown_in(tree, "s") == ["m1", "m2", "s1", "b1"]
        assert await tree.get_state(fork) == {"n": 1}

    @pytest.mark.parametrize("strategy", ["append", "interleave"])
    async def test_what_was_copied_is_known_as_such(
        self, tree: Hierarchy, clock: ManualClock, strategy: Strategy
    ) -> None:
        await fill(tree, "s", 5)
        # What goes by itself can't be shared.
        await tree.expire_session("s", 1000)
        await tree.pop_message("s")
        await tree.revert_to_message("s", 3)
        await tree.revert_to_message("s", 2)
        await add(tree, "s", "m6")
        await tree.append_compaction_checkpoint("s", "so far", seq=6)
        fork = await tree.fork_session("s")
        assert [message.seq for message in await tree.get_messages(fork)] == [1, 2, 6]
        checkpoint = (await tree.get_session(fork)).checkpoint
        assert checkpoint is not None
        assert checkpoint.seq == 6
        below = await tree.fork_session(fork)
        clock.advance(1)
        await add(tree, below, "b7", "b8")
        await add(tree, fork, "f7")
        await add(tree, "s", "s7")

        found = await tree.diff(below, "s")
        assert (found.common, texts(found.left), texts(found.right)) == (3, ["b7", "b8"], ["s7"])
        for _ in range(2):
            await tree.merge_sessions(below, into="s", strategy=strategy)
            assert await shown_in(tree, "s") == ["m1", "m2", "m6", "s7", "b7", "b8"]
        assert (await tree.list_sessions(1))[0].message_count == 6
        await tree.merge_sessions("s", into=fork, strategy=strategy)
        assert await shown_in(tree, fork) == ["m1", "m2", "m6", "f7", "s7", "b7", "b8"]
        await tree.merge_sessions(fork, into=below, strategy=strategy)
        assert (await shown_in(tree, below))[:6] == ["m1", "m2", "m6", "b7", "b8", "f7"]

    @pytest.mark.parametrize("strategy", ["append", "interleave"])
    async def test_copies_are_merged_once_where_retention_drops_messages(
        self, clock: ManualClock, strategy: Strategy
    ) -> None:
        async with HierarchicalSessionStore(self.make_store(clock=clock, max_messages=6)) as tree:
            await fill(tree, "s", 8)
            fork = await tree.fork_session("s")
            assert [message.seq for message in await tree.get_messages(fork)] == [*range(3, 9)]
            await add(tree, "s", "s9")
            clock.advance(1)
            await add(tree, fork, "f9", "f10")
            for _ in range(2):
                await tree.merge_sessions(fork, strategy=strategy)
                shown = await shown_in(tree, "s")
                assert shown[-6:] == ["m6", "m7", "m8", "s9", "f9", "f10"]
                assert len(set(shown)) == len(shown)

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
            assert await shown_in(tree, session_id) == ["m1"]

    async def test_a_later_session_of_the_same_id_is_no_relative(self, tree: Hierarchy) -> None:
        await add(tree, "s", "secret")
        fork, sibling = [await tree.fork_session("s") for _ in range(2)]
        await tree.delete_session("s")
        await add(tree, "s", "new")
        for refused in (
            tree.merge_sessions(fork),
            tree.merge_sessions(fork, into="s"),
            tree.merge_sessions(await tree.fork_session("s"), into=fork),
            tree.diff("s", fork),
        ):
            with pytest.raises(UnrelatedSessionsError):
                await refused
        assert await shown_in(tree, "s") == ["new"]
        await add(tree, fork, "f")
        await tree.merge_sessions(fork, into=sibling)
        assert await shown_in(tree, sibling) == ["secret", "f"]

    @pytest.mark.parametrize("strategy", ["append", "interleave"])
    async def test_the_same_merge_twice_at_once_is_one(
        self, tree: Hierarchy, strategy: Any
    ) -> None:
        await fill(tree, "s", 1)
        for number in range(1, 6):
            fork = await tree.fork_session("s")
            await add(tree, fork, f"f{number}")
            await tree.increment_state(fork, "n", 10)
            await asyncio.gather(*(tree.merge_sessions(fork, strategy=strategy) for _ in range(3)))
            assert await tree.get_state("s", "n") == 10 * number
            said = [f"f{each}" for each in range(1, number + 1)]
            assert await shown_in(tree, "s") == ["m1", *said]

    async def test_a_fork_that_grows_is_merged_once(self, tree: Hierarchy) -> None:
        await fill(tree, "s", 1)
        fork = await tree.fork_session("s")

        async def grow() -> None:
            for number in range(20):
                await add(tree, fork, f"f{number}")
                await tree.increment_state(fork, "n")

        async def merge(strategy: Strategy) -> None:
            while not growing.done():
                await tree.merge_sessions(fork, strategy=strategy)

        growing = asyncio.ensure_future(grow())
        await asyncio.gather(growing, merge("append"), merge("append"), merge("interleave"))
        await tree.merge_sessions(fork)
        assert sorted(await shown_in(tree, "s")) == sorted(["m1", *(f"f{n}" for n in range(20))])
        assert await tree.get_state("s", "n") == 20

    async def test_objects_are_merged_while_others_write_to_them(self, tree: Hierarchy) -> None:
        await fill(tree, "s", 1)
        for number in range(1, 6):
            await tree.set_state("s", "cart", {"a": [1]})
            fork = await tree.fork_session("s")
            await tree.set_state(fork, "cart", {"a": [1, 2], "b": 0.1})
            write = tree.set_state("s", "cart", {"a": [1], "c": number})
            await asyncio.gather(tree.merge_sessions(fork), write)
            first, last = {"a": [1, 2], "b": 0.1, "c": number}, {"a": [1], "c": number}
            assert await tree.get_state("s", "cart") in (first, last)

    @pytest.mark.parametrize("strategy", ["append", "interleave"])
    async def test_a_deleted_fork_leaves_no_trace_of_its_merge(
        self, tree: Hierarchy, plain: BaseSessionStore, strategy: Any
    ) -> None:
        await fill(tree, "s", 1)
        fork = await tree.fork_session("s")
        await add(tree, fork, "f")
        await tree.set_state(fork, "secret", 1)
        await tree.merge_sessions(fork, strategy=strategy)
        await tree.set_state("s", "secret", None)
        await tree.purge_reverts("s")
        await tree.delete_session(fork)
        info = await plain.get_info("s")
        assert info is not None
        assert "secret" not in str(info.metadata)

    async def test_a_choice_is_made_once(self, tree: Hierarchy) -> None:
        """A merge that finds everything merged by then leaves it."""
        await fill(tree, "s", 1)
        fork = await tree.fork_session("s")
        await add(tree, fork, "f1", "f2")

        def theirs(_: Any, fork: Any) -> Any:
            return fork

        await asyncio.gather(*(tree.merge_sessions(fork, strategy=theirs) for _ in range(4)))
        assert await shown_in(tree, "s") == ["m1", "f1", "f2"]
        other = await tree.fork_session("s")
        await add(tree, other, "o")
        await tree.merge_sessions(other, strategy=lambda _, __: [])
        assert await shown_in(tree, "s") == ["m1", "f1", "f2"]
        await add(tree, "s", "last", "popped")
        await tree.pop_message("s")
        assert await shown_in(tree, "s") == ["m1", "f1", "f2", "last"]

    async def test_a_turn_that_is_copied_half_way_is_merged_when_it_is_whole(
        self, tree: Hierarchy
    ) -> None:
        await fill(tree, "s", 1)
        await tree.expire_session("s", 1000)
        await tree.upsert_partial_assistant_message("s", "ha")
        fork = await tree.fork_session("s")
        await tree.upsert_partial_assistant_message(fork, "half", finalize=True)
        assert (await tree.diff("s", fork)).common == 1
        await tree.merge_sessions(fork)
        assert await shown_in(tree, "s") == ["m1", "ha", "half"]

    async def test_a_merge_that_fails_keeps_nothing(
        self, tree: Hierarchy, plain: BaseSessionStore
    ) -> None:
        await fill(tree, "s", 2)
        fork = await tree.fork_session("s")
        await add(tree, fork, "f")
        with pytest.raises(ZeroDivisionError):
            await tree.merge_sessions(fork, strategy=lambda _, __: cast("Any", 1 / 0))
        with pytest.raises(TypeError):
            await tree.merge_sessions(fork, strategy=lambda _, __: cast("Any", None))
        await tree.delete_session(fork)
        # Nobody reads it, so that a store alone may remove it.
        assert await plain.delete_session("s")
        assert ids(await plain.list_sessions()) == []

    async def test_merges_and_appends_at_once_lose_nothing(self, tree: Hierarchy) -> None:
        await fill(tree, "s", 1)
        forks = [await tree.fork_session("s") for _ in range(3)]
        for number, fork in enumerate(forks):
            await add(tree, fork, f"f{number}")
            await tree.increment_state(fork, "n")
        strategies: list[Any] = ["append", "interleave", "interleave"]
        await asyncio.gather(
            *(
                tree.merge_sessions(fork, strategy=strategy)
                for fork, strategy in zip(forks, strategies, strict=True)
            ),
            *(tree.add_message("s", "user", f"a{number}") for number in range(10)),
        )
        shown = await shown_in(tree, "s")
        assert sorted(shown) == sorted(
            ["m1", *(f"f{number}" for number in range(3)), *(f"a{number}" for number in range(10))]
        )
        assert await tree.get_state("s", "n") == 3

    async def test_a_revert_between_or_into_merges_brings_only_the_rest_again(
        self, tree: Hierarchy
    ) -> None:
        await fill(tree, "s", 1)
        fork = await tree.fork_session("s")
        await add(tree, fork, "f1")
        await tree.merge_sessions(fork)
        await add(tree, "s", "m2")
        await add(tree, fork, "f2", "f3")
        await tree.merge_sessions(fork)
        await tree.merge_sessions(fork)
        everything = ["m1", "f1", "m2", "f2", "f3"]
        assert await shown_in(tree, "s") == everything
        for seq in (4, 3, 2):
            await tree.revert_to_message("s", seq)
            assert await shown_in(tree, "s") == everything[:seq]
            assert (await tree.merge_sessions(fork)).messages == 2 - (seq == 4)
            left = [each for each in everything if each != "m2" or seq > 2]
            assert await shown_in(tree, "s") == left
            await tree.undo_revert("s")

    async def test_what_a_later_merge_has_put_anew_can_be_reverted_and_merged_again(
        self, tree: Hierarchy
    ) -> None:
        await fill(tree, "s", 1)
        first, second = [await tree.fork_session("s") for _ in range(2)]
        await add(tree, first, "f")
        await tree.merge_sessions(first)
        await add(tree, second, "g")
        await tree.merge_sessions(second, strategy=lambda own, new: [*new, *own])
        assert await shown_in(tree, "s") == ["m1", "g", "f"]
        seqs = [message.seq for message in await tree.get_messages("s")]
        await tree.revert_to_message("s", seqs[1])
        await tree.merge_sessions(first)
        assert await shown_in(tree, "s") == ["m1", "g", "f"]

    async def test_a_fork_that_was_remade_is_merged_from_its_beginning(
        self, tree: Hierarchy
    ) -> None:
        """What others remember of the one that had its id is not about it."""
        await fill(tree, "s", 1)
        await tree.create_session("f", parent_id="s")
        other = await tree.create_session(parent_id="s")
        await add(tree, "f", "f1", "f2")
        await tree.merge_sessions("f")
        await tree.merge_sessions("f", into=other)
        snapshot = await tree.create_snapshot("s")
        await tree.delete_session("f")
        await tree.create_session("f", parent_id="s")
        await add(tree, "f", "g1", "g2", "g3")
        await tree.revert_to_snapshot("s", snapshot)
        for target, old in (("s", ["m1", "f1", "f2"]), (other, ["f1", "f2"])):
            assert (await tree.merge_sessions("f", into=target)).messages == 3
            assert await shown_in(tree, target) == [*old, "g1", "g2", "g3"]
