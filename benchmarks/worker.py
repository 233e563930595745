"""One of several processes: ``python -m benchmarks.worker STORE SYSTEM PLACE SESSION SECONDS``."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable

import msgspec

from benchmarks.load import closed
from benchmarks.payload import TEXT
from benchmarks.results import Sample
from benchmarks.scenarios.processes import CALLERS
from benchmarks.systems import contenders

__all__: list[str] = []

_WARM_UP_SECONDS = 0.1


async def _main(store: str, name: str, place: str, session_id: str, seconds: str) -> None:
    [contender] = [each for each in contenders(store) if each.name == name]
    async with contender.open(place) as system:

        def append(_: int) -> Awaitable[object]:
            return system.append(session_id, TEXT)

        # The first one warms up; both are counted.
        _tell(await closed(append, callers=CALLERS, seconds=_WARM_UP_SECONDS))
        await asyncio.to_thread(sys.stdin.readline)
        _tell(await closed(append, callers=CALLERS, seconds=float(seconds)))


def _tell(sample: Sample) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(sample) + b"\n")
    sys.stdout.buffer.flush()


asyncio.run(_main(*sys.argv[1:]))
