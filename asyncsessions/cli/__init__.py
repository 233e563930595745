"""The command line: ``asyncsessions``; needs the extra ``cli``."""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> None:
    """Run the command line with the process's arguments, and exit."""
    try:
        from asyncsessions.cli.app import app
    except ModuleNotFoundError as exc:
        if exc.name not in {"rich", "typer"}:
            raise
        text = "asyncsessions: the command line needs rich and typer; install asyncsessions[cli]\n"
        sys.stderr.write(text)
        sys.exit(1)
    # What the terminal's encoding lacks is shown as an escape; it is no reason to fail.
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")
    app(prog_name="asyncsessions")
