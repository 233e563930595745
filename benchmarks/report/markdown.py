"""The parts of the page: tables and lists, as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from benchmarks.report import standings, wording
from benchmarks.report.charts import charts
from benchmarks.report.standings import Cell, Grid
from benchmarks.results import Case, Check, Results

__all__ = ["contenders", "machine", "store", "summary", "table", "target_table"]

# What the page opens with: a lone caller, a hot session, and a gateway with many.
_GLANCES = (("hot", 1), ("hot", 64), ("zipf", 256))
# Shown at once; the other tables open when they are asked for.
_OPEN = {"hot", "zipf"}


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table; what would end a cell is escaped."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(_escaped(cell) for cell in line)} |" for line in lines)


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def machine(results: Results) -> str:
    """Return where, when and with what a run took place."""
    found = results.machine
    versions = ", ".join(f"{name} {version}" for name, version in sorted(found.versions.items()))
    settings = ", ".join(f"{name}: {value}" for name, value in results.settings.items())
    rows = [
        ("Run", f"{results.started}, {results.seconds / 60:.0f} minutes"),
        ("Settings", settings),
        ("Machine", f"{found.processor}, {found.cpus} processors, {found.memory:g} GiB"),
        ("System", f"{found.system}, CPython {found.python}"),
        ("Versions", versions),
    ]
    return table(("", ""), [row for row in rows if row[1]])


def summary(results: Results) -> str:
    """Return the few figures that most readers look for."""
    rows = []
    for name in standings.stores(results):
        for grid in standings.grids(results, name):
            for scenario, level in _GLANCES:
                if (grid.scenario, grid.operation) == (scenario, "append"):
                    rows += _glance(grid, level)
    header = ("Store", "Case", "Appends a second", "To the driver", "Of the limit", "Nearest peer")
    return table(header, rows)


def _glance(grid: Grid, level: int) -> list[Sequence[str]]:
    cells = [row.cells[level] for row in grid.rows if level in row.cells]
    ours = next((cell for cell in cells if cell.case.kind == "store"), None)
    if ours is None:
        return []
    case = f"{wording.level(grid.scenario, level)}, {wording.scenario_title(grid.scenario)}"
    limit = next((cell.ratio for cell in cells if cell.case.kind == "limit"), None)
    return [
        (
            wording.store_title(grid.store),
            case,
            wording.number(ours.case.rate.median) + _mark(ours.case),
            "-" if ours.ratio is None else wording.spread(ours.ratio),
            "-" if limit is None else f"{limit.median:.0%}".replace("%", " %"),
            _nearest(cells),
        )
    ]


def _nearest(cells: Iterable[Cell]) -> str:
    """Return the peer that comes nearest, or is furthest ahead."""
    peers = [
        (cell.ratio.median, cell)
        for cell in cells
        if cell.case.kind == "peer" and cell.ratio is not None
    ]
    if not peers:
        return "-"
    ratio, cell = min(peers, key=lambda peer: peer[0])
    kept = wording.kept_share([cell.case])
    return f"{wording.ratio(ratio)} {cell.case.system}" + (f" ({kept})" if kept else "")


def store(results: Results, name: str, text: str) -> str:
    """Return a store's section: what there is to say of it, pictures, and a table for each case."""
    parts = [f"## {wording.store_title(name)}", text.strip()]
    for chart in charts(results, name):
        path = f"pictures/{chart.name}.svg"
        parts.append(f"[![{chart.title}]({path})]({path})")
    parts += [_grid(grid) for grid in standings.grids(results, name)]
    return "\n\n".join(part for part in parts if part)


def _grid(grid: Grid) -> str:
    levels = [f"{level:,}" for level in grid.levels]
    header = (wording.level_unit(grid.scenario), *levels)
    rows = [
        (_name(row.system, row.kind), *(_cell(row.cells.get(level)) for level in grid.levels))
        for row in grid.rows
    ]
    cases = [cell.case for row in grid.rows for cell in row.cells.values()]
    notes = dict.fromkeys(f"- {case.system}: {case.note}" for case in cases if case.note)
    body = "\n\n".join(part for part in (table(header, rows), "\n".join(notes)) if part)
    title = f"{grid.scenario}: {wording.scenario_title(grid.scenario, grid.operation)}"
    mark = "???+" if grid.scenario in _OPEN else "???"
    indented = "\n".join(f"    {line}".rstrip() for line in body.split("\n"))
    return f'{mark} note "{title}"\n\n{indented}'


def _name(system: str, kind: str) -> str:
    return f"**{system}**" if kind == "store" else f"{system}<br>*{kind}*"


def _cell(cell: Cell | None) -> str:
    if cell is None:
        return ""
    case = cell.case
    lines = [wording.number(case.rate.median) + _mark(case)]
    if cell.ratio is not None:
        lines.append(wording.ratio(cell.ratio.median))
    lines.append(wording.latency(case.latency("p99").median))
    return "<br>".join([*lines, *(f"**{text}**" for text in standings.defects(case))])


def _mark(case: Case) -> str:
    return " \\*" if standings.is_disturbed(case) else ""


def contenders(results: Results) -> str:
    """Return how each system was used, and what it can't do."""
    parts = []
    for name in standings.stores(results):
        notes = {
            system: f"- **{system}** ({kind})" for system, kind in standings.systems(results, name)
        }
        for key, note in results.notes.items():
            of, _, system = key.partition("/")
            if of == name:
                notes[system] = f"{notes.get(system, f'- **{system}**')}: {note}"
        parts.append(f"### On {wording.store_title(name)}\n\n" + "\n".join(notes.values()))
    return "\n\n".join(parts)


def target_table(checks: Sequence[Check]) -> str:
    """Return every figure with a target."""
    if not checks:
        return "None."
    rows = []
    for check in checks:
        low, high = check.measured.low, check.measured.high
        rows.append(
            (
                check.scenario,
                check.name + (f" ({check.detail})" if check.detail else ""),
                wording.checked(check, check.measured.median),
                f"{wording.checked(check, low)} to {wording.checked(check, high)}",
                wording.target(check),
                "ok" if check.passed else "**missed**",
            )
        )
    return table(("Scenario", "Figure", "Measured", "Interval", "Target", ""), rows)
