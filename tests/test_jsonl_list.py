"""The list of a directory of JSON Lines files while others write them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from asyncsessions._compat import override
from asyncsessions.models import SessionInfo
from asyncsessions.stores.jsonl import JSONLinesSessionStore

Write = Callable[[JSONLinesSessionStore], Awaitable[object]]


class Clock:
    """Goes on whenever somebody looks."""

    now = 1_767_225_600.0

    def __call__(self) -> float:
        self.now += 1
        return self.now


class OvertakenStore(JSONLinesSessionStore):
    """Lets somebody else write between the look at all files and the reading of a page."""

    meanwhile: Callable[[], object] | None = None

    @override
    def _briefs(self) -> Iterator[SessionInfo]:
        yield from super()._briefs()
        if self.meanwhile is not None:
            write, self.meanwhile = self.meanwhile, None
            write()


@pytest.fixture
async def writer(tmp_path: Path) -> AsyncIterator[JSONLinesSessionStore]:
    async with JSONLinesSessionStore(tmp_path, durability="os", clock=Clock()) as store:
        for number in range(6):
            await store.add_message(f"s{number}", "user", "x")
            await store.set_agent_info(f"s{number}", "a")
        yield store


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[OvertakenStore]:
    async with OvertakenStore(tmp_path, durability="os") as opened:
        yield opened


def overtake(store: OvertakenStore, writer: JSONLinesSessionStore, write: Write) -> None:
    """Let a write happen within the next list."""
    loop = asyncio.get_running_loop()

    async def go() -> None:
        await write(writer)

    store.meanwhile = lambda: asyncio.run_coroutine_threadsafe(go(), loop).result(10)


@pytest.mark.parametrize("number", [5, 4, 3, 2, 1, 0])
@pytest.mark.parametrize("page", [0, 1, 2])
async def test_a_list_in_pages_repeats_no_session(
    store: OvertakenStore, writer: JSONLinesSessionStore, page: int, number: int
) -> None:
    listed: list[str] = []
    cursor: str | None = None
    for count in range(10):
        if count == page:
            overtake(store, writer, lambda each: each.add_message(f"s{number}", "user", "y"))
        found = await store.list_sessions(2, cursor)
        listed += [info.session_id for info in found]
        cursor = found.next_cursor
        if cursor is None:
            break

    # One of a later page is in front of them all by then.
    moved = {f"s{number}"} if (5 - number) // 2 > page else set()
    assert listed == [each for each in ("s5", "s4", "s3", "s2", "s1", "s0") if each not in moved]
    assert store.meanwhile is None


async def test_a_list_has_the_record_as_it_is(
    store: OvertakenStore, writer: JSONLinesSessionStore
) -> None:
    overtake(store, writer, lambda each: each.add_message("s3", "user", "y"))

    found = await store.list_sessions()

    assert {info.session_id: info.message_count for info in found}["s3"] == 2


async def test_a_session_that_no_longer_matches_is_not_listed(
    store: OvertakenStore, writer: JSONLinesSessionStore
) -> None:
    overtake(store, writer, lambda each: each.set_agent_info("s4", "b"))

    found = await store.list_sessions(2, agent_name="a")
    rest = await store.list_sessions(10, found.next_cursor, agent_name="a")

    assert [info.session_id for info in found] == ["s5", "s3"]
    assert [info.session_id for info in rest] == ["s2", "s1", "s0"]
