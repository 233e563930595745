"""Where labels go beside the ends of lines, so that none covers another."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["spread_out"]


def spread_out(wanted: Sequence[float], sizes: Sequence[float], length: float) -> list[float]:
    """Return where the middles of labels go: near where they are wanted, and side by side.

    Labels keep the order of the places they want. Those that would overlap share the way that they
    move, and all stay within the length as far as they fit into it.

    Args:
        wanted: Where the middle of each label should be, in any order.
        sizes: How much room each takes.
        length: How much room there is, from 0.
    """
    order = sorted(range(len(wanted)), key=wanted.__getitem__)
    # Without the room of the labels below it, each label is a point, and points in order don't
    # overlap: blocks of those that stand in one another's way meet in the middle.
    offsets: list[float] = []
    below = 0.0
    blocks: list[tuple[float, int]] = []
    for index in order:
        offsets.append(below + sizes[index] / 2)
        below += sizes[index]
        mean, count = wanted[index] - offsets[-1], 1
        while blocks and blocks[-1][0] > mean:
            other, others = blocks.pop()
            mean, count = (mean * count + other * others) / (count + others), count + others
        blocks.append((mean, count))
    free = max(length - below, 0.0)
    starts = [min(max(mean, 0.0), free) for mean, count in blocks for _ in range(count)]
    places = [0.0] * len(order)
    for index, start, offset in zip(order, starts, offsets, strict=True):
        places[index] = start + offset
    return places
