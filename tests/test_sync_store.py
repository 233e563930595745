"""`SyncSessionStore`: the same methods, called from threads, running loops and forked children."""

from __future__ import annotations

import asyncio
import fcntl
import inspect
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from asyncsessions import (
    CallTimeoutError,
    CorruptSessionError,
    InMemorySessionStore,
    InvalidSessionIdError,
    LockTimeoutError,
    Message,
    SessionNotFoundError,
    StoreClosedError,
)
from asyncsessions.protocols import SessionStore
from asyncsessions.sync import SyncSessionStore, open_store
from asyncsessions.sync._bridge import _Call, loop_thread
from asyncsessions.testing.timing import LONG_ENOUGH
from tests.sync_view import methods

ROOT = Path(__file__).parent.parent


def run_script(script: str, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a script in a process of its own; fail unless it ends well."""
    return subprocess.run(
        [sys.executable, "-W", "ignore:This process:DeprecationWarning", "-c", script, *arguments],
        capture_output=True,
        check=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        text=True,
        timeout=LONG_ENOUGH,
        **options,
    )


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock as another process would."""
    with path.open("w") as file:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX)
        yield


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SyncSessionStore]:
    with open_store(f"jsonl://{tmp_path / 'sessions'}?durability=os") as store:
        yield store


@pytest.fixture(params=["jsonl", "json", "redis", "postgres", "mongo"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of each kind of store that outlives a process."""
    if request.param in {"jsonl", "json"}:
        return f"{request.param}://{tmp_path / 'sessions'}"
    return str(request.getfixturevalue(f"{request.param}_url"))


# The same methods.


@pytest.mark.parametrize("name", methods())
def test_each_method_has_the_signature_of_the_async_one(name: str) -> None:
    of_async = inspect.signature(getattr(SessionStore, name))
    method = getattr(SyncSessionStore, "close" if name == "aclose" else name)
    of_sync = inspect.signature(method)
    assert list(of_sync.parameters.values()) == list(of_async.parameters.values())
    returned = str(of_async.return_annotation).replace("AsyncIterator", "Iterator")
    assert of_sync.return_annotation == returned
    assert method.__doc__
    assert "_run" in method.__code__.co_names or "_iterate" in method.__code__.co_names


def test_open_store_opens_any_url(tmp_path: Path) -> None:
    with open_store("memory://", max_messages=1) as store:
        store.append("s", [Message("user", "a"), Message("user", "b")])
        assert store.get_chat_history("s") == [{"role": "user", "content": "b"}]
    with pytest.raises(ValueError, match="no store for ftp://"):
        open_store("ftp://x")
    with pytest.raises(ValueError, match="call_timeout"):
        open_store("memory://", call_timeout=0)
    with pytest.raises(TypeError, match="takes a URL"):
        open_store(InMemorySessionStore())  # type: ignore[arg-type]


async def test_only_an_async_store_that_is_not_open_is_taken() -> None:
    store = SyncSessionStore(InMemorySessionStore())
    with pytest.raises(TypeError, match="a sync store already"):
        SyncSessionStore(store)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="has no add_message"):
        SyncSessionStore(object())  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"options are for a URL.*max_messages"):
        SyncSessionStore(InMemorySessionStore(), max_messages=3)
    async with InMemorySessionStore() as opened:
        with pytest.raises(TypeError, match="open in another event loop"):
            SyncSessionStore(opened)


def test_errors_are_those_of_the_async_store(store: SyncSessionStore) -> None:
    with pytest.raises(InvalidSessionIdError):
        store.add_message("", "user", "x")
    with pytest.raises(SessionNotFoundError):
        store.export_session("missing")
    store.close()
    with pytest.raises(StoreClosedError):
        store.add_message("s", "user", "x")


def test_iterators_give_everything_in_order(store: SyncSessionStore, tmp_path: Path) -> None:
    store.append("long", [Message("user", f"m{n}") for n in range(250)])
    store.append("short", [Message("user", "x")])
    assert [message.seq for message in store.iter_messages("long")] == list(range(1, 251))
    assert next(store.iter_messages("long", after=240)).seq == 241
    begun = store.iter_messages("long")
    assert next(begun).seq == 1
    del begun  # An iteration that isn't ended takes nothing along.
    with open_store(f"json://{tmp_path / 'copy'}") as copy:
        report = copy.import_sessions(store.export_all())
        assert (report.imported, report.messages) == (2, 251)
        assert copy.get_messages("long") == store.get_messages("long")


def test_an_iterator_raises_after_what_came_before(store: SyncSessionStore, tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        for text in ("x", "y"):
            store.append(name, [Message("user", text * 1000)])
    path = tmp_path / "sessions" / "b.jsonl"
    path.write_bytes(path.read_bytes().replace(b"xxx", b'"}x'))
    seen: list[str] = []
    with pytest.raises(CorruptSessionError):
        seen.extend(record["session_id"] for record in store.export_all())
    assert sorted(seen) == ["a", "c"]


# Called from anywhere.


def test_many_threads_lose_and_double_nothing(store: SyncSessionStore) -> None:
    def talk(thread: int) -> None:
        for n in range(25):
            store.add_message("s", "user", f"{thread}/{n}")
            store.increment_state("s", "count")

    with ThreadPoolExecutor(16) as threads:
        list(threads.map(talk, range(16)))
    said = [message.content for message in store.iter_messages("s")]
    assert sorted(map(str, said)) == sorted(f"{t}/{n}" for t in range(16) for n in range(25))
    for thread in range(16):
        mine = [text for text in said if str(text).startswith(f"{thread}/")]
        assert mine == [f"{thread}/{n}" for n in range(25)]
    assert store.get_state("s", "count") == 400


def test_a_thread_whose_own_loop_runs_may_call() -> None:
    run_script("""
import asyncio
from asyncsessions.sync import open_store
async def main():
    store = open_store("memory://")
    store.add_message("s", "user", "from a coroutine")
    assert len(store.get_messages("s")) == 1
asyncio.run(main())
""")


def test_code_in_the_stores_own_loop_is_told_to_await() -> None:
    def clock() -> float:
        return 1.0 if reader.session_exists("s") else 2.0

    reader = open_store("memory://")
    writer = SyncSessionStore(InMemorySessionStore(clock=clock))
    with pytest.raises(RuntimeError, match="await the async store there"):
        writer.add_message("s", "user", "x")


# Ended early.


def test_a_call_that_takes_too_long_is_cancelled(tmp_path: Path) -> None:
    with open_store(f"json://{tmp_path}?durability=os&lock_timeout={LONG_ENOUGH}") as patient:
        patient.add_message("s", "user", "a")
    url = f"json://{tmp_path}?durability=os&lock_timeout={LONG_ENOUGH}"
    with open_store(url, call_timeout=2.0) as store:
        with locked(tmp_path / "s.json.lock"), pytest.raises(CallTimeoutError) as raised:
            store.add_message("s", "user", "late")
        assert raised.value.timeout == 2.0
    with open_store(f"json://{tmp_path}") as store:
        store.add_message("s", "user", "b")
        said = [message.content for message in store.get_messages("s")]
    assert said in (["a", "b"], ["a", "late", "b"])


def test_a_call_that_is_cancelled_before_it_begins_ends() -> None:
    """As one that is on its way while the process exits; nobody hangs, and nobody complains."""
    thread = loop_thread()
    calls: list[_Call[None]] = []
    is_made = threading.Event()

    async def never() -> None:
        raise AssertionError

    def make() -> None:
        calls.append(_Call(thread.loop, never()))
        # Comes after the task is made and before its first step.
        thread.loop.call_soon(calls[0]._cancel)
        is_made.set()

    thread.loop.call_soon_threadsafe(make)
    assert is_made.wait(LONG_ENOUGH)
    with pytest.raises(asyncio.CancelledError):
        calls[0].wait(LONG_ENOUGH)


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
def test_an_exit_in_the_callers_own_code_reaches_the_caller(
    store: SyncSessionStore, kind: type[BaseException]
) -> None:
    """And ends no loop, in which every store's later calls would hang."""

    def sessions() -> Iterator[dict[str, Any]]:
        yield {"session_id": "s", "messages": [{"role": "user", "content": "x"}]}
        raise kind

    async def exits() -> None:
        raise kind

    async def waits() -> None:
        await asyncio.create_task(exits())

    with ThreadPoolExecutor() as pool:
        for call in (
            lambda: store.import_sessions(sessions()),
            lambda: loop_thread().run(None, waits),
        ):
            with pytest.raises(kind):
                pool.submit(call).result(LONG_ENOUGH)
            assert pool.submit(store.add_message, "s", "user", "y").result(LONG_ENOUGH)


def test_a_timeout_of_the_store_itself_stays_what_it_is(tmp_path: Path) -> None:
    url = f"json://{tmp_path}?durability=os&lock_timeout=0.05"
    with open_store(url, call_timeout=LONG_ENOUGH) as store:
        with locked(tmp_path / "s.json.lock"), pytest.raises(LockTimeoutError):
            store.add_message("s", "user", "x")
        store.add_message("s", "user", "y")


def test_control_c_cancels_the_call_and_the_store_goes_on(tmp_path: Path) -> None:
    script = """
import signal, sys
from asyncsessions.sync import open_store
# Where it is ignored, as in a shell's background, children ignore it too.
signal.signal(signal.SIGINT, signal.default_int_handler)
store = open_store(f"json://{sys.argv[1]}?lock_timeout=300")
store.ping()
try:
    print("waiting", flush=True)
    store.add_message("s", "user", "interrupted")
except KeyboardInterrupt:
    print("interrupted", flush=True)
sys.stdin.read()
store.add_message("s", "user", "after")
print([message.content for message in store.get_messages("s")])
"""
    (tmp_path / "s.json.lock").touch()
    with locked(tmp_path / "s.json.lock"):
        process = subprocess.Popen(
            [sys.executable, "-c", script, str(tmp_path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            text=True,
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "waiting\n"
        time.sleep(0.5)  # Most likely, it waits for the lock by now.
        process.send_signal(signal.SIGINT)
        said = process.stdout.readline()
    out, _ = process.communicate(timeout=LONG_ENOUGH)
    assert said == "interrupted\n"
    assert out in {"['after']\n", "['interrupted', 'after']\n"}
    assert process.returncode == 0


# Forks and exits.


@pytest.mark.parametrize("how", ["fork", "multiprocessing"])
def test_forked_children_use_connections_of_their_own(url: str, how: str) -> None:
    # As under a server that loads the application, then forks its workers.
    session = f"fork {uuid.uuid4().hex}"
    script = """
import multiprocessing, os, sys
from asyncsessions.sync import open_store
url, session, how = sys.argv[1:]
store = open_store(url)
store.add_message(session, "user", "before")
def work(name):
    for n in range(20):
        store.add_message(session, "user", f"{name}/{n}")
        assert store.get_messages(session, limit=1)
children = []
for name in ("a", "b"):
    if how == "multiprocessing":
        child = multiprocessing.get_context("fork").Process(target=work, args=(name,))
        child.start()
        children.append(child)
    else:
        pid = os.fork()
        if not pid:
            work(name)
            sys.exit()
        children.append(pid)
work("parent")
for child in children:
    if how == "multiprocessing":
        child.join()
        assert child.exitcode == 0
    else:
        assert os.waitpid(child, 0)[1] == 0
work("again")
names = [message.content for message in store.get_messages(session)]
assert names[0] == "before" and len(names) == 81 == len(set(names)), names
"""
    run_script(script, url, session, how)


def test_a_store_without_a_url_says_so_in_a_forked_child() -> None:
    run_script("""
import os, sys
from asyncsessions import ForkedStoreError, InMemorySessionStore
from asyncsessions.sync import SyncSessionStore, open_store
used, unused = open_store("memory://"), SyncSessionStore(InMemorySessionStore())
used.add_message("s", "user", "x")
pid = os.fork()
if not pid:
    unused.add_message("s", "user", "y")
    try:
        used.add_message("s", "user", "y")
    except ForkedStoreError as exc:
        assert "after the fork" in str(exc)
        sys.exit(7)
    sys.exit(1)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
assert len(used.get_messages("s")) == 1
""")


def test_a_process_that_never_closes_its_store_exits_cleanly(url: str) -> None:
    script = """
import sys, threading
from asyncsessions import StoreClosedError
from asyncsessions.sync import open_store
store = open_store(sys.argv[1])
store.add_message(sys.argv[2], "user", "x")
# In a cycle, and still in use by a thread that never ends by itself.
store.myself = store
def work():
    while True:
        try:
            store.session_exists("s")
        except StoreClosedError:
            break
threading.Thread(target=work, daemon=True).start()
"""
    done = run_script(script, url, f"exit {uuid.uuid4().hex}")
    assert done.stderr == ""


def test_a_store_that_is_dropped_leaves_no_connections(redis_url: str) -> None:
    script = """
import gc, sys, time
from redis import Redis
from asyncsessions.sync import open_store
store = open_store(sys.argv[1] + "?client_name=dropped")
store.ping()
redis = Redis.from_url(sys.argv[1])
def count():
    return sum(client["name"] == "dropped" for client in redis.client_list())
assert count()
del store
gc.collect()
while count():
    time.sleep(0.01)
"""
    run_script(script, redis_url)
