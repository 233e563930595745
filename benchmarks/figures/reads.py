"""Reads of whole sessions against the driver's own fetch and decode."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Sequence
from contextlib import AsyncExitStack

from benchmarks.measure import CountError, Run, at_most
from benchmarks.places import place
from benchmarks.results import STORES, Check
from benchmarks.systems import contenders

__all__ = ["reads"]

LENGTH = 1000
_ROUNDS = 10


async def _seconds(call: Awaitable[Sequence[object]]) -> float:
    start = time.perf_counter()
    read = await call
    taken = time.perf_counter() - start
    if len(read) != LENGTH:
        raise CountError(f"{len(read)} of {LENGTH} messages were read")
    return taken


async def _ratios(run: Run, store: str) -> list[float]:
    ours, driver = contenders(store)[:2]
    ratios = []
    with place(run, store) as url:
        async with AsyncExitStack() as stack:
            both = [await stack.enter_async_context(each.open(url)) for each in (ours, driver)]
            for system in both:
                await system.fill("read", LENGTH)
            for _ in range(_ROUNDS * run.repetitions):
                mine, theirs = [await _seconds(each.tail("read", LENGTH)) for each in both]
                ratios.append(mine / theirs)
    return ratios[1:]


async def reads(run: Run) -> list[Check]:
    """A read of 1,000 messages on each server, against the driver."""
    return [
        at_most(run, f"{STORES[store]}: read of {LENGTH:,} messages, to the driver's", ratios, 1.5)
        for store in ("redis", "postgres", "mongo")
        if not run.stores or store in run.stores
        for ratios in [await _ratios(run, store)]
    ]
