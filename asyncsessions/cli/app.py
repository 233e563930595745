"""The command line's commands put together, and what it does about errors."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from asyncsessions import __version__
from asyncsessions._compat import override
from asyncsessions.cli import branches, browse, demo, doctor, edit, migrate, move, stats
from asyncsessions.cli.common import CommandError, one_line
from asyncsessions.errors import SessionStoreError

__all__ = ["app"]

# Newer versions of typer bring their own click, so its errors are found through typer's.
_ClickError: type[Exception] = typer.BadParameter.__mro__[2]

FAILED, USAGE, INTERRUPTED = 1, 2, 130


class _OneLineErrors(TyperGroup):
    """Reports every error as one line on stderr, with an exit code."""

    @override
    def main(self, *args: Any, **options: Any) -> Any:
        exits = options.pop("standalone_mode", True)
        options["standalone_mode"] = False
        code = _guarded(lambda: TyperGroup.main(self, *args, **options))
        if exits:
            sys.exit(code)
        return code


def _guarded(run: Callable[[], Any]) -> int:
    try:
        code = run()
        sys.stdout.flush()
    except _ClickError as exc:
        format_message: Callable[[], str] = getattr(exc, "format_message", exc.__str__)
        return _report(format_message(), USAGE)
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except BrokenPipeError:
        # Nothing more can be written, and the interpreter must not try when it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except SessionStoreError as exc:
        return _report(str(exc), FAILED)
    except OSError as exc:
        named = exc.strerror and exc.filename
        return _report(f"{exc.filename}: {exc.strerror}" if named else str(exc), FAILED)
    except (CommandError, ImportError) as exc:
        return _report(str(exc), FAILED)
    except ValueError as exc:
        return _report(str(exc), USAGE)
    return code if isinstance(code, int) else 0


def _report(text: str, code: int) -> int:
    typer.echo(f"asyncsessions: {one_line(text)}", err=True)
    return code


class _Warnings(logging.Handler):
    """Shows the library's warnings as lines on stderr, each text once."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._seen: set[str] = set()

    @override
    def emit(self, record: logging.LogRecord) -> None:
        text = one_line(record.getMessage())
        if text not in self._seen:
            self._seen.add(text)
            typer.echo(f"asyncsessions: warning: {text}", err=True)


app: typer.Typer = typer.Typer(
    cls=_OneLineErrors,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Looks after the conversations of bots, agents and gateways.",
    epilog="A store is a URL such as jsonl://sessions; give --store or set ASYNCSESSIONS_STORE.",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"asyncsessions {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _start(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option(
            "--version", is_eager=True, callback=_show_version, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    del version  # Its callback has dealt with it.
    logger = logging.getLogger("asyncsessions")
    warnings = _Warnings()
    logger.addHandler(warnings)
    logger.propagate = False
    context.call_on_close(lambda: logger.removeHandler(warnings))
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit(USAGE)


app.command("import")(move.import_)
app.command("export")(move.export)
app.command("ls")(browse.ls)
app.command("show")(browse.show)
app.command("search")(browse.search)
app.command("tree")(branches.tree)
app.command("diff")(branches.diff)
app.command("add")(edit.add)
app.command("rm")(edit.rm)
app.command("stats")(stats.stats)
app.command("doctor")(doctor.doctor)
app.command("migrate")(migrate.migrate)
app.command("demo")(demo.demo)
