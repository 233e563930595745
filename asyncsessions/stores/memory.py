"""Sessions in this process's memory: for tests, demos and throw-away bots."""

from __future__ import annotations

import bisect
import sys
from collections.abc import Sequence
from typing import Any, Self

import msgspec
from msgspec.structs import asdict

from asyncsessions._compat import override
from asyncsessions.base import BaseSessionStore
from asyncsessions.codec import MAX_DEPTH, decode_info, decode_message, encode_info, with_seq
from asyncsessions.errors import SessionStoreError
from asyncsessions.history import is_tool_result, messages_to_drop
from asyncsessions.hooks import (
    Append,
    Appended,
    KeyRecord,
    Replace,
    Replaced,
    Scan,
    Tail,
    Update,
    Window,
    admit,
    apply_changes,
    check_unshared,
    renewed,
)
from asyncsessions.models import Checkpoint, JSONValue, SessionInfo
from asyncsessions.pacing import paced
from asyncsessions.values import Taking, is_large_value

__all__ = ["InMemorySessionStore"]


class InMemorySessionStore(BaseSessionStore):
    """Keeps sessions in memory, as encoded bytes; nothing outlives the object.

    No hook awaits anything, so each is atomic on its event loop. For use from one event loop.
    """

    _driver_errors = ()

    @override
    @classmethod
    def from_url(cls, url: str, **options: Any) -> Self:
        """Return a new, empty store; see `open_store`."""
        if url != "memory://":
            raise ValueError(f"{url!r}: write memory://, and give options as arguments")
        return cls(**options)

    @override
    async def _open(self) -> None:
        self._sessions: dict[str, _Session] = {}

    @override
    async def _close(self) -> None:
        self._sessions = {}

    @override
    async def _append(self, batch: Sequence[Append]) -> list[Appended | SessionStoreError]:
        return [self._store(append) for append in batch]

    def _store(self, append: Append) -> Appended | SessionStoreError:
        session = self._existing(append.session_id, append.now) or _Session(append.session_id)
        outcome = session.append(append)
        self._keep(session)
        return outcome

    @override
    async def _update(
        self, batch: Sequence[Update]
    ) -> list[list[JSONValue] | SessionStoreError | None]:
        return [self._apply(update) for update in batch]

    def _apply(self, update: Update) -> list[JSONValue] | SessionStoreError | None:
        session = self._existing(update.session_id, update.now)
        if session is None and not update.create:
            return None
        session = session or _Session(update.session_id)
        try:
            session.info, values = apply_changes(session.info, update)
        except SessionStoreError as exc:
            return exc
        session.is_written = True
        self._keep(session)
        return values

    def _existing(self, session_id: str, now: float) -> _Session | None:
        session = self._sessions.get(session_id)
        return None if session is None or session.info.is_expired(now) else session

    def _keep(self, session: _Session) -> None:
        # A new session of which nothing was stored was never there.
        if session.is_written:
            self._sessions[session.info.session_id] = session

    @override
    async def _replace(self, replace: Replace) -> Replaced | None:
        session = self._existing(replace.session_id, replace.now)
        newest = session.seqs[-1] if session is not None and session.seqs else 0
        if replace.if_newest not in (None, newest) or (session is None and not replace.create):
            return None
        session = session or _Session(replace.session_id)
        check_unshared(replace.session_id, session.info.metadata, replace.from_seq)
        replaced = session.replace(replace)
        self._keep(session)
        return replaced

    @override
    async def _delete(self, session_id: str, *, expired_at: float | None = None) -> bool:
        session = self._sessions.get(session_id)
        if session is None or (expired_at is not None and not session.info.is_expired(expired_at)):
            return False
        if expired_at is None:
            check_unshared(session_id, session.info.metadata)
        del self._sessions[session_id]
        return True

    @override
    async def _head(self, session_id: str) -> SessionInfo | None:
        session = self._sessions.get(session_id)
        return None if session is None else await _copy(session.info)

    @override
    async def _tail(self, session_id: str, window: Window) -> Tail | None:
        session = self._sessions.get(session_id)
        return None if session is None else Tail(session.read(window), session.info.expires_at)

    @override
    async def _scan(self, scan: Scan) -> list[SessionInfo]:
        infos = (session.info for session in self._sessions.values())
        found = [info for info in infos if scan.matches(info)]
        found.sort(key=lambda info: (info.updated_at, info.session_id), reverse=True)
        return [await _copy(info) for info in found[: scan.limit]]


async def _copy(info: SessionInfo) -> SessionInfo:
    """Return a record whose dicts the caller may change."""
    checkpoint = info.checkpoint
    texts = () if checkpoint is None else (checkpoint.summary, checkpoint.metadata)
    if not is_large_value((info.metadata, info.state, texts)):
        return decode_info(encode_info(info))
    fields = asdict(info) | {"checkpoint": None if checkpoint is None else asdict(checkpoint)}
    copy = await paced(Taking(sys.maxsize).take(fields, "record", 2 * MAX_DEPTH))
    checkpoint = None if checkpoint is None else Checkpoint(**copy["checkpoint"])
    return SessionInfo(**copy | {"checkpoint": checkpoint})


class _Session:
    """One session: its record, and its messages in parallel lists."""

    def __init__(self, session_id: str) -> None:
        self.info = SessionInfo(session_id=session_id)
        self.seqs: list[int] = []
        self.bodies: list[bytes] = []
        self.keys: dict[str, KeyRecord] = {}
        self.is_written = False
        # When to look for keys that are no longer needed: whenever they have doubled.
        self._prune_at = 64

    def append(self, append: Append) -> Appended | SessionStoreError:
        known = None if append.key is None else self.keys.get(append.key)
        outcome = admit(append, last_seq=self.info.last_seq, known=known)
        if outcome is not None:
            return outcome
        first_seq = self.info.last_seq + 1
        self._add(append.bodies)
        if append.keep is not None:
            results = (is_tool_result(decode_message(body)) for body in self.bodies)
            drop = messages_to_drop(results, len(self.seqs) - append.keep)
            del self.seqs[:drop], self.bodies[:drop]
        self._touch(append)
        if append.key is not None:
            count = len(append.bodies)
            record = KeyRecord(append.key, first_seq, count, append.digest, append.now)
            self._remember(record, append.now)
        return Appended(first_seq, append.now)

    def replace(self, replace: Replace) -> Replaced:
        cut = bisect.bisect_left(self.seqs, replace.from_seq)
        removed = len(self.seqs) - cut
        had_checkpoint = self.info.checkpoint is not None
        del self.seqs[cut:], self.bodies[cut:]
        if replace.in_place:
            first_seq = replace.from_seq
            self.seqs.append(first_seq)
            self.bodies.append(with_seq(replace.bodies[0], first_seq))
        else:
            first_seq = self.info.last_seq + 1
            self._add(replace.bodies)
        if replace.drop_checkpoint:
            self.info = msgspec.structs.replace(self.info, checkpoint=None)
        self._touch(replace)
        return Replaced(removed, first_seq, had_checkpoint)

    def read(self, window: Window) -> list[bytes]:
        start, end = window.range_of(self.seqs)
        return self.bodies[start:end]

    def _add(self, bodies: Sequence[bytes]) -> None:
        seq = self.info.last_seq
        for body in bodies:
            seq += 1
            self.seqs.append(seq)
            self.bodies.append(with_seq(body, seq))
        self.info = msgspec.structs.replace(self.info, last_seq=seq)

    def _touch(self, write: Append | Replace) -> None:
        self.is_written = True
        self.info = msgspec.structs.replace(
            self.info,
            created_at=self.info.created_at or write.now,
            updated_at=write.now,
            message_count=len(self.seqs),
            expires_at=renewed(self.info.expires_at, write),
        )

    def _remember(self, record: KeyRecord, now: float) -> None:
        self.keys[record.key] = record
        if len(self.keys) >= self._prune_at:
            oldest = self.seqs[0] if self.seqs else self.info.last_seq + 1
            needed = [each for each in self.keys.values() if each.is_needed(oldest, now)]
            self.keys = {each.key: each for each in needed}
            self._prune_at = 2 * len(self.keys) + 64
