"""The stores on servers against their drivers and peers, on the same server in the same run."""

from __future__ import annotations

import asyncio
import importlib.util
import itertools
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

from asyncsessions.base import BaseSessionStore
from asyncsessions.registry import open_store
from asyncsessions.testing.servers import MongoServer, PostgresServer, RedisServer, Server
from benchmarks.flat import flat_checks
from benchmarks.lag import appending_lag
from benchmarks.measure import (
    CannotMeasureError,
    Case,
    Check,
    CountError,
    Run,
    at_least,
    at_most,
    compare,
    ratio_of,
)
from benchmarks.payload import METADATA, TEXT, messages
from benchmarks.references import MISSING_PEER, Opener, Reference, mongo, postgres, redis

__all__ = ["mongo_store", "postgres_store", "redis_store"]

LONG = 1000
_LONE_CALLS = 200
PROCESSES = 4
# What a smoke run must reach of a throughput: less says that batches are lost.
_SMOKE = 0.25


@dataclass(frozen=True, slots=True)
class Target:
    """So many callers on so many sessions, and the ratios to reach."""

    callers: int
    sessions: int
    naive: float
    peer: float | None = None


@dataclass(frozen=True, slots=True)
class Backend:
    """One server with the ways to store a message on it."""

    name: str
    start: Callable[[], Server]
    naive: Opener
    peer: Opener
    lone: Opener
    lone_target: float
    targets: Sequence[Target] = field(default_factory=tuple)


def _missing_peer() -> str | None:
    """Return why the peers can't be measured; None if they can."""
    return None if importlib.util.find_spec("agents") else MISSING_PEER


def _case(name: str, reference: Reference, callers: int, sessions: int) -> Case:
    turn = itertools.count()

    def append(_: int) -> Awaitable[object]:
        return reference.append(f"s{next(turn) % sessions}")

    return Case(name, callers, append, reference.count)


class _Ours:
    """The store, as one more way to store a message."""

    def __init__(self, store: BaseSessionStore) -> None:
        self._store = store

    def append(self, session_id: str) -> Awaitable[bool]:
        return self._store.add_message(session_id, "user", TEXT, METADATA)

    async def count(self) -> int:
        count, cursor = 0, None
        while True:
            page = await self._store.list_sessions(200, cursor=cursor)
            # A reference may keep its own in the same tables.
            own = (info for info in page if info.session_id.startswith("s"))
            count += sum(info.message_count for info in own)
            cursor = page.next_cursor
            if cursor is None:
                return count


async def _against(
    run: Run, server: Server, opener: Opener, target: Target
) -> tuple[list[float], str]:
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(open_store(server.url))
        reference = await stack.enter_async_context(opener(server.url))
        callers, sessions = target.callers, target.sessions
        rates = await compare(
            run,
            _case("the store", _Ours(store), callers, sessions),
            _case("the reference", reference, callers, sessions),
        )
    return ratio_of(rates)


async def _appends(run: Run, backend: Backend) -> list[Check]:
    checks = []
    for target in backend.targets:
        where = "one session" if target.sessions == 1 else f"{target.sessions:,} sessions"
        name = f"{target.callers} callers on {where}"
        pairs = [("driver", backend.naive, target.naive), ("peer", backend.peer, target.peer)]
        for label, opener, wanted in pairs:
            if wanted is None or (label == "peer" and _missing_peer()):
                continue
            # A server of its own, so that no case meets what another one left.
            with backend.start() as server:
                ratios, detail = await _against(run, server, opener, target)
            check = at_least(
                run, f"{name}, to the {label}", ratios, wanted, smoke=_SMOKE * wanted, detail=detail
            )
            checks.append(check)
    return checks


async def _lone(run: Run, backend: Backend) -> Check:
    """One caller, in turns with the reference, so that both meet the same moments."""
    costs: list[float] = []
    medians: list[tuple[float, float]] = []
    async with AsyncExitStack() as stack:
        server = stack.enter_context(backend.start())
        store = await stack.enter_async_context(open_store(server.url))
        reference = await stack.enter_async_context(backend.lone(server.url))
        both = (_Ours(store), reference)
        for _ in range(run.repetitions):
            times: tuple[list[float], list[float]] = ([], [])
            for _ in range(_LONE_CALLS):
                for each, taken in zip(both, times, strict=True):
                    start = time.perf_counter()
                    await each.append("s0")
                    taken.append(time.perf_counter() - start)
            ours, theirs = (statistics.median(each) for each in times)
            medians.append((ours, theirs))
            costs.append(ours / theirs)
    ours, theirs = (statistics.median(column) * 1e6 for column in zip(*medians, strict=True))
    detail = f"{ours:,.0f} to {theirs:,.0f} us"
    return at_most(run, "cost of an append, 1 caller", costs, backend.lone_target, detail=detail)


async def _full_read(run: Run, server: Server, opener: Opener) -> Check:
    """A read of the whole session against the driver's fetch and decode."""
    times: list[float] = []
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(open_store(server.url))
        reference: Any = await stack.enter_async_context(opener(server.url))
        await store.append("read", messages(LONG))
        await asyncio.gather(*(reference.append("read") for _ in range(LONG)))
        for _ in range(10 * run.repetitions):
            ours = await _seconds(store.get_messages("read"))
            times.append(ours / await _seconds(reference.read("read")))
    return at_most(run, f"read of {LONG:,} messages, to the driver", times[1:], 1.5)


async def _seconds(call: Awaitable[Sequence[object]]) -> float:
    start = time.perf_counter()
    read = await call
    taken = time.perf_counter() - start
    if len(read) != LONG:
        raise CountError(f"{len(read)} of {LONG} messages were read")
    return taken


_WORKER = """
import asyncio, sys, time
from asyncsessions import open_store
from benchmarks.payload import METADATA, TEXT

async def main(url, callers, seconds):
    async with open_store(url) as store:
        await store.ping()
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        end = time.perf_counter() + seconds
        async def call():
            count = 0
            while time.perf_counter() < end:
                await store.add_message("shared", "user", TEXT, METADATA)
                count += 1
            return count
        print(sum(await asyncio.gather(*(call() for _ in range(callers)))))

asyncio.run(main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3])))
"""


async def _together(url: str, processes: int, seconds: float) -> float:
    """Return the appends a second of some processes with 64 callers each on one session."""
    arguments = ("-c", _WORKER, url, "64", str(seconds))
    pipe = asyncio.subprocess.PIPE
    workers = [
        await asyncio.create_subprocess_exec(sys.executable, *arguments, stdin=pipe, stdout=pipe)
        for _ in range(processes)
    ]
    for worker in workers:
        assert worker.stdout is not None
        await worker.stdout.readline()
    outputs = await asyncio.gather(*(worker.communicate(b"\n") for worker in workers))
    return sum(int(output) for output, _ in outputs) / seconds


async def _processes(run: Run, server: Server) -> Check:
    ratios, rates = [], []
    for _ in range(3 if run.is_smoke else 5):
        one = await _together(server.url, 1, 2 * run.seconds)
        all_of_them = await _together(server.url, PROCESSES, 2 * run.seconds)
        ratios.append(all_of_them / one)
        rates.append((all_of_them, one))
    name = f"{PROCESSES} processes on one session, to one process"
    return at_least(run, name, ratios, 1.0, smoke=_SMOKE, detail=ratio_of(rates)[1])


async def _measured(run: Run, backend: Backend) -> list[Check]:
    reason = _missing_peer()
    if reason is not None and not run.is_smoke:
        raise CannotMeasureError(reason)
    checks = [*await _appends(run, backend), await _lone(run, backend)]
    with backend.start() as server:
        checks.append(await _full_read(run, server, backend.naive))
        checks.append(await _processes(run, server))
    with backend.start() as server:
        async with open_store(server.url) as store:
            checks += await flat_checks(run, backend.name, store, target=1.2)
    with backend.start() as server:
        async with open_store(server.url) as store:
            lags = [await appending_lag(store, callers=256) for _ in range(run.repetitions)]
    name = "99th percentile of the loop's lag, 256 callers"
    worst = f"worst {max(lags):.1f} ms"
    median = statistics.median(lags)
    checks.append(at_most(run, name, [median], 5.0, smoke=1000.0, unit=" ms", detail=worst))
    return checks


async def redis_store(run: Run) -> list[Check]:
    """Redis: the pool, one script and a peer."""
    backend = Backend(
        "Redis",
        lambda: RedisServer("--appendfsync", "everysec"),
        redis.Pool.open,
        redis.OpenAIAgents.open,
        redis.EvalSha.open,
        1.3,
        (Target(64, 1, 6.0, 60.0), Target(256, 1000, 4.0, 40.0)),
    )
    return await _measured(run, backend)


async def postgres_store(run: Run) -> list[Check]:
    """PostgreSQL, synchronous_commit on: a pool of ten, one statement and a peer."""
    backend = Backend(
        "PostgreSQL",
        PostgresServer,
        postgres.Pool.open,
        postgres.OpenAIAgents.open,
        postgres.Statement.open,
        1.2,
        (Target(64, 1, 6.0, 80.0), Target(256, 1000, 5.0, 80.0)),
    )
    return await _measured(run, backend)


async def mongo_store(run: Run) -> list[Check]:
    """MongoDB, majority and journaled: insert_one and a peer."""
    backend = Backend(
        "MongoDB",
        MongoServer,
        mongo.Collection.open,
        mongo.OpenAIAgents.open,
        mongo.Collection.open,
        1.6,
        (Target(64, 1, 9.0), Target(256, 1000, 7.0, 18.0)),
    )
    return await _measured(run, backend)
