"""What all commands share: the store, the consoles, and output for machines."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, TypeVar
from urllib.parse import unquote

import anyio.to_thread
import typer
from rich.console import Console

from asyncsessions.base import BaseSessionStore
from asyncsessions.codec import encode_json
from asyncsessions.hierarchy import HierarchicalSessionStore
from asyncsessions.registry import STORES, open_store
from asyncsessions.stores._urls import split_url

__all__ = [
    "CommandError",
    "JSONOption",
    "StoreOption",
    "err_console",
    "moment",
    "one_line",
    "opened",
    "opened_plain",
    "out_console",
    "print_json",
    "run",
    "safe_text",
    "safe_url",
    "store_directory",
    "write_out",
]

T = TypeVar("T")

# Wide enough that nothing is cut or wrapped where no terminal sets a width.
_NO_WRAP = 10_000

StoreOption = Annotated[
    str,
    typer.Option(
        "--store",
        metavar="URL",
        envvar="ASYNCSESSIONS_STORE",
        show_default="jsonl://sessions",
        help="Where the sessions are.",
    ),
]
JSONOption = Annotated[bool, typer.Option("--json", help="Print JSON, for machines.")]


class CommandError(Exception):
    """A command failed; its text is shown as one line."""


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run a command's coroutine to its end.

    Of the errors of tasks that ran side by side, the first one is raised by itself.
    """
    try:
        return asyncio.run(main)
    except ExceptionGroup as group:
        raise _first(group) from group


def _first(error: Exception) -> Exception:
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error


def safe_url(url: str) -> str:
    """Return a URL, or a text with URLs, without passwords."""
    url = re.sub(r"(?<=://)([^/@:\s]*):\S*(?=@)", r"\1:***", url)
    return re.sub(r"([?&]\w*(?:password|passwd|token|secret)=)[^&\s'\"]*", r"\1***", url)


def store_directory(url: str) -> Path | None:
    """Return the directory of a store on files; None for other stores."""
    parts = split_url(url)
    if parts.scheme not in {"json", "jsonl"}:
        return None
    return Path(unquote(parts.netloc + parts.path))


@asynccontextmanager
async def opened(url: str, *, create: bool = False) -> AsyncIterator[HierarchicalSessionStore]:
    """Open the store of a command, with sessions as their forks and reverts have made them.

    Args:
        url: Its URL.
        create: Whether the command makes the directory of a store on files; others refuse, so
            that a mistyped name doesn't leave an empty directory behind.

    Raises:
        ValueError: The URL isn't valid, or names a store that ends with this process.
        CommandError: There is no such directory.
    """
    async with HierarchicalSessionStore(await _made(url, create=create)) as store:
        yield store


@asynccontextmanager
async def opened_plain(url: str, *, create: bool = False) -> AsyncIterator[BaseSessionStore]:
    """Do as `opened`, but with sessions as they are stored."""
    async with await _made(url, create=create) as store:
        yield store


async def _made(url: str, *, create: bool) -> BaseSessionStore:
    scheme = split_url(url).scheme
    if scheme == "memory":
        raise ValueError("memory:// keeps nothing between commands; give another --store")
    if scheme not in STORES:
        known = ", ".join(f"{name}://" for name in STORES if name != "memory")
        raise ValueError(f"no store for {safe_url(url)!r}; known are {known}")
    store = open_store(url)
    directory = store_directory(url)
    exists = directory is None or await anyio.to_thread.run_sync(directory.is_dir)
    if not (create or exists):
        text = f"there is no directory {str(directory)!r}; give --store or set ASYNCSESSIONS_STORE"
        raise CommandError(text)
    return store


# Consoles are made when a command runs, when the streams are those of that run.


def out_console() -> Console:
    """Return a console on stdout; without a terminal it neither colours nor wraps."""
    return _console(sys.stdout.isatty(), stderr=False)


def err_console() -> Console:
    """Return a console on stderr, for progress and questions."""
    return _console(sys.stderr.isatty(), stderr=True)


def _console(is_terminal: bool, *, stderr: bool) -> Console:
    width = None if is_terminal or "COLUMNS" in os.environ else _NO_WRAP
    return Console(stderr=stderr, width=width, highlight=False, emoji=False, markup=False)


def print_json(value: object) -> None:
    """Print a value as one line of JSON."""
    write_out(encode_json(value) + b"\n")


def write_out(data: bytes) -> None:
    """Write to stdout what a program reads: its UTF-8 stays, whatever the terminal's encoding."""
    sys.stdout.flush()
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


_UNSAFE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def safe_text(text: str) -> str:
    """Return a text without what would steer a terminal: such characters become escapes."""
    return _UNSAFE.sub(_escape, text.replace("\r\n", "\n"))


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def one_line(text: str) -> str:
    """Return a text as one line that a terminal can show."""
    return safe_text(" ".join(safe_url(text).split()))


def moment(seconds: float) -> str:
    """Return a time for a person, in the local time zone; a dash for none."""
    if not seconds:
        return "-"
    try:
        return datetime.fromtimestamp(seconds).astimezone().strftime("%Y-%m-%d %H:%M")
    except (OverflowError, ValueError, OSError):
        return "?"
