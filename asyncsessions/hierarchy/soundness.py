"""Whether what a session's record says of its kin is what belongs there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from asyncsessions.errors import CorruptSessionError
from asyncsessions.hierarchy.lineage import Lineage
from asyncsessions.hierarchy.saved import TREE, Part
from asyncsessions.hooks import SHARED

__all__ = ["damage"]


def damage(lineage: Lineage) -> str | None:
    """Return what is wrong with what a session says of its kin; None where nothing is."""
    metadata = lineage.info.metadata
    for key in (TREE, SHARED):
        if not isinstance(metadata.get(key, {}), dict):
            return f"its metadata under {key!r} is no object"
    try:
        snapshots = lineage.snapshots.values()
        shown = [lineage.view.parts, lineage.copied, *(saved.parts for saved in snapshots)]
        others = (lineage.source, lineage.origin, lineage.merges)
    except CorruptSessionError as exc:
        return exc.detail
    del others
    if not all(map(_is_in_order, shown)):
        return f"the parts in its metadata under {TREE!r} are out of order"
    if not all(map(_is_whole, lineage.sharers.values())):
        return f"its metadata under {SHARED!r} holds more than whole numbers"
    tree: Mapping[str, Any] = metadata.get(TREE, {})
    if not all(_is_time(moment) for moment in lineage.noted_children.values()):
        return f"a fork in its metadata under {TREE!r} has no time"
    # Less than any seq tells that the session was deleted once, and is one again.
    if tree.get("gone") != -1 and not _is_whole(tree.get("gone", 0)):
        return f"gone in its metadata under {TREE!r} is no whole number"
    if not lineage.is_plain and lineage.token is None:
        return f"there is a view without a token in its metadata under {TREE!r}"
    return None


def _is_in_order(parts: Sequence[Part]) -> bool:
    newest = 0
    for part in parts:
        if not (newest <= part.after < part.upto and 0 <= part.count <= part.upto - part.after):
            return False
        newest = part.upto
    return True


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_time(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
