"""Load on a store from several processes, and the proof that nothing of it was lost or doubled."""

from __future__ import annotations

import asyncio
import json
import os
import random
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asyncsessions import StoreUnavailableError, open_store
from asyncsessions.protocols import SessionStore

CALLERS = 12
SESSIONS = ("hot", "warm", "cold-{name}-{number}")


@dataclass(slots=True)
class Heard:
    """What one process heard of its calls.

    ``stored`` has session, text and ``seq`` of each message that was acknowledged; ``unknown``
    session and text of those whose call failed, which may be stored, but once at the most.
    """

    stored: list[tuple[str, str, int]]
    unknown: list[tuple[str, str]]
    increments: int = 0
    unknown_increments: int = 0
    longest_call: float = 0.0
    failures: int = 0


class Worker:
    """The callers of one process."""

    def __init__(self, store: SessionStore, name: str) -> None:
        self._store = store
        self._name = name
        self._heard = Heard([], [])
        self._is_over = False

    async def run(self) -> Heard:
        """Work until a line comes in, and return what was heard."""
        callers = [asyncio.ensure_future(self._call(number)) for number in range(CALLERS)]
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        self._is_over = True
        await asyncio.gather(*callers)
        return self._heard

    async def _call(self, number: int) -> None:
        rng = random.Random(f"{self._name}{number}")
        count = 0
        while not self._is_over:
            count += 1
            session_id = rng.choice(SESSIONS).format(name=self._name, number=number)
            text = f"{self._name}.{number}.{count}"
            start = time.monotonic()
            kind = rng.random()
            if kind < 0.6:
                await self._append(session_id, text)
            elif kind < 0.8:
                await self._append_with_key(session_id, text)
                continue
            else:
                await self._increment()
            self._heard.longest_call = max(self._heard.longest_call, time.monotonic() - start)

    async def _append(self, session_id: str, text: str) -> None:
        try:
            stored = await self._store.append(session_id, [{"role": "user", "content": text}])
        except StoreUnavailableError:
            self._heard.unknown.append((session_id, text))
            await self._rest()
        else:
            self._heard.stored.append((session_id, text, stored[0].seq))

    async def _append_with_key(self, session_id: str, text: str) -> None:
        """Append with a key, again and again until it is acknowledged."""
        message = {"role": "user", "content": text}
        while True:
            try:
                stored = await self._store.append(session_id, [message], idempotency_key=text)
            except StoreUnavailableError:
                await self._rest()
            else:
                self._heard.stored.append((session_id, text, stored[0].seq))
                return

    async def _increment(self) -> None:
        try:
            await self._store.increment_state("counter", "n")
        except StoreUnavailableError:
            self._heard.unknown_increments += 1
            await self._rest()
        else:
            self._heard.increments += 1

    async def _rest(self) -> None:
        self._heard.failures += 1
        await asyncio.sleep(0.05)


@contextmanager
def processes(url: str, count: int) -> Iterator[list[subprocess.Popen[str]]]:
    """Run workers; `collect` ends them. Whatever happens, none is left."""
    root = str(Path(__file__).parents[2])
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([root, *filter(None, sys.path)])}
    workers = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.faults.load", url, f"p{number}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for number in range(count)
    ]
    try:
        for worker in workers:
            assert worker.stdout is not None
            assert worker.stdout.readline() == "ready\n"
        yield workers
    finally:
        for worker in workers:
            worker.kill()
            worker.communicate()


def collect(workers: list[subprocess.Popen[str]]) -> list[Heard]:
    """End the work and return what each process heard."""
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("\n")
        worker.stdin.flush()
    heard = []
    for worker in workers:
        assert worker.stdout is not None
        answer: dict[str, Any] = json.loads(worker.stdout.readline())
        heard.append(Heard(**answer))
    return heard


async def check(url: str, heard: list[Heard]) -> None:
    """Assert that all that was acknowledged is there, once and in order, and nothing strange."""
    stored: dict[str, dict[int, str]] = defaultdict(dict)
    unknown: dict[str, set[str]] = defaultdict(set)
    for each in heard:
        for session_id, text, seq in each.stored:
            assert seq not in stored[session_id], "a number was given twice"
            stored[session_id][seq] = text
        for session_id, text in each.unknown:
            unknown[session_id].add(text)
    async with open_store(url) as store:
        for session_id in stored.keys() | unknown.keys():
            messages = await store.get_messages(session_id)
            # Said here, because pytest explains no assertion outside of its own modules.
            strange = [
                (place, message.seq, message.content)
                for place, message in enumerate(messages, 1)
                if message.seq != place
            ]
            assert not strange, f"{session_id!r} isn't dense, from {strange[:3]}"
            texts = [str(message.content) for message in messages]
            assert len(set(texts)) == len(texts), "a message is there twice"
            for seq, text in stored[session_id].items():
                assert texts[seq - 1 : seq] == [text], "an acknowledged message is lost"
            assert set(texts) <= set(stored[session_id].values()) | unknown[session_id]
            info = await store.get_session(session_id, max_messages=0)
            assert (info.last_seq, info.message_count) == (len(messages), len(messages))
        count = await store.get_state("counter", "n", 0)
        acknowledged = sum(each.increments for each in heard)
        maybe = sum(each.unknown_increments for each in heard)
        assert acknowledged <= count <= acknowledged + maybe
        listed = {info.session_id for info in await store.list_sessions(1000)}
        assert {session_id for session_id, messages in stored.items() if messages} <= listed


async def _main(url: str, name: str) -> None:
    async with open_store(url) as store:
        heard = await Worker(store, name).run()
    fields = {field: getattr(heard, field) for field in Heard.__slots__}
    print(json.dumps(fields), flush=True)


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1], sys.argv[2]))
