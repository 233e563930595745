"""An agent's achat and astart with an async store."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from praisonaiagents import MemoryConfig

from asyncsessions import InMemorySessionStore, open_store
from asyncsessions.errors import StoreClosedError
from asyncsessions.integrations import _praisonai_methods
from asyncsessions.integrations.praisonai import TurnNotStoredError, aattach
from asyncsessions.protocols import SessionStore
from asyncsessions.stores.json import JSONSessionStore
from asyncsessions.sync import SyncSessionStore
from asyncsessions.sync import open_store as open_sync_store
from asyncsessions.testing.timing import LONG_ENOUGH
from tests.integrations.conftest import NewAgent
from tests.integrations.model import Model, calls, says
from tests.integrations.stores import FailingStore, tool_turn

ROUND = calls(("c1", "add", {"a": 1, "b": 2}), ("c2", "add", {"a": 3, "b": 4}))
STORED_ROUND = [
    *tool_turn("c1", '{"a": 1, "b": 2}', "3"),
    *tool_turn("c2", '{"a": 3, "b": 4}', "7"),
]


def asks(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


@pytest.fixture(params=["json", "memory"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[SessionStore]:
    url = "memory://" if request.param == "memory" else f"json://{tmp_path}/sessions"
    async with open_store(url) as store:
        yield store


@pytest.mark.parametrize("stream", [False, True])
async def test_a_turn_is_stored_and_restored_with_its_tool_calls(
    new_agent: NewAgent, model: Model, store: SessionStore, stream: bool
) -> None:
    model.script += [ROUND, says("3 and 7")]
    agent = new_agent()
    with await aattach(agent, store, "s"):
        assert await agent.astart("Add", stream=stream) == "3 and 7"
    expected = [asks("Add"), *STORED_ROUND, says("3 and 7")]
    assert await store.get_chat_history("s") == expected

    agent = new_agent()
    with await aattach(agent, store, "s"):
        assert await agent.achat("Thanks") == "echo Thanks"
    assert model.told() == [*expected, asks("Thanks")]
    assert await store.get_chat_history("s") == [*expected, asks("Thanks"), says("echo Thanks")]


async def test_who_and_how_much_is_stored_with_the_session(
    new_agent: NewAgent, store: SessionStore
) -> None:
    agent = new_agent(memory=MemoryConfig(user_id="u1"))
    with await aattach(agent, store, "s"):
        await agent.achat("Hi")
        await agent.achat("Hi again")
    session = await store.get_session("s")
    assert (session.agent_name, session.user_id) == ("Ada", "u1")
    assert session.metadata["model"] == "gpt-4o-mini"
    assert session.metadata["total_tokens"] == 10


async def test_the_user_is_stored_while_the_model_thinks(
    new_agent: NewAgent, model: Model, store: SessionStore
) -> None:
    asked, may_answer = threading.Event(), threading.Event()

    def think() -> dict[str, Any]:
        asked.set()
        assert may_answer.wait(LONG_ENOUGH)
        return says("yes")

    model.script += [think]
    agent = new_agent()
    with await aattach(agent, store, "s"):
        turn = asyncio.create_task(agent.achat("Hi"))
        await asyncio.to_thread(asked.wait, LONG_ENOUGH)
        async with asyncio.timeout(LONG_ENOUGH):
            while not await store.get_chat_history("s"):  # noqa: ASYNC110  # nothing to wait for
                await asyncio.sleep(0.001)
        assert await store.get_chat_history("s") == [asks("Hi")]
        may_answer.set()
        await turn
    assert await store.get_chat_history("s") == [asks("Hi"), says("yes")]


async def test_turns_of_two_workers_are_both_kept(
    new_agent: NewAgent, model: Model, store: SessionStore
) -> None:
    agents = [new_agent(), new_agent()]
    for agent in agents:
        await aattach(agent, store, "s")
    await asyncio.gather(*(agent.achat(f"Hi {n}") for n, agent in enumerate(agents)))
    texts = [each["content"] for each in await store.get_chat_history("s")]
    assert sorted(texts) == ["Hi 0", "Hi 1", "echo Hi 0", "echo Hi 1"]
    assert texts.index("Hi 0") < texts.index("echo Hi 0")
    assert texts.index("Hi 1") < texts.index("echo Hi 1")


async def test_concurrent_turns_of_one_agent_are_stored_once_each(
    new_agent: NewAgent, store: SessionStore
) -> None:
    agent = new_agent()
    with await aattach(agent, store, "s"):
        await asyncio.gather(*(agent.achat(f"Hi {n}") for n in range(5)))
    texts = [each["content"] for each in await store.get_chat_history("s")]
    said = [f"Hi {n}" for n in range(5)]
    assert sorted(text for text in texts if not text.startswith("echo")) == said
    assert len(texts) == 10


# Turns that don't end well.


async def test_a_failed_turn_keeps_what_the_user_said_once(
    new_agent: NewAgent, model: Model, store: SessionStore
) -> None:
    agent = new_agent()
    with await aattach(agent, store, "s"):
        model.script += [400, 400, 400]
        assert await agent.achat("Hi") is None
        assert await store.get_chat_history("s") == [asks("Hi")]
        model.script.clear()
        assert await agent.achat("Hi") == "echo Hi"
    assert await store.get_chat_history("s") == [asks("Hi"), says("echo Hi")]


async def test_a_cancelled_turn_keeps_only_the_tool_calls_with_a_result(
    new_agent: NewAgent, model: Model, store: SessionStore
) -> None:
    waiting = asyncio.Event()

    async def wait() -> None:
        """Wait."""
        waiting.set()
        await asyncio.sleep(LONG_ENOUGH)

    agent = new_agent(tools=[*new_agent().tools, wait])
    model.script += [calls(("c1", "add", {"a": 1, "b": 2}), ("c2", "wait", {}))]
    with await aattach(agent, store, "s"):
        turn = asyncio.create_task(agent.achat("Add"))
        async with asyncio.timeout(LONG_ENOUGH):
            await waiting.wait()
        turn.cancel()
        with pytest.raises(asyncio.CancelledError):
            await turn
    expected = [asks("Add"), *tool_turn("c1", '{"a": 1, "b": 2}', "3")]
    assert await store.get_chat_history("s") == expected

    agent = new_agent()
    with await aattach(agent, store, "s"):
        await agent.achat("Go on")
    assert model.told() == [*expected, asks("Go on")]


async def test_a_turn_that_is_cancelled_while_it_is_stored_is_stored_whole_and_once(
    new_agent: NewAgent,
) -> None:
    class SlowStore(InMemorySessionStore):
        may_write = asyncio.Event()

        async def _append(self, batch: Any) -> Any:
            await self.may_write.wait()
            return await super()._append(batch)

    async with SlowStore() as store:
        agent = new_agent()
        with await aattach(agent, store, "s"):
            turn = asyncio.create_task(agent.achat("Hi"))
            async with asyncio.timeout(LONG_ENOUGH):
                while not _praisonai_methods._writes:  # noqa: ASYNC110  # nothing to wait for
                    await asyncio.sleep(0.001)
            turn.cancel()
            store.may_write.set()
            with pytest.raises(asyncio.CancelledError):
                await turn
        assert await store.get_chat_history("s") == [asks("Hi"), says("echo Hi")]


@pytest.mark.parametrize("written", ["user", "reply"])
def test_a_turn_is_stored_where_the_loop_ends_in_mid_write(
    new_agent: NewAgent, tmp_path: Path, written: str
) -> None:
    class StuckStore(JSONSessionStore):
        """Writes when the loop has begun to end, and cancelled the first attempt."""

        is_stuck = asyncio.Event()

        async def _append(self, batch: Any) -> Any:
            is_user = batch[0].key.endswith(":user")
            if is_user == (written == "user") and not self.is_stuck.is_set():
                self.is_stuck.set()
                await asyncio.Event().wait()
            return await super()._append(batch)

    async def serve() -> None:
        store = StuckStore(tmp_path / "sessions")
        await aattach(agent, store, "s")
        turns.append(asyncio.create_task(agent.achat("Hi")))
        async with asyncio.timeout(LONG_ENOUGH):
            await store.is_stuck.wait()

    agent = new_agent()
    turns: list[asyncio.Task[Any]] = []
    asyncio.run(serve())
    assert turns[0].cancelled()
    with open_sync_store(f"json://{tmp_path / 'sessions'}") as store:
        expected = [asks("Hi")] if written == "user" else [asks("Hi"), says("echo Hi")]
        assert store.get_chat_history("s")[:2] == expected


async def test_a_turn_that_the_store_refuses_gives_its_answer_all_the_same(
    new_agent: NewAgent, model: Model, store: SessionStore
) -> None:
    model.script += [ROUND, says("3 and 7")]
    failing, agent = FailingStore(store), new_agent()
    with await aattach(agent, failing, "s"):
        failing.refused = {"append"}
        with pytest.raises(TurnNotStoredError) as caught:
            await agent.achat("Add")
    assert caught.value.answer == "3 and 7"
    for _ in range(2):
        for key, messages in caught.value.batches:
            await store.append("s", messages, idempotency_key=key)
    assert await store.get_chat_history("s") == [asks("Add"), *STORED_ROUND, says("3 and 7")]


async def test_a_store_that_refuses_statistics_alone_has_the_turn(
    new_agent: NewAgent, store: SessionStore
) -> None:
    failing, agent = FailingStore(store), new_agent()
    with await aattach(agent, failing, "s"):
        failing.refused = {"update_session_metadata"}
        await agent.achat("Hi")
        failing.refused = set()
        await agent.achat("Hi again")
    session = await store.get_session("s")
    assert len(session.messages) == 4
    assert session.metadata["total_tokens"] == 10


# Arguments.


async def test_sync_methods_say_what_to_use_instead(
    new_agent: NewAgent, store: SessionStore
) -> None:
    agent = new_agent()
    with await aattach(agent, store, "s"):
        with pytest.raises(TypeError, match=r"await agent\.achat"):
            agent.chat("Hi")
        with pytest.raises(TypeError, match=r"await agent\.achat"):
            list(agent.iter_stream("Hi"))
    assert await store.get_chat_history("s") == []


async def test_a_sync_store_is_refused(new_agent: NewAgent) -> None:
    store: Any = SyncSessionStore("memory://")
    with pytest.raises(TypeError, match=r"sync store: give an async one; a sync store is for at"):
        await aattach(new_agent(), store, "s")


async def test_a_url_is_refused(new_agent: NewAgent) -> None:
    url: Any = "memory://"
    with pytest.raises(TypeError, match=r"not a URL: asyncsessions\.open_store"):
        await aattach(new_agent(), url, "s")


async def test_a_closed_store_is_refused_at_once(new_agent: NewAgent) -> None:
    async with InMemorySessionStore() as store:
        pass
    with pytest.raises(StoreClosedError):
        await aattach(new_agent(), store, "s")


async def test_an_agent_that_has_a_store_is_refused(
    new_agent: NewAgent, store: SessionStore
) -> None:
    agent = new_agent()
    with (
        await aattach(agent, store, "s"),
        pytest.raises(ValueError, match=r"detach\(\) that one first"),
    ):
        await aattach(agent, store, "t")
