"""How well another run agrees with the one that the page shows, as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from benchmarks.report import comparing, standings, wording
from benchmarks.report.comparing import Change
from benchmarks.report.markdown import table
from benchmarks.results import Check, Results

__all__ = ["agreement"]


def agreement(results: Results, other: Results) -> str:
    """Return how many ratios agree, those that don't, and what both runs say of the targets.

    Args:
        results: The run that the page shows.
        other: The other one.
    """
    changes = comparing.ratios(other, results)
    if not changes:
        return "The runs have no case in common."
    parts = [
        "\n".join(f"- Not alike: {line}." for line in comparing.differences(other, results)),
        _by_store(results, changes),
        _moved([change for change in changes if change.has_moved]),
        _targets(results.checks, {check.name: check for check in other.checks}),
    ]
    return "\n\n".join(filter(None, parts))


def _by_store(results: Results, changes: Sequence[Change]) -> str:
    rows = []
    for store in standings.stores(results):
        found = [change for change in changes if change.store == store]
        if found:
            agreeing = sum(not change.has_moved for change in found)
            share = f"{agreeing} of {len(found)}"
            rows.append((wording.store_title(store), share, comparing.median_change(found)))
    return table(("Store", "Ratios that agree", "Median change, other run to this one"), rows)


def _moved(changes: Sequence[Change]) -> str:
    rows = [
        (
            change.case + (" \\*" if change.is_disturbed else ""),
            wording.spread(change.old),
            wording.spread(change.new),
        )
        for change in changes
    ]
    if not rows:
        return ""
    found = table(("Ratio of the store to", "Other run", "This run"), rows)
    indented = "\n".join(f"    {line}" for line in found.split("\n"))
    return f'??? note "Ratios that do not agree"\n\n{indented}'


def _targets(checks: Sequence[Check], others: dict[str, Check]) -> str:
    rows = []
    for check in checks:
        if other := others.get(check.name):
            same = msgspec.structs.replace(check, measured=other.measured)
            rows.append((check.name, _figure(same), _figure(check), wording.target(check)))
    if not rows:
        return ""
    return "What both measured of the targets:\n\n" + table(
        ("Figure", "Other run", "This run", "Target"), rows
    )


def _figure(check: Check) -> str:
    found = wording.checked(check, check.measured.median)
    return found if check.passed else f"{found} **missed**"
