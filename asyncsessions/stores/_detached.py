"""Work that runs to its end, even where nobody waits for it any more."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

__all__ = ["Detached"]

T = TypeVar("T")


class Detached:
    """Runs what can't be stopped half-way without losing a connection.

    A cancelled caller stops waiting, and its work goes on.
    """

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self, work: Awaitable[T]) -> T:
        """Return what the work returns."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()
        task = loop.create_task(_see_through(work, answer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return await answer

    async def finish(self) -> None:
        """Wait until all of it has ended."""
        if self._tasks:
            await asyncio.wait(self._tasks)


async def _see_through(work: Awaitable[T], answer: asyncio.Future[T]) -> None:
    """Answer with what the work comes to; `asyncio.shield` takes one more turn of the loop."""
    try:
        outcome = await work
    except asyncio.CancelledError:
        answer.cancel()
        raise
    except BaseException as exc:
        if not answer.done():
            answer.set_exception(exc)
        if not isinstance(exc, Exception):
            raise
    else:
        if not answer.done():
            answer.set_result(outcome)
