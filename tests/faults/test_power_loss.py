"""Whatever a power loss leaves, everything acknowledged is there, once and in order."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest

from asyncsessions import open_store
from asyncsessions.models import Message
from asyncsessions.stores.jsonl import JSONLinesSessionStore
from tests.faults.disks import Platters, RecordingDisk

SESSIONS = ("hot", "warm", "user:42/long")


class Run:
    """Drives a store on a recording disk, and notes what was submitted and acknowledged."""

    def __init__(self, directory: Path) -> None:
        self.disk = RecordingDisk()
        self.store = JSONLinesSessionStore(directory, disk=self.disk)
        self.number = 0

    async def append(self, session_id: str, count: int, size: int) -> None:
        texts = []
        for _ in range(count):
            self.number += 1
            texts.append(f"{self.number}:".ljust(size, "x"))
        self.disk.note("submitted", session_id, texts)
        await self.store.append(session_id, [Message("user", text) for text in texts])
        self.disk.note("acknowledged", session_id, texts)

    async def increment(self, session_id: str) -> None:
        self.disk.note("incrementing", session_id)
        total = await self.store.increment_state(session_id, "n")
        self.disk.note("incremented", session_id, total)

    async def clear(self, session_id: str) -> None:
        self.disk.note("clearing", session_id)
        await self.store.clear_session(session_id)
        self.disk.note("cleared", session_id)

    async def all(self, rng: random.Random) -> None:
        async with self.store:
            for _ in range(12):
                jobs = []
                for session_id in SESSIONS:
                    jobs += [
                        self.append(session_id, rng.choice([1, 1, 3]), rng.choice([40, 300, 3000]))
                        for _ in range(rng.randint(1, 6))
                    ]
                    jobs.append(self.increment(session_id))
                await asyncio.gather(*jobs)
            # Dead records enough that the file is rewritten, and a clear, which rewrites it, too.
            await self.store.update_session_metadata("warm", notes="n" * 30_000)
            for _ in range(8):
                await self.increment("warm")
            await self.append("warm", 2, 100)
            await self.clear("hot")
            await self.append("hot", 3, 100)


class Expected:
    """What must, and what may, be read after a crash at some moment of a run."""

    def __init__(self) -> None:
        self.must: dict[str, set[str]] = {name: set() for name in SESSIONS}
        self.may: dict[str, set[str]] = {name: set() for name in SESSIONS}
        self.must_not: dict[str, set[str]] = {name: set() for name in SESSIONS}
        self.least = dict.fromkeys(SESSIONS, 0)
        self.most = dict.fromkeys(SESSIONS, 0)

    def follow(self, event: tuple[object, ...]) -> None:
        match event:
            case ("submitted", str(name), list(texts)):
                self.may[name].update(texts)
            case ("acknowledged", str(name), list(texts)):
                self.must[name].update(texts)
            case ("incrementing", str(name)):
                self.most[name] += 1
            case ("incremented", str(name), int() | float() as total):
                self.least[name] = max(self.least[name], int(total))
            case ("clearing", str(name)):
                self.must[name].clear()
            case ("cleared", str(name)):
                self.must_not[name] |= self.may[name]


@pytest.mark.parametrize("seed", range(3))
async def test_power_loss_keeps_everything_acknowledged(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    run = Run(tmp_path / "run")
    await run.all(rng)
    platters, expected = Platters(), Expected()
    for index, event in enumerate(run.disk.events):
        platters.replay(event)
        expected.follow(event)
        if rng.random() < 0.5:
            directory = tmp_path / str(index)
            directory.mkdir()
            platters.after_power_loss(rng, directory)
            await check(directory, expected)


@pytest.mark.parametrize("seed", range(20))
async def test_large_batch_that_nobody_was_told_of_is_there_or_not(
    tmp_path: Path, seed: int
) -> None:
    rng = random.Random(seed)
    run = Run(tmp_path / "run")
    async with run.store:
        await run.append("hot", 2, 100)
        await run.append("hot", 400, 1000)
    platters, expected = Platters(), Expected()
    syncs = 0
    for event in run.disk.events:
        if event[0] == "sync":
            syncs += 1
            if syncs == 2:
                break  # The large one was written, and its sync is under way.
        platters.replay(event)
        expected.follow(event)
    directory = tmp_path / "after"
    directory.mkdir()
    platters.after_power_loss(rng, directory)
    await check(directory, expected)


@pytest.mark.parametrize("kind", ["jsonl", "json"])
async def test_what_a_repeated_key_is_told_is_durable(tmp_path: Path, kind: str) -> None:
    messages = [Message("user", "Hello")]
    # Whoever wrote it ended before they synced it.
    async with open_store(f"{kind}://{tmp_path}?durability=os") as store:
        stored = await store.append("chat", messages, idempotency_key="k")
    disk = RecordingDisk()
    async with open_store(f"{kind}://{tmp_path}", disk=disk) as store:
        assert await store.append("chat", messages, idempotency_key="k") == stored
        names = [event[0] for event in disk.events]
        assert names.index("sync") < names.index("sync_directory")
        assert "write" not in names
        disk.events.clear()
        if kind == "jsonl":
            await store.append("chat", messages, idempotency_key="k")
            assert not disk.events


async def check(directory: Path, expected: Expected) -> None:
    async with JSONLinesSessionStore(directory, durability="os") as store:
        for name in SESSIONS:
            messages = await store.get_messages(name)
            texts = [str(message.content) for message in messages]
            assert set(texts) >= expected.must[name]
            assert not set(texts) & (expected.must_not[name] - expected.must[name])
            assert set(texts) <= expected.may[name]
            assert len(set(texts)) == len(texts)
            seqs = [message.seq for message in messages]
            assert seqs == list(range(seqs[0], seqs[0] + len(seqs))) if seqs else True
            total = await store.get_state(name, "n", 0)
            assert expected.least[name] <= total <= expected.most[name]
            # The session goes on as if nothing had happened.
            last_seq = (await store.get_session(name, max_messages=0)).last_seq
            (stored,) = await store.append(name, [Message("user", "after")])
            assert stored.seq == last_seq + 1
            assert await store.get_messages(name, limit=1) == [stored]
