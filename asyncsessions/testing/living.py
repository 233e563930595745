"""Cases of a store's life: opening, closing, one event loop, long histories."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from statistics import median

import pytest

from asyncsessions.errors import StoreClosedError
from asyncsessions.protocols import SessionStore
from asyncsessions.testing._cases import (
    CALLS,
    StoreCases,
    call,
    fill,
    loop_lag,
    settled,
    texts,
    trying,
    user,
)

__all__ = ["CALLS_WITHOUT_ID", "CostCases", "LifeCases"]

CALLS_WITHOUT_ID: dict[str, Callable[[SessionStore], Awaitable[object]]] = {
    "get_by_gateway_session": lambda s: s.get_by_gateway_session("g"),
    "get_sessions_by_agent": lambda s: s.get_sessions_by_agent("a"),
    "import_sessions": lambda s: s.import_sessions([{"session_id": "i", "messages": []}]),
    "list_sessions": lambda s: s.list_sessions(),
    "ping": lambda s: s.ping(),
    "purge_expired": lambda s: s.purge_expired(),
    "recent": lambda s: s.recent(),
    "search": lambda s: s.search("x"),
}


class LifeCases(StoreCases):
    """A store opens by itself, and after closing takes no more calls."""

    async def test_store_works_without_async_with(self) -> None:
        store = self.make_store()
        try:
            await store.add_message("s", "user", "x")
            assert texts(await store.get_messages("s")) == ["x"]
        finally:
            await store.aclose()

    async def test_first_calls_may_come_together(self) -> None:
        store = self.make_store()
        try:
            await asyncio.gather(*(store.add_message("s", "user", f"m{n}") for n in range(10)))
            assert texts(await store.get_messages("s")) == [f"m{n}" for n in range(10)]
        finally:
            await store.aclose()

    async def test_ping_returns(self, store: SessionStore) -> None:
        await store.ping()
        assert await store.list_sessions() == []

    async def test_closed_store_refuses(self) -> None:
        store = self.make_store()
        await store.add_message("s", "user", "x")
        await store.aclose()
        for name in CALLS:
            with trying(name), pytest.raises(StoreClosedError):
                await call(name, store, "s")
        for name, refused in CALLS_WITHOUT_ID.items():
            with trying(name), pytest.raises(StoreClosedError):
                await refused(store)

    async def test_closed_store_does_not_open_again(self) -> None:
        store = self.make_store()
        async with store:
            await store.ping()
        with pytest.raises(StoreClosedError):
            async with store:
                pass

    async def test_closing_again_is_harmless(self) -> None:
        async with self.make_store() as store:
            await store.add_message("s", "user", "x")
            await store.aclose()
            await store.aclose()
        unopened = self.make_store()
        await unopened.aclose()
        await unopened.aclose()

    async def test_closing_completes_what_is_under_way(self) -> None:
        store = self.make_store()
        await store.ping()
        tasks = [
            asyncio.ensure_future(store.append(f"s{n % 3}", [user(f"m{n}")])) for n in range(30)
        ]
        tasks[7:7] = [asyncio.ensure_future(store.append("t", [user("x")] * 5))]
        await asyncio.sleep(0)
        await store.aclose()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert [each for each in outcomes if isinstance(each, BaseException)] == []

    async def test_closing_leaves_no_task(self) -> None:
        before = asyncio.all_tasks()
        async with self.make_store() as store:
            await asyncio.gather(*(store.increment_state(f"s{n}", "n") for n in range(10)))
            await store.pop_message("s1")
        assert await settled(lambda: not asyncio.all_tasks() - before)

    async def test_errors_in_the_block_reach_the_caller(self) -> None:
        with pytest.raises(ZeroDivisionError):
            async with self.make_store() as store:
                await store.add_message("s", "user", str(1 // 0))
        with pytest.raises(StoreClosedError):
            await store.session_exists("s")


class CostCases(StoreCases):
    """Cost doesn't grow with history, and the event loop keeps running.

    The bounds are wide, so that a busy machine meets them and blatant mistakes don't; the
    benchmarks measure the real ones.

    Attributes:
        max_cost_growth: How many times as much a call may cost at 4,000 messages as at 10. Raise
            it only for a store whose format is one document for each session, and document that.
        max_loop_lag: How long, in seconds of a machine of usual speed, the event loop may stand
            still while long histories are read and rewritten.
    """

    max_cost_growth: float = 4.0
    max_loop_lag: float = 0.25

    async def test_cost_does_not_grow_with_history(self, store: SessionStore) -> None:
        text = "x" * 300
        await store.append("short", [user(text)] * 10)
        await store.append("long", [user(text)] * 4000)
        calls: dict[str, Callable[[str], Awaitable[object]]] = {
            "append": lambda i: store.add_message(i, "user", text),
            "tail read": lambda i: store.get_chat_history(i, 10),
            "metadata": lambda i: store.update_session_metadata(i, k=1),
            "state": lambda i: store.increment_state(i, "n"),
            "pop": lambda i: store.pop_message(i),
        }
        for name, make in calls.items():
            short, long = [], []
            # Turn by turn, so that whatever else the machine does slows both.
            for _ in range(15):
                short.append(await _seconds(make, "short"))
                long.append(await _seconds(make, "long"))
            allowed = self.max_cost_growth * median(short) + 0.002
            assert median(long) < allowed, f"{name} costs more on a long history"

    async def test_event_loop_runs_during_long_reads_and_rewrites(
        self, store: SessionStore
    ) -> None:
        given = [user(f"m{n}" * 50) for n in range(4000)]

        async def read_and_rewrite() -> None:
            await store.append("s", given)
            assert len(await store.get_messages("s")) == 4000
            assert len(await store.get_chat_history("s")) == 4000
            assert len(await store.export_session("s")) > 1
            await store.clear_session("s")

        lag = await loop_lag(read_and_rewrite, enough=self.max_loop_lag)
        assert lag < self.max_loop_lag, "the event loop stands still"

    async def test_many_sessions_at_once(self, store: SessionStore) -> None:
        names = [f"s{n}" for n in range(200)]
        rounds = 0

        async def talk(name: str) -> None:
            for n in range(3):
                await store.add_message(name, "user", f"{name} says {n}")

        async def talk_at_once() -> None:
            nonlocal rounds
            rounds += 1
            await asyncio.gather(*map(talk, names))

        lag = await loop_lag(talk_at_once, enough=self.max_loop_lag)
        assert lag < self.max_loop_lag, "the event loop stands still"
        for name in names:
            said = texts(await store.get_messages(name))
            assert said == [f"{name} says {n}" for n in range(3)] * rounds

    async def test_old_page_of_a_long_history_is_right(self, store: SessionStore) -> None:
        stored = await fill(store, "s", 3000)
        for start in (0, 1, 999, 1500, 2990):
            assert await store.get_messages("s", after=start, limit=20) == stored[start:][:20]
            page = await store.get_messages("s", before=start + 1, limit=20)
            assert page == stored[max(0, start - 20) : start]


async def _seconds(make: Callable[[str], Awaitable[object]], session_id: str) -> float:
    start = time.perf_counter()
    await make(session_id)
    return time.perf_counter() - start
