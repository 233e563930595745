"""What the base class hands to a store's hooks, and what it gets back.

Also here: the rules that stores holding a lock apply inside it (`admit`, `apply_changes`,
`renewed`). A store whose server applies them itself (a Lua script, a statement) proves with the
conformance suite that it means the same.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol

import msgspec

from asyncsessions.codec import is_finite
from asyncsessions.errors import (
    IdempotencyConflictError,
    InvalidMessageError,
    SessionChangedError,
    SessionSharedError,
    VersionConflictError,
)
from asyncsessions.models import JSONValue, SessionInfo

__all__ = [
    "KEY_LIFETIME",
    "SHARED",
    "Append",
    "Appended",
    "Change",
    "KeyRecord",
    "Replace",
    "Replaced",
    "Scan",
    "Tail",
    "Update",
    "Window",
    "Write",
    "admit",
    "apply_changes",
    "check_unshared",
    "renewed",
]

SHARED = "asyncsessions:shared"
"""The key in a session's metadata of who else reads its messages: for each its newest ``seq``."""

KEY_LIFETIME = 24 * 3600.0
"""Seconds that an idempotency key is kept at least; it is kept as long as its messages, too."""


class Append(msgspec.Struct, frozen=True, gc=False):
    """Append messages to one session: all of them or none, contiguous.

    Attributes:
        session_id: The session; created if it doesn't exist.
        bodies: The encoded messages, oldest first, without ``seq``.
        results: For each, whether it is a tool result; empty where ``keep`` is None.
        now: Seconds since the epoch.
        keep: Retention: how many of the newest messages stay (see `messages_to_drop`).
        ttl_seconds: The session expires so long after this write; None leaves its expiry alone.
        expected_seq: Store only if this is the session's ``last_seq``.
        key: The caller's idempotency key.
        digest: Stands for the content of the messages; comes with ``key``.
    """

    session_id: str
    bodies: tuple[bytes, ...]
    results: tuple[bool, ...]
    now: float
    keep: int | None = None
    ttl_seconds: float | None = None
    expected_seq: int | None = None
    key: str | None = None
    digest: str = ""

    @property
    def is_plain(self) -> bool:
        """Whether there is nothing to check: messages, without a key or an expected ``seq``.

        `admit` lets such an append pass in any session.
        """
        return self.key is None and self.expected_seq is None and bool(self.bodies)


class Appended(msgspec.Struct, frozen=True, gc=False):
    """What an append did.

    Attributes:
        first_seq: The ``seq`` of its first message; the others follow without gaps.
        now: The ``now`` of the append that stored them: this one, or an earlier one of its key.
    """

    first_seq: int
    now: float


class KeyRecord(msgspec.Struct, frozen=True, gc=False):
    """What a store remembers of an idempotency key.

    It is kept for `KEY_LIFETIME`, and longer while any of its messages can be read.
    """

    key: str
    first_seq: int
    count: int
    digest: str
    now: float

    def is_needed(self, oldest_seq: int, now: float) -> bool:
        """Whether to keep it, where ``oldest_seq`` is the oldest message that can be read."""
        return self.first_seq + self.count > oldest_seq or self.now + KEY_LIFETIME > now


class Change(msgspec.Struct, frozen=True):
    """One change of a session's record.

    Attributes:
        path: A field of `SessionInfo`, or ``metadata`` or ``state`` with one or two keys.
        kind: ``set``; ``default`` sets only what is absent; ``remove``; ``increment`` adds to a
            number, or to 0 where there is none (``last_seq`` is only ever incremented, which leaves
            numbers out); ``expect`` changes nothing, and fails the update
            where another value is there.
        value: The new value, the number to add, or the expected value, which for ``expect`` is
            a number or text; None stands for an absent one.
    """

    path: tuple[str, ...]
    kind: Literal["set", "default", "remove", "increment", "expect"]
    value: JSONValue = None


class Update(msgspec.Struct, frozen=True):
    """Change one session's record: all changes or none.

    Attributes:
        session_id: The session.
        changes: Applied in order.
        now: Seconds since the epoch.
        create: Whether to create a session that doesn't exist.
        ttl_seconds: As in `Append`.
        persist: Whether the session no longer expires.
        unless_shared: Whether it fails where others read the session's messages.
    """

    session_id: str
    changes: tuple[Change, ...]
    now: float
    create: bool = True
    ttl_seconds: float | None = None
    persist: bool = False
    unless_shared: bool = False


class Replace(msgspec.Struct, frozen=True, gc=False):
    """Remove a session's newest messages for good and put others in their place.

    Attributes:
        session_id: The session.
        from_seq: Messages with this ``seq`` and above are removed; 1 removes all.
        bodies: Encoded messages to add, without ``seq``.
        now: Seconds since the epoch.
        if_newest: Do it only if this is the ``seq`` of the newest message (0: there is none).
        in_place: The one message in ``bodies`` takes ``from_seq`` as its own ``seq``; otherwise
            added messages get new ones.
        drop_checkpoint: Whether the compaction checkpoint goes, too.
        create: Whether to create a session that doesn't exist.
        ttl_seconds: As in `Append`.
    """

    session_id: str
    from_seq: int
    bodies: tuple[bytes, ...]
    now: float
    if_newest: int | None = None
    in_place: bool = False
    drop_checkpoint: bool = False
    create: bool = False
    ttl_seconds: float | None = None


class Replaced(msgspec.Struct, frozen=True):
    """What a replacement did.

    Attributes:
        removed: How many messages were removed.
        first_seq: The ``seq`` of the first added message; meaningless where none was added.
        had_checkpoint: Whether there was a compaction checkpoint before.
    """

    removed: int
    first_seq: int
    had_checkpoint: bool = False


class Window(msgspec.Struct, frozen=True):
    """Which messages to read.

    Attributes:
        limit: At most so many; None means no limit.
        after: Only messages with a higher ``seq``.
        before: Only messages with a lower ``seq``; None means no bound.
        oldest: Whether ``limit`` keeps the oldest of them rather than the newest.
        max_bytes: A store may stop after so many bytes, but not before the first message.
    """

    limit: int | None = None
    after: int = 0
    before: int | None = None
    oldest: bool = False
    max_bytes: int | None = None

    def range_of(self, seqs: Sequence[int]) -> tuple[int, int]:
        """Return the start and end, in a session's ascending ``seq``, of what is to be read."""
        start = bisect.bisect_right(seqs, self.after)
        end = len(seqs) if self.before is None else bisect.bisect_left(seqs, self.before)
        if self.limit is not None and end - start > self.limit:
            if self.oldest:
                return start, start + self.limit
            return end - self.limit, end
        return start, end


class Tail(msgspec.Struct, frozen=True):
    """Messages that were read.

    Attributes:
        messages: Encoded with their ``seq``, oldest first.
        expires_at: The session's expiry; None where the store filters by its server's clock.
    """

    messages: Sequence[bytes]
    expires_at: float | None = None


class Scan(msgspec.Struct, frozen=True):
    """Which sessions to list: newest first by ``(updated_at, session_id)``, both descending.

    Attributes:
        limit: At most so many.
        now: Seconds since the epoch; sessions expired by then are left out.
        below: Only sessions that sort after this ``(updated_at, session_id)``.
        where: Fields of `SessionInfo` and the text that each must equal.
        expired: List only the expired sessions instead, in any order.
    """

    limit: int
    now: float
    below: tuple[float, str] | None = None
    where: dict[str, str] = {}
    expired: bool = False

    def matches(self, info: SessionInfo) -> bool:
        """Whether a session belongs in the list, whatever its place."""
        if info.is_expired(self.now) is not self.expired:
            return False
        if self.below is not None and (info.updated_at, info.session_id) >= self.below:
            return False
        return all(getattr(info, field) == text for field, text in self.where.items())


def admit(
    append: Append, *, last_seq: int, known: KeyRecord | None
) -> Appended | IdempotencyConflictError | VersionConflictError | None:
    """Decide what becomes of an append before anything is written.

    Args:
        append: The append; called inside the session's lock.
        last_seq: The session's newest ``seq``; 0 where there is no session.
        known: What the session remembers of ``append.key``.

    Returns:
        None to go on and store it; else its outcome: the first result of the same key, the
        error for its caller, or nothing to store.
    """
    if known is not None:
        if known.digest != append.digest:
            return IdempotencyConflictError(append.session_id, known.key)
        return Appended(known.first_seq, known.now)
    if append.expected_seq is not None and append.expected_seq != last_seq:
        return VersionConflictError(
            append.session_id, expected_seq=append.expected_seq, last_seq=last_seq
        )
    return None if append.bodies else Appended(last_seq + 1, append.now)


def check_unshared(session_id: str, metadata: Mapping[str, Any], from_seq: int = 1) -> None:
    """Refuse to take messages away that others read.

    Args:
        session_id: The session.
        metadata: Of its record.
        from_seq: These messages and later ones would go.

    Raises:
        SessionSharedError: Others read some of them.
    """
    sharers = metadata.get(SHARED)
    if isinstance(sharers, dict):
        newest = max((seq for seq in sharers.values() if isinstance(seq, int)), default=0)
        if newest >= from_seq:
            raise SessionSharedError(session_id, last_seq=newest)


class Write(Protocol):
    """What every write says of its time; `Append` tells what it means."""

    @property
    def now(self) -> float:
        """Seconds since the epoch."""

    @property
    def ttl_seconds(self) -> float | None:
        """See `Append`."""


def renewed(expires_at: float | None, write: Write) -> float | None:
    """Return a session's expiry after a write."""
    if isinstance(write, Update) and write.persist:
        return None
    return expires_at if write.ttl_seconds is None else write.now + write.ttl_seconds


def apply_changes(info: SessionInfo, update: Update) -> tuple[SessionInfo, list[JSONValue]]:
    """Return the record after an update, and each change's new value (None where removed).

    Raises:
        InvalidMessageError: An increment meets something that isn't a number.
        SessionChangedError: Something isn't as expected.
        SessionSharedError: Others read the session's messages, which the update doesn't suffer.
    """
    if update.unless_shared:
        check_unshared(info.session_id, info.metadata)
    fields: dict[str, Any] = {}
    # The copies made so far, or many changes would copy what they change many times.
    own: dict[int, dict[str, JSONValue]] = {}
    values = []
    for change in update.changes:
        field, *keys = change.path
        old = fields.get(field, getattr(info, field))
        if change.kind == "expect":
            if _at(old, keys) != change.value:
                raise SessionChangedError(info.session_id)
            values.append(change.value)
            continue
        fields[field] = _changed(old, keys, change, own)
        value = _at(fields[field], keys)
        if isinstance(value, dict) and value is not change.value:
            own.clear()  # What is handed out, and all that is in it, stays as it is.
        values.append(value)
    fields.setdefault("created_at", info.created_at or update.now)
    fields["updated_at"] = update.now if update.changes else info.updated_at or update.now
    fields["expires_at"] = renewed(info.expires_at, update)
    return msgspec.structs.replace(info, **fields), values


def _changed(
    old: JSONValue, keys: Sequence[str], change: Change, own: dict[int, dict[str, JSONValue]]
) -> JSONValue:
    """Return a copy of ``old`` with the change at ``keys``; the original stays as it is.

    What is in ``own``, by its ``id``, is a copy already, and the new copy is added.
    """
    if keys:
        copy = own.get(id(old))
        if copy is None:
            copy = dict(old) if isinstance(old, dict) else {}
            own[id(copy)] = copy
        key = keys[0]
        if len(keys) == 1 and change.kind == "remove":
            copy.pop(key, None)
        else:
            copy[key] = _changed(copy.get(key), keys[1:], change, own)
        return copy
    if change.kind == "increment":
        return _sum(old, change)
    if change.kind == "remove":
        return None
    return old if change.kind == "default" and old is not None else change.value


def _sum(old: JSONValue, change: Change) -> float:
    field = ".".join(change.path)
    if old is None:
        old = 0
    if isinstance(old, bool) or not isinstance(old, int | float):
        text = f"{field} holds {type(old).__name__}, not a number; set it to a number first"
        raise InvalidMessageError(text, field=field)
    try:
        total: float = old + change.value
    except OverflowError:  # Of a float and a whole number beyond all of them.
        total = math.inf
    if not is_finite(total):
        raise InvalidMessageError(f"{field} would overflow", field=field)
    return total


def _at(value: JSONValue, keys: Sequence[str]) -> JSONValue:
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value
