"""The figures as a table."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.measure import Check

__all__ = ["print_checks"]

_WIDTHS = (56, 11, 11, 17, 5)


def _number(value: float) -> str:
    return f"{value:.2f}" if abs(value) < 100 else f"{value:.0f}"


def _row(check: Check) -> tuple[str, ...]:
    return (
        check.name,
        f"{_number(check.measured)}{check.unit}",
        f"{'>=' if check.is_floor else '<='} {_number(check.target)}{check.unit}",
        f"{_number(check.low)} .. {_number(check.high)}",
        "ok" if check.passed else "MISS",
        check.detail,
    )


def print_checks(scenario: str, checks: Sequence[Check], note: str) -> None:
    """Print one scenario: each figure, its target, its quartiles and whether it passed."""
    print(f"{scenario} ({note})")
    for row in (("", "measured", "target", "quartiles", "", ""), *map(_row, checks)):
        cells = [cell.ljust(width) for cell, width in zip(row, _WIDTHS, strict=False)]
        print("  " + " ".join((*cells, row[-1])).rstrip())
    print(flush=True)
