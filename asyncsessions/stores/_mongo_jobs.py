"""What a flush has to do for one session, and what was sent for it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import msgspec
from bson import ObjectId

from asyncsessions.stores._mongo_pages import Move
from asyncsessions.stores._mongo_session import Head

__all__ = ["Attempt", "Job"]


class Attempt(msgspec.Struct, gc=False):
    """A version that was sent, and what the write has to say if it became the session's.

    Attributes:
        counter: The writer's number for it.
        base: What it was made from.
        head: The version; of a join, ``base``, until the server has said what became of it.
        answer: What the write has to say; of a join, nothing until then.
        nodes: The pages that only this names.
        move: The pages that waited, and which it names.
        is_join: Whether the server decides the place; see `_mongo_joins`.
        has_failed: Whether the server has said that the base isn't stored any more.
    """

    counter: int
    base: Head | None
    head: Head
    answer: Any = None
    nodes: tuple[ObjectId, ...] = ()
    move: Move | None = None
    is_join: bool = False
    has_failed: bool = False

    def may_still_succeed(self, stored: Head | None) -> bool:
        """Whether it may become the session's version yet, where another is stored now."""
        if self.has_failed:
            return False
        if self.base is None:
            return True  # As soon as the document is removed.
        return stored is not None and stored.version == self.base.version


class Job(ABC):
    """One session's part of a flush, or one action.

    Attributes:
        session_id: The session.
        move: Pages that wait to be named; `plan` names them if they fit, which is ``named``.
        is_contested: Whether other processes write to the session as well.
        nodes: The pages that the last plan wants named, and that nobody else has.
        base: What the last plan was made from, and ``head`` what it has made of it.
        answer: What the write has to say, as soon as it ``is_done``.
        attempts: What was sent and may have become the session's version.
        is_stale: Whether what is believed about the session isn't good enough.
        stale_version: The version that the last plan was stale at.
        needs_proof: Whether what is stored may be all there is to it, so that it must be durable.
        is_alone: Whether its change takes an update of its own.
    """

    #: Whether the plan needs the messages in the session's document.
    needs_bodies: ClassVar[bool] = False
    #: Whether its caller removes what the session has let go of, and waits for that.
    cleans_up: ClassVar[bool] = False

    # What they begin with is the class's, because a job is made for each session of a flush.
    move: Move | None = None
    named: Move | None = None
    is_contested: bool = False
    nodes: tuple[ObjectId, ...] = ()
    base: Head | None = None
    head: Head | None = None
    answer: Any = None
    is_done: bool = False
    stale_version: int | None = None
    needs_proof: bool = False
    is_alone: bool = False
    _volume: ObjectId | None = None

    def __init__(self, session_id: str) -> None:
        self.session_id = session_id
        self.attempts: list[Attempt] = []
        self.is_stale = self.needs_bodies

    @property
    def size(self) -> int:
        """About how many bytes there are to send, at the most."""
        return 0 if self.head is None else self.head.size

    @abstractmethod
    async def plan(self, base: Head | None, moment: float | None) -> Head | None:
        """Return the next version of a session; None where nothing is to be written.

        Args:
            base: The stored version; None where no document is stored.
            moment: The server's time; None where that of the request decides.

        Raises:
            StaleError: The base isn't the stored version any more.
        """

    def unused_volume(self) -> ObjectId:
        """Return a volume for a plan that begins one.

        It is the same until something was sent, so that pages whose writing was interrupted are in
        the volume of the plan that succeeds, and go with it. What was sent may have succeeded, and
        its volume be gone again.
        """
        if not all(attempt.has_failed for attempt in self.attempts):
            return ObjectId()
        if self._volume is None:
            self._volume = ObjectId()
        return self._volume

    def _named(self, head: Head) -> None:
        """Have a head name the pages that wait for it."""
        self.named = None
        if self.move is not None and self.move.fits(head):
            self.move.apply(head)
            self.named = self.move
