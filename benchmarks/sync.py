"""Sync stores: what the way into the event loop's thread costs."""

from __future__ import annotations

import asyncio
import time

from asyncsessions.stores.memory import InMemorySessionStore
from asyncsessions.sync import SyncSessionStore
from asyncsessions.sync._bridge import run as run_in_loop
from benchmarks.measure import Check, Run, at_most

__all__ = ["sync_bridge"]

_CALLS = 2_000


def _overhead(store: SyncSessionStore, inner: InMemorySessionStore) -> float:
    """Return what a sync call takes longer than the awaited one, in microseconds."""

    async def awaited() -> None:
        for _ in range(_CALLS):
            await inner.session_exists("s")

    start = time.perf_counter()
    for _ in range(_CALLS):
        store.session_exists("s")
    middle = time.perf_counter()
    run_in_loop(awaited)
    end = time.perf_counter()
    return ((middle - start) - (end - middle)) / _CALLS * 1e6


async def sync_bridge(run: Run) -> list[Check]:
    """One thread that calls a sync store, against awaiting the same calls in its loop."""
    inner = InMemorySessionStore()
    with SyncSessionStore(inner) as store:
        store.add_message("s", "user", "x")

        def measure() -> list[float]:
            return [_overhead(store, inner) for _ in range(run.repetitions)]

        costs = await asyncio.to_thread(measure)
    name = "cost of a call from sync code, beyond awaiting it"
    return [at_most(run, name, costs, 60.0, smoke=2_000.0, unit=" µs")]
