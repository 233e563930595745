"""Worker threads: results, errors, limits, and an orderly end."""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from asyncsessions import StoreClosedError, StoreUnavailableError
from asyncsessions.stores._threads import Workers


def alive() -> int:
    return sum(thread.name.startswith("test-") for thread in threading.enumerate())


async def until(condition: object) -> None:
    deadline = time.monotonic() + 10
    while not condition():  # type: ignore[operator]  # a function without arguments
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)


async def test_results_and_errors_come_back() -> None:
    workers = Workers(2, "test")
    assert await workers.run(max, 3, 5) == 5
    with pytest.raises(ZeroDivisionError):
        await workers.run(lambda: 1 // 0)
    assert await workers.run(threading.current_thread) is not threading.current_thread()
    workers.stop()


async def test_no_more_threads_than_the_limit_and_none_without_need() -> None:
    workers = Workers(3, "test")
    for _ in range(5):
        await workers.run(int)
    assert alive() == 1
    gate = threading.Event()
    calls = [asyncio.ensure_future(workers.run(gate.wait)) for _ in range(10)]
    await asyncio.sleep(0.02)
    assert alive() == 3
    gate.set()
    assert await asyncio.gather(*calls) == [True] * 10
    workers.stop()
    await until(lambda: alive() == 0)


async def test_parts_are_shared_and_all_have_ended_when_one_fails() -> None:
    workers = Workers(3, "test")
    done: list[int] = []
    threads: set[threading.Thread] = set()

    def work(part: int) -> None:
        threads.add(threading.current_thread())
        time.sleep(0.02)
        done.append(part)
        if part in failing:
            raise LookupError(part)

    failing: set[int] = set()
    await asyncio.to_thread(workers.share, work, range(4))
    assert sorted(done) == [0, 1, 2, 3]
    assert len(threads) == 4
    for part in (0, 2):
        done.clear()
        failing = {part}
        with pytest.raises(LookupError):
            await asyncio.to_thread(workers.share, work, range(4))
        assert sorted(done) == [0, 1, 2, 3]
    await asyncio.to_thread(workers.share, work, [])
    workers.stop()
    await until(lambda: alive() == 0)


async def test_stopped_threads_take_nothing_more() -> None:
    workers = Workers(3, "test")
    assert await workers.run(int) == 0
    workers.stop()
    with pytest.raises(StoreClosedError):
        await workers.run(int)
    # Parts are done all the same, by the thread that shares them.
    done: list[int] = []
    workers.share(done.append, [1, 2, 3])
    assert done == [1, 2, 3]
    await until(lambda: alive() == 0)


async def test_a_thread_that_cannot_be_started_is_done_without(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError(f"can't start new thread {thread.name}")

    workers = Workers(3, "test")
    done: list[int] = []
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(StoreUnavailableError):
            await workers.run(int)
        workers.share(done.append, [1, 2, 3])
    assert sorted(done) == [1, 2, 3]
    assert await workers.run(int) == 0
    workers.stop()
    await until(lambda: alive() == 0)


async def test_a_cancelled_call_still_ends_in_its_thread() -> None:
    workers = Workers(1, "test")
    gate, ended = threading.Event(), threading.Event()

    def work() -> None:
        gate.wait()
        ended.set()

    call = asyncio.ensure_future(workers.run(work))
    await asyncio.sleep(0.01)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    gate.set()
    await until(ended.is_set)
    assert await workers.run(max, 1, 2) == 2
    workers.stop()
    await until(lambda: alive() == 0)


async def test_dropped_workers_leave_no_thread_behind() -> None:
    workers = Workers(2, "test")
    await workers.run(int)
    del workers
    gc.collect()
    await until(lambda: alive() == 0)


def test_a_store_goes_on_in_a_forked_child(tmp_path: Path) -> None:
    script = """
import asyncio, os, signal, sys
from asyncsessions.stores.jsonl import JSONLinesSessionStore
store = JSONLinesSessionStore(sys.argv[1])
async def use(text):
    await asyncio.gather(*(store.add_message(f"s{i}", "user", text) for i in range(20)))
async def count():
    return {len(await store.get_messages(f"s{i}")) for i in range(20)}
asyncio.run(use("parent"))
pid = os.fork()
if not pid:
    signal.alarm(10)
    asyncio.run(use("child"))
    os._exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
asyncio.run(use("parent again"))
assert asyncio.run(count()) == {3}
"""
    command = [sys.executable, "-c", script, str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)}
    subprocess.run(command, check=True, timeout=50, env=environment)


def test_a_process_ends_though_its_store_was_never_closed(tmp_path: Path) -> None:
    script = """
import asyncio, sys
from asyncsessions import open_store
store = open_store(f"jsonl://{sys.argv[1]}")
asyncio.run(store.add_message("chat", "user", "Hello"))
"""
    command = [sys.executable, "-c", script, str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)}
    subprocess.run(command, check=True, timeout=20, env=environment)


def test_a_store_can_be_used_and_closed_while_the_process_exits(tmp_path: Path) -> None:
    script = """
import asyncio, atexit, sys
from asyncsessions import open_store
def at_exit():
    async def use():
        await store.add_message("chat", "user", "Good bye")
        await store.aclose()
    asyncio.run(asyncio.wait_for(use(), 10))
    print("done")
# Before the store, so it runs after whatever that does at the exit.
atexit.register(at_exit)
store = open_store(f"jsonl://{sys.argv[1]}")
asyncio.run(store.add_message("chat", "user", "Hello"))
"""
    command = [sys.executable, "-c", script, str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)}
    done = subprocess.run(command, check=True, timeout=50, env=environment, capture_output=True)
    assert done.stdout == b"done\n", done.stderr
