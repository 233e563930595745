"""Lanes: jobs in groups that go to the server at the same time, each in one command."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, TypeAlias

from asyncsessions.stores._mongo_jobs import Job
from asyncsessions.tasks import start

__all__ = ["Lanes", "together"]

Send: TypeAlias = Callable[[Sequence[Job]], Coroutine[Any, Any, None]]

# Jobs in one command; the server works on one at a time, and on several commands at once.
_LANE = 128
# An update that they share is a document, of at most 16 MB.
_LANE_BYTES = 8 << 20


class Lanes:
    """Sends jobs as soon as there are enough for a command.

    Args:
        insert: Sends those of sessions that aren't stored.
        update: Sends those of sessions that are.
    """

    def __init__(self, *, insert: Send, update: Send) -> None:
        self._new = _Lane(insert)
        self._old = _Lane(update)
        self._sent: list[asyncio.Task[None]] = []

    def take(self, job: Job) -> bool:
        """Take a job that has a plan; return whether something is sent as soon as that can be."""
        lane = self._new if job.base is None else self._old
        is_full = len(lane.jobs) >= _LANE or lane.size + job.size > _LANE_BYTES
        if is_full and lane.jobs:
            self._sent.append(start(lane.leave()))
        lane.jobs.append(job)
        lane.size += job.size
        return is_full

    async def finish(self) -> None:
        """Send what is left, and wait for everything; raise what one of them has raised."""
        left = [lane.leave() for lane in (self._new, self._old) if lane.jobs]
        await together([*self._sent, *left])

    async def leave(self) -> None:
        """Wait no longer for what was sent, of which nobody knows what becomes of it."""
        for command in self._sent:
            command.cancel()
        await asyncio.gather(*self._sent, return_exceptions=True)


class _Lane:
    def __init__(self, send: Send) -> None:
        self._send = send
        self.jobs: list[Job] = []
        self.size = 0

    def leave(self) -> Coroutine[Any, Any, None]:
        """Return what sends the jobs, and begin again without any."""
        jobs, self.jobs, self.size = self.jobs, [], 0
        return self._send(jobs)


async def together(commands: Sequence[Awaitable[None]]) -> None:
    """Await all commands, and raise what one of them has raised."""
    if len(commands) == 1:
        await commands[0]
        return
    for failure in await asyncio.gather(*commands, return_exceptions=True):
        if failure is not None:
            raise failure
