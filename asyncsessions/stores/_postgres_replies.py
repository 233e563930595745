"""What a write answered, as bytes, for the case that the answer is lost and the write retried."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from asyncsessions.errors import (
    CorruptSessionError,
    IdempotencyConflictError,
    InvalidMessageError,
    SessionChangedError,
    SessionSharedError,
    VersionConflictError,
)
from asyncsessions.hooks import Append, Appended, Replaced, Update
from asyncsessions.models import JSONValue

__all__ = ["decode_reply", "encode_reply"]

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


def encode_reply(outcomes: Sequence[Any], batch: Sequence[Any]) -> bytes:
    """Return the outcomes of a batch as JSON."""
    return _encode([_shortened(*each) for each in zip(outcomes, batch, strict=True)])


def decode_reply(reply: bytes, batch: Sequence[Any]) -> list[Any]:
    """Return the outcomes that `encode_reply` was given for the same batch."""
    return [_restored(*each) for each in zip(_decode(reply), batch, strict=True)]


def _shortened(outcome: Any, write: Any) -> Any:
    match outcome:
        case Appended():
            return [outcome.first_seq, outcome.now]
        case Replaced():
            return [outcome.removed, outcome.first_seq, outcome.had_checkpoint]
        case VersionConflictError():
            return {"last_seq": outcome.last_seq}
        case InvalidMessageError():
            return {"text": str(outcome), "field": outcome.field}
        case IdempotencyConflictError():
            return {"key": outcome.idempotency_key}
        case CorruptSessionError():
            return {"damage": outcome.detail}
        case SessionChangedError():
            return {"changed": True}
        case SessionSharedError():
            return {"shared": outcome.last_seq}
        case list():
            return _unknown_values(outcome, write)
    return outcome


def _restored(short: Any, write: Any) -> Any:
    match short:
        case {"last_seq": last_seq}:
            return VersionConflictError(
                write.session_id, expected_seq=write.expected_seq, last_seq=last_seq
            )
        case {"text": text, "field": field}:
            return InvalidMessageError(text, field=field)
        case {"key": key}:
            return IdempotencyConflictError(write.session_id, key)
        case {"changed": True}:
            return SessionChangedError(write.session_id)
        case {"shared": last_seq}:
            return SessionSharedError(write.session_id, last_seq=last_seq)
        case {"damage": detail}:
            return CorruptSessionError(detail, session_id=write.session_id)
        case list() if isinstance(write, Append):
            return Appended(*short)
        case list() if isinstance(write, Update):
            return _all_values(short, write)
        case list():
            return Replaced(*short)
    return short


def _unknown_values(values: list[JSONValue], update: Update) -> list[JSONValue]:
    """Leave out what can be told from the update itself, which may be large."""
    pairs = zip(values, update.changes, strict=True)
    return [None if change.kind in {"set", "remove"} else value for value, change in pairs]


def _all_values(values: list[JSONValue], update: Update) -> list[JSONValue]:
    pairs = zip(values, update.changes, strict=True)
    return [change.value if change.kind == "set" else value for value, change in pairs]
