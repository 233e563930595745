"""Forks and snapshots in PraisonAI's files."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from asyncsessions.errors import LockTimeoutError, StoreUnavailableError
from asyncsessions.stores._document import Document
from asyncsessions.sync._original import lineage
from asyncsessions.sync._original.branches import Node
from asyncsessions.sync._original.documents import Documents, session_of
from asyncsessions.sync._original.plain import plain
from asyncsessions.sync.extended import ExtendedSessionData, SessionSnapshot

__all__ = ["DocumentBranches"]


class DocumentBranches:
    """`Branches` in documents: a fork is a file with copies, as the original makes it.

    Each change of a document is one write under its lock. Where two documents change, the fork is
    first: its parent never names a session that was never there.

    Args:
        documents: Where they are.
    """

    def __init__(self, documents: Documents) -> None:
        self._documents = documents

    async def read(self, session_id: str) -> ExtendedSessionData | None:
        return await self._documents.view(session_id, _extended)

    async def node(self, session_id: str) -> Node | None:
        return await self._documents.view(session_id, _node)

    async def create(self, session_id: str, session: ExtendedSessionData) -> None:
        metadata = plain(session.metadata)
        given = {"title": session.title, "parent_id": session.parent_id}
        fields = {key: value for key, value in given.items() if value is not None}

        def create(document: Document) -> bool:
            info = document.info
            agent_name = session.agent_name or info.agent_name
            merged = info.metadata | metadata
            document.set_info(msgspec.structs.replace(info, metadata=merged, agent_name=agent_name))
            lineage.set_fields(document, **fields)
            return True

        await self._documents.edit(session_id, create)
        if session.parent_id:
            await self._add_child(session.parent_id, session_id)

    async def fork(self, session_id: str, index: int | None, title: str | None) -> str | None:
        child_id = str(uuid.uuid4())

        def fork(document: Document) -> Document | None:
            if index is not None and not 0 <= index < len(document.seqs):
                return None
            return lineage.fork_of(document, child_id, index, title)

        found = await self._documents.view(session_id, lambda document: [fork(document)])
        child = fork(Document(session_id, {})) if found is None else found[0]
        if child is None:
            return None
        await self._documents.put(child)
        await self._add_child(session_id, child_id)
        return child_id

    async def _add_child(self, parent_id: str, child_id: str) -> None:
        def add(document: Document) -> bool:
            lineage.add_child(document, child_id)
            return True

        try:
            await self._documents.edit(parent_id, add)
        except (LockTimeoutError, StoreUnavailableError) as exc:
            # The caller could not find it otherwise.
            text = f"{child_id!r} is stored, but {parent_id!r} doesn't name it as its child: {exc}"
            raise StoreUnavailableError(text, session_id=child_id) from exc

    async def add_snapshot(
        self, session_id: str, label: str | None, metadata: Mapping[str, Any]
    ) -> str:
        snapshot_id, given = str(uuid.uuid4()), plain(metadata)

        def add(document: Document) -> bool:
            lineage.add_snapshot(document, snapshot_id, label, given)
            return True

        await self._documents.edit(session_id, add, is_whole=True)
        return snapshot_id

    async def snapshots(self, session_id: str) -> list[SessionSnapshot]:
        return await self._documents.view(session_id, _snapshots) or []

    async def revert_to_snapshot(self, session_id: str, snapshot_id: str) -> bool:
        def revert(document: Document) -> bool:
            return lineage.revert_to_snapshot(document, snapshot_id)

        return await self._try(session_id, revert, is_whole=True)

    async def revert_to_message(self, session_id: str, index: int) -> bool:
        def revert(document: Document) -> bool:
            return lineage.revert_to_message(document, index)

        return await self._try(session_id, revert)

    async def _try(
        self, session_id: str, change: Callable[[Document], bool], *, is_whole: bool = False
    ) -> bool:
        """Change a document, if there is one; return whether the function did."""
        is_done = False

        def noting(document: Document) -> bool:
            nonlocal is_done
            is_done = change(document)
            return is_done

        await self._documents.edit(session_id, noting, create=False, is_whole=is_whole)
        return is_done

    async def set_shared(self, session_id: str, *, is_shared: bool) -> None:
        def change(document: Document) -> bool:
            lineage.set_fields(document, is_shared=is_shared)
            return True

        await self._documents.edit(session_id, change)

    async def set_title(self, session_id: str, title: str, *, only_first: bool = False) -> None:
        def change(document: Document) -> bool:
            if not only_first or not str(document.value("title") or "").strip():
                lineage.set_fields(document, title=title)
            return True

        await self._documents.edit(session_id, change)

    async def restore(self, session: ExtendedSessionData) -> None:
        await self._documents.restore(session, overwrite=True)


def _extended(document: Document) -> ExtendedSessionData:
    session = session_of(document, None, with_archive=True)
    node = _node(document)
    return ExtendedSessionData(
        **vars(session),
        parent_id=node.parent_id,
        forked_from_message_id=document.value("forked_from_message_id"),
        children_ids=node.children_ids,
        snapshots=_snapshots(document),
        is_shared=node.is_shared,
        title=node.title,
    )


def _snapshots(document: Document) -> list[SessionSnapshot]:
    return [SessionSnapshot.around(snapshot) for snapshot in lineage.snapshots_of(document)]


def _node(document: Document) -> Node:
    return Node(
        document.value("title"),
        len(document.seqs),
        document.value("parent_id"),
        lineage.children_of(document),
        bool(document.value("is_shared")),
    )
