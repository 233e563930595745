"""What the original's methods mean, once, over whatever the sessions are stored in."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from asyncsessions.errors import (
    CorruptSessionError,
    InvalidMessageError,
    SessionStoreError,
    StoreUnavailableError,
)
from asyncsessions.sync._original.backing import Backing
from asyncsessions.sync._original.failures import Failure, report
from asyncsessions.sync._original.recall import (
    Query,
    Ranking,
    best_hits,
    entries_of,
    lineage_of,
    window_of,
)
from asyncsessions.sync.records import (
    CompactionCheckpoint,
    ImportReport,
    SessionData,
    SessionHit,
    SessionMessage,
)

__all__ = ["PORTABLE_VERSION", "Original"]

PORTABLE_VERSION = 1
# Where a session is being talked to; an import starts without.
_LIVE_FIELDS = ("gateway_session_id", "agent_id")


class Original:
    """The original's methods; see `DefaultSessionStore` for what each of them returns.

    Those that write raise where that store returns False.

    Args:
        backing: Where the sessions are.
    """

    _record: ClassVar[type[SessionData]] = SessionData
    """What a session is returned as."""

    def __init__(self, backing: Backing) -> None:
        self._backing = backing

    # Messages.

    async def add(self, session_id: str, message: SessionMessage) -> None:
        await self._backing.append(session_id, message)

    async def append_with_metadata(
        self,
        session_id: str,
        messages: Sequence[SessionMessage],
        metadata: Mapping[str, Any],
        idempotency_key: str | None,
    ) -> None:
        fields = {key: value for key, value in metadata.items() if value is not None}
        await self._backing.append_all(session_id, messages, fields, idempotency_key)

    async def salvage(self, session_id: str, message: SessionMessage, error: str) -> None:
        """Keep a message that couldn't be added, if that works, and report the failure."""
        path = await self._backing.salvage(session_id, message)
        kept = None if path is None else str(path)
        await report(Failure(session_id, error, kept, message.role, message.content))

    async def put_partial(
        self, session_id: str, content: str, *, finalize: bool
    ) -> SessionMessage | None:
        """Put or finish the partial turn; return the turn if it is complete now."""
        if finalize and not content:
            await self._backing.drop_partial(session_id)
            return None
        metadata = {} if finalize else {"partial": True}
        message = SessionMessage("assistant", content, time.time(), metadata)
        await self._backing.put_partial(session_id, message)
        return message if finalize else None

    async def drop_partial(self, session_id: str) -> None:
        await self._backing.drop_partial(session_id)

    async def set_chat_history(
        self, session_id: str, messages: Sequence[Mapping[str, Any]]
    ) -> list[SessionMessage]:
        """Replace the active messages; return the new ones."""
        replaced = [SessionMessage.from_dict(message) for message in messages]
        for message in replaced:
            message.content = message.content or ""
        await self._backing.replace(session_id, replaced)
        return replaced

    async def clear(self, session_id: str) -> None:
        await self._backing.clear(session_id)

    async def delete(self, session_id: str) -> None:
        await self._backing.delete(session_id)

    # Reading.

    async def get_chat_history(self, session_id: str, limit: int | None) -> list[dict[str, Any]]:
        session = await self._newest(session_id, limit)
        return session.get_chat_history(limit)

    async def get_working_history(self, session_id: str, limit: int | None) -> list[dict[str, Any]]:
        session = await self._newest(session_id, limit)
        return session.get_working_history(limit)

    async def _newest(self, session_id: str, limit: int | None) -> SessionData:
        # One more tells whether anything was cut off.
        newest = limit + 1 if limit and limit > 0 else None
        found = await self._backing.read(session_id, newest=newest, archive=False)
        return found or SessionData(session_id)

    async def get_session(self, session_id: str) -> SessionData:
        return await self._whole(session_id) or self._record(session_id)

    async def _whole(self, session_id: str) -> SessionData | None:
        return await self._backing.read(session_id)

    async def exists(self, session_id: str) -> bool:
        return await self._backing.exists(session_id)

    async def last_set(self, session_id: str, *keys: str) -> str | None:
        """Return the text of the first key that the metadata has, else a newest message's."""
        session = await self._backing.read(session_id, archive=False)
        if session is None:
            return None
        values = [next(filter(None, map(session.metadata.get, keys)), None)]
        values += [(each.metadata or {}).get(keys[0]) for each in reversed(session.messages)]
        return next((value for value in values if value and isinstance(value, str)), None)

    # The record.

    async def set_texts(self, session_id: str, **texts: str | None) -> None:
        given = {field: text for field, text in texts.items() if text}
        await self._backing.set_texts(session_id, given)

    async def update_metadata(self, session_id: str, fields: Mapping[str, Any]) -> None:
        given = {key: value for key, value in fields.items() if value is not None}
        await self._backing.set_metadata(session_id, given)

    async def merge_map(
        self,
        session_id: str,
        key: str,
        updates: Mapping[str, Any],
        defaults: Mapping[str, Any] | None,
    ) -> None:
        await self._backing.merge_map(session_id, key, updates, defaults or {})

    async def rename(self, session_id: str, title: str | None) -> None:
        await self._backing.rename(session_id, (title or "").strip())

    async def set_checkpoint(self, session_id: str, checkpoint: CompactionCheckpoint) -> None:
        await self._backing.set_checkpoint(session_id, checkpoint)

    async def set_runtime(
        self, session_id: str, runtime_id: str, turn_id: str, state: Mapping[str, Any]
    ) -> None:
        await self._backing.set_runtime(session_id, runtime_id, turn_id, state)

    async def get_runtime(
        self, session_id: str, runtime_id: str, turn_id: str | None
    ) -> dict[str, Any]:
        session = await self._newest(session_id, 1)
        turns = session.runtime_state.get(runtime_id, {})
        # Its own, because the session is the caller's alone.
        return turns if turn_id is None else turns.get(turn_id, {})

    async def clear_runtime(self, session_id: str, runtime_id: str | None) -> None:
        await self._backing.clear_runtime(session_id, runtime_id)

    # Finding.

    async def list_sessions(self, limit: int | None) -> list[dict[str, Any]]:
        return await self._backing.rows(limit)

    async def find(self, field: str, value: str, limit: int | None) -> list[str]:
        return await self._backing.find(field, value, limit)

    async def find_session(self, field: str, value: str) -> SessionData | None:
        for session_id in await self._backing.find(field, value, 1):
            return await self.get_session(session_id)
        return None

    async def search(
        self, text: str | None, *, limit: int, window: int, ranking: Ranking
    ) -> list[SessionHit]:
        wanted = (text or "").strip()
        if not wanted:
            return []
        query = Query(wanted, window=window, ranking=ranking)
        return best_hits(await self._backing.scan(query.match), limit)

    async def window(self, session_id: str, around: object, *, window: int) -> list[dict[str, Any]]:
        session = await self._backing.read(session_id)
        entries = [] if session is None else entries_of(session.to_dict())
        last = len(entries) - 1
        try:
            anchor = last if around is None or around == "" else int(str(around))
        except ValueError:
            anchor = last
        return window_of(entries, max(0, min(anchor, last)), window)

    # Moving.

    async def export_session(self, session_id: str, *, include_lineage: bool) -> dict[str, Any]:
        session = await self._whole(session_id)
        if session is None:
            return {"version": PORTABLE_VERSION, "sessions": []}
        exported = session.to_dict()
        sessions = [exported]
        lineage = lineage_of(exported) if include_lineage else None
        if lineage is not None:

            def visit(data: dict[str, Any]) -> dict[str, Any] | None:
                is_other = data.get("session_id") != session_id
                return data if is_other and lineage_of(data) == lineage else None

            sessions += await self._complete(visit)
        return {"version": PORTABLE_VERSION, "sessions": sessions}

    async def export_all(self) -> dict[str, Any]:
        return {"version": PORTABLE_VERSION, "sessions": await self._complete(copy.copy)}

    async def _complete(self, visit: Any) -> list[dict[str, Any]]:
        """Return what a scan finds; an export that lacks a session is none."""
        try:
            return await self._backing.scan(visit, strict=True)
        except (CorruptSessionError, StoreUnavailableError) as exc:
            raise OSError(f"Incomplete session export: {exc}") from exc

    async def import_sessions(
        self, payload: Any, *, max_sessions: int, reset_live_fields: bool, overwrite: bool
    ) -> ImportReport:
        report = ImportReport(version=PORTABLE_VERSION)
        version = payload.get("version") if isinstance(payload, dict) else None
        if isinstance(version, int) and version > PORTABLE_VERSION:
            supported = f"(supported <= {PORTABLE_VERSION})"
            _skip(report, "", f"unsupported payload version {version} {supported}")
            return report
        sessions = payload.get("sessions") if isinstance(payload, dict) else None
        seen: set[str] = set()
        for index, given in enumerate(sessions if isinstance(sessions, list) else ()):
            if report.imported >= max_sessions:
                _skip(report, "", f"max_sessions={max_sessions} cap reached")
                break
            session_id = _id_to_import(report, index, given, seen)
            if session_id is None:
                continue
            seen.add(session_id)
            data = _without_live_fields(given) if reset_live_fields else given
            await self._import(report, session_id, data, overwrite=overwrite)
        return report

    async def _import(
        self, report: ImportReport, session_id: str, data: Mapping[str, Any], *, overwrite: bool
    ) -> None:
        try:
            session = self._record.from_dict(data)
            session.session_id = session_id
            is_stored = await self._backing.restore(session, overwrite=overwrite)
        except (SessionStoreError, OSError, TypeError, ValueError, AttributeError) as exc:
            # One bad session is no reason to leave out the others.
            is_refused = isinstance(exc, SessionStoreError) and not isinstance(
                exc, InvalidMessageError
            )
            reason = "write failed" if is_refused else f"import error: {exc}"
            _skip(report, session_id, reason)
            return
        if is_stored:
            report.imported += 1
        else:
            _skip(report, session_id, "already exists (use overwrite)")


def _id_to_import(report: ImportReport, index: int, given: Any, seen: set[str]) -> str | None:
    """Return the id of a session that can be imported; None where it is skipped."""
    if not isinstance(given, dict):
        _skip(report, "", f"malformed record at index {index}")
        return None
    session_id = str(given.get("session_id") or "").strip()
    if not session_id:
        _skip(report, "", f"missing session_id at index {index}")
        return None
    if session_id in seen:
        _skip(report, session_id, "duplicate in payload")
        return None
    return session_id


def _without_live_fields(data: Mapping[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in data.items() if key not in _LIVE_FIELDS}
    metadata = kept.get("metadata")
    if isinstance(metadata, dict):
        kept["metadata"] = {key: metadata[key] for key in metadata if key not in _LIVE_FIELDS}
    return kept


def _skip(report: ImportReport, session_id: str, reason: str) -> None:
    report.skipped.append({"session_id": session_id, "reason": reason})
