"""The original's sessions in PraisonAI's own JSON files."""

from __future__ import annotations

import bisect
import hashlib
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from asyncsessions.errors import (
    CorruptSessionError,
    IdempotencyConflictError,
    InvalidMessageError,
    LockTimeoutError,
    StoreUnavailableError,
)
from asyncsessions.hooks import Change, KeyRecord, Update, apply_changes
from asyncsessions.models import Checkpoint, Message
from asyncsessions.pacing import Breather
from asyncsessions.requests import make_changes
from asyncsessions.stores._docformat import loads, to_iso
from asyncsessions.stores._docmessage import entry_to_body
from asyncsessions.stores._document import Document
from asyncsessions.sync._original.backing import row_of
from asyncsessions.sync._original.editing import EditableStore
from asyncsessions.sync._original.failures import Failure, report
from asyncsessions.sync._original.lineage import inherit
from asyncsessions.sync._original.plain import dumps, plain
from asyncsessions.sync._original.snapshots import stored_form
from asyncsessions.sync.records import CompactionCheckpoint, SessionData, SessionMessage

__all__ = ["Documents", "session_of"]

T = TypeVar("T")

logger: logging.Logger = logging.getLogger("asyncsessions.sync")

_TEXTS = ("agent_name", "user_id", "gateway_session_id", "agent_id")
# Metadata that is a field of the record, too.
_LOOKED_UP = ("agent_name", "user_id", "agent_id")
_RESERVED = b'"asyncsessions"'
_decode_message = msgspec.json.Decoder(SessionMessage).decode


class Documents:
    """A `Backing` on JSON documents; each write but an append is one change under the lock.

    What the original would store is stored, in the same bytes but for what is under the reserved
    key; also what the async stores refuse, such as content that is an object. A damaged document is
    moved aside, and its session starts anew.

    Args:
        store: Where they are.
        spills: Where PraisonAI keeps the messages that it can't write.
    """

    def __init__(self, store: EditableStore, spills: Path) -> None:
        self._store = store
        self._spills = spills

    async def aclose(self) -> None:
        await self._store.aclose()

    # Reading.

    async def read(
        self, session_id: str, *, newest: int | None = None, archive: bool = True
    ) -> SessionData | None:
        return await self.view(
            session_id, lambda document: session_of(document, newest, with_archive=archive)
        )

    async def view(self, session_id: str, read: Callable[[Document], T]) -> T | None:
        """Return what a function returns for a document, which it leaves as it is."""
        await self._take_over(session_id)
        return await self._heal(session_id, lambda: self._store.view(session_id, read))

    async def exists(self, session_id: str) -> bool:
        try:
            return await self._store.session_exists(session_id)
        except CorruptSessionError:
            return True

    async def rows(self, limit: int | None) -> list[dict[str, Any]]:
        rows = await self._store.scan(row_of, strict=False)
        rows.sort(key=lambda row: row["updated_at"] or "", reverse=True)
        return rows[:limit]

    async def find(self, field: str, value: str, limit: int | None) -> list[str]:
        def visit(data: dict[str, Any]) -> str | None:
            return data["session_id"] if data.get(field) == value else None

        return (await self._store.scan(visit, strict=False))[:limit]

    async def scan(
        self, visit: Callable[[dict[str, Any]], T | None], *, strict: bool = False
    ) -> list[T]:
        return await self._store.scan(visit, strict=strict)

    # Messages.

    async def append(self, session_id: str, message: SessionMessage) -> None:
        try:
            plain = Message(
                message.role,
                message.content,
                message.timestamp,
                message.metadata,
                message.tool_calls or None,
                message.tool_call_id,
            )
            await self._heal(session_id, lambda: self._store.append(session_id, [plain]))
        except InvalidMessageError:
            # JSON may hold it all the same.
            entry = _entry(message)
            await self.edit(session_id, lambda document: bool(document.add_entries([entry])))

    async def append_all(
        self,
        session_id: str,
        messages: Sequence[SessionMessage],
        metadata: Mapping[str, Any],
        idempotency_key: str | None,
    ) -> None:
        key, digest, now = idempotency_key, _digest(messages), time.time()
        stamped = (replace(each, timestamp=each.timestamp or now) for each in messages)
        entries = [_entry(message) for message in stamped]
        changes = _metadata_changes(metadata)

        def append(document: Document) -> bool:
            known = document.own.key(key)
            if known is not None and known.digest != digest:
                raise IdempotencyConflictError(session_id, known.key)
            is_new = known is None and bool(entries)
            if is_new:
                first = document.add_entries(entries)
                if key is not None:
                    record = KeyRecord(key, first, len(entries), digest, now)
                    document.own.remember(record, document.seqs[0])
            return _apply(document, changes) or is_new

        await self.edit(session_id, append)

    async def salvage(self, session_id: str, message: SessionMessage) -> Path | None:
        return await self._store.spill(session_id, message.to_dict(), self._spills)

    async def replace(self, session_id: str, messages: Sequence[SessionMessage]) -> None:
        entries = [_entry(message) for message in messages]
        await self._take_over(session_id)

        def put(document: Document) -> bool:
            document.cut(0)
            document.checkpoint = None
            document.add_entries(entries)
            return True

        await self.edit(session_id, put)

    async def clear(self, session_id: str) -> None:
        await self.replace(session_id, ())

    async def delete(self, session_id: str) -> None:
        await self._take_over(session_id)
        await self._store.delete_session(session_id)

    async def put_partial(self, session_id: str, message: SessionMessage) -> None:
        def put(document: Document) -> bool:
            newest = _newest(document)
            if newest is None or not newest.is_partial:
                document.add_entries([_entry(message)])
                return True
            metadata = newest.metadata | message.metadata
            if not message.is_partial:
                del metadata["partial"]
            newest.metadata = message.metadata = metadata
            newest.content, newest.timestamp = message.content, message.timestamp
            document.replace_newest(_entry(newest))
            return True

        await self.edit(session_id, put)

    async def drop_partial(self, session_id: str) -> None:
        def drop(document: Document) -> bool:
            newest = _newest(document)
            if newest is None or not newest.is_partial:
                return False
            document.cut(document.seqs[-1])
            return True

        await self.edit(session_id, drop, create=False)

    # The record.

    async def set_checkpoint(self, session_id: str, checkpoint: CompactionCheckpoint) -> None:
        fields = plain(asdict(checkpoint))
        del fields["message_index"]

        def change(document: Document) -> bool:
            covered = document.seqs[-1] if document.seqs else 0
            info = msgspec.structs.replace(
                document.info, checkpoint=Checkpoint(seq=covered, **fields)
            )
            document.set_info(info)
            return True

        await self.edit(session_id, change)

    async def set_texts(self, session_id: str, texts: Mapping[str, str]) -> None:
        await self._change(session_id, [Change((key,), "set", text) for key, text in texts.items()])

    async def set_metadata(self, session_id: str, fields: Mapping[str, Any]) -> None:
        await self._change(session_id, _metadata_changes(fields))

    async def merge_map(
        self,
        session_id: str,
        key: str,
        updates: Mapping[str, Any],
        defaults: Mapping[str, Any],
    ) -> None:
        changes = make_changes("default", "metadata", plain(defaults), key)
        changes += make_changes("set", "metadata", plain(updates), key)
        # An empty map is one, too.
        await self._change(session_id, changes or [Change(("metadata", key), "default", {})])

    async def rename(self, session_id: str, title: str) -> None:
        path = ("metadata", "title")
        change = Change(path, "set", title) if title else Change(path, "remove")
        await self._change(session_id, [change])

    async def _change(self, session_id: str, changes: Sequence[Change]) -> None:
        """Change the record; a document that has all of it already isn't written."""
        await self.edit(session_id, lambda document: _apply(document, changes))

    async def set_runtime(
        self, session_id: str, runtime_id: str, turn_id: str, state: Mapping[str, Any]
    ) -> None:
        given = plain(state)

        def change(document: Document) -> bool:
            states = _states(document)
            states.setdefault(runtime_id, {})[turn_id] = given
            document.set_value("runtime_state", states)
            return True

        await self.edit(session_id, change)

    async def clear_runtime(self, session_id: str, runtime_id: str | None) -> None:
        def change(document: Document) -> bool:
            states = _states(document)
            rest = {key: states[key] for key in states if runtime_id not in (None, key)}
            document.set_value("runtime_state", rest)
            return rest != states

        await self.edit(session_id, change)

    async def restore(self, session: SessionData, *, overwrite: bool) -> bool:
        top = stored_form(session.to_dict())

        def restore(old: Document) -> Document:
            old.cut(0)  # Or an error, where others read what goes.
            document = Document(session.session_id, top)
            document.go_on_after(old)
            inherit(document, old)
            return document

        async def put() -> bool:
            # A damaged document is one, too, which only `overwrite` moves aside.
            if not overwrite and await self.exists(session_id):
                return False
            is_new = not overwrite
            return await self._store.edit(session_id, restore, is_new=is_new, is_whole=True)

        session_id = session.session_id
        return await self._heal(session_id, put)

    async def put(self, document: Document) -> None:
        """Store a new session."""
        new = document.session_id
        await self._heal(new, lambda: self._store.edit(new, lambda _: document, is_new=True))

    async def edit(
        self, session_id: str, change: Callable[[Document], bool], **options: bool
    ) -> None:
        """Change a document as a function does, which returns whether there is a difference.

        Args:
            session_id: The session.
            change: Gets the document.
            **options: See `Edit`.
        """

        def edit(document: Document) -> Document | None:
            return document if change(document) else None

        await self._heal(session_id, lambda: self._store.edit(session_id, edit, **options))

    async def _take_over(self, session_id: str) -> None:
        """Add what could not be written before, so that it is seen, or removed with the rest."""
        take_over = self._store.take_over_spills
        try:
            await self._heal(session_id, lambda: take_over(session_id, self._spills))
        except (LockTimeoutError, StoreUnavailableError) as exc:
            # What can be read is still worth reading; the files stay.
            logger.warning("spilled messages stay where they are: %s", exc)

    async def _heal(self, session_id: str, call: Callable[[], Awaitable[T]]) -> T:
        """Await a call, and once more where that helps.

        A damaged document is moved aside first, and a directory that somebody removed is made.
        """
        try:
            return await call()
        except StoreUnavailableError as exc:
            if not isinstance(exc.__cause__, FileNotFoundError):
                raise
            await self._store.make_directory()
            return await call()
        except CorruptSessionError as exc:
            aside = await self._store.quarantine(session_id)
            if aside is not None:  # Else somebody else was faster, or it isn't to be moved.
                await report(Failure(session_id, f"corrupt session file: {exc.detail}", str(aside)))
            return await call()


def session_of(document: Document, newest: int | None, *, with_archive: bool) -> SessionData:
    """Return a document as a session, or its newest messages only."""
    entries = document.entries(newest)
    texts = {key: document.value(key) for key in _TEXTS}
    created_at, updated_at = document.value("created_at"), document.value("updated_at")
    session = SessionData(
        session_id=document.session_id,
        messages=_messages(entries),
        created_at=created_at or to_iso(document.created_at),
        updated_at=updated_at or to_iso(document.updated_at),
        metadata=document.read_info().metadata,
        runtime_state=_states(document),
        archived_messages=_messages(document.archived()) if with_archive else [],
        **texts,
    )
    checkpoint = document.checkpoint
    if checkpoint is not None:
        fields = msgspec.structs.asdict(checkpoint)
        index = bisect.bisect_right(document.seqs, fields.pop("seq"))
        index = max(0, index - (len(document.seqs) - len(entries)))
        session.last_compaction = CompactionCheckpoint(message_index=index, **fields)
    return session


def _metadata_changes(fields: Mapping[str, Any]) -> list[Change]:
    fields = plain(fields)
    changes = make_changes("set", "metadata", fields)
    return changes + [Change((key,), "set", fields[key]) for key in _LOOKED_UP if key in fields]


def _apply(document: Document, changes: Sequence[Change]) -> bool:
    """Change a document's record; return whether that made a difference."""
    before = document.info
    after, _ = apply_changes(before, Update(document.session_id, tuple(changes), before.updated_at))
    document.set_info(after)
    return after != before


def _digest(messages: Sequence[SessionMessage]) -> str:
    given = dumps([message.to_dict() for message in messages])
    return hashlib.blake2b(given, digest_size=16).hexdigest()


def _messages(entries: Sequence[msgspec.Raw]) -> list[SessionMessage]:
    breather = Breather()
    messages = []
    for entry in entries:
        messages.append(_message(entry))
        breather.breathe()
    return messages


def _message(entry: msgspec.Raw) -> SessionMessage:
    if _RESERVED not in bytes(entry):
        try:
            return _decode_message(entry)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return SessionMessage.from_dict(loads(entry))
    # Other values than the metadata are as they are in the document, also where it hides some.
    message = SessionMessage.from_dict(loads(entry))
    message.metadata = msgspec.json.decode(entry_to_body(entry, 1)).get("metadata", {})
    return message


def _newest(document: Document) -> SessionMessage | None:
    entries = document.entries(1)
    return _message(entries[0]) if entries else None


def _states(document: Document) -> dict[str, dict[str, Any]]:
    states = document.value("runtime_state")
    return states if isinstance(states, dict) else {}


def _entry(message: SessionMessage) -> msgspec.Raw:
    return msgspec.Raw(dumps(message.to_dict()))
