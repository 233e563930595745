"""How well another run agrees with the one that the page shows, as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.report import comparing, standings, wording
from benchmarks.report.comparing import Change
from benchmarks.report.markdown import table
from benchmarks.results import Check, Results

__all__ = ["agreement"]


def agreement(results: Results, again: Results) -> str:
    """Return where two runs agree, and every ratio in which they don't.

    Args:
        results: The run that the page shows.
        again: The other one.
    """
    changes = comparing.ratios(again, results)
    parts = [
        "\n".join(f"- Not alike: {line}." for line in comparing.differences(again, results)),
        _by_store(results, changes),
        _moved([change for change in changes if change.has_moved]),
        _targets(results.checks, again.checks),
    ]
    return "\n\n".join(filter(None, parts))


def _by_store(results: Results, changes: Sequence[Change]) -> str:
    rows = []
    for store in standings.stores(results):
        of_store = [change for change in changes if change.store == store]
        if of_store:
            agreeing = sum(not change.has_moved for change in of_store)
            row = (f"{agreeing} of {len(of_store)}", comparing.median_change(of_store))
            rows.append((wording.store_title(store), *row))
    return table(("Store", "Ratios that agree", "Change in the median"), rows)


def _moved(changes: Sequence[Change]) -> str:
    rows = [
        (change.case, wording.spread(change.old), wording.spread(change.new)) for change in changes
    ]
    if not rows:
        return ""
    found = table(("Ratio of the store to", "The other run", "This run"), rows)
    indented = "\n".join(f"    {line}" for line in found.split("\n"))
    return f'??? note "Ratios that do not agree"\n\n{indented}'


def _targets(checks: Sequence[Check], again: Sequence[Check]) -> str:
    before = {(check.scenario, check.name): check for check in again}
    rows = [
        (
            check.scenario,
            check.name,
            _figure(before[check.scenario, check.name]),
            _figure(check),
            wording.target(check),
        )
        for check in checks
        if (check.scenario, check.name) in before
    ]
    if not rows:
        return ""
    header = ("Scenario", "Figure", "The other run", "This run", "Target")
    return table(header, rows)


def _figure(check: Check) -> str:
    found = wording.checked(check, check.measured.median)
    return found if check.passed else f"{found} **missed**"
