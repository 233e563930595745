"""The command ``doctor``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import msgspec
import typer
from rich.text import Text

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
from asyncsessions.errors import SessionStoreError
from asyncsessions.stores import _repair, _repair_json
from asyncsessions.stores._repair import Finding

__all__ = ["doctor"]

_DEFAULT_STORE = "jsonl://sessions"
_STYLES = {"damaged": "bold red", "unreadable": "bold red", "misnamed": "bold yellow"}


class _Result(msgspec.Struct):
    """A finding, and what became of it."""

    finding: Finding
    done: str | None = None
    error: str | None = None

    @property
    def is_open(self) -> bool:
        """Whether it still stands in somebody's way."""
        return self.done is None and not self.finding.is_harmless


def doctor(
    store: StoreOption = _DEFAULT_STORE,
    repair: Annotated[
        bool, typer.Option("--repair", help="Repair what was found; originals are kept.")
    ] = False,
    json: JSONOption = False,
) -> None:
    """Look for damaged files of a store on files, and repair them if asked to.

    A repaired file's original stays beside it under a name that ends in .damaged-<n>.
    """
    directory = store_directory(store)
    if directory is None:
        raise ValueError(f"doctor looks at jsonl:// and json:// stores, not {safe_url(store)}")
    if not directory.is_dir():
        text = f"there is no directory {str(directory)!r}; give --store or set ASYNCSESSIONS_STORE"
        raise CommandError(text)
    results = []
    for result in _treat(urlsplit(store).scheme, directory, with_repair=repair):
        results.append(result)
        if not json:
            _print(result)
    if json:
        print_json([_as_json(result) for result in results])
    still_open = sum(result.is_open for result in results)
    if still_open:
        advice = "see above" if repair else "repair with --repair"
        things = "1 problem" if still_open == 1 else f"{still_open} problems"
        raise CommandError(f"{things} in {directory}; {advice}")
    if not json:
        repaired = sum(result.done is not None for result in results)
        typer.echo(f"{repaired} repaired, all is well" if repaired else "all is well")


def _treat(scheme: str, directory: Path, *, with_repair: bool) -> Iterator[_Result]:
    tools = _repair if scheme == "jsonl" else _repair_json
    # All of them first: a repair puts new files in the directory.
    for finding in list(tools.examine(directory)):
        result = _Result(finding)
        if with_repair and not finding.is_harmless:
            try:
                result.done = tools.repair(finding) or "nothing was left to do"
            except (SessionStoreError, OSError) as exc:
                result.error = str(exc)
        yield result


def _print(result: _Result) -> None:
    finding = result.finding
    line = Text(f"{finding.kind:<10} ", style=_STYLES.get(finding.kind, "bright_black"))
    name = Text(one_line(Path(finding.path).name), style="bold")
    if finding.session_id is not None and finding.session_id != Path(finding.path).stem:
        name.append(f" ({one_line(finding.session_id)})", style="not bold")
    line += name
    line.append(f": {one_line(finding.detail)}", style="not bold")
    console = out_console()
    console.print(line)
    if result.done is not None:
        console.print(Text(f"{'':<10} {one_line(result.done)}", style="green"))
    if result.error is not None:
        console.print(Text(f"{'':<10} {one_line(result.error)}", style="red"))


def _as_json(result: _Result) -> dict[str, object]:
    fields = msgspec.structs.asdict(result.finding)
    return fields | {"repaired": result.done, "error": result.error}
