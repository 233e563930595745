"""`HierarchicalSessionStore`: PraisonAI's store of sessions with forks and snapshots.

This module has the public names of ``praisonaiagents.session.hierarchy``.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from asyncsessions._compat import override
from asyncsessions.hierarchy import HierarchicalSessionStore as AsyncHierarchicalSessionStore
from asyncsessions.protocols import SessionStore
from asyncsessions.sync._original.anybranches import AnyBranches
from asyncsessions.sync._original.anystore import AnyStore
from asyncsessions.sync._original.documentbranches import DocumentBranches
from asyncsessions.sync._original.documents import Documents
from asyncsessions.sync._original.hierarchy import HierarchicalOriginal, first_exchange
from asyncsessions.sync._original.methods import Original
from asyncsessions.sync._original.opening import REFUSALS
from asyncsessions.sync._original.titles import MakeTitle, make_title
from asyncsessions.sync.default import DefaultSessionStore
from asyncsessions.sync.extended import ExtendedSessionData, SessionSnapshot

__all__ = [
    "ExtendedSessionData",
    "HierarchicalSessionStore",
    "SessionSnapshot",
    "get_hierarchical_session_store",
]

T = TypeVar("T")

logger: logging.Logger = logging.getLogger("asyncsessions.sync")


class HierarchicalSessionStore(DefaultSessionStore):
    """PraisonAI's store of sessions that can be forked, remembered and brought back.

    It has all that `DefaultSessionStore` has, with the same constructor, and reads and writes the
    files of PraisonAI's store of this name. `from_url` has the same methods on any store, by way of
    `asyncsessions.hierarchy`: there, a fork and a snapshot copy no messages, and a session has one
    title, which `rename_session` and `set_title` both set.

    What PraisonAI creates where it is missing is created here, too. Unlike there, `create_session`
    never empties a session that exists.
    """

    @staticmethod
    @override
    def _over_documents(documents: Documents) -> Original:
        return HierarchicalOriginal(documents, DocumentBranches(documents))

    @staticmethod
    @override
    def _over_store(store: SessionStore, window: int | None) -> tuple[SessionStore, Original]:
        branched = AsyncHierarchicalSessionStore(store)
        sessions = AnyStore(branched, window)
        return branched, HierarchicalOriginal(sessions, AnyBranches(branched, sessions))

    # Branching.

    def create_session(
        self,
        session_id: str | None = None,
        title: str | None = None,
        parent_id: str | None = None,
        agent_name: str | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> str:
        """Make an empty session; of one that exists, set what is given, and keep the rest.

        Args:
            session_id: Its id; None makes one up.
            title: Its title.
            parent_id: The session that it belongs under, which is created if it is missing.
            agent_name: Its agent's name.
            metadata: A JSON object.

        Returns:
            Its id.

        Raises:
            ValueError: It would be its own parent, or an ancestor of it; or it exists, and
                another store than files has it elsewhere.
            OSError: It could not be stored, or not be noted with its parent.
        """
        session = ExtendedSessionData(
            session_id or "",
            agent_name=agent_name,
            metadata=metadata or {},
            parent_id=parent_id,
            title=title,
        )
        return self._must(HierarchicalOriginal.create_session, session)

    def fork_session(
        self, session_id: str, from_message_index: int | None = None, title: str | None = None
    ) -> str:
        """Make a session that begins as another one, with its active messages and metadata.

        Args:
            session_id: The session to fork; a missing one is created.
            from_message_index: The last message that the fork gets, counted from 0 among the
                active ones; None means all of them.
            title: The fork's title; None names the session that was forked.

        Returns:
            The fork's id.

        Raises:
            ValueError: There is no message at the index.
            OSError: The fork could not be stored, or not be noted with the session.
        """
        given = (session_id, from_message_index, title)
        return self._must(HierarchicalOriginal.fork_session, *given)

    def get_children(self, session_id: str) -> list[str]:
        """Return the ids of the sessions that were forked from one, oldest first."""
        return self._read(list, HierarchicalOriginal.get_children, session_id)

    def get_parent(self, session_id: str) -> str | None:
        """Return the id of the session that one was forked from; None without one."""
        return self._read(lambda: None, HierarchicalOriginal.get_parent, session_id)

    def get_session_tree(self, session_id: str) -> dict[str, Any]:
        """Return a session with its forks, their forks, and so on.

        Returns:
            ``session_id``, ``title``, ``message_count``, and ``children``, which are the same.

        Raises:
            ValueError: A session is below itself.
        """
        empty: dict[str, Any] = {"session_id": session_id, "title": None, "message_count": 0}
        empty["children"] = []
        return self._read(lambda: empty, HierarchicalOriginal.get_session_tree, session_id)

    # Snapshots.

    def create_snapshot(
        self, session_id: str, label: str | None = None, metadata: dict[str, Any] | None = None
    ) -> str:
        """Remember a session's messages, archive and checkpoint as they are.

        Args:
            session_id: The session; a missing one is created.
            label: What to call the snapshot.
            metadata: A JSON object.

        Returns:
            The snapshot's id.

        Raises:
            OSError: It could not be stored.
        """
        given = (session_id, label, metadata or {})
        return self._must(HierarchicalOriginal.create_snapshot, *given)

    def get_snapshots(self, session_id: str) -> list[SessionSnapshot]:
        """Return a session's snapshots, oldest first."""
        return self._read(list, HierarchicalOriginal.get_snapshots, session_id)

    def revert_to_snapshot(self, session_id: str, snapshot_id: str) -> bool:
        """Bring a session's messages, archive and checkpoint back to a snapshot.

        Returns:
            Whether that is done: False where there is no such snapshot, or what it stands for is
            gone.
        """
        return self._try(HierarchicalOriginal.revert_to_snapshot, session_id, snapshot_id)

    def revert_to_message(self, session_id: str, message_index: int) -> bool:
        """Remove what came after a message; return False where there is no such message.

        Args:
            session_id: The session.
            message_index: The last message to keep, counted from 0 among the active ones.
        """
        return self._try(HierarchicalOriginal.revert_to_message, session_id, message_index)

    # The record.

    def share_session(self, session_id: str) -> bool:
        """Mark a session as shared. A missing session is created."""
        return self._write(HierarchicalOriginal.set_shared, session_id, is_shared=True)

    def unshare_session(self, session_id: str) -> bool:
        """Take the mark of `share_session` away. A missing session is created."""
        return self._write(HierarchicalOriginal.set_shared, session_id, is_shared=False)

    def is_shared(self, session_id: str) -> bool:
        """Return whether a session is marked as shared."""
        return self._read(bool, HierarchicalOriginal.is_shared, session_id)

    def set_title(self, session_id: str, title: str) -> bool:
        """Set the title. A missing session is created."""
        return self._write(HierarchicalOriginal.set_title, session_id, title)

    async def auto_title(self, session_id: str, *, title_maker: MakeTitle = make_title) -> bool:
        """Give a session without a title one that a model makes of its first question and answer.

        Args:
            session_id: The session.
            title_maker: Gets the question and the answer. The default asks PraisonAI's model for
                titles; without PraisonAI it is the start of the question.

        Returns:
            Whether there was an exchange to make a title of, and a title came of it. What the
            maker raises is logged.
        """
        session = await asyncio.to_thread(self.get_extended_session, session_id)
        exchange = first_exchange(session.messages)
        if exchange is None or str(session.title or "").strip():
            return False
        try:
            title = (await title_maker(*exchange) or "").strip()
        except Exception as exc:  # noqa: BLE001  # whatever goes wrong with a model, all else goes on
            logger.warning("a title could not be made: %s", type(exc).__name__)
            return False
        set_title = HierarchicalOriginal.set_title
        return bool(title) and await asyncio.to_thread(
            self._write, set_title, session_id, title, only_first=True
        )

    # Reading.

    @override
    def get_session(self, session_id: str) -> ExtendedSessionData:
        """Return a session with everything that belongs to it; an empty one where there is none."""
        empty = ExtendedSessionData(session_id)
        return self._read(lambda: empty, HierarchicalOriginal.get_extended, session_id)

    def get_extended_session(
        self,
        session_id: str,
        force_reload: bool = False,  # noqa: FBT001, FBT002  # the original's signature
    ) -> ExtendedSessionData:
        """Do as `get_session` does; ``force_reload`` has no effect, as nothing is cached."""
        del force_reload
        return self.get_session(session_id)

    # PraisonAI's command line calls it by this name.
    _load_extended_session = get_extended_session

    # Moving.

    @override
    def export_session(
        self, session_id: str, *, include_lineage: bool | None = None
    ) -> dict[str, Any]:
        """Return a session as one JSON object for `import_session`, as the original does.

        Args:
            session_id: The session.
            include_lineage: If given, what is returned is for `import_sessions`, and as
                `DefaultSessionStore.export_session` has it.

        Raises:
            OSError: A session can't be read, so the export would be incomplete.
        """
        if include_lineage is not None:
            return super().export_session(session_id, include_lineage=include_lineage)
        return self._must(HierarchicalOriginal.get_extended, session_id).to_dict()

    def import_session(self, data: dict[str, Any], new_session_id: str | None = None) -> str:
        """Store what `export_session` returned, as a session without parent and children.

        Args:
            data: The session.
            new_session_id: Its id; None makes one up. One that exists is replaced, and stays among
                its parent and children.

        Returns:
            Its id.

        Raises:
            ValueError: What its snapshots share is damaged.
            OSError: It could not be stored.
        """
        session = ExtendedSessionData.from_dict(data)
        return self._must(HierarchicalOriginal.import_session, session, new_session_id)

    # Calls.

    def _must(
        self, method: Callable[..., Coroutine[Any, Any, T]], /, *args: Any, **kwargs: Any
    ) -> T:
        """Return a method's result; it raises OSError where it fails, as the original does."""
        try:
            return self._run(method, *args, **kwargs)
        except REFUSALS as exc:
            if self._raises:
                raise
            raise OSError(str(exc)) from exc

    def _try(self, method: Callable[..., Coroutine[Any, Any, bool]], /, *args: Any) -> bool:
        """Return a method's result, or False where nothing could be stored."""
        try:
            return self._run(method, *args)
        except REFUSALS as exc:
            self._refused(exc)
            return False


_store: HierarchicalSessionStore | None = None
_store_lock = threading.Lock()


def _renew_lock() -> None:
    """Start anew in a forked child: another thread of the parent may have held the lock."""
    global _store_lock
    _store_lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock)


def get_hierarchical_session_store() -> HierarchicalSessionStore:
    """Return the store that all of a process shares, on the directory of the first call."""
    global _store
    with _store_lock:
        if _store is None:
            _store = HierarchicalSessionStore()
        return _store
