"""Work that runs to its end, whoever waits for it."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest
import pytest_asyncio

from asyncsessions.stores._detached import Detached


@pytest_asyncio.fixture
async def complaints() -> list[Any]:
    """Return what the event loop is told that nobody else was."""
    told: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    return told


async def after(turns: int, outcome: object) -> object:
    """Return or raise an outcome after so many turns of the loop."""
    for _ in range(turns):
        await asyncio.sleep(0)
    if isinstance(outcome, BaseException):
        raise outcome
    return outcome


@pytest.mark.parametrize("turns", [0, 3])
async def test_the_caller_gets_what_the_work_comes_to(turns: int) -> None:
    detached = Detached()
    assert await detached.run(after, turns, 1) == 1
    with pytest.raises(KeyError, match="gone"):
        await detached.run(after, turns, KeyError("gone"))


@pytest.mark.parametrize("outcome", [1, KeyError("gone")], ids=["done", "failed"])
@pytest.mark.parametrize("turns", range(1, 9))
async def test_work_goes_on_without_its_caller_and_nobody_complains(
    complaints: list[Any], turns: int, outcome: object
) -> None:
    """Whenever the caller leaves: before the work ends, in the same turn, or after it."""
    detached = Detached()
    ended: list[object] = []

    async def work() -> object:
        try:
            return await after(4, outcome)
        finally:
            ended.append(outcome)

    caller = asyncio.create_task(detached.run(work))
    await after(turns, None)
    caller.cancel()
    await asyncio.wait([caller])
    await detached.finish()

    assert ended == [outcome]
    del caller
    gc.collect()
    await asyncio.sleep(0)
    assert complaints == []


@pytest.mark.parametrize("turns", [1, 2])
async def test_cancelled_work_cancels_its_caller(turns: int) -> None:
    """Also where it never began."""
    detached = Detached()
    caller = asyncio.create_task(detached.run(after, 100, 1))
    await after(turns, None)
    for task in asyncio.all_tasks() - {caller, asyncio.current_task()}:
        task.cancel()
    await asyncio.wait([caller])
    assert caller.cancelled()
    await detached.finish()
