"""Two calls on the same sessions, one between any two steps of the other.

Whatever the moment, the outcome is that of the two calls one after the other, in either order.
"""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest

from asyncsessions.base import BaseSessionStore
from asyncsessions.errors import SessionStoreError
from asyncsessions.hierarchy import HierarchicalSessionStore
from asyncsessions.hooks import Append, Replace, Replaced, Tail, Update, Window
from asyncsessions.models import SessionInfo
from asyncsessions.stores.memory import InMemorySessionStore
from asyncsessions.testing._cases import ManualClock, fill

Hierarchy = HierarchicalSessionStore
Call = Callable[[Hierarchy], Awaitable[object]]


class Interrupted(InMemorySessionStore):
    """A second store over the data of one, at which something happens right before a step."""

    def __init__(self, store: InMemorySessionStore) -> None:
        super().__init__(clock=store.policy.clock)
        self._first = store
        self._left = 0
        self._event: Callable[[], Awaitable[None]] | None = None

    def before(self, step: int, event: Callable[[], Awaitable[None]]) -> None:
        """Let something happen before the step of this number, counted from 1."""
        self._left, self._event = step, event

    @property
    def has_happened(self) -> bool:
        """Whether there were so many steps."""
        return self._event is None

    async def now(self) -> None:
        """Let it happen now, if it hasn't."""
        event, self._event = self._event, None
        if event is not None:
            await event()

    async def _open(self) -> None:
        # Which makes an empty place of its own.
        await super()._open()
        self._sessions = self._first._sessions

    async def _step(self) -> None:
        self._left -= 1
        if self._left == 0:
            await self.now()

    async def _append(self, batch: Sequence[Append]) -> list[Any]:
        await self._step()
        return await super()._append(batch)

    async def _update(self, batch: Sequence[Update]) -> list[Any]:
        await self._step()
        return await super()._update(batch)

    async def _replace(self, replace: Replace) -> Replaced | None:
        await self._step()
        return await super()._replace(replace)

    async def _delete(self, session_id: str, *, expired_at: float | None = None) -> bool:
        await self._step()
        return await super()._delete(session_id, expired_at=expired_at)

    async def _head(self, session_id: str) -> SessionInfo | None:
        await self._step()
        return await super()._head(session_id)

    async def _tail(self, session_id: str, window: Window) -> Tail | None:
        await self._step()
        return await super()._tail(session_id, window)


async def _append(tree: Hierarchy) -> object:
    return [each.content for each in await tree.append("s", [_user("new")])]


def _user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


async def _fork(tree: Hierarchy) -> object:
    await tree.fork_session("s", title="the fork")
    return "forked"


async def _fork_early(tree: Hierarchy) -> object:
    await tree.fork_session("s", from_seq=2, title="the early fork")
    return "forked"


async def _snapshot(tree: Hierarchy) -> object:
    await tree.create_snapshot("s", "the snapshot")
    return "remembered"


async def _oldest_snapshot(tree: Hierarchy) -> str:
    snapshots = await tree.get_snapshots("s")
    return snapshots[0].snapshot_id if snapshots else ""


async def _delete_snapshot(tree: Hierarchy) -> object:
    return await tree.delete_snapshot("s", await _oldest_snapshot(tree))


async def _revert_to_snapshot(tree: Hierarchy) -> object:
    await tree.revert_to_snapshot("s", await _oldest_snapshot(tree))
    return "reverted"


async def _pop(tree: Hierarchy) -> object:
    message = await tree.pop_message("s")
    # A part of a turn may have grown since the look at it.
    return message and ("a part" if message.metadata else message.content)


async def _delete(tree: Hierarchy) -> object:
    # Whether there was one is said of the moment before.
    await tree.delete_session("s")
    return "deleted"


CALLS: dict[str, Call] = {
    "append": _append,
    "clear": lambda tree: tree.clear_session("s"),
    "create": lambda tree: tree.create_session("s"),
    "delete": _delete,
    "discard_partial": lambda tree: tree.discard_partial_assistant_message("s"),
    "fork": _fork,
    "fork_early": _fork_early,
    "pop": _pop,
    "read": lambda tree: _shown(tree, "s"),
    "purge_reverts": lambda tree: tree.purge_reverts("s"),
    "put_partial": lambda tree: tree.upsert_partial_assistant_message("s", "partial"),
    "revert_to_message": lambda tree: tree.revert_to_message("s", 2),
    "revert_to_snapshot": _revert_to_snapshot,
    "set_history": lambda tree: tree.set_chat_history("s", [_user("x"), _user("y")]),
    "set_no_history": lambda tree: tree.set_chat_history("s", []),
    "set_state": lambda tree: tree.set_state("s", "n", 1),
    "snapshot": _snapshot,
    "delete_snapshot": _delete_snapshot,
    "undo_revert": lambda tree: tree.undo_revert("s"),
}


async def _nothing(tree: Hierarchy) -> None:
    await fill(tree, "s", 3)


async def _with_partial(tree: Hierarchy) -> None:
    await fill(tree, "s", 2)
    await tree.upsert_partial_assistant_message("s", "begun")


async def _with_fork(tree: Hierarchy) -> None:
    await fill(tree, "s", 3)
    await tree.fork_session("s", title="old fork")


async def _with_snapshot(tree: Hierarchy) -> None:
    await fill(tree, "s", 2)
    await tree.create_snapshot("s", "old")
    await fill(tree, "s", 1)


async def _reverted(tree: Hierarchy) -> None:
    await fill(tree, "s", 4)
    await tree.revert_to_message("s", 3)


async def _gone_on(tree: Hierarchy) -> None:
    await _reverted(tree)
    await tree.purge_reverts("s")
    await fill(tree, "s", 2)


async def _deleted(tree: Hierarchy) -> None:
    await fill(tree, "s", 2)
    await tree.upsert_partial_assistant_message("s", "begun")
    await tree.fork_session("s", from_seq=2, title="old fork")
    await tree.delete_session("s")


async def _rewritten(tree: Hierarchy) -> None:
    await _with_fork(tree)
    await tree.set_chat_history("s", [_user("p"), _user("q"), _user("r")])


BEGINNINGS: dict[str, Callable[[Hierarchy], Awaitable[None]]] = {
    "plain": _nothing,
    "with a partial": _with_partial,
    "with a fork": _with_fork,
    "with a snapshot": _with_snapshot,
    "reverted": _reverted,
    "deleted": _deleted,
    "reverted and gone on": _gone_on,
    "rewritten": _rewritten,
}


async def _outcome(call: Call, tree: Hierarchy) -> str:
    try:
        return repr(await call(tree))
    except SessionStoreError as exc:
        return type(exc).__name__


async def _all_of(tree: Hierarchy, plain: BaseSessionStore) -> list[Any]:
    """Return all that there is, in an order and with names that are the same every time."""
    seen: list[Any] = []
    for info in await tree.list_sessions():
        session_id = info.session_id
        seen.append(
            [
                "s" if session_id == "s" else info.title,
                await _shown(tree, session_id),
                info.message_count,
                info.state,
                (await tree.get_parent(session_id)) == "s",
                len(await tree.get_children(session_id)),
            ]
        )
    seen.sort(key=lambda each: each[0])
    if await tree.session_exists("s"):
        for snapshot in await tree.get_snapshots("s", include_automatic=True):
            await tree.revert_to_snapshot("s", snapshot.snapshot_id)
            info = await tree.get_session("s")
            shown = await _shown(tree, "s")
            seen.append([snapshot.label, snapshot.message_count, shown, info.message_count])
        fork = await tree.fork_session("s")
        assert await _shown(tree, fork) == await _shown(tree, "s")
    for info in await tree.list_sessions():
        await tree.delete_session(info.session_id)
    left = await plain.list_sessions()
    seen.append(["left", [each.metadata for each in left]])
    return seen


async def _shown(tree: Hierarchy, session_id: str) -> list[Any]:
    return [message.content for message in await tree.get_messages(session_id)]


async def _run(beginning: str, first: str, second: str, step: int) -> tuple[Any, bool]:
    """Make a call with another one before one of its steps; return what became of both."""
    clock = ManualClock()
    plain = InMemorySessionStore(clock=clock)
    async with HierarchicalSessionStore(plain) as other:
        await BEGINNINGS[beginning](other)
        interrupted = Interrupted(plain)
        tree = HierarchicalSessionStore(interrupted)
        said: dict[str, str] = {}  # By name, as their order is what is in question.

        async def interrupt() -> None:
            clock.advance(1)
            said[second] = await _outcome(CALLS[second], other)

        interrupted.before(step, interrupt)
        if not step:
            await interrupted.now()
        said[first] = await _outcome(CALLS[first], tree)
        has_happened = interrupted.has_happened
        await interrupted.now()
        return (said, await _all_of(other, plain)), has_happened


async def test_an_object_that_is_merged_keeps_what_others_write_to_it() -> None:
    for step in itertools.count(1):
        clock = ManualClock()
        plain = InMemorySessionStore(clock=clock)
        async with HierarchicalSessionStore(plain) as other:
            await fill(other, "s", 1)
            await other.set_state("s", "cart", {"a": 1})
            fork = await other.fork_session("s")
            await other.set_state(fork, "cart", {"a": 1, "b": 2})
            interrupted = Interrupted(plain)

            async def write(other: Hierarchy = other, clock: ManualClock = clock) -> None:
                clock.advance(1)
                await other.set_state("s", "cart", {"a": 1, "c": 3})

            interrupted.before(step, write)
            await HierarchicalSessionStore(interrupted).merge_sessions(fork)
            if not interrupted.has_happened:
                break
            assert (await other.get_state("s", "cart"))["c"] == 3, f"before step {step}"


@pytest.mark.parametrize("first", CALLS)
@pytest.mark.parametrize("beginning", BEGINNINGS)
async def test_calls_at_once_are_as_if_one_after_the_other(beginning: str, first: str) -> None:
    for second in sorted(CALLS.keys() - {first}):
        before, _ = await _run(beginning, first, second, 0)
        between: list[Any] = []
        for step in itertools.count(1):
            outcome, has_happened = await _run(beginning, first, second, step)
            if not has_happened:
                break
            between.append(outcome)
        for step, each in enumerate(between, 1):
            assert each in (before, outcome), f"{second} before step {step}"
