"""Operations whose cost must not grow with the history."""

from __future__ import annotations

import statistics
import time
from collections.abc import Awaitable, Callable

from asyncsessions.protocols import SessionStore
from asyncsessions.registry import open_store
from asyncsessions.stores.jsonl import JSONLinesSessionStore
from asyncsessions.stores.memory import InMemorySessionStore
from benchmarks.measure import CountError, Run, at_most
from benchmarks.payload import METADATA, TEXT, messages
from benchmarks.places import place
from benchmarks.results import STORES, Check

__all__ = ["flat"]

SMALL, LARGE = 10, 10_000
_PER_REPETITION = 40

Operation = Callable[[str], Awaitable[object]]


def _operations(store: SessionStore) -> dict[str, Operation]:
    async def append(session_id: str) -> None:
        await store.add_message(session_id, "user", TEXT, METADATA)

    async def read_tail(session_id: str) -> None:
        await store.get_messages(session_id, limit=20)

    async def update_metadata(session_id: str) -> None:
        await store.update_session_metadata(session_id, title="A talk", turns=7)

    async def update_state(session_id: str) -> None:
        await store.update_state(session_id, {"step": "payment", "tries": 2})

    return {
        "append": append,
        "tail read of 20": read_tail,
        "metadata update": update_metadata,
        "state update": update_state,
    }


async def _ratio(operation: Operation) -> float:
    """Return the median time on the large session over that on the small one."""
    times: dict[str, list[float]] = {"small": [], "large": []}
    for _ in range(_PER_REPETITION):
        for session_id, taken in times.items():
            start = time.perf_counter()
            await operation(session_id)
            taken.append(time.perf_counter() - start)
    return statistics.median(times["large"]) / statistics.median(times["small"])


async def _flat(run: Run, label: str, store: SessionStore, target: float = 1.3) -> list[Check]:
    """Return one check for each operation: its cost at 10,000 messages over that at 10."""
    operations = _operations(store)
    ratios: dict[str, list[float]] = {name: [] for name in operations}
    await store.set_chat_history("large", messages(LARGE))
    appended = 0
    for repetition in range(run.repetitions + 1):
        await store.set_chat_history("small", messages(SMALL))
        for name, operation in operations.items():
            ratio = await _ratio(operation)
            if repetition:  # The first one warms up.
                ratios[name].append(ratio)
        appended += _PER_REPETITION
    stored = (await store.get_session("large", max_messages=0)).message_count
    if stored != LARGE + appended:
        raise CountError(f"{label}: {LARGE + appended} messages acknowledged, {stored} stored")
    return [
        at_most(run, f"{name}, {label}: 10,000 to 10 messages", values, target)
        for name, values in ratios.items()
    ]


async def flat(run: Run) -> list[Check]:
    """Append, tail read, metadata and state update at 10,000 messages and at 10."""
    # Without fsync, whose constant cost would hide a growing one.
    directory = run.new_directory("flat")
    async with JSONLinesSessionStore(directory, durability="os") as files:
        checks = await _flat(run, "JSON Lines", files)
    async with InMemorySessionStore() as memory:
        checks += await _flat(run, "memory", memory)
    for name in ("redis", "postgres", "mongo"):
        if not run.stores or name in run.stores:
            with place(run, name) as url:
                async with open_store(url) as store:
                    checks += await _flat(run, STORES[name], store, target=1.2)
    return checks
