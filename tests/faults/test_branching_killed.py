"""Processes that branch the same sessions at once, and are killed in the middle of it."""

from __future__ import annotations

import asyncio
import itertools
import json
import multiprocessing
import os
import random
import time
import uuid
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from asyncsessions import open_store
from asyncsessions.errors import SessionStoreError, StoreUnavailableError
from asyncsessions.hierarchy import HierarchicalSessionStore
from asyncsessions.hierarchy.checking import check_trees
from asyncsessions.testing.timing import LONG_ENOUGH

ROUNDS = 4
# In the last ones nobody hides messages that all write. By the end of the first of them a server
# has done what it was asked for by those who were killed before; what comes then must be there.
CALM_ROUNDS = 2
WORKERS = 3
CALLERS = 3
SHARED = ("s", "t")
HIDING = ("revert", "undo", "pop", "clear", "delete")
OWN_AT_MOST = 6

State = list[str] | None
"""What a session shows; None where there is none."""


@pytest.fixture(scope="module")
def processes() -> Any:
    """Processes that start fast, because their parent has imported the package."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.faults.test_branching_killed"])
    return context


@pytest.fixture(params=["jsonl", "redis", "postgres", "mongo"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "jsonl":
        return f"jsonl://{tmp_path / 'sessions'}"
    name = {"redis": "prefix", "postgres": "schema", "mongo": "database"}[request.param]
    return f"{request.getfixturevalue(f'{request.param}_url')}?{name}=k{uuid.uuid4().hex}"


def hierarchy(url: str) -> HierarchicalSessionStore:
    options = {"lock_timeout": LONG_ENOUGH} if url.startswith("jsonl") else {}
    return HierarchicalSessionStore(open_store(url, **options))


class Caller:
    """Calls a store again and again, and writes down what it expects.

    It alone writes to its own sessions, so it knows what they show; to the shared ones all do.
    """

    def __init__(
        self, store: HierarchicalSessionStore, log: int, name: str, *, is_calm: bool
    ) -> None:
        self._store = store
        self._log = log
        self._verbs = ["append"] * 6 + ["fork"] * 2 + ["snapshot"]
        if not is_calm:
            self._verbs += HIDING
        self._rng = random.Random(name)
        self._texts = (f"{name}.{number}" for number in itertools.count())
        self._own: dict[str, State] = {f"own-{name}": None}
        self._snapshots: dict[str, dict[str, State]] = defaultdict(dict)

    async def run(self) -> None:
        while True:
            if self._rng.random() < 0.5:
                await self._call_shared(self._rng.choice(SHARED))
            else:
                await self._call_own(self._rng.choice(sorted(self._own)))

    def _note(self, **line: Any) -> None:
        # One call, of which a kill leaves all or nothing.
        os.write(self._log, json.dumps(line | {"at": time.monotonic()}).encode() + b"\n")

    # What all write to.

    async def _call_shared(self, session_id: str) -> None:
        verb = self._rng.choice(self._verbs)
        call = uuid.uuid4().hex
        text = next(self._texts) if verb == "append" else ""
        self._note(kind="begin", call=call, verb=verb, session=session_id, text=text)
        try:
            got = await self._make(verb, session_id, text)
        except StoreUnavailableError:
            raise
        except SessionStoreError:
            got = None  # There is no such session, message or snapshot just now.
        self._note(kind="end", call=call, got=got)

    async def _make(self, verb: str, session_id: str, text: str) -> str | None:
        store = self._store
        if verb == "append":
            await store.append(session_id, [{"role": "user", "content": text}])
        elif verb == "fork":
            fork = await store.fork_session(session_id)
            self._keep(fork, await shown(store, fork))
        elif verb == "snapshot":
            return await store.create_snapshot(session_id)
        elif verb == "revert":
            messages = await store.get_messages(session_id)
            if messages:
                await store.revert_to_message(session_id, self._rng.choice(messages).seq)
        elif verb == "undo":
            await store.undo_revert(session_id)
        elif verb == "pop":
            await store.pop_message(session_id)
        elif verb == "clear":
            await store.clear_session(session_id)
        else:
            await store.delete_session(session_id)
        return None

    # What only this caller writes to.

    def _keep(self, session_id: str, state: State) -> None:
        if len(self._own) < OWN_AT_MOST:
            self._own[session_id] = state
        self._note(kind="is", session=session_id, state=state)

    async def _call_own(self, session_id: str) -> None:
        state = self._own[session_id]
        store = self._store
        if state is None or self._rng.random() < 0.4:
            text = next(self._texts)
            message = {"role": "user", "content": text}
            await self._change(session_id, [*(state or []), text], store.append, [message])
            return
        verb = self._rng.choice(
            ["fork", "fork", "snapshot", "back", "message", "pop", "clear", "delete"]
        )
        if verb == "fork":
            self._keep(await store.fork_session(session_id), state)
        elif verb == "snapshot":
            snapshot_id = await store.create_snapshot(session_id)
            self._snapshots[session_id][snapshot_id] = state
            self._note(kind="snapshot", session=session_id, id=snapshot_id, state=state)
        elif verb == "back" and self._snapshots[session_id]:
            snapshot_id = self._rng.choice(sorted(self._snapshots[session_id]))
            then = self._snapshots[session_id][snapshot_id]
            await self._change(session_id, then, store.revert_to_snapshot, snapshot_id)
        elif verb == "message" and state:
            place = self._rng.randrange(len(state))
            seq = (await store.get_messages(session_id))[place].seq
            await self._change(session_id, state[: place + 1], store.revert_to_message, seq)
        elif verb == "pop":
            await self._change(session_id, state[:-1], store.pop_message)
        elif verb == "clear":
            await self._change(session_id, [], store.clear_session)
        elif verb == "delete":
            self._snapshots.pop(session_id, None)
            self._note(kind="forget", session=session_id)
            await self._change(session_id, None, store.delete_session)

    async def _change(
        self, session_id: str, state: State, call: Callable[..., Awaitable[object]], *args: Any
    ) -> None:
        self._note(kind="maybe", session=session_id, state=state)
        await call(session_id, *args)
        self._own[session_id] = state
        self._note(kind="is", session=session_id, state=state)


async def shown(store: HierarchicalSessionStore, session_id: str) -> State:
    """Return what a session says, after a look whether it can be so."""
    session = await store.get_session(session_id)
    texts = [str(message.content) for message in session.messages]
    seqs = [message.seq for message in session.messages]
    assert seqs == sorted(set(seqs)), "out of order"
    assert len(set(texts)) == len(texts), "a message is there twice"
    assert session.message_count == len(texts), "the count is wrong"
    newest: dict[str, int] = {}
    for text in texts:
        caller, _, number = text.rpartition(".")
        assert newest.get(caller, -1) < int(number), "a caller's messages are out of order"
        newest[caller] = int(number)
    return texts if await store.session_exists(session_id) else None


def call_until_killed(url: str, name: str, path: str, *, is_calm: bool) -> None:
    async def work() -> None:
        log = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        async with hierarchy(url) as store:
            await asyncio.gather(
                *(
                    Caller(store, log, f"{name}-{number}", is_calm=is_calm).run()
                    for number in range(CALLERS)
                )
            )

    asyncio.run(work())


def kill_some(processes: Any, url: str, turn: int, place: Path, rng: random.Random) -> list[Any]:
    """Start workers, kill each after some calls, and return what they wrote down."""
    started = []
    for number in range(WORKERS):
        path = place / f"{turn}-{number}"
        process = processes.Process(
            target=call_until_killed,
            args=(url, f"{turn}-{number}", str(path)),
            kwargs={"is_calm": turn >= ROUNDS},
        )
        process.start()
        started.append((process, path, rng.randrange(20, 200)))
    lines = []
    try:
        for process, path, count in started:
            wait_for_lines(process, path, count)
            process.kill()
    finally:
        for process, _, _ in started:
            process.kill()
            process.join()
    for _, path, _ in started:
        lines += [json.loads(line) for line in path.read_bytes().splitlines()]
    return lines


def wait_for_lines(process: Any, path: Path, count: int) -> None:
    deadline = time.monotonic() + LONG_ENOUGH
    while not path.exists() or path.read_bytes().count(b"\n") < count:
        assert process.is_alive(), "a worker failed"
        assert time.monotonic() < deadline, "a worker hangs"
        time.sleep(0.002)


@dataclass(slots=True)
class Call:
    """A call on a shared session, which may have done its work at any time until its end."""

    verb: str
    session: str
    text: str
    begin: float
    end: float = float("inf")
    is_acknowledged: bool = False
    got: str | None = None


@dataclass(slots=True)
class Expected:
    """What all callers have written down."""

    calls: dict[str, Call] = field(default_factory=dict)
    # What each session may show; a caller's own isn't there at first.
    states: dict[str, list[State]] = field(default_factory=lambda: defaultdict(lambda: [None]))
    snapshots: dict[str, dict[str, State]] = field(default_factory=lambda: defaultdict(dict))

    def add(self, line: dict[str, Any]) -> None:
        kind, session_id = line["kind"], line.get("session", "")
        if kind == "begin":
            self.calls[line["call"]] = Call(line["verb"], session_id, line["text"], line["at"])
        elif kind == "end":
            call = self.calls[line["call"]]
            call.end, call.is_acknowledged, call.got = line["at"], True, line["got"]
        elif kind == "is":
            self.states[session_id] = [line["state"]]
        elif kind == "maybe":
            self.states[session_id].append(line["state"])
        elif kind == "forget":
            self.snapshots.pop(session_id, None)
        else:
            self.snapshots[session_id][line["id"]] = line["state"]

    def end_all(self, now: float) -> None:
        """Note that whatever was under way is over by now."""
        for call in self.calls.values():
            if call.begin < now:
                call.end = min(call.end, now)

    def calls_on(self, session_id: str, *verbs: str) -> Iterator[Call]:
        return (
            call
            for call in self.calls.values()
            if call.session == session_id and call.verb in verbs
        )

    def certain(self, session_id: str) -> set[str]:
        """Return what a shared session shows for certain."""
        hiding = self.calls_on(session_id, *HIDING)
        over = max((call.end for call in hiding), default=0.0)
        appends = self.calls_on(session_id, "append")
        return {call.text for call in appends if call.is_acknowledged and call.begin > over}

    def certain_snapshots(self, session_id: str) -> set[str]:
        """Return which snapshots a shared session has for certain."""
        over = max((call.end for call in self.calls_on(session_id, "delete")), default=0.0)
        taken = self.calls_on(session_id, "snapshot")
        return {call.got for call in taken if call.got and call.begin > over}


async def test_killed_branchers_lose_and_mix_nothing(
    url: str, processes: Any, tmp_path: Path
) -> None:
    rng = random.Random(5)
    expected = Expected()
    for turn in range(ROUNDS + CALM_ROUNDS):
        for line in await asyncio.to_thread(kill_some, processes, url, turn, tmp_path, rng):
            expected.add(line)
        if turn == ROUNDS:
            expected.end_all(time.monotonic())
    async with hierarchy(url) as store:
        await check_shared(store, expected)
        for session_id, states in expected.states.items():
            assert await shown(store, session_id) in states
        for session_id, snapshots in expected.snapshots.items():
            for snapshot_id, state in snapshots.items():
                await store.revert_to_snapshot(session_id, snapshot_id)
                assert await shown(store, session_id) == state
        for session_id, states in expected.states.items():
            if session_id not in expected.snapshots:
                assert await shown(store, session_id) in states, "another session's revert shows"
    await check_kin(url)


async def check_kin(url: str) -> None:
    """Check that what the killed ones left behind is found and repaired, and nothing is lost."""

    def later() -> float:
        return time.time() + 2 * 86_400

    async with hierarchy(url) as store:
        plain = store._store
        found = await check_trees(plain, repair=True, clock=later)
        assert {each.what for each in found}.isdisjoint({"damaged", "lost", "unnoted"})
        assert all(each.is_repaired for each in found)
        assert await check_trees(plain, clock=later) == []
        while sessions := await store.list_sessions(100):
            for session in sessions:
                await store.delete_session(session.session_id)
        assert await plain.list_sessions() == []


async def check_shared(store: HierarchicalSessionStore, expected: Expected) -> None:
    for session_id in SHARED:
        # Whoever comes next can do all of it, so nobody stands in the way.
        await store.append(session_id, [{"role": "user", "content": "after.0"}])
        texts = await shown(store, session_id)
        assert texts is not None
        assert texts[-1] == "after.0"
        certain = expected.certain(session_id)
        assert certain
        assert certain <= set(texts)
        fork = await store.fork_session(session_id)
        assert await shown(store, fork) == texts
        for snapshot_id in expected.certain_snapshots(session_id):
            await store.revert_to_snapshot(session_id, snapshot_id)
            await shown(store, session_id)
        await store.clear_session(session_id)
        assert await shown(store, session_id) == []
        assert await store.delete_session(session_id)
        assert await shown(store, session_id) is None
        assert await shown(store, fork) == texts
