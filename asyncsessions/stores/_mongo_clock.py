"""The server's clock, as far as a client can know it."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC

from asyncsessions.stores._mongo_database import Database

__all__ = ["ServerClock"]

_FRESH_SECONDS = 60.0
# By how much this machine's two clocks may come apart in that time; set right by hand, or after
# the machine has slept, one of them jumps.
_TOLERANCE = 0.05
_COMPARISONS = 3


class ServerClock:
    """Knows what the server's clock shows, from how far it is off this machine's.

    All processes so agree on when a session expires to within half a round trip and whatever
    their clocks drift in a minute.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._offset = 0.0
        self._measured = float("-inf")
        self._wall_offset = 0.0
        self._lock = asyncio.Lock()

    async def refresh(self) -> None:
        """Compare the clocks, unless that was done within the last minute."""
        if self._is_fresh():
            return
        # One caller for all, or their round trips would hold each other up, and say less.
        async with self._lock:
            if self._is_fresh():
                return
            start = time.monotonic()
            wall_offset = time.time() - start
            # The fastest of some round trips says most: the first may have made a connection.
            _, self._offset = min([await self._compare() for _ in range(_COMPARISONS)])
            self._measured = start
            self._wall_offset = wall_offset

    def _is_fresh(self) -> bool:
        now = time.monotonic()
        has_jumped = abs(time.time() - now - self._wall_offset) > _TOLERANCE
        return now - self._measured < _FRESH_SECONDS and not has_jumped

    async def _compare(self) -> tuple[float, float]:
        """Return how long a round trip took, and how far the server's clock is ahead."""
        start = time.monotonic()
        reply = await self._database.command({"hello": 1})
        end = time.monotonic()
        server = reply["localTime"].replace(tzinfo=UTC).timestamp()
        return end - start, server - (start + end) / 2

    def now(self) -> float:
        """Return what the server's clock shows, in seconds since the epoch."""
        return time.monotonic() + self._offset
