"""Messages and records as JSON bytes, and the checks that keep anything else out.

A stored message is the JSON object of `Message` without its defaults. It is encoded once, by the
caller's task, before it has a ``seq``; the store puts the ``seq`` in front (`with_seq`).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from asyncsessions.errors import InvalidMessageError, MessageTooLargeError
from asyncsessions.models import Message, SessionInfo

__all__ = [
    "MAX_DEPTH",
    "check_json",
    "check_json_object",
    "decode_info",
    "decode_json",
    "decode_message",
    "digest_messages",
    "encode_info",
    "encode_json",
    "encode_message",
    "messages_from",
    "with_seq",
]

# Deeper values would exhaust the stack of one parser or another.
MAX_DEPTH = 64

encode_json = msgspec.json.Encoder().encode
decode_json = msgspec.json.Decoder().decode
decode_message = msgspec.json.Decoder(Message).decode
encode_info = msgspec.json.Encoder().encode
decode_info = msgspec.json.Decoder(SessionInfo).decode
_encode_sorted = msgspec.json.Encoder(order="deterministic").encode

_SCALARS = frozenset({str, int, bool, type(None)})


def with_seq(body: bytes, seq: int) -> bytes:
    """Return an encoded message with its ``seq`` as the first key."""
    return b'{"seq":%d,%b' % (seq, body[1:])


def check_json(value: object, field: str) -> None:
    """Check that a value is JSON: text, finite numbers, booleans, None, lists, text-keyed dicts.

    Raises:
        InvalidMessageError: It isn't, or is nested over `MAX_DEPTH` deep; names the path.
    """
    if type(value) in _SCALARS or _is_json(value, MAX_DEPTH):
        return
    path, reason = _find_fault(value, field, MAX_DEPTH)
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


def _is_json(value: object, depth: int) -> bool:
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
            if type(item) not in _SCALARS and not _is_json(item, depth - 1):
                return False
        return True
    if kind is list or kind is tuple:
        return all(_is_json(item, depth - 1) for item in value)  # type: ignore[attr-defined]  # as above
    return False


def _find_fault(value: object, path: str, depth: int) -> tuple[str, str]:
    """Return the path of what `_is_json` refused, and why; called only to explain an error."""
    if isinstance(value, float):
        return path, f"is {value}, which JSON can't hold; use None or text"
    if not depth:
        return path, f"is nested over {MAX_DEPTH} levels deep; flatten it"
    if type(value) is dict:
        for key, item in value.items():
            if type(key) is not str:
                return path, f"has a key that is {type(key).__name__}, not text"
            if not _is_json(item, depth - 1):
                return _find_fault(item, f"{path}.{key}", depth - 1)
    if type(value) is list or type(value) is tuple:
        for index, item in enumerate(value):
            if not _is_json(item, depth - 1):
                return _find_fault(item, f"{path}[{index}]", depth - 1)
    return path, f"is {type(value).__name__}, which JSON can't hold; convert it first"


def encode_message(message: Message, max_bytes: int) -> bytes:
    """Check a message and return it as a JSON object, without ``seq``.

    Args:
        message: As the caller gave it, with its timestamp set.
        max_bytes: The size, in bytes of JSON, above which it is refused.

    Raises:
        InvalidMessageError: A field has the wrong type or isn't JSON; names the field.
        MessageTooLargeError: It is over ``max_bytes``.
    """
    _check_message(message)
    content = message.content
    # A text that is too long in characters alone is refused before it costs an encoding.
    if type(content) is str and len(content) > max_bytes:
        raise MessageTooLargeError(size=len(content), limit=max_bytes)
    if message.seq:
        message = msgspec.structs.replace(message, seq=0)
    try:
        body = encode_json(message)
    except UnicodeEncodeError as exc:
        field = _field_with_surrogate(message)
        text = f"{field} holds a lone surrogate, which UTF-8 can't; decode the text correctly first"
        # The driver's error would quote the content, so it isn't chained.
        raise InvalidMessageError(text, field=field) from UnicodeError(exc.reason)
    if len(body) > max_bytes:
        raise MessageTooLargeError(size=len(body), limit=max_bytes)
    return body


def _check_message(message: Message) -> None:
    role, content, timestamp, metadata = (
        message.role,
        message.content,
        message.timestamp,
        message.metadata,
    )
    if not isinstance(role, str) or not role:
        raise InvalidMessageError("role is text that isn't empty", field="role")
    if type(content) is not str and content is not None:
        _check_list(content, "content", "text, a list or None")
    if type(timestamp) is not float and type(timestamp) is not int:
        text = f"timestamp is in seconds since the epoch, not {type(timestamp).__name__}"
        raise InvalidMessageError(text, field="timestamp")
    if not math.isfinite(timestamp):
        raise InvalidMessageError(f"timestamp is {timestamp}", field="timestamp")
    if type(metadata) is not dict or metadata:
        check_json_object(metadata, "metadata")
    if message.tool_calls is not None:
        _check_list(message.tool_calls, "tool_calls", "a list or None")
    if message.tool_call_id is not None and not isinstance(message.tool_call_id, str):
        raise InvalidMessageError("tool_call_id is text or None", field="tool_call_id")
    if message.name is not None and not isinstance(message.name, str):
        raise InvalidMessageError("name is text or None", field="name")
    if message.extra:
        check_json_object(message.extra, "extra")


def _check_list(value: object, field: str, wanted: str) -> None:
    if not isinstance(value, list):
        raise InvalidMessageError(f"{field} is {wanted}, not {type(value).__name__}", field=field)
    check_json(value, field)


def _field_with_surrogate(message: Message) -> str:
    for field in message.__struct_fields__:
        try:
            encode_json(getattr(message, field))
        except UnicodeEncodeError:
            return field
    return "message"


def digest_messages(messages: Sequence[Message]) -> str:
    """Return a digest of the messages' content that doesn't depend on the order of dict keys."""
    return hashlib.blake2b(_encode_sorted(messages), digest_size=16).hexdigest()


def messages_from(values: Sequence[Message | Mapping[str, Any]]) -> tuple[Message, ...]:
    """Return what a caller gave, messages or dicts of chat APIs, as messages.

    Raises:
        InvalidMessageError: Something is neither, or has no role.
    """
    if isinstance(values, str | bytes | Mapping):
        text = f"messages is a list of messages, not {type(values).__name__}"
        raise InvalidMessageError(text, field="messages")
    return tuple(_message_from(value, index) for index, value in enumerate(values))


def _message_from(value: object, index: int) -> Message:
    if isinstance(value, Message):
        return value
    if not isinstance(value, Mapping):
        text = f"messages[{index}] is a Message or a dict, not {type(value).__name__}"
        raise InvalidMessageError(text, field=f"messages[{index}]")
    if "role" not in value:
        raise InvalidMessageError(f"messages[{index}] has no role", field="role")
    return Message.from_dict(value)
