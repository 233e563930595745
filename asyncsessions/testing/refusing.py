"""Cases of what a store refuses, and of ids that it has to take."""

from __future__ import annotations

import asyncio
import math
from typing import Any, cast

import pytest

from asyncsessions.errors import (
    InvalidMessageError,
    InvalidSessionIdError,
    MessageTooLargeError,
)
from asyncsessions.models import Message
from asyncsessions.protocols import SessionStore
from asyncsessions.testing._cases import (
    CALLS,
    StoreCases,
    call,
    fill,
    ids,
    is_absent,
    texts,
    trying,
    user,
)

__all__ = ["BadInputCases", "SessionIdCases"]

_SURROGATE = "a\ud800b"
_DEEP: Any = {}
for _level in range(200):
    _DEEP = {"d": _DEEP}

# What is appended, and the field that the error names.
_BAD_MESSAGES: dict[str, tuple[Any, str]] = {
    "content is a dict": ({"role": "user", "content": {"a": 1}}, "content"),
    "content is a number": ({"role": "user", "content": 1}, "content"),
    "content is bytes": ({"role": "user", "content": b"x"}, "content"),
    "content is a bool": ({"role": "user", "content": True}, "content"),
    "content is a tuple": ({"role": "user", "content": ("x",)}, "content"),
    "content part isn't JSON": ({"role": "user", "content": ["x", b"x"]}, "content[1]"),
    "content part is NaN": ({"role": "user", "content": [{"n": math.nan}]}, "content[0].n"),
    "content has a surrogate": ({"role": "user", "content": _SURROGATE}, "content"),
    "role is missing": ({"content": "x"}, "role"),
    "role is empty": ({"role": "", "content": "x"}, "role"),
    "role is None": ({"role": None, "content": "x"}, "role"),
    "role is a number": ({"role": 1, "content": "x"}, "role"),
    "role has a surrogate": ({"role": _SURROGATE, "content": "x"}, "role"),
    "metadata is a list": (user("x") | {"metadata": ["a"]}, "metadata"),
    "metadata is text": (user("x") | {"metadata": "a"}, "metadata"),
    "metadata holds an object": (user("x") | {"metadata": {"a": object()}}, "metadata.a"),
    "metadata holds bytes": (user("x") | {"metadata": {"a": [0, b"x"]}}, "metadata.a[1]"),
    "metadata holds a set": (user("x") | {"metadata": {"a": {1}}}, "metadata.a"),
    "metadata holds NaN": (user("x") | {"metadata": {"a": math.nan}}, "metadata.a"),
    "metadata holds inf": (user("x") | {"metadata": {"a": {"b": math.inf}}}, "metadata.a.b"),
    "metadata holds -inf": (user("x") | {"metadata": {"a": -math.inf}}, "metadata.a"),
    "metadata has a number as key": (user("x") | {"metadata": {1: "a"}}, "metadata"),
    "metadata has None as key": (user("x") | {"metadata": {"a": {None: 1}}}, "metadata.a"),
    "metadata has a surrogate": (user("x") | {"metadata": {"a": _SURROGATE}}, "metadata"),
    "metadata key has a surrogate": (user("x") | {"metadata": {_SURROGATE: 1}}, "metadata"),
    "tool_calls is a dict": (user("x") | {"tool_calls": {"id": "c"}}, "tool_calls"),
    "tool_calls is text": (user("x") | {"tool_calls": "c"}, "tool_calls"),
    "tool_calls isn't JSON": (user("x") | {"tool_calls": [{"id": b"c"}]}, "tool_calls[0].id"),
    "tool_call_id is a number": (user("x") | {"tool_call_id": 1}, "tool_call_id"),
    "name is a number": (user("x") | {"name": 1}, "name"),
    "timestamp is text": (user("x") | {"timestamp": "now"}, "timestamp"),
    "timestamp is True": (user("x") | {"timestamp": True}, "timestamp"),
    "timestamp is NaN": (user("x") | {"timestamp": math.nan}, "timestamp"),
    "timestamp is beyond every float": (user("x") | {"timestamp": 10**400}, "timestamp"),
    "unknown key isn't JSON": (user("x") | {"other": object()}, "extra.other"),
    "extra is None": (Message("user", "x", extra=cast("Any", None)), "extra"),
    "extra is a list": (Message("user", "x", extra=cast("Any", [])), "extra"),
    "it is text": ("x", "messages[0]"),
    "it is None": (None, "messages[0]"),
}


class _Name(str):
    __slots__ = ()


_BAD_IDS: dict[str, Any] = {
    "empty": "",
    "513 bytes": "x" * 513,
    "513 bytes in fewer characters": "é" * 256 + "x",
    "lone surrogate": "chat-\udc80",
    "bytes": b"chat",
    "number": 7,
    "None": None,
    "a subclass of str": _Name("chat"),
}

# Ids that careless stores confuse, cut, sanitise or take for a path.
_IDS = (
    *("s", "s1", "s:1", "s:", "s/1", "s.1", "s_1", "s-1", "s 1", " s", "s ", "s\n", "s\t", "s\0"),
    *("A", "a", "user:42", "User:42", "a.b@x.com", "a_b@x.com", "a+b@x.com", "a%2Bb@x.com"),
    *("../../x", "..", ".", "/", "\\", "/etc/passwd", "a/b", "a_b", "a\\b", "a//b", "~", "-rf"),
    *("CON", "con", "NUL", "com1", "aux.jsonl", "s.jsonl", "s.json", "*", "s*", "?", "[s]", "{s}"),
    *("é", "e\u0301", "群/1", "🙂", "🙂" * 128, "👩\u200d💻", "ß", "ss", "SS", "İ", "i", "\u200bs"),
    *("x" * 512, "x" * 511, "x" * 511 + "y", "é" * 256, "%s", "$s", "s;1", "null", "0", "--", "'"),
)


class BadInputCases(StoreCases):
    """Bad input is refused with a typed error before anything is written."""

    async def test_bad_message_is_refused(self, store: SessionStore) -> None:
        for fault, (message, field) in _BAD_MESSAGES.items():
            with trying(fault):
                with pytest.raises(InvalidMessageError) as caught:
                    await store.append("s", [message])
                assert caught.value.field == field
                assert field.split(".")[0].split("[")[0] in str(caught.value)
                assert await is_absent(store, "s")

    async def test_too_deep_metadata_is_refused(self, store: SessionStore) -> None:
        with pytest.raises(InvalidMessageError) as caught:
            await store.append("s", [user("x") | {"metadata": _DEEP}])
        assert caught.value.field.startswith("metadata.d.d")
        assert await is_absent(store, "s")

    async def test_messages_are_a_list(self, store: SessionStore) -> None:
        bad: Any
        for bad in ("text", b"bytes", {"role": "user", "content": "x"}, None, 5):
            with trying(bad):
                with pytest.raises(InvalidMessageError) as caught:
                    await store.append("s", bad)
                assert caught.value.field == "messages"
                assert await is_absent(store, "s")

    async def test_one_bad_message_refuses_its_batch(self, store: SessionStore) -> None:
        stored = await fill(store, "s", 2)
        with pytest.raises(InvalidMessageError) as caught:
            await store.append("s", [user("a"), Message("user", "b"), Message("", "c")])
        assert caught.value.session_id == "s"
        assert await store.get_messages("s") == stored
        assert (await store.get_session("s")).last_seq == 2

    async def test_bad_message_leaves_the_old_history(self, store: SessionStore) -> None:
        stored = await fill(store, "s", 2)
        with pytest.raises(InvalidMessageError):
            await store.set_chat_history("s", [user("a"), {"role": "user", "content": 5}])
        with pytest.raises(InvalidMessageError):
            await store.add_message("s", "user", 1.5)
        with pytest.raises(InvalidMessageError):
            await store.upsert_partial_assistant_message("s", _SURROGATE)
        assert await store.get_messages("s") == stored

    async def test_too_large_message_is_refused(self) -> None:
        async with self.make_store(max_message_bytes=1000) as store:
            with pytest.raises(MessageTooLargeError) as caught:
                await store.append("s", [user("small"), user("x" * 1001)])
            assert caught.value.limit == 1000
            assert caught.value.size > 1000
            with pytest.raises(MessageTooLargeError):
                await store.add_message("s", "user", "é" * 600)
            with pytest.raises(MessageTooLargeError):
                await store.add_message("s", "user", "x", {"m": "x" * 1000})
            with pytest.raises(MessageTooLargeError):
                await store.set_state("s", "k", "x" * 1001)
            assert await is_absent(store, "s")
            await store.append("s", [user("x" * 800)] * 3)
            assert len(await store.get_messages("s")) == 3

    async def test_bad_idempotency_key_is_refused(self, store: SessionStore) -> None:
        bad: Any
        for bad in ("", "k" * 513, 7, b"k", _SURROGATE):
            with trying(bad):
                with pytest.raises(InvalidMessageError) as caught:
                    await store.append("s", [user("x")], idempotency_key=bad)
                assert caught.value.field == "idempotency_key"
                assert await is_absent(store, "s")

    async def test_state_and_metadata_take_only_json(self, store: SessionStore) -> None:
        bad: Any
        for bad in (object(), b"x", {1}, math.nan, [math.inf], {"a": {2: 3}}, _SURROGATE, _DEEP):
            with trying(bad):
                with pytest.raises(InvalidMessageError) as state:
                    await store.set_state("s", "k", bad)
                with pytest.raises(InvalidMessageError):
                    await store.update_state("s", {"good": 1, "k": bad})
                with pytest.raises(InvalidMessageError) as metadata:
                    await store.update_session_metadata("s", good=1, k=bad)
                with pytest.raises(InvalidMessageError):
                    await store.merge_session_metadata_map("s", "map", {"k": bad})
                with pytest.raises(InvalidMessageError):
                    await store.append_compaction_checkpoint("s", "text", metadata={"k": bad})
                assert state.value.field.startswith("state")
                assert metadata.value.field.startswith("metadata")
                assert await is_absent(store, "s")

    async def test_keys_and_names_are_text(self, store: SessionStore) -> None:
        bad: Any = 5
        with pytest.raises(InvalidMessageError):
            await store.set_state("s", bad, 1)
        with pytest.raises(InvalidMessageError):
            await store.update_state("s", {bad: 1})
        with pytest.raises(InvalidMessageError):
            await store.set_state("s", _SURROGATE, 1)
        with pytest.raises(InvalidMessageError):
            await store.merge_session_metadata_map("s", bad, {})
        with pytest.raises(InvalidMessageError):
            await store.rename_session("s", bad)
        with pytest.raises(InvalidMessageError):
            await store.set_agent_info("s", bad)
        with pytest.raises(InvalidMessageError):
            await store.set_gateway_info("s", _SURROGATE)
        with pytest.raises(InvalidMessageError):
            await store.update_session_metadata("s", agent_name=bad)
        assert await is_absent(store, "s")

    async def test_seq_is_the_stores_own(self, store: SessionStore) -> None:
        """What a client's JSON or another store gave as ``seq`` counts for nothing."""
        seq: Any
        for n, seq in enumerate((None, "", "x", 0.0, False, 7)):
            with trying(seq):
                given = user("x") | {"timestamp": 1.0, "seq": seq}
                first = await store.append(f"s{n}", [given], idempotency_key="k")
                assert [message.seq for message in first] == [1]
                assert await store.append(f"s{n}", [given], idempotency_key="k") == first
                await store.set_chat_history(f"t{n}", [given])
                assert await store.get_messages(f"s{n}") == first
                assert texts(await store.get_messages(f"t{n}")) == ["x"]

    async def test_increment_beyond_every_number_fails_alone(self, store: SessionStore) -> None:
        await store.set_state("a", "n", 1)
        bad, good = await asyncio.gather(
            store.increment_state("b", "n", 10**400),
            store.increment_state("a", "n", 1),
            return_exceptions=True,
        )
        assert isinstance(bad, InvalidMessageError)
        assert good == 2
        assert await store.get_state("a") == {"n": 2}

    async def test_odd_ids_of_calls_can_be_read(self, store: SessionStore) -> None:
        """An id that isn't text answers nothing, and makes nothing unreadable."""
        result = {"type": "tool_result", "tool_use_id": ["x"], "content": "r"}
        await store.append("s", [user("x"), {"role": "user", "content": [result]}])
        await store.add_message("s", "assistant", None, tool_calls=[{"id": {"a": 1}}])
        await fill(store, "s", 2)
        for limit in range(1, 6):
            assert await store.get_chat_history("s", limit)

    async def test_tokens_are_whole_numbers(self, store: SessionStore) -> None:
        bad: Any
        for bad in (12.5, "12", None, True):
            for field in ("tokens_before", "tokens_after"):
                with trying({field: bad}):
                    with pytest.raises(InvalidMessageError) as caught:
                        await store.append_compaction_checkpoint("s", "text", **{field: bad})
                    assert caught.value.field == field
        assert await is_absent(store, "s")

    async def test_checkpoint_needs_a_summary(self, store: SessionStore) -> None:
        bad: Any
        for bad in ("", " \n", None, 3, _SURROGATE):
            with trying(bad), pytest.raises(InvalidMessageError):
                await store.append_compaction_checkpoint("s", bad)
        assert await is_absent(store, "s")


class SessionIdCases(StoreCases):
    """Ids are opaque: bad ones are refused, and two different ones share nothing."""

    async def test_bad_id_is_refused(self, store: SessionStore) -> None:
        for name in CALLS:
            for kind, bad in _BAD_IDS.items():
                with trying((name, kind)), pytest.raises(InvalidSessionIdError):
                    await call(name, store, bad)
            with trying(name):
                assert await store.list_sessions() == []

    async def test_ids_share_nothing(self, store: SessionStore) -> None:
        for number, session_id in enumerate(_IDS):
            await store.append(session_id, [user(session_id)] * 2)
            await store.set_state(session_id, "n", number)
            await store.update_session_metadata(session_id, of=session_id)
        listed = await store.list_sessions(1000)
        assert sorted(ids(listed)) == sorted(_IDS)
        for number, session_id in enumerate(_IDS):
            session = await store.get_session(session_id)
            assert session.session_id == session_id
            assert texts(session.messages) == [session_id] * 2
            assert session.state == {"n": number}
            assert session.metadata == {"of": session_id}

    async def test_delete_and_clear_touch_no_other_id(self, store: SessionStore) -> None:
        for session_id in _IDS:
            await store.add_message(session_id, "user", session_id)
        for session_id in _IDS[::3]:
            await store.delete_session(session_id)
        for session_id in _IDS[1::3]:
            await store.clear_session(session_id)
        left = {session_id: await store.get_messages(session_id) for session_id in _IDS}
        assert not [i for i in _IDS[::3] + _IDS[1::3] if left[i]]
        assert all(texts(left[i]) == [i] for i in _IDS[2::3])
        expected = set(_IDS) - set(_IDS[::3])
        assert set(ids(await store.list_sessions(1000))) == expected

    async def test_ids_of_512_bytes_round_trip(self, store: SessionStore) -> None:
        longest = ["x" * 512, "🙂" * 128, "\u0800" * 170 + "ab", "\0" * 512]
        for session_id in longest:
            await store.add_message(session_id, "user", session_id[:1])
        assert sorted(ids(await store.list_sessions())) == sorted(longest)
        exported = [part["session_id"] async for part in store.export_all()]
        assert sorted(exported) == sorted(longest)
