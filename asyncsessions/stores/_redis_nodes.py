"""Group commits on a cluster, where a node that is away holds back no other one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Generic, TypeVar

from asyncsessions.batching import GroupCommit, Outcome
from asyncsessions.hooks import Append, Update

__all__ = ["NodeCommits"]

W = TypeVar("W", Append, Update)
T = TypeVar("T")

# Nodes that are well have answered by now, in seconds.
_PATIENCE = 0.5
# For so long after one hasn't, each has group commits of its own, which cost a fifth more.
_SEPARATION = 60.0


class NodeCommits(Generic[W, T]):
    """Makes the writes of a group commit, on all nodes together or on each by itself.

    Args:
        write: Makes writes, and returns what became of each.
    """

    def __init__(self, write: Callable[[Sequence[W]], Awaitable[list[Outcome[T]]]]) -> None:
        self._write: Callable[[Sequence[W]], Awaitable[list[Outcome[T]]]] = write
        self._commits: dict[str, GroupCommit[W, Any]] = {}
        self._separate_until = float("-inf")
        self._tasks: set[asyncio.Future[list[Outcome[T]]]] = set()

    async def submit(
        self, writes: Sequence[W], node_of: Callable[[W], str]
    ) -> Sequence[Outcome[T]]:
        """Return what became of writes, with a future where that takes long.

        Args:
            writes: The writes.
            node_of: Returns the name of a write's node.
        """
        clock = asyncio.get_running_loop().time
        if clock() < self._separate_until:
            return [await self._queued(node_of(write), write) for write in writes]
        task = asyncio.ensure_future(self._write(writes))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        await asyncio.wait([task], timeout=_PATIENCE)
        if task.done():
            return task.result()
        self._separate_until = clock() + _SEPARATION
        return _outcomes_of(task, len(writes))

    async def _queued(self, node: str, write: W) -> asyncio.Future[T]:
        commit = self._commits.get(node)
        if commit is None:
            commit = self._commits[node] = GroupCommit(self._write)
        # Its size was counted where it came from.
        entry = await commit.enqueue(write.session_id, write, 0)
        return entry.caller


def _outcomes_of(task: asyncio.Future[list[Outcome[T]]], count: int) -> list[Outcome[T]]:
    """Return a future of each outcome that a task will return."""
    loop = asyncio.get_running_loop()
    futures: list[asyncio.Future[Any]] = [loop.create_future() for _ in range(count)]

    def tell(task: asyncio.Future[list[Outcome[T]]]) -> None:
        if task.cancelled():
            for future in futures:
                future.cancel()
            return
        error = task.exception()
        outcomes = [error] * count if error else task.result()
        for future, outcome in zip(futures, outcomes, strict=True):
            if isinstance(outcome, BaseException):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)

    task.add_done_callback(tell)
    return [*futures]
