"""The command ``doctor``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.text import Text

from asyncsessions.cli.ailments import Result, treat_files, treat_trees
from asyncsessions.cli.common import (
    CommandError,
    JSONOption,
    StoreOption,
    one_line,
    out_console,
    print_json,
    safe_url,
    store_directory,
)
from asyncsessions.stores._urls import split_url

__all__ = ["doctor"]

_DEFAULT_STORE = "jsonl://sessions"
_STYLES = {
    "damaged": "bold red",
    "unreadable": "bold red",
    "lost": "bold red",
    "misnamed": "bold yellow",
    "unnoted": "bold yellow",
}


def doctor(
    store: StoreOption = _DEFAULT_STORE,
    repair: Annotated[
        bool, typer.Option("--repair", help="Repair what was found; originals are kept.")
    ] = False,
    json: JSONOption = False,
) -> None:
    """Look for damage, and for what forks and snapshots left behind; repair it if asked to.

    A repaired file's original stays beside it under a name that ends in .damaged-<n>.
    """
    directory = store_directory(store)
    if directory is not None and not directory.is_dir():
        text = f"there is no directory {str(directory)!r}; give --store or set ASYNCSESSIONS_STORE"
        raise CommandError(text)
    results = []
    for result in _treat(store, directory, with_repair=repair):
        results.append(result)
        if not json:
            _print(result)
    if json:
        print_json([_as_json(result) for result in results])
    still_open = sum(result.is_open for result in results)
    if still_open:
        advice = "see above" if repair else "repair with --repair"
        things = "1 problem" if still_open == 1 else f"{still_open} problems"
        raise CommandError(f"{things} in {directory or safe_url(store)}; {advice}")
    if not json:
        repaired = sum(result.repaired is not None for result in results)
        typer.echo(f"{repaired} repaired, all is well" if repaired else "all is well")


def _treat(url: str, directory: Path | None, *, with_repair: bool) -> Iterator[Result]:
    if directory is not None:
        yield from treat_files(split_url(url).scheme, directory, with_repair=with_repair)
    yield from treat_trees(url, with_repair=with_repair, has_files=directory is not None)


def _print(result: Result) -> None:
    style = "bright_black" if result.is_harmless else _STYLES.get(result.kind, "bright_black")
    line = Text(f"{result.kind:<10} ", style=style)
    name = Text(one_line(_name(result)), style="bold")
    if result.path is not None and result.session_id not in {None, Path(result.path).stem}:
        name.append(f" ({one_line(result.session_id or '')})", style="not bold")
    if name:
        line += name.append(": ", style="not bold")
    line.append(one_line(result.detail), style="not bold")
    console = out_console()
    console.print(line)
    if result.repaired is not None:
        console.print(Text(f"{'':<10} {one_line(result.repaired)}", style="green"))
    if result.error is not None:
        console.print(Text(f"{'':<10} {one_line(result.error)}", style="red"))


def _name(result: Result) -> str:
    return Path(result.path).name if result.path is not None else result.session_id or ""


def _as_json(result: Result) -> dict[str, object]:
    fields = msgspec.structs.asdict(result)
    del fields["is_harmless"]
    return fields
