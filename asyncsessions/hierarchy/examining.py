"""Looks at a session that branches, and at those that it has to do with.

What it finds it only suspects: others may write between one look and the next. `checking` looks
twice, and repairs.
"""

from __future__ import annotations

import bisect
from collections import deque
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from typing import Literal, NamedTuple, TypeAlias

import msgspec

from asyncsessions.base import BaseSessionStore
from asyncsessions.errors import CorruptSessionError, InvalidSessionIdError
from asyncsessions.hierarchy.lineage import Lineage
from asyncsessions.hierarchy.saved import Part, SavedSnapshot, count_of, in_tree, shared
from asyncsessions.hierarchy.soundness import damage
from asyncsessions.hooks import Change

__all__ = ["PATIENCE", "Examiner", "Finding", "Suspicion", "What"]

What: TypeAlias = Literal[
    "damaged",
    "lost",
    "unnoted",
    "unread",
    "overstated",
    "unborn",
    "unfinished",
    "leftover",
    "miscounted",
]

PATIENCE = 24 * 3600.0
"""Seconds after which nobody is still at work on what looks unfinished."""

_PAGE = 256


class Finding(msgspec.Struct, frozen=True):
    """Something between sessions that isn't as it should be.

    Attributes:
        session_id: The session whose record says so.
        what: ``damaged``: what it says of its kin can't be read. ``lost``: it shows messages that
            aren't stored any more. ``unnoted``: another one reads its messages, which may be
            removed, because it doesn't say so. ``unread``: it keeps messages for a fork or
            snapshot that isn't there. ``overstated``: it keeps more than a fork reads.
            ``unborn``: it lists a fork that isn't one. ``unfinished``: it holds copies for a
            fork or a rewrite that never came to be. ``leftover``: it was deleted, and is stored
            for nobody. ``miscounted``: it says that it shows more or fewer messages than it does.
        detail: What exactly, for a person.
        other_id: The session or the snapshot that it has to do with; None for itself alone.
        can_repair: Whether a repair does no harm now.
        is_recent: Whether somebody may still be at work on it: it is less than a day old.
        is_repaired: Whether it has been repaired.
    """

    session_id: str
    what: What
    detail: str
    other_id: str | None = None
    can_repair: bool = False
    is_recent: bool = False
    is_repaired: bool = False


class Suspicion(NamedTuple):
    """A finding, and what would repair it.

    Attributes:
        finding: The finding.
        fix: The changes of the session's record, with what they expect of it.
        weight: Of two suspicions of the same, the heavier one includes the other.
    """

    finding: Finding
    fix: tuple[Change, ...] = ()
    weight: int = 0

    @property
    def key(self) -> tuple[str, str, str | None]:
        """What is suspected of whom."""
        return self.finding.session_id, self.finding.what, self.finding.other_id


class Examiner:
    """Examines sessions of a store; it reads each record and each message once.

    Args:
        store: The store.
        now: Seconds since the epoch.
        known: Sessions that have been read already.
    """

    def __init__(self, store: BaseSessionStore, now: float, known: Iterable[Lineage] = ()) -> None:
        self._store = store
        self._now = now
        self._known: dict[str, Lineage | None] = {each.info.session_id: each for each in known}
        self._damage: dict[str, str | None] = {}
        self._seqs: dict[str, tuple[list[int], int]] = {}

    async def lineage(self, session_id: str) -> Lineage | None:
        """Return a session's record, be it a deleted one's; None where there is no session.

        Raises:
            CorruptSessionError: It can't be read.
        """
        if session_id not in self._known:
            try:
                info = await self._store.get_info(session_id)
            except InvalidSessionIdError:
                info = None
            self._known[session_id] = None if info is None else Lineage(info)
        return self._known[session_id]

    async def examine(self, lineage: Lineage) -> AsyncIterator[Suspicion]:
        """Iterate over what is wrong with a session's record, and with what it depends on."""
        detail = self._damage_of(lineage)
        if detail is not None:
            yield Suspicion(Finding(lineage.info.session_id, "damaged", detail))
            return
        if lineage.is_gone and not lineage.sharers:
            yield self._remains(lineage)
        if lineage.is_gone:
            for snapshot_id in lineage.snapshots:
                yield self._snapshot_of_none(lineage, snapshot_id)
        async for suspicion in self._notes(lineage):
            yield suspicion
        async for suspicion in self._needs(lineage):
            yield suspicion

    def _snapshot_of_none(self, lineage: Lineage, snapshot_id: str) -> Suspicion:
        info = lineage.info
        finding = Finding(
            info.session_id,
            "unread",
            f"it keeps messages for its snapshot {snapshot_id!r}, but it was deleted",
            snapshot_id,
            can_repair=True,
            is_recent=self._is_recent(info.updated_at),
        )
        as_deleted = [lineage.unless_changed(), Change(("last_seq",), "expect", info.last_seq)]
        return Suspicion(finding, (*as_deleted, *Lineage.forget([snapshot_id])))

    def _is_recent(self, moment: float) -> bool:
        return moment > self._now - PATIENCE

    def _remains(self, lineage: Lineage) -> Suspicion:
        info = lineage.info
        is_recent = self._is_recent(info.updated_at)
        # A deleted session shows nothing; a copy shows what it has got so far.
        if lineage.is_plain:
            finding = Finding(
                info.session_id,
                "unfinished",
                "it is a copy of messages that was never finished, or that nobody reads",
                can_repair=not is_recent,
                is_recent=is_recent,
            )
        else:
            detail = "it was deleted, and nobody reads its messages"
            finding = Finding(
                info.session_id, "leftover", detail, can_repair=True, is_recent=is_recent
            )
        return Suspicion(finding)

    async def _sound(self, session_id: str) -> Lineage | None:
        """Return a session's record; None where there is no session, or it is damaged."""
        try:
            found = await self.lineage(session_id)
        except CorruptSessionError:
            return None
        return None if found is None or self._damage_of(found) is not None else found

    async def _can_tell(self, session_id: str) -> bool:
        """Whether a session's record can be read, or there is none."""
        try:
            found = await self.lineage(session_id)
        except CorruptSessionError:
            return False
        return found is None or self._damage_of(found) is None

    def _damage_of(self, lineage: Lineage) -> str | None:
        session_id = lineage.info.session_id
        if session_id not in self._damage:
            self._damage[session_id] = damage(lineage)
        return self._damage[session_id]

    # What a session says of those who read it.

    async def _notes(self, lineage: Lineage) -> AsyncIterator[Suspicion]:
        children, snapshots = lineage.noted_children, lineage.snapshots
        for reader, upto in lineage.sharers.items():
            if reader in snapshots:
                continue
            if not await self._reads(reader, lineage):
                detail = f"it keeps messages for {reader!r}, which isn't there to read them"
                yield self._note(lineage, "unread", reader, detail, shared(reader))
            elif upto > max(1, lineage.info.last_seq):
                seq = await self._forked_at(reader, lineage)
                if seq is not None:
                    detail = f"it keeps all messages for {reader!r}, which reads them up to {seq}"
                    narrow = shared(reader, max(1, seq))
                    yield self._note(lineage, "overstated", reader, detail, narrow)
        for child in children.keys() - lineage.sharers.keys():
            if await self._forked_at(child, lineage) is None and await self._can_tell(child):
                detail = f"it lists {child!r} as a fork, which isn't one of it"
                yield self._note(lineage, "unborn", child, detail)

    def _note(
        self, lineage: Lineage, what: What, other_id: str, detail: str, *changes: Change
    ) -> Suspicion:
        info = lineage.info
        moment = lineage.noted_children.get(other_id)
        is_recent = self._is_recent(info.updated_at if moment is None else moment)
        finding = Finding(
            info.session_id,
            what,
            detail,
            other_id,
            can_repair=not is_recent,
            is_recent=is_recent,
        )
        entry = Lineage.child(other_id, None)
        note = shared(other_id)
        expected = [
            Change(entry.path, "expect", moment),
            Change(note.path, "expect", lineage.sharers.get(other_id)),
        ]
        if moment is None:
            expected.append(Change(("updated_at",), "expect", info.updated_at))
        if what != "overstated":
            changes = (*changes, entry)
        return Suspicion(finding, (*expected, *changes))

    async def _reads(self, reader: str, lineage: Lineage) -> bool:
        """Whether a session needs another one's messages to be kept; in doubt it does."""
        found = await self._sound(reader)
        if found is None:
            return not await self._can_tell(reader)
        own = lineage.info.session_id
        return own in found.sources or any(part.source == own for part in _needed(found))

    async def _forked_at(self, child: str, lineage: Lineage) -> int | None:
        """Return where a fork of a session begins; None if it is no fork of it."""
        found = await self._sound(child)
        source = None if found is None else found.source
        return None if source is None or source.id != lineage.info.session_id else source.seq

    # What a session reads.

    async def _needs(self, lineage: Lineage) -> AsyncIterator[Suspicion]:
        own = lineage.info.session_id
        parts: dict[str, list[Part]] = {}
        for part in _needed(lineage):
            parts.setdefault(part.source, []).append(part)
        for source, needed in parts.items():
            upto = max(part.upto for part in needed)
            try:
                left, lost = await self._look_for(lineage, needed)
            except CorruptSessionError as exc:
                yield Suspicion(Finding(source, "damaged", exc.detail))
                continue
            if lost:
                detail = f"{lost} of the messages that it shows are no longer stored in {source!r}"
                yield Suspicion(Finding(own, "lost", detail, source))
            # Of what is all gone there is nothing left to keep.
            if source != own and left:
                for link in await self._broken_links(lineage, source, upto):
                    yield self._missing_note(link)
        for snapshot_id, snapshot in _snapshots(lineage).items():
            upto = max(1, lineage.own_upto(snapshot.parts)) if snapshot.parts else 0
            link = _Link(lineage, snapshot_id, upto)
            if not link.is_noted:
                yield self._missing_note(link)
        async for suspicion in self._count(lineage):
            yield suspicion

    async def _count(self, lineage: Lineage) -> AsyncIterator[Suspicion]:
        info, view = lineage.info, lineage.view
        own = info.session_id
        if lineage.is_plain or lineage.is_gone:
            return
        try:
            hidden = bisect.bisect_right(await self._stored(own, view.after), view.after)
        except CorruptSessionError as exc:
            yield Suspicion(Finding(own, "damaged", exc.detail))
            return
        said = count_of(lineage.parts) - count_of(view.parts)
        shown = info.message_count - hidden
        if said == shown:
            return
        detail = f"it says that {said} of its own messages are shown, which are {shown}"
        is_recent = self._is_recent(info.updated_at)
        finding = Finding(own, "miscounted", detail, can_repair=True, is_recent=is_recent)
        counted = msgspec.to_builtins(msgspec.structs.replace(view, hidden=hidden))
        yield Suspicion(finding, (lineage.unless_changed(), in_tree("view", counted)))

    async def _look_for(self, lineage: Lineage, parts: Sequence[Part]) -> tuple[bool, int]:
        """Return whether there are messages of parts, and how many of them are missing."""
        source = parts[0].source
        if await self.lineage(source) is None:
            return False, max(part.count for part in parts)
        seqs = await self._stored(source, max(part.upto for part in parts))
        found, lost = 0, 0
        for part in parts:
            there = bisect.bisect_right(seqs, part.upto) - bisect.bisect_right(seqs, part.after)
            found += there
            # A session may lose its own oldest messages, to retention or to the store's own clear.
            may_lose = source == lineage.info.session_id and not (
                seqs and seqs[0] <= part.after + 1
            )
            if not may_lose:
                lost = max(lost, part.count - there)
        return found > 0 or not any(part.count for part in parts), lost

    async def _stored(self, source: str, upto: int) -> list[int]:
        """Return the ``seq`` of a session's messages, up to one of them at least."""
        seqs, read = self._seqs.get(source, ([], 0))
        while read < upto:
            page = await self._store.get_messages(source, after=read, limit=_PAGE)
            seqs += [message.seq for message in page]
            read = page[-1].seq if page else upto
        self._seqs[source] = seqs, read
        return seqs

    async def _broken_links(self, lineage: Lineage, source: str, upto: int) -> list[_Link]:
        """Return who doesn't note whom on the way from a session to one that it reads.

        A fork is noted by its parent, that one by its own, and so on to where the messages are,
        or to whose annex they are in.
        """
        doubts: set[str] = set()
        for only_noted in (True, False):
            path = await self._path(lineage, source, upto, doubts, only_noted=only_noted)
            if path is not None:
                return [link for link in path if not link.is_noted]
        # It came by the messages in another way.
        stored = await self._sound(source)
        if stored is None:
            return []
        link = _Link(stored, lineage.info.session_id, upto)
        # What is noted may be noted for a damaged ancestor.
        is_broken = not link.is_noted and not (doubts and stored.sharers)
        return [link] if is_broken else []

    async def _path(
        self, lineage: Lineage, source: str, upto: int, doubts: set[str], *, only_noted: bool
    ) -> list[_Link] | None:
        """Return the shortest way from a session to one that it reads; None if there is none."""
        seen = {lineage.info.session_id}
        ways: deque[tuple[Lineage, list[_Link]]] = deque([(lineage, [])])
        while ways:
            reader, links = ways.popleft()
            for kept_id in reader.sources:
                if kept_id in seen:
                    continue
                kept = await self._sound(kept_id)
                if kept is None:
                    doubts |= set() if await self._can_tell(kept_id) else {kept_id}
                    continue
                link = _Link(kept, reader.info.session_id, upto if kept_id == source else 1)
                if only_noted and not link.is_noted:
                    continue
                if kept_id == source:
                    return [*links, link]
                seen.add(kept_id)
                ways.append((kept, [*links, link]))
        return None

    def _missing_note(self, link: _Link) -> Suspicion:
        kept, reader, upto = link
        detail = f"it may lose its messages up to {upto}, which {reader!r} needs"
        note = shared(reader, upto)
        expected = Change(note.path, "expect", kept.sharers.get(reader))
        finding = Finding(kept.info.session_id, "unnoted", detail, reader, can_repair=True)
        return Suspicion(finding, (expected, note), upto)


class _Link(NamedTuple):
    """A session whose messages are kept for a reader, up to one of them."""

    kept: Lineage
    reader: str
    upto: int

    @property
    def is_noted(self) -> bool:
        return self.kept.sharers.get(self.reader, 0) >= self.upto


def _needed(lineage: Lineage) -> list[Part]:
    """Return all that a session shows, or did at its snapshots, but for its newest messages."""
    snapshots = (part for saved in _snapshots(lineage).values() for part in saved.parts)
    return [*lineage.view.parts, *snapshots]


def _snapshots(lineage: Lineage) -> Mapping[str, SavedSnapshot]:
    """Return the snapshots that a session can be brought back to; none of a deleted one."""
    return {} if lineage.is_gone else lineage.snapshots
