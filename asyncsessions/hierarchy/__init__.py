"""Sessions that branch, on any store: forks, snapshots and reverts."""

from __future__ import annotations

from asyncsessions.hierarchy.models import (
    MergeConflict,
    MergeResult,
    SessionDiff,
    SessionTree,
    Snapshot,
)
from asyncsessions.hierarchy.store import HierarchicalSessionStore

__all__ = [
    "HierarchicalSessionStore",
    "MergeConflict",
    "MergeResult",
    "SessionDiff",
    "SessionTree",
    "Snapshot",
]
