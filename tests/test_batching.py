"""Group commit: what is combined, in which order, and what happens to the odd one out."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from asyncsessions.batching import GroupCommit, Outcome
from asyncsessions.errors import StoreClosedError
from asyncsessions.testing.timing import LONG_ENOUGH


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
