"""What an import finds in the store, compared with what it brings: so that it can go on."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from asyncsessions.models import Message, SessionInfo

__all__ = ["is_bare", "is_outdated", "is_untouched", "missing"]

_TEXTS = ("agent_name", "user_id", "agent_id", "gateway_session_id")


def missing(
    found: Sequence[Message], given: Sequence[Message], position: int = 0
) -> list[Message] | None:
    """Return the end of an import's messages that the store lacks.

    Args:
        found: The stored messages from ``position`` on, at most as many as are given.
        given: The messages that the import brings, from there on.
        position: How many messages of the session come before them.

    Returns:
        Empty where the store has all of them. None where it has others: a message differs, or
        the end is missing and there is no message, or one given without a time, to tell whether
        the beginning is the same.
    """
    pairs = zip(found, given, strict=False)
    for seq, (stored, message) in enumerate(pairs, position + 1):
        if stored.seq != seq or not _is_same(stored, message):
            return None
    rest = list(given[len(found) :])
    is_known = position + len(found) and all(message.timestamp for message in given[: len(found)])
    return None if rest and not is_known else rest


def _is_same(stored: Message, given: Message) -> bool:
    timestamp = float(given.timestamp) or stored.timestamp
    return stored == msgspec.structs.replace(given, seq=stored.seq, timestamp=timestamp)


def is_bare(stored: SessionInfo, given: SessionInfo) -> bool:
    """Whether an import was cut off between a session's messages and its record."""
    if stored.metadata or stored.state or stored.checkpoint is not None or _texts(stored):
        return False
    if given.metadata or given.state or given.checkpoint is not None or _texts(given):
        return True
    return bool(given.created_at) and stored.created_at != given.created_at


def is_untouched(stored: SessionInfo, given: SessionInfo) -> bool:
    """Whether a session was written by nobody since an import stored it, or an older one of it.

    An import leaves the time that it brings, so that whoever wrote later left a later one. (They
    may have removed messages, which aren't to come back.) Without a time it can't be told.
    """
    return 0 < stored.updated_at <= given.updated_at


def is_outdated(stored: SessionInfo, given: SessionInfo) -> bool:
    """Whether a stored record is an older one, or none, of the session that is imported.

    That is, one that says nothing which the other doesn't say, or says newer.
    """
    return (
        _texts(stored).items() <= _texts(given).items()
        and stored.metadata.keys() <= given.metadata.keys()
        and stored.state.keys() <= given.state.keys()
        and (stored.checkpoint is None or given.checkpoint is not None)
    )


def _texts(info: SessionInfo) -> dict[str, str]:
    return {name: value for name in _TEXTS if (value := getattr(info, name))}
