"""Starts worker processes for the conformance suite, and always ends them."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from asyncsessions.testing.timing import LONG_ENOUGH

__all__ = ["Job", "run_and_kill", "run_together"]

_SCRIPT = Path(__file__).with_name("workers.py")
Job = dict[str, Any]


@contextmanager
def _workers(jobs: Sequence[Job]) -> Iterator[list[subprocess.Popen[str]]]:
    """Start one process for each job, and let them begin at the same moment."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with ExitStack() as stack:
        workers = []
        for job in jobs:
            worker = subprocess.Popen(  # noqa: S603  # this interpreter and this package's script
                [sys.executable, "-P", str(_SCRIPT)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                encoding="utf-8",
                env=environment,
            )
            stack.enter_context(worker)
            stack.callback(worker.kill)
            _send(worker, json.dumps(job))
            workers.append(worker)
        # A worker that hangs is killed, and its case fails.
        watchdog = threading.Timer(LONG_ENOUGH, _kill_all, [workers])
        watchdog.start()
        stack.callback(watchdog.cancel)
        for worker in workers:
            if _read_line(worker) != "ready":
                raise AssertionError(f"a worker didn't start: {_complaint(worker)}")
        for worker in workers:
            _send(worker, "go")
        yield workers


def _kill_all(workers: Sequence[subprocess.Popen[str]]) -> None:
    for worker in workers:
        worker.kill()


def _send(worker: subprocess.Popen[str], line: str) -> None:
    assert worker.stdin is not None
    worker.stdin.write(line + "\n")
    worker.stdin.flush()


def _read_line(worker: subprocess.Popen[str]) -> str:
    assert worker.stdout is not None
    return worker.stdout.readline().rstrip("\n")


def _complaint(worker: subprocess.Popen[str]) -> str:
    assert worker.stderr is not None
    worker.kill()
    return worker.stderr.read()


async def run_together(jobs: Sequence[Job]) -> list[Any]:
    """Run jobs in a process each, all at once; return their results in order.

    Raises:
        AssertionError: A worker failed or took too long; says what it wrote.
    """
    return await asyncio.to_thread(_run_together, jobs)


def _run_together(jobs: Sequence[Job]) -> list[Any]:
    with _workers(jobs) as workers:
        results = []
        for worker in workers:
            output, errors = worker.communicate()
            assert worker.returncode == 0, f"a worker failed: {errors}"
            results.append(json.loads(output))
        return results


async def run_and_kill(job: Job, count: int) -> list[str]:
    """Run a job and kill its process when it has printed enough; return the lines it printed.

    Args:
        job: A task that prints a line for each thing that was acknowledged to it.
        count: How many lines are enough.
    """
    return await asyncio.to_thread(_run_and_kill, job, count)


def _run_and_kill(job: Job, count: int) -> list[str]:
    with _workers([job]) as (worker,):
        lines: list[str] = []
        while len(lines) < count:
            line = _read_line(worker)
            assert line, f"a worker ended: {_complaint(worker)}"
            lines.append(line)
        worker.kill()
        assert worker.stdout is not None
        # A line that the kill cut off isn't an acknowledgement.
        rest = worker.stdout.read()
        lines += [line[:-1] for line in rest.splitlines(keepends=True) if line.endswith("\n")]
        return lines
