"""The checker finds what killed processes and damage leave behind, and repairs what it can."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from asyncsessions import BaseSessionStore, open_store
from asyncsessions.errors import MessageNotFoundError, SessionSharedError
from asyncsessions.hierarchy import HierarchicalSessionStore
from asyncsessions.hierarchy.checking import Finding, check_trees
from asyncsessions.hierarchy.saved import TREE
from asyncsessions.hooks import SHARED, Change
from asyncsessions.testing._cases import ManualClock, fill, ids, texts, user

Step = Callable[[HierarchicalSessionStore], Awaitable[object]]
DAY = 24 * 3600.0


class Killed(BaseException):
    """The process ends here; nobody handles it."""


class Place:
    """A store, and the sessions in it."""

    def __init__(self, url: str, clock: ManualClock, **options: Any) -> None:
        self.clock = clock
        self.plain: BaseSessionStore = open_store(url, clock=clock, **options)
        self.tree = HierarchicalSessionStore(self.plain)

    async def check(self, *, repair: bool = False) -> list[Finding]:
        """Return what the checker finds, in a fixed order."""
        found = await check_trees(self.plain, repair=repair, clock=self.clock)
        return sorted(found, key=lambda each: (each.session_id, each.what, each.other_id or ""))

    async def kinds(self) -> list[tuple[str, str, str | None]]:
        """Return what the checker finds, without details."""
        return [(each.session_id, each.what, each.other_id) for each in await self.check()]

    async def set(self, session_id: str, key: str, name: str, value: Any) -> None:
        """Write into a session's record what nobody writes there; None removes."""
        kind: Any = "remove" if value is None else "set"
        change = Change(("metadata", key, name), kind, value)
        assert await self.plain.amend_session(session_id, [change]) is not None

    async def shown(self, session_id: str) -> list[Any]:
        """Return what a session says."""
        return texts(await self.tree.get_messages(session_id))

    async def killed_at(self, write: int, step: Step, monkeypatch: pytest.MonkeyPatch) -> bool:
        """Take a step that is killed before one of its writes; return whether it has so many."""
        left = write

        def counted(call: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
            async def dying(*args: Any, **options: Any) -> Any:
                nonlocal left
                left -= 1
                if left < 0:
                    raise Killed
                return await call(*args, **options)

            return dying

        with monkeypatch.context() as patch:
            for name in ("amend_session", "append", "discard_session", "clear_session"):
                patch.setattr(self.plain, name, counted(getattr(self.plain, name)))
            try:
                await step(self.tree)
            except Killed:
                return True
        return False


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture(params=["memory", "jsonl"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return "memory://" if request.param == "memory" else f"jsonl://{tmp_path / 'sessions'}"


@pytest_asyncio.fixture
async def place(url: str, clock: ManualClock) -> AsyncIterator[Place]:
    place = Place(url, clock)
    async with place.tree:
        yield place


async def test_plain_sessions_are_well(place: Place) -> None:
    await fill(place.tree, "s", 3)
    await place.tree.clear_session("s")
    await place.tree.update_session_metadata("t", a=1)

    assert await place.check(repair=True) == []


async def test_healthy_trees_are_well(place: Place) -> None:
    tree = place.tree
    await fill(tree, "s", 6)
    await tree.pop_message("s")
    name = "s"
    for _ in range(3):
        name = await tree.fork_session(name)
        await fill(tree, name, 2)
        await tree.create_snapshot(name)
        await tree.revert_to_message(name, 4)
    await tree.fork_session("s", from_seq=2)
    await tree.undo_revert(name)
    await tree.create_session("child", parent_id="s")
    await tree.create_snapshot("child")
    await tree.fork_session("child")
    await tree.clear_session("s")
    await tree.set_chat_history(name, [user("x")])
    await tree.expire_session(await tree.fork_session("s"), 1e9)
    before = await place.plain.list_sessions()

    assert await place.check() == []
    place.clock.advance(2 * DAY)
    assert await place.check(repair=True) == []
    assert await place.plain.list_sessions() == before


async def test_deleted_parents_are_well(place: Place) -> None:
    tree = place.tree
    await fill(tree, "s", 3)
    fork = await tree.fork_session("s")
    below = await tree.fork_session(fork, from_seq=2)
    await tree.delete_session("s")
    assert await place.check(repair=True) == []
    await tree.delete_session(fork)
    assert await place.check(repair=True) == []
    await tree.add_message("s", "user", "used again")
    assert await place.check(repair=True) == []

    assert await place.shown(below) == ["m1", "m2"]
    await tree.delete_session(below)
    await tree.delete_session("s")
    assert await place.plain.list_sessions() == []


@pytest.mark.parametrize("options", [{"max_messages": 3}, {"ttl_seconds": 30 * DAY}])
async def test_copies_are_well(url: str, clock: ManualClock, options: dict[str, Any]) -> None:
    place = Place(url, clock, **options)
    async with place.tree as tree:
        await fill(tree, "s", 3)
        await tree.create_snapshot("s")
        fork = await tree.fork_session("s", from_seq=2)
        await fill(tree, "s", 3)
        await tree.fork_session(fork)
        await tree.delete_session("s")

        assert await place.check(repair=True) == []


async def _fork(tree: HierarchicalSessionStore) -> None:
    await tree.fork_session("s", from_seq=2)


async def _fork_too_far(tree: HierarchicalSessionStore) -> None:
    with pytest.raises(MessageNotFoundError):
        await tree.fork_session("s", from_seq=99)


async def _adopt(tree: HierarchicalSessionStore) -> None:
    await tree.create_session("child", parent_id="s")


async def _snapshot(tree: HierarchicalSessionStore) -> None:
    await tree.create_snapshot("s")


async def _clear(tree: HierarchicalSessionStore) -> None:
    await tree.clear_session("s")


async def _clear_fork(tree: HierarchicalSessionStore) -> None:
    (fork,) = await tree.get_children("s")
    await tree.add_message(fork, "user", "own")
    await tree.clear_session(fork)


async def _replace(tree: HierarchicalSessionStore) -> None:
    await tree.set_chat_history("s", [user("x")])


async def _merge(tree: HierarchicalSessionStore) -> None:
    (fork,) = await tree.get_children("s")
    await tree.add_message(fork, "user", "own")
    await tree.add_message("s", "user", "other")
    await tree.merge_sessions(fork, into="s", strategy="interleave")


async def _merge_and_clear(tree: HierarchicalSessionStore) -> None:
    await _merge(tree)
    for snapshot in await tree.get_snapshots("s", include_automatic=True):
        await tree.delete_snapshot("s", snapshot.snapshot_id)
    (fork,) = await tree.get_children("s")
    await tree.delete_session(fork)
    await tree.clear_session("s")


async def _revert(tree: HierarchicalSessionStore) -> None:
    await tree.revert_to_message("s", 1)


async def _delete(tree: HierarchicalSessionStore) -> None:
    await tree.delete_session("s")


async def _delete_all(tree: HierarchicalSessionStore) -> None:
    (fork,) = await tree.get_children("s")
    await tree.delete_session("s")
    await tree.delete_session(fork)


STEPS: list[Step] = [
    _fork,
    _fork_too_far,
    _adopt,
    _snapshot,
    _clear,
    _clear_fork,
    _replace,
    _merge,
    _merge_and_clear,
    _revert,
    _delete,
    _delete_all,
]


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.__name__.strip("_"))
@pytest.mark.parametrize("options", [{}, {"max_messages": 9}], ids=["shared", "copied"])
async def test_whatever_a_kill_leaves_behind_is_repaired(
    url: str,
    clock: ManualClock,
    monkeypatch: pytest.MonkeyPatch,
    options: dict[str, Any],
    step: Step,
) -> None:
    place = Place(url, clock, **options)
    async with place.tree as tree:
        for write in range(20):
            await fill(tree, "s", 3)
            fork = await tree.fork_session("s")
            before = await place.shown(fork)
            await tree.create_snapshot("s")

            was_killed = await place.killed_at(write, step, monkeypatch)
            for each in await place.check():
                assert each.is_recent, each
            clock.advance(DAY + 1)
            for each in await place.check(repair=True):
                assert each.is_repaired, each
            assert await place.check() == []

            if await tree.session_exists(fork) and step is not _clear_fork:
                assert (await place.shown(fork))[:3] == before
            for info in await tree.list_sessions():
                assert info.message_count == len(await place.shown(info.session_id))
                await tree.delete_session(info.session_id)
            assert await place.plain.list_sessions() == []
            if not was_killed:
                # Of a copied fork nothing is noted before it is cleared.
                assert write > 0 or (step is _clear_fork and options)
                return
        pytest.fail("it never ends")


async def test_notes_for_nobody_are_removed_once_they_are_old(place: Place) -> None:
    await fill(place.tree, "s", 3)
    await place.set("s", SHARED, "fork", 2)
    await place.set("s", TREE, "child.fork", place.clock.now)
    await place.set("s", SHARED, "snapshot", 3)
    await fill(place.tree, "s", 1)
    place.clock.advance(DAY - 1)
    await place.set("s", SHARED, "late", 1)
    await place.set("s", TREE, "child.late", place.clock.now)
    await place.tree.add_message("other", "user", "x")
    expected = [("s", "unread", "fork"), ("s", "unread", "late"), ("s", "unread", "snapshot")]

    found = await place.check(repair=True)
    assert [(each.session_id, each.what, each.other_id) for each in found] == expected
    assert all(each.is_recent and not each.is_repaired for each in found)

    place.clock.advance(2)
    # The snapshot's note has no time of its own, so the last write of the session counts.
    repaired = [each.is_repaired for each in await place.check(repair=True)]
    assert repaired == [True, False, False]
    place.clock.advance(DAY)
    assert await place.kinds() == expected[1:]
    assert all(each.is_repaired for each in await place.check(repair=True))
    assert await place.check() == []
    assert await place.plain.delete_session("s")


async def test_a_fork_that_is_at_work_keeps_its_note(place: Place) -> None:
    await fill(place.tree, "s", 3)
    await place.set("s", SHARED, "late", 3)
    await place.set("s", TREE, "child.late", place.clock.now)
    place.clock.advance(2 * DAY)
    amend = place.plain.amend_session

    async def overtaken(session_id: str, changes: Any, **options: Any) -> Any:
        # Between the last look and the repair, the same id is noted anew.
        await amend("s", [Change(("metadata", TREE, "child.late"), "set", place.clock.now)])
        return await amend(session_id, changes, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(place.plain, "amend_session", overtaken)
        (found,) = await place.check(repair=True)

    assert (found.what, found.can_repair, found.is_repaired) == ("unread", True, False)
    (found,) = await place.check()
    assert found.is_recent


async def test_a_snapshot_that_is_at_work_keeps_its_note(place: Place) -> None:
    await fill(place.tree, "s", 3)
    await place.set("s", SHARED, "snapshot", 3)
    place.clock.advance(2 * DAY)
    amend = place.plain.amend_session

    async def overtaken(session_id: str, changes: Any, **options: Any) -> Any:
        await amend("s", [Change(("metadata", SHARED, "snapshot"), "set", 3)])
        return await amend(session_id, changes, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(place.plain, "amend_session", overtaken)
        (found,) = await place.check(repair=True)

    assert (found.what, found.can_repair, found.is_repaired) == ("unread", True, False)


async def test_what_is_wrong_for_a_moment_is_no_finding(place: Place) -> None:
    await fill(place.tree, "s", 3)
    await place.set("s", SHARED, "nobody", 1)
    get_info = place.plain.get_info

    async def later(session_id: str) -> Any:
        # The first look has taken the record from the list; this is the second one.
        if session_id == "s":
            await place.set("s", SHARED, "later", 1)
        return await get_info(session_id)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(place.plain, "get_info", later)
        assert await place.kinds() == [("s", "unread", "nobody")]
        await place.set("s", SHARED, "nobody", None)
        await place.set("s", SHARED, "later", None)
        assert await place.kinds() == []


async def test_a_fork_of_nothing_is_noted_for_as_much(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = place.tree
    await tree.create_session("s")
    assert await place.killed_at(2, lambda tree: tree.fork_session("s"), monkeypatch)
    place.clock.advance(2 * DAY)

    assert [what for _, what, _ in await place.kinds()] == ["overstated"]
    assert all(each.is_repaired for each in await place.check(repair=True))
    assert await place.check() == []
    with pytest.raises(SessionSharedError):
        await place.plain.delete_session("s")


async def test_a_fork_that_is_none_is_taken_off_the_list(place: Place) -> None:
    tree = place.tree
    await fill(tree, "s", 3)
    fork = await tree.fork_session("s")
    await tree.add_message("plain", "user", "x")
    await place.set("s", TREE, "child.nobody", 5.0)
    await place.set("s", TREE, "child.plain", 5.0)

    assert await place.kinds() == [("s", "unborn", "nobody"), ("s", "unborn", "plain")]
    assert all(each.is_repaired for each in await place.check(repair=True))
    assert await place.check() == []
    assert await tree.get_children("s") == [fork]


async def test_a_missing_note_is_made_again(place: Place) -> None:
    tree = place.tree
    await fill(tree, "s", 3)
    fork = await tree.fork_session("s")
    below = await tree.fork_session(fork, from_seq=2)
    other = await tree.fork_session("s")
    for session_id, reader in (("s", fork), (fork, below)):
        await place.set(session_id, SHARED, reader, None)
    await place.set("s", SHARED, other, 1)
    expected = {("s", "unnoted", fork), ("s", "unnoted", other), (fork, "unnoted", below)}

    assert set(await place.kinds()) == expected
    assert all(each.is_repaired for each in await place.check(repair=True))
    assert await place.check() == []
    assert set(await tree.get_children("s")) == {fork, other}
    for session_id in ("s", fork, other):
        await tree.delete_session(session_id)
    assert await place.shown(below) == ["m1", "m2"]
    await tree.delete_session(below)
    assert await place.plain.list_sessions() == []


async def test_a_deleted_session_that_is_read_unnoted_stays(place: Place) -> None:
    tree = place.tree
    await fill(tree, "s", 3)
    fork = await tree.fork_session("s")
    below = await tree.fork_session(fork)
    await tree.delete_session("s")
    await tree.delete_session(fork)
    await place.set("s", SHARED, fork, None)
    await place.set(fork, SHARED, below, None)
    place.clock.advance(2 * DAY)

    assert set(await place.kinds()) == {("s", "unnoted", fork), (fork, "unnoted", below)}
    assert all(each.is_repaired for each in await place.check(repair=True))
    assert await place.check() == []
    assert await place.shown(below) == ["m1", "m2", "m3"]


async def test_an_id_that_is_used_again_elsewhere_loses_nothing(place: Place) -> None:
    tree = place.tree
    await fill(tree, "s", 3)
    await fill(tree, "other", 1)
    fork = await tree.fork_session("s")
    below = await tree.fork_session(fork)
    await tree.delete_session(fork)
    await tree.create_session(fork, parent_id="other")
    await tree.delete_session("s")
    place.clock.advance(2 * DAY)

    # What the first fork of this id was noted for is all that keeps the messages.
    assert await place.check(repair=True) == []
    await place.set("s", SHARED, fork, None)
    assert await place.kinds() == [("s", "unnoted", fork)]
    assert all(each.is_repaired for each in await place.check(repair=True))
    assert await place.check() == []
    await tree.delete_session(fork)
    assert await place.shown(below) == ["m1", "m2", "m3"]


async def test_messages_of_a_session_that_is_no_ancestor_are_kept(place: Place) -> None:
    await fill(place.tree, "s", 3)
    fork = await place.tree.fork_session("s")
    await place.set(fork, TREE, "parent", None)
    assert await place.kinds() == []
    await place.set("s", SHARED, fork, None)
    place.clock.advance(2 * DAY)

    assert await place.kinds() == [("s", "unborn", fork), ("s", "unnoted", fork)]
    assert all(each.is_repaired for each in await place.check(repair=True))
    assert await place.check() == []
    await place.tree.delete_session("s")
    assert await place.shown(fork) == ["m1", "m2", "m3"]


async def test_nothing_is_removed_while_a_note_is_missing(place: Place) -> None:
    tree = place.tree
    await fill(tree, "s", 3)
    fork = await tree.fork_session("s")
    await tree.delete_session("s")
    await place.set("s", SHARED, fork, None)
    await place.set("s", SHARED, "nobody", 1)
    place.clock.advance(2 * DAY)
    amend = place.plain.amend_session

    async def overtaken(session_id: str, changes: Any, **options: Any) -> Any:
        await amend("s", [Change(("metadata", SHARED, "nobody"), "remove")])
        return await amend(session_id, changes, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(place.plain, "amend_session", overtaken)
        assert not any(each.is_repaired for each in await place.check(repair=True))
    assert await place.shown(fork) == ["m1", "m2", "m3"]


async def test_a_snapshot_without_a_note_gets_one(place: Place) -> None:
    await fill(place.tree, "s", 3)
    snapshot = await place.tree.create_snapshot("s")
    await place.set("s", SHARED, snapshot, None)

    assert await place.kinds() == [("s", "unnoted", snapshot)]
    assert all(each.is_repaired for each in await place.check(repair=True))
    assert await place.check() == []
    await place.tree.clear_session("s")
    await place.tree.revert_to_snapshot("s", snapshot)
    assert await place.shown("s") == ["m1", "m2", "m3"]


@pytest.mark.parametrize("is_noted", [True, False])
async def test_a_snapshot_that_outlives_its_session_is_removed(
    place: Place, *, is_noted: bool
) -> None:
    tree = place.tree
    await fill(tree, "s", 3)
    fork = await tree.fork_session("s")
    snapshot = await tree.create_snapshot(fork)
    info = await place.plain.get_info(fork)
    assert info is not None
    record = info.metadata[TREE][f"snapshot.{snapshot}"]
    record["parts"] = [*record["parts"], [fork, 3, 4, 1]]
    # As a deletion leaves it that has read the record before the snapshot was made.
    below = await tree.fork_session(fork)
    await tree.delete_session(fork)
    await place.set(fork, TREE, f"snapshot.{snapshot}", record)
    await place.set(fork, SHARED, snapshot, 3 if is_noted else None)
    assert await place.kinds() == [(fork, "unread", snapshot)]
    await tree.delete_session(below)
    await tree.delete_session("s")
    place.clock.advance(2 * DAY)

    assert is_noted is (len(await place.check()) == 1)
    assert all(each.is_repaired for each in await place.check(repair=True))
    assert await place.plain.list_sessions() == []


async def test_a_wrong_count_is_corrected(place: Place) -> None:
    tree = place.tree
    await fill(tree, "s", 3)
    fork = await tree.fork_session("s")
    await fill(tree, fork, 2)
    info = await place.plain.get_info(fork)
    assert info is not None
    await place.set(fork, TREE, "view", info.metadata[TREE]["view"] | {"hidden": 1})
    assert (await tree.get_session(fork)).message_count == 4

    assert await place.kinds() == [(fork, "miscounted", None)]
    assert all(each.is_repaired for each in await place.check(repair=True))
    assert await place.check() == []
    session = await tree.get_session(fork)
    assert session.message_count == len(session.messages) == 5
    await fill(tree, fork, 1)
    assert (await tree.get_session(fork)).message_count == 6


async def test_a_session_that_begins_anew_keeps_what_it_has(place: Place) -> None:
    await place.tree.add_message("s", "user", "old")
    snapshot = await place.tree.create_snapshot("s")
    await place.set("s", TREE, "gone", 1)
    (found,) = await place.check()
    assert (found.what, found.other_id) == ("unread", snapshot)
    amend = place.plain.amend_session

    async def overtaken(session_id: str, changes: Any, **options: Any) -> Any:
        await place.plain.append("s", [user("new")])
        return await amend(session_id, changes, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(place.plain, "amend_session", overtaken)
        (found,) = await place.check(repair=True)

    assert not found.is_repaired
    assert await place.tree.get_snapshots("s") != []


@pytest.mark.parametrize("loss", ["deleted", "cleared", "popped"])
async def test_lost_messages_are_told(place: Place, loss: str) -> None:
    tree = place.tree
    await fill(tree, "s", 3)
    fork = await tree.fork_session("s")
    snapshot = await tree.create_snapshot(fork)
    await tree.revert_to_message(fork, 1)
    await place.set("s", SHARED, fork, None)
    remove = {
        "deleted": place.plain.delete_session,
        "cleared": place.plain.clear_session,
        "popped": place.plain.pop_message,
    }
    await remove[loss]("s")
    expected = [(fork, "lost", "s")] + [("s", "unnoted", fork)] * (loss == "popped")

    assert sorted(await place.kinds()) == sorted(expected)
    for found in await place.check(repair=True):
        assert found.is_repaired is found.can_repair is (found.what == "unnoted")
        if found.what == "lost":
            count = 1 if loss == "popped" else 3
            assert found.detail.startswith(f"{count} of the messages")
    assert await place.kinds() == [(fork, "lost", "s")]
    await tree.delete_snapshot(fork, snapshot)
    await tree.purge_reverts(fork)
    await tree.clear_session(fork)
    assert [what for _, what, _ in await place.kinds()] == []


async def test_a_session_may_lose_its_own_oldest_messages(url: str, clock: ManualClock) -> None:
    place = Place(url, clock, max_messages=3)
    async with place.tree as tree:
        await fill(tree, "s", 3)
        await tree.create_snapshot("s")
        await tree.revert_to_message("s", 2)
        await fill(tree, "s", 5)

        assert "lost" not in {each.what for each in await place.check()}


@pytest.mark.parametrize(
    ("key", "name", "value"),
    [
        (TREE, "view", {"parts": "none"}),
        (TREE, "view", {"parts": [["s", 3, 1, 2]], "after": 0, "hidden": 0}),
        (TREE, "view", {"parts": [["s", 0, 2, 3]], "after": 0, "hidden": 0}),
        (TREE, "merged.x", {}),
        (TREE, "token", None),
        (TREE, "parent", "s"),
        (TREE, "origin", []),
        (TREE, "snapshot.x", {}),
        (TREE, "child.x", "today"),
        (TREE, "gone", "yes"),
        (SHARED, "x", "all"),
        (SHARED, "x", 1.5),
        (SHARED, "x", True),
    ],
)
async def test_damaged_records_are_told_and_left_alone(
    place: Place, key: str, name: str, value: Any
) -> None:
    tree = place.tree
    await fill(tree, "s", 3)
    fork = await tree.fork_session("s")
    below = await tree.fork_session(fork)
    await place.set(fork, key, name, value)
    before = await place.plain.get_info(fork)
    place.clock.advance(2 * DAY)

    (found,) = await place.check(repair=True)
    assert (found.session_id, found.what, found.can_repair) == (fork, "damaged", False)
    assert found.detail
    assert await place.plain.get_info(fork) == before
    await tree.delete_session("s")
    assert await place.shown(below) == ["m1", "m2", "m3"]


@pytest.mark.parametrize("key", [TREE, SHARED])
async def test_a_record_that_is_no_object_is_told(place: Place, key: str) -> None:
    await place.plain.update_session_metadata("s", **{key: [1]})

    assert await place.kinds() == [("s", "damaged", None)]


async def test_a_session_in_damaged_bytes_counts_as_there(tmp_path: Path) -> None:
    place = Place(f"jsonl://{tmp_path}", ManualClock())
    async with place.tree as tree:
        await fill(tree, "s", 3)
        fork = await tree.fork_session("s")
        below = await tree.fork_session(fork)
        sibling = await tree.fork_session("s")
        (tmp_path / f"{fork}.jsonl").write_bytes(b"garbage\n")
        assert await tree.get_children("s") == [sibling]
        place.clock.advance(2 * DAY)

        assert await place.check(repair=True) == []
        (tmp_path / "s.jsonl").write_bytes(b"garbage\n")
        assert await place.kinds() == [("s", "damaged", None)]
        assert await tree.session_exists(below)


async def test_a_check_beside_branching_workers_breaks_nothing(place: Place) -> None:
    tree = place.tree
    await fill(tree, "s", 3)
    done = False

    async def work() -> None:
        for number in range(10):
            fork = await tree.fork_session("s", from_seq=number % 3 + 1)
            await tree.add_message(fork, "user", "x")
            await tree.create_snapshot(fork)
            await tree.revert_to_message(fork, 1)
            below = await tree.fork_session(fork)
            await tree.delete_session(fork)
            assert await place.shown(below) == ["m1"]
            await tree.delete_session(below)

    async def check() -> None:
        while not done:
            for each in await place.check(repair=True):
                assert each.is_recent, each
            await asyncio.sleep(0)

    checking = asyncio.create_task(check())
    try:
        await asyncio.gather(*(work() for _ in range(4)))
    finally:
        done = True
        await checking
    assert await place.check() == []
    assert ids(await place.plain.list_sessions()) == ["s"]
    assert await place.plain.delete_session("s")
