"""What is measured with every system, on every store."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from benchmarks.match import Match
from benchmarks.scenarios.appends import arrivals, big, hot, sessions, zipf
from benchmarks.scenarios.conversations import history, replay, turn
from benchmarks.scenarios.processes import processes

__all__ = ["MATCHES"]

MATCHES: dict[str, Callable[[Match], Awaitable[None]]] = {
    "hot": hot,
    "sessions": sessions,
    "zipf": zipf,
    "arrivals": arrivals,
    "turn": turn,
    "history": history,
    "big": big,
    "processes": processes,
    "replay": replay,
}
