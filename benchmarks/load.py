"""Callers: in a closed loop, or arriving at a rate of their own."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress

from benchmarks.alarm import Alarm
from benchmarks.results import Sample
from benchmarks.watch import Watch, percentiles

__all__ = ["OUTSTANDING", "Operation", "arriving", "capacity", "closed"]

Operation = Callable[[int], Awaitable[object]]
"""Takes the number of its caller, or of the arrival."""

_PERCENTILES = (50, 90, 99, 99.9)
OUTSTANDING = 256


class _Record:
    """What came of the calls."""

    def __init__(self) -> None:
        self.latencies: list[float] = []
        self.errors: Counter[str] = Counter()

    def sample(self, repetition: int, watch: Watch) -> Sample:
        usage = watch.usage
        found = percentiles(self.latencies, *_PERCENTILES)
        return Sample(
            repetition=repetition,
            operations=len(self.latencies),
            seconds=round(usage.seconds, 6),
            latencies={name: round(seconds * 1e6, 1) for name, seconds in found.items()},
            lag={name: round(late, 3) for name, late in usage.lag.items()},
            cpu=round(usage.cpu, 3),
            server_cpu=round(usage.server_cpu, 3),
            memory=round(usage.memory, 2),
            foreign=round(usage.foreign, 3),
            errors=dict(self.errors),
        )


async def closed(
    operation: Operation,
    *,
    callers: int,
    seconds: float,
    repetition: int = 0,
    most: int | None = None,
) -> Sample:
    """Have callers do an operation, each again when its last one is done.

    Args:
        operation: What they do; an error counts as one, and goes no further.
        callers: How many at the same time.
        seconds: When they stop; what is under way by then is awaited, and counts.
        repetition: The sample's number.
        most: How many operations each does at most.
    """
    record = _Record()
    latencies, errors = record.latencies, record.errors
    watch = Watch()
    async with watch:
        end = time.perf_counter() + seconds

        async def call(number: int) -> None:
            left = most
            start = time.perf_counter()
            while start < end and left != 0:
                try:
                    await operation(number)
                except Exception as exc:  # noqa: BLE001  # a peer's own; it is reported
                    errors[type(exc).__name__] += 1
                    # One that fails at once would never let the others have their turn.
                    await asyncio.sleep(0)
                    start = time.perf_counter()
                else:
                    now = time.perf_counter()
                    latencies.append(now - start)
                    start = now
                if left is not None:
                    left -= 1

        await asyncio.gather(*map(call, range(callers)))
    return record.sample(repetition, watch)


async def capacity(
    operation: Operation, seconds: float, *, callers: int = OUTSTANDING
) -> tuple[float, int]:
    """Return how many operations a second end when many are always under way, and how many did.

    Each is a task of its own, as with `arriving`, so that the two can be compared. At least the
    first ones are waited for.
    """
    done = pending = number = 0
    room = asyncio.Event()

    async def call(number: int) -> None:
        nonlocal done, pending
        # A peer that fails gets less done.
        with suppress(Exception):
            await operation(number)
            done += 1
        pending -= 1
        room.set()

    start = time.perf_counter()
    async with asyncio.TaskGroup() as calls:
        while time.perf_counter() < start + seconds:
            while pending < callers:
                calls.create_task(call(number))
                pending += 1
                number += 1
            room.clear()
            await room.wait()
    return done / (time.perf_counter() - start), done


async def arriving(
    operation: Operation, *, rate: float, seconds: float, repetition: int = 0
) -> Sample:
    """Begin operations at random moments, however long the earlier ones take.

    The moments are those of a Poisson process. The latency of each operation counts from the
    moment when it should have begun, so that a stall shows in all that it has held up.

    Args:
        operation: What is done; an error counts as one, and goes no further.
        rate: How many begin in a second, on average.
        seconds: For how long.
        repetition: The sample's number, which is also the seed of the moments.
    """
    record = _Record()
    latencies, errors = record.latencies, record.errors
    moments = random.Random(repetition)

    async def call(number: int, due: float) -> None:
        try:
            await operation(number)
        except Exception as exc:  # noqa: BLE001  # a peer's own; it is reported
            errors[type(exc).__name__] += 1
        else:
            latencies.append(time.monotonic() - due)

    watch = Watch()
    async with Alarm() as alarm, watch, asyncio.TaskGroup() as calls:
        due = time.monotonic()
        end = due + seconds
        number = 0
        while due < end:
            if time.monotonic() < due:
                await alarm.until(due)
                continue
            calls.create_task(call(number, due))
            number += 1
            due += moments.expovariate(rate)
    return record.sample(repetition, watch)
