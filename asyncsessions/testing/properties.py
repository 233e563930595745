"""Property-based cases: any text, any JSON, and any sequence of calls against a model."""

from __future__ import annotations

import itertools
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from asyncsessions.protocols import SessionStore
from asyncsessions.testing._cases import ManualClock, StoreCases, ids, same, texts
from asyncsessions.testing._model import Comparison

__all__ = ["ModelCases", "PropertyCases"]

# Examples share their test's place, and the cases are inherited by several classes; each example
# uses sessions of its own, so neither matters.
property_settings: settings = settings(
    deadline=None,
    suppress_health_check=[
        HealthCheck.differing_executors,
        HealthCheck.function_scoped_fixture,
        HealthCheck.too_slow,
    ],
)

# All of Unicode but lone surrogates; what breaks parsers, servers and files comes more often.
_character = st.characters(exclude_categories=["Cs"]) | st.sampled_from(
    "\0\0\x01\x7f\x85\t\n\r\u2028\ufeff\ufffe\uffff\U0010ffff\u0301\\\"'`$%{}[].:/* "
)
_text = st.text(_character)
_key = st.text(_character, max_size=20)
any_id: st.SearchStrategy[str] = st.text(_character, min_size=1, max_size=512).filter(
    lambda text: len(text.encode()) <= 512
)
_scalar = (
    st.none()
    | st.booleans()
    | st.integers(-(2**200), 2**200)
    | st.sampled_from([2**53 + 1, 2**63, -(2**63) - 1, 2**64, -0.0, 1e308, 5e-324, 1e22, 0.1])
    | st.floats(allow_nan=False, allow_infinity=False)
    | _text
)
_json = st.recursive(
    _scalar,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_key, inner, max_size=4),
    max_leaves=12,
)
_object = st.dictionaries(_key, _json, max_size=4)
# Hypothesis also tries the texts that it finds in the sources, and these keys are refused.
_metadata_key = _key.filter(lambda key: not key.startswith("asyncsessions:"))
_metadata = st.dictionaries(_metadata_key, _json, max_size=4)
_counter = itertools.count()

# Mostly one session, so that calls meet.
_name = st.sampled_from(["a", "a", "a", "A"])
_short = st.sampled_from(["", "x", "y", "zz"])
_seq = st.none() | st.integers(0, 8)
_call = st.one_of(
    st.tuples(st.just("append"), _name, st.lists(_short, max_size=3)),
    st.tuples(st.just("append_with_key"), _name, _short, st.sampled_from(["k1", "k2"])),
    st.tuples(st.just("append_expecting"), _name, _short, st.integers(0, 6)),
    st.tuples(st.just("upsert_partial"), _name, _short, st.booleans()),
    st.tuples(st.just("discard_partial"), _name),
    st.tuples(st.just("pop"), _name),
    st.tuples(st.just("clear"), _name),
    st.tuples(st.just("set_chat_history"), _name, st.lists(_short, max_size=3)),
    st.tuples(st.just("set_checkpoint"), _name),
    st.tuples(st.just("delete"), _name),
    st.tuples(st.just("set_state"), _name, _key, st.integers(0, 3)),
    st.tuples(st.just("increment"), _name, st.integers(-3, 3)),
    st.tuples(st.just("set_metadata"), _name, st.sampled_from(["m", "n"]), st.integers(0, 3)),
    st.tuples(st.just("expire"), _name, st.none() | st.integers(0, 10)),
    st.tuples(st.just("advance"), st.integers(1, 8)),
    st.tuples(st.just("purge")),
    st.tuples(st.just("read"), _name, _seq, _seq, _seq),
)


def new_id() -> str:
    return f"example {next(_counter)}"


class PropertyCases(StoreCases):
    """Whatever text and JSON goes in comes out the same."""

    @given(contents=st.lists(_text, min_size=1, max_size=4))
    @property_settings
    async def test_any_text_round_trips(self, store: SessionStore, contents: list[str]) -> None:
        session_id = new_id()
        stored = await store.append(session_id, [{"role": "user", "content": c} for c in contents])
        assert texts(stored) == contents
        assert texts(await store.get_messages(session_id)) == contents
        assert texts(await store.get_messages(session_id, limit=1)) == contents[-1:]

    @given(text=_text.filter(bool))
    @property_settings
    async def test_any_name_round_trips(self, store: SessionStore, text: str) -> None:
        session_id = new_id()
        await store.append(session_id, [{"role": text, "content": "x", "name": text}])
        await store.set_agent_info(session_id, text, text)
        await store.set_gateway_info(session_id, f"{session_id} {text}", text)
        (message,) = await store.get_messages(session_id)
        assert (message.role, message.name) == (text, text)
        found = await store.get_by_gateway_session(f"{session_id} {text}")
        assert found is not None
        assert (found.session_id, found.agent_name, found.agent_id) == (session_id, text, text)
        assert session_id in ids(await store.list_sessions(1000, agent_name=text))

    @given(text=any_id)
    @property_settings
    async def test_any_id_is_its_own_session(self, store: SessionStore, text: str) -> None:
        # Whatever an earlier example left under this id goes first.
        await store.delete_session(text)
        await store.add_message(text, "user", text)
        await store.set_state(text, "id", text)
        session = await store.get_session(text)
        assert (session.session_id, texts(session.messages)) == (text, [text])
        assert session.state == {"id": text}
        assert text in ids(await store.list_sessions(3))
        assert await store.delete_session(text) is True
        assert await store.session_exists(text) is False

    @given(key=_metadata_key)
    @property_settings
    async def test_any_key_is_itself(self, store: SessionStore, key: str) -> None:
        session_id = new_id()
        await store.set_state(session_id, key, 1)
        await store.increment_state(session_id, key)
        await store.update_state(session_id, {key + "'": 0}, remove=[key + '"'])
        await store.merge_session_metadata_map(session_id, key, {key: 1}, defaults={key: 0})
        session = await store.get_session(session_id)
        assert session.state == {key: 2, key + "'": 0}
        assert session.metadata == {key: {key: 1}}
        for _ in range(2):
            await store.append(
                session_id, [{"role": "user", "content": "x"}], idempotency_key=f"k{key}"
            )
        assert len(await store.get_messages(session_id)) == 1

    @given(value=_json, metadata=_object)
    @property_settings
    async def test_any_json_round_trips(
        self, store: SessionStore, value: Any, metadata: dict[str, Any]
    ) -> None:
        session_id = new_id()
        await store.add_message(session_id, "user", [value], metadata)
        await store.set_state(session_id, "k", value)
        await store.merge_session_metadata_map(session_id, "m", metadata)
        session = await store.get_session(session_id)
        assert same(session.messages[0].content, [value])
        assert same(session.messages[0].metadata, metadata)
        assert same(session.state, {"k": value})
        assert same(session.metadata, {"m": metadata} if metadata else {})

    @given(extra=_object, state=_object, metadata=_metadata)
    @property_settings
    async def test_any_session_is_exported_and_imported(
        self,
        store: SessionStore,
        extra: dict[str, Any],
        state: dict[str, Any],
        metadata: dict[str, Any],
    ) -> None:
        session_id = new_id()
        unknown = {f"x-{key}": value for key, value in extra.items()}
        message = {"role": "user", "content": "x", **unknown, "metadata": metadata}
        given = {"session_id": session_id, "state": state, "metadata": metadata}
        report = await store.import_sessions([{**given, "messages": [message]}])
        assert report.skipped == []
        exported = await store.export_session(session_id)
        assert same(exported.get("state", {}), state)
        assert same(exported.get("metadata", {}), metadata)
        (back,) = exported["messages"]
        assert same(back.get("metadata", {}), metadata)
        assert same({key: back.get(key) for key in unknown}, unknown)


class ModelCases(StoreCases):
    """Any sequence of calls does what the same calls do to a model in plain Python."""

    @given(calls=st.lists(_call, min_size=8, max_size=40))
    @property_settings
    async def test_any_calls_match_the_model(self, calls: list[tuple[Any, ...]]) -> None:
        clock = ManualClock()
        async with self.make_store(clock=clock) as store:
            comparison = Comparison(store, clock, prefix=new_id())
            for name, *arguments in calls:
                await comparison.call(name, arguments)
