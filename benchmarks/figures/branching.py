"""Forks, snapshots and reverts at several lengths of a conversation, and reads of forks."""

from __future__ import annotations

import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager

from asyncsessions import open_store
from asyncsessions.hierarchy import HierarchicalSessionStore
from asyncsessions.stores.jsonl import JSONLinesSessionStore
from asyncsessions.stores.memory import InMemorySessionStore
from asyncsessions.testing.servers import MongoServer, PostgresServer, RedisServer
from benchmarks.measure import CountError, Run, at_most
from benchmarks.payload import messages
from benchmarks.results import Check

__all__ = ["branching"]

LENGTHS = (10, 1000, 10_000)
_PER_REPETITION = 12
_DEPTH = 3

Step = Callable[[str], Awaitable[float]]


async def _timed(call: Awaitable[object]) -> float:
    start = time.perf_counter()
    await call
    return time.perf_counter() - start


def _steps(store: HierarchicalSessionStore) -> dict[str, Step]:
    """Return what is measured; each leaves the session as it was, but for a revert's memory."""

    async def fork(session_id: str) -> float:
        start = time.perf_counter()
        fork_id = await store.fork_session(session_id)
        taken = time.perf_counter() - start
        await store.delete_session(fork_id)
        return taken

    async def snapshot(session_id: str) -> float:
        start = time.perf_counter()
        snapshot_id = await store.create_snapshot(session_id)
        taken = time.perf_counter() - start
        await store.delete_snapshot(session_id, snapshot_id)
        return taken

    async def revert(session_id: str) -> float:
        snapshot_id = await store.create_snapshot(session_id)
        taken = await _timed(store.revert_to_snapshot(session_id, snapshot_id))
        await store.delete_snapshot(session_id, snapshot_id)
        return taken

    return {"fork": fork, "snapshot": snapshot, "revert": revert}


async def _costs(run: Run, label: str, store: HierarchicalSessionStore) -> list[Check]:
    """Return one check for each step: its cost on the longest session over the shortest."""
    steps = _steps(store)
    medians: dict[str, list[list[float]]] = {name: [] for name in steps}
    for length in LENGTHS:
        await store.set_chat_history(str(length), messages(length))
    for repetition in range(run.repetitions + 1):
        for name, step in steps.items():
            times: dict[int, list[float]] = {length: [] for length in LENGTHS}
            for _ in range(_PER_REPETITION):
                for length, taken in times.items():
                    taken.append(await step(str(length)))
            if repetition:  # The first one warms up.
                medians[name].append([statistics.median(taken) for taken in times.values()])
    checks = []
    for name, found in medians.items():
        typical = [statistics.median(column) * 1e3 for column in zip(*found, strict=True)]
        detail = ", ".join(f"{each:.2f}" for each in typical) + " ms"
        ratios = [each[-1] / each[0] for each in found]
        check = f"{name}, {label}: 10,000 to 10 messages"
        checks.append(at_most(run, check, ratios, 1.3, smoke=4.0, detail=detail))
    return checks


async def _reads(run: Run, label: str, store: HierarchicalSessionStore) -> list[Check]:
    """Return one check for each length: a fork of a fork of a fork against a plain session."""
    checks = []
    for length in LENGTHS[1:]:
        plain, name = f"plain {length}", f"fork {length}"
        given = messages(length)
        await store.set_chat_history(plain, given)
        share = length // (_DEPTH + 1)
        for depth in range(_DEPTH + 1):
            name = await store.fork_session(name) if depth else name
            stop = length if depth == _DEPTH else (depth + 1) * share
            await store.append(name, given[depth * share : stop])
        ratios = []
        for repetition in range(run.repetitions + 1):
            times: dict[str, list[float]] = {plain: [], name: []}
            for _ in range(_PER_REPETITION):
                for session_id, taken in times.items():
                    taken.append(await _timed(store.get_messages(session_id)))
            if repetition:
                ratios.append(statistics.median(times[name]) / statistics.median(times[plain]))
        found = len(await store.get_messages(name))
        if found != length:
            raise CountError(f"{label}: a fork of {length} messages shows {found}")
        check = f"read of a fork of a fork of a fork, {label}: {length:,} messages"
        checks.append(at_most(run, check, ratios, 1.5, smoke=4.0))
    return checks


@asynccontextmanager
async def _stores(run: Run) -> AsyncIterator[dict[str, HierarchicalSessionStore]]:
    async with AsyncExitStack() as stack:
        # Without fsync, whose constant cost would hide a growing one.
        files = JSONLinesSessionStore(run.new_directory("branching"), durability="os")
        plain = {"memory": InMemorySessionStore(), "JSON Lines": files}
        redis, postgres, mongo = (
            stack.enter_context(each) for each in (RedisServer(), PostgresServer(), MongoServer())
        )
        stores = {label: HierarchicalSessionStore(store) for label, store in plain.items()} | {
            label: HierarchicalSessionStore(open_store(server.url))
            for label, server in (("Redis", redis), ("PostgreSQL", postgres), ("MongoDB", mongo))
        }
        for store in stores.values():
            await stack.enter_async_context(store)
        yield stores


async def branching(run: Run) -> list[Check]:
    """Fork, snapshot and revert at 10, 1,000 and 10,000 messages, and reads of forks."""
    checks: list[Check] = []
    async with _stores(run) as stores:
        for label, store in stores.items():
            checks += await _costs(run, label, store)
            checks += await _reads(run, label, store)
    return checks
