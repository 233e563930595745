"""One worker process of the demo: ``python -m asyncsessions.cli.demo_worker``.

It reads a plan and then commands from stdin, one JSON value on each line, and answers on stdout
in the same way.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec

from asyncsessions.cli.demo_proof import Ack, content_crc
from asyncsessions.cli.demo_talk import Turn, chat, errand
from asyncsessions.codec import encode_json
from asyncsessions.registry import open_store

__all__ = ["Measured", "Plan"]

HOT_SESSIONS = 4
# Three of four turns go to sessions that all workers write to.
_HOT_SHARE = 0.75
_TICK = 0.005
_REPORT_EVERY = 0.1
# More threads don't sync a disk faster.
_BASELINE_THREADS = 32


class Plan(msgspec.Struct):
    """What a worker is to do.

    Attributes:
        worker: Its number, from 0.
        directory: Where the store's files are.
        baseline_directory: Where the baseline's files are.
        callers: How many coroutines append at the same time.
        seconds: How long the store is written to.
        baseline_seconds: How long the baseline is.
    """

    worker: int
    directory: str
    baseline_directory: str
    callers: int
    seconds: float
    baseline_seconds: float


class Measured(msgspec.Struct):
    """What a worker did in one phase; times are in seconds."""

    appends: int
    messages: int
    seconds: float
    latencies: list[float]
    lags: list[float]
    acks: list[Ack]


Send = Callable[[str, list[dict[str, Any]]], Coroutine[Any, Any, list[int]]]


class _Worker:
    """Appends conversations, many at a time, and takes the figures."""

    def __init__(self, plan: Plan, send: Send, seconds: float) -> None:
        self._plan = plan
        self._send = send
        self._seconds = seconds
        self._number = 0
        self._cold = 0
        self._is_over = False
        self._appends = 0
        self._latencies: list[float] = []
        self._lags: list[float] = []
        self._acks: list[Ack] = []

    async def run(self) -> Measured:
        start = time.perf_counter()
        helpers = [asyncio.create_task(self._tick()), asyncio.create_task(self._report(start))]
        seed = self._plan.worker * 1000
        await asyncio.gather(*(self._call(seed + index) for index in range(self._plan.callers)))
        seconds = time.perf_counter() - start
        for task in helpers:
            task.cancel()
        await asyncio.gather(*helpers, return_exceptions=True)
        return Measured(
            self._appends, len(self._acks), seconds, self._latencies, self._lags, self._acks
        )

    async def _call(self, seed: int) -> None:
        rng = random.Random(seed)  # noqa: S311  # it only picks phrases
        while not self._is_over:
            if rng.random() < _HOT_SHARE:
                session_id, turns = f"hot-{rng.randrange(HOT_SESSIONS)}", chat(rng)
            else:
                self._cold += 1
                session_id = f"cold-{self._plan.worker}-{self._cold}"
                turns = errand(rng)
            for turn in turns:
                await self._append(session_id, turn)
                if self._is_over:
                    break

    async def _append(self, session_id: str, turn: Turn) -> None:
        # No await between taking the numbers and submitting: so their order is the order in
        # which the store got the messages.
        numbers = range(self._number, self._number + len(turn))
        self._number += len(turn)
        worker = self._plan.worker
        for message, number in zip(turn, numbers, strict=True):
            message["metadata"] = {"worker": worker, "number": number}
        start = time.perf_counter()
        seqs = await self._send(session_id, turn)
        self._latencies.append(time.perf_counter() - start)
        self._appends += 1
        for message, number, seq in zip(turn, numbers, seqs, strict=True):
            self._acks.append(Ack(session_id, number, seq, content_crc(message["content"])))

    async def _tick(self) -> None:
        """Measure how late the event loop is."""
        while True:
            start = time.perf_counter()
            await asyncio.sleep(_TICK)
            self._lags.append(max(0.0, time.perf_counter() - start - _TICK))

    async def _report(self, start: float) -> None:
        """Say how far it is, and when the time is up."""
        while (passed := time.perf_counter() - start) < self._seconds:
            _answer({"acknowledged": len(self._acks)})
            await asyncio.sleep(min(_REPORT_EVERY, self._seconds - passed))
        self._is_over = True


@asynccontextmanager
async def _store_sender(plan: Plan) -> AsyncIterator[Send]:
    async with open_store(f"jsonl://{plan.directory}") as store:

        async def send(session_id: str, turn: list[dict[str, Any]]) -> list[int]:
            return [message.seq for message in await store.append(session_id, turn)]

        yield send


@asynccontextmanager
async def _baseline_sender(plan: Plan) -> AsyncIterator[Send]:
    loop = asyncio.get_running_loop()
    directory = Path(plan.baseline_directory)
    with ThreadPoolExecutor(_BASELINE_THREADS) as threads:

        async def send(session_id: str, turn: list[dict[str, Any]]) -> list[int]:
            data = b"".join(encode_json(message) + b"\n" for message in turn)
            await loop.run_in_executor(threads, _append_to_file, directory / session_id, data)
            return [0] * len(turn)

        yield send


_sync = getattr(os, "fdatasync", os.fsync)


def _append_to_file(path: Path, data: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(fd, data)
        _sync(fd)
    finally:
        os.close(fd)


async def _baseline(plan: Plan) -> Measured:
    async with _baseline_sender(plan) as send:
        measured = await _Worker(plan, send, plan.baseline_seconds).run()
    measured.acks = []  # There is nothing to prove about it.
    return measured


async def _store(plan: Plan) -> Measured:
    async with _store_sender(plan) as send:
        return await _Worker(plan, send, plan.seconds).run()


def _answer(value: object) -> None:
    sys.stdout.buffer.write(encode_json(value) + b"\n")
    sys.stdout.buffer.flush()


def _main() -> None:
    # The process that started it ends it; Ctrl-C reaches the whole group.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    plan = msgspec.json.decode(sys.stdin.buffer.readline(), type=Plan)
    _answer("ready")
    for line in sys.stdin.buffer:
        phase = _baseline if msgspec.json.decode(line) == "baseline" else _store
        _answer({"done": asyncio.run(phase(plan))})


if __name__ == "__main__":
    _main()
