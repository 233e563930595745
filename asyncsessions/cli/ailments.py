"""What ``doctor`` looks for, and repairs: damaged files, and what is wrong between sessions."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec

from asyncsessions.cli.common import opened_plain, run
from asyncsessions.cli.omissions import noting_omissions
from asyncsessions.errors import SessionStoreError
from asyncsessions.hierarchy.checking import Finding, check_trees
from asyncsessions.stores import _repair, _repair_json

__all__ = ["Result", "treat_files", "treat_trees"]


class Result(msgspec.Struct):
    """Something that was found, and what became of it.

    Attributes:
        kind: What it is, in a word.
        detail: What exactly, for a person.
        session_id: The session concerned; None where it can't be told.
        path: The file concerned; None for what isn't in a file of its own.
        line: The first damaged line of the file, counted from 1.
        other_id: Another session, or a snapshot, that it has to do with.
        is_harmless: Whether it stands in nobody's way.
        repaired: How it was repaired; None where it wasn't.
        error: Why it couldn't be repaired.
    """

    kind: str
    detail: str
    session_id: str | None = None
    path: str | None = None
    line: int | None = None
    other_id: str | None = None
    is_harmless: bool = False
    repaired: str | None = None
    error: str | None = None

    @property
    def is_open(self) -> bool:
        """Whether it still stands in somebody's way."""
        return self.repaired is None and not self.is_harmless


def treat_files(scheme: str, directory: Path, *, with_repair: bool) -> Iterator[Result]:
    """Iterate over what is wrong with the files of a store."""
    tools = _repair if scheme == "jsonl" else _repair_json
    # All of them first: a repair puts new files in the directory.
    for finding in list(tools.examine(directory)):
        result = Result(**msgspec.structs.asdict(finding), is_harmless=finding.is_harmless)
        if with_repair and not finding.is_harmless:
            try:
                result.repaired = tools.repair(finding) or "nothing was left to do"
            except (SessionStoreError, OSError) as exc:
                result.error = str(exc)
        yield result


def treat_trees(url: str, *, with_repair: bool, has_files: bool) -> Iterator[Result]:
    """Iterate over what is wrong between the sessions of a store.

    Args:
        url: The store.
        with_repair: Whether to repair it.
        has_files: Whether `treat_files` tells which sessions can't be read.
    """
    unreadable: dict[str, None] = {}
    with noting_omissions(unreadable):
        findings = run(_check(url, repair=with_repair))
    for text in unreadable if not has_files else ():
        yield Result("damaged", text)
    for finding in findings:
        yield _result(finding)


async def _check(url: str, *, repair: bool) -> list[Finding]:
    async with opened_plain(url) as store:
        return await check_trees(store, repair=repair)


def _result(finding: Finding) -> Result:
    detail = finding.detail
    if finding.is_recent and not finding.is_repaired:
        detail += "; less than a day old, it may still be under way"
    return Result(
        finding.what,
        detail,
        finding.session_id,
        other_id=finding.other_id,
        is_harmless=finding.is_recent,
        repaired=_REPAIRS.get(finding.what, "removed") if finding.is_repaired else None,
    )


_REPAIRS = {"unnoted": "noted", "overstated": "corrected", "miscounted": "corrected"}
