"""Writers that are killed or stopped in the middle of it."""

from __future__ import annotations

import asyncio
import itertools
import multiprocessing
import os
import random
import signal
import time
from collections import defaultdict
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from asyncsessions import LockTimeoutError, open_store
from asyncsessions.stores._disk import Disk
from asyncsessions.stores.jsonl import JSONLinesSessionStore
from asyncsessions.testing.timing import LONG_ENOUGH, slowness

KILLS = 200
AT_ONCE = 2


@pytest.fixture(scope="module")
def processes() -> Any:
    """Processes that start fast, because their parent has imported the package."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.faults.test_killed"])
    return context


def write_until_killed(url: str, name: str, acknowledged: Connection) -> None:
    async def write() -> None:
        async with open_store(url) as store:

            async def caller(number: int) -> None:
                for count in itertools.count():
                    session_id = ("hot", "warm", f"cold-{name}-{number}")[count % 3]
                    text = f"{name}.{number}.{count}"
                    await store.add_message(session_id, "user", text.ljust(200, "."))
                    # Short enough for the pipe to take whole or not at all.
                    os.write(acknowledged.fileno(), f"{session_id} {text}\n".encode())

            await asyncio.gather(*map(caller, range(8)))

    asyncio.run(write())


async def test_killed_writers_lose_and_double_nothing(tmp_path: Path, processes: Any) -> None:
    url = f"jsonl://{tmp_path}"
    rng = random.Random(7)
    acknowledged: dict[str, list[str]] = defaultdict(list)
    for turn in range(KILLS // AT_ONCE):
        for line in await asyncio.to_thread(kill_some, processes, url, turn, rng):
            session_id, text = line.split()
            acknowledged[session_id].append(text)
    async with open_store(url, lock_timeout=LONG_ENOUGH) as store:
        for session_id, texts in acknowledged.items():
            # Whoever comes next can write, so no lock was left behind.
            await store.add_message(session_id, "user", "after")
            messages = await store.get_messages(session_id)
            stored = [str(message.content).rstrip(".") for message in messages[:-1]]
            assert len(set(stored)) == len(stored)
            assert set(texts) <= set(stored)
            assert [message.seq for message in messages] == list(range(1, len(messages) + 1))
            assert in_order(stored)
    assert sum(map(len, acknowledged.values())) > KILLS


def kill_some(processes: Any, url: str, turn: int, rng: random.Random) -> list[str]:
    """Start writers, kill them at a random moment, and return what was acknowledged to them."""
    started = []
    for number in range(AT_ONCE):
        receiver, sender = processes.Pipe(duplex=False)
        process = processes.Process(
            target=write_until_killed, args=(url, f"{turn}-{number}", sender)
        )
        process.start()
        sender.close()
        started.append((process, receiver))
    received = b"".join(os.read(receiver.fileno(), 1 << 16) for _, receiver in started)
    time.sleep(rng.random() * 0.03)
    for process, _ in started:
        os.kill(process.pid, signal.SIGKILL)
    for process, receiver in started:
        while block := os.read(receiver.fileno(), 1 << 16):
            received += block
        receiver.close()
        process.join()
    return received.decode().splitlines()


def in_order(texts: list[str]) -> bool:
    """Whether each caller's messages are in the order in which it sent them."""
    newest: dict[str, int] = {}
    for text in texts:
        caller, _, count = text.rpartition(".")
        if newest.get(caller, -1) >= int(count):
            return False
        newest[caller] = int(count)
    return True


class StoppingDisk(Disk):
    """Stops its whole process when data is written but not yet synced."""

    def sync(self, fd: int) -> None:
        # To this thread: sent to the process, it may come to another one, and this one goes on.
        signal.raise_signal(signal.SIGSTOP)
        super().sync(fd)


def append_and_stop(directory: str, acknowledged: Connection) -> None:
    async def write() -> None:
        async with JSONLinesSessionStore(directory, disk=StoppingDisk()) as store:
            await store.add_message("locked", "user", "from the stopped one")
            acknowledged.send("acknowledged")

    asyncio.run(write())


async def test_a_stopped_lock_holder_delays_only_its_session(
    tmp_path: Path, processes: Any
) -> None:
    receiver, sender = processes.Pipe(duplex=False)
    holder = processes.Process(target=append_and_stop, args=(str(tmp_path), sender))
    holder.start()
    try:
        await asyncio.to_thread(wait_until_stopped, holder.pid)
        lock_timeout = 2 * slowness()
        async with open_store(f"jsonl://{tmp_path}", lock_timeout=lock_timeout) as store:
            locked = asyncio.create_task(store.add_message("locked", "user", "from the other"))
            started = time.monotonic()
            others = 0
            while not locked.done():
                await store.add_message("free", "user", str(others))
                others += 1
            with pytest.raises(LockTimeoutError) as caught:
                await locked
            assert time.monotonic() - started >= lock_timeout
            assert caught.value.session_id == "locked"
            assert others > 5
            assert len(await store.get_messages("free")) == others
            os.kill(holder.pid, signal.SIGCONT)
            assert await asyncio.to_thread(receiver.recv) == "acknowledged"
            await store.add_message("locked", "user", "again")
            history = await store.get_chat_history("locked")
        assert [turn["content"] for turn in history] == ["from the stopped one", "again"]
    finally:
        holder.kill()
        holder.join()


def wait_until_stopped(pid: int) -> None:
    deadline = time.monotonic() + LONG_ENOUGH
    while Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "T":
        assert time.monotonic() < deadline, "the holder never stopped"
        time.sleep(0.01)
