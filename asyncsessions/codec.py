"""Messages and records as JSON bytes, and the checks that keep anything else out.

A stored message is the JSON object of `Message` without its defaults. It is encoded once, by the
caller's task, before it has a ``seq``; the store puts the ``seq`` in front (`with_seq`).
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from asyncsessions.errors import InvalidMessageError, MessageTooLargeError
from asyncsessions.models import Message, SessionInfo
from asyncsessions.pacing import Pacer

__all__ = [
    "MAX_DEPTH",
    "MessageDigest",
    "check_json",
    "check_json_object",
    "decode_info",
    "decode_json",
    "decode_large_message",
    "decode_message",
    "decode_messages",
    "encode_info",
    "encode_json",
    "encode_large_message",
    "encode_message",
    "encode_text",
    "is_finite",
    "is_json",
    "is_large",
    "message_from",
    "seq_of",
    "with_seq",
]

# Deeper values would exhaust the stack of one parser or another.
MAX_DEPTH = 64

# The codec works on a text without a break, about 1 ms for each million characters.
_LARGE_TEXT = 1 << 18
_TEXT_SLICE = 1 << 16
# What is around the text of a message that was encoded in slices.
_LARGE_START = re.compile(rb'\{(?:"seq":\d+,)?("content":")')
_LARGE_END = b'","role":'
# Two escapes may stand for one character.
_LONGEST_ESCAPE = 12

encode_json: Callable[[Any], bytes] = msgspec.json.Encoder().encode
decode_json: Callable[[bytes], Any] = msgspec.json.Decoder().decode
_decode_str: Callable[[bytes], str] = msgspec.json.Decoder(str).decode
decode_message: Callable[[bytes], Message] = msgspec.json.Decoder(Message).decode
encode_info: Callable[[SessionInfo], bytes] = msgspec.json.Encoder().encode
decode_info: Callable[[bytes], SessionInfo] = msgspec.json.Decoder(SessionInfo).decode
_encode_sorted = msgspec.json.Encoder(order="deterministic").encode

_SCALARS = frozenset({str, int, bool, type(None)})


def with_seq(body: bytes, seq: int) -> bytes:
    """Return an encoded message with its ``seq`` as the first key."""
    if len(body) > _LARGE_TEXT:
        # With one copy of it, not three.
        return b"".join((b'{"seq":%d,' % seq, memoryview(body)[1:]))
    return b'{"seq":%d,%b' % (seq, body[1:])


def seq_of(body: bytes) -> int:
    """Return the ``seq`` that `with_seq` put into a message.

    Raises:
        ValueError: There is none.
    """
    return int(body[len(b'{"seq":') : body.index(b",")])


def is_finite(number: float) -> bool:
    """Whether a float can hold a number; the largest whole numbers are beyond all of them."""
    try:
        return math.isfinite(number)
    except OverflowError:
        return False


def check_json(value: object, field: str, depth: int = MAX_DEPTH) -> None:
    """Check that a value is JSON: text, finite numbers, booleans, None, lists, text-keyed dicts.

    Raises:
        InvalidMessageError: It isn't, or is nested over ``depth`` deep; names the path.
    """
    if type(value) in _SCALARS or is_json(value, depth):
        return
    path, reason = _find_fault(value, field, depth)
    raise InvalidMessageError(f"{path} {reason}", field=path)


def check_json_object(value: object, field: str) -> None:
    """Check that a value is a JSON object.

    Raises:
        InvalidMessageError: It isn't.
    """
    if not isinstance(value, dict):
        text = f"{field} is a dict, not {type(value).__name__}"
        raise InvalidMessageError(text, field=field)
    if value:
        check_json(value, field)


def is_json(value: object, depth: int) -> bool:
    """Whether a value is what `check_json` lets pass."""
    kind = type(value)
    if kind in _SCALARS:
        return True
    if kind is float:
        return math.isfinite(value)  # type: ignore[arg-type]  # the exact type was just tested
    if not depth:
        return False
    if kind is dict:
        # On the hot path of every append with metadata, so without a generator or a call each.
        for key, item in value.items():  # type: ignore[attr-defined]  # as above
            if type(key) is not str:
                return False
            if type(item) is str or type(item) in _SCALARS:
                continue
            if not is_json(item, depth - 1):
                return False
        return True
    if kind is list or kind is tuple:
        return all(is_json(item, depth - 1) for item in value)  # type: ignore[attr-defined]  # as above
    return False


def _find_fault(value: object, path: str, depth: int) -> tuple[str, str]:
    """Return the path of what `is_json` refused, and why; called only to explain an error."""
    if isinstance(value, float):
        return path, f"is {value}, which JSON can't hold; use None or text"
    if not depth:
        return path, f"is nested over {MAX_DEPTH} levels deep; flatten it"
    if type(value) is dict:
        for key, item in value.items():
            if type(key) is not str:
                return path, f"has a key that is {type(key).__name__}, not text"
            if not is_json(item, depth - 1):
                return _find_fault(item, f"{path}.{key}", depth - 1)
    if type(value) is list or type(value) is tuple:
        for index, item in enumerate(value):
            if not is_json(item, depth - 1):
                return _find_fault(item, f"{path}[{index}]", depth - 1)
    return path, f"is {type(value).__name__}, which JSON can't hold; convert it first"


def encode_message(message: Message, max_bytes: int) -> bytes:
    """Check a message and return it as a JSON object, without ``seq``.

    Args:
        message: With its timestamp set, and without a ``seq``.
        max_bytes: The size, in bytes of JSON, above which it is refused.

    Raises:
        InvalidMessageError: A field has the wrong type or isn't JSON; names the field.
        MessageTooLargeError: It is over ``max_bytes``.
    """
    content = message.content
    if type(content) is str:
        # A text that is too long in characters alone is refused before it costs an encoding.
        if len(content) > max_bytes:
            raise MessageTooLargeError(size=len(content), limit=max_bytes)
    elif content is not None:
        _check_list(content, "content", "text, a list or None")
    metadata = message.metadata
    # `check_json_object` has two calls more, and would find the same.
    if type(metadata) is not dict or (metadata and not is_json(metadata, MAX_DEPTH)):
        check_json_object(metadata, "metadata")
    _check_rest(message)
    try:
        body = encode_json(message)
    except UnicodeEncodeError as exc:
        # The codec's own error would quote the content.
        raise surrogate_error(_unencodable_field(message)) from UnicodeError(exc.reason)
    except TypeError as exc:
        # A subclass of text, say; the codec names its type.
        field = _unencodable_field(message)
        raise InvalidMessageError(f"{field} isn't plain JSON: {exc}", field=field) from exc
    if len(body) > max_bytes:
        raise MessageTooLargeError(size=len(body), limit=max_bytes)
    # A copy, because the encoder's own result keeps up to half as much again while it waits.
    return b"%b" % body


def _check_rest(message: Message) -> None:
    """Check every field but content and metadata."""
    role, timestamp = message.role, message.timestamp
    if not isinstance(role, str) or not role:
        raise InvalidMessageError("role is text that isn't empty", field="role")
    if type(timestamp) is not float and type(timestamp) is not int:
        text = f"timestamp is in seconds since the epoch, not {type(timestamp).__name__}"
        raise InvalidMessageError(text, field="timestamp")
    if not is_finite(timestamp):
        raise InvalidMessageError("timestamp isn't a finite number of seconds", field="timestamp")
    if message.tool_calls is not None:
        _check_list(message.tool_calls, "tool_calls", "a list or None")
    if message.tool_call_id is not None and not isinstance(message.tool_call_id, str):
        raise InvalidMessageError("tool_call_id is text or None", field="tool_call_id")
    if message.name is not None and not isinstance(message.name, str):
        raise InvalidMessageError("name is text or None", field="name")
    if message.extra or type(message.extra) is not dict:
        check_json_object(message.extra, "extra")


def _check_list(value: object, field: str, wanted: str) -> None:
    if not isinstance(value, list):
        raise InvalidMessageError(f"{field} is {wanted}, not {type(value).__name__}", field=field)
    check_json(value, field)


def surrogate_error(field: str) -> InvalidMessageError:
    """Return the error for text that UTF-8 can't hold; it doesn't quote the text."""
    text = f"{field} holds a lone surrogate, which UTF-8 can't; decode the text correctly first"
    return InvalidMessageError(text, field=field)


def _unencodable_field(message: Message) -> str:
    for field in message.__struct_fields__:
        try:
            encode_json(getattr(message, field))
        except (UnicodeEncodeError, TypeError):
            return field
    return "message"


def encode_text(text: str) -> Iterator[bytes]:
    """Iterate over slices of a text in JSON, without the quotes.

    Raises:
        UnicodeEncodeError: It holds a lone surrogate.
    """
    for start in range(0, len(text), _TEXT_SLICE):
        yield encode_json(text[start : start + _TEXT_SLICE])[1:-1]


async def encode_large_message(message: Message, max_bytes: int) -> bytes:
    """Return the same as `encode_message`, for a long text, in slices of work.

    Raises:
        InvalidMessageError: As `encode_message`.
        MessageTooLargeError: As `encode_message`.
    """
    text = message.content
    assert isinstance(text, str)  # noqa: S101  # the caller's duty
    if len(text) > max_bytes:
        raise MessageTooLargeError(size=len(text), limit=max_bytes)
    frame = encode_message(msgspec.structs.replace(message, content=None), max_bytes)
    pacer = Pacer()
    pieces = [b'{"content":"']
    try:
        for piece in encode_text(text):
            pieces.append(piece)
            await pacer.pause()
    except UnicodeEncodeError as exc:
        raise surrogate_error("content") from UnicodeError(exc.reason)
    body = b"".join([*pieces, b'",', frame[1:]])
    if len(body) > max_bytes:
        raise MessageTooLargeError(size=len(body), limit=max_bytes)
    return body


async def decode_large_message(body: bytes) -> Message:
    """Return the same as `decode_message`, in slices of work where it can.

    That is where the text is where `encode_large_message` puts it: in front of the role.

    Raises:
        msgspec.DecodeError: It is no message.
        UnicodeDecodeError: It isn't UTF-8.
    """
    pacer = Pacer()
    opening = _LARGE_START.match(body)
    # Within a text a quote has a backslash before it, so this ends the text and nothing else.
    end = -1
    if opening is not None:
        for at in range(opening.end(), len(body), _LARGE_TEXT):
            end = body.find(_LARGE_END, at, at + _LARGE_TEXT + len(_LARGE_END) - 1)
            if end >= 0:
                break
            await pacer.pause()
    if opening is None or end < 0:
        return decode_message(body)
    pieces = []
    at = opening.end()
    while at < end:
        piece, at = _decode_text(body, at, end)
        pieces.append(piece)
        await pacer.pause()
    frame = decode_message(b"{%b%b" % (body[1 : opening.start(1)], body[end + 2 :]))
    return msgspec.structs.replace(frame, content="".join(pieces))


def _decode_text(body: bytes, start: int, end: int) -> tuple[str, int]:
    """Decode the next slice of a text in JSON; return it, and where it ends."""
    limit = min(start + _TEXT_SLICE, end)
    for cut in range(limit, max(start, limit - _LONGEST_ESCAPE), -1):
        try:
            return _decode_str(b'"%b"' % body[start:cut]), cut
        except (msgspec.DecodeError, UnicodeDecodeError) as exc:
            error = exc  # The cut may be within a character or an escape.
    raise error


async def decode_messages(bodies: Sequence[bytes], messages: list[Message]) -> None:
    """Decode messages to the end of a list, in slices of work.

    Raises:
        msgspec.DecodeError: One is no message; the list has those before it.
        UnicodeDecodeError: One isn't UTF-8; the list has those before it.
    """
    pacer = Pacer()
    for index, body in enumerate(bodies):
        is_long = len(body) > _LARGE_TEXT
        messages.append(await decode_large_message(body) if is_long else decode_message(body))
        if index & 15 == 15:
            await pacer.pause()


def is_large(message: Message) -> bool:
    """Whether to encode a message in slices."""
    return type(message.content) is str and len(message.content) > _LARGE_TEXT


class MessageDigest:
    """Stands for the content of messages, whatever the order of their dicts' keys."""

    def __init__(self) -> None:
        self._hash = hashlib.blake2b(digest_size=16)

    def update(self, message: Message, body: bytes) -> None:
        """Add a message.

        Args:
            message: As the caller gave it, without the store's ``seq`` and time.
            body: What it was encoded to, for a message too large to be encoded once more.
        """
        if is_large(message):
            message = msgspec.structs.replace(message, content=None)
            # The text is at the front of a large message's body, before any time.
            self._hash.update(memoryview(body)[: body.index(b'","role":')])
        self._hash.update(_encode_sorted(message) + b"\n")

    def text(self) -> str:
        """Return the digest as 32 hex digits."""
        return self._hash.hexdigest()


def message_from(index: int, value: object) -> Message:
    """Return what a caller gave, a message or a dict of a chat API, as a message.

    Args:
        index: Its place in the caller's list, for the error.
        value: What the caller gave.

    Raises:
        InvalidMessageError: It is neither, or has no role.
    """
    if isinstance(value, Message):
        return value
    if not isinstance(value, Mapping):
        text = f"messages[{index}] is a Message or a dict, not {type(value).__name__}"
        raise InvalidMessageError(text, field=f"messages[{index}]")
    if "role" not in value:
        raise InvalidMessageError(f"messages[{index}] has no role", field="role")
    return Message.from_dict(value)
