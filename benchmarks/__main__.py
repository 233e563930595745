"""Measure the stores beside their servers' drivers and other libraries: `python -m benchmarks`."""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks import results as runs
from benchmarks.measure import Run
from benchmarks.report.comparing import compare
from benchmarks.report.pictures import draw_all
from benchmarks.report.table import print_results
from benchmarks.results import STORES, Results
from benchmarks.running import SCENARIOS, measure, steps

_OUTPUT = Path("build", "benchmarks")


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    add = parser.add_argument
    add("--quick", action="store_true", help="two minutes; targets catch a lost batch only")
    add("--store", action="append", choices=STORES, default=[], help="only this one")
    add("--peer", action="append", default=[], metavar="NAME", help="only peers named like this")
    add("--scenario", action="append", choices=SCENARIOS, default=[], help="only this one")
    add("--transcripts", type=Path, metavar="FILE", help="exported sessions to replay")
    add("--output", type=Path, default=_OUTPUT, help=f"for run.json and pictures; {_OUTPUT}")
    add("--compare", type=Path, metavar="FILE", help="show ratios to the figures of another run")
    add("--resume", action="store_true", help="measure what an interrupted run.json has not")
    add("--directory", type=Path, help="where the files go; the system's temporary one by default")
    add("--list", action="store_true", help="list the scenarios")
    return parser.parse_args(arguments)


def _measure(options: argparse.Namespace, directory: Path, console: Console) -> Results:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    # No thread of it draws while something is measured.
    with Progress(*columns, console=console, transient=True, auto_refresh=False) as progress:
        task = progress.add_task("")

        def tell(text: str) -> None:
            progress.update(task, description=text, refresh=True)

        run = Run(
            options.quick,
            directory,
            stores=options.store,
            peers=options.peer,
            transcripts=options.transcripts,
            progress=tell,
        )
        progress.update(task, total=steps(run, options.scenario))

        def keep(results: Results) -> None:
            runs.write(options.output / "run.json", results)
            progress.advance(task)

        path = options.output / "run.json"
        before = runs.read(path) if options.resume and path.exists() else None
        return asyncio.run(measure(run, options.scenario, keep, before))


def main(arguments: Sequence[str]) -> int:
    options = _parse(arguments)
    console = Console()
    if options.list:
        for name, summary in SCENARIOS.items():
            console.print(f"{name:12} {summary.splitlines()[0]}", highlight=False)
        return 0
    # Before anything takes time.
    old = None if options.compare is None else runs.read(options.compare)
    options.output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="asyncsessions-bench-", dir=options.directory) as path:
        results = _measure(options, Path(path), console)
    runs.write(options.output / "run.json", results)
    print_results(results, console)
    draw_all(results, options.output / "pictures")
    if old is not None:
        compare(old, results, console)
    missed = [check.name for check in results.checks if not check.passed]
    for name in missed:
        console.print(f"missed: {name}", highlight=False)
    return 1 if missed or results.faults else 0


sys.exit(main(sys.argv[1:]))
