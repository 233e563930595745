"""Merges of two sessions that have a beginning in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import msgspec

from asyncsessions.errors import UnrelatedSessionsError
from asyncsessions.hierarchy.bringing import Bringing, UnfinishedError
from asyncsessions.hierarchy.forking import Forking
from asyncsessions.hierarchy.lineage import Lineage
from asyncsessions.hierarchy.models import MergeConflict, MergeResult
from asyncsessions.hierarchy.records import Records
from asyncsessions.hierarchy.rewriting import Plan, Rewriting
from asyncsessions.hierarchy.saved import Part, SavedMerge, SavedRecord, cut, runs_of
from asyncsessions.hierarchy.snapshotting import Snapshotting
from asyncsessions.hierarchy.threeway import Merge, interleave
from asyncsessions.hooks import Change, Window
from asyncsessions.models import Message

__all__ = ["Merging", "Strategy"]

Resolve: TypeAlias = Callable[
    [Sequence[Message], Sequence[Message]], Sequence[Message | Mapping[str, Any]]
]
Strategy: TypeAlias = Literal["append", "interleave"] | Resolve
"""What becomes of messages; see `HierarchicalSessionStore.merge_sessions`."""

_STRATEGIES: Mapping[str, Resolve] = {"interleave": interleave}


class Merging:
    """Merges sessions of a store.

    Args:
        records: The sessions' records.
        forking: Knows how they are related.
        snapshotting: Remembers what they were.
        rewriting: Rewrites them.
        bringing: Brings messages of one to another.
    """

    def __init__(
        self,
        records: Records,
        forking: Forking,
        snapshotting: Snapshotting,
        rewriting: Rewriting,
        bringing: Bringing,
    ) -> None:
        self._records = records
        self._reader = records.reader
        self._store = records.store
        self._forking = forking
        self._snapshotting = snapshotting
        self._rewriting = rewriting
        self._bringing = bringing

    async def merge(self, fork_id: str, into: str | None, strategy: Strategy) -> MergeResult:
        """Merge; see `HierarchicalSessionStore.merge_sessions`."""
        resolve = _STRATEGIES.get(strategy) if isinstance(strategy, str) else strategy
        if resolve is None and strategy != "append":
            raise ValueError(f"strategy is append, interleave or a function, not {strategy!r}")
        fork = await self._records.known(fork_id)
        if into is None:
            if fork.parent is None:
                raise ValueError(f"session {fork_id!r} was not forked; say what to merge it into")
            into = fork.parent.id
        target = await self._records.known(into)
        if into == fork_id:
            raise UnrelatedSessionsError(fork_id, into)
        await self._forking.lines(fork, target)  # Or nothing is written.
        if resolve is not None:
            return await self._resolve(fork, into, resolve)
        async with self._records.pinned(into):
            count = await self._append(fork, into)
        return MergeResult(count, await self._merge_records(fork, into))

    async def _base(self, fork: Lineage, target: Lineage) -> SavedRecord:
        """Return what both records were when the sessions parted, or were merged last."""
        merged = target.merge_of(fork)
        line, other = await self._forking.lines(fork, target)
        if merged.record is not None:
            return merged.record
        # Whichever was forked from the common ancestor, and of two the one that was so first: the
        # other one began with what the ancestor had changed by then.
        below = [each[-2] for each in (line, other) if len(each) > 1]
        first = min(below, key=lambda each: each.info.created_at)
        return first.origin or SavedRecord({}, {})

    async def _append(self, fork: Lineage, session_id: str) -> int:
        """Append what is new in a fork, once, whoever else does the same.

        Which messages these are is noted first; so whoever comes by meanwhile, or after a crash,
        appends the same.

        Returns:
            How many messages it brought.
        """
        fork_id = fork.info.session_id
        count = 0
        while True:
            count += await self._bringing.finish(fork, session_id)
            target = await self._records.known(session_id)
            await self._forking.lines(fork, target)  # It may be another one by now.
            merged = target.merge_of(fork)
            new = await self._bringing.new_messages(fork, target)
            if not new:
                return count
            if not merged.is_begun:
                claimed = merged.claimed((each.seq for each in new), target.info.last_seq)
                await self._bringing.note(target, claimed.change(fork_id))

    async def _in_common(self, target: Lineage, fork: Lineage) -> tuple[Part, ...]:
        """Return what a session shows of what both of them do."""
        common = tuple(target.in_common(fork))
        if not common or not (target.copied or fork.copied):
            return common
        # Where messages are copied, they are also dropped without a word to whoever counts them.
        shown = cut(target.parts, before=common[-1].upto + 1)
        return tuple(
            [await self._rewriting.part(each.source, each.after, each.upto) for each in shown]
        )

    async def _resolve(self, fork: Lineage, session_id: str, resolve: Resolve) -> MergeResult:
        """Merge messages and records in one step."""
        fork_id = fork.info.session_id
        resolved = _Resolved(fork, Merge())

        async def plan(target: Lineage) -> Plan:
            nonlocal resolved
            if target.is_being_merged:
                raise UnfinishedError
            # What another merge has brought by now, this one knows, too.
            fork = await self._records.known(fork_id)
            new = await self._bringing.new_messages(fork, target)
            if not new:
                raise _NothingNewError
            common = await self._in_common(target, fork)
            after = common[-1].upto if common else 0
            own = await self._reader.read_at(target, Window(after=after))
            merge = await self._merged_record(fork, target)
            resolved = _Resolved(fork, merge, after, own, new, resolve(own, new))
            return common, resolved.messages

        def changes(target: Lineage, snapshot_id: str, upto: int) -> list[Change]:
            automatic = self._snapshotting.automatic(target, snapshot_id)
            merges = target.only_merged(resolved.merges(target, upto))
            return [*automatic, *resolved.merge.changes, *merges]

        while True:
            try:
                await self._rewriting.put(session_id, plan, changes, keeps_late=True)
            except UnfinishedError:
                await self._bringing.finish_all(session_id)
            except _NothingNewError:
                return MergeResult(0, await self._merge_records(fork, session_id))
            else:
                return MergeResult(len(resolved.new), resolved.merge.conflicts)

    async def _merge_records(self, fork: Lineage, session_id: str) -> list[MergeConflict]:
        """Merge the record of a fork whose messages were brought."""
        fork_id = fork.info.session_id
        while True:
            target = await self._records.known(session_id)
            # After the target: what another merge has brought by then, this one knows, too.
            fork = await self._records.known(fork_id)
            merge = await self._merged_record(fork, target)
            merged = msgspec.structs.replace(
                target.merge_of(fork), record=SavedRecord.of(fork.info)
            )
            # Or two merges at the same time would both count what the fork has changed.
            if await self._bringing.note(target, merged.change(fork_id), *merge.changes):
                return merge.conflicts

    async def _merged_record(self, fork: Lineage, target: Lineage) -> Merge:
        """Return what merges a fork's record into another."""
        base = await self._base(fork, target)
        mine, theirs = SavedRecord.of(target.info), SavedRecord.of(fork.info)
        merge = Merge()
        merge.add("metadata", *map(_untitled, (base, mine, theirs)))
        merge.add("state", base.state, mine.state, theirs.state)
        return merge


@dataclass(frozen=True)
class _Resolved:
    """What becomes of messages that two sessions don't have in common.

    Attributes:
        fork: The session that is merged.
        merge: What becomes of the records.
        after: The newest message that both have.
        own: What the other session shows after that,
        new: what the fork does, of what wasn't brought,
        messages: and what the other session is to show in their place.
    """

    fork: Lineage
    merge: Merge
    after: int = 0
    own: Sequence[Message] = ()
    new: Sequence[Message] = ()
    messages: Sequence[Message | Mapping[str, Any]] = ()

    def merges(self, target: Lineage, upto: int) -> dict[str, SavedMerge]:
        """Return what of other sessions was merged, once the messages are there.

        Those that aren't the same any more are taken to be where the last one is, at ``upto``.
        """
        numbered = enumerate(self.messages, upto + 1 - len(self.messages))
        seqs = {id(message): seq for seq, message in numbered}
        places = {each.seq: seqs.get(id(each), upto) for each in self.own}

        def moved(merged: SavedMerge) -> SavedMerge:
            return merged.moved(self.after, places, upto)

        new = runs_of((seqs.get(id(each), upto), each.seq) for each in self.new)
        merged = moved(target.merge_of(self.fork)).brought(new)
        merged = msgspec.structs.replace(merged, record=SavedRecord.of(self.fork.info))
        others = {each: moved(saved) for each, saved in target.merges.items()}
        return {**others, self.fork.info.session_id: merged}


class _NothingNewError(Exception):
    """There are no messages to merge, or another merge has brought them meanwhile."""


def _untitled(record: SavedRecord) -> dict[str, Any]:
    return {key: value for key, value in record.metadata.items() if key != "title"}
