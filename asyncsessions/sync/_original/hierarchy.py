"""What the original's methods for forks and snapshots mean, once, over any `Branches`."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

from asyncsessions._compat import override
from asyncsessions.sync._original.backing import Backing
from asyncsessions.sync._original.branches import Branches, Node
from asyncsessions.sync._original.methods import Original
from asyncsessions.sync.extended import ExtendedSessionData, SessionSnapshot
from asyncsessions.sync.records import SessionData, SessionMessage

__all__ = ["HierarchicalOriginal", "first_exchange"]


class HierarchicalOriginal(Original):
    """The original's methods; see `HierarchicalSessionStore` for what each of them returns.

    Args:
        backing: Where the sessions are.
        branches: Branches them.
    """

    _record: ClassVar[type[SessionData]] = ExtendedSessionData

    def __init__(self, backing: Backing, branches: Branches) -> None:
        super().__init__(backing)
        self._branches = branches

    @override
    async def _whole(self, session_id: str) -> ExtendedSessionData | None:
        return await self._branches.read(session_id)

    async def get_extended(self, session_id: str) -> ExtendedSessionData:
        return await self._whole(session_id) or ExtendedSessionData(session_id)

    async def _node(self, session_id: str) -> Node:
        return await self._branches.node(session_id) or Node()

    # Branching.

    async def create_session(self, session: ExtendedSessionData) -> str:
        session_id, parent_id = session.session_id or str(uuid.uuid4()), session.parent_id
        if parent_id:
            await self._check_line(session_id, parent_id)
        await self._branches.create(session_id, session)
        return session_id

    async def _check_line(self, session_id: str, parent_id: str) -> None:
        """Refuse to put a session under itself, or under one that is below it."""
        above: str | None = parent_id
        seen: set[str] = set()  # Or a cycle that is there already would never end.
        while above is not None and above not in seen:
            if above == session_id:
                text = f"session {session_id!r} can't be put under {parent_id!r}: it would be "
                raise ValueError(text + "its own parent, or an ancestor of it")
            seen.add(above)
            above = (await self._node(above)).parent_id

    async def fork_session(self, session_id: str, index: int | None, title: str | None) -> str:
        child_id = await self._branches.fork(session_id, index, title)
        if child_id is None:
            raise ValueError(f"session {session_id!r} has no message with index {index}")
        return child_id

    async def get_children(self, session_id: str) -> list[str]:
        return (await self._node(session_id)).children_ids

    async def get_parent(self, session_id: str) -> str | None:
        return (await self._node(session_id)).parent_id

    async def is_shared(self, session_id: str) -> bool:
        return (await self._node(session_id)).is_shared

    async def get_session_tree(self, session_id: str) -> dict[str, Any]:
        node = await self._node(session_id)
        tree = _tree_of(session_id, node)
        # From the root to where it is now: each session, its entry, and its children that are left.
        line: dict[str, tuple[dict[str, Any], Iterator[str]]] = {}
        line[session_id] = (tree, iter(node.children_ids))
        while line:
            entry, children = line[next(reversed(line))]
            child_id = next(children, None)
            if child_id is None:
                line.popitem()
                continue
            if child_id in line:
                raise ValueError(f"session {child_id!r} is below itself, by way of {[*line]}")
            child = await self._node(child_id)
            entry["children"].append(_tree_of(child_id, child))
            line[child_id] = (entry["children"][-1], iter(child.children_ids))
        return tree

    # Snapshots.

    async def create_snapshot(
        self, session_id: str, label: str | None, metadata: Mapping[str, Any]
    ) -> str:
        return await self._branches.add_snapshot(session_id, label, metadata)

    async def get_snapshots(self, session_id: str) -> list[SessionSnapshot]:
        return await self._branches.snapshots(session_id)

    async def revert_to_snapshot(self, session_id: str, snapshot_id: str) -> bool:
        return await self._branches.revert_to_snapshot(session_id, snapshot_id)

    async def revert_to_message(self, session_id: str, index: int) -> bool:
        return await self._branches.revert_to_message(session_id, index)

    # The record.

    async def set_shared(self, session_id: str, *, is_shared: bool) -> None:
        await self._branches.set_shared(session_id, is_shared=is_shared)

    async def set_title(self, session_id: str, title: str, *, only_first: bool = False) -> None:
        await self._branches.set_title(session_id, title, only_first=only_first)

    # Moving.

    async def import_session(self, session: ExtendedSessionData, session_id: str | None) -> str:
        session.session_id = session_id or str(uuid.uuid4())
        session.parent_id = session.forked_from_message_id = None
        session.children_ids = []
        await self._branches.restore(session)
        return session.session_id


def _tree_of(session_id: str, node: Node) -> dict[str, Any]:
    counts = {"title": node.title, "message_count": node.message_count}
    return {"session_id": session_id, **counts, "children": []}


def first_exchange(messages: Sequence[SessionMessage]) -> tuple[str, str] | None:
    """Return the texts of the first question and its answer; None where there is no answer."""
    question = None
    for message in messages:
        text = message.content
        if not isinstance(text, str) or not text.strip():
            continue
        if question is None:
            question = text if message.role == "user" else None
        elif message.role == "assistant":
            return question, text
    return None
