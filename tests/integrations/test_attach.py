"""A sync agent with a store of its own."""

from __future__ import annotations

import asyncio
import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from praisonaiagents import MemoryConfig
from praisonaiagents.session.store import DefaultSessionStore

from asyncsessions import InMemorySessionStore, sync
from asyncsessions.errors import StoreClosedError
from asyncsessions.integrations._praisonai_turns import Turn
from asyncsessions.integrations.praisonai import TurnNotStoredError, attach
from asyncsessions.sync import SyncSessionStore, open_store
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


def mcp_add(a: int, b: int) -> int:
    """Add two numbers; by its name a tool that PraisonAI's search for tools hides."""
    return a + b


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


@pytest.fixture
def own_store() -> Iterator[SyncSessionStore]:
    with open_store("memory://") as store:
        yield store


def test_a_turn_is_stored_and_restored_with_its_tool_calls(
    new_agent: NewAgent, model: Model, store: Any
) -> None:
    model.script += [ROUND, says("3 and 7")]
    agent = new_agent()
    with attach(agent, store, "s"):
        assert agent.chat("Add") == "3 and 7"
    expected = [asks("Add"), *STORED_ROUND, says("3 and 7")]
    assert store.get_chat_history("s") == expected

    agent = new_agent()
    with attach(agent, store, "s"):
        agent.chat("Thanks")
    assert model.told() == [*expected, asks("Thanks")]
    assert store.get_chat_history("s") == [*expected, asks("Thanks"), says("echo Thanks")]


def test_a_tool_that_calls_another_one_is_stored_as_the_model_called_it(
    new_agent: NewAgent, model: Model, store: Any
) -> None:
    given = {"tool_name": "mcp_add", "tool_args": {"a": 1, "b": 2}}
    model.script += [calls(("c1", "tool_call", given)), says("It is 3")]
    agent = new_agent(tools=[mcp_add], tool_search="on")
    with attach(agent, store, "s"):
        assert agent.chat("Add") == "It is 3"
    called = tool_turn("c1", json.dumps(given), "3", "tool_call")
    assert store.get_chat_history("s") == [asks("Add"), *called, says("It is 3")]


def test_tools_that_a_model_calls_under_one_id_are_both_stored() -> None:
    turn = Turn(object(), None, is_async=False)
    with turn.tool("weather", {"city": "Rome"}, "c1") as rome:
        with turn.tool("weather", {"city": "Oslo"}, "c1") as oslo:
            turn.answer_tool(oslo, "cold")
        turn.answer_tool(rome, "hot")
    ((_, messages),) = turn.unsaved()
    assert [each["content"] for each in messages if each["role"] == "tool"] == ["hot", "cold"]


def test_who_and_how_much_is_stored_with_the_session(new_agent: NewAgent, store: Any) -> None:
    agent = new_agent(memory=MemoryConfig(user_id="u1"))
    with attach(agent, store, "s"):
        agent.chat("Hi")
    session = store.get_session("s")
    assert (session.agent_name, session.user_id) == ("Ada", "u1")
    assert session.metadata["model"] == "gpt-4o-mini"
    assert session.metadata["total_tokens"] == 5
    assert session.metadata["source"] == "chat"


@pytest.mark.parametrize(("limit", "count"), [(2, 2), (0, 0), (None, 150)])
def test_only_so_many_messages_are_restored(
    new_agent: NewAgent, model: Model, store: Any, limit: int | None, count: int
) -> None:
    said = [each for n in range(75) for each in (asks(f"q{n}"), says(f"a{n}"))]
    store.set_chat_history("s", said)
    before = store.get_chat_history("s")
    agent = new_agent()
    with attach(agent, store, "s", max_messages=limit):
        agent.chat("Hi")
    assert model.told() == [*before[len(before) - count :], asks("Hi")]


@pytest.mark.parametrize(
    "memory",
    [
        pytest.param(MemoryConfig(history=True, session_id="s"), id="history"),
        pytest.param(MemoryConfig(session_id="s", auto_save="s"), id="auto_save"),
    ],
)
def test_restored_messages_are_neither_sent_nor_stored_twice(
    new_agent: NewAgent, model: Model, store: Any, memory: MemoryConfig
) -> None:
    store.add_user_message("s", "before")
    store.add_assistant_message("s", "yes")
    agent = new_agent(memory=memory)
    with attach(agent, store, "s"):
        agent.start("Hi")
    assert model.told() == [asks("before"), says("yes"), asks("Hi")]
    assert [each["content"] for each in store.get_chat_history("s")] == [
        "before",
        "yes",
        "Hi",
        "echo Hi",
    ]


# Turns that don't end well.


def test_a_failed_turn_keeps_what_the_user_said_once(
    new_agent: NewAgent, model: Model, store: Any
) -> None:
    agent = new_agent()
    with attach(agent, store, "s"):
        model.script += [400, 400, 400]
        assert agent.chat("Hi") is None
        assert store.get_chat_history("s") == [asks("Hi")]
        model.script.clear()
        assert agent.chat("Hi") == "echo Hi"
    assert store.get_chat_history("s") == [asks("Hi"), says("echo Hi")]


def test_an_interrupted_turn_keeps_only_the_tool_calls_with_a_result(
    new_agent: NewAgent, model: Model, store: Any
) -> None:
    def stop() -> None:
        """Stop."""
        raise KeyboardInterrupt

    agent = new_agent(tools=[*new_agent().tools, stop])
    model.script += [calls(("c1", "add", {"a": 1, "b": 2}), ("c2", "stop", {}))]
    with attach(agent, store, "s"), pytest.raises(KeyboardInterrupt):
        agent.chat("Add")
    expected = [asks("Add"), *tool_turn("c1", '{"a": 1, "b": 2}', "3")]
    assert store.get_chat_history("s") == expected

    agent = new_agent()
    with attach(agent, store, "s"):
        agent.chat("Go on")
    assert model.told() == [*expected, asks("Go on")]


def test_a_turn_that_the_store_refuses_gives_its_answer_all_the_same(
    new_agent: NewAgent, model: Model, own_store: SyncSessionStore
) -> None:
    model.script += [ROUND, says("3 and 7")]
    store, agent = FailingStore(own_store), new_agent()
    attached = attach(agent, store, "s")
    store.refused = {"append"}
    with pytest.raises(TurnNotStoredError, match="'s' was not stored") as caught:
        agent.chat("Add")
    assert caught.value.answer == "3 and 7"
    assert "Add" not in str(caught.value)
    for _ in range(2):
        for key, messages in caught.value.batches:
            own_store.append("s", messages, idempotency_key=key)
    attached.detach()
    assert own_store.get_chat_history("s") == [asks("Add"), *STORED_ROUND, says("3 and 7")]


def test_a_store_that_recovers_while_the_model_thinks_has_the_whole_turn(
    new_agent: NewAgent, model: Model, own_store: SyncSessionStore
) -> None:
    store, agent = FailingStore(own_store), new_agent()

    def recover() -> dict[str, Any]:
        store.refused = set()
        return says("back")

    with attach(agent, store, "s"):
        store.refused = {"append"}
        model.script += [recover]
        assert agent.chat("Hi") == "back"
    assert own_store.get_chat_history("s") == [asks("Hi"), says("back")]


def test_a_store_that_answers_false_is_an_error(new_agent: NewAgent, tmp_path: Path) -> None:
    store, agent = DefaultSessionStore(str(tmp_path / "sessions")), new_agent()
    with attach(agent, store, "s"):
        (tmp_path / "sessions" / "s.json").unlink()
        (tmp_path / "sessions" / "s.json").mkdir()
        with pytest.raises(TurnNotStoredError) as caught:
            agent.chat("Hi")
    assert caught.value.answer == "echo Hi"


# Other ways to talk.


def test_achat_stores_a_turn_once(new_agent: NewAgent, model: Model, store: Any) -> None:
    model.script += [ROUND, says("3 and 7")]
    agent = new_agent()
    with attach(agent, store, "s"):
        assert asyncio.run(agent.achat("Add")) == "3 and 7"
    assert store.get_chat_history("s") == [asks("Add"), *STORED_ROUND, says("3 and 7")]


def test_a_stream_is_stored_once_with_its_tool_calls(
    new_agent: NewAgent, model: Model, store: Any
) -> None:
    model.script += [calls(("c1", "add", {"a": 1, "b": 2})), says("It is 3")]
    agent = new_agent()
    with attach(agent, store, "s"):
        assert "".join(agent.iter_stream("Add")) == "It is 3"
    called = tool_turn("c1", '{"a": 1, "b": 2}', "3")
    called[0]["content"] = ""
    assert store.get_chat_history("s") == [asks("Add"), *called, says("It is 3")]
    assert store.get_session("s").metadata["model"] == "gpt-4o-mini"


@pytest.mark.parametrize("failure", [400, "never"])
def test_a_stream_that_falls_back_to_a_turn_is_stored_once(
    new_agent: NewAgent, model: Model, store: Any, failure: int | str
) -> None:
    model.script += [failure, says("after all")]
    agent = new_agent(tools=[])
    with attach(agent, store, "s"):
        assert "".join(agent.iter_stream("Hi")).endswith("after all")
    assert store.get_chat_history("s") == [asks("Hi"), says("after all")]


def test_an_agent_that_another_one_asks_keeps_its_own_session(
    new_agent: NewAgent, model: Model, store: Any
) -> None:
    expert = new_agent(name="Bob")

    def ask_bob(question: str) -> str:
        """Ask Bob."""
        answer: str = expert.chat(question)
        return answer

    agent = new_agent(tools=[ask_bob])
    model.script += [calls(("c1", "ask_bob", {"question": "Why"})), says("So"), says("Bob says so")]
    with attach(agent, store, "s"), attach(expert, store, "bob"):
        agent.chat("Hi")
    assert store.get_chat_history("bob") == [asks("Why"), says("So")]
    asked = tool_turn("c1", '{"question": "Why"}', "So", "ask_bob")
    assert store.get_chat_history("s") == [asks("Hi"), *asked, says("Bob says so")]


class Scripted:
    """A model that an agent calls itself, as those of other vendors: it uses a tool."""

    def __init__(self) -> None:
        self.histories: list[list[dict[str, Any]]] = []

    def get_response(self, *, execute_tool_fn: Any, **given: Any) -> str:
        self.histories.append(list(given["chat_history"]))
        return f"It is {execute_tool_fn('add', {'a': 1, 'b': 2}, tool_call_id='c1')}"

    async def get_response_async(self, *, execute_tool_fn: Any, **given: Any) -> str:
        self.histories.append(list(given["chat_history"]))
        return f"It is {await execute_tool_fn('add', {'a': 1, 'b': 2}, tool_call_id='c1')}"


@pytest.mark.parametrize("is_async", [False, True])
def test_an_agent_with_a_model_of_another_vendor_stores_its_turn_once(
    new_agent: NewAgent, store: Any, is_async: bool
) -> None:
    agent = new_agent()
    agent._using_custom_llm, agent.llm_instance = True, Scripted()
    with attach(agent, store, "s"):
        answer = asyncio.run(agent.achat("Add")) if is_async else agent.chat("Add")
    assert answer == "It is 3"
    called = tool_turn("c1", '{"a": 1, "b": 2}', "3")
    assert store.get_chat_history("s") == [asks("Add"), *called, says("It is 3")]


@pytest.mark.parametrize("is_async", [False, True])
def test_an_agent_that_runs_somewhere_else_stores_its_turn(
    new_agent: NewAgent, store: Any, is_async: bool
) -> None:
    class Elsewhere:
        async def execute(self, prompt: str, **options: Any) -> str:
            return f"there: {prompt}"

    agent = new_agent(backend=Elsewhere())
    with attach(agent, store, "s"):
        answer = asyncio.run(agent.achat("Hi")) if is_async else agent.chat("Hi")
    assert answer == "there: Hi"
    assert store.get_chat_history("s") == [asks("Hi"), says("there: Hi")]


# The end of it, and copies.


def test_a_detached_agent_is_what_it_was(new_agent: NewAgent, own_store: SyncSessionStore) -> None:
    agent = new_agent()
    before = {key: value for key, value in vars(agent).items() if "session" in key}
    kind = type(agent)
    attached = attach(agent, own_store, "s")
    assert type(agent) is not kind
    attached.detach()
    attached.detach()
    assert type(agent) is kind
    assert {key: value for key, value in vars(agent).items() if "session" in key} == before
    assert agent.chat("Hi") == "echo Hi"
    assert own_store.get_chat_history("s") == []


def test_a_copy_of_an_agent_has_nothing_attached(
    new_agent: NewAgent, own_store: SyncSessionStore
) -> None:
    agent = new_agent()
    with attach(agent, own_store, "s"):
        clone = copy.deepcopy(agent)
        assert clone.chat("Hi") == "echo Hi"
        assert agent.chat_history == []


# Arguments.


def test_an_async_store_is_refused(new_agent: NewAgent) -> None:
    with pytest.raises(TypeError, match=r"InMemorySessionStore is an async one: give .*Sync"):
        attach(new_agent(), InMemorySessionStore(), "s")


def test_a_url_is_refused(new_agent: NewAgent) -> None:
    with pytest.raises(TypeError, match=r"not a URL: asyncsessions\.sync\.open_store"):
        attach(new_agent(), "memory://", "s")


def test_what_is_no_store_is_refused(new_agent: NewAgent) -> None:
    with pytest.raises(TypeError, match=r"dict is no session store: it has no add_message\(\)"):
        attach(new_agent(), {}, "s")


def test_what_is_no_agent_is_refused(own_store: SyncSessionStore) -> None:
    with pytest.raises(TypeError, match="object is no PraisonAI agent"):
        attach(object(), own_store, "s")


def test_a_closed_store_is_refused_at_once(
    new_agent: NewAgent, own_store: SyncSessionStore
) -> None:
    own_store.session_exists("s")
    own_store.close()
    agent = new_agent()
    with pytest.raises(StoreClosedError):
        attach(agent, own_store, "s")
    assert agent.chat("Hi") == "echo Hi"


def test_an_agent_that_has_a_store_is_refused(
    new_agent: NewAgent, own_store: SyncSessionStore
) -> None:
    agent = new_agent()
    with attach(agent, own_store, "s"), pytest.raises(ValueError, match=r"detach\(\) that one"):
        attach(agent, own_store, "t")


def test_an_agent_that_has_talked_is_refused(
    new_agent: NewAgent, own_store: SyncSessionStore
) -> None:
    agent = new_agent()
    agent.chat("Hi")
    with pytest.raises(ValueError, match="history of 2 messages"):
        attach(agent, own_store, "s")


def test_a_negative_limit_is_refused(new_agent: NewAgent, own_store: SyncSessionStore) -> None:
    with pytest.raises(ValueError, match="max_messages=-1"):
        attach(new_agent(), own_store, "s", max_messages=-1)
