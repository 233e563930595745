"""What no caller waits for."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

from asyncsessions.errors import SessionStoreError
from asyncsessions.stores._mongo_errors import DRIVER_ERRORS
from asyncsessions.tasks import start

__all__ = ["Background"]

logger: logging.Logger = logging.getLogger("asyncsessions.mongo")

_FAILURES: tuple[type[Exception], ...] = (*DRIVER_ERRORS, SessionStoreError)


class Background:
    """Does what no caller waits for; if it fails, a later write does it."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Begin something."""

        async def quietly() -> None:
            try:
                await work
            except _FAILURES as exc:
                logger.debug("left for later after %s", type(exc).__name__)

        task = start(quietly())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def finish(self) -> None:
        """Return when nothing is under way."""
        while self._tasks:
            await asyncio.wait(self._tasks)
