"""What all conformance cases share: the store under test, a clock, and a few helpers."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

import pytest
import pytest_asyncio

from asyncsessions.errors import SessionNotFoundError
from asyncsessions.models import Message, SessionInfo
from asyncsessions.protocols import SessionStore
from asyncsessions.testing.timing import LONG_ENOUGH, slowness

__all__ = [
    "CALLS",
    "START",
    "ManualClock",
    "StoreCases",
    "call",
    "fill",
    "flat",
    "ids",
    "is_absent",
    "loop_lag",
    "result",
    "same",
    "seqs",
    "settled",
    "texts",
    "tool_call",
    "trying",
    "user",
]

T = TypeVar("T")

# How often a busy machine may stop the event loop before it must be the store that does.
_TRIES = 5

START = 1_767_225_600.0
"""The time that a `ManualClock` shows first."""


class ManualClock:
    """A clock that only a test moves; give it to a store as its ``clock`` option."""

    def __init__(self, now: float = START) -> None:
        self.now: float = now

    def __call__(self) -> float:
        """Return the time, in seconds since the epoch."""
        return self.now

    def advance(self, seconds: float) -> None:
        """Let time pass; negative seconds turn the clock back."""
        self.now += seconds


# So that the cases also run where pytest-asyncio has its strict mode.
@pytest.mark.asyncio
class StoreCases:
    """The base of all conformance cases; see `StoreConformance`.

    Attributes:
        tmp_path: This test's own empty directory, for `make_store`.
    """

    tmp_path: Path

    def make_store(self, **options: Any) -> SessionStore:
        """Return a store that isn't open yet, over this test's own place.

        The place is empty when a test begins. Called again in the same test, it returns a second
        store over the same data, if the store can be shared at all.

        Args:
            **options: ``max_messages``, ``ttl_seconds``, ``max_message_bytes`` or ``clock``, as
                every store takes them.
        """
        raise NotImplementedError(f"{type(self).__name__} has to define make_store()")

    @pytest.fixture(autouse=True)
    def own_place(self, tmp_path: Path) -> None:
        self.tmp_path = tmp_path

    @pytest_asyncio.fixture
    async def store(self) -> AsyncIterator[SessionStore]:
        async with self.make_store() as store:
            yield store

    @pytest.fixture
    def clock(self) -> ManualClock:
        return ManualClock()


def user(content: str) -> dict[str, Any]:
    """Return a user's message."""
    return {"role": "user", "content": content}


def tool_call(call_id: str) -> dict[str, Any]:
    """Return an assistant's turn that calls a tool."""
    function = {"name": "look_up", "arguments": "{}"}
    call = {"id": call_id, "type": "function", "function": function}
    return {"role": "assistant", "content": None, "tool_calls": [call]}


def result(call_id: str) -> dict[str, Any]:
    """Return the tool's answer to a call."""
    return {"role": "tool", "content": f"result of {call_id}", "tool_call_id": call_id}


def texts(messages: Iterable[Message]) -> list[Any]:
    """Return what the messages say."""
    return [message.content for message in messages]


def seqs(messages: Iterable[Message]) -> list[int]:
    """Return the messages' ``seq``."""
    return [message.seq for message in messages]


def flat(lists: Iterable[Iterable[T]]) -> list[T]:
    """Return the items of all lists in one."""
    return list(chain.from_iterable(lists))


@contextmanager
def trying(what: object) -> Iterator[None]:
    """Note on what fails in the block what it was tried with.

    A case that tries many inputs with one store costs little more than with one of them: to open a
    store at a server takes longer than most calls.
    """
    try:
        yield
    except BaseException as exc:
        exc.add_note(f"tried with {what!r}")
        raise


def ids(sessions: Iterable[SessionInfo]) -> list[str]:
    """Return the ids of sessions."""
    return [session.session_id for session in sessions]


async def fill(store: SessionStore, session_id: str, count: int) -> list[Message]:
    """Append so many user's messages, ``m1``, ``m2``, ..., in batches of 1,000."""
    stored: list[Message] = []
    for start in range(1, count + 1, 1000):
        stop = min(start + 1000, count + 1)
        stored += await store.append(session_id, [user(f"m{n}") for n in range(start, stop)])
    return stored


async def is_absent(store: SessionStore, session_id: str) -> bool:
    """Return whether no way of looking shows anything of a session."""
    session = await store.get_session(session_id)
    seen: list[object] = [
        await store.session_exists(session_id),
        await store.get_messages(session_id),
        await store.get_chat_history(session_id),
        await store.get_working_history(session_id),
        await store.get_state(session_id),
        session.messages,
        session.metadata,
        session.last_seq,
        session.created_at,
        session_id in ids(await store.list_sessions()),
    ]
    return not any(seen)


async def settled(condition: Callable[[], bool]) -> bool:
    """Return whether a condition comes true; looks at it again and again."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + LONG_ENOUGH
    while not condition():
        if loop.time() > deadline:
            return False
        await asyncio.sleep(0.005)
    return True


async def loop_lag(work: Callable[[], Awaitable[object]], *, enough: float) -> float:
    """Do work, and return the longest standstill of the event loop meanwhile, in seconds.

    They are seconds of a machine of usual speed: what was too long is divided by how slow this one
    is right after it. And they are those of the quietest time of up to five: what blocks the loop
    does so every time, while a busy machine stops it now and then.

    So a store that blocks the loop by computing is caught on any machine. One that only sleeps
    there or waits for a disk is caught on one of usual speed, and may not be on a slower one.

    Args:
        work: What to do.
        enough: Where the standstill is shorter than this, the work isn't done again.
    """
    quietest = math.inf
    for _ in range(_TRIES):
        lag = await _standstill(work)
        quietest = min(quietest, lag if lag < enough else lag / slowness())
        if quietest < enough:
            break
    return quietest


async def _standstill(work: Callable[[], Awaitable[object]]) -> float:
    loop = asyncio.get_running_loop()
    worst = 0.0

    async def tick() -> None:
        nonlocal worst
        while True:
            before = loop.time()
            await asyncio.sleep(0.001)
            worst = max(worst, loop.time() - before - 0.001)

    task = loop.create_task(tick())
    try:
        await work()
    finally:
        task.cancel()
    return worst


async def _iterate(store: SessionStore, session_id: str) -> list[Message]:
    return [message async for message in store.iter_messages(session_id)]


async def _export(store: SessionStore, session_id: str) -> object:
    try:
        return await store.export_session(session_id)
    except SessionNotFoundError:
        return None


CALLS: dict[str, Callable[[SessionStore, str], Awaitable[object]]] = {
    "add_assistant_message": lambda s, i: s.add_assistant_message(i, "x"),
    "add_message": lambda s, i: s.add_message(i, "user", "x"),
    "add_user_message": lambda s, i: s.add_user_message(i, "x"),
    "append": lambda s, i: s.append(i, [user("x")]),
    "append_compaction_checkpoint": lambda s, i: s.append_compaction_checkpoint(i, "x"),
    "clear_session": lambda s, i: s.clear_session(i),
    "delete_session": lambda s, i: s.delete_session(i),
    "discard_partial": lambda s, i: s.discard_partial_assistant_message(i),
    "expire_session": lambda s, i: s.expire_session(i, 1),
    "export_session": _export,
    "get_chat_history": lambda s, i: s.get_chat_history(i),
    "get_messages": lambda s, i: s.get_messages(i),
    "get_session": lambda s, i: s.get_session(i),
    "get_state": lambda s, i: s.get_state(i),
    "get_working_history": lambda s, i: s.get_working_history(i),
    "increment_state": lambda s, i: s.increment_state(i, "n"),
    "iter_messages": _iterate,
    "merge_session_metadata_map": lambda s, i: s.merge_session_metadata_map(i, "k", {"a": 1}),
    "pop_message": lambda s, i: s.pop_message(i),
    "rename_session": lambda s, i: s.rename_session(i, "x"),
    "session_exists": lambda s, i: s.session_exists(i),
    "set_agent_info": lambda s, i: s.set_agent_info(i, "a"),
    "set_chat_history": lambda s, i: s.set_chat_history(i, [user("x")]),
    "set_gateway_info": lambda s, i: s.set_gateway_info(i, "g"),
    "set_state": lambda s, i: s.set_state(i, "k", 1),
    "update_session_metadata": lambda s, i: s.update_session_metadata(i, k=1),
    "update_state": lambda s, i: s.update_state(i, {"k": 1}),
    "upsert_partial": lambda s, i: s.upsert_partial_assistant_message(i, "x"),
    "window": lambda s, i: s.window(i),
}
"""Every method that takes a session's id, called with it."""


async def call(name: str, store: SessionStore, session_id: Any) -> object:
    """Call the method of that name in `CALLS`."""
    return await CALLS[name](store, session_id)


def same(one: object, other: object) -> bool:
    """Return whether two JSON values are the same, down to 1 and 1.0, 0.0 and -0.0."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, float) and isinstance(other, float):
        return one == other and math.copysign(1, one) == math.copysign(1, other)
    return one == other
