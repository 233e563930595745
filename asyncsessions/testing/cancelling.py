"""Cases that cancel every call at every one of its awaits."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Generator
from typing import Any

import pytest

from asyncsessions.protocols import SessionStore
from asyncsessions.testing._cases import CALLS, StoreCases, call, fill, settled, texts, user
from asyncsessions.testing.living import CALLS_WITHOUT_ID

__all__ = ["AwaitCases", "CancelledAt", "cancelled_at"]

# More than any call has.
_MOST_AWAITS = 500


class CancelledAt:
    """Awaits something, and cancels its own task while that waits for the nth time.

    Args:
        awaited: What to await.
        nth: 1 for the first time that it waits.

    Attributes:
        was_reached: Whether it waited so often.
    """

    def __init__(self, awaited: Awaitable[object], nth: int) -> None:
        self._awaited = awaited
        self._nth = nth
        self.was_reached: bool = False

    def __await__(self) -> Generator[Any, Any, object]:
        task = asyncio.current_task()
        assert task is not None
        inner = self._awaited.__await__()
        count = 0
        try:
            waits_for = next(inner)
            while True:
                count += 1
                if count == self._nth:
                    self.was_reached = True
                    asyncio.get_running_loop().call_soon(task.cancel)
                try:
                    sent = yield waits_for
                except BaseException as exc:  # noqa: BLE001  # a cancellation above all
                    waits_for = inner.throw(exc)
                else:
                    waits_for = inner.send(sent)
        except StopIteration as stop:
            return stop.value


async def cancelled_at(call: Callable[[], Awaitable[object]], nth: int) -> bool:
    """Cancel a call while it waits for the nth time; return whether it waited so often."""
    cancelled = CancelledAt(call(), nth)

    async def run() -> None:
        await cancelled

    task = asyncio.ensure_future(run())
    await asyncio.wait([task])
    if not task.cancelled():
        task.result()
    return cancelled.was_reached


async def _seen(store: SessionStore, session_id: str) -> list[Any]:
    """Return all that a session shows but its id and times."""
    session = await store.get_session(session_id)
    return [
        await store.session_exists(session_id),
        [(message.seq, message.role, message.content) for message in session.messages],
        [session.last_seq, session.message_count, session.state, session.metadata],
        [session.agent_name, session.gateway_session_id, session.expires_at is None],
        session.checkpoint and (session.checkpoint.summary, session.checkpoint.seq),
    ]


async def _prepare(store: SessionStore, session_id: str) -> None:
    await fill(store, session_id, 3)
    await store.upsert_partial_assistant_message(session_id, "so far")
    await store.set_state(session_id, "n", 1)


class AwaitCases(StoreCases):
    """Wherever a call is cancelled, it was done or it wasn't, and everything goes on."""

    @pytest.mark.parametrize("name", CALLS)
    async def test_call_cancelled_at_each_await_is_whole_or_absent(
        self, store: SessionStore, name: str
    ) -> None:
        await _prepare(store, "twin")
        before = await _seen(store, "twin")
        await call(name, store, "twin")
        after = await _seen(store, "twin")
        tasks = asyncio.all_tasks()
        for nth in range(1, _MOST_AWAITS):
            session_id = f"s{nth}"
            await _prepare(store, session_id)
            neighbour = asyncio.ensure_future(store.append("neighbour", [user(f"m{nth}")]))
            reached = await cancelled_at(lambda: call(name, store, session_id), nth)  # noqa: B023
            await neighbour
            assert await _seen(store, session_id) in (before, after)
            if not reached:
                break
        assert await _seen(store, session_id) == after
        expected = [f"m{each}" for each in range(1, nth + 1)]
        assert texts(await store.get_messages("neighbour")) == expected
        assert await settled(lambda: not asyncio.all_tasks() - tasks)

    @pytest.mark.parametrize("name", CALLS_WITHOUT_ID)
    async def test_call_without_a_session_cancelled_at_each_await(
        self, store: SessionStore, name: str
    ) -> None:
        await _prepare(store, "s")
        before = await _seen(store, "s")
        tasks = asyncio.all_tasks()
        for nth in range(1, _MOST_AWAITS):
            if not await cancelled_at(lambda: CALLS_WITHOUT_ID[name](store), nth):
                break
            assert await _seen(store, "s") == before
        assert await _seen(store, "s") == before
        assert await settled(lambda: not asyncio.all_tasks() - tasks)

    async def test_opening_cancelled_at_each_await_can_be_repeated(self) -> None:
        for nth in range(1, _MOST_AWAITS):
            store = self.make_store()
            try:
                reached = await cancelled_at(store.ping, nth)
                await store.add_message("s", "user", f"m{nth}")
            finally:
                await store.aclose()
            if not reached:
                break
