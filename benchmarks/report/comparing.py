"""How one run differs from another."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from benchmarks.report import standings, wording
from benchmarks.results import Case, Machine, Results, Spread

__all__ = ["Change", "changes", "compare", "differences"]


@dataclass(frozen=True, slots=True)
class Change:
    """A case that both runs measured."""

    old: Case
    new: Case

    @property
    def ratio(self) -> float:
        """The new median rate to the old one."""
        return self.new.rate.median / self.old.rate.median

    @property
    def has_moved(self) -> bool:
        """Whether the quartiles of one run lie all above, or all below, those of the other."""
        old, new = self.old.rate, self.new.rate
        return new.low > old.high or new.high < old.low


def changes(old: Results, new: Results) -> list[Change]:
    """Return the cases of which both runs have rates, as the new run has them in order."""
    found = []
    for case in new.cases:
        before = old.case(case.scenario, case.store, case.system, case.level, case.operation)
        if before is not None and _is_measured(before) and _is_measured(case):
            found.append(Change(before, case))
    return found


def _is_measured(case: Case) -> bool:
    return bool(case.samples) and case.rate.median > 0


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
    """Print the ratio of both runs' median rates, case by case, and what it comes to in all.

    A case has moved where the quartiles of the two runs don't overlap. What differs between the
    machines, versions and settings is said first: then a ratio is not the code's alone.
    """
    console = console or Console()
    for line in differences(old, new):
        console.print(Text(f"Not alike: {line}", style="yellow"))
    found = changes(old, new)
    if not found:
        console.print("The runs have no case in common.")
        return
    console.print(_table(found))
    console.print(_summary(found))
    if any(standings.is_disturbed(case) for change in found for case in (change.old, change.new)):
        console.print(standings.DISTURBED, style="yellow")
    alone = len(old.cases) + len(new.cases) - 2 * len(found)
    if alone:
        console.print(f"Not compared: {_cases(alone)} that only one of the runs has figures of.")


def _table(found: list[Change]) -> Table:
    table = Table(title="Operations a second: median (quartiles)", title_justify="left")
    table.box = box.SIMPLE_HEAD
    table.padding = (0, 1, 0, 0)
    table.add_column("Case")
    for name in ("Old", "New", "Ratio"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for change in found:
        table.add_row(
            Text(_name(change)),
            _rates(change.old.rate),
            _rates(change.new.rate),
            wording.ratio(change.ratio),
            _mark(change),
        )
    return table


def _name(change: Change) -> str:
    case = change.new
    operation = f" {case.operation}" if case.scenario == "history" else ""
    level = wording.level(case.scenario, case.level)
    is_disturbed = standings.is_disturbed(change.old) or standings.is_disturbed(case)
    mark = " *" if is_disturbed else ""
    return f"{case.store} {case.scenario}{operation}, {level}, {case.system}{mark}"


def _rates(rate: Spread) -> str:
    low, high = wording.number(rate.low), wording.number(rate.high)
    return f"{wording.number(rate.median)} ({low} to {high})"


def _mark(change: Change) -> Text:
    if not change.has_moved:
        return Text("")
    if change.ratio < 1:
        return Text("slower", style="bold red")
    return Text("faster", style="bold green")


def _summary(found: list[Change]) -> str:
    moved = [change for change in found if change.has_moved]
    slower = sum(change.ratio < 1 for change in moved)
    spread = Spread.of([change.ratio for change in found])
    return (
        f"{len(found) - len(moved)} of {_cases(len(found))} agree within the spread, "
        f"faster: {len(moved) - slower}, slower: {slower}; the median change is "
        f"{_percent(spread.median)} (quartiles {_percent(spread.low)} to {_percent(spread.high)})."
    )


def _cases(count: int) -> str:
    return "1 case" if count == 1 else f"{count} cases"


def _percent(ratio: float) -> str:
    return f"{(ratio - 1) * 100:+.1f} %"
