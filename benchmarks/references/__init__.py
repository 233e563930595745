"""What the stores on servers are measured against: their drivers used directly, and peers."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Protocol

__all__ = ["MISSING_PEER", "Opener", "Reference"]

MISSING_PEER = "openai-agents isn't installed (dependency group peers)"


class Reference(Protocol):
    """Another way to store the same message."""

    async def append(self, session_id: str) -> object:
        """Store one message, as many callers do at once."""

    async def count(self) -> int:
        """Return how many messages are stored."""


Opener = Callable[[str], AbstractAsyncContextManager[Reference]]
"""Takes a server's URL; what it opens is closed when the block ends."""
