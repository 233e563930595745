"""Sessions whose rows a transaction has locked, and what becomes of them.

Nothing here talks to the server; `_postgres_writes` does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from asyncsessions.codec import decode_json, decode_message, encode_json
from asyncsessions.errors import CorruptSessionError, SessionStoreError
from asyncsessions.history import is_tool_result, messages_to_drop
from asyncsessions.hooks import (
    Append,
    Appended,
    KeyRecord,
    Replace,
    Update,
    admit,
    apply_changes,
)
from asyncsessions.models import Checkpoint, JSONValue, SessionInfo

__all__ = ["LOOKED_UP", "Held", "Oldest", "info_of", "record_columns"]

LOOKED_UP = ("agent_name", "user_id", "agent_id", "gateway_session_id")
"""The columns by which sessions are looked up; they hold fields of `SessionInfo`."""

# More rows than this are rarely tool results in a row.
_RESULTS_IN_A_ROW = 16

_decode_checkpoint = msgspec.json.Decoder(Checkpoint).decode
_encode_checkpoint = msgspec.json.Encoder().encode


class Held:
    """A session that is locked.

    Args:
        row: Its counters, as the lock found or made them.
    """

    def __init__(self, row: Mapping[str, Any]) -> None:
        self.id: bytes = row["session_id"]
        self.last_seq: int = row["last_seq"]
        self.first_seq: int = row["first_seq"]
        self.message_count: int = row["message_count"]
        self.created_at: float = row["created_at"]
        self.updated_at: float = row["updated_at"]
        self.expires_at: float | None = row["expires_at"]
        #: What the server's clock shows.
        self.server_now: float = row["clock"]
        #: What is at the server now.
        self.old_first_seq: int = self.first_seq
        self.old_count: int = self.message_count
        #: Whether the lock made it.
        self.is_new: bool = self.created_at == -math.inf
        #: Whether it had expired, so that everything in it goes.
        self.is_reborn: bool = False
        self.is_written: bool = False
        #: Messages to add: their ``seq``, body, and whether they are results, if that is known.
        self.added: list[tuple[int, bytes, bool | None]] = []
        self.keys: dict[str, KeyRecord] = {}
        self.new_keys: list[KeyRecord] = []

    @property
    def exists(self) -> bool:
        """Whether there is such a session, for all that a caller can tell."""
        return self.created_at != -math.inf

    def expire(self, now: float) -> None:
        """Start over if the session has expired."""
        if self.expires_at is None or self.expires_at > now:
            return
        self.last_seq = self.message_count = self.old_count = 0
        self.first_seq = self.old_first_seq = 1
        self.created_at = self.updated_at = -math.inf
        self.expires_at = None
        self.added.clear()
        self.keys.clear()
        self.new_keys.clear()
        self.is_reborn = not self.is_new
        self.is_written = False

    def append(self, append: Append, now: float) -> Appended | SessionStoreError:
        """Add an append's messages, or say why not.

        Args:
            append: The append.
            now: What time it is for the session's expiry.
        """
        self.expire(now)
        known = None if append.key is None else self.keys.get(append.key)
        outcome = admit(append, last_seq=self.last_seq, known=known)
        if outcome is not None:
            return outcome
        first_seq = self.last_seq + 1
        self.add(append.bodies, append.results)
        self.touch(append, now)
        if append.key is not None:
            count = len(append.bodies)
            record = KeyRecord(append.key, first_seq, count, append.digest, append.now)
            self.keys[append.key] = record
            self.new_keys.append(record)
        return Appended(first_seq, append.now)

    def add(self, bodies: Sequence[bytes], results: Sequence[bool] = ()) -> None:
        """Add messages with new ``seq``."""
        first_seq = self.last_seq + 1
        known: Sequence[bool | None] = results or (None,) * len(bodies)
        self.added += zip(range(first_seq, first_seq + len(bodies)), bodies, known, strict=True)
        self.last_seq += len(bodies)
        self.message_count += len(bodies)

    def touch(self, write: Append | Replace, now: float) -> None:
        """Note that the session was written."""
        self.is_written = True
        if not self.exists:
            self.created_at = write.now
        self.updated_at = write.now
        if write.ttl_seconds is not None:
            self.expires_at = now + write.ttl_seconds

    def drop_before(self, first_seq: int, count: int) -> None:
        """Drop the oldest messages: so many, and all before ``first_seq``."""
        self.first_seq = first_seq
        self.message_count -= count
        self.added = [each for each in self.added if each[0] >= first_seq]

    def update(self, info: SessionInfo, update: Update, now: float) -> tuple[SessionInfo, Any]:
        """Return the record after an update, and the update's outcome.

        Args:
            info: The record before it; empty where the session doesn't exist, or has expired.
            update: The update.
            now: What time it is for the session's expiry.
        """
        if not self.exists and not update.create:
            return info, None
        values: list[JSONValue]
        try:
            info, values = apply_changes(info, update)
        except SessionStoreError as exc:
            return info, exc
        if update.persist:
            self.expires_at = None
        elif update.ttl_seconds is not None:
            self.expires_at = now + update.ttl_seconds
        self.last_seq = info.last_seq
        self.created_at, self.updated_at = info.created_at, info.updated_at
        self.is_written = True
        return info, values

    def counters(self) -> tuple[Any, ...]:
        """Return what is saved of it, in the order of the statement."""
        return (
            self.id,
            self.last_seq,
            self.first_seq,
            self.message_count,
            self.created_at,
            self.updated_at,
            self.expires_at,
        )


class Oldest:
    """Finds how much retention drops from a session that is over its limit.

    Args:
        held: The session, with what was added.
        keep: The limit.
    """

    def __init__(self, held: Held, keep: int) -> None:
        self.held = held
        self._excess = held.message_count - keep
        #: How many of the oldest messages at the server needn't be looked at: as a rule all that
        #: are too many, however many they are.
        self.skipped: int = self._excess if self._excess < held.old_count else 0
        #: How many are to be looked at after those.
        self.wanted: int = _RESULTS_IN_A_ROW if self.skipped else held.old_count

    def see(self, rows: Sequence[Mapping[str, Any]]) -> bool:
        """Look at the oldest messages and drop what is too many.

        Returns:
            Whether that was enough to decide; if not, ask for all that are ``wanted`` now.
        """
        oldest = [(row["seq"], _is_result(row["is_result"], row["body"])) for row in rows]
        if self.skipped:
            for place, (seq, result) in enumerate(oldest):
                if not result:
                    self.held.drop_before(seq, self.skipped + place)
                    return True
            # The cut comes before, or among what was added.
            self.skipped, self.wanted = 0, self.held.old_count
            return False
        # Somebody else may have removed rows.
        self._excess -= self.held.old_count - len(rows)
        if self._excess <= 0:
            return True
        oldest += [(seq, _is_result(result, body)) for seq, body, result in self.held.added]
        drop = messages_to_drop((result for _, result in oldest), self._excess)
        if drop:
            self.held.drop_before(oldest[drop][0], drop)
        return True


def _is_result(known: bool | None, body: bytes | None) -> bool:  # noqa: FBT001  # a column
    if known is not None or body is None:
        return bool(known)
    try:
        return is_tool_result(decode_message(body))
    except (msgspec.DecodeError, UnicodeDecodeError):
        return False  # Whoever reads it learns that it is damaged.


def info_of(row: Mapping[str, Any]) -> SessionInfo:
    """Return a session's record from its row.

    Raises:
        CorruptSessionError: Something in it can't be decoded.
    """
    session_id = row["session_id"].decode()
    try:
        texts = {
            field: None if (raw := row[field]) is None else raw.decode() for field in LOOKED_UP
        }
        checkpoint = row["checkpoint"]
        return SessionInfo(
            session_id=session_id,
            created_at=row["created_at"],
            updated_at=row["updated_at"],
            last_seq=row["last_seq"],
            message_count=row["message_count"],
            metadata=_object(row["metadata"]),
            state=_object(row["state"]),
            checkpoint=None if checkpoint is None else _decode_checkpoint(checkpoint),
            expires_at=row["expires_at"],
            **texts,
        )
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        detail = f"its record can't be decoded: {exc}"
        raise CorruptSessionError(detail, session_id=session_id) from exc


def metadata_of(row: Mapping[str, Any]) -> dict[str, JSONValue]:
    """Return a session's metadata from its row; nothing where it is damaged."""
    try:
        return _object(row["metadata"])
    except (msgspec.DecodeError, UnicodeDecodeError):
        return {}


def _object(raw: bytes | None) -> dict[str, JSONValue]:
    if raw is None:
        return {}
    value = decode_json(raw)
    if not isinstance(value, dict):
        raise msgspec.DecodeError("a JSON object was expected")
    return value


def record_columns(info: SessionInfo) -> tuple[bytes | None, ...]:
    """Return what is saved of a record, in the order of the statement."""
    texts = (getattr(info, field) for field in LOOKED_UP)
    return (
        *(None if text is None else text.encode() for text in texts),
        encode_json(info.metadata) if info.metadata else None,
        encode_json(info.state) if info.state else None,
        None if info.checkpoint is None else _encode_checkpoint(info.checkpoint),
    )
