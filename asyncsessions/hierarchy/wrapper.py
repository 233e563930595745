"""A store's own methods on sessions that branch."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from asyncsessions import history, transfer
from asyncsessions._compat import override
from asyncsessions.errors import (
    CorruptSessionError,
    InvalidMessageError,
    SessionSharedError,
    VersionConflictError,
)
from asyncsessions.hierarchy.branching import Branching
from asyncsessions.hierarchy.lineage import TREE, Lineage
from asyncsessions.hierarchy.needs import BranchableStore
from asyncsessions.hierarchy.reading import Range, Reader
from asyncsessions.hierarchy.rewriting import Rewriting, is_partial
from asyncsessions.hooks import SHARED
from asyncsessions.models import (
    ImportReport,
    JSONValue,
    Message,
    SearchHit,
    SessionData,
    SessionInfo,
    SessionPage,
)
from asyncsessions.protocols import Sessions, SessionStore
from asyncsessions.requests import check_limit
from asyncsessions.search import search_newest

__all__ = ["BranchedStore", "check_fields"]

logger: logging.Logger = logging.getLogger("asyncsessions.hierarchy")

_PAGE = 256
_NEEDED = ("amend_session", "discard_session", "get_info", "max_messages", "ttl_seconds")


class BranchedStore(SessionStore):
    """All methods of a store, each session as it shows itself; see `HierarchicalSessionStore`."""

    def __init__(self, store: SessionStore, *, clock: Callable[[], float] = time.time) -> None:
        if not isinstance(store, BranchableStore):
            missing = [name for name in _NEEDED if not hasattr(store, name)]
            raise TypeError(
                f"sessions can't branch on {type(store).__name__}: it has no {', '.join(missing)}"
            )
        self._store: BranchableStore = store
        self._reader = Reader(store)
        self._branching = Branching(store, self._reader, clock)
        self._rewriting = Rewriting(store, self._reader, self._branching)

    # Append.

    @override
    async def add_message(
        self,
        session_id: str,
        role: str,
        content: Any,
        metadata: dict[str, Any] | None = None,
        *,
        tool_calls: list[Any] | None = None,
        tool_call_id: str | None = None,
        name: str | None = None,
        idempotency_key: str | None = None,
    ) -> bool:
        return await self._store.add_message(
            session_id,
            role,
            content,
            metadata,
            tool_calls=tool_calls,
            tool_call_id=tool_call_id,
            name=name,
            idempotency_key=idempotency_key,
        )

    @override
    async def append(
        self,
        session_id: str,
        messages: Sequence[Message | Mapping[str, Any]],
        *,
        idempotency_key: str | None = None,
        expected_seq: int | None = None,
    ) -> list[Message]:
        try:
            return await self._store.append(
                session_id, messages, idempotency_key=idempotency_key, expected_seq=expected_seq
            )
        except VersionConflictError as exc:
            exc.messages = await self.get_messages(session_id, after=exc.expected_seq)
            raise

    @override
    async def add_user_message(
        self, session_id: str, content: Any, metadata: dict[str, Any] | None = None
    ) -> bool:
        return await self._store.add_user_message(session_id, content, metadata)

    @override
    async def add_assistant_message(
        self, session_id: str, content: Any, metadata: dict[str, Any] | None = None
    ) -> bool:
        return await self._store.add_assistant_message(session_id, content, metadata)

    @override
    async def upsert_partial_assistant_message(
        self, session_id: str, content: str, *, finalize: bool = False
    ) -> bool:
        if finalize and not content:
            return await self.discard_partial_assistant_message(session_id)
        if await self._shows_its_newest(session_id):
            try:
                return await self._store.upsert_partial_assistant_message(
                    session_id, content, finalize=finalize
                )
            except SessionSharedError:
                pass
        await self._rewriting.put_partial(session_id, content, finalize=finalize)
        return True

    @override
    async def discard_partial_assistant_message(self, session_id: str) -> bool:
        if await self._shows_its_newest(session_id):
            try:
                return await self._store.discard_partial_assistant_message(session_id)
            except SessionSharedError:
                pass
        await self._rewriting.pop(session_id, is_partial)
        return True

    async def _shows_its_newest(self, session_id: str) -> bool:
        """Whether the newest message that a session shows is the newest that it has stored."""
        lineage = await self._reader.lineage(session_id)
        if lineage is None or lineage.is_plain:
            return True
        view = lineage.view
        if lineage.info.last_seq <= view.after:
            return False
        newest = await self._reader.read_at(lineage, Range(limit=1))
        return bool(newest) and newest[0].seq > view.after

    # Read.

    @override
    async def get_chat_history(
        self, session_id: str, max_messages: int | None = None
    ) -> list[dict[str, Any]]:
        limit = check_limit("max_messages", max_messages)
        return await history.to_chat(await self._messages(session_id, Range(limit=limit)))

    @override
    async def get_messages(
        self,
        session_id: str,
        *,
        limit: int | None = None,
        before: int | None = None,
        after: int | None = None,
    ) -> list[Message]:
        wanted = Range(
            limit=check_limit("limit", limit),
            before=check_limit("before", before),
            after=check_limit("after", after) or 0,
            oldest=after is not None and before is None,
        )
        return await self._messages(session_id, wanted)

    async def _messages(self, session_id: str, wanted: Range) -> list[Message]:
        return await self._reader.read(session_id, wanted)

    @override
    async def iter_messages(
        self, session_id: str, *, after: int = 0, before: int | None = None
    ) -> AsyncIterator[Message]:
        lineage = await self._reader.lineage(session_id)
        if lineage is None:
            return
        if lineage.is_plain:
            async for message in self._store.iter_messages(session_id, after=after, before=before):
                yield message
            return
        while page := await self._messages(session_id, Range(_PAGE, after, None, oldest=True)):
            for message in page:
                if before is not None and message.seq >= before:
                    return
                yield message
            after = page[-1].seq

    @override
    async def get_session(self, session_id: str, *, max_messages: int | None = None) -> SessionData:
        limit = check_limit("max_messages", max_messages)
        lineage = await self._reader.lineage(session_id)
        if lineage is None:
            return SessionData(session_id=session_id)
        messages = await self._reader.read_at(lineage, Range(limit=limit))
        info = lineage.shown()
        fields = {name: getattr(info, name) for name in info.__struct_fields__}
        return SessionData(**fields, messages=messages)

    async def get_info(self, session_id: str) -> SessionInfo | None:
        """Return a session's record without its messages; None where there is no session."""
        lineage = await self._reader.lineage(session_id)
        return None if lineage is None else lineage.shown()

    @override
    async def get_working_history(
        self, session_id: str, max_messages: int | None = None
    ) -> list[dict[str, Any]]:
        limit = check_limit("max_messages", max_messages)
        lineage = await self._reader.lineage(session_id)
        if lineage is None:
            return []
        checkpoint = lineage.info.checkpoint
        after = 0 if checkpoint is None else checkpoint.seq
        window = await self._reader.read_at(lineage, Range(limit=limit, after=after))
        chat = await history.to_chat(window)
        return chat if checkpoint is None else [checkpoint.to_chat(), *chat]

    @override
    async def session_exists(self, session_id: str) -> bool:
        return await self._reader.lineage(session_id) is not None

    @override
    async def window(
        self, session_id: str, around_seq: int | None = None, *, window: int = 5
    ) -> list[Message]:
        check_limit("window", window)
        check_limit("around_seq", around_seq)
        if around_seq is None:
            return await self._messages(session_id, Range(limit=window + 1))
        older = Range(limit=window + 1, before=around_seq + 1)
        newer = Range(limit=window, after=around_seq, oldest=True)
        return [
            *await self._messages(session_id, older),
            *await self._messages(session_id, newer),
        ]

    # Rewrite.

    @override
    async def pop_message(self, session_id: str) -> Message | None:
        lineage = await self._reader.lineage(session_id)
        if lineage is None:
            return None
        if lineage.is_plain:
            try:
                return await self._store.pop_message(session_id)
            except SessionSharedError:
                pass
        return await self._rewriting.pop(session_id)

    @override
    async def set_chat_history(
        self, session_id: str, messages: Sequence[Message | Mapping[str, Any]]
    ) -> bool:
        lineage = await self._reader.lineage(session_id)
        if lineage is None or lineage.is_plain:
            try:
                return await self._store.set_chat_history(session_id, messages)
            except SessionSharedError:
                pass
        await self._rewriting.set_history(session_id, messages)
        return True

    @override
    async def clear_session(self, session_id: str) -> bool:
        """Remove all messages for good; return whether there were any.

        Snapshots stay; what reverts remembered goes. Messages that forks or snapshots read are
        no longer shown here.
        """
        lineage = await self._reader.lineage(session_id)
        if lineage is None or lineage.is_plain:
            try:
                return await self._store.clear_session(session_id)
            except SessionSharedError:
                pass
        return await self._rewriting.clear(session_id)

    @override
    async def delete_session(self, session_id: str) -> bool:
        """Remove a session with its snapshots for good; return whether there was one.

        Forks keep all that they show. What they read of this session is removed with the last of
        them.
        """
        try:
            info = await self._store.get_info(session_id)
        except CorruptSessionError:
            return await self._store.delete_session(session_id)
        lineage = None if info is None else Lineage(info)
        if lineage is None or not lineage.has_kin:
            try:
                return await self._store.delete_session(session_id)
            except SessionSharedError:
                lineage = await self._reader.lineage(session_id)
        if lineage is None or lineage.is_gone:
            return False
        await self._branching.delete(session_id)
        return True

    @override
    async def append_compaction_checkpoint(
        self,
        session_id: str,
        summary: str,
        *,
        role: str = "system",
        tokens_before: int = 0,
        tokens_after: int = 0,
        metadata: dict[str, Any] | None = None,
        seq: int | None = None,
    ) -> bool:
        return await self._store.append_compaction_checkpoint(
            session_id,
            summary,
            role=role,
            tokens_before=tokens_before,
            tokens_after=tokens_after,
            metadata=metadata,
            seq=seq,
        )

    # Record.

    @override
    async def update_session_metadata(self, session_id: str, /, **fields: Any) -> bool:
        check_fields(fields)
        return await self._store.update_session_metadata(session_id, **fields)

    @override
    async def merge_session_metadata_map(
        self,
        session_id: str,
        key: str,
        updates: Mapping[str, Any],
        *,
        defaults: Mapping[str, Any] | None = None,
    ) -> bool:
        check_fields((key,))
        return await self._store.merge_session_metadata_map(
            session_id, key, updates, defaults=defaults
        )

    @override
    async def rename_session(self, session_id: str, title: str) -> bool:
        return await self._store.rename_session(session_id, title)

    async def set_title(self, session_id: str, title: str) -> bool:
        """Do as `rename_session` does, which is the same title here."""
        return await self._store.rename_session(session_id, title)

    @override
    async def set_agent_info(
        self, session_id: str, agent_name: str | None = None, user_id: str | None = None
    ) -> bool:
        return await self._store.set_agent_info(session_id, agent_name, user_id)

    @override
    async def set_gateway_info(
        self,
        session_id: str,
        gateway_session_id: str | None = None,
        agent_id: str | None = None,
    ) -> bool:
        return await self._store.set_gateway_info(session_id, gateway_session_id, agent_id)

    # State.

    @override
    async def get_state(
        self, session_id: str, key: str | None = None, default: JSONValue = None
    ) -> JSONValue:
        return await self._store.get_state(session_id, key, default)

    @override
    async def set_state(self, session_id: str, key: str, value: JSONValue) -> None:
        await self._store.set_state(session_id, key, value)

    @override
    async def update_state(
        self, session_id: str, values: Mapping[str, JSONValue], *, remove: Iterable[str] = ()
    ) -> None:
        await self._store.update_state(session_id, values, remove=remove)

    @override
    async def increment_state(self, session_id: str, key: str, by: float = 1) -> float:
        return await self._store.increment_state(session_id, key, by)

    # Find.

    @override
    async def list_sessions(
        self,
        limit: int = 50,
        cursor: str | None = None,
        *,
        agent_name: str | None = None,
        user_id: str | None = None,
        agent_id: str | None = None,
        gateway_session_id: str | None = None,
    ) -> SessionPage:
        sessions: list[SessionInfo] = []
        while True:
            page = await self._store.list_sessions(
                limit - len(sessions),
                cursor,
                agent_name=agent_name,
                user_id=user_id,
                agent_id=agent_id,
                gateway_session_id=gateway_session_id,
            )
            for lineage in map(Lineage, page):
                try:
                    sessions += [] if lineage.is_gone else [lineage.shown()]
                except CorruptSessionError as exc:
                    logger.warning("left out of the list: %s", exc)
            cursor = page.next_cursor
            if cursor is None or len(sessions) >= limit:
                return SessionPage(sessions, cursor)

    @override
    async def get_sessions_by_agent(self, agent_name: str, limit: int = 10) -> list[SessionInfo]:
        return await self.list_sessions(limit, agent_name=agent_name)

    @override
    async def get_by_gateway_session(self, gateway_session_id: str) -> SessionData | None:
        page = await self.list_sessions(1, gateway_session_id=gateway_session_id)
        return await self.get_session(page[0].session_id) if page else None

    @override
    async def recent(self, *, limit: int = 10) -> list[SessionInfo]:
        return await self.list_sessions(limit)

    @override
    async def search(self, query: str, *, limit: int = 5, window: int = 5) -> list[SearchHit]:
        check_limit("limit", limit)
        check_limit("window", window)
        return await search_newest(self, query, limit=limit, window=window)

    # Move.

    @override
    async def export_session(self, session_id: str) -> dict[str, Any]:
        return await transfer.export_session(self, session_id)

    @override
    async def export_all(self) -> AsyncIterator[dict[str, Any]]:
        async for part in transfer.export_all(self):
            yield part

    @override
    async def import_sessions(
        self,
        sessions: Sessions,
        *,
        overwrite: bool = False,
        max_sessions: int | None = None,
    ) -> ImportReport:
        return await self._store.import_sessions(
            sessions, overwrite=overwrite, max_sessions=max_sessions
        )

    # Expiry.

    @override
    async def expire_session(self, session_id: str, seconds: float | None) -> bool:
        """Do as every store does, but for a session of which others read messages.

        Raises:
            SessionSharedError: Forks or snapshots need what would vanish; delete them first.
        """
        return await self._store.expire_session(session_id, seconds)

    @override
    async def purge_expired(self) -> int:
        return await self._store.purge_expired()

    # Life.

    @override
    async def ping(self) -> None:
        await self._store.ping()

    @override
    async def aclose(self) -> None:
        await self._store.aclose()

    @override
    async def __aenter__(self) -> Self:
        await self._store.__aenter__()
        return self

    @override
    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._store.__aexit__(exc_type, exc, traceback)


def check_fields(fields: Iterable[str]) -> None:
    """Refuse to overwrite what sessions are made of here."""
    for key in fields:
        if key in {TREE, SHARED}:
            text = f"metadata.{key} is where HierarchicalSessionStore keeps its own; use another"
            raise InvalidMessageError(text, field=f"metadata.{key}")
