"""Sessions' records, as the scripts return them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import msgspec

from asyncsessions.codec import decode_json
from asyncsessions.errors import CorruptSessionError
from asyncsessions.models import Checkpoint, JSONValue, SessionInfo

__all__ = ["FIELDS", "info_of"]

FIELDS = (
    "last_seq",
    "created_at",
    "updated_at",
    "expires_at",
    "agent_name",
    "user_id",
    "agent_id",
    "gateway_session_id",
    "metadata",
    "state",
    "checkpoint",
)
"""The fields of the hash that are a session's record."""

_decode_checkpoint = msgspec.json.Decoder(Checkpoint).decode


def info_of(session_id: str, reply: Sequence[Any]) -> SessionInfo:
    """Return a record from the values of `FIELDS` and the number of messages.

    Raises:
        CorruptSessionError: It isn't one.
    """
    *values, message_count = reply
    fields = dict(zip(FIELDS, values, strict=True))
    try:
        return SessionInfo(
            session_id=session_id,
            created_at=_time(fields["created_at"]),
            updated_at=_time(fields["updated_at"]),
            last_seq=int(fields["last_seq"]),
            message_count=message_count,
            agent_name=_text(fields["agent_name"]),
            user_id=_text(fields["user_id"]),
            agent_id=_text(fields["agent_id"]),
            gateway_session_id=_text(fields["gateway_session_id"]),
            metadata=_object(fields["metadata"]),
            state=_object(fields["state"]),
            checkpoint=_checkpoint(fields["checkpoint"]),
            expires_at=None if fields["expires_at"] is None else _time(fields["expires_at"]),
        )
    except (msgspec.DecodeError, TypeError, ValueError) as exc:
        text = "its record in Redis can't be decoded"
        raise CorruptSessionError(text, session_id=session_id) from exc


def _time(value: bytes) -> float:
    time = float(value)
    if math.isnan(time):
        raise ValueError("it has no place among the others")
    return time


def _object(value: bytes | None) -> dict[str, JSONValue]:
    found = {} if value is None else decode_json(value)
    if type(found) is not dict:
        raise TypeError("it is no object")
    return found


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode()


def _checkpoint(value: bytes | None) -> Checkpoint | None:
    return None if value is None else _decode_checkpoint(value)
