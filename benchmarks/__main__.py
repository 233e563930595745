"""Run the benchmarks: ``python -m benchmarks [--smoke] [--scenario NAME] [--json FILE]``."""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from benchmarks.appends import jsonl_hot, jsonl_lone, jsonl_many
from benchmarks.branching import branching
from benchmarks.flat import flat
from benchmarks.imports import import_time
from benchmarks.json_hot import json_hot, missing_praison
from benchmarks.lag import loop_lag
from benchmarks.measure import CannotMeasureError, Check, CountError, Run
from benchmarks.memory import memory
from benchmarks.report import print_checks
from benchmarks.servers import mongo_store, postgres_store, redis_store
from benchmarks.sync import sync_bridge, sync_hot, sync_turn

Scenario = Callable[[Run], Awaitable[list[Check]]]

SCENARIOS: dict[str, Scenario] = {
    "jsonl-hot": jsonl_hot,
    "jsonl-many": jsonl_many,
    "jsonl-lone": jsonl_lone,
    "flat": flat,
    "branching": branching,
    "json-hot": json_hot,
    "loop-lag": loop_lag,
    "sync-bridge": sync_bridge,
    "sync-turn": sync_turn,
    "sync-hot": sync_hot,
    "redis": redis_store,
    "postgres": postgres_store,
    "mongo": mongo_store,
    "memory": memory,
    "import": import_time,
}

# What can't be measured without PraisonAI.
BESIDE_PRAISON = {"json-hot", "sync-hot", "sync-turn"}


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="under a minute, wide margins")
    parser.add_argument("--scenario", action="append", choices=SCENARIOS, help="only this one")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures here")
    parser.add_argument("--list", action="store_true", help="list the scenarios")
    parser.add_argument(
        "--directory", type=Path, help="where the files go; the system's temporary one if not given"
    )
    return parser.parse_args(arguments)


async def _measure(names: Sequence[str], run: Run) -> tuple[dict[str, list[Check]], list[str]]:
    """Return the checks of each scenario, and what went wrong."""
    results: dict[str, list[Check]] = {}
    faults = []
    for name in names:
        start = time.perf_counter()
        try:
            results[name] = await SCENARIOS[name](run)
        except (CannotMeasureError, CountError) as exc:
            faults.append(f"{name}: {exc}")
            print(f"{name}: {exc}", flush=True)
            continue
        seconds = time.perf_counter() - start
        print_checks(name, results[name], f"{seconds:.0f} s")
    return results, faults


def _chosen(options: argparse.Namespace) -> list[str]:
    names = options.scenario or list(SCENARIOS)
    reason = missing_praison()
    left_out = BESIDE_PRAISON & set(names) if options.smoke and reason is not None else set()
    for name in sorted(left_out):
        print(f"{name} is left out: {reason}")
    return [name for name in names if name not in left_out]


def _write(path: Path, results: dict[str, list[Check]], faults: list[str]) -> None:
    scenarios = {
        name: [dataclasses.asdict(check) | {"passed": check.passed} for check in checks]
        for name, checks in results.items()
    }
    machine = {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cpus": os.cpu_count(),
    }
    figures = {"machine": machine, "scenarios": scenarios, "faults": faults}
    path.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


def main(arguments: Sequence[str]) -> int:
    options = _parse(arguments)
    if options.list:
        for name, scenario in SCENARIOS.items():
            summary = (scenario.__doc__ or "").splitlines()[0]
            print(f"{name:12} {summary}")
        return 0
    with tempfile.TemporaryDirectory(prefix="asyncsessions-bench-", dir=options.directory) as path:
        run = Run(options.smoke, Path(path))
        results, faults = asyncio.run(_measure(_chosen(options), run))
    if options.json is not None:
        _write(options.json, results, faults)
    missed = [check.name for checks in results.values() for check in checks if not check.passed]
    for line in (*faults, *(f"missed: {name}" for name in missed)):
        print(line)
    return 1 if missed or faults else 0


sys.exit(main(sys.argv[1:]))
