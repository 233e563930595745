"""The commands that move sessions: ``import`` and ``export``."""

from __future__ import annotations

import logging
import secrets
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
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

from asyncsessions._compat import override
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
)
from asyncsessions.cli.verify import Ledger, check
from asyncsessions.codec import encode_json
from asyncsessions.errors import CorruptSessionError, SessionFileError
from asyncsessions.models import ImportReport
from asyncsessions.protocols import SessionStore
from asyncsessions.streams import read_sessions, write_sessions
from asyncsessions.transfer import EXISTS, EXPIRED

__all__ = ["export", "import_"]

_DEFAULT_STORE = "jsonl://sessions"
# Of many skipped sessions, so many are named.
_NAMED = 10


class _Result(msgspec.Struct):
    """What an import did, and what came of reading it back."""

    report: ImportReport
    damaged: list[str]
    different: list[str]


def import_(
    source: Annotated[
        str,
        typer.Argument(
            metavar="FILE|DIR|URL",
            help="A JSON Lines file of sessions, a directory of PraisonAI's session files, "
            "or another store.",
        ),
    ],
    store: StoreOption = _DEFAULT_STORE,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace sessions that exist.")
    ] = False,
    json: JSONOption = False,
) -> None:
    """Bring sessions into a store, and check that they read back the same."""
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
    refused = sum(skip["reason"] not in (EXISTS, EXPIRED) for skip in report.skipped)
    if refused:
        raise CommandError(f"{_sessions(refused)} could not be stored")


def _sessions(count: int) -> str:
    return f"{count:,} session{'' if count == 1 else 's'}"


def _print_report(result: _Result, url: str) -> None:
    report = result.report
    for text in result.damaged:
        typer.echo(f"left out: {one_line(text)}", err=True)
    for skip in report.skipped[:_NAMED]:
        typer.echo(f"skipped {one_line(skip['session_id'])}: {one_line(skip['reason'])}", err=True)
    if report.skipped_count > _NAMED:
        typer.echo(f"skipped {report.skipped_count - _NAMED} more; see --json", err=True)
    checked = "" if result.different else "; all read back the same"
    typer.echo(
        f"imported {_sessions(report.imported)} with {report.messages:,} messages "
        f"into {safe_url(url)}{checked}"
    )


def _is_url(source: str) -> bool:
    return "://" in source


async def _import(source: str, url: str, *, overwrite: bool) -> _Result:
    ledger = Ledger()
    damaged: list[str] = []
    size = None if _is_url(source) else await anyio.to_thread.run_sync(_size_of, Path(source))
    progress = _progress(counts_bytes=size is not None)
    async with opened(url, create=True) as target:
        await _refuse_itself(source, target)
        with progress:
            task = progress.add_task("importing", total=size)

            def note_progress(count: int) -> None:
                progress.advance(task, count)

            async def records() -> AsyncIterator[dict[str, Any]]:
                stream = _read(source, note_progress, damaged)
                async with aclosing(stream) as sessions:
                    async for record in sessions:
                        ledger.note(record)
                        yield record

            report = await target.import_sessions(records(), overwrite=overwrite)
            progress.update(task, description="checking", total=None)
            different = await check(target, ledger, report)
    return _Result(report, damaged, different)


async def _refuse_itself(source: str, target: SessionStore) -> None:
    """Make sure that a source isn't the target under another name.

    An import that overwrites would then remove what it is about to read. No comparison of names
    can tell, so a session is put into the target for a moment and looked for in the source.

    Raises:
        CommandError: It is.
    """
    mark = f"import-{secrets.token_hex(8)}"
    try:
        await target.set_state(mark, "import", "begins")
        if await _holds(source, mark):
            raise CommandError(f"{safe_url(source)!r} is both where from and where to")
    finally:
        with anyio.CancelScope(shield=True):
            await target.delete_session(mark)


async def _holds(source: str, session_id: str) -> bool:
    if _is_url(source):
        async with opened(source) as origin:
            return await origin.session_exists(session_id)
    return await anyio.Path(source, f"{session_id}.json").exists()


async def _read(
    source: str, on_progress: Callable[[int], None], damaged: list[str]
) -> AsyncGenerator[dict[str, Any]]:
    """Yield the records of a file, a directory or a store.

    Args:
        source: Its path or URL.
        on_progress: Is told how many more bytes, or sessions of a store, have been read.
        damaged: Gets the text of each error that left something out.
    """
    if _is_url(source):
        try:
            async with opened(source) as origin:
                async for record in origin.export_all():
                    yield record
                    on_progress(not record.get("part"))
        except CorruptSessionError as exc:
            # All other sessions have come before it is raised.
            damaged.append(str(exc))
        return

    def note_damage(error: SessionFileError) -> None:
        damaged.append(str(error))

    stream = read_sessions(Path(source), on_progress=on_progress, on_damaged=note_damage)
    async with aclosing(stream) as sessions:
        async for record in sessions:
            yield record


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
        return sum(path.stat().st_size for path in source.glob("*.json") if path.is_file())
    return source.stat().st_size


def export(
    store: StoreOption = _DEFAULT_STORE,
    output: Annotated[
        str, typer.Option("--output", "-o", metavar="FILE|-", help="Where to; - is stdout.")
    ] = "-",
    json: JSONOption = False,
) -> None:
    """Write all sessions as JSON Lines, as ``import`` reads them."""
    seen = _LeftOut()
    logger = logging.getLogger("asyncsessions")
    logger.addHandler(seen)
    try:
        count = run(_export(store, output))
    finally:
        logger.removeHandler(seen)
    if output != "-":
        if json:
            print_json({"exported": count, "output": output, "complete": not seen.count})
        else:
            typer.echo(f"exported {_sessions(count)} to {one_line(output)}")
    if seen.count:
        raise CommandError("the export lacks what the warnings name; see asyncsessions doctor")


class _LeftOut(logging.Handler):
    """Counts the warnings of a store about sessions that its lists leave out."""

    count = 0

    @override
    def emit(self, record: logging.LogRecord) -> None:
        self.count += record.levelno >= logging.WARNING


async def _export(url: str, output: str) -> int:
    async with opened(url) as store:
        if output != "-":
            return await write_sessions(output, store.export_all())
        count = 0
        async for record in store.export_all():
            await anyio.to_thread.run_sync(_print_record, record)
            count += not record.get("part")
        return count


def _print_record(record: dict[str, Any]) -> None:
    sys.stdout.write(encode_json(record).decode() + "\n")
