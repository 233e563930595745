"""Work that runs to its end, even where nobody waits for it any more."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

__all__ = ["Detached"]

T = TypeVar("T")


class Detached:
    """Runs what can't be stopped half-way without losing a connection.

    A cancelled caller stops waiting, and its work goes on.
    """

    def __init__(self) -> None:
        self._answers: dict[asyncio.Task[None], asyncio.Future[Any]] = {}

    async def run(self, work: Callable[..., Awaitable[T]], *args: Any) -> T:
        """Return what a function's work returns."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()
        task = loop.create_task(_see_through(answer, work, *args))
        self._answers[task] = answer
        task.add_done_callback(self._end)
        return await answer

    def _end(self, task: asyncio.Task[None]) -> None:
        # It has no answer yet where it was cancelled before its first step.
        self._answers.pop(task).cancel()
        if not task.cancelled():
            task.exception()  # Marks it as seen.

    async def finish(self) -> None:
        """Wait until all of it has ended."""
        if self._answers:
            await asyncio.wait(self._answers)


async def _see_through(
    answer: asyncio.Future[T], work: Callable[..., Awaitable[T]], *args: Any
) -> None:
    """Answer with what the work comes to; `asyncio.shield` takes one more turn of the loop."""
    try:
        outcome = await work(*args)
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
