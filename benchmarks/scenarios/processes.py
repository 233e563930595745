"""Several processes on one session."""

from __future__ import annotations

import asyncio
import statistics
import sys
from collections.abc import Sequence

import msgspec

from benchmarks.match import Match, Turn, Work
from benchmarks.results import Sample
from benchmarks.watch import Watch

__all__ = ["CALLERS", "processes"]

CALLERS = 64
# Each starts processes anew, which takes longer than what they do.
_REPETITIONS = 3


async def processes(match: Match) -> None:
    """One and four processes with 64 callers each append to one session."""
    levels = [
        [match.turn(entrant, level) for entrant in match.entrants(CALLERS)]
        for level in match.levels(1, 4, quick=(1, 4))
    ]
    for repetition in range(_REPETITIONS):
        for first in match.in_turns(levels[0], repetition):
            for turns in levels:
                [turn] = [each for each in turns if each.entrant is first.entrant]
                await match.attempt(turn.entrant, _together(match, turn, repetition))
    for turns in levels:
        await match.verify(turns)


async def _together(match: Match, turn: Turn, repetition: int) -> None:
    """Have workers append at the same time, to a session of this repetition."""
    session_id = f"processes-{turn.case.level}-{repetition}"
    work = Work(asyncio.sleep, [session_id])
    workers = [await _start(match, turn, session_id) for _ in range(turn.case.level)]
    try:
        warm_up = [await _read(worker) for worker in workers]
        turn.note(_merged(warm_up, -1), work)
        watch = Watch()
        async with watch:
            for worker in workers:
                assert worker.stdin is not None
                worker.stdin.write(b"\n")
            samples = await asyncio.gather(*map(_read, workers))
        merged = _merged(samples, repetition)
        # What the watch sees of other processes are the workers and the servers.
        servers = max(0.0, watch.usage.server_cpu - merged.cpu)
        sample = msgspec.structs.replace(
            merged, server_cpu=round(servers, 3), foreign=round(watch.usage.foreign, 3)
        )
        turn.note(sample, work)
        for worker in workers:
            await worker.communicate()
    finally:
        for worker in workers:
            if worker.returncode is None:
                worker.kill()
                await worker.wait()


async def _start(match: Match, turn: Turn, session_id: str) -> asyncio.subprocess.Process:
    seconds = str(2 * match.run.seconds)
    arguments = (match.store, turn.case.system, match.place, session_id, seconds)
    pipe = asyncio.subprocess.PIPE
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.worker", *arguments, stdin=pipe, stdout=pipe
    )


async def _read(worker: asyncio.subprocess.Process) -> Sample:
    """Return the next sample of a worker."""
    assert worker.stdout is not None
    line = await worker.stdout.readline()
    if not line:
        raise ChildProcessError(f"a worker ended with {await worker.wait()}")
    return msgspec.json.decode(line, type=Sample)


def _merged(samples: Sequence[Sample], repetition: int) -> Sample:
    """Return them as one: sums, and the median or the worst of what can't be added."""
    errors: dict[str, int] = {}
    for sample in samples:
        for name, count in sample.errors.items():
            errors[name] = errors.get(name, 0) + count
    return Sample(
        repetition=repetition,
        operations=sum(sample.operations for sample in samples),
        seconds=max(sample.seconds for sample in samples),
        latencies={
            name: (max if name == "max" else statistics.median)(
                [sample.latencies[name] for sample in samples]
            )
            for name in samples[0].latencies
        },
        lag={name: max(sample.lag[name] for sample in samples) for name in samples[0].lag},
        cpu=round(sum(sample.cpu for sample in samples), 3),
        server_cpu=0.0,
        memory=round(sum(sample.memory for sample in samples), 2),
        foreign=0.0,
        errors=errors,
    )
