"""The command ``demo``: the main job, measured and proved."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Table
from rich.text import Text

from asyncsessions.cli.common import (
    CommandError,
    JSONOption,
    err_console,
    out_console,
    print_json,
    run,
)
from asyncsessions.cli.demo_proof import Ack, Proof, prove, read_back
from asyncsessions.cli.demo_worker import Measured, Plan
from asyncsessions.cli.transcript import print_messages
from asyncsessions.codec import encode_json
from asyncsessions.models import Message

__all__ = ["demo"]

# A worker's answer holds everything it did, in one line.
_LINE_LIMIT = 1 << 28
# A worker that is silent for so long, in seconds, hangs.
_SILENCE = 30.0


class _Answer(msgspec.Struct):
    acknowledged: int = 0
    done: Measured | None = None


class _Run(msgspec.Struct):
    """What all workers did, and what came of it."""

    baseline: list[Measured]
    store: list[Measured]
    stored: dict[str, list[Message]]
    proof: Proof


def demo(
    workers: Annotated[int, typer.Option(min=1, max=64, help="Processes that write.")] = 4,
    callers: Annotated[
        int, typer.Option(min=1, max=4096, help="Coroutines that append, in each process.")
    ] = 128,
    seconds: Annotated[float, typer.Option(min=0.1, help="How long they write.")] = 3.0,
    directory: Annotated[
        Path | None,
        typer.Option(help="Where to make the temporary directory, so which disk is measured."),
    ] = None,
    json: JSONOption = False,
) -> None:
    """Let several processes write conversations at once, and prove that none is lost.

    It writes to a jsonl:// store in a temporary directory, syncing each append to the disk.
    """
    done = _measure(workers, callers, seconds, directory)
    proof = done.proof
    if json:
        print_json(
            {
                "workers": workers,
                "callers": callers,
                "store": _figures(done.store),
                "baseline": _figures(done.baseline),
                "proof": {"holds": proof.holds, **msgspec.structs.asdict(proof)},
            }
        )
    else:
        _print(done, workers, callers)
    if not proof.holds:
        kinds = "; ".join(f"{kind}: {', '.join(cases)}" for kind, cases in proof.faults.items())
        raise CommandError(f"the proof failed: {kinds or 'the counts differ'}")


def _measure(workers: int, callers: int, seconds: float, directory: Path | None) -> _Run:
    """Run the demo in a temporary directory.

    Args:
        workers: How many processes write.
        callers: How many coroutines append in each.
        seconds: How long they write.
        directory: Where to make the temporary directory.
    """
    with tempfile.TemporaryDirectory(prefix="asyncsessions-demo-", dir=directory) as name:
        store, baseline = Path(name) / "sessions", Path(name) / "baseline"
        baseline.mkdir()
        plans = [
            Plan(worker, str(store), str(baseline), callers, seconds, max(0.1, seconds / 3))
            for worker in range(workers)
        ]
        return run(_run(plans, store))


async def _run(plans: Sequence[Plan], directory: Path) -> _Run:
    console = err_console()
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        TextColumn("{task.fields[count]:>9,} messages"),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    with progress:
        task = progress.add_task("starting the workers", total=None, count=0)
        workers: list[_Worker] = []
        try:
            for plan in plans:
                # One by one, so that those which were started are stopped if another can't be.
                workers.append(await _Worker.start(plan))  # noqa: PERF401
            for worker in workers:
                await worker.read()
            baseline = await _phase(workers, "baseline", progress, task)
            store = await _phase(workers, "store", progress, task)
        finally:
            await asyncio.gather(*(worker.stop() for worker in workers))
        progress.update(task, description="reading back", total=None)
        stored = await read_back(directory)
    acks: Mapping[int, list[Ack]] = {
        plan.worker: measured.acks for plan, measured in zip(plans, store, strict=True)
    }
    return _Run(baseline, store, stored, prove(acks, stored))


async def _phase(
    workers: Sequence[_Worker], name: str, progress: Progress, task: TaskID
) -> list[Measured]:
    titles = {"baseline": "one file opened per append", "store": "asyncsessions"}
    plan = workers[0].plan
    seconds = plan.baseline_seconds if name == "baseline" else plan.seconds
    progress.update(task, description=titles[name], total=seconds, completed=0, count=0)
    counts = [0] * len(workers)
    loop = asyncio.get_running_loop()
    start = loop.time()

    async def follow(index: int) -> Measured:
        await workers[index].tell(name)
        while True:
            answer = await workers[index].read()
            if answer.done is not None:
                return answer.done
            counts[index] = answer.acknowledged
            passed = min(seconds, loop.time() - start)
            progress.update(task, completed=passed, count=sum(counts))

    return list(await asyncio.gather(*(follow(index) for index in range(len(workers)))))


class _Worker:
    """A worker process, seen from outside."""

    def __init__(self, plan: Plan, process: asyncio.subprocess.Process) -> None:
        self.plan = plan
        self._process = process

    @classmethod
    async def start(cls, plan: Plan) -> _Worker:
        # It finds the package where this process found it, installed or not.
        path = os.pathsep.join(filter(None, sys.path))
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "asyncsessions.cli.demo_worker",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=_LINE_LIMIT,
            env=os.environ | {"PYTHONPATH": path},
        )
        worker = cls(plan, process)
        await worker.tell(plan)
        return worker

    async def tell(self, value: object) -> None:
        stdin = self._process.stdin
        assert stdin is not None  # noqa: S101  # it is a pipe
        stdin.write(encode_json(value) + b"\n")
        # Where it ended, reading its answer tells why.
        with contextlib.suppress(ConnectionError):
            await stdin.drain()

    async def read(self) -> _Answer:
        """Return the worker's next answer.

        Raises:
            CommandError: It ended, or is silent for too long.
        """
        stdout = self._process.stdout
        assert stdout is not None  # noqa: S101  # it is a pipe
        try:
            line = await asyncio.wait_for(stdout.readline(), _SILENCE)
        except TimeoutError as exc:
            raise CommandError(f"worker {self.plan.worker} hangs") from exc
        if not line.endswith(b"\n"):
            raise CommandError(f"worker {self.plan.worker} failed: {await self._last_words()}")
        if line == b'"ready"\n':
            return _Answer()
        return await asyncio.to_thread(msgspec.json.decode, line, type=_Answer)

    async def _last_words(self) -> str:
        stderr = self._process.stderr
        assert stderr is not None  # noqa: S101  # it is a pipe
        lines = (await stderr.read()).decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it says nothing"

    async def stop(self) -> None:
        """End the process, whatever it is doing."""
        if self._process.returncode is None:
            self._process.kill()
        # Reads the pipes to their end, too, so that nothing of them is left.
        await self._process.communicate()


def _figures(measured: Sequence[Measured]) -> dict[str, float]:
    latencies = sorted(time for part in measured for time in part.latencies)
    lags = sorted(time for part in measured for time in part.lags)
    return {
        "appends_per_second": round(sum(part.appends / part.seconds for part in measured), 1),
        "messages_per_second": round(sum(part.messages / part.seconds for part in measured), 1)
        if any(part.messages for part in measured)
        else 0.0,
        "p50_ms": round(_quantile(latencies, 0.50) * 1000, 2),
        "p99_ms": round(_quantile(latencies, 0.99) * 1000, 2),
        "loop_lag_p99_ms": round(_quantile(lags, 0.99) * 1000, 2),
        "loop_lag_max_ms": round((lags[-1] if lags else 0.0) * 1000, 2),
    }


def _quantile(ordered: Sequence[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


def _print(done: _Run, workers: int, callers: int) -> None:
    console = out_console()
    _print_transcript(console, done.stored)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("")
    for name in ("asyncsessions", "baseline", "ratio"):
        table.add_column(name, justify="right")
    ours, theirs = _figures(done.store), _figures(done.baseline)
    for label, key, unit in _ROWS:
        ratio = f"{ours[key] / theirs[key]:.1f}x" if theirs[key] else "-"
        table.add_row(
            label, f"{ours[key]:,.{unit}f}", f"{theirs[key]:,.{unit}f}", Text(ratio, style="dim")
        )
    console.print(table)
    what = f"{workers} processes with {callers} callers each, every append synced to the disk"
    console.print(Text(what, style="dim"))
    console.print(Text("baseline: one open, append, fdatasync and close per append", style="dim"))
    console.print()
    _print_proof(console, done.proof)


_ROWS = (
    ("appends per second", "appends_per_second", 0),
    ("latency p50, ms", "p50_ms", 1),
    ("latency p99, ms", "p99_ms", 1),
    ("event-loop lag p99, ms", "loop_lag_p99_ms", 1),
    ("event-loop lag max, ms", "loop_lag_max_ms", 1),
)


def _print_transcript(console: Console, stored: Mapping[str, Sequence[Message]]) -> None:
    """Print the longest conversation that one worker had by itself."""
    cold = {session_id: item for session_id, item in stored.items() if "cold" in session_id}
    if not cold:
        return
    session_id = max(cold, key=lambda session_id: len(cold[session_id]))
    console.print(Text(f"One of {len(stored):,} conversations: {session_id}", style="bold"))
    print_messages(console, cold[session_id], last_seq=len(cold[session_id]))
    console.print()


def _print_proof(console: Console, proof: Proof) -> None:
    mark = Text("proved: ", style="bold green") if proof.holds else Text("failed: ", "bold red")
    counts = f"{proof.acknowledged:,} messages acknowledged, {proof.messages:,} stored"
    verdict = "none lost, doubled or reordered" if proof.holds else ", ".join(proof.faults)
    console.print(mark + Text(f"{counts} in {proof.sessions:,} sessions; {verdict}"))
