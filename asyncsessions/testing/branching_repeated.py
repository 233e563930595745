"""Cases of merges that are made again, after something has changed on either side."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from asyncsessions.base import BaseSessionStore
from asyncsessions.errors import (
    CorruptSessionError,
    MessageTooLargeError,
    UnrelatedSessionsError,
)
from asyncsessions.hierarchy.merging import Strategy
from asyncsessions.hierarchy.reading import Reader
from asyncsessions.testing._branch_cases import Hierarchy, HierarchyCases, add, shown_in
from asyncsessions.testing._cases import fill, user
from asyncsessions.testing.branching_interrupted import killed_at

__all__ = ["RepeatedMergeCases"]


class RepeatedMergeCases(HierarchyCases):
    """Each message is brought once, in whichever of the merges it can be seen first."""

    @pytest.mark.parametrize("strategy", ["append", "interleave"])
    async def test_what_a_fork_hid_during_a_merge_comes_with_a_later_one(
        self, tree: Hierarchy, strategy: Strategy
    ) -> None:
        await fill(tree, "s", 1)
        fork = await tree.fork_session("s")
        await add(tree, fork, "f1", "f2", "f3")
        await tree.revert_to_message(fork, 2)
        assert (await tree.merge_sessions(fork, strategy=strategy)).messages == 1
        await tree.undo_revert(fork)
        await add(tree, fork, "f4")
        assert (await tree.merge_sessions(fork, strategy=strategy)).messages == 3
        for _ in range(2):
            assert await shown_in(tree, "s") == ["m1", "f1", "f2", "f3", "f4"]
            await tree.revert_to_message("s", 1)
            await tree.merge_sessions(fork)

    async def test_what_a_fork_hid_comes_after_what_took_its_place(self, tree: Hierarchy) -> None:
        await fill(tree, "s", 1)
        fork = await tree.fork_session("s")
        await add(tree, fork, "f1", "f2")
        await tree.revert_to_message(fork, 2)
        await add(tree, fork, "f3")
        await tree.merge_sessions(fork)
        await tree.undo_revert(fork)
        for _ in range(2):
            await tree.merge_sessions(fork)
            assert await shown_in(tree, "s") == ["m1", "f1", "f3", "f2"]

    async def test_what_a_fork_hides_during_a_merge_comes_with_a_later_one(
        self, tree: Hierarchy, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Somebody else looks after it, and finds nothing to append."""
        await fill(tree, "s", 1)
        fork = await tree.fork_session("s")
        await add(tree, fork, "f1", "f2")
        with killed_before_append(monkeypatch):
            await tree.merge_sessions(fork)
        await tree.revert_to_message(fork, 1)
        await tree.create_snapshot("s")
        assert await shown_in(tree, "s") == ["m1"]
        await tree.undo_revert(fork)
        for _ in range(2):
            await tree.merge_sessions(fork)
            assert await shown_in(tree, "s") == ["m1", "f1", "f2"]

    @pytest.mark.parametrize("is_reverted", [False, True])
    async def test_a_merge_that_others_took_for_dead_doubles_nothing(
        self, tree: Hierarchy, monkeypatch: pytest.MonkeyPatch, *, is_reverted: bool
    ) -> None:
        await fill(tree, "s", 1)
        snapshot = await tree.create_snapshot("s")
        fork = await tree.fork_session("s")
        await add(tree, fork, "f1", "f2")
        append = BaseSessionStore.append

        async def late(*args: Any, **options: Any) -> Any:
            monkeypatch.setattr(BaseSessionStore, "append", append)
            await tree.revert_to_message(fork, 1)
            await tree.create_snapshot("s")
            if is_reverted:
                await tree.revert_to_snapshot("s", snapshot)
            await tree.undo_revert(fork)
            return await append(*args, **options)

        monkeypatch.setattr(BaseSessionStore, "append", late)
        for _ in range(2):
            await tree.merge_sessions(fork)
            assert await shown_in(tree, "s") == ["m1", "f1", "f2"]

    @pytest.mark.parametrize("is_set", [False, True])
    async def test_what_a_session_lets_go_of_during_a_merge_does_not_come_back(
        self, tree: Hierarchy, monkeypatch: pytest.MonkeyPatch, *, is_set: bool
    ) -> None:
        """Unless it had not come yet, and is merged again."""
        await fill(tree, "s", 1)
        fork = await tree.fork_session("s")
        await add(tree, fork, "f1")
        with killed_at(monkeypatch, 2):
            await tree.merge_sessions(fork)
        await add(tree, fork, "f2")
        for _ in range(2):
            if is_set:
                await tree.set_chat_history("s", [user("other")])
            else:
                await tree.clear_session("s")
            await tree.create_snapshot("s")
            assert await shown_in(tree, "s") == ["other"] * is_set
            with killed_before_append(monkeypatch):
                await tree.merge_sessions(fork)
        await tree.merge_sessions(fork)
        assert await shown_in(tree, "s") == [*["other"] * is_set, "f2"]

    async def test_a_session_in_place_of_one_whose_merge_was_cut_off_is_not_read(
        self, tree: Hierarchy, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await fill(tree, "s", 1)
        await tree.expire_session("s", 1000)
        fork = await tree.fork_session("s")
        await add(tree, "s", "new")
        with killed_before_append(monkeypatch):
            await tree.merge_sessions("s", into=fork)
        await tree.delete_session("s")
        await add(tree, "s", "another", "secret")
        await tree.create_snapshot(fork)
        assert await shown_in(tree, fork) == ["m1"]
        with pytest.raises(UnrelatedSessionsError):
            await tree.merge_sessions("s", into=fork)

    async def test_a_revert_to_what_came_after_a_merge_keeps_what_it_brought(
        self, tree: Hierarchy, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The fork shows less when the merge is finished than when it was cut off."""
        await fill(tree, "s", 1)
        fork = await tree.fork_session("s")
        await add(tree, fork, "f1", "f2")
        with killed_at(monkeypatch, 2):
            await tree.merge_sessions(fork)
        await tree.pop_message(fork)
        later, _ = await add(tree, "s", "s1", "s2")
        await tree.merge_sessions(fork)
        await tree.revert_to_message("s", later.seq)
        for _ in range(2):
            assert await shown_in(tree, "s") == ["m1", "f1", "f2", "s1"]
            await tree.merge_sessions(fork)

    async def test_a_damaged_fork_is_in_nobodys_way(
        self, tree: Hierarchy, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await fill(tree, "s", 1)
        fork = await tree.fork_session("s")
        await add(tree, fork, "f1")
        with killed_at(monkeypatch, 2):
            await tree.merge_sessions(fork)
        read_at = Reader.read_at

        async def damaged(reader: Any, lineage: Any, window: Any) -> Any:
            if lineage.info.session_id == fork:
                raise CorruptSessionError("its message is torn", session_id=fork)
            return await read_at(reader, lineage, window)

        with monkeypatch.context() as patch:
            patch.setattr(Reader, "read_at", damaged)
            await tree.create_snapshot("s")
            with pytest.raises(CorruptSessionError):
                await tree.merge_sessions(fork)
        for _ in range(2):
            await tree.merge_sessions(fork)
            assert await shown_in(tree, "s") == ["m1", "f1"]

    async def test_messages_that_cannot_be_stored_are_in_nobodys_way(
        self, tree: Hierarchy, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Another process may allow larger ones."""
        await fill(tree, "s", 1)
        fork = await tree.fork_session("s")
        await add(tree, fork, "f1")
        append = BaseSessionStore.append

        async def refuse(
            store: BaseSessionStore, session_id: str, messages: Any, **options: Any
        ) -> Any:
            if messages:
                raise MessageTooLargeError(size=2, limit=1)
            return await append(store, session_id, messages, **options)

        with killed_before_append(monkeypatch):
            await tree.merge_sessions(fork)
        with monkeypatch.context() as patch:
            patch.setattr(BaseSessionStore, "append", refuse)
            await tree.create_snapshot("s")
            with pytest.raises(MessageTooLargeError):
                await tree.merge_sessions(fork)
            await tree.revert_to_message("s", 1)
        for _ in range(2):
            await tree.merge_sessions(fork)
            assert await shown_in(tree, "s") == ["m1", "f1"]
        assert await tree.delete_session("s")

    async def test_many_small_merges_are_remembered(self, tree: Hierarchy) -> None:
        await fill(tree, "s", 1)
        fork = await tree.fork_session("s")
        said = ["m1"]
        for number in range(70):
            await add(tree, fork, f"f{number}")
            assert (await tree.merge_sessions(fork)).messages == 1
            await add(tree, "s", f"s{number}")
            said += [f"f{number}", f"s{number}"]
        assert (await tree.merge_sessions(fork)).messages == 0
        assert await shown_in(tree, "s") == said
        newest = (await tree.get_messages("s"))[-3]
        await tree.revert_to_message("s", newest.seq)
        assert (await tree.merge_sessions(fork)).messages == 1
        assert await shown_in(tree, "s") == [*said[:-2], "f69"]


@contextmanager
def killed_before_append(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let a merge fail that has said what it appends."""

    async def cut_off(*_: Any, **__: Any) -> Any:
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr(BaseSessionStore, "append", cut_off)
        with pytest.raises(ZeroDivisionError):
            yield
