"""A store that every agent of the process uses."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import praisonaiagents.session.store as original
import pytest
from praisonaiagents import MemoryConfig
from praisonaiagents.session import get_default_session_store

from asyncsessions import InMemorySessionStore, sync
from asyncsessions.integrations.praisonai import use_as_default
from asyncsessions.sync import open_store
from tests.integrations.conftest import NewAgent
from tests.integrations.model import Model, says
from tests.integrations.stores import CountingStore

HOUR = 3600.0


@pytest.fixture(params=["asyncsessions", "asyncsessions-default", "praisonai"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    if request.param == "asyncsessions-default":
        with sync.DefaultSessionStore(str(tmp_path / "sessions")) as store:
            yield store
        return
    if request.param == "praisonai":
        yield original.DefaultSessionStore(str(tmp_path / "sessions"))
        return
    with open_store(f"json://{tmp_path}/sessions") as store:
        yield store


def asks(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def test_agents_use_it_until_it_is_restored(
    new_agent: NewAgent, model: Model, store: Any, home: Path
) -> None:
    before = original._default_store
    with use_as_default(store):
        new_agent(memory=MemoryConfig(session_id="s")).chat("Hi")
        new_agent(memory=MemoryConfig(session_id="s")).chat("Again")
    assert model.told() == [asks("Hi"), says("echo Hi"), asks("Again")]
    assert store.get_chat_history("s") == [*model.told(), says("echo Again")]
    assert store.get_session("s").metadata["total_tokens"] == 5
    assert original._default_store is before
    assert not list(home.rglob("s.json"))


def test_an_agents_turn_costs_a_write_for_each_message(new_agent: NewAgent, store: Any) -> None:
    counting = CountingStore(store)
    with use_as_default(counting) as default:
        default.store._delay = HOUR
        agent = new_agent(memory=MemoryConfig(session_id="s"))
        agent.chat("Hi")
        counting.calls.clear()
        for _ in range(3):
            agent.chat("Again")
        assert counting.calls.total() == 6
    assert counting.calls["update_session_metadata"] == 1
    assert store.get_session("s").metadata["total_tokens"] == 20


def test_the_default_of_somebody_else_stays(store: Any) -> None:
    default = use_as_default(store)
    inner = use_as_default(store)
    default.restore()
    assert get_default_session_store() is inner.store
    inner.restore()
    assert get_default_session_store() not in (default.store, inner.store)
    with use_as_default(store) as outer:
        with use_as_default(store):
            pass
        assert get_default_session_store() is outer.store


def test_an_async_store_is_refused() -> None:
    with pytest.raises(TypeError, match=r"use_as_default\(\) takes a sync store"):
        use_as_default(InMemorySessionStore())


def test_without_the_package_it_says_what_to_install(tmp_path: Path) -> None:
    script = """
import sys
sys.modules["praisonaiagents"] = sys.modules["praisonai_bot"] = None
from asyncsessions.integrations.praisonai import bot_sessions, use_as_default
from asyncsessions.sync import open_store
for function in (use_as_default, bot_sessions):
    try:
        function(open_store("memory://"))
    except ImportError as exc:
        print(exc)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, check=True, text=True, timeout=60
    )
    assert done.stdout.splitlines() == [
        "use_as_default() needs praisonaiagents: pip install 'praisonaiagents==1.7.17'",
        "bot_sessions() needs praisonai_bot: pip install 'praisonai-bot==0.1.16'",
    ]
