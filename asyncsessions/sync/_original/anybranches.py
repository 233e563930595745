"""Forks and snapshots on any store, by way of the async `HierarchicalSessionStore`."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from asyncsessions.errors import (
    MessageNotFoundError,
    SessionExistsError,
    SessionNotFoundError,
    SnapshotNotFoundError,
)
from asyncsessions.hierarchy import HierarchicalSessionStore
from asyncsessions.sync._original.anystore import AnyStore
from asyncsessions.sync._original.branches import Node
from asyncsessions.sync._original.plain import plain
from asyncsessions.sync.extended import ExtendedSessionData, SessionSnapshot

__all__ = ["AnyBranches"]


class AnyBranches:
    """`Branches` that copy no messages; the places of messages are translated to their ``seq``.

    Args:
        store: Where they are.
        sessions: The same, as the original's API sees it.
    """

    def __init__(self, store: HierarchicalSessionStore, sessions: AnyStore) -> None:
        self._store = store
        self._sessions = sessions

    async def read(self, session_id: str) -> ExtendedSessionData | None:
        session = await self._sessions.read(session_id)
        node = await self.node(session_id)
        if session is None or node is None:
            return None
        return ExtendedSessionData(
            **vars(session),
            parent_id=node.parent_id,
            children_ids=node.children_ids,
            snapshots=await self.snapshots(session_id),
            is_shared=node.is_shared,
            title=node.title,
        )

    async def node(self, session_id: str) -> Node | None:
        info = await self._store.get_info(session_id)
        if info is None:
            return None
        try:
            parent_id, children, is_shared = await asyncio.gather(
                self._store.get_parent(session_id),
                self._store.get_children(session_id),
                self._store.is_shared(session_id),
            )
        except SessionNotFoundError:
            return None  # It was deleted just now.
        count = self._sessions.shown_count(info.message_count)
        return Node(info.title, count, parent_id, children, is_shared)

    async def create(self, session_id: str, session: ExtendedSessionData) -> None:
        metadata, parent_id = plain(session.metadata), session.parent_id or None
        if parent_id is not None:
            await self._ensure(parent_id)
        try:
            await self._store.create_session(
                session_id,
                title=session.title,
                parent_id=parent_id,
                agent_name=session.agent_name,
                metadata=metadata,
            )
        except SessionExistsError:
            if parent_id not in {None, await self._store.get_parent(session_id)}:
                raise
            if session.title is not None:
                metadata["title"] = session.title
            await self._sessions.set_metadata(session_id, metadata)
            if session.agent_name:
                await self._sessions.set_texts(session_id, {"agent_name": session.agent_name})

    async def _ensure(self, session_id: str) -> None:
        """Create a session that is missing."""
        if not await self._store.session_exists(session_id):
            await self._sessions.set_metadata(session_id, {})

    async def fork(self, session_id: str, index: int | None, title: str | None) -> str | None:
        seq = None
        if index is None:
            await self._ensure(session_id)
        else:
            seq = await self._seq_at(session_id, index)
            if seq is None:
                return None
        try:
            return await self._store.fork_session(session_id, from_seq=seq, title=title)
        except (SessionNotFoundError, MessageNotFoundError):
            return None  # It was removed just now.

    async def _seq_at(self, session_id: str, index: int) -> int | None:
        seqs = await self._sessions.seqs(session_id)
        return seqs[index] if 0 <= index < len(seqs) else None

    async def add_snapshot(
        self, session_id: str, label: str | None, metadata: Mapping[str, Any]
    ) -> str:
        given = plain(metadata)
        await self._ensure(session_id)
        return await self._store.create_snapshot(session_id, label, given)

    async def snapshots(self, session_id: str) -> list[SessionSnapshot]:
        try:
            found = await self._store.get_snapshots(session_id)
        except SessionNotFoundError:
            return []
        return [
            SessionSnapshot(
                each.snapshot_id,
                session_id,
                self._sessions.shown_count(each.message_count) - 1,
                each.created_at,
                each.label,
                dict(each.metadata),
            )
            for each in found
        ]

    async def revert_to_snapshot(self, session_id: str, snapshot_id: str) -> bool:
        try:
            await self._store.revert_to_snapshot(session_id, snapshot_id)
        except (SessionNotFoundError, SnapshotNotFoundError):
            return False
        return True

    async def revert_to_message(self, session_id: str, index: int) -> bool:
        seq = await self._seq_at(session_id, index)
        if seq is None:
            return False
        try:
            await self._store.revert_to_message(session_id, seq)
        except (SessionNotFoundError, MessageNotFoundError):
            return False  # It was removed just now.
        return True

    async def set_shared(self, session_id: str, *, is_shared: bool) -> None:
        await self._ensure(session_id)
        if is_shared:
            await self._store.share_session(session_id)
        else:
            await self._store.unshare_session(session_id)

    async def set_title(self, session_id: str, title: str, *, only_first: bool = False) -> None:
        if only_first:
            info = await self._store.get_info(session_id)
            if info is not None and (info.title or "").strip():
                return
        await self._sessions.rename(session_id, title or "")

    async def restore(self, session: ExtendedSessionData) -> None:
        session_id = session.session_id
        if session.title:
            session.metadata = session.metadata | {"title": session.title}
        if not await self._sessions.restore(session, overwrite=False):
            # Others may read what it has; a replaced history stays where they find it.
            messages = [*session.archived_messages, *session.messages]
            await self._sessions.replace(session_id, messages)
            await self._sessions.set_metadata(session_id, session.metadata)
        await self.set_shared(session_id, is_shared=session.is_shared)
