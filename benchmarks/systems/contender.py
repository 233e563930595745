"""What a system must do to be measured."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Literal, Protocol

__all__ = ["SLOW", "Contender", "Kind", "System"]

Kind = Literal["store", "driver", "limit", "peer"]
"""This library's store, one call of the driver for each append, the best batch that was written by
hand for this server and nothing else, or another project's class for the same purpose."""


SLOW = frozenset({"zipf", "big"})
"""What those are left out of who take so long that they'd double the time of a run."""


class System(Protocol):
    """One way to keep conversations, used as its documentation recommends.

    Any number of callers use it at the same time, on one event loop. A system that is not
    asynchronous runs each call in a thread.
    """

    def append(self, session_id: str, text: str) -> Awaitable[object]:
        """Store one message of a user; return when it is kept as this system keeps messages."""

    async def tail(self, session_id: str, count: int) -> Sequence[object]:
        """Return the newest messages, decoded."""

    async def set_state(self, session_id: str, step: int) -> None:
        """Keep a value beside the messages; whoever lacks this does nothing, and says so."""

    async def fill(self, session_id: str, count: int) -> None:
        """Store so many messages in whichever way is the fastest; nobody measures it."""

    async def count(self, session_ids: Sequence[str]) -> int:
        """Return how many messages are stored in these sessions together."""


@dataclass(frozen=True, slots=True)
class Contender:
    """A system with what a report says of it.

    Attributes:
        name: What it is called in tables; unique among those of one store.
        kind: What it stands for.
        open: Takes a server's URL, or a directory where there is no server; what it opens is
            closed when the block ends.
        packages: Distributions that it needs; the report names their versions.
        note: How it is used, and what it can't do.
        longest: The longest history that it can be filled with in a few seconds.
        most_callers: How many callers it is measured with at most.
        without: Scenarios that it can't take part in; the note says why.
    """

    name: str
    kind: Kind
    open: Callable[[str], AbstractAsyncContextManager[System]]
    packages: tuple[str, ...] = ()
    note: str = ""
    longest: int = 100_000
    most_callers: int = 1024
    without: frozenset[str] = frozenset()

    def missing(self) -> str | None:
        """Return the first distribution that isn't installed; None where all are."""
        for package in self.packages:
            try:
                importlib.metadata.version(package)
            except importlib.metadata.PackageNotFoundError:
                return package
        return None
