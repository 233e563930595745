"""`DefaultSessionStore` in a process: its directory, threads, forks, mirrors and protocols."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from asyncsessions import sync
from asyncsessions.sync import DefaultSessionStore, default
from asyncsessions.sync import get_default_session_store as default_store
from asyncsessions.sync._original import mirror as mirrors
from asyncsessions.sync._original import paths

ROOT = Path(__file__).parent.parent
SECONDS = 60


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("PRAISONAI_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(default, "_default_store", None)
    monkeypatch.delenv("PRAISONAI_SESSION_RETENTION", raising=False)
    monkeypatch.delenv("PRAISONAI_SESSION_ACTIVE_WINDOW", raising=False)
    yield tmp_path / "home"
    paths._data_directory.cache_clear()


# Where the sessions are.


def test_the_default_directory_is_praisonais(home: Path) -> None:
    with DefaultSessionStore() as store:
        assert store.session_dir == str(home / "sessions")
        assert (home / "sessions").is_dir()
    assert str(home / "sessions") == default.DEFAULT_SESSION_DIR == sync.DEFAULT_SESSION_DIR


@pytest.mark.parametrize("module", [default, sync, ModuleType("praisonaiagents.session.store")])
def test_an_assigned_directory_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: ModuleType
) -> None:
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(vars(module), "DEFAULT_SESSION_DIR", str(tmp_path / "mine"))
    with DefaultSessionStore() as store:
        assert store.session_dir == str(tmp_path / "mine")
    assert default_store().session_dir == str(tmp_path / "mine")


@pytest.mark.parametrize(
    ("present", "data_home", "expected"),
    [
        ([".praisonai", ".praison"], "/x", "user/.praisonai"),
        ([".praison"], "/x", "user/.praison"),
        ([], "{tmp}/data", "data/praisonai"),
        ([], "relative", "user/.praisonai"),
        ([], "", "user/.praisonai"),
    ],
)
def test_the_home_of_praisonai(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    present: list[str],
    data_home: str,
    expected: str,
) -> None:
    monkeypatch.delenv("PRAISONAI_HOME")
    monkeypatch.setenv("XDG_DATA_HOME", data_home.format(tmp=tmp_path))
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "user")
    for name in present:
        (tmp_path / "user" / name).mkdir(parents=True)
    assert paths.get_sessions_dir() == tmp_path / expected / "sessions"
    (tmp_path / "user" / ".praisonai").mkdir(parents=True, exist_ok=True)
    # What was decided stays.
    assert paths.get_sessions_dir() == tmp_path / expected / "sessions"


@pytest.mark.parametrize("module", [default, sync])
def test_there_is_no_other_attribute_of_the_module(module: Any) -> None:
    with pytest.raises(AttributeError, match="NOTHING"):
        _ = module.NOTHING


# The default store.


def test_the_default_store_follows_the_directory(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = default_store()
    assert store.session_dir == str(home / "sessions")
    assert (store.retention, store.active_window) == ("compact", 100)
    assert default_store() is store
    monkeypatch.setenv("PRAISONAI_HOME", str(tmp_path / "other"))
    assert default_store().session_dir == str(tmp_path / "other" / "sessions")


def test_a_store_that_was_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    mine = object()
    monkeypatch.setattr(default, "_default_store", mine)
    assert default_store() is mine


@pytest.mark.parametrize(
    ("retention", "window", "expected"),
    [
        ("truncate", "7", ("truncate", 7)),
        ("none", "x", ("compact", 100)),
        ("", "", ("compact", 100)),
    ],
)
def test_the_environment_sets_the_retention(
    monkeypatch: pytest.MonkeyPatch, retention: str, window: str, expected: tuple[str, int]
) -> None:
    monkeypatch.setenv("PRAISONAI_SESSION_RETENTION", retention)
    monkeypatch.setenv("PRAISONAI_SESSION_ACTIVE_WINDOW", window)
    store = default_store()
    assert (store.retention, store.active_window) == expected


# Threads, event loops and processes.


def run_script(path: Path, body: str) -> str:
    code = "import os, sys\nfrom asyncsessions.sync import DefaultSessionStore\n"
    code += "store = DefaultSessionStore(sys.argv[1])\n" + textwrap.dedent(body)
    done = subprocess.run(
        [sys.executable, "-W", "ignore:This process:DeprecationWarning", "-c", code, str(path)],
        capture_output=True,
        check=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        text=True,
        timeout=SECONDS,
    )
    return done.stdout.strip()


def test_it_is_called_where_another_event_loop_runs(tmp_path: Path) -> None:
    out = run_script(
        tmp_path,
        """
        import asyncio

        async def call():
            store.add_user_message("s", "from the loop")
            await asyncio.to_thread(store.add_user_message, "s", "from a thread")
            return store.get_chat_history("s")

        print(len(asyncio.run(call())))
        """,
    )
    assert out == "2"


def test_a_process_that_never_closes_exits(tmp_path: Path) -> None:
    out = run_script(
        tmp_path,
        """
        for number in range(3):
            store.add_user_message("s", str(number))
        print(len(store.get_chat_history("s")))
        """,
    )
    assert out == "3"


def test_parent_and_forked_child_go_on(tmp_path: Path) -> None:
    out = run_script(
        tmp_path,
        """
        store.add_user_message("s", "before " + "x" * 20_000)
        child = os.fork()
        for number in range(20):
            assert store.add_user_message("s", str(number))
        if not child:
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        print(len(store.get_chat_history("s")))
        """,
    )
    assert out == "41"


def test_what_is_in_memory_stays_in_its_process(tmp_path: Path) -> None:
    out = run_script(
        tmp_path,
        """
        from asyncsessions import errors
        store = DefaultSessionStore.from_url("memory://")
        store.add_user_message("s", "x")
        child = os.fork()
        if not child:
            try:
                store.get_chat_history("s")
            except errors.ForkedStoreError:
                os._exit(7)
            os._exit(0)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        """,
    )
    assert out == "7"


def test_many_threads_may_be_the_first(tmp_path: Path) -> None:
    for url in ("memory://", f"jsonl://{tmp_path}"):
        with DefaultSessionStore.from_url(url) as store:
            barrier = threading.Barrier(16)

            def say(number: int, *, store: DefaultSessionStore = store) -> bool:
                barrier.wait(SECONDS)  # noqa: B023  # all of one round
                return store.add_user_message("s", str(number))

            with ThreadPoolExecutor(16) as threads:
                assert all(threads.map(say, range(16)))
            assert len(store.get_chat_history("s")) == 16


def test_a_dropped_store_keeps_no_file_open(tmp_path: Path) -> None:
    def lock_files() -> list[Path]:
        open_files = [link.resolve() for link in Path("/proc/self/fd").iterdir()]
        return [path for path in open_files if path.is_relative_to(tmp_path)]

    store = DefaultSessionStore(str(tmp_path))
    for number in range(5):
        store.add_user_message(f"s{number}", "x")
    assert lock_files()
    del store
    deadline = time.monotonic() + SECONDS
    while lock_files() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not lock_files()


# Mirrors.


class Mirror:
    """Notes what it gets; refuses it so many times first."""

    def __init__(self, refusals: int = 0) -> None:
        self.refusals = refusals
        self.tries = 0
        self.got: list[tuple[str, list[dict[str, Any]]]] = []
        self.may_go_on = threading.Event()
        self.may_go_on.set()

    def append(self, session_id: str, records: list[dict[str, Any]]) -> None:
        self.may_go_on.wait(SECONDS)
        self.tries += 1
        if self.refusals:
            self.refusals -= 1
            records.clear()
            raise RuntimeError("no")
        self.got.append((session_id, records))

    @property
    def contents(self) -> list[Any]:
        return [record["content"] for _, records in self.got for record in records]


def test_a_mirror_gets_each_message(tmp_path: Path) -> None:
    mirror = Mirror()
    store = DefaultSessionStore(str(tmp_path), mirror=mirror)
    store.add_message("s", "user", "1", {"k": (1,)})
    store.upsert_partial_assistant_message("s", "no")
    store.upsert_partial_assistant_message("s", "2", finalize=True)
    store.set_chat_history("s", [{"content": "3"}, {"content": "4"}])
    store.add_message("s", "user", "unstored", {"k": {1}})
    store.clear_session("s")
    assert store.flush_mirror(SECONDS)
    assert mirror.contents == ["1", "2", "3", "4"]
    session_id, (record,) = mirror.got[0]
    assert (session_id, record["session_id"]) == ("s", "s")
    assert record["id"] == f"s:{record['timestamp']}"
    assert record["metadata"] == {"k": [1]}
    store.close_mirror()
    assert store.add_user_message("s", "late")
    store.close()
    assert mirror.contents == ["1", "2", "3", "4"]


def test_without_a_mirror_nothing_is_waited_for(tmp_path: Path) -> None:
    with DefaultSessionStore(str(tmp_path)) as store:
        assert store.flush_mirror()
        store.close_mirror()


def test_a_mirror_that_fails_gets_the_same_again(tmp_path: Path) -> None:
    mirror = Mirror(refusals=2)
    with DefaultSessionStore(str(tmp_path), mirror=mirror) as store:
        assert store.add_user_message("s", "1")
        assert store.flush_mirror(SECONDS)
        assert mirror.contents == ["1"]
        mirror.refusals = 3
        mirror.tries = 0
        assert store.add_user_message("s", "2")
        assert store.add_user_message("s", "3")
        assert store.flush_mirror(SECONDS)
        assert mirror.contents == ["1", "3"]
        assert mirror.tries == 4


def test_a_slow_mirror_delays_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirrors, "DEFAULT_MIRROR_QUEUE_SIZE", 2)
    mirror = Mirror()
    mirror.may_go_on.clear()
    with DefaultSessionStore(str(tmp_path), mirror=mirror) as store:
        for number in range(10):
            assert store.add_user_message("s", str(number))
        assert not store.flush_mirror(0.01)
        mirror.may_go_on.set()
        assert store.flush_mirror(SECONDS)
    # One was with the mirror, or none yet, and two had room.
    assert 2 <= len(mirror.contents) <= 3
