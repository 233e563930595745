"""The commands that move sessions: ``import`` and ``export``."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import anyio.to_thread
import msgspec
import typer
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

from asyncsessions._praisonai import Directory
from asyncsessions.cli.common import (
    CommandError,
    JSONOption,
    StoreOption,
    err_console,
    one_line,
    opened,
    print_json,
    run,
    safe_url,
    store_directory,
)
from asyncsessions.cli.mermaid import export_flowchart
from asyncsessions.cli.omissions import noting_omissions
from asyncsessions.cli.verify import Ledger, check
from asyncsessions.errors import CorruptSessionError, SessionFileError
from asyncsessions.importing import EXISTS, EXPIRED, OTHER
from asyncsessions.models import ImportReport
from asyncsessions.protocols import SessionStore
from asyncsessions.streams import read_sessions, write_sessions

__all__ = ["export", "import_"]

_DEFAULT_STORE = "jsonl://sessions"
# Of many skipped sessions, so many are named.
_NAMED = 10
_MARK_SECONDS = 60


class _Result(msgspec.Struct):
    """What an import did, and what came of reading it back."""

    report: ImportReport
    damaged: list[str]
    notes: list[str]
    different: list[str]

    def skipped(self, reason: str) -> int:
        return sum(skip["reason"] == reason for skip in self.report.skipped)


def import_(
    source: Annotated[
        str,
        typer.Argument(
            metavar="FILE|DIR|URL",
            help="A JSON Lines file of sessions, a directory of PraisonAI's sessions or its "
            "sessions.db, or another store.",
        ),
    ],
    store: StoreOption = _DEFAULT_STORE,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace sessions that exist.")
    ] = False,
    json: JSONOption = False,
) -> None:
    """Bring sessions into a store, and check that they read back the same.

    After an interruption, run it again: it goes on where it stopped.
    """
    if source == store:
        raise ValueError(f"{safe_url(source)!r} is both where from and where to")
    if not _is_url(source) and not Path(source).exists():
        raise CommandError(f"there is no file or directory {source!r}")
    result = run(_import(source, store, overwrite=overwrite))
    report = result.report
    if json:
        print_json(
            {
                "imported": report.imported,
                "messages": report.messages,
                "skipped": report.skipped,
                "damaged": result.damaged,
                "notes": result.notes,
                "different": result.different,
                "verified": not result.different,
            }
        )
    else:
        _print_report(result, store)
    if result.different:
        names = ", ".join(map(repr, result.different[:_NAMED]))
        count = _sessions(len(result.different))
        raise CommandError(f"{count} read back differently from what was sent: {names}")
    refused = report.skipped_count - sum(map(result.skipped, (EXISTS, OTHER, EXPIRED)))
    if refused:
        raise CommandError(f"{_sessions(refused)} could not be stored")


def _sessions(count: int) -> str:
    return f"{count:,} session{'' if count == 1 else 's'}"


def _print_report(result: _Result, url: str) -> None:
    report = result.report
    skipped = [
        f"skipped {one_line(skip['session_id'])}: {one_line(skip['reason'])}"
        for skip in report.skipped
        if skip["reason"] != EXISTS
    ]
    for text in result.damaged:
        typer.echo(f"left out: {one_line(text)}", err=True)
    _print_some([f"note: {one_line(text)}" for text in result.notes], "notes")
    _print_some(skipped, "skipped")
    checked = "" if result.different else "; all read back the same"
    typer.echo(
        f"imported {_sessions(report.imported)} with {report.messages:,} messages "
        f"into {safe_url(url)}{checked}"
    )
    if there := result.skipped(EXISTS):
        verb = "was" if there == 1 else "were"
        typer.echo(f"{_sessions(there)} {verb} there before, with all messages")


def _print_some(lines: list[str], kind: str) -> None:
    for line in lines[:_NAMED]:
        typer.echo(line, err=True)
    if len(lines) > _NAMED:
        typer.echo(f"{kind}: {len(lines) - _NAMED:,} more; see --json", err=True)


def _is_url(source: str) -> bool:
    return "://" in source


async def _import(source: str, url: str, *, overwrite: bool) -> _Result:
    ledger = Ledger()
    damaged: list[str] = []
    notes: list[str] = []
    size = None if _is_url(source) else await anyio.to_thread.run_sync(_size_of, Path(source))
    progress = _progress(counts_bytes=size is not None)
    async with opened(url, create=True) as target:
        await _refuse_itself(source, target, url)
        with progress:
            task = progress.add_task("importing", total=size)

            def note_progress(count: int) -> None:
                progress.advance(task, count)

            async def records() -> AsyncIterator[dict[str, Any]]:
                stream = _read(source, note_progress, damaged, notes)
                async with aclosing(stream) as sessions:
                    async for record in sessions:
                        ledger.note(record)
                        yield record

            report = await target.import_sessions(records(), overwrite=overwrite)
        with _progress(counts_bytes=False) as checking:
            checks = checking.add_task("checking", total=report.imported)
            different = await check(target, ledger, report, lambda: checking.advance(checks))
    return _Result(report, damaged, notes, different)


async def _refuse_itself(source: str, target: SessionStore, url: str) -> None:
    """Make sure that a source isn't the target under another name.

    An import that overwrites would then remove what it is about to read.

    Raises:
        CommandError: It is.
    """
    if not _is_url(source):
        directory = store_directory(url)
        is_itself = directory is not None and await anyio.Path(source).samefile(directory)
    else:
        is_itself = await _is_seen_in(source, target)
    if is_itself:
        raise CommandError(f"{safe_url(source)!r} is both where from and where to")


async def _is_seen_in(source: str, target: SessionStore) -> bool:
    """Whether a session that is put into the target for a moment is in the source.

    No comparison of two URLs can tell whether they lead to the same server.
    """
    mark = f"import-{secrets.token_hex(8)}"
    try:
        await target.set_state(mark, "import", "begins")
        # Also where this process is killed before it removes it.
        await target.expire_session(mark, _MARK_SECONDS)
        async with opened(source) as origin:
            return await origin.session_exists(mark)
    finally:
        with anyio.CancelScope(shield=True):
            await target.delete_session(mark)


async def _read(
    source: str, on_progress: Callable[[int], None], damaged: list[str], notes: list[str]
) -> AsyncGenerator[dict[str, Any]]:
    """Yield the records of a file, a directory or a store.

    Args:
        source: Its path or URL.
        on_progress: Is told how many more bytes, or sessions of a store, have been read.
        damaged: Gets the text of each error that left something out.
        notes: Gets what there is to know of the rest.
    """
    if _is_url(source):
        async with aclosing(_read_store(source, damaged)) as stored:
            async for record in stored:
                yield record
                on_progress(not record.get("part"))
        return

    def note_damage(error: SessionFileError) -> None:
        damaged.append(str(error))

    stream = read_sessions(
        Path(source), on_progress=on_progress, on_damaged=note_damage, on_note=notes.append
    )
    async with aclosing(stream) as sessions:
        async for record in sessions:
            yield record


async def _read_store(url: str, damaged: list[str]) -> AsyncGenerator[dict[str, Any]]:
    """Yield the records of a store; see `_read`."""
    omissions: dict[str, None] = {}

    async def read(records: AsyncIterator[dict[str, Any]]) -> dict[str, Any] | None:
        # Only while it reads: what the target leaves out is another matter.
        with noting_omissions(omissions):
            return await anext(records, None)

    try:
        async with opened(url) as origin:
            records = origin.export_all()
            while (record := await read(records)) is not None:
                yield record
    except CorruptSessionError as exc:
        # All other sessions have come before it is raised.
        omissions[str(exc)] = None
    damaged += omissions


def _progress(*, counts_bytes: bool) -> Progress:
    console = err_console()
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        DownloadColumn() if counts_bytes else MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


def _size_of(source: Path) -> int:
    if source.is_dir():
        return Directory.size(source)
    return source.stat().st_size


class Form(StrEnum):
    """What an export is written as."""

    JSONL = "jsonl"
    MERMAID = "mermaid"


def export(
    session: Annotated[
        str | None, typer.Argument(metavar="SESSION", help="Write only this session.")
    ] = None,
    store: StoreOption = _DEFAULT_STORE,
    output: Annotated[
        str, typer.Option("--output", "-o", metavar="FILE|-", help="Where to; - is stdout.")
    ] = "-",
    form: Annotated[
        Form, typer.Option("--format", help="mermaid: a flowchart of SESSION and its forks.")
    ] = Form.JSONL,
    json: JSONOption = False,
) -> None:
    """Write all sessions as JSON Lines, as ``import`` reads them."""
    if form is Form.MERMAID and session is None:
        raise ValueError("--format mermaid draws the forks of one session; say which")
    omissions: dict[str, None] = {}
    with noting_omissions(omissions, is_shown=True):
        count = run(_export(store, session, output, form))
    if output != "-":
        if json:
            print_json({"exported": count, "output": output, "complete": not omissions})
        else:
            typer.echo(f"exported {_sessions(count)} to {one_line(output)}")
    if omissions:
        raise CommandError("the export lacks what the warnings name; see asyncsessions doctor")


async def _export(url: str, session_id: str | None, output: str, form: Form) -> int:
    async with opened(url) as store:
        await _refuse_own_file(output, url)
        if form is Form.MERMAID and session_id is not None:
            return await export_flowchart(store, session_id, output)
        records = _records(store, session_id)
        if output != "-":
            return await write_sessions(output, records)
        count = 0
        async for record in records:
            await anyio.to_thread.run_sync(print_json, record)
            count += not record.get("part")
        return count


async def _refuse_own_file(output: str, url: str) -> None:
    """Make sure that an export doesn't take the place of a session's file.

    Raises:
        CommandError: It would be in the store's own directory.
    """
    directory = store_directory(url)
    if output == "-" or directory is None:
        return
    parent = (await anyio.Path(output).resolve()).parent
    if await parent.exists() and await parent.samefile(directory):
        text = f"{output!r} is in the directory of the store itself; give another --output"
        raise CommandError(text)


async def _records(store: SessionStore, session_id: str | None) -> AsyncIterator[dict[str, Any]]:
    if session_id is not None:
        yield await store.export_session(session_id)
        return
    async for record in store.export_all():
        yield record
