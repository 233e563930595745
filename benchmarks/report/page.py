"""The page of the documentation that shows a run, made whole from its results."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from benchmarks.report import lost, markdown, standings
from benchmarks.report.agreement import agreement
from benchmarks.results import Results

__all__ = ["Recorded", "page", "write_page"]

# What people wrote: the page with names in double braces, and a piece for each store.
_TEXT = Path(__file__).parent / "text"
_PAGE = "performance.md"


class Recorded(NamedTuple):
    """A run, and the file that it was read from; linked to where that is among the docs."""

    results: Results
    source: Path


def page(shown: Recorded, docs: Path, other: Recorded | None = None) -> str:
    """Return the page.

    Args:
        shown: What it shows.
        docs: The directory that the page belongs to.
        other: Another run, to show how well the two agree.
    """
    results, source = shown
    parts = {
        "agreement": _agreement(results, other, docs),
        "contenders": markdown.contenders(results),
        "foreign": f"{standings.FOREIGN_LIMIT * 100:.0f}",
        "lost": lost.not_won(results),
        "machine": markdown.machine(results),
        "path": source.as_posix(),
        "results": _link(source, docs),
        "share": f"{standings.SHARE_OF_LIMIT * 100:.0f}",
        "stores": "\n\n".join(
            markdown.store(results, store, _prose(store)) for store in standings.stores(results)
        ),
        "summary": markdown.summary(results),
        "targets": markdown.target_table(results.checks),
    }
    text = (_TEXT / _PAGE).read_text("utf-8")
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], text)


def write_page(shown: Recorded, docs: Path, other: Recorded | None = None) -> Path:
    """Write the page to ``performance.md`` among the docs; its pictures are drawn apart.

    Returns:
        The file.
    """
    path = docs / _PAGE
    path.write_text(page(shown, docs, other), "utf-8")
    return path


def _agreement(results: Results, other: Recorded | None, docs: Path) -> str:
    if other is None:
        return "No other run is shown."
    found = agreement(results, other.results)
    when = f"{other.results.started}, {other.results.seconds / 60:.0f} minutes"
    return f"The other run: {_link(other.source, docs)} ({when}).\n\n{found}"


def _link(source: Path, docs: Path) -> str:
    try:
        inside = source.resolve().relative_to(docs.resolve()).as_posix()
    except ValueError:
        return f"`{source.name}`"
    return f"[{source.name}]({inside})"


def _prose(store: str) -> str:
    path = _TEXT / f"{store}.md"
    return path.read_text("utf-8") if path.exists() else ""
