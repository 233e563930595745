"""How much memory many queued appends and long exports take; each in a process of its own."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

from asyncsessions.models import Message
from asyncsessions.stores.jsonl import JSONLinesSessionStore
from benchmarks.measure import CannotMeasureError, CountError, Run, at_most
from benchmarks.payload import METADATA, TEXT
from benchmarks.results import Check

__all__ = ["memory"]

APPENDS = 100_000
_MIB = 1 << 20
_EXPORTED_MESSAGE = 4096
_BATCH = 200
_SAMPLE_SECONDS = 0.002
_STATM = Path("/proc/self/statm")
_PAGE = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096


class _Sampler:
    """Watches the resident size of this process from a thread."""

    def __init__(self) -> None:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._start = self._peak = self._size()
        self._thread.start()

    @staticmethod
    def _size() -> int:
        fields = _STATM.read_text(encoding="ascii").split()
        return int(fields[1]) * _PAGE

    def _watch(self) -> None:
        while not self._stop.wait(_SAMPLE_SECONDS):
            self._peak = max(self._peak, self._size())

    def growth(self) -> float:
        """Stop watching; return the growth at the peak, in MiB."""
        self._stop.set()
        self._thread.join()
        return (max(self._peak, self._size()) - self._start) / _MIB


async def queue_appends(directory: Path) -> dict[str, float]:
    async with JSONLinesSessionStore(directory) as store:
        await store.add_message("s", "user", TEXT, METADATA)
        # The callers' own texts are theirs; what is measured is what the store makes of them.
        texts = [f"{number:06d} {TEXT}" for number in range(APPENDS)]
        sampler = _Sampler()
        tasks = [
            asyncio.create_task(store.add_message("s", "user", text, METADATA)) for text in texts
        ]
        await asyncio.gather(*tasks)
        growth = sampler.growth()
        info = await store.get_session("s", max_messages=0)
    return {"growth": growth, "acknowledged": APPENDS + 1, "stored": info.message_count}


async def export_all(directory: Path) -> dict[str, float]:
    count = 0
    async with JSONLinesSessionStore(directory, durability="os") as store:
        await store.list_sessions(1)
        sampler = _Sampler()
        async for part in store.export_all():
            count += len(part["messages"])
        growth = sampler.growth()
        page = await store.list_sessions(1 << 30)
        stored = sum(info.message_count for info in page)
    return {"growth": growth, "acknowledged": count, "stored": stored}


MEASURES: dict[str, Callable[[Path], Awaitable[dict[str, float]]]] = {
    "queue": queue_appends,
    "export": export_all,
}


async def _in_process(measure: str, directory: Path) -> float:
    arguments = ("-m", "benchmarks.figures.memory", measure, str(directory))
    process = await asyncio.create_subprocess_exec(
        sys.executable, *arguments, stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate()
    if process.returncode:
        raise RuntimeError(f"the process that measures {measure} ended with {process.returncode}")
    result = json.loads(output)
    if result["acknowledged"] != result["stored"]:
        raise CountError(f"{measure}: {result}")
    growth: float = result["growth"]
    return growth


async def _fill(directory: Path, *, sessions: int, size: int) -> None:
    text = (TEXT * (_EXPORTED_MESSAGE // len(TEXT) + 1))[:_EXPORTED_MESSAGE]
    batch = [Message("user", text, 0.0, METADATA)] * _BATCH
    batches = max(1, size // (sessions * _BATCH * _EXPORTED_MESSAGE))
    async with JSONLinesSessionStore(directory, durability="os") as store:
        for number in range(sessions):
            for _ in range(batches):
                await store.append(f"s{number}", batch)


async def _export_growth(run: Run, name: str, *, sessions: int, size: int) -> float:
    directory = run.new_directory(name)
    await _fill(directory, sessions=sessions, size=size)
    growth = await _in_process("export", directory)
    for path in directory.iterdir():
        path.unlink()
    return growth


async def memory(run: Run) -> list[Check]:
    """100,000 queued appends, and the export of 1 GiB in many sessions and in one."""
    if sys.platform != "linux":
        raise CannotMeasureError(f"{_STATM} tells the size of a process, on Linux only")
    growth = await _in_process("queue", run.new_directory("queue"))
    checks = [at_most(run, "100,000 queued appends", [growth], 200.0, unit=" MiB")]
    # A smoke run exports less, but more than may stay in memory.
    size = 256 * _MIB if run.is_quick else 1024 * _MIB
    many = size // (_BATCH * _EXPORTED_MESSAGE)
    for name, sessions in (("many sessions", many), ("one session", 1)):
        growth = await _export_growth(run, name.replace(" ", "-"), sessions=sessions, size=size)
        label = f"export of {size // _MIB} MiB in {name}"
        checks.append(at_most(run, label, [growth], 100.0, smoke=150.0, unit=" MiB"))
    return checks


if __name__ == "__main__":
    measure, directory = sys.argv[1:]
    print(json.dumps(asyncio.run(MEASURES[measure](Path(directory)))))  # type: ignore[arg-type]
