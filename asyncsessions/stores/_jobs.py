"""What a file store does for one session in one hop to a worker thread."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import msgspec

from asyncsessions.batching import Outcome
from asyncsessions.stores._writer import SessionWriter

__all__ = ["Job", "Verb"]

# What a job can do; a store that has no such method never asks for it.
Verb = Literal["append", "update", "replace", "delete", "edit", "quarantine", "take_over"]
# Those that do what many callers ask for.
_SHARED = frozenset({"append", "update", "edit"})


class Job(msgspec.Struct, eq=False):
    """What one worker does for one session, and what came of it."""

    session_id: str
    writer: SessionWriter
    verb: Verb
    request: Any
    create: bool
    load: bool = True
    result: Any = None
    error: Exception | None = None

    def outcomes(self) -> Sequence[Outcome[Any]]:
        """Return what came of it for each of its callers."""
        if self.verb in _SHARED and self.error is None and self.result is not None:
            results: Sequence[Outcome[Any]] = self.result
            return results
        count = len(self.request) if self.verb in _SHARED else 1
        return [self.result if self.error is None else self.error] * count
