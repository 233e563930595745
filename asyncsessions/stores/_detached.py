"""Work that runs to its end, even where nobody waits for it any more."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from asyncsessions.tasks import start

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
        task = start(_see_through(answer, work, *args))
        self._answers[task] = answer
        task.add_done_callback(self._end)
        return await answer

    def _end(self, task: asyncio.Task[None]) -> None:
        answer = self._answers.pop(task)
        if task.cancelled():
            answer.cancel()
        elif (failure := task.exception()) is not None and not answer.done():
            answer.set_exception(failure)

    async def finish(self) -> None:
        """Wait until all of it has ended."""
        if self._answers:
            await asyncio.wait(self._answers)


async def _see_through(
    answer: asyncio.Future[T], work: Callable[..., Awaitable[T]], *args: Any
) -> None:
    """Answer with what the work returns, in its last step: the task's end is told a turn later."""
    outcome = await work(*args)
    if not answer.done():
        answer.set_result(outcome)
