"""Export and import of sessions with their snapshots and kin."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import msgspec

from asyncsessions.codec import encode_message, message_from
from asyncsessions.errors import InvalidMessageError, SessionExistsError
from asyncsessions.hierarchy.forking import Forking
from asyncsessions.hierarchy.lineage import Lineage
from asyncsessions.hierarchy.records import Records
from asyncsessions.hierarchy.rewriting import Rewriting
from asyncsessions.hierarchy.saved import Part, SavedRecord, SavedSnapshot, in_tree, under
from asyncsessions.hooks import Change
from asyncsessions.models import ImportReport, Message
from asyncsessions.pacing import Pacer, paced_map

__all__ = ["Moving"]


class _Snapshot(msgspec.Struct):
    """A snapshot as it is exported; its messages are looked at one by one."""

    snapshot_id: str
    created_at: float
    record: SavedRecord
    messages: list[dict[str, Any]]
    label: str | None = None
    metadata: dict[str, Any] = {}


class _Lineage(msgspec.Struct):
    """What an exported session has beside what every session has."""

    parent_id: str | None = None
    parent_seq: int = 0
    children: list[str] = []
    is_shared: bool = False
    snapshots: list[_Snapshot] = []


class Moving:
    """Exports and imports sessions of a store.

    Args:
        records: The sessions' records.
        forking: Knows how they are related.
        rewriting: Stores what isn't a session's own.
        importer: Imports sessions without what is special about those that branch.
    """

    def __init__(
        self,
        records: Records,
        forking: Forking,
        rewriting: Rewriting,
        importer: Callable[[dict[str, Any]], Awaitable[ImportReport]],
    ) -> None:
        self._records = records
        self._reader = records.reader
        self._store = records.store
        self._forking = forking
        self._rewriting = rewriting
        self._importer = importer

    async def export_lineage(self, session_id: str) -> dict[str, Any]:
        """Return what a session has beside what every session has."""
        lineage = await self._records.known(session_id)
        parent = lineage.parent
        exported: dict[str, Any] = msgspec.to_builtins(
            _Lineage(
                None if parent is None else parent.id,
                0 if parent is None else parent.seq,
                lineage.children,
                lineage.is_shared,
            )
        )
        for each, saved in lineage.snapshots.items():
            if not saved.is_automatic:
                snapshot = _Snapshot(
                    each, saved.created_at, saved.record, [], saved.label, saved.metadata
                )
                messages = await self._reader.read_parts(saved.parts)
                # Many, which come in slices.
                chat = await paced_map(Message.to_dict, messages)
                exported["snapshots"].append(msgspec.to_builtins(snapshot) | {"messages": chat})
        return exported

    async def import_session(self, data: Mapping[str, Any], session_id: str) -> str:
        """Store an exported session; see `HierarchicalSessionStore.import_session`."""
        try:
            given = msgspec.convert(data.get("lineage", {}), _Lineage)
        except msgspec.ValidationError as exc:
            raise InvalidMessageError(f"lineage: {exc}", field="lineage") from exc
        kept = [await self._checked(snapshot) for snapshot in given.snapshots]
        if await self._reader.lineage(session_id) is not None:
            raise SessionExistsError(session_id)
        plain = {key: value for key, value in data.items() if key != "lineage"}
        report = await self._importer(plain | {"session_id": session_id})
        if report.skipped:
            reason = report.skipped[0]["reason"]
            raise InvalidMessageError(f"the session can't be imported: {reason}", field="messages")
        own = await self._store.get_messages(session_id) if kept else []
        for snapshot, messages in zip(given.snapshots, kept, strict=True):
            await self._keep(session_id, own, snapshot, messages)
        changes = [in_tree("is_shared", value=True)] if given.is_shared else []
        if given.parent_id is not None:
            if await self._reader.lineage(given.parent_id) is not None:
                await self._forking.adopt(given.parent_id, session_id)
            changes += under(given.parent_id, given.parent_seq)
        if changes:
            await self._records.amend(session_id, *changes)
        return session_id

    async def _checked(self, snapshot: _Snapshot) -> list[Message]:
        limit = self._store.policy.max_message_bytes

        def checked(index: int) -> Message:
            message = message_from(index, snapshot.messages[index])
            encode_message(message, limit)
            return message

        return await paced_map(checked, range(len(snapshot.messages)))

    async def _keep(
        self,
        session_id: str,
        own: Sequence[Message],
        snapshot: _Snapshot,
        messages: Sequence[Message],
    ) -> None:
        """Store a snapshot; what it has in common with the session's own is stored once."""
        common = await _common(own, messages)
        parts = [Part(session_id, 0, own[common - 1].seq, common)] if common else []
        changes: list[Change] = []
        numbers = [message.seq for message in own[:common]]
        if messages[common:]:
            annex, noted = await self._rewriting.store_beside(session_id, messages[common:])
            parts.append(annex)
            changes.append(noted)
            numbers += range(annex.after + 1, annex.upto + 1)
        record = snapshot.record
        if record.checkpoint is not None:
            # It stands for as many of the messages as before, which have other numbers now.
            upto = record.checkpoint.seq
            covered = sum(0 < message.seq <= upto for message in messages)
            moved = msgspec.structs.replace(
                record.checkpoint, seq=numbers[covered - 1] if covered else 0
            )
            record = msgspec.structs.replace(record, checkpoint=moved)

        def keep(lineage: Lineage) -> list[Change]:
            saved = SavedSnapshot(
                parts[-1].upto if parts else 0,
                snapshot.created_at,
                tuple(parts),
                record,
                snapshot.label,
                snapshot.metadata,
            )
            return [lineage.unless_changed(), *changes, *lineage.keep(snapshot.snapshot_id, saved)]

        await self._records.change(session_id, keep)


async def _common(left: Sequence[Message], right: Sequence[Message]) -> int:
    """Return how many messages two lists begin with that say the same."""
    pacer = Pacer()
    common = 0
    for mine, theirs in zip(left, right, strict=False):
        if mine.to_dict() | {"seq": 0} != theirs.to_dict() | {"seq": 0}:
            break
        common += 1
        if not common & 15:
            await pacer.pause()
    return common
