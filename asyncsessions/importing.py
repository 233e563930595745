"""Import of sessions from JSON objects, and what it stores of a session's record."""

from __future__ import annotations

import math
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import anyio
import msgspec

from asyncsessions import codec, resume
from asyncsessions.errors import (
    CorruptSessionError,
    SessionStoreError,
    VersionConflictError,
)
from asyncsessions.hooks import Change
from asyncsessions.models import Checkpoint, ImportReport, Message, SessionInfo

if TYPE_CHECKING:
    from asyncsessions.protocols import Sessions, SessionStore

__all__ = [
    "EXISTS",
    "EXPIRED",
    "NO_FIRST_PART",
    "OTHER",
    "import_sessions",
    "record_changes",
    "renumbered",
    "without_metadata",
]

EXISTS = "it exists"
OTHER = "it exists and differs"
EXPIRED = "it has expired"
"""Reasons why an import skips a session that could be stored.

Where `EXISTS` is given, the store has every message that the import brings.
"""

NO_FIRST_PART = "its first part doesn't come before this one"

# Imported sessions that are written at the same time, and so share group commits.
_AT_ONCE = 64

_RECORD_FIELDS = (
    "created_at",
    "agent_name",
    "user_id",
    "agent_id",
    "gateway_session_id",
)
# Takes the record, the messages, and the ``expected_seq`` of their append. It checks them, and
# returns what stores them.
Prepare = Callable[
    [SessionInfo, list[Message], int | None], Awaitable[Callable[[], Awaitable[None]]]
]


def record_changes(info: SessionInfo) -> tuple[Change, ...]:
    """Return the changes that give a new session this record."""
    changes = []
    for field in _RECORD_FIELDS:
        value = getattr(info, field)
        if value:
            changes.append(Change((field,), "set", value))
    # One by one, or what forks of a deleted session of this id have noted there would be lost.
    for area in ("metadata", "state"):
        values = getattr(info, area)
        changes += [Change((area, key), "set", value) for key, value in values.items()]
    if info.checkpoint is not None:
        changes.append(Change(("checkpoint",), "set", info.checkpoint))
    return tuple(changes)


def renumbered(info: SessionInfo, count: int) -> SessionInfo:
    """Return a record whose messages got numbers that are higher by so much."""
    if not count or info.checkpoint is None:
        return info
    moved: Checkpoint = msgspec.structs.replace(info.checkpoint, seq=info.checkpoint.seq + count)
    return msgspec.structs.replace(info, checkpoint=moved)


async def import_sessions(
    store: SessionStore,
    sessions: Sessions,
    prepare: Prepare,
    *,
    clock: Callable[[], float],
    overwrite: bool,
    max_sessions: int | None,
) -> ImportReport:
    """Store sessions; see `SessionStore.import_sessions`.

    Args:
        store: Where they go.
        sessions: The objects.
        prepare: Checks one session's record and messages, or a later part of it.
        clock: Says what time it is.
        overwrite: Whether to replace sessions that exist.
        max_sessions: Stop after so many.
    """
    run = _Import(store, prepare, clock=clock, overwrite=overwrite)
    async for data in _iterate(sessions):
        if max_sessions is not None and run.started >= max_sessions and not data.get("part"):
            break
        await run.add(data)
    await run.flush()
    return ImportReport(run.imported, run.messages, run.skipped)


class _Open(NamedTuple):
    """The session whose later parts may come.

    Attributes:
        session_id: Its id.
        position: How many of its messages have come.
        updated_at: When it was last written, by its first part.
        is_found: Whether the store had all of them before.
        stored: How many of them this import has stored.
        newest: The ``seq`` of the last of them, if the session began with this import.
        last: The last message that came, if any did.
    """

    session_id: str
    position: int
    updated_at: float
    is_found: bool
    stored: int
    newest: int
    last: Message | None


class _Import:
    """Imports objects, many at a time, and the parts of one session in order."""

    def __init__(
        self,
        store: SessionStore,
        prepare: Prepare,
        *,
        clock: Callable[[], float],
        overwrite: bool,
    ) -> None:
        self._store = store
        self._prepare = prepare
        self._clock = clock
        self._overwrite = overwrite
        self._group: dict[str, Mapping[str, Any]] = {}
        self._open: _Open | None = None
        self._failure: SessionStoreError | None = None
        # Of which sessions something was skipped, and so needn't be said of each later part.
        self._told: set[str] = set()
        self.started = 0
        self.imported = 0
        self.messages = 0
        self.skipped: list[dict[str, str]] = []

    async def add(self, data: Mapping[str, Any]) -> None:
        session_id = data.get("session_id") if isinstance(data, Mapping) else None
        if not isinstance(session_id, str):
            self._skip("", "there is no session_id")
            return
        if data.get("part"):
            await self.flush()
            if self._open is not None and session_id == self._open.session_id:
                self._open = await self._store_one(data, self._open)
                self._raise_failure()
            elif data.get("messages") and session_id not in self._told:
                self._skip(session_id, NO_FIRST_PART)
            return
        self.started += 1
        if session_id in self._group:
            await self.flush()
        self._group[session_id] = data
        if len(self._group) == _AT_ONCE:
            await self.flush()

    async def flush(self) -> None:
        group, self._group = list(self._group.values()), {}
        if not group:
            return
        async with anyio.create_task_group() as tasks:
            for data in group[:-1]:
                tasks.start_soon(self._store_one, data)
            # Whose parts may follow.
            self._open = None
            tasks.start_soon(self._store_last, group[-1])
        self._raise_failure()

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    async def _store_last(self, data: Mapping[str, Any]) -> None:
        self._open = await self._store_one(data)

    async def _store_one(self, data: Mapping[str, Any], part: _Open | None = None) -> _Open | None:
        """Store a session or, where it says of which, a part of it; None where it can't be."""
        session_id = data["session_id"]
        try:
            info, messages = _parse(data)
            if info.expires_at is not None and info.expires_at <= self._clock():
                self._skip(session_id, EXPIRED)
                return None
            if part:
                info = msgspec.structs.replace(info, updated_at=part.updated_at)
            try:
                if part.is_found if part else await self._is_found(info, messages):
                    return await self._compare(info, messages, part)
                return await self._add(info, messages, part)
            except VersionConflictError:
                # Another import of the same session may be under way, and have been first.
                return await self._compare(info, messages, part)
        except (_OtherError, VersionConflictError):
            self._withdraw(part)
            self._skip(session_id, OTHER)
        except (ValueError, TypeError, CorruptSessionError) as exc:
            self._skip(session_id, str(exc))
        except SessionStoreError as exc:
            # The store fails, not this object; all that were under way end first.
            self._failure = self._failure or exc
        return None

    async def _add(self, info: SessionInfo, messages: list[Message], part: _Open | None) -> _Open:
        """Store a session that is new, or what comes after the parts that this import stored.

        Raises:
            VersionConflictError: Somebody else wrote to it.
        """
        newest = part.newest if part else 0
        try:
            await self._restore(info, messages, newest)
        except VersionConflictError as exc:
            if part is None or not await self._is_renumbered(part, exc.last_seq):
                raise
            newest = exc.last_seq
            await self._restore(info, messages, newest)
        self.imported += part is None
        newest += len(messages)
        return self._after(info, messages, part, newest=newest, stored=len(messages))

    async def _is_renumbered(self, part: _Open, last_seq: int) -> bool:
        """Whether what this import stored is all there is, under higher numbers.

        So it is where forks read on in a deleted session of the same id.
        """
        stored = await self._store.get_session(part.session_id, max_messages=1)
        if stored.last_seq != last_seq or stored.message_count > part.position:
            return False
        given = [] if part.last is None else [part.last]
        return resume.missing(stored.messages, given, last_seq - len(given)) == []

    async def _compare(
        self, info: SessionInfo, messages: list[Message], part: _Open | None
    ) -> _Open:
        """Make sure that a session which is there has what comes; see `_complete`."""
        stored = await self._complete(info, messages, part)
        newest = len(messages) + (part.position if part else 0)
        return self._after(info, messages, part, newest=newest, stored=stored)

    def _after(
        self,
        info: SessionInfo,
        messages: list[Message],
        part: _Open | None,
        *,
        newest: int,
        stored: int | None,
    ) -> _Open:
        """Return what is known of a session when another part of it has come.

        Args:
            info: The part's record.
            messages: The part's messages.
            part: What was known before.
            newest: As in `_Open`.
            stored: How many of the messages were stored; None where all were there.
        """
        self.messages += stored or 0
        return _Open(
            info.session_id,
            len(messages) + (part.position if part else 0),
            info.updated_at,
            # One that this import began stays one that it imported.
            is_found=stored is None and (part is None or part.is_found),
            stored=(stored or 0) + (part.stored if part else 0),
            newest=newest,
            last=messages[-1] if messages else part.last if part else None,
        )

    async def _is_found(self, info: SessionInfo, messages: list[Message]) -> bool:
        """Whether to compare with a session that exists; one to be replaced is removed.

        But not for what can't be stored in its place.
        """
        is_found = await self._store.session_exists(info.session_id)
        if is_found and self._overwrite:
            await self._prepare(info, messages, 0)
            await self._store.delete_session(info.session_id)
        return is_found and not self._overwrite

    async def _restore(
        self, info: SessionInfo, messages: list[Message], expected_seq: int | None
    ) -> None:
        write = await self._prepare(info, messages, expected_seq)
        await write()

    async def _complete(
        self, info: SessionInfo, messages: list[Message], part: _Open | None
    ) -> int | None:
        """Add what a session lacks because an import was interrupted, or it has grown since.

        Returns:
            How many messages were added; None where it had everything.

        Raises:
            _OtherError: It isn't the beginning of what comes.
        """
        sid = info.session_id
        start = part.position if part else 0
        found = await self._store.get_messages(sid, after=start, limit=len(messages))
        rest = resume.missing(found, messages, start)
        stored = await self._store.get_session(sid, max_messages=0)
        if rest is None:
            raise _OtherError
        # The record came with the first part.
        if rest and not (part or resume.is_outdated(stored, info)):
            raise _OtherError
        if rest and not resume.is_untouched(stored, info):
            raise _OtherError
        if not (rest or (not part and resume.is_bare(stored, info))):
            if not part:
                self._skip(sid, EXISTS)
            return None
        info = msgspec.structs.replace(info, updated_at=max(info.updated_at, stored.updated_at))
        await self._restore(info, rest, start + len(found) if rest else None)
        self._unskip(part)
        self.imported += part is None or part.is_found
        return len(rest)

    def _unskip(self, part: _Open | None) -> None:
        """Take back that a session exists, which was true of the parts before this one."""
        if part is not None and part.is_found:
            self.skipped.remove({"session_id": part.session_id, "reason": EXISTS})

    def _withdraw(self, part: _Open | None) -> None:
        """Take back what was said of a session's parts before this one."""
        self._unskip(part)
        if part is not None:
            self.imported -= not part.is_found
            self.messages -= part.stored

    def _skip(self, session_id: str, reason: str) -> None:
        self.skipped.append({"session_id": session_id, "reason": reason})
        self._told.add(session_id)


class _OtherError(Exception):
    """A session of the same id is another one."""


async def without_metadata(
    sessions: Sessions, keys: frozenset[str]
) -> AsyncIterator[Mapping[str, Any]]:
    """Iterate over the sessions of an import, without some keys of their metadata."""
    async for data in _iterate(sessions):
        metadata = data.get("metadata") if isinstance(data, Mapping) else None
        if isinstance(metadata, Mapping) and not keys.isdisjoint(metadata):
            own = {key: value for key, value in metadata.items() if key not in keys}
            yield {**data, "metadata": own}
        else:
            yield data


async def _iterate(
    sessions: Sessions,
) -> AsyncIterator[Mapping[str, Any]]:
    if isinstance(sessions, Mapping):
        sessions = sessions["sessions"] if "sessions" in sessions else [sessions]  # noqa: SIM401  # mypy
    if isinstance(sessions, AsyncIterable):
        async for data in sessions:
            yield data
    else:
        for data in sessions:
            yield data


def _parse(data: Mapping[str, Any]) -> tuple[SessionInfo, list[Message]]:
    """Return the record and the messages of an object, with its checkpoint's ``seq`` moved along.

    Imported messages get new ``seq`` from 1 up, so a checkpoint must follow its message.
    """
    given = data.get("messages", [])
    messages = [codec.message_from(index, value) for index, value in enumerate(given)]
    record = {key: value for key, value in data.items() if key in SessionInfo.__struct_fields__} | {
        "last_seq": 0
    }
    info = msgspec.convert(record, SessionInfo, strict=True)
    for field in ("created_at", "updated_at", "expires_at"):
        if not math.isfinite(getattr(info, field) or 0.0):
            raise ValueError(f"{field} is no time")
    if info.checkpoint is not None:
        covered = sum(1 for message in messages if 0 < message.seq <= info.checkpoint.seq)
        moved: Checkpoint = msgspec.structs.replace(info.checkpoint, seq=covered)
        info = msgspec.structs.replace(info, checkpoint=moved)
    return info, messages
