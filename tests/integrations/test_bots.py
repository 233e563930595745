"""A bot's session manager with histories that are only appended to."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from praisonai_bot.bots._session import BotSessionManager
from praisonaiagents.session.store import DefaultSessionStore

from asyncsessions import InMemorySessionStore, sync
from asyncsessions.integrations.praisonai import attach_bot, bot_sessions
from asyncsessions.sync import open_store
from tests.integrations.conftest import NewAgent
from tests.integrations.model import Model, says
from tests.integrations.stores import FailingStore

KEY = "bot_test_ann"


def asks(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


@pytest.fixture(autouse=True)
def no_blocking_calls() -> None:
    """Allow sync stores on the loop's thread, where bots call ``reset`` and ``record_passive``."""


@pytest.fixture(params=["asyncsessions", "asyncsessions-default", "praisonai"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    if request.param == "asyncsessions-default":
        with sync.DefaultSessionStore(str(tmp_path / "sessions"), retention="keep_all") as store:
            yield store
        return
    if request.param == "praisonai":
        yield DefaultSessionStore(str(tmp_path / "sessions"), retention="keep_all")
        return
    with open_store(f"json://{tmp_path}/sessions") as store:
        yield store


async def test_turns_are_stored_and_loaded(new_agent: NewAgent, model: Model, store: Any) -> None:
    agent = new_agent()
    assert await bot_sessions(store, platform="test").chat(agent, "ann", "Hi") == "echo Hi"
    await bot_sessions(store, platform="test").chat(agent, "ann", "Again")
    assert model.told() == [asks("Hi"), says("echo Hi"), asks("Again")]
    assert store.get_chat_history(KEY) == [*model.told(), says("echo Again")]
    assert agent.chat_history == []


async def test_turns_of_two_workers_at_the_same_time_are_both_kept(
    new_agent: NewAgent, model: Model, store: Any
) -> None:
    store.add_user_message(KEY, "before")
    together = threading.Barrier(2, timeout=60)

    def answer() -> dict[str, Any]:
        together.wait()
        return says("yes")

    model.script += [answer, answer]
    workers = [bot_sessions(store, platform="test") for _ in range(2)]
    await asyncio.gather(
        *(worker.chat(new_agent(), "ann", f"Hi {n}") for n, worker in enumerate(workers))
    )
    history = store.get_chat_history(KEY)
    assert [each["content"] for each in history].count("yes") == 2
    assert sorted(each["content"] for each in history if each["role"] == "user") == [
        "Hi 0",
        "Hi 1",
        "before",
    ]
    assert len(history) == 5


async def test_a_turn_stays_together(new_agent: NewAgent, model: Model, tmp_path: Path) -> None:
    with open_store(f"json://{tmp_path}/sessions") as store:
        workers = [bot_sessions(store, platform="test") for _ in range(4)]
        await asyncio.gather(
            *(worker.chat(new_agent(), "ann", f"Hi {n}") for n, worker in enumerate(workers))
        )
        history = store.get_chat_history(KEY)
    assert len(history) == 8
    for said, answered in zip(history[::2], history[1::2], strict=True):
        assert answered["content"] == f"echo {said['content']}"


async def test_the_agent_gets_the_newest_messages_and_the_store_keeps_all(
    new_agent: NewAgent, model: Model, store: Any
) -> None:
    manager, agent = bot_sessions(store, platform="test", max_history=4), new_agent()
    for number in range(5):
        await manager.chat(agent, "ann", f"Hi {number}")
    assert len(model.told()) == 5
    texts = [each["content"] for each in store.get_chat_history(KEY)]
    assert texts == [text for n in range(5) for text in (f"Hi {n}", f"echo Hi {n}")]


async def test_the_same_words_again_are_a_new_turn(new_agent: NewAgent, store: Any) -> None:
    manager, agent = bot_sessions(store, platform="test", max_history=2), new_agent()
    for _ in range(3):
        await manager.chat(agent, "ann", "Hi")
    assert store.get_chat_history(KEY) == [asks("Hi"), says("echo Hi")] * 3


async def test_a_new_conversation_is_new_for_every_worker(
    new_agent: NewAgent, model: Model, store: Any
) -> None:
    agent, workers = new_agent(), [bot_sessions(store, platform="test") for _ in range(2)]
    for worker in workers:
        await worker.chat(agent, "ann", "Hi")
    assert workers[0].reset("ann")
    await workers[1].chat(agent, "ann", "Who am I?")
    assert model.told() == [asks("Who am I?")]


async def test_a_turn_that_began_before_a_new_conversation_brings_nothing_back(
    new_agent: NewAgent, model: Model, store: Any
) -> None:
    manager, agent = bot_sessions(store, platform="test"), new_agent()
    await manager.chat(agent, "ann", "Hi")

    def answer() -> dict[str, Any]:
        store.clear_session(KEY)
        return says("late")

    model.script += [answer]
    await manager.chat(agent, "ann", "And?")
    assert store.get_chat_history(KEY) == [asks("And?"), says("late")]


async def test_what_others_say_in_a_group_is_kept(
    new_agent: NewAgent, model: Model, store: Any
) -> None:
    manager = bot_sessions(store, platform="test")
    assert manager.record_passive("ann", "Nice weather", sender="Bob")
    assert manager.record_passive("ann", "Indeed", sender="Cid")
    await manager.chat(new_agent(), "ann", "Hi")
    said = [asks("[Bob] Nice weather"), asks("[Cid] Indeed"), asks("Hi")]
    assert model.told() == said
    assert store.get_chat_history(KEY) == [*said, says("echo Hi")]


async def test_a_conversation_can_move_to_another_user(
    new_agent: NewAgent, model: Model, store: Any
) -> None:
    manager = bot_sessions(store, platform="test")
    await manager.chat(new_agent(), "ann", "Hi")
    manager.seed_history("bob", manager.export_history("ann"))
    await manager.chat(new_agent(), "bob", "Again")
    assert model.told() == [asks("Hi"), says("echo Hi"), asks("Again")]
    assert store.get_chat_history("bot_test_bob") == [*model.told(), says("echo Again")]


async def test_what_the_store_refused_is_stored_with_the_next_turn(
    new_agent: NewAgent, model: Model, store: Any
) -> None:
    failing = FailingStore(store)
    manager, agent = bot_sessions(failing, platform="test"), new_agent()
    await manager.chat(agent, "ann", "Hi")
    failing.refused = {"append", "add_message"}
    assert await manager.chat(agent, "ann", "Lost?") == "echo Lost?"
    assert not manager._flushed
    failing.refused = set()
    await manager.chat(agent, "ann", "Again")
    assert [each["content"] for each in model.told()] == [
        "Hi",
        "echo Hi",
        "Lost?",
        "echo Lost?",
        "Again",
    ]
    assert store.get_chat_history(KEY) == [*model.told(), says("echo Again")]


async def test_a_store_that_cannot_be_read_for_a_while_loses_and_doubles_nothing(
    new_agent: NewAgent, model: Model, store: Any
) -> None:
    failing = FailingStore(store)
    manager, agent = bot_sessions(failing, platform="test"), new_agent()
    await manager.chat(agent, "ann", "Hi")
    failing.refused = {"get_chat_history"}
    await manager.chat(agent, "ann", "Again")
    assert model.told() == [asks("Hi"), says("echo Hi"), asks("Again")]
    assert store.get_chat_history(KEY) == [*model.told(), says("echo Again")]


async def test_an_agent_that_hands_back_copies_stores_its_last_turn(store: Any) -> None:
    manager = bot_sessions(store, platform="test")

    class Copying:
        name = "Copying"
        chat_history: list[dict[str, Any]] = []  # noqa: RUF012  # as agents have it

        def chat(self, prompt: str) -> str:
            history = [dict(each) for each in self.chat_history]
            self.chat_history = [*history, asks(prompt), says("ok")]
            return "ok"

    for prompt in ("a", "b", "c"):
        await manager.chat(Copying(), "ann", prompt)
    texts = [each["content"] for each in store.get_chat_history(KEY)]
    assert texts == ["a", "ok", "b", "ok", "c", "ok"]


async def test_a_failed_turn_stores_nothing(new_agent: NewAgent, model: Model, store: Any) -> None:
    manager, agent = bot_sessions(store, platform="test"), new_agent()
    model.script += [400, 400, 400]
    await manager.chat(agent, "ann", "Hi")
    assert store.get_chat_history(KEY) == []


async def test_a_bot_of_the_original_gets_it(new_agent: NewAgent, store: Any) -> None:
    manager = BotSessionManager(platform="test")
    assert attach_bot(manager, store) is manager

    class Bot:
        _session = manager

    assert attach_bot(Bot(), store) is manager
    await manager.chat(new_agent(), "ann", "Hi")
    assert store.get_chat_history(KEY) == [asks("Hi"), says("echo Hi")]


def test_what_would_rewrite_histories_is_refused(store: Any) -> None:
    with pytest.raises(ValueError, match="compaction would rewrite the history"):
        bot_sessions(store, compaction={"enabled": True})


def test_an_async_store_is_refused() -> None:
    with pytest.raises(TypeError, match=r"bot_sessions\(\) takes a sync store"):
        bot_sessions(InMemorySessionStore())


def test_what_is_no_bot_is_refused(store: Any) -> None:
    with pytest.raises(TypeError, match="object is no bot of praisonai-bot"):
        attach_bot(object(), store)
