"""A store's life cycle, where its steps overlap."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from typing import Any

import pytest

from asyncsessions import InMemorySessionStore, SessionStoreError, StoreClosedError
from asyncsessions._compat import override
from asyncsessions.hooks import Append, Appended


class SlowToOpen(InMemorySessionStore):
    """Opens when it is told to, and knows whether it has anything open."""

    def __init__(self) -> None:
        super().__init__()
        self.begins = asyncio.Event()
        self.may_open = asyncio.Event()
        self.has_connections = False

    @override
    async def _open(self) -> None:
        self.begins.set()
        await self.may_open.wait()
        self.has_connections = True

    @override
    async def _close(self) -> None:
        self.has_connections = False


async def test_a_store_that_is_closed_while_it_opens_leaves_nothing_open() -> None:
    store = SlowToOpen()
    calling = asyncio.create_task(store.add_message("s", "user", "x"))
    await store.begins.wait()
    closing = asyncio.create_task(store.aclose())
    await asyncio.sleep(0)
    store.may_open.set()
    with pytest.raises(StoreClosedError):
        await calling
    await closing
    assert not store.has_connections
    assert not store.is_open


class FailsToOpenAtFirst(SlowToOpen):
    """Opens when it is told to, from the second time on."""

    @override
    async def _open(self) -> None:
        is_first = not self.begins.is_set()
        await super()._open()
        if is_first:
            raise SessionStoreError("not yet")
        await InMemorySessionStore._open(self)


async def test_an_opening_that_failed_when_nobody_waited_is_tried_again() -> None:
    async with contextlib.AsyncExitStack() as stack:
        store = FailsToOpenAtFirst()
        stack.push_async_callback(store.aclose)
        calling = asyncio.create_task(store.add_message("s", "user", "x"))
        await store.begins.wait()
        calling.cancel()
        await asyncio.wait([calling])
        store.may_open.set()
        await asyncio.sleep(0.01)
        await store.add_message("s", "user", "y")
        assert len(await store.get_messages("s")) == 1


class SlowToClose(InMemorySessionStore):
    """Closes when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.may_close = asyncio.Event()
        self.has_connections = True

    @override
    async def _close(self) -> None:
        await self.may_close.wait()
        self.has_connections = False


async def test_a_close_that_is_cancelled_goes_on_and_can_be_waited_for() -> None:
    store = SlowToClose()
    await store.add_message("s", "user", "x")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await store.aclose()
    with pytest.raises(StoreClosedError):
        await store.add_message("s", "user", "x")
    again = asyncio.create_task(store.aclose())
    await asyncio.sleep(0)
    assert not again.done()
    store.may_close.set()
    await again
    assert not store.has_connections
    await store.aclose()


class Recording(InMemorySessionStore):
    """Keeps the times that its hooks get."""

    def __init__(self, clock: Callable[[], float]) -> None:
        super().__init__(clock=clock)
        self.times: list[float] = []

    @override
    async def _append(self, batch: Sequence[Append]) -> list[Appended | SessionStoreError]:
        self.times += [append.now for append in batch]
        return await super()._append(batch)


async def test_a_clock_may_count_whole_seconds() -> None:
    async with Recording(lambda: 1767225600) as store:
        await store.add_message("s", "user", "x")
    assert [repr(time) for time in store.times] == ["1767225600.0"]


who: ContextVar[str] = ContextVar("who", default="nobody")


class Sees(InMemorySessionStore):
    """Notes for whom its hooks are called, as a driver does that keeps deadlines there."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    @override
    async def _open(self) -> None:
        self.seen.append(who.get())
        await super()._open()

    @override
    async def _append(self, batch: Sequence[Append]) -> list[Any]:
        self.seen.append(who.get())
        await asyncio.sleep(0)
        return await super()._append(batch)

    @override
    async def _delete(self, session_id: str, *, expired_at: float | None = None) -> bool:
        self.seen.append(who.get())
        return await super()._delete(session_id, expired_at=expired_at)

    @override
    async def _close(self) -> None:
        self.seen.append(who.get())
        await super()._close()


async def test_what_a_driver_keeps_for_one_caller_is_not_for_others() -> None:
    async with Sees() as store:
        who.set("a caller")
        await asyncio.gather(*(store.add_message("s", "user", "x") for _ in range(3)))
        await store.delete_session("s")
    assert len(store.seen) >= 4
    assert set(store.seen) == {"nobody"}
