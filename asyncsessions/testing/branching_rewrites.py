"""Cases of snapshots, reverts and removals, and of many that branch at once."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Any

import pytest

from asyncsessions.base import BaseSessionStore
from asyncsessions.errors import (
    InvalidMessageError,
    MessageNotFoundError,
    SessionNotFoundError,
    SessionSharedError,
    SnapshotNotFoundError,
)
from asyncsessions.hierarchy.checking import check_trees
from asyncsessions.hierarchy.records import Records
from asyncsessions.hooks import SHARED, Change
from asyncsessions.testing._branch_cases import Call, Hierarchy, HierarchyCases, add, said, shown_in
from asyncsessions.testing._cases import (
    ManualClock,
    fill,
    ids,
    is_absent,
    seqs,
    texts,
    user,
)

__all__ = ["BranchingTogetherCases", "RemovalCases", "SnapshotCases"]


class SnapshotCases(HierarchyCases):
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
        await add(tree, "s", "m5")
        await tree.update_session_metadata("s", b=2, c=2)
        await tree.update_state("s", {"y": 2, "z": 2}, remove=["x"])
        await tree.append_compaction_checkpoint("s", "later", seq=5)
        assert await tree.revert_to_snapshot("s", snapshot_id) is True
        after = await tree.get_session("s")
        for field in ("messages", "metadata", "state", "checkpoint", "message_count"):
            assert getattr(after, field) == getattr(before, field), field
        assert await shown_in(tree, "s") == said(1, 4)
        assert seqs(await add(tree, "s", "m6")) == [6]

    async def test_a_revert_can_be_undone_and_redone(self, tree: Hierarchy) -> None:
        await fill(tree, "s", 5)
        await tree.set_state("s", "n", 1)
        assert await tree.revert_to_message("s", 2) is True
        assert await shown_in(tree, "s") == said(1, 2)
        assert await tree.get_state("s") == {"n": 1}
        await add(tree, "s", "m6")
        await tree.set_state("s", "n", 2)
        assert await shown_in(tree, "s") == ["m1", "m2", "m6"]
        assert await tree.get_snapshots("s") == []
        assert await tree.undo_revert("s") is True
        assert await shown_in(tree, "s") == said(1, 5)
        assert await tree.get_state("s") == {"n": 1}
        await tree.undo_revert("s")
        assert await shown_in(tree, "s") == ["m1", "m2", "m6"]
        assert await tree.get_state("s") == {"n": 2}
        assert seqs(await add(tree, "s", "m7")) == [7]
        automatic = await tree.get_snapshots("s", include_automatic=True)
        assert [each.is_automatic for each in automatic] == [True] * 3
        assert await tree.purge_reverts("s") == 3
        with pytest.raises(SnapshotNotFoundError):
            await tree.undo_revert("s")
        assert await shown_in(tree, "s") == ["m1", "m2", "m6", "m7"]

    async def test_the_last_revert_is_undone_whatever_the_clock(
        self, tree: Hierarchy, clock: ManualClock
    ) -> None:
        await fill(tree, "s", 5)
        await tree.revert_to_message("s", 4)
        await add(tree, "s", "m6")
        clock.advance(-50)
        await tree.revert_to_message("s", 2)
        await tree.undo_revert("s")
        assert await shown_in(tree, "s") == ["m1", "m2", "m3", "m4", "m6"]

    async def test_reverts_go_back_and_forth(self, tree: Hierarchy) -> None:
        await fill(tree, "s", 3)
        early = await tree.create_snapshot("s")
        await add(tree, "s", "m4", "m5")
        late = await tree.create_snapshot("s")
        await tree.revert_to_snapshot("s", early)
        await add(tree, "s", "m6")
        other = await tree.create_snapshot("s")
        for snapshot, shown in [
            (late, said(1, 5)),
            (early, said(1, 3)),
            (other, [*said(1, 3), "m6"]),
            (late, said(1, 5)),
        ]:
            await tree.revert_to_snapshot("s", snapshot)
            assert await shown_in(tree, "s") == shown
            await add(tree, "s", "more")
            assert await shown_in(tree, "s") == [*shown, "more"]
        await tree.revert_to_message("s", 4)
        assert await shown_in(tree, "s") == said(1, 4)
        fork = await tree.fork_session("s")
        assert await shown_in(tree, fork) == said(1, 4)
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
        refusals: list[Call] = [
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
        assert await shown_in(tree, "s") == said(1, 2)
        rewrites: list[Call] = [
            lambda: tree.clear_session("s"),
            lambda: tree.set_chat_history("s", [user("x")]),
            lambda: tree.set_chat_history("s", []),
        ]
        for rewrite in rewrites:
            await rewrite()
            await tree.revert_to_snapshot("s", snapshot)
            assert await shown_in(tree, "s") == said(1, 3)
        await tree.upsert_partial_assistant_message("s", "par")
        during = await tree.create_snapshot("s")
        await tree.upsert_partial_assistant_message("s", "partly")
        assert await shown_in(tree, "s") == [*said(1, 3), "partly"]
        await tree.upsert_partial_assistant_message("s", "whole", finalize=True)
        assert await shown_in(tree, "s") == [*said(1, 3), "whole"]
        await tree.revert_to_snapshot("s", during)
        assert await shown_in(tree, "s") == [*said(1, 3), "par"]
        await tree.discard_partial_assistant_message("s")
        assert await shown_in(tree, "s") == said(1, 3)

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
        assert await shown_in(tree, "s") == []
        with pytest.raises(SnapshotNotFoundError):
            await tree.undo_revert("s")
        assert not await tree.clear_session("s")
        assert seqs(await add(tree, "s", "m4")) == [4]
        assert await shown_in(tree, "s") == ["m4"]


class RemovalCases(HierarchyCases):
    """What is removed in one session stays in those that were forked from it."""

    async def test_rewrites_of_a_parent_leave_its_forks_alone(self, tree: Hierarchy) -> None:
        await fill(tree, "s", 4)
        fork = await tree.fork_session("s")
        assert (await tree.get_messages("s"))[-1] == await tree.pop_message("s")
        assert await shown_in(tree, "s") == said(1, 3)
        assert await tree.set_chat_history("s", [user("new")])
        assert await shown_in(tree, "s") == ["new"]
        assert await tree.clear_session("s")
        assert await shown_in(tree, "s") == []
        assert not await tree.clear_session("s")
        assert seqs(await add(tree, "s", "late")) == [6]
        assert await shown_in(tree, "s") == ["late"]
        assert await shown_in(tree, fork) == said(1, 4)

    async def test_rewrites_of_a_fork_leave_its_parent_alone(self, tree: Hierarchy) -> None:
        await fill(tree, "s", 3)
        fork = await tree.fork_session("s")
        for expected in (["m1", "m2"], ["m1"], [], []):
            await tree.pop_message(fork)
            assert await shown_in(tree, fork) == expected
        assert await tree.pop_message(fork) is None
        fork = await tree.fork_session("s")
        await tree.upsert_partial_assistant_message(fork, "p")
        await tree.upsert_partial_assistant_message(fork, "partial")
        assert await shown_in(tree, fork) == [*said(1, 3), "partial"]
        await tree.discard_partial_assistant_message(fork)
        await tree.discard_partial_assistant_message(fork)
        assert await shown_in(tree, fork) == said(1, 3)
        await tree.set_chat_history(fork, [user("x"), user("y")])
        assert await shown_in(tree, fork) == ["x", "y"]
        await tree.clear_session(fork)
        assert await shown_in(tree, fork) == []
        assert await shown_in(tree, "s") == said(1, 3)

    async def test_bad_input_leaves_a_fork_as_it_is(self, tree: Hierarchy) -> None:
        await fill(tree, "s", 3)
        fork = await tree.fork_session("s")
        bad: Any = [user("x"), {"role": "user", "content": "\ud800"}]
        with pytest.raises(InvalidMessageError):
            await tree.set_chat_history(fork, bad)
        with pytest.raises(InvalidMessageError):
            await tree.upsert_partial_assistant_message(fork, "\ud800")
        assert await shown_in(tree, fork) == said(1, 3)

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
        assert await shown_in(tree, fork) == said(1, 3)
        assert await tree.delete_session(fork)
        assert await shown_in(tree, below) == said(1, 2)
        assert await tree.search("m1") != []
        assert await tree.delete_session(below)
        assert await plain.list_sessions() == []

    async def test_a_long_line_of_deleted_parents_goes_with_its_last_fork(
        self, tree: Hierarchy, plain: BaseSessionStore
    ) -> None:
        await fill(tree, "s", 1)
        name, depth = "s", 60
        for _ in range(depth):
            parent, name = name, await tree.fork_session(name, title="f")
            await tree.delete_session(parent)
        assert await shown_in(tree, name) == ["m1"]
        assert len(await plain.list_sessions(200)) == depth + 1
        assert await tree.delete_session(name)
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
        assert await shown_in(tree, fork) == said(1, 3)
        await add(tree, "s", "more")
        assert await tree.delete_session(fork)
        assert await shown_in(tree, "s") == ["more"]
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
        assert await shown_in(tree, below) == said(1, 2)


class BranchingTogetherCases(HierarchyCases):
    """Many callers branch the same session at once."""

    async def test_appends_and_forks_at_once_lose_nothing(self, tree: Hierarchy) -> None:
        await add(tree, "s", "first")

        async def append(number: int) -> None:
            await tree.add_message("s", "user", f"a{number}")

        async def fork() -> list[Any]:
            return await shown_in(tree, await tree.fork_session("s"))

        calls = [append(number) if number % 4 else fork() for number in range(40)]
        forks = [each for each in await asyncio.gather(*calls) if each is not None]
        shown = await shown_in(tree, "s")
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
        shown = await shown_in(tree, "s")
        assert shown[:3] == said(1, 3)
        seen = set(shown)
        for each in await tree.get_snapshots("s", include_automatic=True):
            await tree.revert_to_snapshot("s", each.snapshot_id)
            seen |= set(await shown_in(tree, "s"))
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
                assert await shown_in(tree, each) == said(1, 3)
            assert await is_absent(tree, "s")
            removed = await asyncio.gather(*map(tree.delete_session, made))
            assert all(removed)
            assert await plain.list_sessions() == []

    async def test_clears_and_forks_at_once_break_no_fork(self, tree: Hierarchy) -> None:
        for _ in range(5):
            await fill(tree, "s", 3)
            before = await shown_in(tree, "s")
            forks = await asyncio.gather(
                *(tree.fork_session("s") for _ in range(3)),
                tree.clear_session("s"),
                *(tree.fork_session("s") for _ in range(3)),
            )
            for each in forks:
                if isinstance(each, str):
                    assert await shown_in(tree, each) in (before, [])
            assert await shown_in(tree, "s") == []

    @pytest.mark.parametrize("call", ["fork", "revert"])
    async def test_a_session_that_is_made_anew_before_it_is_looked_at_keeps_what_is_needed(
        self,
        tree: Hierarchy,
        plain: BaseSessionStore,
        monkeypatch: pytest.MonkeyPatch,
        call: str,
    ) -> None:
        """As where a deleted session was just being removed for good when a note came to it."""
        await fill(tree, "s", 1)
        amend = plain.amend_session
        left = iter([1])

        async def lose(session_id: str, changes: Sequence[Change], **options: Any) -> Any:
            values = await amend(session_id, changes, **options)
            if next(left, None) is not None:
                (reader,) = (each.path[-1] for each in changes if each.path[1] == SHARED)
                await amend(session_id, [Change(("metadata", SHARED, reader), "remove")])
                await plain.delete_session(session_id)
                await fill(plain, session_id, 4)
            return values

        kept = "s"
        with monkeypatch.context() as patch:
            patch.setattr(plain, "amend_session", lose)
            if call == "fork":
                kept = await tree.fork_session("s")
            else:
                await tree.revert_to_message("s", 3)
        upto = 4 if call == "fork" else 3
        assert await shown_in(tree, kept) == said(1, upto)
        assert await check_trees(plain) == []
        if call == "fork":
            await tree.clear_session("s")
            assert await shown_in(tree, kept) == said(1, upto)

    @pytest.mark.parametrize("between", ["append", "pop", "set", "delete", "mark", "clear"])
    async def test_what_comes_between_the_steps_of_a_clear_is_counted_right(
        self, tree: Hierarchy, monkeypatch: pytest.MonkeyPatch, between: str
    ) -> None:
        """First the messages are hidden, and then those removed that nobody else reads."""
        await fill(tree, "s", 3)
        await tree.revert_to_message("s", 2)
        await tree.delete_session(await tree.fork_session("s"))
        clear = BaseSessionStore.clear_session
        calls: dict[str, Call] = {
            "append": lambda: add(tree, "s", "between"),
            "pop": lambda: tree.pop_message("s"),
            "set": lambda: tree.set_chat_history("s", [user("set")]),
            "delete": lambda: tree.delete_session("s"),
            "mark": lambda: tree.delete_session("s"),
            "clear": lambda: tree.clear_session("s"),
        }

        async def too_early(*_: Any) -> None:
            pass

        if between == "mark":  # What is deleted is removed a little later.
            monkeypatch.setattr(Records, "collect", too_early)
        left = iter([calls[between]])

        async def late(store: BaseSessionStore, session_id: str) -> bool:
            if store is not tree:
                for call in left:
                    with contextlib.suppress(SessionNotFoundError, MessageNotFoundError):
                        await call()
            return await clear(store, session_id)

        with monkeypatch.context() as patch:
            patch.setattr(BaseSessionStore, "clear_session", late)
            await tree.clear_session("s")
        await add(tree, "s", "after 1", "after 2")
        fork = await tree.fork_session("s")
        for session_id in ("s", fork):
            session = await tree.get_session(session_id)
            assert session.message_count == len(session.messages)
            assert texts(session.messages)[-2:] == ["after 1", "after 2"]
