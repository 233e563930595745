"""What the tests of the command line share."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

from typer.testing import CliRunner

from asyncsessions import BaseSessionStore, open_store
from asyncsessions.cli.app import app

T = TypeVar("T")

DATA = Path(__file__).parent.parent / "data" / "conversations.jsonl"


class Result:
    """What a command printed, and its exit code."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code = code
        self.out = out
        self.err = err

    @property
    def json(self) -> Any:
        """What ``--json`` printed."""
        return json.loads(self.out)


def call(*args: object, text: str | bytes | None = None) -> Result:
    """Run a command in this process."""
    result = CliRunner().invoke(app, [str(arg) for arg in args], input=text)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Result(result.exit_code, result.stdout, result.stderr)


def good(*args: object, text: str | bytes | None = None) -> Result:
    """Run a command that must succeed and say nothing on stderr."""
    result = call(*args, text=text)
    assert (result.code, result.err) == (0, "")
    return result


def bad(code: int, *args: object, text: str | bytes | None = None) -> str:
    """Run a command that must fail with one line on stderr; return that line."""
    result = call(*args, text=text)
    assert result.code == code
    assert result.err.count("\n") == 1, result.err
    assert result.err.startswith("asyncsessions: ")
    return result.err


def with_store(url: str, use: Callable[[BaseSessionStore], Awaitable[T]]) -> T:
    """Open a store in an event loop of its own and use it."""

    async def main() -> T:
        async with open_store(url) as store:
            return await use(store)

    return asyncio.run(main())


def records() -> dict[str, dict[str, Any]]:
    """Return the sample sessions by id."""
    lines = DATA.read_text(encoding="utf-8").splitlines()
    return {record["session_id"]: record for record in map(json.loads, lines)}


def exported(url: str) -> dict[str, dict[str, Any]]:
    """Return the sessions of a store by id."""
    lines = good("export", "--store", url).out.splitlines()
    return {record["session_id"]: record for record in map(json.loads, lines)}


def contents(record: dict[str, Any]) -> list[Any]:
    """Return what the messages of an exported session say."""
    return [message["content"] for message in record["messages"]]


def digests(directory: Path) -> dict[str, str]:
    """Return a digest of each file below a directory."""
    return {
        path.relative_to(directory).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }
