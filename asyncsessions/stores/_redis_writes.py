"""Writes as arguments of their scripts, and the scripts' replies as outcomes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias, TypeVar

import msgspec

from asyncsessions.batching import Outcome
from asyncsessions.codec import decode_json, decode_message, encode_json
from asyncsessions.errors import (
    CorruptSessionError,
    IdempotencyConflictError,
    InvalidMessageError,
    SessionChangedError,
    SessionSharedError,
    VersionConflictError,
)
from asyncsessions.history import is_tool_result
from asyncsessions.hooks import Append, Appended, Change, Replace, Update, Window
from asyncsessions.models import JSONValue, Message
from asyncsessions.stores._redis_keys import LOOKED_UP
from asyncsessions.stores._redis_scripts import Word

__all__ = [
    "Todo",
    "append_outcomes",
    "append_words",
    "damaged",
    "grouped",
    "parted",
    "replace_words",
    "tail_words",
    "update_outcomes",
    "update_words",
]

W = TypeVar("W", Append, Update)

_LARGE = 1 << 18
# How the scripts answer a call.
_DONE, _FIRST_FAULT, _SECOND_FAULT, _OVERFLOW, _SHARED, _CHANGED = 0, 1, 2, 3, 4, 5

Group: TypeAlias = list[int]
"""Which writes of a batch are for one session."""


class Todo(NamedTuple):
    """What a write means for the indexes, where the script couldn't see to them.

    Attributes:
        updated_at: The session's, as text.
        is_new: Whether the session may not be in any index yet.
        expires_at: The session's, as text; empty where it doesn't expire.
        names: The indexes with this session, beside that of all.
        left: The indexes that no longer have it.
    """

    updated_at: bytes
    is_new: int
    expires_at: bytes
    names: Sequence[bytes]
    left: Sequence[bytes]


class _Frame(msgspec.Struct):
    """A message without its text, which for a large one is most of it."""

    role: str
    content: msgspec.Raw = msgspec.Raw(b"null")
    tool_call_id: str | None = None


_decode_frame = msgspec.json.Decoder(_Frame).decode


def grouped(batch: Sequence[W]) -> dict[str, Group]:
    """Return, for each session of a batch, which writes are for it."""
    groups: dict[str, Group] = {}
    for index, write in enumerate(batch):
        group = groups.get(write.session_id)
        if group is None:
            groups[write.session_id] = [index]
        else:
            group.append(index)
    return groups


def parted(groups: Sequence[list[W]], most: int) -> list[list[list[W]]]:
    """Return what goes in one call each: groups with some ``most`` writes, of the same policy."""
    if len(groups) == 1:
        return [list(groups)]
    parts: list[list[list[W]]] = []
    room = 0
    for group in groups:
        if room <= 0 or _policy(group[0]) != _policy(parts[-1][0][0]):
            parts.append([])
            room = most
        parts[-1].append(group)
        room -= len(group)
    return parts


def _policy(write: Append | Update) -> tuple[object, ...]:
    """Return what all writes in one call share."""
    return (write.keep, write.ttl_seconds) if isinstance(write, Append) else ()


def _item(body: bytes) -> bytes:
    """Return a message without its opening brace, marked if it is a tool result.

    The script puts the brace and the ``seq`` in front. The mark, a space at the end, lets it drop
    old messages without looking into them.
    """
    if b'"tool' in body and _is_result(body):
        return body[1:] + b" "
    return body[1:]


def _is_result(body: bytes) -> bool:
    if len(body) <= _LARGE:
        return is_tool_result(decode_message(body))
    frame = _decode_frame(body)
    raw = bytes(frame.content)
    content = decode_json(raw) if raw.startswith(b"[") else None
    return is_tool_result(Message(frame.role, content, tool_call_id=frame.tool_call_id))


def _optional(value: float | None) -> str:
    return "" if value is None else repr(value)


def append_words(appends: Sequence[Append]) -> list[Word]:
    """Return the arguments for one session's appends; see ``append.lua``."""
    first, last = appends[0], appends[-1]
    if len(appends) == len(first.bodies) == 1 and first.is_plain:
        # What the rest comes to as a rule.
        return [first.session_id, repr(first.now), 1, 1, _item(first.bodies[0])]
    times = repr(last.now) if first.now == last.now else f"{first.now!r} {last.now!r}"
    if all(append.is_plain for append in appends):
        items = [_item(body) for append in appends for body in append.bodies]
        return [first.session_id, times, len(items), len(items), *items]
    words: list[Word] = []
    for append in appends:
        words += [
            repr(append.now),
            append.key or "",
            append.digest,
            "" if append.expected_seq is None else append.expected_seq,
            len(append.bodies),
            *map(_item, append.bodies),
        ]
    return [first.session_id, times, 0, len(words), *words]


def append_outcomes(appends: Sequence[Append], answer: Any) -> list[Outcome[Appended]]:
    """Return what became of one session's appends."""
    if isinstance(answer, int):
        outcomes: list[Outcome[Appended]] = []
        for append in appends:
            outcomes.append(Appended(answer, append.now))
            answer += len(append.bodies)
        return outcomes
    return [_appended(append, each) for append, each in zip(appends, answer, strict=True)]


def _appended(append: Append, answer: Sequence[Any]) -> Outcome[Appended]:
    if answer[0] == _DONE:
        return Appended(answer[1], float(answer[2]))
    if answer[0] == _FIRST_FAULT:
        return IdempotencyConflictError(append.session_id, append.key or "")
    expected = append.expected_seq or 0
    return VersionConflictError(append.session_id, expected_seq=expected, last_seq=answer[1])


def update_words(updates: Sequence[Update]) -> list[Word]:
    """Return the arguments for one session's updates; see ``update.lua``."""
    words: list[Word] = []
    for update in updates:
        words += [
            repr(update.now),
            "1" if update.create else "",
            _optional(update.ttl_seconds),
            "1" if update.persist else "",
            "1" if update.unless_shared else "",
            len(update.changes),
        ]
        for change in update.changes:
            words += _change_words(change)
    return [updates[0].session_id, len(words), *words]


def _change_words(change: Change) -> tuple[Word, ...]:
    field, *keys = change.path
    outer, inner = [*map(encode_json, keys), b"", b""][:2]
    kind, value = change.kind, change.value
    text: Word
    if not keys and field in LOOKED_UP:
        text = "" if value is None else value
    elif not keys and field == "created_at":
        text = repr(value)
    else:
        text = encode_json(value)
    if not keys and value is None and kind == "set":
        kind = "remove"
    return field, outer, inner, kind, text


def update_outcomes(
    updates: Sequence[Update], answers: Any
) -> list[Outcome[list[JSONValue] | None]]:
    """Return what became of one session's updates."""
    return [_updated(update, each) for update, each in zip(updates, answers, strict=True)]


def _updated(update: Update, answer: Sequence[Any]) -> Outcome[list[JSONValue] | None]:
    if answer[0] == _FIRST_FAULT:
        return None
    if answer[0] == _DONE:
        return [
            decode_json(text) if text else (None if change.kind == "remove" else change.value)
            for change, text in zip(update.changes, answer[1:], strict=True)
        ]
    if answer[0] == _CHANGED:
        return SessionChangedError(update.session_id)
    if answer[0] == _SHARED:
        return SessionSharedError(update.session_id, last_seq=answer[1])
    field = ".".join(update.changes[answer[1] - 1].path)
    if answer[0] == _OVERFLOW:
        return InvalidMessageError(f"{field} would overflow", field=field)
    text = f"{field} holds {answer[2].decode()}, not a number; set it to a number first"
    return InvalidMessageError(text, field=field)


def replace_words(replace: Replace) -> list[Word]:
    """Return the arguments for a replacement; see ``replace.lua``."""
    return [
        replace.session_id,
        repr(replace.now),
        replace.from_seq,
        "" if replace.if_newest is None else replace.if_newest,
        "1" if replace.in_place else "",
        "1" if replace.drop_checkpoint else "",
        "1" if replace.create else "",
        _optional(replace.ttl_seconds),
        *map(_item, replace.bodies),
    ]


def tail_words(window: Window) -> list[Word]:
    """Return the arguments for a read; see ``tail.lua``."""
    return [
        "",
        window.after,
        "" if window.before is None else window.before,
        "" if window.limit is None else window.limit,
        "1" if window.oldest else "",
        "" if window.max_bytes is None else window.max_bytes,
    ]


def damaged(session_id: str, cause: Exception) -> CorruptSessionError:
    """Return the error for a session with something else in its keys."""
    text = "its keys in Redis hold what this library didn't write; it is kept as it is"
    error = CorruptSessionError(text, session_id=session_id)
    error.__cause__ = cause
    return error
