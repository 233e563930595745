"""Checked requests: what a caller gave becomes what a hook takes, or a typed error.

Nothing here does I/O, so whatever is refused here was never written.
"""

from __future__ import annotations

import base64
import binascii
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any

import msgspec
from msgspec.structs import asdict

from asyncsessions.codec import (
    MAX_DEPTH,
    MessageDigest,
    check_json,
    check_json_object,
    decode_json,
    encode_json,
    encode_large_message,
    encode_message,
    is_finite,
    is_json,
    is_large,
    surrogate_error,
)
from asyncsessions.errors import InvalidMessageError, MessageTooLargeError
from asyncsessions.history import is_tool_result
from asyncsessions.hooks import Append, Change, Update
from asyncsessions.ids import check_session_id
from asyncsessions.models import Checkpoint, JSONValue, Message, SessionInfo
from asyncsessions.pacing import Pacer, paced
from asyncsessions.values import Taking, is_large_value

__all__ = [
    "Policy",
    "append_all",
    "append_large",
    "append_one",
    "check_limit",
    "check_text",
    "decode_cursor",
    "encode_cursor",
    "is_number",
    "make_changes",
    "make_update",
    "take_object",
]

_MAX_KEY = 512
# Every store, JSON and Lua hold whole numbers up to here exactly.
_LARGEST = 2**53 - 1


class Policy(msgspec.Struct, frozen=True):
    """The options that every store has; see `BaseSessionStore`."""

    max_messages: int | None = None
    ttl_seconds: float | None = None
    max_message_bytes: int = 8 << 20
    clock: Callable[[], float] = time.time

    def __post_init__(self) -> None:
        for name in ("max_messages", "ttl_seconds", "max_message_bytes"):
            value = getattr(self, name)
            if value is not None and not (is_number(value) and value > 0):
                raise ValueError(f"{name}={value!r}: give a number above 0")


def append_one(
    policy: Policy, session_id: str, message: Message, idempotency_key: str | None
) -> Append:
    """Return a checked append of one message that isn't large: the hot path of all.

    Args:
        policy: The store's options.
        session_id: The session.
        message: Made for this call, with the store's time.
        idempotency_key: The caller's key.

    Raises:
        InvalidSessionIdError: The id isn't valid.
        InvalidMessageError: The message or the key isn't valid; names the field.
    """
    check_session_id(session_id)
    try:
        body = encode_message(message, policy.max_message_bytes)
        digest = None
        if idempotency_key is not None:
            _check_key(idempotency_key)
            digest = MessageDigest()
            digest.update(msgspec.structs.replace(message, timestamp=0.0), body)
    except InvalidMessageError as exc:
        exc.session_id = session_id
        raise
    keep = policy.max_messages
    results = () if keep is None else (is_tool_result(message),)
    content = "" if digest is None else digest.text()
    ttl, now = policy.ttl_seconds, message.timestamp
    return Append(session_id, (body,), results, now, keep, ttl, None, idempotency_key, content)


async def append_large(
    policy: Policy, session_id: str, message: Message, idempotency_key: str | None
) -> Append:
    """Return the same as `append_one`, for a message that is large, encoded in slices of work."""
    # `append_all` gives it its time itself, after the digest.
    message = msgspec.structs.replace(message, timestamp=0.0)
    return await append_all(policy, session_id, (message,), idempotency_key=idempotency_key)


async def append_all(
    policy: Policy,
    session_id: str,
    messages: Sequence[Message],
    *,
    idempotency_key: str | None = None,
    expected_seq: int | None = None,
) -> Append:
    """Return a checked append of any messages, encoded in slices of work.

    Raises:
        InvalidSessionIdError: The id isn't valid.
        InvalidMessageError: A message or the key isn't valid; names the field.
        ValueError: ``expected_seq`` is negative.
    """
    check_session_id(session_id)
    check_limit("expected_seq", expected_seq)
    now = policy.clock()
    pacer = Pacer()
    bodies: list[bytes] = []
    digest = None if idempotency_key is None else MessageDigest()
    try:
        if idempotency_key is not None:
            _check_key(idempotency_key)
        for index, message in enumerate(messages):
            stamped = _stamped(message, now)
            if is_large(message):
                bodies.append(await encode_large_message(stamped, policy.max_message_bytes))
            else:
                bodies.append(encode_message(stamped, policy.max_message_bytes))
            if digest is not None:
                digest.update(_unstored(message), bodies[-1])
            # A short batch never gives way, so that it reaches the queue in the order of calls.
            if index & 15 == 15:
                await pacer.pause()
    except InvalidMessageError as exc:
        exc.session_id = session_id
        raise
    keep = policy.max_messages
    results = () if keep is None else tuple(map(is_tool_result, messages))
    content = "" if digest is None else digest.text()
    ttl = policy.ttl_seconds
    return Append(
        session_id, tuple(bodies), results, now, keep, ttl, expected_seq, idempotency_key, content
    )


def _stamped(message: Message, now: float) -> Message:
    """Return a message with a time, and without a ``seq`` that another store gave it."""
    if message.timestamp and _is_unnumbered(message):
        return message
    # Not `structs.replace`, which takes three times as long.
    return Message(
        message.role,
        message.content,
        message.timestamp or now,
        message.metadata,
        message.tool_calls,
        message.tool_call_id,
        message.name,
        0,
        message.extra,
    )


def _unstored(message: Message) -> Message:
    return message if _is_unnumbered(message) else msgspec.structs.replace(message, seq=0)


def _is_unnumbered(message: Message) -> bool:
    """Whether a message has no ``seq``; what a caller gave as one may be None, say."""
    return type(message.seq) is int and not message.seq


def make_changes(kind: Any, area: str, values: Mapping[str, JSONValue], *keys: str) -> list[Change]:
    """Return one change for each key of a record's area.

    Raises:
        InvalidMessageError: A key isn't text.
    """
    field = f"a key of {area}"
    for key in (*keys, *values):
        check_text(field, key)
    return [Change((area, *keys, key), kind, value) for key, value in values.items()]


async def take_object(
    policy: Policy, session_id: str, field: str, value: dict[str, JSONValue]
) -> dict[str, JSONValue]:
    """Return a checked copy of a caller's dict.

    Raises:
        InvalidMessageError: It isn't a JSON object; names the path.
        MessageTooLargeError: It is over ``max_message_bytes``.
    """
    try:
        if not isinstance(value, dict):
            check_json_object(value, field)
        copies, _ = await _take(((field,),), (value,), policy.max_message_bytes)
    except InvalidMessageError as exc:
        exc.session_id = session_id
        raise
    copy: dict[str, JSONValue] = copies[0]
    return copy


async def make_update(
    policy: Policy, session_id: str, changes: Sequence[Change], **options: Any
) -> tuple[Update, int]:
    """Return a checked update, and its size in bytes; large values are taken in slices of work.

    Raises:
        InvalidSessionIdError: The id isn't valid.
        InvalidMessageError: A value isn't JSON; names the path.
        MessageTooLargeError: The changes are over ``max_message_bytes``.
    """
    check_session_id(session_id)
    paths = [change.path for change in changes]
    values = [
        asdict(change.value) if type(change.value) is Checkpoint else change.value
        for change in changes
    ]
    try:
        copies, size = await _take(paths, values, policy.max_message_bytes)
    except InvalidMessageError as exc:
        exc.session_id = session_id
        raise
    changes = tuple(map(_with_value, changes, copies))
    options.setdefault("ttl_seconds", policy.ttl_seconds)
    options.setdefault("now", policy.clock())
    return Update(session_id, changes, **options), size


def _with_value(change: Change, copy: JSONValue) -> Change:
    if type(change.value) is Checkpoint:
        copy = Checkpoint(**copy)
    # Not `structs.replace`, which takes three times as long.
    return Change(change.path, change.kind, copy)


async def _take(
    paths: Sequence[tuple[str, ...]], values: Sequence[JSONValue], max_bytes: int
) -> tuple[list[JSONValue], int]:
    """Return checked copies of values, as the caller's dicts and lists stay the caller's."""
    try:
        encode_json(paths)
        if is_large_value(values):
            taking = Taking(max_bytes)
            copies = await paced(_take_large(taking, paths, taking.hold(values)))
            return copies, taking.size
        for path, value in zip(paths, values, strict=True):
            if not is_json(value, MAX_DEPTH):
                check_json(value, ".".join(path))
        encoded = encode_json(values)
    except UnicodeEncodeError as exc:
        raise surrogate_error(paths[0][0]) from UnicodeError(exc.reason)
    if len(encoded) > max_bytes:
        raise MessageTooLargeError(size=len(encoded), limit=max_bytes)
    copies = decode_json(encoded)
    return copies, len(encoded)


def _take_large(
    taking: Taking, paths: Sequence[tuple[str, ...]], values: Sequence[JSONValue]
) -> Generator[None, None, list[JSONValue]]:
    taking.add(len(values) + 1)
    copies = []
    for path, value in zip(paths, values, strict=True):
        copies.append((yield from taking.take(value, ".".join(path))))
        yield
    return copies


def _check_key(key: object) -> None:
    if not isinstance(key, str) or not 0 < len(key) <= _MAX_KEY:
        text = f"idempotency_key is text of 1 to {_MAX_KEY} characters"
        raise InvalidMessageError(text, field="idempotency_key")
    try:
        key.encode()
    except UnicodeEncodeError as exc:
        text = "idempotency_key holds a lone surrogate"
        raise InvalidMessageError(text, field="idempotency_key") from exc


def is_number(value: object) -> bool:
    """Whether a value is a number that can be added to a time, which is a float."""
    return isinstance(value, int | float) and is_finite(value)


def check_text(field: str, value: object) -> str:
    """Return a value that must be text.

    Raises:
        InvalidMessageError: It isn't, or UTF-8 can't hold it.
    """
    if not isinstance(value, str):
        text = f"{field} is text, not {type(value).__name__}"
        raise InvalidMessageError(text, field=field)
    try:
        value.encode()
    except UnicodeEncodeError as exc:
        raise surrogate_error(field) from UnicodeError(exc.reason)
    return value


def check_limit(name: str, value: int | None) -> int | None:
    """Return a number that must be None or whole and not negative.

    A number that is larger than any ``seq`` or count can be is brought down to that.

    Raises:
        ValueError: It isn't.
    """
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"{name}={value!r}: give a whole number from 0 up")
    return min(value, _LARGEST)


def encode_cursor(info: SessionInfo) -> str:
    """Return the cursor that continues a list after this session."""
    raw = encode_json((info.updated_at, info.session_id))
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def decode_cursor(cursor: str) -> tuple[float, str]:
    """Return ``(updated_at, session_id)`` of the session that a cursor was made from.

    Raises:
        ValueError: It isn't such a cursor.
    """
    try:
        raw = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
        return msgspec.json.decode(raw, type=tuple[float, str])
    except (binascii.Error, msgspec.DecodeError, TypeError, ValueError) as exc:
        raise ValueError("the cursor isn't one that list_sessions returned") from exc
