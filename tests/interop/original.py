"""PraisonAI's own stores in processes of their own, alone and beside this library."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from asyncsessions import Message
from asyncsessions.testing.timing import LONG_ENOUGH

__all__ = [
    "at_once",
    "load",
    "numbers",
    "original",
    "ours",
    "praisonai",
    "release",
    "result",
    "run",
    "started",
]

_START = """
import json, sys
directory = sys.argv[1]
out = None

def go():
    print("ready", flush=True)
    sys.stdin.readline()
"""
_ORIGINAL = f"""
from praisonaiagents.session.hierarchy import HierarchicalSessionStore
from praisonaiagents.session.store import DefaultSessionStore
options = {{"retention": "keep_all", "lock_timeout": {LONG_ENOUGH}}}
store = DefaultSessionStore(directory, lock_timeout={LONG_ENOUGH})
keeper = DefaultSessionStore(directory, **options)
tree = HierarchicalSessionStore(directory, **options)
"""
_OURS = f"""
import asyncio
from pathlib import Path
from asyncsessions import CorruptSessionError, Message
from asyncsessions.stores.json import JSONSessionStore
from asyncsessions.sync._original.spill import take_over_spills

async def main():
    global out
    async with JSONSessionStore(directory, lock_timeout={LONG_ENOUGH}) as store:
%s

asyncio.run(main())
"""
_END = "\nprint(json.dumps(out))\n"


def original(body: str) -> str:
    """Return a program with PraisonAI's stores; it prints its ``out``.

    Args:
        body: Its code; it has ``store`` as PraisonAI makes it, ``keeper`` that keeps all messages,
            ``tree`` with forks and snapshots, and ``go()`` to wait for the other programs.
    """
    return _START + _ORIGINAL + textwrap.dedent(body) + _END


def ours(body: str) -> str:
    """Return a program with this library's ``store``; otherwise as `original`."""
    return _START + _OURS % textwrap.indent(textwrap.dedent(body), " " * 8) + _END


def praisonai(directory: Path, body: str) -> Any:
    """Run a program with PraisonAI's stores to its end; return its ``out``."""
    return _output(original(body), directory)


async def run(directory: Path, body: str) -> Any:
    """Return what `praisonai` does, while the event loop goes on."""
    return await asyncio.to_thread(praisonai, directory, body)


def _output(program: str, directory: Path) -> Any:
    done = subprocess.run(
        [sys.executable, "-c", program, str(directory)],
        capture_output=True,
        check=True,
        text=True,
        timeout=LONG_ENOUGH,
    )
    return json.loads(done.stdout.splitlines()[-1])


@contextmanager
def started(program: str, directory: Path) -> Iterator[subprocess.Popen[str]]:
    """Have a program running that is ready to `release`."""
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(directory)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


def release(process: subprocess.Popen[str]) -> None:
    """Let a program that waits go on."""
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def result(process: subprocess.Popen[str]) -> Any:
    """Return the ``out`` of a program once it has ended."""
    output, _ = process.communicate(timeout=LONG_ENOUGH)
    assert process.returncode == 0
    return json.loads(output.splitlines()[-1])


async def at_once(directory: Path, *programs: str) -> list[Any]:
    """Let programs go at the same moment; return the ``out`` of each."""
    return await asyncio.to_thread(_at_once, directory, programs)


def _at_once(directory: Path, programs: tuple[str, ...]) -> list[Any]:
    with ExitStack() as stack:
        processes = [stack.enter_context(started(each, directory)) for each in programs]
        for process in processes:
            release(process)
        return [result(process) for process in processes]


def load(path: Path) -> dict[str, Any]:
    """Return a document."""
    document: dict[str, Any] = json.loads(path.read_text())
    return document


def numbers(messages: list[Message], name: str) -> list[int]:
    """Return the numbers of one writer's messages, in the order in which they are stored."""
    texts = [str(each.content).rpartition("-") for each in messages]
    return [int(number) for writer, _, number in texts if writer == name]
