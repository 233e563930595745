"""What an agent tells of itself twice in every turn, and when it is written."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from praisonaiagents import MemoryConfig
from praisonaiagents.session.protocols import SessionStoreProtocol
from praisonaiagents.session.store import DefaultSessionStore

from asyncsessions import sync
from asyncsessions.errors import StoreUnavailableError
from asyncsessions.integrations.praisonai import AgentStore, attach, use_as_default
from asyncsessions.stores import _docplace
from asyncsessions.stores._disk import Disk
from asyncsessions.stores._docformat import parse_document
from asyncsessions.testing.timing import LONG_ENOUGH
from tests.integrations.conftest import NewAgent
from tests.integrations.stores import CountingStore, FailingStore

HOUR = 3600.0


def wait_until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + LONG_ENOUGH
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


@pytest.fixture
def original(tmp_path: Path) -> DefaultSessionStore:
    return DefaultSessionStore(str(tmp_path / "sessions"))


@pytest.fixture
def counting(original: DefaultSessionStore) -> CountingStore:
    return CountingStore(original)


def metadata_of(store: Any, session_id: str) -> dict[str, Any]:
    metadata: dict[str, Any] = store.get_session(session_id).metadata
    return metadata


def test_they_wait_and_are_written_together(counting: CountingStore) -> None:
    store = AgentStore(counting, delay=HOUR)
    for number in range(10):
        assert store.update_session_metadata("s", model="m", total_tokens=number)
        store.add_user_message("s", "x")
    assert metadata_of(counting, "s") == {}
    store.close()
    assert metadata_of(counting, "s") == {"model": "m", "total_tokens": 9}
    assert counting.calls["update_session_metadata"] == 1


def test_they_are_written_after_their_time(counting: CountingStore) -> None:
    store = AgentStore(counting, delay=0.01)
    store.update_session_metadata("s", cost=1)
    wait_until(lambda: metadata_of(counting, "s") == {"cost": 1})
    store.update_session_metadata("s", cost=2)
    wait_until(lambda: metadata_of(counting, "s") == {"cost": 2})
    store.close()


def test_what_was_written_before_is_not_written_again(counting: CountingStore) -> None:
    store = AgentStore(counting, delay=HOUR)
    for _ in range(3):
        store.update_session_metadata("s", model="m", cost=1, agent_id=None)
        store.flush()
    assert counting.calls["update_session_metadata"] == 1
    store.close()


def test_who_reads_through_it_sees_them(original: DefaultSessionStore) -> None:
    store = AgentStore(original, delay=HOUR)
    store.update_session_metadata("s", model="m")
    assert metadata_of(store, "s") == {"model": "m"}
    store.update_session_metadata("s", cost=1)
    assert store.list_sessions()[0]["cost"] == 1
    store.close()


def test_other_metadata_is_written_at_once_after_them(original: DefaultSessionStore) -> None:
    store = AgentStore(original, delay=HOUR)
    store.update_session_metadata("s", model="m", cost=1)
    store.update_session_metadata("s", title="T", cost=2)
    assert metadata_of(original, "s") == {"model": "m", "cost": 2, "title": "T"}
    store.close()


def test_a_deleted_session_does_not_come_back(original: DefaultSessionStore) -> None:
    store = AgentStore(original, delay=HOUR)
    store.add_user_message("s", "x")
    store.update_session_metadata("s", model="m")
    store.delete_session("s")
    store.close()
    assert not original.session_exists("s")


def test_what_the_store_refuses_waits_on(original: DefaultSessionStore) -> None:
    failing = FailingStore(original)
    store = AgentStore(failing, delay=HOUR)
    store.update_session_metadata("s", model="m", cost=1)
    failing.refused = {"update_session_metadata"}
    with pytest.raises(StoreUnavailableError):
        store.flush()
    store.update_session_metadata("s", cost=2)
    failing.refused = set()
    store.close()
    assert metadata_of(original, "s") == {"model": "m", "cost": 2}


def test_older_values_never_overtake_newer_ones(original: DefaultSessionStore) -> None:
    is_writing, may_go_on = threading.Event(), threading.Event()

    class Slow(CountingStore):
        def update_session_metadata(self, session_id: str, **fields: Any) -> bool:
            is_writing.set()
            assert may_go_on.wait(LONG_ENOUGH)
            stored: bool = self._store.update_session_metadata(session_id, **fields)
            return stored

    store = AgentStore(Slow(original), delay=HOUR)
    store.update_session_metadata("s", cost=1)
    first = threading.Thread(target=store.flush)
    first.start()
    assert is_writing.wait(LONG_ENOUGH)
    store.update_session_metadata("s", cost=2)
    store.flush()
    may_go_on.set()
    first.join(LONG_ENOUGH)
    store.close()
    assert metadata_of(original, "s") == {"cost": 2}


def test_a_process_that_ends_writes_them(tmp_path: Path, home: Path) -> None:
    script = """
    import sys
    from asyncsessions.integrations.praisonai import AgentStore
    from asyncsessions.sync import open_store
    store = AgentStore(open_store(f"json://{sys.argv[1]}"), delay=3600)
    store.add_user_message("s", "x")
    store.update_session_metadata("s", model="m")
    """
    command = [sys.executable, "-c", textwrap.dedent(script), str(tmp_path / "sessions")]
    subprocess.run(command, check=True, timeout=LONG_ENOUGH)
    store = DefaultSessionStore(str(tmp_path / "sessions"))
    assert metadata_of(store, "s")["model"] == "m"


def test_it_passes_for_a_store_of_praisonai(original: DefaultSessionStore) -> None:
    store = AgentStore(original)
    assert isinstance(store, SessionStoreProtocol)
    assert store.session_dir == original.session_dir
    with pytest.raises(AttributeError, match="no_such_thing"):
        store.no_such_thing  # noqa: B018  # what it raises
    store.close()


def test_a_store_without_tool_fields_gets_the_text() -> None:
    class Plain:
        def __init__(self) -> None:
            self.messages: list[tuple[str, Any]] = []

        def add_message(
            self, session_id: str, role: str, content: Any, metadata: Any = None
        ) -> bool:
            self.messages.append((role, content))
            return True

    plain = Plain()
    store = AgentStore(plain)
    store.add_message("s", "assistant", "a", tool_calls=[{"id": "c"}])
    store.add_message("s", "tool", "b", tool_call_id="c")
    store.update_session_metadata("s", model="m")
    store.close()
    assert plain.messages == [("assistant", "a"), ("tool", "b")]


def test_many_sessions_are_not_all_remembered(counting: CountingStore) -> None:
    store = AgentStore(counting, delay=HOUR)
    for number in range(1100):
        store.update_session_metadata(f"s{number}", model="m")
        if number < 1090:
            store._give_back(*store._take(f"s{number}"), is_written=True)
    assert len(store._sessions) <= 1025
    store.close()
    assert counting.calls["update_session_metadata"] == 10


def test_a_turn_of_an_agent_writes_its_two_messages_and_once_its_statistics(
    new_agent: NewAgent, counting: CountingStore
) -> None:
    agent = new_agent()
    with attach(agent, counting, "s"):
        agent._session_store._delay = HOUR
        agent.chat("Hi")
        counting.calls.clear()
        for _ in range(3):
            agent.chat("Hi again")
        assert counting.calls == {"add_message": 6}
    assert counting.calls["update_session_metadata"] == 1
    assert counting.get_session("s").metadata["total_tokens"] == 20


# With a store that writes messages and metadata in one go.


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Counts how often documents are parsed and written."""
    work: Counter[str] = Counter()
    replace = Disk.replace

    def counted_parse(data: bytes) -> object:
        work["parses"] += 1
        return parse_document(data)

    def counted_replace(disk: Disk, source: Path, target: Path) -> None:
        work["rewrites"] += 1
        replace(disk, source, target)

    monkeypatch.setattr(_docplace, "parse_document", counted_parse)
    monkeypatch.setattr(Disk, "replace", counted_replace)
    return work


@pytest.fixture
def combining(tmp_path: Path) -> Iterator[sync.DefaultSessionStore]:
    with sync.DefaultSessionStore(str(tmp_path / "sessions")) as store:
        yield store


def test_they_go_with_the_next_message(
    combining: sync.DefaultSessionStore, work: Counter[str]
) -> None:
    store = AgentStore(combining, delay=HOUR)
    store.add_user_message("s", "x")
    store.update_session_metadata("s", model="m")
    store.add_assistant_message("s", "y")
    assert metadata_of(combining, "s") == {"model": "m"}
    assert work["rewrites"] == 2
    store.close()
    assert work["rewrites"] == 2


def test_they_wait_on_where_the_message_is_refused(combining: sync.DefaultSessionStore) -> None:
    store = AgentStore(combining, delay=HOUR)
    store.update_session_metadata("s", model="m")
    lock_file = Path(combining.session_dir) / "s.json"
    lock_file.mkdir()
    assert store.add_user_message("s", "x") is False
    lock_file.rmdir()
    store.close()
    assert metadata_of(combining, "s") == {"model": "m"}


@pytest.mark.parametrize("is_attached", [True, False])
def test_a_turn_costs_at_most_two_parses_and_two_rewrites(
    new_agent: NewAgent,
    combining: sync.DefaultSessionStore,
    work: Counter[str],
    is_attached: bool,
) -> None:
    with use_as_default(combining) as default:
        agent = new_agent(memory=None if is_attached else MemoryConfig(session_id="s"))
        attached = attach(agent, combining, "s") if is_attached else None
        default.store._delay = HOUR
        agent.chat("Hi")
        work.clear()
        for _ in range(5):
            agent.chat("Hi again")
        assert work == {"parses": 10, "rewrites": 10}
        if attached is not None:
            assert metadata_of(combining, "s")["total_tokens"] == 30
            attached.detach()
    assert metadata_of(combining, "s")["total_tokens"] == 30
    assert len(combining.get_chat_history("s")) == 12
