"""Group commits on a cluster: one for each node, so that none waits for another node."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Generic, TypeVar

from asyncsessions.batching import GroupCommit, Outcome
from asyncsessions.hooks import Append, Update

__all__ = ["NodeCommits"]

W = TypeVar("W", Append, Update)
T = TypeVar("T")


class NodeCommits(Generic[W, T]):
    """Hands writes over in batches, one batch at a time for each node.

    A node that is away holds back what is for it, and nothing else.

    Args:
        write: Makes writes, and returns what became of each.
    """

    def __init__(self, write: Callable[[Sequence[W]], Awaitable[Sequence[Outcome[T]]]]) -> None:
        self._write: Callable[[Sequence[W]], Awaitable[Sequence[Outcome[T]]]] = write
        self._commits: dict[str, GroupCommit[W, Any]] = {}

    async def submit(self, nodes: Sequence[str], writes: Sequence[W]) -> list[Outcome[T]]:
        """Return a future of each write's outcome.

        Args:
            nodes: For each write the name of its node.
            writes: The writes.
        """
        outcomes: list[Outcome[T]] = []
        for node, write in zip(nodes, writes, strict=True):
            commit = self._commits.get(node)
            if commit is None:
                commit = self._commits[node] = GroupCommit(self._write)
            # Its size was counted where it came from.
            entry = await commit.enqueue(write.session_id, write, 0)
            outcomes.append(entry.caller)
        return outcomes
