"""The least that combines callers: what a limit needs, and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

__all__ = ["Batcher", "Batches"]

Batches = dict[str, list[bytes]]
"""Messages by session, each session's in the order of their callers."""

Flush = Callable[[Batches], Awaitable[dict[str, int]]]

_LARGEST = 512


class Batcher:
    """Gives everything that waits to a flush, and answers with ``seq``.

    Args:
        flush: Stores messages; returns the ``seq`` of each session's last one.
        lanes: How many flushes are under way at the same time. A session's are all in one lane,
            one after the other.
    """

    def __init__(self, flush: Flush, *, lanes: int = 1) -> None:
        self._lanes = [_Lane(flush) for _ in range(lanes)]

    def append(self, session_id: str, body: bytes) -> Awaitable[int]:
        return self._lanes[hash(session_id) % len(self._lanes)].append(session_id, body)


class _Lane:
    def __init__(self, flush: Flush) -> None:
        self._flush = flush
        self._waiting: list[tuple[str, bytes, asyncio.Future[int]]] = []
        self._task: asyncio.Task[None] | None = None

    def append(self, session_id: str, body: bytes) -> Awaitable[int]:
        future = asyncio.get_running_loop().create_future()
        self._waiting.append((session_id, body, future))
        if self._task is None:
            self._task = asyncio.create_task(self._drain())
        return future

    async def _drain(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting[:_LARGEST], self._waiting[_LARGEST:]
            batches: Batches = {}
            for session_id, body, _ in batch:
                batches.setdefault(session_id, []).append(body)
            try:
                last = await self._flush(batches)
            except Exception as exc:  # noqa: BLE001  # it is the callers'
                for _, _, future in batch:
                    future.set_exception(exc)
                continue
            given = {session_id: last[session_id] - len(batches[session_id]) for session_id in last}
            for session_id, _, future in batch:
                given[session_id] += 1
                future.set_result(given[session_id])
        self._task = None
