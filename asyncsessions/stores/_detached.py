"""Work that runs to its end, even where nobody waits for it any more."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any, TypeVar

__all__ = ["Detached"]

T = TypeVar("T")


class Detached:
    """Runs what can't be stopped half-way without losing a connection.

    A cancelled caller stops waiting, and its work goes on.
    """

    def __init__(self) -> None:
        self._tasks: set[asyncio.Future[Any]] = set()

    async def run(self, work: Awaitable[T]) -> T:
        """Return what the work returns."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._forget)
        return await asyncio.shield(task)

    def _forget(self, task: asyncio.Future[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # Marks it as seen, where the caller has left.

    async def finish(self) -> None:
        """Wait until all of it has ended."""
        if self._tasks:
            await asyncio.wait(self._tasks)
