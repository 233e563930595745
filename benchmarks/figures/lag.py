"""How long the event loop keeps others waiting."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from asyncsessions.protocols import SessionStore
from asyncsessions.stores.json import JSONSessionStore
from asyncsessions.stores.jsonl import JSONLinesSessionStore
from benchmarks.measure import CountError, Run, at_most
from benchmarks.payload import METADATA, TEXT, messages
from benchmarks.results import Check

__all__ = ["loop_lag"]

HISTORY = 10_000
_CALLERS = 64
_TICK = 0.005
# How long each kind of work goes on at least. A call stalls the loop each time or hardly ever, and
# the longer one looks, the more is seen of what else the machine does.
_SECONDS = 0.05
# So many removed messages make the store rewrite a JSON Lines file.
_GAPS = 33

Work = Callable[[], Awaitable[None]]


async def _worst_lag(work: Work, seconds: float) -> tuple[float, float]:
    """Return the worst lag, in milliseconds, of a 5 ms ticker beside some work.

    Returns:
        The lag, and for how many seconds the work went on: as long as was asked for, or longer.
    """
    lags: list[float] = []
    is_over = False

    async def tick() -> None:
        while not is_over:
            start = time.perf_counter()
            await asyncio.sleep(_TICK)
            lags.append((time.perf_counter() - start - _TICK) * 1000)

    ticker = asyncio.create_task(tick())
    await asyncio.sleep(2 * _TICK)
    lags.clear()
    start = time.perf_counter()
    while time.perf_counter() < start + seconds:
        await work()
    seconds = time.perf_counter() - start
    await asyncio.sleep(2 * _TICK)
    is_over = True
    await ticker
    return max(lags), seconds


async def _idle() -> None:
    await asyncio.sleep(_TICK)


def _appending(store: SessionStore, sessions: int) -> Work:
    async def call(number: int) -> None:
        end = time.perf_counter() + _SECONDS
        while time.perf_counter() < end:
            await store.add_message(f"s{number % sessions}", "user", TEXT, METADATA)

    async def work() -> None:
        await asyncio.gather(*map(call, range(_CALLERS)))

    return work


def _reading(store: SessionStore) -> dict[str, Work]:
    async def read() -> None:
        await _release(await store.get_messages("long"))

    async def read_history() -> None:
        await _release(await store.get_chat_history("long"))

    async def export() -> None:
        exported = await store.export_session("long")
        await _release(exported["messages"])

    return {"get_messages": read, "get_chat_history": read_history, "export": export}


async def _release(found: list[Any]) -> None:
    """Check that all is there, and let go of it in slices: freeing it is up to the caller."""
    if len(found) < HISTORY:
        raise CountError(f"{HISTORY} messages acknowledged, {len(found)} read back")
    while found:
        del found[-256:]
        await asyncio.sleep(0)


def _rewriting(store: SessionStore) -> dict[str, Work]:
    given = messages(HISTORY)

    async def replace() -> None:
        await store.set_chat_history("long", given)

    async def compact() -> None:
        await store.append_compaction_checkpoint("long", "They talked.")
        for _ in range(_GAPS):
            await store.pop_message("long")
            await store.add_message("long", "user", TEXT, METADATA)

    return {"set_chat_history": replace, "compaction": compact}


async def _works(stack: AsyncExitStack, directory: Path) -> dict[str, Work]:
    jsonl = await stack.enter_async_context(JSONLinesSessionStore(directory / "jsonl"))
    json = await stack.enter_async_context(JSONSessionStore(directory / "json"))
    for store in (jsonl, json):
        await store.set_chat_history("long", messages(HISTORY))

    async def append_to_document() -> None:
        await json.add_message("long", "user", TEXT, METADATA)

    return {
        "64 appending, one session": _appending(jsonl, 1),
        "64 appending, 64 sessions": _appending(jsonl, 64),
        **_reading(jsonl),
        **_rewriting(jsonl),
        **{f"{name}, JSON": work for name, work in _reading(json).items()},
        "append, JSON": append_to_document,
    }


async def loop_lag(run: Run) -> list[Check]:
    """The worst lag of a 5 ms ticker beside each kind of work, beyond an idle loop's own.

    Each time the loop idles afterwards for as long as the work took. What counts is the median of
    the repetitions: a stall of the library's comes back in each, one that another process caused
    does not.
    """
    excess: dict[str, list[float]] = {}
    worst: dict[str, float] = {}
    async with AsyncExitStack() as stack:
        works = await _works(stack, run.new_directory("lag"))
        # As a server does at its start: or each full collection walks through every module, and
        # how long that takes says nothing about a store.
        gc.collect()
        gc.freeze()
        for _ in range(2 if run.is_quick else 25):
            for name, work in works.items():
                lag, seconds = await _worst_lag(work, _SECONDS)
                idle, _ = await _worst_lag(_idle, seconds)
                excess.setdefault(name, []).append(lag - idle)
                worst["idle"] = max(worst.get("idle", 0.0), idle)
                worst[name] = max(worst.get(name, 0.0), lag)
    gc.unfreeze()
    return [
        at_most(
            run,
            f"lag beyond an idle loop's, {name}",
            lags,
            5.0,
            # Two repetitions on a busy machine show no more than that it is measured.
            smoke=5_000.0,
            unit=" ms",
            detail=f"worst of all {worst[name]:.1f} ms, idle {worst['idle']:.1f} ms",
        )
        for name, lags in excess.items()
    ]
