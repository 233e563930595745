"""The conformance suite catches what it is there for: each broken store fails a case of it."""

from __future__ import annotations

import inspect
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from blockbuster import BlockingError

from asyncsessions.hierarchy import HierarchicalSessionStore
from asyncsessions.protocols import SessionStore
from asyncsessions.stores.jsonl import JSONLinesSessionStore
from asyncsessions.stores.memory import InMemorySessionStore
from asyncsessions.testing import (
    HierarchyConformance,
    ManualClock,
    SharedStoreConformance,
    StoreConformance,
)
from asyncsessions.testing.timing import LONG_ENOUGH
from tests import broken_stores as broken

# Every defect, and the cases that catch it.
IN_MEMORY: list[tuple[type[InMemorySessionStore], list[str]]] = [
    (broken.LastInFirstOut, ["test_appends_keep_the_order_of_submission"]),
    (broken.SortsByClock, ["test_order_is_the_stores_when_the_clock_jumps_back"]),
    (broken.HalfBatches, ["test_batches_of_a_reader_are_whole"]),
    (
        broken.CallPerMessage,
        ["test_cancelled_append_is_whole_or_absent", "test_concurrent_batches_are_contiguous"],
    ),
    (
        broken.ResetsSeq,
        ["test_clear_does_not_reset_seq", "test_appends_among_clears_are_kept_or_cleared"],
    ),
    (broken.ReusesSeq, ["test_popped_seq_is_not_given_again"]),
    (broken.SkipsSeq, ["test_one_bad_append_fails_alone"]),
    (broken.MovesPartialTurns, ["test_partial_turn_keeps_its_seq"]),
    (broken.SanitisesIds, ["test_ids_share_nothing", "test_delete_and_clear_touch_no_other_id"]),
    (broken.IgnoresCaseOfIds, ["test_ids_share_nothing"]),
    (broken.CutsIds, ["test_ids_share_nothing"]),
    (broken.DeletesByPrefix, ["test_delete_and_clear_touch_no_other_id"]),
    (
        broken.LosesUpdates,
        [
            "test_concurrent_merges_of_different_keys_all_survive",
            "test_concurrent_increments_sum_up",
        ],
    ),
    (broken.OverwritesMetadata, ["test_update_sets_keys_and_leaves_others"]),
    (broken.AnswersEarly, ["test_acknowledged_message_is_read_at_once"]),
    (broken.CancelsNeighbours, ["test_neighbours_of_a_cancelled_append_are_unaffected"]),
    (
        broken.ForgetsKeys,
        [
            "test_retry_stores_once_and_returns_the_first_result",
            "test_concurrent_retries_store_once",
        ],
    ),
    (broken.ForgetsKeysOnClear, ["test_key_outlives_its_messages_by_a_day"]),
    (broken.IgnoresContentOfKeys, ["test_same_key_with_other_content_is_an_error"]),
    (broken.AnswersRetriesAnew, ["test_retry_stores_once_and_returns_the_first_result"]),
    (broken.SwallowsBadMessages, ["test_bad_message_is_refused"]),
    (broken.ReadsAllToAppend, ["test_cost_does_not_grow_with_history"]),
    (broken.CutsThroughPairs, ["test_exchanges_stay_whole"]),
    (
        broken.LosesNewestExchange,
        ["test_exchanges_stay_whole", "test_call_with_many_results_may_exceed_the_limit"],
    ),
    (
        broken.SkipsInPaging,
        ["test_bounds_are_exclusive", "test_paging_forward_and_back_leaves_no_gap"],
    ),
    (broken.RepeatsInPages, ["test_pages_hold_every_session_once"]),
    (broken.SkipsSameMoment, ["test_pages_hold_sessions_of_the_same_moment"]),
    (broken.ListsExpired, ["test_session_vanishes_at_its_moment"]),
    (broken.RevivesExpired, ["test_nothing_of_an_expired_session_comes_back"]),
    (broken.ArchivesWhatIsCleared, ["test_cleared_messages_are_nowhere"]),
    (broken.KeepsStateOfDeleted, ["test_delete_removes_everything"]),
]
IN_FILES: list[tuple[type[JSONLinesSessionStore], list[str]]] = [
    (broken.IncrementsInTwoSteps, ["test_two_stores_update_without_loss"]),
    (broken.WritesRecordsBack, ["test_two_stores_mix_writes_without_loss"]),
    (broken.ServesFromCache, ["test_no_read_is_stale", "test_every_kind_of_write_is_seen"]),
    (broken.TakesNoLock, ["test_processes_append_without_loss"]),
    (broken.WritesBehind, ["test_killed_process_loses_nothing_acknowledged"]),
]
BRANCHING: list[tuple[type[InMemorySessionStore], list[str]]] = [
    (
        broken.IgnoresReaders,
        [
            "test_messages_that_others_read_stay",
            "test_rewrites_of_a_parent_leave_its_forks_alone",
            "test_a_snapshot_outlives_rewrites",
        ],
    ),
    (
        broken.ExpectsNothing,
        [
            "test_an_amendment_is_made_whole_or_not_at_all",
            "test_a_session_is_discarded_only_as_it_was",
        ],
    ),
    (broken.AmendsInPart, ["test_an_amendment_is_made_whole_or_not_at_all"]),
    (broken.ExpiresWhatIsRead, ["test_a_session_that_others_read_does_not_expire"]),
]
BRANCHING_CASES = sorted({name for _, names in BRANCHING for name in names})
CASES = sorted({name for _, names in IN_MEMORY for name in names})
FILE_CASES = sorted({name for _, names in IN_FILES for name in names})


class InMemory(StoreConformance):
    """The suite for any class of store in memory."""

    def __init__(self, kind: type[InMemorySessionStore]) -> None:
        self.kind = kind

    def make_store(self, **options: Any) -> SessionStore:
        return self.kind(**options)


class InFiles(SharedStoreConformance):
    """The suite for any class of store in files."""

    def __init__(self, kind: type[JSONLinesSessionStore]) -> None:
        self.kind = kind

    def make_store(self, **options: Any) -> SessionStore:
        return self.kind(self.tmp_path / "sessions", **options)

    def store_factory(self) -> tuple[str, Sequence[Any]]:
        factories: dict[type[JSONLinesSessionStore], str] = {
            broken.TakesNoLock: "tests.broken_stores:open_without_lock",
            broken.WritesBehind: "tests.broken_stores:open_write_behind",
        }
        default = "asyncsessions.stores.jsonl:JSONLinesSessionStore"
        return factories.get(self.kind, default), (str(self.tmp_path / "sessions"),)


class Branching(HierarchyConformance):
    """The suite for sessions that branch on any class of store in memory."""

    def __init__(self, kind: type[InMemorySessionStore]) -> None:
        self.kind = kind

    def make_store(self, **options: Any) -> SessionStore:
        return self.kind(**options)


def parameter_sets(case: Any) -> Iterator[dict[str, Any]]:
    """Iterate over the arguments that a case's parametrize marks give it."""
    sets: list[dict[str, Any]] = [{}]
    for mark in getattr(case, "pytestmark", ()):
        if mark.name == "parametrize":
            name, values = mark.args
            sets = [given | {name: value} for given in sets for value in values]
    yield from sets


async def run_case(suite: InMemory | InFiles | Branching, name: str, tmp_path: Path) -> None:
    """Run a case as pytest does: with its fixtures, and with each of its parameters."""
    case = getattr(suite, name)
    for number, arguments in enumerate(parameter_sets(case)):
        suite.tmp_path = tmp_path / f"{name}-{number}"
        suite.tmp_path.mkdir()
        clock = ManualClock()
        plain = suite.make_store(clock=clock)
        async with AsyncExitStack() as stack:
            wanted = inspect.signature(case).parameters.keys() - arguments.keys()
            for fixture in sorted(wanted):
                if fixture == "clock":
                    arguments[fixture] = clock
                elif fixture == "plain":
                    arguments[fixture] = plain
                elif fixture == "tree":
                    tree = HierarchicalSessionStore(plain)
                    arguments[fixture] = await stack.enter_async_context(tree)
                else:
                    assert fixture in {"store", "other"}
                    arguments[fixture] = await stack.enter_async_context(suite.make_store())
            await case(**arguments)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        pytest.param(kind, name, id=f"{kind.__name__}-{name}")
        for kind, names in IN_MEMORY
        for name in names
    ],
)
async def test_defect_in_memory_is_caught(
    kind: type[InMemorySessionStore], name: str, tmp_path: Path
) -> None:
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        await run_case(InMemory(kind), name, tmp_path)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        pytest.param(kind, name, id=f"{kind.__name__}-{name}")
        for kind, names in IN_FILES
        for name in names
    ],
)
async def test_defect_in_files_is_caught(
    kind: type[JSONLinesSessionStore], name: str, tmp_path: Path
) -> None:
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        await run_case(InFiles(kind), name, tmp_path)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        pytest.param(kind, name, id=f"{kind.__name__}-{name}")
        for kind, names in BRANCHING
        for name in names
    ],
)
async def test_defect_of_branching_is_caught(
    kind: type[InMemorySessionStore], name: str, tmp_path: Path
) -> None:
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        await run_case(Branching(kind), name, tmp_path)


@pytest.mark.parametrize("name", BRANCHING_CASES)
async def test_whole_store_branches(name: str, tmp_path: Path) -> None:
    await run_case(Branching(InMemorySessionStore), name, tmp_path)


async def test_blocking_call_is_caught() -> None:
    async with broken.BlocksTheLoop() as store:
        with pytest.raises(BlockingError):
            await store.add_message("s", "user", "x")


async def test_standstill_is_caught(tmp_path: Path) -> None:
    suite = InMemory(broken.ComputesInOneGo)
    # A tenth of what the defect takes.
    suite.max_loop_lag = 0.05
    with pytest.raises(AssertionError, match="stands still"):
        await run_case(suite, "test_event_loop_runs_during_long_reads_and_rewrites", tmp_path)


@pytest.mark.parametrize("name", CASES)
async def test_whole_store_in_memory_passes(name: str, tmp_path: Path) -> None:
    await run_case(InMemory(InMemorySessionStore), name, tmp_path)


@pytest.mark.parametrize("name", FILE_CASES)
async def test_whole_store_in_files_passes(name: str, tmp_path: Path) -> None:
    await run_case(InFiles(JSONLinesSessionStore), name, tmp_path)


@pytest.mark.parametrize(
    ("suite", "case"),
    [
        ("TestDropsZeros", "test_any_text_round_trips"),
        ("TestForgetsExpiryOnPop", "test_any_calls_match_the_model"),
    ],
)
def test_defect_is_found_by_searching(suite: str, case: str) -> None:
    target = f"{broken.__file__}::{suite}::{case}"
    options = ["-q", "-p", "no:cacheprovider", "-p", "no:randomly", "--hypothesis-profile=thorough"]
    run = subprocess.run(
        [sys.executable, "-m", "pytest", *options, target],
        capture_output=True,
        text=True,
        timeout=LONG_ENOUGH,
        check=False,
    )
    assert run.returncode == 1, run.stdout + run.stderr
    assert "AssertionError" in run.stdout
    assert "1 failed" in run.stdout
