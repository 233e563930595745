"""How figures and names are written, everywhere alike."""

from __future__ import annotations

import math
from collections.abc import Iterable

from benchmarks.results import STORES, Case, Check, Spread

__all__ = [
    "checked",
    "kept_share",
    "latency",
    "level",
    "level_unit",
    "number",
    "ratio",
    "scenario_title",
    "spread",
    "store_title",
    "target",
]

_SCENARIOS = {
    "hot": "one session",
    "sessions": "1,000 sessions",
    "zipf": "1,000 sessions, some much busier",
    "turn": "a gateway's turn",
    "history": "long history",
    "big": "messages of 64 KiB",
    "arrivals": "arrivals at a given rate",
    "processes": "processes with 64 callers each",
    "replay": "real dialogues",
}
_LEVELS = {"history": "messages", "arrivals": "% of capacity", "processes": "processes"}


def store_title(store: str) -> str:
    """Return what a store is called in a heading."""
    return STORES.get(store, store)


def scenario_title(scenario: str, operation: str = "append") -> str:
    """Return what a scenario is called, with its operation where it has several."""
    title = _SCENARIOS.get(scenario, scenario)
    return f"{title}, {operation}" if scenario == "history" else title


def level_unit(scenario: str) -> str:
    """Return what a scenario's levels count."""
    return _LEVELS.get(scenario, "callers")


def level(scenario: str, value: int) -> str:
    """Return a level with its unit."""
    unit = level_unit(scenario)
    one = {"callers": "1 caller", "processes": "1 process"}
    return one[unit] if value == 1 and unit in one else f"{value:,} {unit}"


def number(value: float) -> str:
    """Return a figure with three digits that count: 40,800 or 4.93."""
    rounded = float(f"{value:.3g}")
    return f"{rounded:,.0f}" if abs(rounded) >= 100 else f"{rounded:g}"


def ratio(value: float) -> str:
    """Return a ratio as far as two runs could agree on it: 0.95x, 4.9x, 114x."""
    if value < 2:
        return f"{value:.2f}x"
    return f"{value:.1f}x" if value < 20 else f"{number(round(value))}x"


def spread(found: Spread) -> str:
    """Return a ratio with its interval."""
    return f"{ratio(found.median)} ({ratio(found.low)[:-1]} to {ratio(found.high)[:-1]})"


def latency(microseconds: float) -> str:
    """Return a time in the unit that suits it."""
    if microseconds < 1000:
        return f"{_two(microseconds)} µs"
    if microseconds < 1_000_000:
        return f"{_two(microseconds / 1000)} ms"
    return f"{_two(microseconds / 1_000_000)} s"


def _two(value: float) -> str:
    """Return a figure with two digits that count; more only before the point."""
    rounded = float(f"{value:.2g}")
    return f"{value:.0f}" if rounded >= 10 else f"{rounded:g}"


def checked(check: Check, value: float) -> str:
    """Return a figure of a check with its unit."""
    if check.unit == "x":
        return ratio(value)
    return f"{number(value)} {check.unit.strip()}".rstrip()


def target(check: Check) -> str:
    """Return what a check asks for."""
    return f"{'at least' if check.is_floor else 'at most'} {checked(check, check.target)}"


def kept_share(cases: Iterable[Case]) -> str:
    """Return how much was stored of what was acknowledged; empty where all was."""
    counts = {
        (case.scenario, case.level): (case.stored, case.acknowledged)
        for case in cases
        if case.stored is not None
    }
    stored = sum(count for count, _ in counts.values())
    acknowledged = sum(count for _, count in counts.values())
    if stored == acknowledged:
        return ""
    # Rounded down: what lost a single message did not keep all of them.
    share = math.floor(1000 * stored / acknowledged) / 10 if acknowledged else 0
    return f"kept {share:g} %"
