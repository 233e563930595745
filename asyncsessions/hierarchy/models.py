"""What hierarchical sessions return."""

from __future__ import annotations

from typing import Any

import msgspec

from asyncsessions.models import JSONValue, Message

__all__ = ["MergeConflict", "MergeResult", "SessionDiff", "SessionTree", "Snapshot"]


class Snapshot(msgspec.Struct, frozen=True):
    """A state of a session that it can be brought back to.

    Attributes:
        snapshot_id: Its id.
        session_id: The session.
        seq: The session's newest ``seq`` when it was made.
        created_at: Seconds since the epoch.
        message_count: How many messages the session showed then.
        label: What its maker called it.
        metadata: What its maker wants to remember; any JSON object.
        is_automatic: Whether a revert made it, so that it can be undone.
    """

    snapshot_id: str
    session_id: str
    seq: int
    created_at: float
    message_count: int
    label: str | None = None
    metadata: dict[str, Any] = {}
    is_automatic: bool = False


class SessionTree(msgspec.Struct, frozen=True):
    """A session with all that was forked from it.

    Attributes:
        session_id: The session.
        title: Its title; None without one.
        message_count: How many messages it shows, those before the fork included.
        children: The same of each fork, oldest first.
        seq: The last message that it began with; None where it isn't a fork.
        snapshot_count: How many snapshots it has, but for those that reverts made.
    """

    session_id: str
    title: str | None
    message_count: int
    children: list[SessionTree]
    seq: int | None = None
    snapshot_count: int = 0


class SessionDiff(msgspec.Struct, frozen=True):
    """How two sessions differ that have a beginning in common.

    Attributes:
        ancestor_id: The session in which the last common message is stored; the one that was
            forked where they have no message in common.
        seq: The last common message; 0 where there is none.
        common: How many messages they have in common.
        left: The first session's messages after that, oldest first.
        right: The second session's.
    """

    ancestor_id: str
    seq: int
    common: int
    left: list[Message]
    right: list[Message]


class MergeConflict(msgspec.Struct, frozen=True):
    """Something that two sessions changed in different ways; the target keeps its own.

    Attributes:
        path: ``metadata`` or ``state``, and the keys that lead there.
        base: What was there before; None also where there was nothing.
        target: What the session has that was merged into.
        fork: What the session has that was merged.
    """

    path: list[str]
    base: JSONValue
    target: JSONValue
    fork: JSONValue


class MergeResult(msgspec.Struct, frozen=True):
    """What a merge did.

    Attributes:
        messages: How many messages it brought, without those that another call did meanwhile.
        conflicts: What it left for somebody to decide.
    """

    messages: int
    conflicts: list[MergeConflict]
