"""What is stored is what was given, and what JSON can't hold is refused by name."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncsessions import codec
from asyncsessions.errors import InvalidMessageError, MessageTooLargeError
from asyncsessions.models import Message

LIMIT = 1 << 20
TEXT = st.text(st.characters(exclude_categories=["Cs"]))
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=20,
)
OBJECTS = st.dictionaries(TEXT, JSON, max_size=4)
MESSAGES = st.builds(
    Message,
    role=TEXT.filter(bool),
    content=st.none() | TEXT | st.lists(JSON, max_size=3),
    timestamp=st.floats(allow_nan=False, allow_infinity=False),
    metadata=OBJECTS,
    tool_calls=st.none() | st.lists(JSON, max_size=3),
    tool_call_id=st.none() | TEXT,
    name=st.none() | TEXT,
    extra=OBJECTS,
)


@given(MESSAGES, st.integers(1, 10**12))
def test_any_message_round_trips(message: Message, seq: int) -> None:
    stored = codec.decode_message(codec.with_seq(codec.encode_message(message, LIMIT), seq))
    assert stored.seq == seq
    assert stored.to_dict() == message.to_dict() | {"seq": seq}


@given(MESSAGES)
def test_dicts_and_messages_mean_the_same(message: Message) -> None:
    data = message.to_dict()
    again = Message.from_dict(data)
    assert again.to_dict() == data


@pytest.mark.parametrize("text", ["plain " * 60_000, '\0\n"\\' * 100_000, "群🎉é" * 90_000])
async def test_a_large_text_is_encoded_as_any_other(text: str) -> None:
    message = Message("user", text, 1.5, {"a": 1}, extra={"more": [1]})
    body = await codec.encode_large_message(message, 8 << 20)
    assert codec.decode_message(body) == message
    assert codec.decode_message(codec.with_seq(body, 7)).seq == 7
    assert await codec.decode_large_message(body) == message


@pytest.mark.parametrize("character", ["x", "é", "群", "🎉", '"', "\\", "\n", "\0", '","role":'])
@pytest.mark.parametrize("offset", range(7))
async def test_a_large_text_is_decoded_wherever_it_is_cut(character: str, offset: int) -> None:
    text = "x" * offset + character * (200_000 // len(character.encode()))
    metadata = {"text": "a", "role": "b"}
    for message in (Message("user", text, 1.5, metadata), Message("user", text)):
        body = codec.with_seq(await codec.encode_large_message(message, 8 << 20), 7)
        stored = await codec.decode_large_message(body)
        assert stored == codec.decode_message(body)
        assert stored.content == text


@pytest.mark.parametrize(
    "body",
    [
        b'{"seq":1,"content":"' + b"x" * 300_000,
        b'{"seq":1,"content":"' + b"x" * 300_000 + b'","role":',
        b'{"seq":1,"content":"' + b"x" * 70_000 + b"\xff" + b"x" * 300_000 + b'","role":"user"}',
        b'{"seq":1,"content":"' + b"x" * 300_000 + b'\\u12","role":"user"}',
    ],
)
async def test_a_damaged_large_text_is_found(body: bytes) -> None:
    for decode in (codec.decode_large_message, async_decode):
        with pytest.raises((msgspec.DecodeError, UnicodeDecodeError)):
            await decode(body)


async def async_decode(body: bytes) -> Message:
    return codec.decode_message(body)


async def test_escapes_that_other_programs_write_are_decoded_too() -> None:
    for start in range(65_520, 65_540):
        body = b'{"content":"' + b"x" * start + b'\\ud83d\\ude00","role":"user"}'
        assert (await codec.decode_large_message(body)).content == "x" * start + "\U0001f600"


@pytest.mark.parametrize("position", [0, 65_536, 299_999])
async def test_a_large_text_with_a_lone_surrogate_is_refused(position: int) -> None:
    text = "x" * position + "\udcff" + "x" * (300_000 - position)
    with pytest.raises(InvalidMessageError) as caught:
        await codec.encode_large_message(Message("user", text), 8 << 20)
    assert caught.value.field == "content"


async def test_a_large_text_over_the_limit_is_refused() -> None:
    with pytest.raises(MessageTooLargeError) as caught:
        await codec.encode_large_message(Message("user", "\n" * 600_000), 1 << 20)
    assert caught.value.limit == 1 << 20
    assert caught.value.size > caught.value.limit


DEEP: list[Any] = []
for _ in range(100):
    DEEP = [DEEP]


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"role": ""}, "role"),
        ({"role": 5}, "role"),
        ({"content": 5}, "content"),
        ({"content": {"text": "x"}}, "content"),
        ({"content": b"x"}, "content"),
        ({"content": ["x", {"n": float("nan")}]}, "content[1].n"),
        ({"content": "\ud800"}, "content"),
        ({"timestamp": "now"}, "timestamp"),
        ({"timestamp": True}, "timestamp"),
        ({"timestamp": float("inf")}, "timestamp"),
        ({"metadata": []}, "metadata"),
        ({"metadata": {"a": {1: 2}}}, "metadata.a"),
        ({"metadata": {"a": [1, {2}]}}, "metadata.a[1]"),
        ({"metadata": {"a": float("-inf")}}, "metadata.a"),
        ({"metadata": {"a": "\udfff"}}, "metadata"),
        ({"metadata": {"a": object()}}, "metadata.a"),
        ({"metadata": {"a": DEEP}}, None),
        ({"tool_calls": {}}, "tool_calls"),
        ({"tool_calls": [b"x"]}, "tool_calls[0]"),
        ({"tool_call_id": 5}, "tool_call_id"),
        ({"name": 5}, "name"),
        ({"extra": {"x": b""}}, "extra.x"),
    ],
)
def test_what_json_cannot_hold_is_refused_by_name(
    fields: dict[str, Any], field: str | None
) -> None:
    message = Message(**{"role": "user", "content": "x"} | fields)
    with pytest.raises(InvalidMessageError) as caught:
        codec.encode_message(message, LIMIT)
    assert field is None or caught.value.field == field


def test_a_message_over_the_limit_is_refused() -> None:
    body = codec.encode_message(Message("user", "x" * 100), LIMIT)
    assert codec.encode_message(Message("user", "x" * 100), len(body)) == body
    with pytest.raises(MessageTooLargeError) as caught:
        codec.encode_message(Message("user", "x" * 100), len(body) - 1)
    assert (caught.value.size, caught.value.limit) == (len(body), len(body) - 1)


def test_errors_never_quote_content() -> None:
    with pytest.raises(InvalidMessageError) as caught:
        codec.encode_message(Message("user", "secret \ud800"), LIMIT)
    assert "secret" not in str(caught.value)
    assert "secret" not in repr(caught.value.__cause__)


def test_text_of_another_type_is_refused_as_input() -> None:
    class Tag(str):
        __slots__ = ()

    with pytest.raises(InvalidMessageError) as caught:
        codec.encode_message(Message("user", "x", 1.0, name=Tag("ann")), LIMIT)
    assert caught.value.field == "name"
