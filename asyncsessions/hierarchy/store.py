"""`HierarchicalSessionStore`: any store's sessions, and what it takes to branch them."""

from __future__ import annotations

import asyncio
import inspect
import logging
import uuid
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from anyio import to_thread

from asyncsessions._compat import override
from asyncsessions.errors import CorruptSessionError, SessionChangedError, SessionExistsError
from asyncsessions.hierarchy.lineage import Lineage
from asyncsessions.hierarchy.merging import Merging, Strategy
from asyncsessions.hierarchy.models import MergeResult, SessionDiff, SessionTree, Snapshot
from asyncsessions.hierarchy.moving import Moving
from asyncsessions.hierarchy.saved import count_of, in_tree
from asyncsessions.hierarchy.soundness import damage
from asyncsessions.hierarchy.wrapper import BranchedStore, refusal
from asyncsessions.hooks import Change, Window
from asyncsessions.omissions import leave_out

__all__ = ["HierarchicalSessionStore"]

logger: logging.Logger = logging.getLogger("asyncsessions.hierarchy")


class HierarchicalSessionStore(BranchedStore):
    """Sessions that can be forked, remembered and brought back, on any store.

    It has all methods of a store, with the same guarantees, and sees the store's sessions. A fork
    begins with the messages of another session, which stay where they are stored, so forks,
    snapshots and reverts cost the same whatever the length of the conversation. Only where a store
    drops messages by itself (``max_messages``, ``ttl_seconds``, a session that expires) a fork
    gets copies. ``seq`` goes on after a fork and after a revert, and is never given twice.

    A store's own methods neither see nor remove what is here: a fork read there has only the
    messages since it was forked, and what would take messages away that others read raises
    `SessionSharedError`.

    Args:
        store: An async store that derives from `BaseSessionStore`. It is opened and closed with
            this one, and its options are this one's.

    Raises:
        TypeError: The store is none.
    """

    # Branching.

    async def create_session(
        self,
        session_id: str | None = None,
        *,
        title: str | None = None,
        parent_id: str | None = None,
        agent_name: str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> str:
        """Make an empty session.

        Args:
            session_id: Its id; None makes one up.
            title: Its title.
            parent_id: The session that it belongs under.
            agent_name: Its agent's name.
            metadata: Its metadata.

        Returns:
            Its id.

        Raises:
            SessionExistsError: There is one of this id.
            SessionNotFoundError: There is no such parent.
            SessionCycleError: The parent comes from a session of this id that was deleted.
        """
        session_id = str(uuid.uuid4()) if session_id is None else session_id
        record = await self._reader.record(session_id)
        if record is not None and not record.is_gone:
            raise SessionExistsError(session_id)
        fields = dict(metadata or {}) | ({} if title is None else {"title": title})
        changes = [Change(("metadata", key), "set", value) for key, value in fields.items()]
        if agent_name:
            changes.append(Change(("agent_name",), "set", agent_name))
        refused = refusal(changes)
        if refused is not None:
            raise refused
        try:
            await self._perform(
                session_id, lambda _: self._forking.begin(session_id, parent_id, record, changes)
            )
        except SessionChangedError as exc:
            raise SessionExistsError(session_id) from exc
        return session_id

    async def fork_session(
        self,
        session_id: str,
        *,
        from_seq: int | None = None,
        from_message_index: int | None = None,
        title: str | None = None,
    ) -> str:
        """Make a session that begins as another one, with its messages, metadata and state.

        What is written to either afterwards doesn't show in the other.

        Args:
            session_id: The session to fork.
            from_seq: The last message that the fork gets; None: all.
            from_message_index: The same as an index, counted from 0.
            title: The fork's title; None names the session that was forked.

        Returns:
            The fork's id.

        Raises:
            SessionNotFoundError: There is no such session.
            MessageNotFoundError: The session shows no such message.
            ValueError: Both ``from_seq`` and ``from_message_index`` were given.
        """
        if from_message_index is not None:
            if from_seq is not None:
                raise ValueError("give from_seq or from_message_index, not both")
            known = await self._records.known(session_id)
            from_seq = await self._reader.seq_at(known, from_message_index)
        return await self._perform(
            session_id, lambda _: self._forking.fork(session_id, from_seq, title)
        )

    async def get_parent(self, session_id: str) -> str | None:
        """Return the session that one was forked from; None without one, or if it was deleted.

        Raises:
            SessionNotFoundError: There is no such session.
        """
        parent = (await self._records.known(session_id)).parent
        found = None if parent is None else await self._reader.lineage(parent.id)
        # Of the parent's id there may be another session by now, which knows nothing of this one.
        return found.info.session_id if found and session_id in found.children else None

    async def get_children(self, session_id: str) -> list[str]:
        """Return the sessions that were forked from one, oldest first.

        Damaged ones are left out with a warning.

        Raises:
            SessionNotFoundError: There is no such session.
        """
        lineage = await self._records.known(session_id)
        return [child.info.session_id for child in await self._children(lineage)]

    async def _children(self, lineage: Lineage) -> list[Lineage]:
        found = await asyncio.gather(*map(self._readable, lineage.children))
        own = lineage.info.session_id
        return [child for child in found if child and child.parent and child.parent.id == own]

    async def _readable(self, child_id: str) -> Lineage | None:
        """Return a fork's record, unless it is damaged, which hides nothing but the fork."""
        try:
            lineage = await self._reader.lineage(child_id)
        except CorruptSessionError as exc:
            leave_out(logger, "tree", exc)
            return None
        detail = None if lineage is None else damage(lineage)
        if detail is not None:
            leave_out(logger, "tree", f"session {child_id!r}: {detail}")
            return None
        return lineage

    async def get_session_tree(self, session_id: str) -> SessionTree:
        """Return a session with its forks, their forks, and so on.

        Damaged ones are left out with a warning, and so are their forks.

        Raises:
            SessionNotFoundError: There is no such session.
        """
        root = await self._records.known(session_id)
        tree = _tree_of(root)
        left = [(root, tree)]
        seen = {session_id}
        while left:
            lineage, node = left.pop()
            for child in await self._children(lineage):
                if child.info.session_id not in seen:  # Or a damaged record would make a cycle.
                    seen.add(child.info.session_id)
                    node.children.append(_tree_of(child))
                    left.append((child, node.children[-1]))
        return tree

    async def create_snapshot(
        self,
        session_id: str,
        label: str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> str:
        """Remember a session's messages, metadata, state and compaction checkpoint as they are.

        Args:
            session_id: The session.
            label: What to call the snapshot.
            metadata: What to remember with it; any JSON object.

        Returns:
            The snapshot's id.

        Raises:
            SessionNotFoundError: There is no such session.
        """
        return await self._perform(
            session_id, lambda _: self._snapshotting.snapshot(session_id, label, metadata or {})
        )

    async def get_snapshots(
        self, session_id: str, *, include_automatic: bool = False
    ) -> list[Snapshot]:
        """Return a session's snapshots, oldest first.

        Args:
            session_id: The session.
            include_automatic: Whether to return those, too, that reverts made.

        Raises:
            SessionNotFoundError: There is no such session.
        """
        snapshots = (await self._records.known(session_id)).snapshots
        return [
            saved.public(session_id, each)
            for each, saved in snapshots.items()
            if include_automatic or not saved.is_automatic
        ]

    async def delete_snapshot(self, session_id: str, snapshot_id: str) -> bool:
        """Forget a snapshot; return whether there was one of this id.

        Raises:
            SessionNotFoundError: There is no such session.
        """
        return (
            await self._perform(
                session_id,
                lambda _: self._snapshotting.forget(
                    session_id, lambda each, _: each == snapshot_id
                ),
            )
            > 0
        )

    async def revert_to_snapshot(self, session_id: str, snapshot_id: str) -> bool:
        """Bring a session back to a snapshot: messages, metadata, state and checkpoint.

        What the session showed until now is remembered; see `undo_revert`.

        Returns:
            True: what can't be done raises.

        Raises:
            SessionNotFoundError: There is no such session.
            SnapshotNotFoundError: The session has no such snapshot.
        """
        await self._perform(
            session_id, lambda _: self._snapshotting.revert_to_snapshot(session_id, snapshot_id)
        )
        return True

    async def revert_to_message(self, session_id: str, seq: int) -> bool:
        """Hide what came after a message; metadata and state stay as they are.

        A compaction checkpoint that covers later messages goes. See `undo_revert`.

        Returns:
            True: what can't be done raises.

        Raises:
            SessionNotFoundError: There is no such session.
            MessageNotFoundError: The session shows no such message.
        """
        await self._perform(
            session_id, lambda _: self._snapshotting.revert_to_message(session_id, seq)
        )
        return True

    async def undo_revert(self, session_id: str) -> bool:
        """Bring a session back to what it was before its last revert, be it such an undo.

        What it was before its last 32 reverts is remembered: see `get_snapshots`.

        Returns:
            True: what can't be done raises.

        Raises:
            SessionNotFoundError: There is no such session.
            SnapshotNotFoundError: There was no revert, or it was purged.
        """
        await self._perform(
            session_id, lambda _: self._snapshotting.revert_to_snapshot(session_id, None)
        )
        return True

    async def purge_reverts(self, session_id: str) -> int:
        """Forget what a session was before its reverts; return how many are forgotten.

        Raises:
            SessionNotFoundError: There is no such session.
        """
        return await self._perform(
            session_id,
            lambda _: self._snapshotting.forget(session_id, lambda _, saved: saved.is_automatic),
        )

    async def set_title(self, session_id: str, title: str) -> bool:
        """Do as `rename_session` does, which is the same title here."""
        return await self.rename_session(session_id, title)

    async def auto_title(
        self,
        session_id: str,
        make: Callable[[list[dict[str, Any]]], str | Awaitable[str]],
        *,
        max_messages: int | None = 20,
    ) -> str:
        """Give a session the title that a function makes of its conversation.

        Args:
            session_id: The session.
            make: Gets the chat history as a model API takes it and returns the title. Where it
                isn't a coroutine function, it runs in a worker thread.
            max_messages: How many of the newest messages it gets; None: all.

        Returns:
            The title.

        Raises:
            SessionNotFoundError: There is no such session.
            InvalidMessageError: The function returned no text.
        """
        await self._records.known(session_id)
        chat = await self.get_chat_history(session_id, max_messages)
        if inspect.iscoroutinefunction(make):
            title = await make(chat)
        else:
            title = await to_thread.run_sync(make, chat)
        await self.rename_session(session_id, title)
        return str(title)

    async def share_session(self, session_id: str) -> bool:
        """Mark a session as shared.

        Returns:
            True: what can't be done raises.

        Raises:
            SessionNotFoundError: There is no such session.
        """
        await self._perform(
            session_id,
            lambda _: self._records.change(
                session_id, lambda _: [in_tree("is_shared", value=True)]
            ),
        )
        return True

    async def unshare_session(self, session_id: str) -> bool:
        """Take the mark of `share_session` away.

        Returns:
            True: what can't be done raises.

        Raises:
            SessionNotFoundError: There is no such session.
        """
        await self._perform(
            session_id,
            lambda _: self._records.change(session_id, lambda _: [in_tree("is_shared")]),
        )
        return True

    async def is_shared(self, session_id: str) -> bool:
        """Return whether a session is marked as shared.

        Raises:
            SessionNotFoundError: There is no such session.
        """
        return (await self._records.known(session_id)).is_shared

    @override
    async def export_session(
        self, session_id: str, *, include_lineage: bool = False
    ) -> dict[str, Any]:
        """Return a session as one JSON object, as `import_session` takes it.

        Args:
            session_id: The session.
            include_lineage: Whether to add, under ``lineage``, its parent, children and mark as
                shared, and its snapshots with their messages.

        Raises:
            SessionNotFoundError: There is no such session.
        """
        data = await super().export_session(session_id)
        if include_lineage:
            data["lineage"] = await self._perform(
                session_id, lambda _: self._moving.export_lineage(session_id)
            )
        return data

    async def import_session(
        self, data: Mapping[str, Any], *, new_session_id: str | None = None
    ) -> str:
        """Store an exported session with its snapshots, under its parent if that is here.

        Args:
            data: What `export_session` returned. Its messages get ``seq`` from 1 up.
            new_session_id: Its id here; None: the same as there.

        Returns:
            Its id.

        Raises:
            InvalidMessageError: Something in it isn't what belongs there.
            SessionExistsError: There is a session of this id.
        """
        session_id = data.get("session_id", "") if new_session_id is None else new_session_id
        return await self._perform(
            session_id, lambda _: self._moving.import_session(data, session_id)
        )

    @property
    def _moving(self) -> Moving:
        return Moving(self._records, self._forking, self._rewriting, self.import_sessions)

    async def diff(self, left_id: str, right_id: str) -> SessionDiff:
        """Return what two sessions have in common, and what each has after that.

        Raises:
            SessionNotFoundError: There is no such session.
            UnrelatedSessionsError: They have no common ancestor.
        """
        left, right = await asyncio.gather(
            self._records.known(left_id), self._records.known(right_id)
        )
        ancestor_id = (await self._forking.lines(left, right))[0][-1].info.session_id
        common = left.in_common(right)
        seq = common[-1].upto if common else 0
        tails = (self._reader.read_at(each, Window(after=seq)) for each in (left, right))
        left_messages, right_messages = await asyncio.gather(*tails)
        source = common[-1].source if common else ancestor_id
        return SessionDiff(source, seq, count_of(common), left_messages, right_messages)

    async def merge_sessions(
        self,
        fork_id: str,
        *,
        into: str | None = None,
        strategy: Strategy = "append",
    ) -> MergeResult:
        """Bring what is new in one session into another that it has a beginning in common with.

        Metadata and state are merged key by key, against what the two had when they parted, or when
        they were merged last: numbers by their difference, objects by their keys, lists that only
        grew by what they grew. The title stays. Merged once more, a session brings what is new.

        Args:
            fork_id: The session to merge; it stays as it is.
            into: The session that changes; None: the one that it was forked from.
            strategy: What becomes of the messages. ``append`` puts the fork's after the others.
                ``interleave`` orders by time what either has that the other hasn't. A function
                gets these two lists, first that of ``into``, and returns the messages to have
                instead. The last two can be undone with `undo_revert`, as far as messages go.

        Raises:
            SessionNotFoundError: There is no such session.
            UnrelatedSessionsError: They have no common ancestor, or are the same one.
        """
        merging = Merging(
            self._records, self._forking, self._snapshotting, self._rewriting, self._bringing
        )
        return await self._perform(fork_id, lambda _: merging.merge(fork_id, into, strategy))


def _tree_of(lineage: Lineage) -> SessionTree:
    info = lineage.shown()
    return SessionTree(
        info.session_id,
        info.title,
        info.message_count,
        [],
        None if lineage.parent is None else lineage.parent.seq,
        sum(not saved.is_automatic for saved in lineage.snapshots.values()),
    )
