"""How one run differs from another."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from benchmarks.report import standings, wording
from benchmarks.report.standings import Cell
from benchmarks.results import Case, Machine, Results, Spread

__all__ = ["Change", "compare", "differences", "median_change", "rates", "ratios"]


@dataclass(frozen=True, slots=True)
class Change:
    """A figure that both runs have.

    Attributes:
        store: The store.
        case: What it is of.
        old: The old run's.
        new: The new run's.
        is_disturbed: Whether other work on the machine took part in one of them.
    """

    store: str
    case: str
    old: Spread
    new: Spread
    is_disturbed: bool

    @property
    def ratio(self) -> float:
        """The new median to the old one."""
        return self.new.median / self.old.median

    @property
    def has_moved(self) -> bool:
        """Whether the interval of one run lies all above, or all below, that of the other.

        By chance alone, that is so in one of a hundred cases with five repetitions, in one of ten
        with three, and in one of three with two.
        """
        return self.new.low > self.old.high or self.new.high < self.old.low


def rates(old: Results, new: Results) -> list[Change]:
    """Return each case's rate, where both runs have one, in the order of the report."""
    return _changes(old, new, lambda cell: cell.case.rate if cell.case.is_measured else None)


def ratios(old: Results, new: Results) -> list[Change]:
    """Return the store's rate to each other system's, within each run, in the same order.

    What meets all systems of a run alike, as a slower machine does, is in none of them.
    """
    return _changes(old, new, lambda cell: None if cell.case.kind == "store" else cell.ratio)


def _changes(
    old: Results, new: Results, figure_of: Callable[[Cell], Spread | None]
) -> list[Change]:
    before = {_name(cell.case): cell for cell in _cells(old)}
    found = []
    for cell in _cells(new):
        other = before.get(_name(cell.case))
        if other is None:
            continue
        was, now = figure_of(other), figure_of(cell)
        if was is not None and now is not None:
            is_disturbed = any(standings.is_disturbed(each.case) for each in (other, cell))
            found.append(Change(cell.case.store, _name(cell.case), was, now, is_disturbed))
    return found


def _cells(results: Results) -> Iterator[Cell]:
    for store in standings.stores(results):
        for grid in standings.grids(results, store):
            for row in grid.rows:
                yield from row.cells.values()


def _name(case: Case) -> str:
    is_told = case.scenario == "history" or case.operation not in {"append", case.scenario}
    operation = f" {case.operation}" if is_told else ""
    level = wording.level(case.scenario, case.level)
    return f"{case.store} {case.scenario}{operation}, {level}, {case.system}"


def differences(old: Results, new: Results) -> list[str]:
    """Return in what the two runs are not alike: machine, versions, settings."""
    lines = [*_between(_parts(old.machine), _parts(new.machine))]
    lines += _between(old.machine.versions, new.machine.versions)
    lines += _between(old.settings, new.settings)
    return lines


def _parts(machine: Machine) -> dict[str, str]:
    return {
        "system": machine.system,
        "processor": machine.processor,
        "processors": str(machine.cpus),
        "memory": f"{machine.memory:.0f} GiB",
        "CPython": machine.python,
    }


def _between(old: dict[str, str], new: dict[str, str]) -> Iterator[str]:
    for name in sorted(old.keys() | new.keys()):
        before, after = old.get(name, "none"), new.get(name, "none")
        if before != after:
            yield f"{name}: {before}, now {after}"


def compare(old: Results, new: Results, console: Console | None = None) -> None:
    """Print what both runs found, case by case, and what it comes to in all.

    First the store's ratios to the other systems of its run, then the rates. A figure has moved
    where the intervals of the two runs don't overlap. What differs between the machines, versions
    and settings is said before: then a change of a rate is not the code's alone.
    """
    console = console or Console()
    for line in differences(old, new):
        console.print(Text(f"Not alike: {line}", style="yellow"))
    of_rates = rates(old, new)
    if not of_rates:
        console.print("The runs have no case in common.")
        return
    of_ratios = ratios(old, new)
    if of_ratios:
        text = "The store's rate to another system's: median (interval)"
        console.print(_table(text, of_ratios, wording.ratio, ("lower", "higher")))
    text = "Operations a second: median (interval)"
    console.print(_table(text, of_rates, wording.number, ("slower", "faster")))
    if of_ratios:
        console.print(_summary("ratios", of_ratios, ("lower", "higher")))
    console.print(_summary("rates", of_rates, ("slower", "faster")))
    if any(change.is_disturbed for change in of_rates):
        console.print(standings.DISTURBED, style="yellow")
    alone = len(old.cases) + len(new.cases) - 2 * len(of_rates)
    if alone:
        cases = "1 case" if alone == 1 else f"{alone} cases"
        console.print(f"Not compared: {cases} that only one of the runs has figures of.")


def _table(
    title: str, changes: list[Change], write: Callable[[float], str], words: tuple[str, str]
) -> Table:
    table = Table(title=title, title_justify="left")
    table.box = box.SIMPLE_HEAD
    table.padding = (0, 1, 0, 0)
    table.add_column("Case")
    for heading in ("Old", "New", "Change"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for change in changes:
        figures = [
            f"{write(each.median)} ({write(each.low)} to {write(each.high)})"
            for each in (change.old, change.new)
        ]
        name = Text(f"{change.case} *" if change.is_disturbed else change.case)
        table.add_row(name, *figures, wording.ratio(change.ratio), _mark(change, words))
    return table


def _mark(change: Change, words: tuple[str, str]) -> Text:
    if not change.has_moved:
        return Text("")
    down, up = words
    return Text(down, style="bold red") if change.ratio < 1 else Text(up, style="bold green")


def _summary(what: str, changes: list[Change], words: tuple[str, str]) -> str:
    moved = [change for change in changes if change.has_moved]
    below = sum(change.ratio < 1 for change in moved)
    down, up = words
    return (
        f"{len(changes) - len(moved)} of {len(changes)} {what} agree within their intervals, "
        f"{up}: {len(moved) - below}, {down}: {below}; the median change is "
        f"{median_change(changes)}."
    )


def median_change(changes: Sequence[Change]) -> str:
    """Return by how much figures have changed in the median: +4.1 %."""
    ratio = statistics.median(change.ratio for change in changes)
    return f"{(ratio - 1) * 100:+.1f} %"
