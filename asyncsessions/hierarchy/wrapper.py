"""A store on which each session is what it shows, made of a store that knows nothing of that."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
from collections.abc import Iterable, Sequence
from typing import Any, Self

import msgspec

from asyncsessions import importing
from asyncsessions._compat import override
from asyncsessions.base import BaseSessionStore
from asyncsessions.batching import Outcome
from asyncsessions.codec import decode_message, decode_messages
from asyncsessions.errors import (
    CorruptSessionError,
    InvalidMessageError,
    SessionNotFoundError,
    SessionSharedError,
    StoreUnavailableError,
)
from asyncsessions.hierarchy.bringing import Bringing
from asyncsessions.hierarchy.forking import Forking
from asyncsessions.hierarchy.lineage import Lineage
from asyncsessions.hierarchy.reading import Reader
from asyncsessions.hierarchy.records import Records
from asyncsessions.hierarchy.rewriting import Rewriting
from asyncsessions.hierarchy.saved import TREE
from asyncsessions.hierarchy.snapshotting import Snapshotting
from asyncsessions.hooks import (
    SHARED,
    Append,
    Appended,
    Change,
    Replace,
    Replaced,
    Scan,
    Tail,
    Update,
    Window,
)
from asyncsessions.models import ImportReport, JSONValue, Message, SessionInfo
from asyncsessions.omissions import leave_out
from asyncsessions.protocols import Sessions, SessionStore

__all__ = ["BranchedStore", "refusal"]

logger: logging.Logger = logging.getLogger("asyncsessions.hierarchy")

# Enough for the queue below; the limit on what is given was applied above it.
_UPDATE_BYTES = 1000


class BranchedStore(BaseSessionStore):
    """Fills the hooks of a store with those of another; see `HierarchicalSessionStore`."""

    def __init__(self, store: SessionStore) -> None:
        if not isinstance(store, BaseSessionStore):
            kind = type(store).__name__
            raise TypeError(
                f"sessions branch on stores that derive from BaseSessionStore, not {kind}"
            )
        super().__init__(**msgspec.structs.asdict(store.policy))
        self._driver_errors = store._driver_errors
        self._expires_by_server = store._expires_by_server
        self._store = store
        self._reader = Reader(store)
        self._records = Records(store, self._reader)
        self._forking = Forking(self._records)
        self._bringing = Bringing(self._records, self._forking)
        self._snapshotting = Snapshotting(self._records, self._bringing)
        self._rewriting = Rewriting(self._records, self._bringing)

    @override
    @classmethod
    def from_url(cls, url: str, **options: Any) -> Self:  # noqa: ARG003  # as every store's
        """Raise TypeError: give the constructor what `open_store` returns."""
        raise TypeError(f"{cls.__name__} is made of a store: {cls.__name__}(open_store(url))")

    # Life.

    @override
    async def _open(self) -> None:
        await self._store.__aenter__()

    @override
    async def _close(self) -> None:
        await self._store.aclose()

    @override
    async def _ping(self) -> None:
        await self._store._ping()

    @override
    async def _locate(self, session_id: str, damaged: bytes) -> tuple[str | None, int | None]:
        return await self._store._locate(session_id, damaged)

    @override
    def _failure(self, exc: Exception, session_id: str | None) -> StoreUnavailableError:
        return self._store._failure(exc, session_id)

    # Move.

    @override
    async def import_sessions(
        self, sessions: Sessions, *, overwrite: bool = False, max_sessions: int | None = None
    ) -> ImportReport:
        """Do as every store does; what a session shows of others isn't for an import to say."""
        own = importing.without_metadata(sessions, frozenset({TREE, SHARED}))
        return await super().import_sessions(own, overwrite=overwrite, max_sessions=max_sessions)

    # Writes.

    @override
    async def _append(self, batch: Sequence[Append]) -> Sequence[Outcome[Appended]]:
        queued: list[Outcome[Appended]] = []
        records = await self._records_for(batch)
        for given in batch:
            record = records.get(given.session_id)
            append = given if record is None else _begun_anew(given, record)
            queued.append(await self._store._enqueue(append, sum(map(len, append.bodies))))
        return queued

    async def _records_for(self, batch: Sequence[Append]) -> dict[str, Lineage]:
        """Return the records of sessions that may have been deleted, where that matters."""
        ids = {each.session_id for each in batch if each.key is not None or each.expected_seq == 0}
        found = await asyncio.gather(*map(self._reader.record, ids), return_exceptions=True)
        # One that is damaged fails by itself.
        return {each.info.session_id: each for each in found if isinstance(each, Lineage)}

    @override
    async def _update(self, batch: Sequence[Update]) -> Sequence[Outcome[list[JSONValue] | None]]:
        outcomes: list[Outcome[list[JSONValue] | None]] = []
        for update in batch:
            refused = refusal(update.changes)
            if refused is not None:
                outcomes.append(refused)
            elif not update.create and not await self._exists(update.session_id):
                outcomes.append(None)
            else:
                outcomes.append(await self._store._enqueue(update, _UPDATE_BYTES))
        return outcomes

    async def _exists(self, session_id: str) -> bool:
        return await self._reader.lineage(session_id) is not None

    @override
    async def _replace(self, replace: Replace) -> Replaced | None:
        while True:
            record = await self._reader.record(replace.session_id)
            newest = replace.if_newest
            if record is None or _may_remove(record, replace):
                with contextlib.suppress(SessionSharedError):
                    return await self._store._replace(replace)
            if newest is not None:
                return await self._replace_newest(replace, newest)
            if not replace.create:
                had_any = await self._rewriting.clear(replace.session_id)
                return Replaced(int(had_any), 0)
            messages: list[Message] = []
            await decode_messages(replace.bodies, messages)
            try:
                await self._rewriting.set_history(replace.session_id, messages)
            except SessionNotFoundError:
                continue  # It was deleted meanwhile, and nothing is in the way any more.
            return Replaced(0, 0)

    async def _replace_newest(self, replace: Replace, newest: int) -> Replaced | None:
        """Hide the newest message, and append another one in its place."""
        popped = await self._rewriting.pop(replace.session_id, lambda each: each.seq == newest)
        if popped is None:
            return None
        messages = [decode_message(body) for body in replace.bodies]
        await self._store.append(replace.session_id, messages)
        return Replaced(1, newest)

    @override
    async def _delete(self, session_id: str, *, expired_at: float | None = None) -> bool:
        if expired_at is not None:
            return await self._store._delete(session_id, expired_at=expired_at)
        try:
            record = await self._reader.record(session_id)
            if record is None or not record.has_kin:
                with contextlib.suppress(SessionSharedError):
                    return await self._store._delete(session_id)
            return await self._rewriting.delete(session_id)
        except CorruptSessionError:
            return await self._store._delete(session_id)

    # Reads.

    @override
    async def _head(self, session_id: str) -> SessionInfo | None:
        info = await self._store._head(session_id)
        lineage = None if info is None else Lineage(info)
        return None if lineage is None or lineage.is_gone else lineage.shown()

    @override
    async def _tail(self, session_id: str, window: Window) -> Tail | None:
        return await self._reader.read(session_id, window)

    @override
    async def _scan(self, scan: Scan) -> Sequence[SessionInfo]:
        if scan.expired:
            return await self._store._scan(scan)
        sessions: list[SessionInfo] = []
        while len(sessions) < scan.limit:
            wanted = msgspec.structs.replace(scan, limit=scan.limit - len(sessions))
            found = await self._store._scan(wanted)
            for lineage in map(Lineage, found):
                try:
                    sessions += [] if lineage.is_gone else [lineage.shown()]
                except CorruptSessionError as exc:
                    leave_out(logger, "list", exc)
            if len(found) < wanted.limit:
                break
            below = (found[-1].updated_at, found[-1].session_id)
            scan = msgspec.structs.replace(scan, below=below)
        return sessions


def _may_remove(record: Lineage, replace: Replace) -> bool:
    """Whether a store may replace messages of a session by itself, if nobody else reads them."""
    if replace.if_newest is None:
        return record.is_plain
    if not replace.bodies:
        # Where somebody hides messages meanwhile, and counts them, none of those may go.
        return not record.has_kin
    return record.is_plain or replace.if_newest > record.view.after


def _begun_anew(append: Append, record: Lineage) -> Append:
    """Return an append that knows nothing of a deleted session of the same id."""
    expected, key = append.expected_seq, append.key
    if expected == 0 and record.is_gone:
        # Those who still read it go on counting.
        expected = record.info.last_seq
    if key is not None and record.born:
        name = f"{record.born} {key}".encode()
        key = "again:" + hashlib.blake2b(name, digest_size=16).hexdigest()
    return msgspec.structs.replace(append, expected_seq=expected, key=key)


def refusal(changes: Iterable[Change]) -> InvalidMessageError | None:
    """Return why changes aren't made: they would overwrite what sessions are made of here."""
    for change in changes:
        field, *keys = change.path
        if field == "metadata" and not keys and isinstance(change.value, dict):
            keys = list(change.value)
        for key in keys[:1] if len(change.path) > 1 else keys:
            if field == "metadata" and key in {TREE, SHARED}:
                text = f"metadata.{key} belongs to HierarchicalSessionStore; use another key"
                return InvalidMessageError(text, field=f"metadata.{key}")
    return None
