"""Sync stores: the cost of the way into the loop, and PraisonAI's API beside the original."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from asyncsessions.stores.memory import InMemorySessionStore
from asyncsessions.sync import DefaultSessionStore, SyncSessionStore
from asyncsessions.sync._bridge import loop_thread
from asyncsessions.sync._bridge import run as run_in_loop
from benchmarks.figures.json_hot import HISTORY, fill, praison_store, rate_of_threads
from benchmarks.measure import CountError, Run, at_least, at_most, ratio_of
from benchmarks.payload import TEXT
from benchmarks.results import Check

__all__ = ["sync_bridge", "sync_hot", "sync_turn"]

_CALLS = 2_000
_TURNS = 10


def _overheads(store: SyncSessionStore, inner: InMemorySessionStore) -> tuple[float, float]:
    """Return what a sync call takes longer than the awaited one, in microseconds.

    And what one takes longer that is made with asyncio's own means.
    """
    thread = loop_thread()

    async def awaited() -> None:
        for _ in range(_CALLS):
            await inner.session_exists("s")

    times = [time.perf_counter()]
    for _ in range(_CALLS):
        store.session_exists("s")
    times.append(time.perf_counter())
    for _ in range(_CALLS):
        asyncio.run_coroutine_threadsafe(inner.session_exists("s"), thread.loop).result()
    times.append(time.perf_counter())
    run_in_loop(awaited)
    times.append(time.perf_counter())
    ours, asyncios, bare = (end - start for start, end in itertools.pairwise(times))
    return (ours - bare) / _CALLS * 1e6, (asyncios - bare) / _CALLS * 1e6


async def sync_bridge(run: Run) -> list[Check]:
    """One thread that calls a sync store, against awaiting the same calls in its loop."""
    inner = InMemorySessionStore()
    with SyncSessionStore(inner) as store:
        store.add_message("s", "user", "x")

        def measure() -> list[tuple[float, float]]:
            return [_overheads(store, inner) for _ in range(run.repetitions)]

        costs = await asyncio.to_thread(measure)
    name = "cost of a call from sync code, beyond awaiting it"
    return [
        at_most(run, name, [ours for ours, _ in costs], 60.0, smoke=20_000.0, unit=" µs"),
        at_most(
            run,
            "the same to run_coroutine_threadsafe",
            [ours / asyncios for ours, asyncios in costs],
            1.0,
            smoke=2.0,
        ),
    ]


def _turn(store: Any, number: int) -> None:
    """Do what an agent asks of its store in one turn of a chat."""
    statistics = {"model": "m", "source": "chat", "agent_id": "agent"}
    store.get_working_history("hot", max_messages=100)
    store.add_user_message("hot", TEXT)
    store.update_session_metadata("hot", total_tokens=number, cost=number / 10, **statistics)
    store.add_assistant_message("hot", TEXT)
    store.update_session_metadata("hot", total_tokens=number + 5, cost=number / 9, **statistics)


def _turns(new_store: Callable[..., Any], directory: Path) -> float:
    """Return how many turns a second one thread gets through."""
    store = new_store(session_dir=str(directory), retention="keep_all")
    _turn(store, 0)
    start = time.perf_counter()
    for number in range(1, _TURNS + 1):
        _turn(store, number)
    seconds = time.perf_counter() - start
    stored = len(store.get_session("hot").messages)
    if stored != HISTORY + 2 * (_TURNS + 1):
        raise CountError(f"{_TURNS + 1} turns on {HISTORY} messages left {stored}")
    return _TURNS / seconds


async def sync_turn(run: Run) -> list[Check]:
    """A chat turn's five calls on a session of 1,000 messages, against PraisonAI's store."""
    original = await praison_store()
    rates = []
    for _ in range(run.repetitions):
        each = []
        for new_store in (DefaultSessionStore, original):
            directory = run.new_directory("turns")
            await fill(directory)
            each.append(await asyncio.to_thread(_turns, new_store, directory))
        rates.append((each[0], each[1]))
    ratios, detail = ratio_of(rates)
    name = "turns/s, 1,000 messages, to PraisonAI's store"
    return [at_least(run, name, ratios, 5.0, detail=detail)]


async def _hot(run: Run, new_store: Callable[..., Any], per_caller: int) -> float:
    directory = run.new_directory("hot")
    await fill(directory)
    store = new_store(session_dir=str(directory), retention="keep_all")
    done, seconds = await asyncio.to_thread(rate_of_threads, store, per_caller)
    stored = len((await asyncio.to_thread(store.get_session, "hot")).messages) - HISTORY
    # Of PraisonAI's, more may be there: it can fail after it has stored.
    if stored < done or (new_store is DefaultSessionStore and stored > done):
        raise CountError(f"{done} messages acknowledged, {stored} stored")
    return done / seconds


async def sync_hot(run: Run) -> list[Check]:
    """64 threads on one session of 1,000 messages, against as many on PraisonAI's store."""
    original = await praison_store()
    rates = []
    for _ in range(1 if run.is_quick else 5):
        ours = await _hot(run, DefaultSessionStore, 10)
        rates.append((ours, await _hot(run, original, 1)))
    ratios, detail = ratio_of(rates)
    name = "appends/s, 64 threads on 1,000 messages, to PraisonAI's store"
    return [at_least(run, name, ratios, 20.0, detail=detail)]
