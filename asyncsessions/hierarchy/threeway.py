"""The rules of a three-way merge.

What either side changed since then is taken over; where both changed the same thing in different
ways, that is a conflict, which leaves the target as it is and is returned.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

from asyncsessions.hierarchy.models import MergeConflict
from asyncsessions.hooks import Change
from asyncsessions.models import JSONValue, Message

__all__ = ["Merge", "interleave"]

T = TypeVar("T")

# Stands for a key that isn't there; None is a value.
_ABSENT: Any = object()


def interleave(target: Sequence[Message], fork: Sequence[Message]) -> list[Message]:
    """Return the messages of both by time; each side keeps its order, and the target comes first.

    Messages that belong together stay together only as far as their times say so.
    """
    merged: list[Message] = []
    left = list(reversed(fork))
    for message in target:
        while left and left[-1].timestamp < message.timestamp:
            merged.append(left.pop())
        merged.append(message)
    return merged + left[::-1]


class Merge:
    """What a merge changes in the target's record, and what it can't decide."""

    def __init__(self) -> None:
        self.changes: list[Change] = []
        self.conflicts: list[MergeConflict] = []

    def add(
        self,
        area: str,
        base: Mapping[str, JSONValue],
        target: Mapping[str, JSONValue],
        fork: Mapping[str, JSONValue],
    ) -> None:
        """Merge ``metadata`` or ``state``.

        Args:
            area: Which of them.
            base: What both began with.
            target: What the session has now that is merged into.
            fork: What the other one has.
        """
        for key in sorted(base.keys() | fork.keys()):
            old, mine, theirs = (each.get(key, _ABSENT) for each in (base, target, fork))
            path = (area, key)
            by = _added(old, mine, theirs)
            if by is not None:
                if by:
                    self.changes.append(Change(path, "increment", by))
                continue
            merged = self._merged(path, old, mine, theirs)
            if not _differ(merged, mine):
                continue
            if not isinstance(mine, float):
                # Nobody else has changed it since it was read. A fraction that a store has
                # incremented can't be compared, as not all write it alike.
                seen = None if mine is _ABSENT else mine
                self.changes.append(Change(path, "expect", seen))
            is_gone = merged is _ABSENT
            self.changes.append(Change(path, "remove") if is_gone else Change(path, "set", merged))

    def _merged(self, path: tuple[str, ...], old: Any, mine: Any, theirs: Any) -> Any:
        by = _added(old, mine, theirs)
        if by is not None:
            return mine + by
        if not _differ(old, theirs) or not _differ(mine, theirs):
            return mine
        if not _differ(old, mine):
            return theirs
        if isinstance(mine, dict) and isinstance(theirs, dict):
            return self._merged_object(path, old if isinstance(old, dict) else {}, mine, theirs)
        if isinstance(mine, list) and isinstance(theirs, list):
            start = old if isinstance(old, list) else []
            if mine[: len(start)] == theirs[: len(start)] == start:
                return mine + theirs[len(start) :]
        self.conflicts.append(MergeConflict(list(path), *map(_or_none, (old, mine, theirs))))
        return mine

    def _merged_object(
        self, path: tuple[str, ...], old: Mapping[str, Any], mine: Any, theirs: Any
    ) -> dict[str, Any]:
        merged: dict[str, Any] = {}
        for key in _all_keys(mine, theirs):
            values = (each.get(key, _ABSENT) for each in (old, mine, theirs))
            value = self._merged((*path, key), *values)
            if value is not _ABSENT:
                merged[key] = value
        return merged


def _differ(one: Any, other: Any) -> bool:
    """Whether two JSON values differ; True is not 1."""
    if isinstance(one, bool) is not isinstance(other, bool):
        return True
    return bool(one != other)


def _added(old: Any, mine: Any, theirs: Any) -> Any:
    """Return what a number grew by, where it counts on both sides; else None."""
    old = 0 if old is _ABSENT else old
    for each in (old, mine, theirs):
        if isinstance(each, bool) or not isinstance(each, int | float):
            return None
    return theirs - old


def _or_none(value: Any) -> JSONValue:
    return None if value is _ABSENT else value


def _all_keys(*objects: Mapping[str, Any]) -> Iterator[str]:
    """Iterate over the keys of all objects, each once, in their order."""
    return iter(dict.fromkeys(key for each in objects for key in each))
