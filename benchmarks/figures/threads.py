"""The sync store in 64 threads, against the drivers' sync clients in as many."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import redis
from pymongo import MongoClient, WriteConcern

from asyncsessions.sync import open_store
from benchmarks.measure import CountError, Run, at_least, ratio_of
from benchmarks.payload import METADATA, TEXT, body
from benchmarks.places import place
from benchmarks.results import STORES, Check

__all__ = ["sync_threads"]

THREADS = 64
_TARGET = 1.0
# Less says that batches are lost.
_QUICK = 0.1

Append = Callable[[int], object]
"""Takes the number of its thread."""


@contextmanager
def _file(directory: str) -> Iterator[Append]:
    path = Path(directory, "threads.jsonl")

    def append(_: int) -> None:
        fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(fd, body() + b"\n")
            os.fdatasync(fd)
        finally:
            os.close(fd)

    yield append


@contextmanager
def _redis(url: str) -> Iterator[Append]:
    pool = redis.BlockingConnectionPool.from_url(url, max_connections=THREADS)
    with redis.Redis(connection_pool=pool) as client:
        yield lambda _: client.rpush("threads", body())


@contextmanager
def _mongo(url: str) -> Iterator[Append]:
    with MongoClient[dict[str, Any]](url) as client:
        concern = WriteConcern(w="majority", j=True)
        messages = client.get_default_database().get_collection("threads", write_concern=concern)
        message = {"session": "s", "role": "user", "content": TEXT, "metadata": METADATA}
        yield lambda _: messages.insert_one(dict(message))


_DRIVERS = {"jsonl": _file, "redis": _redis, "mongo": _mongo}


def _rate(append: Append, seconds: float) -> tuple[float, int]:
    """Return the appends a second of 64 threads in a closed loop, and how many they were."""
    start = time.perf_counter()

    def call(number: int) -> int:
        count = 0
        while time.perf_counter() < start + seconds:
            append(number)
            count += 1
        return count

    with ThreadPoolExecutor(THREADS) as threads:
        count = sum(threads.map(call, range(THREADS)))
    return count / (time.perf_counter() - start), count


def _rates(run: Run, name: str, where: str) -> list[tuple[float, float]]:
    url = where if "://" in where else f"{name}://{where}/store"
    rates, acknowledged = [], 0
    with open_store(url) as store, _DRIVERS[name](where) as driver:

        def append(_: int) -> object:
            return store.add_message("s", "user", TEXT, METADATA)

        for _ in range(run.repetitions):
            rate, count = _rate(append, run.seconds)
            rates.append((rate, _rate(driver, run.seconds)[0]))
            acknowledged += count
        stored = store.get_session("s", max_messages=0).message_count
    if stored != acknowledged:
        raise CountError(f"{name}: {acknowledged} messages acknowledged, {stored} stored")
    return rates


async def sync_threads(run: Run) -> list[Check]:
    """64 threads on one session, against as many that each use the driver's sync client."""
    checks = []
    for name in _DRIVERS:
        if not run.stores or name in run.stores:
            with place(run, name) as where:
                rates = await asyncio.to_thread(_rates, run, name, where)
            ratios, detail = ratio_of(rates)
            title = f"{STORES[name]}: appends/s, 64 threads on one session, to the driver's"
            checks.append(at_least(run, title, ratios, _TARGET, smoke=_QUICK, detail=detail))
    return checks
