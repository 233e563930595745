"""Snapshots, and reverts to them and to messages."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from asyncsessions.codec import check_json_object
from asyncsessions.errors import SnapshotNotFoundError
from asyncsessions.hierarchy.bringing import Bringing
from asyncsessions.hierarchy.lineage import Lineage
from asyncsessions.hierarchy.records import Records
from asyncsessions.hierarchy.saved import SavedSnapshot, new_token
from asyncsessions.hooks import Change
from asyncsessions.requests import check_text

__all__ = ["Snapshotting"]

# All of them are in the session's record, which most calls read.
_MOST_REVERTS = 32
# What comes after something is so many seconds later at least; every store tells that apart.
_MOMENT = 0.001


class Snapshotting:
    """Remembers what sessions of a store are, and brings it back.

    Args:
        records: The sessions' records.
        bringing: Finishes what merges have begun.
    """

    def __init__(self, records: Records, bringing: Bringing) -> None:
        self._records = records
        self._bringing = bringing
        self._reader = records.reader

    async def snapshot(
        self, session_id: str, label: str | None, metadata: Mapping[str, Any]
    ) -> str:
        """Remember a session's state; see `HierarchicalSessionStore`."""
        if label is not None:
            check_text("label", label)
        check_json_object(dict(metadata), "metadata")

        async def keep(lineage: Lineage, snapshot_id: str) -> list[Change]:
            fields = {"label": label, "metadata": dict(metadata)}
            snapshot = lineage.snapshot(lineage.parts, self._records.now(), **fields)
            return [lineage.unless_changed(), *lineage.keep(snapshot_id, snapshot)]

        _, snapshot_id = await self._bringing.keeping(session_id, keep)
        return snapshot_id

    async def forget(self, session_id: str, chosen: Callable[[str, SavedSnapshot], bool]) -> int:
        """Remove snapshots; return how many."""

        def chosen_of(lineage: Lineage) -> list[str]:
            return [each for each, saved in lineage.snapshots.items() if chosen(each, saved)]

        def remove(now: Lineage) -> list[Change]:
            changes = Lineage.forget(chosen_of(now))
            return [now.unless_changed(), new_token(), *changes] if changes else []

        return len(chosen_of(await self._records.change(session_id, remove)))

    async def revert_to_snapshot(self, session_id: str, snapshot_id: str | None) -> None:
        """Bring a session back to a snapshot, or with None to the newest automatic one."""

        async def revert(lineage: Lineage, automatic_id: str) -> list[Change]:
            wanted = snapshot_id
            if wanted is None:
                reverts = [each for each, saved in lineage.snapshots.items() if saved.is_automatic]
                wanted = reverts[-1] if reverts else None
            snapshot = lineage.snapshots.get(wanted or "")
            if snapshot is None:
                raise SnapshotNotFoundError(session_id, snapshot_id)
            changes = [*lineage.show(snapshot.parts), *self.automatic(lineage, automatic_id)]
            changes += lineage.only_merged(snapshot.merges)
            return changes + snapshot.record.changes(lineage.info)

        await self._bringing.keeping(session_id, revert)

    async def revert_to_message(self, session_id: str, seq: int) -> None:
        """Bring a session back to a message."""

        async def revert(lineage: Lineage, automatic_id: str) -> list[Change]:
            parts = await self._reader.parts_upto(lineage, seq)
            changes = [*lineage.show(parts), *self.automatic(lineage, automatic_id)]
            # What a merge did to metadata and state stays, so it is not to be done again.
            merges = {each: merge.back_at(seq) for each, merge in lineage.merges.items()}
            changes += lineage.only_merged(merges)
            checkpoint = lineage.checkpoint_at(seq)
            if checkpoint is not lineage.info.checkpoint:
                changes.append(Change(("checkpoint",), "set", checkpoint))
            return changes

        await self._bringing.keeping(session_id, revert)

    def automatic(self, lineage: Lineage, snapshot_id: str) -> list[Change]:
        """Return what remembers a session as it is, so that what comes now can be undone."""
        before = {each: saved for each, saved in lineage.snapshots.items() if saved.is_automatic}
        old = list(before)
        # The newest is the one to undo, whatever clock the one before was made by.
        after = before[old[-1]].created_at + _MOMENT if old else 0.0
        now = max(self._records.now(), after)
        snapshot = lineage.snapshot(lineage.parts, now, is_automatic=True)
        return [
            *Lineage.forget(old[: max(0, len(old) + 1 - _MOST_REVERTS)]),
            *lineage.keep(snapshot_id, snapshot),
        ]
