"""JSON Lines appends against one thread hop each."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Literal

from asyncsessions.stores.jsonl import JSONLinesSessionStore
from benchmarks.measure import Case, Check, Run, at_least, at_most, compare, ratio_of
from benchmarks.payload import METADATA, TEXT, naive_case

__all__ = ["jsonl_hot", "jsonl_lone", "jsonl_many"]


async def _rates(
    run: Run, *, callers: int, sessions: int, durability: Literal["fsync", "os"]
) -> list[tuple[float, float]]:
    directory = run.new_directory("naive")
    reference = naive_case(
        directory, callers=callers, sessions=sessions, is_synced=durability == "fsync"
    )
    path = run.new_directory("store")
    async with JSONLinesSessionStore(path, durability=durability) as store:
        ids = [f"s{number % sessions}" for number in range(callers)]

        def append(number: int) -> Awaitable[bool]:
            return store.add_message(ids[number], "user", TEXT, METADATA)

        async def stored() -> int:
            page = await store.list_sessions(sessions)
            return sum(info.message_count for info in page)

        ours = Case(f"{callers} callers, {sessions} sessions", callers, append, stored)
        return await compare(run, ours, reference)


async def jsonl_hot(run: Run) -> list[Check]:
    """Many callers on one session, fsync on."""
    checks = []
    # A busy machine may take much of the gain from a smoke run, but only a lost batch all of it.
    for callers, target, smoke in ((64, 8.0, 2.0), (256, 15.0, 2.0)):
        rates = await _rates(run, callers=callers, sessions=1, durability="fsync")
        ratios, detail = ratio_of(rates)
        name = f"appends/s, {callers} callers on one session, fsync"
        checks.append(at_least(run, name, ratios, target, smoke=smoke, detail=detail))
    return checks


async def jsonl_many(run: Run) -> list[Check]:
    """64 callers, each with a session of its own."""
    checks = []
    # Each session has a file to lock, write and sync, so little is shared but the hop to a thread.
    levels: tuple[tuple[Literal["fsync", "os"], float, float], ...] = (
        ("os", 5.0, 0.5),
        ("fsync", 2.0, 0.5),
    )
    for durability, target, smoke in levels:
        rates = await _rates(run, callers=64, sessions=64, durability=durability)
        ratios, detail = ratio_of(rates)
        name = f"appends/s, 64 callers on 64 sessions, {durability}"
        checks.append(at_least(run, name, ratios, target, smoke=smoke, detail=detail))
    return checks


async def jsonl_lone(run: Run) -> list[Check]:
    """One caller, fsync on: what batching costs where there is nothing to batch."""
    rates = await _rates(run, callers=1, sessions=1, durability="fsync")
    ratios, detail = ratio_of(rates)
    costs = [1 / ratio for ratio in ratios]
    return [at_most(run, "cost of an append, 1 caller, fsync", costs, 1.3, detail=detail)]
