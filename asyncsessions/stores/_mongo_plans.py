"""What one write makes of a session: the next version of its head, decided in Python.

A plan is made from one version and committed only onto that version, so it may be made as often
as it takes; nothing here changes what is stored, but for pages that no document names yet.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

from bson import ObjectId

from asyncsessions._compat import override
from asyncsessions.errors import (
    SessionSharedError,
    SessionStoreError,
)
from asyncsessions.hooks import (
    Append,
    Appended,
    KeyRecord,
    Replace,
    Update,
    admit,
    apply_changes,
    check_unshared,
)
from asyncsessions.pacing import Pacer
from asyncsessions.stores._mongo_entries import entries_of
from asyncsessions.stores._mongo_jobs import Attempt, Job
from asyncsessions.stores._mongo_keys import OldKeys
from asyncsessions.stores._mongo_pages import Pages, moved_to
from asyncsessions.stores._mongo_retention import Retention
from asyncsessions.stores._mongo_session import Entry, Head, Page, size_of

__all__ = [
    "INLINE_BYTES",
    "AppendJob",
    "DeleteJob",
    "MoveJob",
    "UpdateJob",
    "put_in_pages",
    "touch",
]

INLINE_BYTES = 256 << 10
"""More goes into pages before it is committed, rather than into the session's document."""
# The same where many small flushes came in faster than the tail could be moved.
_TAIL_BYTES = 1 << 20
_TAIL_ENTRIES = 512
# The same where other processes write to the session at the same time. What is in pages already
# need not be sent again by the loser of a race, and the winner is through sooner.
_CONTESTED_INLINE_BYTES = 8 << 10


class MoveJob(Job):
    """Names pages that wait, in a session that isn't written otherwise."""

    async def plan(self, base: Head | None, moment: float | None) -> Head | None:
        """See `Job.plan`."""
        del moment  # This changes nothing that could expire.
        if base is None:
            return None
        head = copy.copy(base)
        self._named(head)
        return None if self.named is None else head


class AppendJob(Job):
    """The appends of one session in one flush; the answer is a list of outcomes.

    Args:
        session_id: The session.
        pages: Where large appends go first.
        old_keys: The idempotency keys outside of the sessions' documents.
        retention: Finds what to drop.
    """

    _has_keys = False
    _size = 0
    # The messages that are in pages already, of which volume, and the pages.
    _paged: tuple[list[bytes], ObjectId | None, list[Page]] | None = None

    def __init__(
        self, session_id: str, pages: Pages, old_keys: OldKeys, retention: Retention
    ) -> None:
        super().__init__(session_id)
        self._pages = pages
        self._old_keys = old_keys
        self._retention = retention
        self.appends: list[Append] = []
        self.indexes: list[int] = []

    def add(self, index: int, append: Append) -> None:
        """Take one of the flush's appends."""
        self.appends.append(append)
        self.indexes.append(index)
        for body in append.bodies:
            self._size += len(body)
        if append.key is not None:
            self._has_keys = True

    @property
    @override
    def size(self) -> int:
        return self._size

    def can_join(self) -> bool:
        """Whether the server may decide the place.

        Nothing here may depend on what is stored, and nothing that was sent before may have got
        through: what is believed about the session may have come after it.
        """
        return all(attempt.has_failed for attempt in self.attempts) and all(
            append.is_plain and append.keep is None for append in self.appends
        )

    def entries(self) -> Sequence[Entry]:
        """Return all messages, with a ``seq`` that counts from 0."""
        return entries_of(0, [body for append in self.appends for body in append.bodies])

    def settle_join(self, attempt: Attempt, head: Head, first_seq: int) -> None:
        """Note where the server has put the messages."""
        attempt.head = head
        attempt.answer = answer = []
        for append in self.appends:
            answer.append(Appended(first_seq, append.now))
            first_seq += len(append.bodies)

    async def plan(self, base: Head | None, moment: float | None) -> Head | None:
        """See `Job.plan`."""
        first = self.appends[0]
        if base is None or base.has_vanished(first.now if moment is None else moment):
            head = Head.new(self.session_id, self.unused_volume(), base)
        else:
            head = copy.copy(base)
        self._named(head)
        first_new = head.last_seq + 1
        known: dict[str, KeyRecord] = {}
        if self._has_keys:
            known = await self._old_keys.prepare(head, self.appends) | head.keys
        bodies: list[bytes] = []
        results: list[bool] = []
        self.answer = answer = []
        for append in self.appends:
            outcome = self._append(head, append, known, moment)
            if outcome is None:
                bodies += append.bodies
                results += append.results
                outcome = Appended(head.last_seq - len(append.bodies) + 1, append.now)
            answer.append(outcome)
        if not bodies:
            return None
        new_keys = {key.key: key for key in known.values() if key.first_seq >= first_new}
        if new_keys:
            head.keys = head.keys | new_keys
        # Retention looks at what was there, so it comes before anything is added.
        keep = first.keep
        if keep is not None and head.message_count > keep:
            await self._retention.drop(head, list(enumerate(results, first_new)), keep)
        await self._put(head, first_new, bodies)
        return head

    @staticmethod
    def _append(
        head: Head, append: Append, known: dict[str, KeyRecord], moment: float | None
    ) -> Appended | SessionStoreError | None:
        """Count an append in, and its key among those known, or return why not."""
        if not append.is_plain:
            key = None if append.key is None else known.get(append.key)
            outcome = admit(append, last_seq=head.last_seq, known=key)
            if outcome is not None:
                return outcome
        count = len(append.bodies)
        if append.key is not None:
            first, now = head.last_seq + 1, append.now
            known[append.key] = KeyRecord(append.key, first, count, append.digest, now)
        head.last_seq += count
        head.message_count += count
        touch(head, append, moment)
        return None

    async def _put(self, head: Head, seq: int, bodies: Sequence[bytes]) -> None:
        """Put messages at the end of a session."""
        self.nodes = ()
        if len(bodies) == 1 and len(bodies[0]) <= INLINE_BYTES:
            entries = [Entry(seq, 1, len(bodies[0]), bodies[0])]
        else:
            entries = list(entries_of(seq, bodies))
        limit = _CONTESTED_INLINE_BYTES if self.is_contested else INLINE_BYTES
        is_inline = size_of(entries) <= limit and len(head.tail) < _TAIL_ENTRIES
        if is_inline and size_of(head.tail) <= _TAIL_BYTES:
            head.tail = (*head.tail, *entries)
            return
        tail = await self._pages.read_tail(head)
        if self._paged is None or self._paged[:2] != (bodies, head.volume):
            self._paged = (list(bodies), head.volume, await self._pages.write(head, entries))
        paged = moved_to(seq, self._paged[2])
        self.nodes = await put_in_pages(self._pages, head, tail, paged)


class UpdateJob(Job):
    """The updates of one session in one flush; the answer is a list of outcomes."""

    def __init__(self, session_id: str) -> None:
        super().__init__(session_id)
        self.updates: list[Update] = []
        self.indexes: list[int] = []

    def add(self, index: int, update: Update) -> None:
        """Take one of the flush's updates."""
        self.updates.append(update)
        self.indexes.append(index)

    async def plan(self, base: Head | None, moment: float | None) -> Head | None:
        """See `Job.plan`."""
        self.answer = []
        head = base
        pacer = Pacer()
        for update in self.updates:
            await pacer.pause()
            now = update.now if moment is None else moment
            # The update before may have ended the session.
            is_there = head is not None and not head.has_vanished(now)
            if not is_there and not update.create:
                self.answer.append(None)
                continue
            if head and is_there:
                next_head = copy.copy(head)
            else:
                next_head = Head.new(self.session_id, ObjectId(), head)
            try:
                info, values = apply_changes(next_head.info(), update)
                next_head.take(info)
                next_head.last_seq = info.last_seq
            except SessionStoreError as exc:
                self.answer.append(exc)
                continue
            if update.ttl_seconds is not None and not update.persist:
                next_head.expires_at = now + update.ttl_seconds
            head = next_head
            self.answer.append(values)
        if head is None or head is base:
            return None
        self._named(head)
        return head


class DeleteJob(Job):
    """A deletion; the answer is whether there was a session.

    Args:
        session_id: The session.
        expired_at: Only if it has expired by then.
    """

    cleans_up = True

    def __init__(self, session_id: str, expired_at: float | None) -> None:
        super().__init__(session_id)
        self._expired_at = expired_at
        self.is_stale = True

    async def plan(self, base: Head | None, moment: float | None) -> Head | None:
        """See `Job.plan`."""
        if base is None:
            # If one sent before got through, somebody else has finished what this one began.
            self.answer = not all(attempt.has_failed for attempt in self.attempts)
            return None
        self.answer = False
        if base.updated_at is None:
            return None
        if self._expired_at is not None:
            now = self._expired_at if moment is None else moment
            if base.expires_at is None or base.expires_at > now:
                return None
        else:
            try:
                check_unshared(self.session_id, base.info().metadata)
            except SessionSharedError as exc:
                self.answer = exc
                return None
        self.answer = True
        return Head(
            self.session_id,
            base.incarnation,
            base.volume,
            base.version,
            writers=base.writers,
            garbage=(*base.garbage, *base.remains()),
        )


async def put_in_pages(
    pages: Pages, head: Head, entries: Sequence[Entry], paged: Sequence[Page]
) -> tuple[ObjectId, ...]:
    """Have a head name pages with all of its entries, and then more; return the new ones."""
    added = [*await pages.write(head, entries), *paged]
    head.tail = ()
    head.pages = (*head.pages, *added)
    return (*(page.node for page in added), *await pages.fold(head))


def touch(head: Head, write: Append | Replace, moment: float | None) -> None:
    head.created_at = head.created_at or write.now
    head.updated_at = write.now
    if write.ttl_seconds is not None:
        head.expires_at = (write.now if moment is None else moment) + write.ttl_seconds
