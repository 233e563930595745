"""Merges of two sessions that have a beginning in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeAlias

import msgspec

from asyncsessions.errors import UnrelatedSessionsError
from asyncsessions.hierarchy.bringing import Bringing, UnfinishedError
from asyncsessions.hierarchy.forking import Forking
from asyncsessions.hierarchy.lineage import Lineage
from asyncsessions.hierarchy.models import MergeConflict, MergeResult
from asyncsessions.hierarchy.records import Records
from asyncsessions.hierarchy.rewriting import Plan, Rewriting
from asyncsessions.hierarchy.saved import Part, SavedMerge, SavedRecord, cut
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
                await self._bringing.note(target, merged.claimed(new[-1].seq).change(fork_id))

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
        result = MergeResult(0, [])
        merge = Merge()
        after = 0

        async def plan(target: Lineage) -> Plan:
            nonlocal fork, result, merge, after
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
            result = MergeResult(len(new), merge.conflicts)
            return common, resolve(own, new)

        def changes(target: Lineage, snapshot_id: str, upto: int) -> list[Change]:
            automatic = self._snapshotting.automatic(target, snapshot_id)
            seq = fork.info.last_seq
            merged = SavedMerge(
                seq, SavedRecord.of(fork.info), runs=((upto, seq, 1),), life=fork.life
            )
            moved = {each: saved.moved(after, upto) for each, saved in target.merges.items()}
            merges = target.only_merged({**moved, fork_id: merged})
            return [*automatic, *merge.changes, *merges]

        while True:
            async with self._records.pinned(session_id):
                await self._bringing.finish_all(session_id)
            try:
                await self._rewriting.put(session_id, plan, changes, keeps_late=True)
            except UnfinishedError:
                continue
            except _NothingNewError:
                return MergeResult(0, await self._merge_records(fork, session_id))
            return result

    async def _merge_records(self, fork: Lineage, session_id: str) -> list[MergeConflict]:
        """Merge the record of a fork whose messages were brought."""
        fork_id, upto = fork.info.session_id, fork.info.last_seq
        while True:
            target = await self._records.known(session_id)
            merged = target.merge_of(fork)
            # After the target: what another merge has brought by then, this one knows, too.
            fork = await self._records.known(fork_id)
            merge = await self._merged_record(fork, target)
            # A revert may have taken away what was brought; then it is to be brought again.
            is_whole = not await self._bringing.new_messages(fork, target)
            merged = msgspec.structs.replace(
                merged,
                seq=max(merged.seq, upto) if is_whole else merged.seq,
                record=SavedRecord.of(fork.info),
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


class _NothingNewError(Exception):
    """There are no messages to merge, or another merge has brought them meanwhile."""


def _untitled(record: SavedRecord) -> dict[str, Any]:
    return {key: value for key, value in record.metadata.items() if key != "title"}
