"""Proof that what was sent to a store is what it gives back."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import anyio
import msgspec

from asyncsessions.codec import encode_json
from asyncsessions.importing import NO_FIRST_PART
from asyncsessions.models import ImportReport, Message, SessionData
from asyncsessions.protocols import SessionStore

__all__ = ["Ledger", "check"]

# Sessions that are read back at the same time.
_AT_ONCE = 16
_RECORD_FIELDS = ("agent_name", "user_id", "agent_id", "gateway_session_id", "metadata", "state")
_encode_sorted = msgspec.json.Encoder(order="deterministic").encode


class _Digest:
    """A running digest of a session's messages, in order.

    Times are in a chain of their own, which counts only if every message was sent with one:
    otherwise the store sets them.
    """

    __slots__ = ("content", "count", "has_times", "record", "times")

    def __init__(self, record: bytes) -> None:
        self.record = record
        self.content = self.times = b""
        self.count = 0
        self.has_times = True

    def add(self, message: Message) -> None:
        self.count += 1
        self.has_times = self.has_times and bool(message.timestamp)
        self.times = _hash(self.times + encode_json(float(message.timestamp)))
        bare = msgspec.structs.replace(message, seq=0, timestamp=0.0)
        self.content = _hash(self.content + _encode_sorted(bare))

    def equals(self, stored: _Digest) -> bool:
        return (
            self.count == stored.count
            and self.content == stored.content
            and self.record == stored.record
            and (not self.has_times or self.times == stored.times)
        )


def _hash(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()


def _record_digest(fields: Mapping[str, Any]) -> bytes:
    return _hash(_encode_sorted({key: fields.get(key) or None for key in _RECORD_FIELDS}))


class Ledger:
    """What was sent, session by session, as digests."""

    def __init__(self) -> None:
        # One digest for each time that an id came.
        self._sent: dict[str, list[_Digest]] = {}

    def note(self, record: Mapping[str, Any]) -> None:
        """Take note of a record on its way to the store.

        What can't be a session is passed over: the store will refuse and report it.
        """
        session_id = record.get("session_id")
        if not isinstance(session_id, str):
            return
        try:
            if not record.get("part"):
                digest = _Digest(_record_digest(record))
                self._sent.setdefault(session_id, []).append(digest)
            digests = self._sent.get(session_id)
            if digests:
                for message in record.get("messages") or ():
                    digests[-1].add(Message.from_dict(message))
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
            # Such a record is refused, and counts as skipped.
            return

    def expected(self, report: ImportReport) -> dict[str, list[_Digest]]:
        """Return the digests of the sessions that were stored, by id.

        Where an id came more than once, the report doesn't tell which one was stored, so
        whichever is read back is right.
        """
        skipped: dict[str, int] = {}
        for skip in report.skipped:
            # Of such a session something else may have been stored.
            if skip["reason"] != NO_FIRST_PART:
                skipped[skip["session_id"]] = skipped.get(skip["session_id"], 0) + 1
        return {
            session_id: digests
            for session_id, digests in self._sent.items()
            if len(digests) > skipped.get(session_id, 0)
        }


async def check(
    store: SessionStore,
    ledger: Ledger,
    report: ImportReport,
    on_checked: Callable[[], object] = lambda: None,
) -> list[str]:
    """Read back what an import stored; return the ids of sessions that came back different.

    Args:
        store: Where it was stored.
        ledger: What was sent.
        report: What the import says that it did.
        on_checked: Called after each session.
    """
    expected = ledger.expected(report)
    different: list[str] = []
    limiter = anyio.CapacityLimiter(_AT_ONCE)

    async def compare(session_id: str) -> None:
        async with limiter:
            stored = await _stored(store, session_id)
        if not any(sent.equals(stored) for sent in expected[session_id]):
            different.append(session_id)
        on_checked()

    ids = list(expected)
    # In slices, so that a large import doesn't start a task for each session at once.
    for start in range(0, len(ids), 64 * _AT_ONCE):
        async with anyio.create_task_group() as tasks:
            for session_id in ids[start : start + 64 * _AT_ONCE]:
                tasks.start_soon(compare, session_id)
    return different


async def _stored(store: SessionStore, session_id: str) -> _Digest:
    info: SessionData = await store.get_session(session_id, max_messages=0)
    digest = _Digest(_record_digest({key: getattr(info, key) for key in _RECORD_FIELDS}))
    async for message in store.iter_messages(session_id):
        digest.add(message)
    return digest
