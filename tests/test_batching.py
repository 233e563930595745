"""Group commit: what is combined, in which order, and what happens to the odd one out."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from random import Random
from typing import Any, NamedTuple

import pytest

from asyncsessions import batching
from asyncsessions.batching import Deferred, GroupCommit, Outcome
from asyncsessions.errors import StoreClosedError
from asyncsessions.testing.timing import LONG_ENOUGH
from tests.busy import Clock


class Log:
    """A flush that can be held up, and that notes its batches."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.outcomes: dict[str, Any] = {}

    async def flush(self, batch: list[str]) -> Sequence[Outcome[str]]:
        self.batches.append(batch)
        await self.gate.wait()
        return [self.outcomes.get(item, item.upper()) for item in batch]


@pytest.fixture
def log() -> Log:
    return Log()


async def start(*submissions: Any) -> list[asyncio.Task[str]]:
    tasks = [asyncio.ensure_future(submission) for submission in submissions]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    return tasks


async def test_a_lone_item_is_flushed_at_once(log: Log) -> None:
    commit: GroupCommit[str, str] = GroupCommit(log.flush)
    async with asyncio.timeout(LONG_ENOUGH):
        assert await commit.submit("k", "a", 1) == "A"
    assert log.batches == [["a"]]


async def test_newcomers_go_together_in_the_next_flush(log: Log) -> None:
    commit: GroupCommit[str, str] = GroupCommit(log.flush)
    log.gate.clear()
    tasks = await start(commit.submit("k", "a", 1))
    tasks += await start(*(commit.submit(f"k{item}", item, 1) for item in "bcd"))
    log.gate.set()
    assert list(await asyncio.gather(*tasks)) == ["A", "B", "C", "D"]
    assert log.batches == [["a"], ["b", "c", "d"]]


async def test_one_key_keeps_its_order_over_bounded_batches(log: Log) -> None:
    commit: GroupCommit[str, str] = GroupCommit(log.flush, max_items=4, max_bytes=100)
    items = [f"{number:03}" for number in range(50)]
    await asyncio.gather(*(commit.submit("k", item, 30) for item in items))
    assert [item for batch in log.batches for item in batch] == items
    assert max(map(len, log.batches)) == 3


async def test_an_item_over_the_byte_limit_goes_alone(log: Log) -> None:
    commit: GroupCommit[str, str] = GroupCommit(log.flush, max_bytes=100)
    log.gate.clear()
    tasks = await start(commit.submit("k", "first", 1))
    tasks += await start(commit.submit("k", "a", 10), commit.submit("k", "big", 500))
    tasks += await start(commit.submit("k", "b", 10))
    log.gate.set()
    await asyncio.gather(*tasks)
    assert log.batches == [["first"], ["a"], ["big"], ["b"]]


async def test_a_failing_item_fails_alone(log: Log) -> None:
    commit: GroupCommit[str, str] = GroupCommit(log.flush)
    log.outcomes["bad"] = ValueError("bad")
    good, bad, other = await asyncio.gather(
        *(commit.submit("k", item, 1) for item in ("good", "bad", "other")), return_exceptions=True
    )
    assert (good, other) == ("GOOD", "OTHER")
    assert isinstance(bad, ValueError)


async def test_a_failing_flush_fails_its_batch_and_no_later_one() -> None:
    async def flush(batch: list[str]) -> Sequence[Outcome[str]]:
        if "bad" in batch:
            raise OSError("disk")
        return batch

    commit: GroupCommit[str, str] = GroupCommit(flush)
    with pytest.raises(OSError, match="disk"):
        await commit.submit("k", "bad", 1)
    assert await commit.submit("k", "good", 1) == "good"


async def test_a_cancelled_item_that_is_queued_is_never_flushed(log: Log) -> None:
    commit: GroupCommit[str, str] = GroupCommit(log.flush)
    log.gate.clear()
    (first,) = await start(commit.submit("k", "a", 1))
    queued, last = await start(commit.submit("k", "b", 1), commit.submit("k", "c", 1))
    queued.cancel()
    with pytest.raises(asyncio.CancelledError):
        await queued
    log.gate.set()
    assert list(await asyncio.gather(first, last)) == ["A", "C"]
    assert log.batches == [["a"], ["c"]]


async def test_a_cancelled_caller_under_way_waits_for_the_outcome(log: Log) -> None:
    commit: GroupCommit[str, str] = GroupCommit(log.flush)
    log.gate.clear()
    cancelled, other = await start(commit.submit("k", "a", 1), commit.submit("k", "b", 1))
    cancelled.cancel()
    await asyncio.sleep(0.01)
    assert not cancelled.done()
    log.gate.set()
    with pytest.raises(asyncio.CancelledError):
        await cancelled
    assert log.batches == [["a", "b"]]
    assert await other == "B"


async def test_a_second_cancel_stops_the_wait(log: Log) -> None:
    commit: GroupCommit[str, str] = GroupCommit(log.flush)
    log.gate.clear()
    (cancelled,) = await start(commit.submit("k", "a", 1))
    cancelled.cancel()
    await asyncio.sleep(0.01)
    cancelled.cancel()
    with pytest.raises(asyncio.CancelledError):
        await cancelled
    log.gate.set()
    assert await commit.submit("k", "b", 1) == "B"


async def test_a_deferred_outcome_holds_its_key_and_no_other(log: Log) -> None:
    commit: GroupCommit[str, str] = GroupCommit(log.flush)
    later: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    log.outcomes["slow"] = later
    (slow,) = await start(commit.submit("held", "slow", 1))
    (behind,) = await start(commit.submit("held", "behind", 1))
    assert await commit.submit("free", "x", 1) == "X"
    await asyncio.sleep(0.01)
    assert not behind.done()
    later.set_result("at last")
    assert list(await asyncio.gather(slow, behind)) == ["at last", "BEHIND"]
    assert log.batches == [["slow"], ["x"], ["behind"]]


async def test_a_deferred_outcome_counts_the_wait_behind_its_key(log: Log) -> None:
    commit: GroupCommit[str, str] = GroupCommit(log.flush, max_queued_items=1)
    moments = []
    callers = []
    # One is flushed, one is behind it, and three wait for room.
    for key, item in (("k", "a"), ("k", "b"), ("k", "c"), ("free", "d"), ("k", "e")):
        log.outcomes[item] = Deferred()
        moments.append(time.monotonic())
        callers += await start(commit.submit(key, item, 1))
    later = time.monotonic()
    for item in "bcde":
        # As if each were made in its own flush.
        log.outcomes[item].since = later
    for item, caller in zip("abcde", callers, strict=True):
        log.outcomes[item].set_result(item)
        await caller
    since = [log.outcomes[item].since for item in "abcde"]
    assert log.batches == [["a"], ["b"], ["c"], ["d"], ["e"]]
    assert moments[1] <= since[1] <= moments[2] <= since[2] <= moments[3]
    # It waited for room only.
    assert since[3] == later
    assert moments[4] <= since[4] < later


async def test_callers_wait_for_room_in_order(log: Log) -> None:
    commit: GroupCommit[str, str] = GroupCommit(log.flush, max_items=2, max_queued_items=2)
    log.gate.clear()
    tasks = await start(commit.submit("k", "0", 1))
    for number in range(1, 8):
        tasks += await start(commit.submit("k", str(number), 1))
    log.gate.set()
    await asyncio.gather(*tasks)
    assert [item for batch in log.batches for item in batch] == list("01234567")


async def test_bytes_count_as_room_too(log: Log) -> None:
    commit: GroupCommit[str, str] = GroupCommit(log.flush, max_queued_bytes=100)
    log.gate.clear()
    tasks = await start(commit.submit("k", "0", 1))
    tasks += await start(*(commit.submit("k", str(number), 60) for number in range(1, 6)))
    log.gate.set()
    assert len(await asyncio.gather(*tasks)) == 6


async def test_who_waited_for_room_shares_flushes(log: Log) -> None:
    commit: GroupCommit[str, str] = GroupCommit(log.flush, max_items=50, max_queued_items=100)
    items = [str(number) for number in range(1000)]
    await asyncio.gather(*(commit.submit("k", item, 1) for item in items))
    assert [item for batch in log.batches for item in batch] == items
    assert len(log.batches) == 20


async def test_cancelled_waiters_leave_the_others_in_order(log: Log) -> None:
    commit: GroupCommit[str, str] = GroupCommit(log.flush, max_items=50, max_queued_items=100)
    log.gate.clear()
    tasks = await start(*(commit.submit("k", str(number), 1) for number in range(1000)))
    for task in tasks[:99:-3]:
        task.cancel()
    log.gate.set()
    await asyncio.wait(tasks)
    flushed = [item for batch in log.batches for item in batch]
    assert flushed == [str(at) for at, task in enumerate(tasks) if not task.cancelled()]
    assert len(flushed) == 700


async def test_too_few_outcomes_fail_the_batch() -> None:
    async def flush(batch: list[str]) -> Sequence[Outcome[str]]:
        return batch[1:]

    commit: GroupCommit[str, str] = GroupCommit(flush)
    async with asyncio.timeout(LONG_ENOUGH):
        outcomes = await asyncio.gather(
            *(commit.submit("k", item, 1) for item in "abc"), return_exceptions=True
        )
    assert [type(outcome) for outcome in outcomes] == [RuntimeError] * 3


async def test_nobody_overtakes_a_caller_whose_turn_has_come(log: Log) -> None:
    commit: GroupCommit[str, str] = GroupCommit(log.flush, max_queued_bytes=100)
    log.gate.clear()

    async def come_late() -> str:
        await log.gate.wait()
        await asyncio.sleep(0)
        return await commit.submit("k", "late", 1)

    tasks = await start(commit.submit("k", "0", 1))
    tasks += await start(*(commit.submit("k", item, 60) for item in "12345"), come_late())
    log.gate.set()
    await asyncio.gather(*tasks)
    assert [item for batch in log.batches for item in batch] == [*"012345", "late"]


async def test_close_turns_all_away_who_wait_for_room(log: Log) -> None:
    commit: GroupCommit[str, str] = GroupCommit(log.flush, max_queued_items=1)
    log.gate.clear()
    (first,) = await start(commit.submit("k", "a", 1))
    queued, *waiting = await start(*(commit.submit("k", item, 1) for item in "bcde"))
    (closing,) = await start(commit.aclose())
    for task in waiting:
        with pytest.raises(StoreClosedError):
            await task
    log.gate.set()
    await closing
    assert [await first, await queued] == ["A", "B"]


async def test_a_cancelled_waiter_passes_its_turn_on(log: Log) -> None:
    commit: GroupCommit[str, str] = GroupCommit(log.flush, max_queued_items=1)
    log.gate.clear()
    (first,) = await start(commit.submit("k", "a", 1))
    queued, waiting, last = await start(*(commit.submit("k", item, 1) for item in "bcd"))
    waiting.cancel()
    log.gate.set()
    assert list(await asyncio.gather(first, queued, last)) == ["A", "B", "D"]
    assert waiting.cancelled()


async def test_close_completes_what_was_taken_and_refuses_the_rest(log: Log) -> None:
    commit: GroupCommit[str, str] = GroupCommit(log.flush)
    log.gate.clear()
    (task,) = await start(commit.submit("k", "a", 1))
    (closing,) = await start(commit.aclose())
    with pytest.raises(StoreClosedError):
        await commit.submit("k", "b", 1)
    assert not closing.done()
    log.gate.set()
    await closing
    assert await task == "A"
    await commit.aclose()


# Two flushes at the same time.


async def test_many_keys_go_in_two_halves_at_the_same_time(log: Log) -> None:
    commit: GroupCommit[str, str] = GroupCommit(log.flush, max_flushes=2)
    log.gate.clear()
    tasks = await start(*(commit.submit(f"k{n}", f"i{n}", 1) for n in range(100)))
    assert [len(batch) for batch in log.batches] == [50, 50]
    log.gate.set()
    assert await asyncio.gather(*tasks) == [f"I{n}" for n in range(100)]


@pytest.mark.parametrize("count", [1, 8, 40])
async def test_few_callers_share_one_flush(log: Log, count: int) -> None:
    commit: GroupCommit[str, str] = GroupCommit(log.flush, max_flushes=2)
    log.gate.clear()
    tasks = await start(*(commit.submit(f"k{n}", f"i{n}", 1) for n in range(count)))
    assert [len(batch) for batch in log.batches] == [count]
    log.gate.set()
    await asyncio.gather(*tasks)


@pytest.mark.parametrize("keys", [1, 30])
async def test_callers_of_few_keys_share_one_flush(log: Log, keys: int) -> None:
    commit: GroupCommit[str, str] = GroupCommit(log.flush, max_flushes=2)
    log.gate.clear()
    tasks = await start(*(commit.submit(f"k{n % keys}", f"i{n}", 1) for n in range(300)))
    assert [len(batch) for batch in log.batches] == [300]
    log.gate.set()
    assert await asyncio.gather(*tasks) == [f"I{n}" for n in range(300)]


async def test_all_that_a_key_has_goes_in_the_same_half(log: Log) -> None:
    commit: GroupCommit[str, str] = GroupCommit(log.flush, max_flushes=2)
    log.gate.clear()
    tasks = await start(*(commit.submit(f"k{n % 60}", f"k{n % 60}", 1) for n in range(180)))
    assert [len(batch) for batch in log.batches] == [90, 90]
    assert not set(log.batches[0]) & set(log.batches[1])
    log.gate.set()
    await asyncio.gather(*tasks)


async def test_what_comes_for_a_busy_key_waits_and_holds_back_no_other(log: Log) -> None:
    commit: GroupCommit[str, str] = GroupCommit(log.flush, max_flushes=2)
    log.gate.clear()
    tasks = await start(*(commit.submit(f"k{n}", f"i{n}", 1) for n in range(30)))
    tasks += await start(*(commit.submit(f"k{n}", f"j{n}", 1) for n in range(60)))
    assert log.batches == [[f"i{n}" for n in range(30)], [f"j{n}" for n in range(30, 60)]]
    log.gate.set()
    await asyncio.gather(*tasks)
    assert log.batches[2:] == [[f"j{n}" for n in range(30)]]


async def test_a_deferred_outcome_holds_its_key_in_the_other_flush_too(log: Log) -> None:
    commit: GroupCommit[str, str] = GroupCommit(log.flush, max_flushes=2)
    later: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    log.outcomes["i99"] = later
    log.gate.clear()
    tasks = await start(*(commit.submit(f"k{n}", f"i{n}", 1) for n in range(100)))
    behind = await start(*(commit.submit(f"k{n}", f"j{n}", 1) for n in range(100)))
    log.gate.set()
    assert await asyncio.gather(*tasks[:-1]) == [f"I{n}" for n in range(99)]
    assert await asyncio.gather(*behind[:-1]) == [f"J{n}" for n in range(99)]
    assert not behind[-1].done()
    later.set_result("at last")
    assert await tasks[-1] == "at last"
    assert await behind[-1] == "J99"


async def test_a_failing_half_fails_without_the_other(log: Log) -> None:
    async def flush(batch: list[str]) -> Sequence[Outcome[str]]:
        if "i0" in batch:
            raise OSError("disk")
        return batch

    commit: GroupCommit[str, str] = GroupCommit(flush, max_flushes=2)
    calls = [commit.submit(f"k{n}", f"i{n}", 1) for n in range(100)]
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [OSError] * 50 + [str] * 50


# A flush beside the callers of the last one.


@pytest.mark.parametrize(
    ("share", "callers", "overlaps", "untold"),
    [(0.9, 64, True, 32), (0.1, 64, True, 0), (0.9, 64, False, 0), (0.9, 40, True, 0)],
)
async def test_a_busy_thread_flushes_beside_the_callers_of_the_last_batch(
    monkeypatch: pytest.MonkeyPatch, share: float, callers: int, overlaps: bool, untold: int
) -> None:
    monkeypatch.setattr(batching, "time", Clock(share))
    flushed: list[int] = []
    told: list[int] = []
    # How many callers of earlier batches didn't know as each batch left.
    beside: list[int] = []

    async def flush(batch: list[int]) -> Sequence[Outcome[int]]:
        beside.append(len(flushed) - len(told))
        flushed.extend(batch)
        await asyncio.sleep(0)
        return batch

    commit: GroupCommit[int, int] = GroupCommit(flush, overlaps=overlaps)

    async def caller(number: int) -> None:
        for item in range(number, 100 * callers, callers):
            assert await commit.submit("k", item, 1) == item
            told.append(item)

    async with asyncio.timeout(LONG_ENOUGH):
        await asyncio.gather(*map(caller, range(callers)))
        await commit.aclose()
    assert sorted(flushed) == list(range(100 * callers))
    assert max(beside) == untold


class Numbered(NamedTuple):
    key: str
    number: int


class Unchained(Numbered):
    pass


class Ordered:
    """A flush that keeps the order of each key's batches, as one with ``chained`` has to."""

    def __init__(self, random: Random) -> None:
        self.begun: defaultdict[str, list[int]] = defaultdict(list)
        self.most_at_once = 0
        self._random = random
        self._under_way: defaultdict[str, list[asyncio.Event]] = defaultdict(list)
        self._last_could_chain = False

    async def __call__(self, batch: list[Numbered]) -> Sequence[Outcome[int]]:
        keys = {item.key for item in batch}
        before = [event for key in keys for event in self._under_way[key]]
        own = asyncio.Event()
        for key in keys:
            self._under_way[key].append(own)
            at_once = len(self._under_way[key])
            self.most_at_once = max(self.most_at_once, at_once)
            assert at_once <= 2
        can_chain = len(keys) == 1 and {type(item) for item in batch} == {Numbered}
        assert not before or (can_chain and self._last_could_chain)
        self._last_could_chain = can_chain
        for item in batch:
            self.begun[item.key].append(item.number)
        for _ in range(self._random.randrange(8)):
            await asyncio.sleep(0)
        for event in before:
            await event.wait()
        own.set()
        for key in keys:
            self._under_way[key].remove(own)
        return [item.number for item in batch]


@pytest.mark.parametrize(
    ("share", "callers", "chained", "item", "at_once"),
    [
        (0.9, 64, True, Numbered, 2),
        (0.1, 64, True, Numbered, 1),
        (0.9, 64, False, Numbered, 1),
        (0.9, 64, True, Unchained, 1),
        (0.9, 40, True, Numbered, 1),
    ],
)
async def test_a_busy_thread_sends_one_keys_next_batch_beside_the_last(
    monkeypatch: pytest.MonkeyPatch,
    share: float,
    callers: int,
    chained: bool,
    item: type[Numbered],
    at_once: int,
) -> None:
    monkeypatch.setattr(batching, "time", Clock(share))
    flush = Ordered(Random(1))
    commit: GroupCommit[Numbered, int] = GroupCommit(
        flush,
        max_flushes=2,
        overlaps=True,
        chained=frozenset({Numbered}) if chained else frozenset(),
    )

    async def caller(first: int) -> None:
        for number in range(first, 50 * callers, callers):
            assert await commit.submit("k", item("k", number), 1) == number

    async with asyncio.timeout(LONG_ENOUGH):
        await asyncio.gather(*map(caller, range(callers)))
        await commit.aclose()
    assert sorted(flush.begun["k"]) == list(range(50 * callers))
    assert flush.most_at_once == at_once


@pytest.mark.parametrize("keys", [1, 2, 30])
@pytest.mark.parametrize("unchained", [0.0, 0.002])
@pytest.mark.parametrize("seed", range(10))
async def test_any_load_keeps_the_order_of_each_key_where_batches_are_chained(
    monkeypatch: pytest.MonkeyPatch, seed: int, unchained: float, keys: int
) -> None:
    monkeypatch.setattr(batching, "time", Clock(0.9))
    random = Random(seed)
    flush = Ordered(random)
    commit: GroupCommit[Numbered, int] = GroupCommit(
        flush,
        max_flushes=2,
        overlaps=True,
        chained=frozenset({Numbered}),
        max_items=40,
        max_bytes=1000,
        max_queued_items=150,
    )
    counts: defaultdict[str, int] = defaultdict(int)

    async def caller() -> None:
        for _ in range(20):
            key = "k0" if random.random() < 0.99 else f"k{random.randrange(keys)}"
            counts[key] += 1
            number = counts[key]
            item = (Unchained if random.random() < unchained else Numbered)(key, number)
            task = asyncio.ensure_future(commit.submit(key, item, random.randrange(50)))
            if random.random() < 0.05:
                await asyncio.sleep(0)
                task.cancel()
            with suppress(asyncio.CancelledError):
                assert await task == number

    async with asyncio.timeout(LONG_ENOUGH):
        await asyncio.gather(*(caller() for _ in range(200)))
        await commit.aclose()
    assert all(numbers == sorted(set(numbers)) for numbers in flush.begun.values())
    assert flush.most_at_once == 2


@pytest.mark.parametrize("share", [0.1, 0.9])
@pytest.mark.parametrize("keys", [1, 30, 200])
@pytest.mark.parametrize("seed", range(10))
async def test_any_load_keeps_the_order_of_each_key_and_no_key_in_two_flushes(
    monkeypatch: pytest.MonkeyPatch, seed: int, keys: int, share: float
) -> None:
    monkeypatch.setattr(batching, "time", Clock(share))
    random = Random(seed)
    under_way: set[str] = set()
    flushed: defaultdict[str, list[int]] = defaultdict(list)
    most_at_once = 0

    async def flush(batch: list[tuple[str, int]]) -> Sequence[Outcome[int]]:
        nonlocal most_at_once
        own = {key for key, _ in batch}
        assert not own & under_way
        under_way.update(own)
        most_at_once = max(most_at_once, len(under_way) - len(own))
        for _ in range(random.randrange(4)):
            await asyncio.sleep(0)
        under_way.difference_update(own)
        outcomes: list[Outcome[int]] = []
        for key, number in batch:
            flushed[key].append(number)
            if random.random() < 0.02:
                outcomes.append(later(number))
            else:
                outcomes.append(ValueError(number) if random.random() < 0.1 else number)
        return outcomes

    def later(number: int) -> asyncio.Future[int]:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[int] = loop.create_future()
        loop.call_later(random.random() / 1000, future.set_result, number)
        return future

    commit: GroupCommit[tuple[str, int], int] = GroupCommit(
        flush,
        max_flushes=2,
        overlaps=True,
        max_items=100,
        max_bytes=3000,
        max_queued_items=150,
    )
    counts: defaultdict[str, int] = defaultdict(int)

    async def caller() -> None:
        for _ in range(10):
            key = f"k{random.randrange(keys)}"
            counts[key] += 1
            number = counts[key]
            task = asyncio.ensure_future(commit.submit(key, (key, number), random.randrange(50)))
            if random.random() < 0.1:
                await asyncio.sleep(0)
                task.cancel()
            with suppress(asyncio.CancelledError, ValueError):
                assert await task == number

    async with asyncio.timeout(LONG_ENOUGH):
        await asyncio.gather(*(caller() for _ in range(200)))
        await commit.aclose()
    assert not under_way
    assert all(numbers == sorted(set(numbers)) for numbers in flushed.values())
    assert most_at_once == 0 if keys == 1 else most_at_once or keys < 200


# The end of an event loop.


async def test_a_drainer_that_is_cancelled_leaves_nobody_waiting(log: Log) -> None:
    commit: GroupCommit[str, str] = GroupCommit(log.flush)
    before = asyncio.all_tasks()
    log.gate.clear()
    (under_way,) = await start(commit.submit("k", "a", 1))
    (queued,) = await start(commit.submit("k", "b", 1))
    (drainer,) = asyncio.all_tasks() - before - {under_way, queued}
    drainer.cancel()
    log.gate.set()
    with pytest.raises(asyncio.CancelledError):
        await under_way
    async with asyncio.timeout(LONG_ENOUGH):
        assert await queued == "B"
        assert await commit.submit("k", "c", 1) == "C"
        await commit.aclose()


@pytest.mark.parametrize("max_flushes", [1, 2])
def test_a_task_may_write_while_the_loop_shuts_down(max_flushes: int) -> None:
    log = Log()

    async def main() -> None:
        commit: GroupCommit[str, str] = GroupCommit(log.flush, max_flushes=max_flushes)

        async def last_words(n: int) -> None:
            try:
                await asyncio.Event().wait()
            finally:
                await commit.submit(f"k{n}", f"i{n}", 1)

        tasks = await start(*(last_words(n) for n in range(100)))
        assert await commit.submit("k", "a", 1) == "A"
        assert not any(task.done() for task in tasks)

    asyncio.run(main())
    assert sorted(item for batch in log.batches for item in batch) == sorted(
        ["a", *(f"i{n}" for n in range(100))]
    )


def test_an_interrupted_flush_leaves_nobody_waiting() -> None:
    ends: list[str] = []

    async def flush(batch: list[str]) -> Sequence[Outcome[str]]:
        await asyncio.sleep(0)
        raise KeyboardInterrupt

    async def main() -> None:
        commit: GroupCommit[str, str] = GroupCommit(flush, max_flushes=2)

        async def caller(n: int) -> None:
            try:
                await commit.submit(f"k{n}", f"i{n}", 1)
            finally:
                ends.append(f"k{n}")

        await asyncio.gather(*(caller(n) for n in range(10)))

    with pytest.raises(KeyboardInterrupt):
        asyncio.run(main())
    assert len(ends) == 10
