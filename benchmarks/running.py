"""Runs scenarios, one after the other."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime

import msgspec

from benchmarks.figures import FIGURES
from benchmarks.machine import installed, machine
from benchmarks.match import Entrant, Match
from benchmarks.measure import Run
from benchmarks.places import place, server_version
from benchmarks.results import STORES, Check, Results
from benchmarks.scenarios import MATCHES
from benchmarks.systems import Contender, contenders
from benchmarks.targets import checks

__all__ = ["SCENARIOS", "measure", "steps"]

SCENARIOS = {name: scenario.__doc__ or "" for name, scenario in (MATCHES | FIGURES).items()}
"""What each scenario is, by its name."""

# What says nothing about a store: its cost is known from another one, or is that of its format.
_ONLY = {
    "json": {"hot", "turn", "history", "replay"},
    "jsonl-os": {"hot", "sessions"},
}
# What fits into two minutes, and shows a lost batch or a cost that grows.
_QUICK = {"hot", "sessions", "turn", "flat", "sync-bridge", "import"}


def steps(run: Run, names: Sequence[str]) -> int:
    """Return how often `measure` will say that something is done."""
    matches = [_matches(run, names, store) for store in run.stores or STORES]
    return sum(map(len, matches)) + len(_figures(run, names))


async def measure(
    run: Run,
    names: Sequence[str],
    done: Callable[[Results], None],
    before: Results | None = None,
) -> Results:
    """Measure scenarios.

    Args:
        run: How much.
        names: The scenarios; empty means all.
        done: Called whenever one is done, on one store, with what there is so far.
        before: What an interrupted run has found; what is in it is not measured again, unless
            something went wrong there.

    Returns:
        All that was found; ``faults`` say what could not be measured, or was not right.
    """
    results = _new(run, names) if before is None else _sound(before)
    start = time.perf_counter() - results.seconds
    figures = [check for check in results.checks if check.scenario in FIGURES]

    def tell(versions: dict[str, str]) -> None:
        results.machine = machine(versions)
        results.checks = checks(run, results) + figures
        results.seconds = round(time.perf_counter() - start, 1)
        done(results)

    versions = results.machine.versions
    for store in run.stores or STORES:
        chosen = _chosen(run, store, results)
        versions |= installed(package for each in chosen for package in each.packages)
        known = {case.scenario for case in results.cases if case.store == store}
        for name in _matches(run, names, store):
            if name not in known:
                versions |= await _match(run, name, store, chosen, results)
            tell(versions)
    for peer in run.peers:
        if not any(peer in name for name in results.notes):
            results.faults.append(f"no peer that is installed is named like {peer}")
    for name in _figures(run, names):
        if not any(check.scenario == name for check in figures):
            figures += await _figure(run, name, results)
        tell(versions)
    return results


def _new(run: Run, names: Sequence[str]) -> Results:
    settings = {
        "mode": "quick" if run.is_quick else "full",
        "repetitions": f"{run.repetitions} or {run.repetitions_with_target}",
        "seconds": str(run.seconds),
        "scenarios": " ".join(names) or "all",
        "stores": " ".join(run.stores) or "all",
        "peers": " ".join(run.peers) or ("none" if run.is_quick else "all"),
    }
    started = datetime.now(UTC).isoformat(timespec="seconds")
    return Results(started=started, seconds=0.0, settings=settings, machine=machine({}))


def _sound(before: Results) -> Results:
    """Return what there is of a run, without the scenarios in which something went wrong."""
    cases = [
        case
        for case in before.cases
        if not any(fault.startswith(f"{case.scenario} on {case.store}:") for fault in before.faults)
    ]
    return msgspec.structs.replace(before, cases=cases, faults=[])


def _matches(run: Run, names: Sequence[str], store: str) -> list[str]:
    chosen = set(names or (_QUICK if run.is_quick else MATCHES))
    if not names and run.transcripts is None:
        chosen.discard("replay")
    return [name for name in MATCHES if name in chosen and name in _ONLY.get(store, MATCHES)]


def _figures(run: Run, names: Sequence[str]) -> list[str]:
    if names:
        return [name for name in FIGURES if name in names]
    return [name for name in FIGURES if not run.is_quick or name in _QUICK]


def _chosen(run: Run, store: str, results: Results) -> list[Contender]:
    """Return what is there to measure, and note the rest."""
    chosen = []
    for contender in contenders(store):
        # A quick run has no time for peers, but for those that it was asked for.
        is_wanted = any(each in contender.name for each in run.peers)
        if contender.kind == "peer" and not is_wanted and (run.peers or run.is_quick):
            continue
        missing = contender.missing()
        if missing is None:
            chosen.append(contender)
            results.notes[f"{store}/{contender.name}"] = contender.note
        else:
            results.faults.append(f"{store}: {contender.name} needs {missing}")
    return chosen


async def _match(
    run: Run, name: str, store: str, chosen: Sequence[Contender], results: Results
) -> dict[str, str]:
    """Measure one scenario on one store; return its server's version."""
    version: dict[str, str] = {}
    try:
        # A server of its own, so that no scenario meets what another one left.
        with place(run, store) as url:
            version = await server_version(store, url)
            async with AsyncExitStack() as stack:
                entrants = [await _open(stack, store, url, each, results) for each in chosen]
                match = Match(run, name, store, url, list(filter(None, entrants)))
                try:
                    await _play(name, match)
                finally:
                    results.cases += match.cases
                    results.faults += match.faults
    except Exception as exc:  # noqa: BLE001  # what goes wrong here ends no other scenario
        results.faults.append(f"{name} on {store}: {type(exc).__name__}: {exc}")
    return version


async def _play(name: str, match: Match) -> None:
    try:
        await MATCHES[name](match)
    finally:
        # Each turn has frozen what was there before.
        gc.unfreeze()


async def _open(
    stack: AsyncExitStack, store: str, url: str, contender: Contender, results: Results
) -> Entrant | None:
    """Open a contender until the end of the match; None where a peer can't be opened."""

    async def close() -> None:
        try:
            await opening.__aexit__(None, None, None)
        except Exception as exc:
            if contender.kind != "peer":
                raise
            note(f"can't be closed: {type(exc).__name__}: {exc}")

    def note(text: str) -> None:
        fault = f"{store}: {contender.name} {text}"
        if fault not in results.faults:
            results.faults.append(fault)

    try:
        opening = contender.open(url)
        system = await opening.__aenter__()
    except Exception as exc:
        if contender.kind != "peer":
            raise
        note(f"can't be opened: {type(exc).__name__}: {exc}")
        return None
    stack.push_async_callback(close)
    return Entrant(contender, system)


async def _figure(run: Run, name: str, results: Results) -> list[Check]:
    run.progress(name)
    try:
        found = await FIGURES[name](run)
    except Exception as exc:  # noqa: BLE001  # as above
        results.faults.append(f"{name}: {type(exc).__name__}: {exc}")
        return []
    return [msgspec.structs.replace(each, scenario=name) for each in found]
