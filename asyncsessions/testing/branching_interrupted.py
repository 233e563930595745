"""Cases of merges that are cut off, and of what comes between their steps."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest

from asyncsessions.base import BaseSessionStore
from asyncsessions.errors import SessionNotFoundError, UnrelatedSessionsError
from asyncsessions.hierarchy.bringing import Bringing
from asyncsessions.hierarchy.merging import Merging, Strategy
from asyncsessions.testing._branch_cases import Hierarchy, HierarchyCases, add, shown_in
from asyncsessions.testing._cases import fill

__all__ = ["InterruptedMergeCases"]


class InterruptedMergeCases(HierarchyCases):
    """A merge is finished once, whoever is killed, and whatever comes in between."""

    async def test_a_merge_that_was_cut_off_goes_on_after_another(
        self, tree: Hierarchy, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await fill(tree, "s", 1)
        first, second = [await tree.fork_session("s") for _ in range(2)]
        await add(tree, first, "f")
        await add(tree, second, "g")
        with monkeypatch.context() as patch:
            patch.setattr(Merging, "_merge_records", lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                await tree.merge_sessions(first)
        await tree.merge_sessions(second)
        await tree.merge_sessions(first)
        assert await shown_in(tree, "s") == ["m1", "f", "g"]

    @pytest.mark.parametrize("strategy", ["append", "interleave"])
    async def test_a_merge_that_was_cut_off_is_finished_by_a_later_one(
        self, tree: Hierarchy, monkeypatch: pytest.MonkeyPatch, strategy: Strategy
    ) -> None:
        await fill(tree, "s", 1)
        fork = await tree.fork_session("s")
        note = vars(Bringing)["note"]
        said = ["m1"]
        # Before it is noted what comes, before it is appended, and before that is noted.
        for step in range(3):
            notes = iter([] if step == 0 else [1])

            async def cut_off(*args: Any, notes: Any = notes, **_: Any) -> Any:
                if next(notes, None) is None:
                    raise ZeroDivisionError
                return await note(*args)

            await add(tree, fork, f"f{step}")
            with monkeypatch.context() as patch:
                patch.setattr(Bringing, "note", cut_off)
                if step == 1:
                    patch.setattr(BaseSessionStore, "append", cut_off)
                with pytest.raises(ZeroDivisionError):
                    await tree.merge_sessions(fork)
            await add(tree, fork, f"late {step}")
            await tree.merge_sessions(fork, strategy=strategy)
            said += [f"f{step}", f"late {step}"]
            assert await shown_in(tree, "s") == said

    @pytest.mark.parametrize("is_killed", [False, True])
    @pytest.mark.parametrize("is_reverted", [False, True])
    @pytest.mark.parametrize("is_appended", [False, True])
    async def test_a_snapshot_or_revert_during_a_merge_doubles_nothing(
        self,
        tree: Hierarchy,
        monkeypatch: pytest.MonkeyPatch,
        *,
        is_appended: bool,
        is_reverted: bool,
        is_killed: bool,
    ) -> None:
        """It comes after messages are announced; they may be appended then, but it isn't noted."""
        await fill(tree, "s", 1)
        snapshots = [await tree.create_snapshot("s")]
        fork = await tree.fork_session("s")
        await add(tree, fork, "f1", "f2")
        steps = iter([False, True] if is_appended else [True])
        owner: Any = Bringing if is_appended else BaseSessionStore
        name = "note" if is_appended else "append"
        step = getattr(owner, name)

        async def interrupted(*args: Any, **options: Any) -> Any:
            if next(steps, False):
                snapshots.append(await tree.create_snapshot("s"))
                if is_reverted:
                    await tree.revert_to_snapshot("s", snapshots[0])
                if is_killed:
                    raise ZeroDivisionError
            return await step(*args, **options)

        with monkeypatch.context() as patch:
            patch.setattr(owner, name, interrupted)
            with pytest.raises(ZeroDivisionError) if is_killed else nullcontext():
                await tree.merge_sessions(fork)
        await tree.merge_sessions(fork)
        assert await shown_in(tree, "s") == ["m1", "f1", "f2"]
        for snapshot in snapshots:
            await tree.revert_to_snapshot("s", snapshot)
            await tree.merge_sessions(fork)
            assert await shown_in(tree, "s") == ["m1", "f1", "f2"]
        await tree.revert_to_message("s", 1)
        await tree.merge_sessions(fork)
        assert await shown_in(tree, "s") == ["m1", "f1", "f2"]

    async def test_what_is_taken_away_during_a_merge_can_be_merged_again(
        self, tree: Hierarchy, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await fill(tree, "s", 1)
        fork = await tree.fork_session("s")
        await add(tree, fork, "f")
        merge = vars(Merging)["_merge_records"]

        async def after_revert(*args: Any) -> Any:
            await tree.revert_to_message("s", 1)
            return await merge(*args)

        with monkeypatch.context() as patch:
            patch.setattr(Merging, "_merge_records", after_revert)
            await tree.merge_sessions(fork)
        assert await shown_in(tree, "s") == ["m1"]
        await tree.merge_sessions(fork)
        assert await shown_in(tree, "s") == ["m1", "f"]

    async def test_a_merge_that_comes_late_takes_nothing_back(
        self, tree: Hierarchy, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It has read the fork before another merge did."""
        await fill(tree, "s", 1)
        fork = await tree.fork_session("s")
        await add(tree, fork, "f1")
        await tree.increment_state(fork, "n", 5)
        resolve = vars(Merging)["_resolve"]

        async def late(merging: Merging, read: Any, *args: Any) -> Any:
            monkeypatch.setattr(Merging, "_resolve", resolve)
            await add(tree, fork, "f2")
            await tree.increment_state(fork, "n", 2)
            await tree.merge_sessions(fork, strategy="interleave")
            return await resolve(merging, read, *args)

        monkeypatch.setattr(Merging, "_resolve", late)
        await tree.merge_sessions(fork, strategy="interleave")
        for _ in range(2):
            assert await shown_in(tree, "s") == ["m1", "f1", "f2"]
            assert await tree.get_state("s") == {"n": 7}
            assert (await tree.merge_sessions(fork)).messages == 0

    async def test_a_merge_that_knows_less_than_another_counts_nothing_twice(
        self, tree: Hierarchy, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It has read the fork before, and brings the record after the other one."""
        await fill(tree, "s", 1)
        fork = await tree.fork_session("s")
        await tree.increment_state("s", "n", 10)
        await add(tree, fork, "f1")
        merge_records = vars(Merging)["_merge_records"]

        async def late(*args: Any) -> Any:
            monkeypatch.setattr(Merging, "_merge_records", merge_records)
            await tree.increment_state(fork, "n")
            await tree.merge_sessions(fork)
            return await merge_records(*args)

        monkeypatch.setattr(Merging, "_merge_records", late)
        for _ in range(2):
            await tree.merge_sessions(fork)
            assert await tree.get_state("s") == {"n": 11}

    @pytest.mark.parametrize("change", ["pop", "partial"])
    async def test_a_fork_that_changed_after_a_merge_was_cut_off_can_be_merged(
        self, tree: Hierarchy, monkeypatch: pytest.MonkeyPatch, change: str
    ) -> None:
        await fill(tree, "s", 1)
        fork = await tree.fork_session("s")
        await add(tree, fork, "f1")
        await tree.upsert_partial_assistant_message(fork, "f")
        note = vars(Bringing)["note"]
        steps = iter(range(3))

        async def cut_off(*args: Any) -> Any:
            if next(steps, None) == 1:
                raise ZeroDivisionError
            return await note(*args)

        monkeypatch.setattr(Bringing, "note", cut_off)
        with pytest.raises(ZeroDivisionError):
            await tree.merge_sessions(fork)
        if change == "pop":
            await tree.pop_message(fork)
        else:
            await tree.upsert_partial_assistant_message(fork, "f2", finalize=True)
        await add(tree, fork, "f3")
        for _ in range(2):
            await tree.merge_sessions(fork)
            assert await shown_in(tree, "s") == ["m1", "f1", "f", "f3"]

    async def test_a_merge_of_another_fork_may_come_between(
        self, tree: Hierarchy, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It changes what is shown after messages were appended, and before that is noted."""
        await fill(tree, "s", 1)
        first, second = [await tree.fork_session("s") for _ in range(2)]
        await add(tree, first, "f")
        await add(tree, second, "g")
        note = vars(Bringing)["note"]
        steps = iter(range(3))

        async def between(*args: Any) -> Any:
            if next(steps, None) == 1:
                await tree.merge_sessions(second, strategy="interleave")
            return await note(*args)

        monkeypatch.setattr(Bringing, "note", between)
        await tree.merge_sessions(first)
        assert sorted(await shown_in(tree, "s")) == ["f", "g", "m1"]

    @pytest.mark.parametrize("is_snapshot", [False, True])
    async def test_what_was_appended_before_a_kill_can_be_reverted_and_merged_again(
        self, tree: Hierarchy, monkeypatch: pytest.MonkeyPatch, *, is_snapshot: bool
    ) -> None:
        await fill(tree, "s", 1)
        snapshot = await tree.create_snapshot("s")
        fork = await tree.fork_session("s")
        await add(tree, fork, "f1")
        await tree.merge_sessions(fork)
        await add(tree, fork, "f2")
        with killed_at(monkeypatch, 2):
            await tree.merge_sessions(fork)
        if is_snapshot:
            await tree.revert_to_snapshot("s", snapshot)
        else:
            await tree.revert_to_message("s", 1)
        assert await shown_in(tree, "s") == ["m1"]
        assert (await tree.merge_sessions(fork)).messages == 2
        assert await shown_in(tree, "s") == ["m1", "f1", "f2"]

    async def test_a_fork_that_changed_after_a_kill_and_a_revert_is_merged_as_it_is(
        self, tree: Hierarchy, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await fill(tree, "s", 1)
        snapshot = await tree.create_snapshot("s")
        fork = await tree.fork_session("s")
        await add(tree, fork, "f1", "f2")
        with killed_at(monkeypatch, 2):
            await tree.merge_sessions(fork)
        await tree.revert_to_snapshot("s", snapshot)
        await tree.pop_message(fork)
        await add(tree, fork, "f3")
        await tree.merge_sessions(fork)
        assert await shown_in(tree, "s") == ["m1", "f1", "f3"]

    async def test_a_snapshot_during_a_merge_has_all_of_it(
        self, tree: Hierarchy, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await fill(tree, "s", 1)
        fork = await tree.fork_session("s")
        await add(tree, fork, "f1", "f2")
        snapshots: list[str] = []
        append = BaseSessionStore.append

        async def late(*args: Any, **options: Any) -> Any:
            monkeypatch.setattr(BaseSessionStore, "append", append)
            snapshots.append(await tree.create_snapshot("s"))
            return await append(*args, **options)

        monkeypatch.setattr(BaseSessionStore, "append", late)
        await tree.merge_sessions(fork)
        await tree.pop_message(fork)
        await add(tree, fork, "f3")
        await tree.revert_to_snapshot("s", snapshots[0])
        assert await shown_in(tree, "s") == ["m1", "f1", "f2"]
        await tree.merge_sessions(fork)
        assert await shown_in(tree, "s") == ["m1", "f1", "f2", "f3"]

    @pytest.mark.parametrize("is_remade", [False, True])
    @pytest.mark.parametrize("is_copied", [False, True])
    async def test_a_session_that_is_deleted_during_a_merge_stays_deleted(
        self,
        tree: Hierarchy,
        monkeypatch: pytest.MonkeyPatch,
        *,
        is_copied: bool,
        is_remade: bool,
    ) -> None:
        """It comes after messages are announced, and before they are appended."""
        await fill(tree, "s", 1)
        if is_copied:
            await tree.expire_session("s", 1000)
        fork = await tree.fork_session("s")
        await add(tree, fork, "f1")
        append = BaseSessionStore.append

        async def late(*args: Any, **options: Any) -> Any:
            monkeypatch.setattr(BaseSessionStore, "append", append)
            await tree.delete_session("s")
            if is_remade:
                await add(tree, "s", "another")
            return await append(*args, **options)

        monkeypatch.setattr(BaseSessionStore, "append", late)
        with pytest.raises(UnrelatedSessionsError if is_remade else SessionNotFoundError):
            await tree.merge_sessions(fork)
        assert await shown_in(tree, "s") == (["another"] if is_remade else [])
        assert await tree.session_exists("s") is is_remade

    async def test_a_session_that_is_remade_before_a_merge_begins_gets_nothing(
        self, tree: Hierarchy, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It was found to be related before."""
        await fill(tree, "s", 1)
        fork = await tree.fork_session("s")
        await add(tree, fork, "f1")
        begin = vars(Merging)["_append"]

        async def late(*args: Any) -> Any:
            await tree.delete_session("s")
            await add(tree, "s", "another")
            return await begin(*args)

        monkeypatch.setattr(Merging, "_append", late)
        with pytest.raises(UnrelatedSessionsError):
            await tree.merge_sessions(fork)
        assert await shown_in(tree, "s") == ["another"]

    async def test_a_fork_that_was_remade_after_its_merge_was_cut_off_is_another(
        self, tree: Hierarchy, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await fill(tree, "s", 1)
        await tree.create_session("f", parent_id="s")
        await add(tree, "f", "f1", "f2")
        with killed_at(monkeypatch, 2):
            await tree.merge_sessions("f")
        await tree.delete_session("f")
        await tree.create_session("f", parent_id="s")
        await add(tree, "f", "g1", "g2", "g3")
        for _ in range(2):
            await tree.create_snapshot("s")
            await tree.merge_sessions("f")
            assert await shown_in(tree, "s") == ["m1", "f1", "f2", "g1", "g2", "g3"]

    async def test_a_deleted_fork_whose_merge_was_cut_off_is_in_nobodys_way(
        self, tree: Hierarchy, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await fill(tree, "s", 2)
        fork = await tree.fork_session("s")
        await add(tree, fork, "f1")
        with killed_at(monkeypatch, 2):
            await tree.merge_sessions(fork)
        await tree.delete_session(fork)
        await tree.create_snapshot("s")
        await tree.revert_to_message("s", 1)
        assert await shown_in(tree, "s") == ["m1"]
        assert await tree.delete_session("s")


@contextmanager
def killed_at(monkeypatch: pytest.MonkeyPatch, step: int) -> Iterator[None]:
    """Let a merge fail instead of making one of its notes, the first of which has the number 1."""
    note = vars(Bringing)["note"]
    steps = itertools.count(1)

    async def cut_off(*args: Any) -> Any:
        if next(steps) == step:
            raise ZeroDivisionError
        return await note(*args)

    with monkeypatch.context() as patch:
        patch.setattr(Bringing, "note", cut_off)
        with pytest.raises(ZeroDivisionError):
            yield
