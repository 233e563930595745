"""The JSON store against PraisonAI's own, on one long session."""

from __future__ import annotations

import asyncio
import importlib.metadata
import logging
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from asyncsessions.stores.json import JSONSessionStore
from benchmarks.measure import CannotMeasureError, CountError, Run, at_least, ratio_of
from benchmarks.payload import METADATA, TEXT, messages
from benchmarks.results import Check

__all__ = ["HISTORY", "fill", "json_hot", "missing_praison", "praison_store", "rate_of_threads"]

CALLERS = 64
HISTORY = 1000
VERSION = "1.7.17"
# The session grows with each append, and its cost with it, so both do few.
_OURS_PER_CALLER = 4
_THEIRS_PER_CALLER = 1


def missing_praison() -> str | None:
    """Return why PraisonAI can't be the reference; None if it can."""
    try:
        version = importlib.metadata.version("praisonaiagents")
    except importlib.metadata.PackageNotFoundError:
        return f"praisonaiagents=={VERSION} isn't installed (dependency group interop)"
    if version != VERSION:
        return f"praisonaiagents {version} is installed; the target is for {VERSION}"
    return None


async def fill(directory: Path) -> None:
    """Write the session ``hot`` of 1,000 messages into a directory."""
    async with JSONSessionStore(directory) as store:
        await store.set_chat_history("hot", messages(HISTORY))


async def _count(directory: Path) -> int:
    async with JSONSessionStore(directory) as store:
        return len(await store.get_chat_history("hot"))


async def _ours(run: Run) -> float:
    directory = run.new_directory("json")
    await fill(directory)
    async with JSONSessionStore(directory) as store:

        async def call() -> None:
            for _ in range(_OURS_PER_CALLER):
                await store.add_message("hot", "user", TEXT, METADATA)

        await store.add_message("hot", "user", TEXT, METADATA)
        start = time.perf_counter()
        await asyncio.gather(*(call() for _ in range(CALLERS)))
        seconds = time.perf_counter() - start
    count = CALLERS * _OURS_PER_CALLER
    stored = await _count(directory)
    if stored != HISTORY + 1 + count:
        raise CountError(f"json: {HISTORY + 1 + count} messages acknowledged, {stored} stored")
    return count / seconds


def rate_of_threads(store: Any, per_caller: int) -> tuple[int, float]:
    """Return how many appends 64 threads got through, and in how many seconds.

    An append that fails, as some do when the lock is wanted by so many, doesn't count.

    Args:
        store: PraisonAI's, or one with its API.
        per_caller: How many appends each thread tries.
    """

    def call(_: int) -> int:
        done = 0
        for _ in range(per_caller):
            try:
                done += bool(store.add_message("hot", "user", TEXT, METADATA))
            except (OSError, TimeoutError):
                continue
        return done

    with ThreadPoolExecutor(CALLERS) as threads:
        start = time.perf_counter()
        done = sum(threads.map(call, range(CALLERS)))
        return done, time.perf_counter() - start


async def _reference(run: Run, new_store: Callable[..., Any]) -> float:
    directory = run.new_directory("praisonai")
    await fill(directory)
    store = new_store(session_dir=str(directory), retention="keep_all")
    done, seconds = await asyncio.to_thread(rate_of_threads, store, _THEIRS_PER_CALLER)
    stored = await _count(directory) - HISTORY
    # More may be there: it can fail after it has stored.
    if stored < done:
        raise CountError(f"PraisonAI: {done} messages acknowledged, {stored} stored")
    return done / seconds


async def praison_store() -> Callable[..., Any]:
    """Return PraisonAI's own store class.

    Raises:
        CannotMeasureError: It isn't installed, or in another version.
    """
    reason = missing_praison()
    if reason is not None:
        raise CannotMeasureError(reason)
    # Nothing of a benchmark goes to anybody's statistics.
    os.environ["PRAISONAI_TELEMETRY_DISABLED"] = os.environ["DO_NOT_TRACK"] = "1"
    logging.getLogger("praisonaiagents").setLevel(logging.CRITICAL)
    module = await asyncio.to_thread(importlib.import_module, "praisonaiagents.session.store")
    new_store: Callable[..., Any] = module.DefaultSessionStore
    return new_store


async def json_hot(run: Run) -> list[Check]:
    """64 callers on one session of 1,000 messages, against 64 threads of PraisonAI's store."""
    new_store = await praison_store()
    rates = []
    for _ in range(1 if run.is_quick else 5):
        ours = await _ours(run)
        rates.append((ours, await _reference(run, new_store)))
    ratios, detail = ratio_of(rates)
    name = "appends/s, JSON, 64 callers on 1,000 messages, to PraisonAI"
    return [at_least(run, name, ratios, 20.0, detail=detail)]
