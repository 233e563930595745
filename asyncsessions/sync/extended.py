"""The original's records of sessions that have forks and snapshots."""

from __future__ import annotations

import copy
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from asyncsessions._compat import override
from asyncsessions.sync._original.snapshots import inlined
from asyncsessions.sync.records import SessionData

__all__ = ["ExtendedSessionData", "SessionSnapshot"]


@dataclass
class SessionSnapshot:
    """A state of a session that it can be brought back to.

    Attributes:
        id: Its id.
        session_id: The session.
        message_index: The last active message that it covers; -1 where there was none.
        created_at: Seconds since the epoch.
        label: What its maker called it.
        metadata: Any JSON object.
        transcript: What it brings back: ``messages``, ``archived_messages`` and
            ``last_compaction``. None in an old one, which only cuts off what came after, and
            where messages are never removed and so need no copy.
        invalidated: Whether the messages that an old one stands for are there no more.
    """

    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    session_id: str = ""
    message_index: int = 0
    created_at: float = field(default_factory=time.time)
    label: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    transcript: dict[str, Any] | None = None
    invalidated: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Return the snapshot as exports hold it; the last two fields only where they are set."""
        data = copy.deepcopy(vars(self))
        if not self.invalidated:
            del data["invalidated"]
        if self.transcript is None:
            del data["transcript"]
        else:
            data["transcript"] = data.pop("transcript")
        return data

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> SessionSnapshot:
        """Return a snapshot from its dict; what is missing gets its default."""
        return cls.around(copy.deepcopy(dict(data)))

    @classmethod
    def around(cls, data: Mapping[str, Any]) -> SessionSnapshot:
        """Do as `from_dict`, but with the dict's own values instead of copies."""
        return cls(**{name: data[name] for name in cls.__dataclass_fields__ if name in data})


@dataclass
class ExtendedSessionData(SessionData):
    """One session with everything that belongs to it, its place among its forks included.

    Attributes:
        parent_id: The session that it was forked from, or belongs under.
        forked_from_message_id: The index of the last message that it got from there, as text;
            None where it got all of them.
        children_ids: The sessions that were forked from it, oldest first.
        snapshots: Its snapshots, oldest first.
        is_shared: See ``share_session``.
        title: See ``set_title``.
    """

    parent_id: str | None = None
    forked_from_message_id: str | None = None
    children_ids: list[str] = field(default_factory=list)
    snapshots: list[SessionSnapshot] = field(default_factory=list)
    is_shared: bool = False
    title: str | None = None

    @override
    def to_dict(self) -> dict[str, Any]:
        """Return the session as exports hold it, each snapshot with its own transcript."""
        data = super().to_dict()
        own = {
            "parent_id": self.parent_id,
            "forked_from_message_id": self.forked_from_message_id,
            "children_ids": list(self.children_ids),
            "snapshots": [snapshot.to_dict() for snapshot in self.snapshots],
            "is_shared": self.is_shared,
            "title": self.title,
        }
        # Behind all that a plain session has.
        return {key: value for key, value in data.items() if key not in own} | own

    @classmethod
    @override
    def from_dict(cls, data: Mapping[str, Any]) -> ExtendedSessionData:
        """Return a session from its dict, as exports or files hold it.

        Raises:
            ValueError: What its snapshots share is damaged.
        """
        session = cls(**vars(SessionData.from_dict(data)))
        found = inlined(data.get("snapshots"), data.get("snapshot_storage"))
        session.snapshots = [SessionSnapshot.from_dict(snapshot) for snapshot in found]
        session.parent_id = data.get("parent_id")
        session.forked_from_message_id = data.get("forked_from_message_id")
        session.children_ids = list(data.get("children_ids") or ())
        session.is_shared = bool(data.get("is_shared"))
        session.title = data.get("title")
        return session

    @classmethod
    def from_session_data(cls, session: SessionData) -> ExtendedSessionData:
        """Return a plain session as one without forks and snapshots."""
        return cls(**vars(SessionData(**vars(session))))
