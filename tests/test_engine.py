"""A store's life cycle, where its steps overlap."""

from __future__ import annotations

import asyncio

import pytest

from asyncsessions import InMemorySessionStore, StoreClosedError
from asyncsessions._compat import override


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
