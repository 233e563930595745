"""Figures that are measured in ways of their own, beside this library's rules for them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from benchmarks.figures.branching import branching
from benchmarks.figures.flat import flat
from benchmarks.figures.imports import import_time
from benchmarks.figures.json_hot import json_hot
from benchmarks.figures.lag import loop_lag
from benchmarks.figures.memory import memory
from benchmarks.figures.reads import reads
from benchmarks.figures.sync import sync_bridge, sync_hot, sync_turn
from benchmarks.figures.threads import sync_threads
from benchmarks.measure import Run
from benchmarks.results import Check

__all__ = ["FIGURES"]

FIGURES: dict[str, Callable[[Run], Awaitable[list[Check]]]] = {
    "flat": flat,
    "reads": reads,
    "loop-lag": loop_lag,
    "branching": branching,
    "sync-bridge": sync_bridge,
    "sync-threads": sync_threads,
    "sync-turn": sync_turn,
    "sync-hot": sync_hot,
    "json-hot": json_hot,
    "memory": memory,
    "import": import_time,
}
