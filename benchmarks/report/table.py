"""The figures as tables on a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from benchmarks.report import standings, wording
from benchmarks.report.standings import Cell, Grid, Row
from benchmarks.results import Check, Results

__all__ = ["print_check_table", "print_grid", "print_results"]

_EXPLANATION = (
    "Each cell: operations a second, ratio, 99th percentile of the latency; medians of all "
    "repetitions. The ratio is that of the store to the system in its row, and in the store's own "
    "row that to the driver."
)


def print_results(results: Results, console: Console | None = None) -> None:
    """Print a run: all its cases, its checks, and what could not be measured."""
    console = console or Console()
    for store in standings.stores(results):
        for grid in standings.grids(results, store):
            print_grid(grid, console)
    if results.cases:
        console.print(_EXPLANATION, style="dim")
    if any(standings.is_disturbed(case) for case in results.cases):
        console.print(standings.DISTURBED, style="yellow")
    if results.checks:
        print_check_table(results.checks, console)
    for fault in results.faults:
        console.print(Text(f"Not measured: {fault}", style="bold red"))


def print_grid(grid: Grid, console: Console | None = None) -> None:
    """Print one scenario of one store: a row for each system, a column for each level."""
    title = f"{wording.store_title(grid.store)}: {grid.scenario}"
    title = f"{title} ({wording.scenario_title(grid.scenario, grid.operation)})"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, leading=1)
    table.padding = (0, 1, 0, 0)
    table.add_column(wording.level_unit(grid.scenario), min_width=18, overflow="fold")
    for value in grid.levels:
        table.add_column(f"{value:,}", justify="right", no_wrap=True)
    for row in grid.rows:
        cells = [_cell(row.cells.get(value)) for value in grid.levels]
        table.add_row(_name(row), *cells)
    (console or Console()).print(table)


def _name(row: Row) -> Text:
    text = Text(row.system, style="bold" if row.kind == "store" else "")
    return text.append(f"\n{row.kind}", style="dim")


def _cell(cell: Cell | None) -> Text:
    if cell is None:
        return Text("-", style="dim")
    case = cell.case
    text = Text(wording.number(case.rate.median), justify="right")
    if standings.is_disturbed(case):
        text.append(" *", style="yellow")
    if cell.ratio is not None:
        is_behind = cell.ratio.median < 1
        text.append(f"\n{wording.ratio(cell.ratio.median)}", style="red" if is_behind else "green")
    text.append(f"\n{wording.latency(case.latency('p99').median)}", style="dim")
    for line in standings.defects(case):
        text.append(f"\n{line}", style="bold red")
    return text


def print_check_table(checks: Sequence[Check], console: Console | None = None) -> None:
    """Print every figure that has a target, and whether it reached it."""
    table = Table(title="Targets", title_justify="left", box=box.SIMPLE_HEAD)
    table.padding = (0, 1, 0, 0)
    for name in ("Scenario", "Figure"):
        table.add_column(name)
    for name in ("Measured", "Interval", "Target"):
        table.add_column(name, justify="right")
    table.add_column("", no_wrap=True)
    for check in checks:
        low, high = check.measured.low, check.measured.high
        figure = Text(check.name)
        if check.detail:
            figure.append(f"\n{check.detail}", style="dim")
        table.add_row(
            Text(check.scenario),
            figure,
            wording.checked(check, check.measured.median),
            f"{wording.checked(check, low)}\nto {wording.checked(check, high)}",
            f"{'>=' if check.is_floor else '<='} {wording.checked(check, check.target)}",
            Text("ok", style="green") if check.passed else Text("MISS", style="bold red"),
        )
    (console or Console()).print(table)
