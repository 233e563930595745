"""What all cases of sessions that branch share."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, cast

import pytest
import pytest_asyncio

from asyncsessions.base import BaseSessionStore
from asyncsessions.hierarchy import HierarchicalSessionStore
from asyncsessions.models import Message
from asyncsessions.protocols import SessionStore
from asyncsessions.testing._cases import (
    ManualClock,
    StoreCases,
    seqs,
    texts,
    user,
)

__all__ = ["Call", "Hierarchy", "HierarchyCases", "add", "said", "shown_in"]

Hierarchy = HierarchicalSessionStore
Call = Callable[[], Awaitable[object]]


def said(first: int, last: int) -> list[str]:
    return [f"m{number}" for number in range(first, last + 1)]


async def add(store: SessionStore, session_id: str, *contents: str) -> list[Message]:
    return await store.append(session_id, [user(content) for content in contents])


async def shown_in(store: SessionStore, session_id: str) -> list[Any]:
    """Return what a session says, which has to be the same whichever way one looks."""
    messages = await store.get_messages(session_id)
    session = await store.get_session(session_id)
    assert session.messages == messages
    assert session.message_count == len(messages)
    assert [each async for each in store.iter_messages(session_id)] == messages
    assert seqs(messages) == sorted(set(seqs(messages)))
    return texts(messages)


class HierarchyCases(StoreCases):
    """Makes the stores that the cases use."""

    @pytest.fixture
    def plain(self, clock: ManualClock) -> BaseSessionStore:
        return cast("BaseSessionStore", self.make_store(clock=clock))

    @pytest_asyncio.fixture
    async def tree(self, plain: BaseSessionStore) -> AsyncIterator[Hierarchy]:
        async with HierarchicalSessionStore(plain) as store:
            yield store
