"""What other processes do in the conformance suite.

`SharedStoreConformance` runs this file as a script, so that it starts without the rest of the
suite. A worker reads its job, a JSON object, from the first line of its input, opens the store,
prints ``ready``, waits for a line, does its task, and prints the result as one line of JSON.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import sys
from collections.abc import Awaitable, Callable
from typing import Any

from asyncsessions.errors import VersionConflictError
from asyncsessions.protocols import SessionStore

__all__ = ["TASKS"]


def _user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


async def _append(
    store: SessionStore, writer: str, sessions: list[str], count: int
) -> list[tuple[str, str, int]]:
    """Append to several sessions at once; return session, text and ``seq`` of each message."""
    done: list[tuple[str, str, int]] = []

    async def write(session_id: str) -> None:
        for n in range(count):
            batch = [_user(f"{writer} {n}.{k}") for k in range(1 + n % 2)]
            stored = await store.append(session_id, batch)
            done.extend((session_id, str(each.content), each.seq) for each in stored)

    await asyncio.gather(*map(write, sessions))
    return done


async def _append_with_keys(
    store: SessionStore, session_id: str, count: int
) -> list[list[tuple[int, float]]]:
    """Append with keys that other workers use, too; return ``seq`` and timestamps."""
    results = []
    for n in range(count):
        batch = [_user(f"m{n}"), _user("x")]
        stored = await store.append(session_id, batch, idempotency_key=f"k{n}")
        results.append([(message.seq, message.timestamp) for message in stored])
    return results


async def _append_in_turn(store: SessionStore, session_id: str, count: int) -> int:
    """Append only behind what was read; return how often another worker was first."""
    conflicts, last_seq = 0, 0
    for _ in range(count):
        while True:
            try:
                text = f"after {last_seq}"
                stored = await store.append(session_id, [_user(text)], expected_seq=last_seq)
            except VersionConflictError as exc:
                conflicts += 1
                last_seq = exc.messages[-1].seq
            else:
                last_seq = stored[-1].seq
                break
    return conflicts


async def _append_for_ever(store: SessionStore, writer: str, session_id: str) -> None:
    """Append pairs from four tasks until killed; print each that was acknowledged."""

    async def write(task: int) -> None:
        n = 0
        while True:
            name = f"{writer}.{task} {n}"
            await store.append(session_id, [_user(f"{name} a"), _user(f"{name} b")])
            _print(name)
            n += 1

    await asyncio.gather(*map(write, range(4)))


async def _increment(store: SessionStore, session_id: str, count: int) -> list[float]:
    """Increment from several tasks; return every value seen."""
    calls = [store.increment_state(session_id, "n") for _ in range(count)]
    return await asyncio.gather(*calls)


async def _merge(store: SessionStore, session_id: str, writer: str, count: int) -> None:
    """Set keys of this worker's own in metadata, in one of its maps and in the state."""
    for n in range(count):
        key = f"{writer}{n}"
        await asyncio.gather(
            store.update_session_metadata(session_id, **{key: n}),
            store.merge_session_metadata_map(session_id, "map", {key: n}),
            store.set_state(session_id, key, n),
        )


async def _clear(store: SessionStore, session_id: str, count: int) -> list[tuple[int, int]]:
    """Clear again and again; return the newest ``seq`` before, the oldest one read after."""
    seen = []
    for _ in range(count):
        before = (await store.get_session(session_id, max_messages=0)).last_seq
        await store.clear_session(session_id)
        left = await store.get_messages(session_id)
        seen.append((before, left[0].seq if left else before + 1))
        await asyncio.sleep(0.002)
    return seen


async def _pop(store: SessionStore, session_id: str) -> list[int]:
    """Pop until nothing is left; return the ``seq`` of each."""
    popped = []
    while (message := await store.pop_message(session_id)) is not None:
        popped.append(message.seq)
    return popped


TASKS: dict[str, Callable[..., Awaitable[Any]]] = {
    "append": _append,
    "append_for_ever": _append_for_ever,
    "append_in_turn": _append_in_turn,
    "append_with_keys": _append_with_keys,
    "clear": _clear,
    "increment": _increment,
    "merge": _merge,
    "pop": _pop,
}


def _print(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


async def _run(job: dict[str, Any]) -> None:
    module, _, name = job["factory"].partition(":")
    factory: Callable[..., SessionStore] = getattr(importlib.import_module(module), name)
    async with factory(*job["args"]) as store:
        _print("ready")
        await asyncio.to_thread(sys.stdin.readline)
        result = await TASKS[job["task"]](store, **job["options"])
    _print(json.dumps(result))


if __name__ == "__main__":
    asyncio.run(_run(json.loads(sys.stdin.readline())))
