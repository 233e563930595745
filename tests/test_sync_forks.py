"""Sync stores in forked children, in exiting processes, and after calls that failed."""

from __future__ import annotations

import gc
import uuid
import weakref
from pathlib import Path

import pytest

from asyncsessions import SessionNotFoundError
from asyncsessions.sync import open_store
from tests.test_sync_store import run_script

# Forks.


def test_an_iteration_that_began_before_a_fork_ends_there(redis_url: str) -> None:
    # The connection that it reads from is the parent's.
    script = """
import os, sys
from asyncsessions import ForkedStoreError, Message
from asyncsessions.sync import open_store
store = open_store(sys.argv[1])
store.append("s", [Message("user", "x" * 5000) for _ in range(2500)])
messages = store.iter_messages("s")
assert [next(messages).seq for _ in range(150)][-1] == 150
pid = os.fork()
if not pid:
    try:
        list(messages)
    except ForkedStoreError:
        os._exit(7)
    os._exit(1)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
assert [message.seq for message in messages] == list(range(151, 2501))
"""
    run_script(script.replace('"s"', repr(uuid.uuid4().hex)), redis_url)


def test_a_fork_waits_for_an_import_in_the_loop(tmp_path: Path) -> None:
    # A module's lock that a thread of the parent held would be held in the child forever.
    (tmp_path / "late.py").write_text("import sys, time; sys.begun.set(); time.sleep(0.3)")
    script = """
import os, signal, sys, threading
from asyncsessions.sync._bridge import run
sys.begun = threading.Event()
sys.path.append(sys.argv[1])
async def work():
    import late
threading.Thread(target=run, args=(work,)).start()
sys.begun.wait()
pid = os.fork()
if not pid:
    signal.alarm(20)
    import late
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
"""
    run_script(script, str(tmp_path))


def test_a_child_may_leave_the_block_of_a_store_that_it_cannot_use() -> None:
    script = """
import os, sys
from asyncsessions.sync import open_store
with open_store("memory://") as store:
    store.ping()
    pid = os.fork()
    if not pid:
        sys.exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
"""
    assert run_script(script).stderr == ""


def test_a_child_writes_statistics_whatever_its_parent_was_doing(tmp_path: Path) -> None:
    script = """
import os, signal, sys
from asyncsessions.integrations.praisonai import AgentStore
from asyncsessions.sync import open_store
store = AgentStore(open_store(f"jsonl://{sys.argv[1]}"), delay=300)
store.update_session_metadata("s", cost=1)
store._lock.acquire()  # As another thread would for a moment.
pid = os.fork()
if not pid:
    signal.alarm(20)
    store.update_session_metadata("s", model="m")
    store.flush()
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
# What waited before the fork is the parent's to write, once.
assert store._store.get_session("s").metadata == {"model": "m"}
store._lock.release()
store.flush()
assert store._store.get_session("s").metadata == {"model": "m", "cost": 1}
"""
    run_script(script, str(tmp_path))


def test_a_child_has_a_default_store_whatever_its_parent_was_doing(tmp_path: Path) -> None:
    script = """
import os, signal, sys
os.environ["PRAISONAI_HOME"] = sys.argv[1]
from asyncsessions.sync import default
default._default_lock.acquire()  # As another thread would for a moment.
pid = os.fork()
if not pid:
    signal.alarm(20)
    default.get_default_session_store().add_user_message("s", "hello")
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
default._default_lock.release()
assert default.get_default_session_store().get_chat_history("s")
"""
    run_script(script, str(tmp_path))


def test_a_child_mirrors_what_it_writes(tmp_path: Path) -> None:
    script = """
import os, sys
from asyncsessions.sync import DefaultSessionStore
class Mirror:
    def append(self, session_id, records):
        with open(sys.argv[1] + "/mirrored", "a") as file:
            file.writelines(record["content"] + "\\n" for record in records)
store = DefaultSessionStore(sys.argv[1] + "/sessions", mirror=Mirror())
store.add_user_message("s", "parent")
assert store._mirror.flush(20)
pid = os.fork()
if not pid:
    store.add_user_message("s", "child")
    os._exit(not store._mirror.flush(20))
assert os.waitpid(pid, 0)[1] == 0
assert open(sys.argv[1] + "/mirrored").read().split() == ["parent", "child"]
"""
    run_script(script, str(tmp_path))


# Exits.


def test_a_process_exits_quietly_while_a_call_waits(tmp_path: Path) -> None:
    script = """
import fcntl, sys, threading, time
from asyncsessions import StoreClosedError
from asyncsessions.sync import open_store
store = open_store(f"json://{sys.argv[1]}?lock_timeout=300")
store.add_message("s", "user", "x")
file = open(f"{sys.argv[1]}/s.json.lock")
fcntl.flock(file, fcntl.LOCK_EX)
def work():
    try:
        store.add_message("s", "user", "never")
    except StoreClosedError:
        pass
threading.Thread(target=work, daemon=True).start()
time.sleep(0.3)  # Most likely, it waits for the lock by now.
"""
    assert run_script(script, str(tmp_path)).stderr == ""


@pytest.mark.parametrize("is_used", [True, False])
def test_a_store_may_be_closed_at_exit(tmp_path: Path, is_used: bool) -> None:
    # What registers first runs last, when everything is closed already.
    script = """
import atexit, sys
@atexit.register
def close():
    store.close()
    print("closed")
from asyncsessions.sync import open_store
store = open_store(f"jsonl://{sys.argv[1]}")
if sys.argv[2] == "True":
    store.ping()
"""
    done = run_script(script, str(tmp_path), str(is_used))
    assert (done.stdout, done.stderr) == ("closed\n", "")


# Failures.


def test_a_failed_call_keeps_nothing_alive() -> None:
    class Callers:
        """What the caller of a failed call has in its frame."""

    def call() -> weakref.ref[Callers]:
        callers = Callers()
        try:
            store.export_session("missing")
        except SessionNotFoundError:
            return weakref.ref(callers)
        raise AssertionError

    with open_store("memory://") as store:
        store.ping()
        gc.disable()
        try:
            assert call()() is None
        finally:
            gc.enable()
