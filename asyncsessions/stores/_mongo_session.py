"""A session's document in MongoDB.

The document is the truth about its session, and every change of it a compare-and-set on its
``version``. It holds the newest messages itself (the tail). Older ones are in pages, documents
of their own that never change; the session's document says which ones belong to it, so a page
that it doesn't name is not there for anybody.
"""

from __future__ import annotations

import copy
import secrets
from collections.abc import Iterable
from operator import attrgetter
from typing import Any, TypeAlias, TypeVar

import msgspec
from bson import ObjectId

from asyncsessions.errors import CorruptSessionError, InvalidMessageError
from asyncsessions.hooks import KeyRecord
from asyncsessions.models import Checkpoint, SessionInfo
from asyncsessions.stores._mongo_database import Document

__all__ = [
    "HEAD_FIELDS",
    "MAX_RECORD_BYTES",
    "NAMES",
    "NOT_INFO",
    "Entry",
    "Head",
    "Page",
    "checked",
    "info_of",
    "messages_of",
    "size_of",
    "step",
]

T = TypeVar("T")

Slot: TypeAlias = tuple[int, float, int]
"""A writer's last write: its number, the time, and where the server put it, if it was to decide."""

NAMES = ("agent_name", "user_id", "agent_id", "gateway_session_id")
MAX_RECORD_BYTES = 12 << 20
"""A session's record without its messages; a document of the server holds 16 MiB."""

HEAD_FIELDS: Document = {"tail.bodies": 0}
"""The projection of a session's document without the messages in it."""

NOT_INFO: Document = {"tail": 0, "pages": 0, "keys": 0, "writers": 0, "garbage": 0}
"""The projection of a session's document to its record."""

# How long a store's last write is remembered, in seconds: longer than any retry of it takes.
_WRITER_LIFETIME = 3600.0
_MANY_WRITERS = 16


class Entry(msgspec.Struct, frozen=True, gc=False):
    """Consecutive messages in a session's document.

    Attributes:
        seq: The ``seq`` of the first.
        count: How many there are.
        size: Their bytes.
        bodies: Encoded messages, each on a line of its own; None where they weren't read.
    """

    seq: int
    count: int
    size: int
    bodies: bytes | None = None

    @property
    def last(self) -> int:
        """The ``seq`` of the last message."""
        return self.seq + self.count - 1


_size = attrgetter("size")


def size_of(entries: Iterable[Entry]) -> int:
    """Return the bytes of messages in entries."""
    return sum(map(_size, entries))


def step() -> int:
    """Return by how much a version is above the one before, at random.

    A server that fails may undo a version that was never acknowledged, but was read. Whoever read
    it must not take the version that comes in its place for the same.
    """
    return 1 + secrets.randbits(20)


class Page(msgspec.Struct, frozen=True, gc=False):
    """Messages outside of the session's document.

    Attributes:
        seq: The ``seq`` of the first.
        last: The ``seq`` of the last.
        count: How many there are, those that retention has dropped included.
        size: Their bytes.
        node: The document that holds them.
        level: 0 where it holds messages; else it holds pages of the level below.
    """

    seq: int
    last: int
    count: int
    size: int
    node: ObjectId
    level: int = 0


class _Record(msgspec.Struct, omit_defaults=True):
    """What of a session's record can be any JSON, and so is stored as its text."""

    metadata: dict[str, Any] = {}
    state: dict[str, Any] = {}
    checkpoint: Checkpoint | None = None


_encode_record = msgspec.json.Encoder().encode
_decode_record = msgspec.json.Decoder(_Record).decode
_EMPTY_RECORD = _encode_record(_Record())


class _Stored(msgspec.Struct, gc=False):
    """A session's document, for the driver's values to be checked and taken in one go."""

    session_id: str = msgspec.field(name="_id")
    incarnation: ObjectId
    version: int
    edition: int
    created_at: float
    last_seq: int
    message_count: int
    first_seq: int
    tail: tuple[Entry, ...]
    pages: tuple[Page, ...]
    writers: dict[str, Slot]
    volume: ObjectId | None = None
    updated_at: float | None = None
    expires_at: float | None = None
    agent_name: str | None = None
    user_id: str | None = None
    agent_id: str | None = None
    gateway_session_id: str | None = None
    record: bytes = _EMPTY_RECORD
    keys: tuple[KeyRecord, ...] = ()
    has_old_keys: bool = False
    garbage: tuple[Document, ...] = ()


class Head(msgspec.Struct, gc=False):
    """One version of a session's document; see `docs/mongo.md` for its fields.

    The tuples and dicts are never changed, so that versions may share them.
    """

    session_id: str
    incarnation: ObjectId
    volume: ObjectId
    version: int
    edition: int = 0
    created_at: float = 0.0
    # None: the session was deleted, and what belonged to it is being removed.
    updated_at: float | None = None
    expires_at: float | None = None
    last_seq: int = 0
    message_count: int = 0
    first_seq: int = 1
    names: dict[str, str] = {}
    record: bytes = _EMPTY_RECORD
    tail: tuple[Entry, ...] = ()
    pages: tuple[Page, ...] = ()
    keys: dict[str, KeyRecord] = {}
    has_old_keys: bool = False
    writers: dict[str, Slot] = {}
    garbage: tuple[Document, ...] = ()

    @classmethod
    def new(cls, session_id: str, incarnation: ObjectId, replaced: Head | None) -> Head:
        """Return the head of a session without anything in it.

        Args:
            session_id: The session.
            incarnation: One that no session has had.
            replaced: A deleted or expired session of the same id, which goes.
        """
        # At random, so that a write to a deleted session can't meet the version of a later one.
        head = cls(session_id, incarnation, incarnation, secrets.randbits(52))
        if replaced is not None:
            head.version = replaced.version
            head.writers = replaced.writers
            head.garbage = replaced.garbage
            if replaced.updated_at is not None:
                head.garbage += replaced.remains()
        return head

    @classmethod
    def read(cls, document: Document) -> Head:
        """Return the head in a document.

        Raises:
            CorruptSessionError: The document isn't one of a session.
        """
        stored = checked(document, _Stored, document.get("_id"))
        return cls(
            stored.session_id,
            stored.incarnation,
            stored.volume or stored.incarnation,
            stored.version,
            stored.edition,
            stored.created_at,
            stored.updated_at,
            stored.expires_at,
            stored.last_seq,
            stored.message_count,
            stored.first_seq,
            {name: text for name in NAMES if (text := getattr(stored, name)) is not None},
            stored.record,
            stored.tail,
            stored.pages,
            {key.key: key for key in stored.keys},
            stored.has_old_keys,
            stored.writers,
            stored.garbage,
        )

    def remains(self) -> tuple[Document, ...]:
        """Return what is garbage when the session is gone."""
        return ({"pages": self.volume}, {"keys": self.incarnation})

    def drop_messages(self, volume: ObjectId) -> None:
        """Let go of all messages, and of every page of the session, named or not.

        Args:
            volume: To which later pages belong; that of a new session stays.
        """
        if volume != self.volume:
            self.garbage = (*self.garbage, {"pages": self.volume})
            self.volume = volume
        self.tail, self.pages = (), ()

    def has_vanished(self, moment: float) -> bool:
        """Whether the session was deleted or has expired."""
        if self.updated_at is None:
            return True
        return self.expires_at is not None and self.expires_at <= moment

    @property
    def newest_seq(self) -> int:
        """The ``seq`` of the newest message; 0 where there is none."""
        if self.tail:
            return self.tail[-1].last
        return self.pages[-1].last if self.pages else 0

    @property
    def oldest_seq(self) -> int:
        """A ``seq`` that no message is below."""
        if not self.tail and not self.pages:
            return self.last_seq + 1
        return max(self.first_seq, (self.pages or self.tail)[0].seq)

    def info(self) -> SessionInfo:
        """Return the record as it is shown."""
        try:
            record = _decode_record(self.record)
        except (msgspec.DecodeError, UnicodeDecodeError) as exc:
            detail = f"its record can't be decoded: {exc}"
            raise CorruptSessionError(detail, session_id=self.session_id) from exc
        return SessionInfo(
            session_id=self.session_id,
            created_at=self.created_at,
            updated_at=self.updated_at or 0.0,
            last_seq=self.last_seq,
            message_count=self.message_count,
            metadata=record.metadata,
            state=record.state,
            checkpoint=record.checkpoint,
            expires_at=self.expires_at,
            **self.names,
        )

    def take(self, info: SessionInfo) -> None:
        """Take over a changed record.

        Raises:
            InvalidMessageError: It is too large for a document of the server.
        """
        self.names = {name: text for name in NAMES if (text := getattr(info, name)) is not None}
        self.record = _encode_record(_Record(info.metadata, info.state, info.checkpoint))
        size = len(self.record) + sum(len(text.encode()) for text in self.names.values())
        if size > MAX_RECORD_BYTES:
            text = f"the session's record would be {size} bytes, over {MAX_RECORD_BYTES}; remove"
            raise InvalidMessageError(
                f"{text} something from its state or metadata first",
                field="state",
                session_id=self.session_id,
            )
        self.created_at, self.updated_at = info.created_at, info.updated_at
        self.expires_at = info.expires_at

    def sign(self, writer: str, counter: int, now: float) -> None:
        """Make it the next version, by a writer that will know it again.

        Args:
            writer: The writer.
            counter: Its number for this version.
            now: The time, by a clock that all writers share.
        """
        self.version += step()
        writers = self.writers
        if len(writers) >= _MANY_WRITERS:
            recent = now - _WRITER_LIFETIME
            writers = {name: last for name, last in writers.items() if last[1] > recent}
        self.writers = writers | {writer: (counter, now, 0)}

    def is_signed(self, writer: str, counter: int) -> bool:
        """Whether the last write of a writer is this one."""
        last = self.writers.get(writer)
        return last is not None and last[0] == counter

    @property
    def size(self) -> int:
        """About how many bytes its document has at the most."""
        return len(self.record) + size_of(self.tail)

    def document(self) -> Document:
        """Return the whole document."""
        document: Document = {
            "_id": self.session_id,
            "incarnation": self.incarnation,
            "version": self.version,
            "edition": self.edition,
            "created_at": self.created_at,
            "last_seq": self.last_seq,
            "message_count": self.message_count,
            "first_seq": self.first_seq,
            "tail": [msgspec.structs.asdict(entry) for entry in self.tail],
            "pages": [msgspec.structs.asdict(page) for page in self.pages],
            "writers": self.writers,
        }
        if self.updated_at is not None:
            document["updated_at"] = self.updated_at
        return document | self.names | self._optional()

    def _optional(self) -> Document:
        """Return the fields that are there only where they say something."""
        fields: Document = {}
        if self.volume != self.incarnation:
            fields["volume"] = self.volume
        if self.expires_at is not None:
            fields["expires_at"] = self.expires_at
        if self.record is not _EMPTY_RECORD and self.record != _EMPTY_RECORD:
            fields["record"] = self.record
        if self.keys:
            fields["keys"] = [msgspec.structs.asdict(key) for key in self.keys.values()]
        if self.has_old_keys:
            fields["has_old_keys"] = True
        if self.garbage:
            fields["garbage"] = list(self.garbage)
        return fields

    def outline(self) -> Head:
        """Return which messages it holds and where, without what may be large."""
        outline = copy.copy(self)
        outline.record, outline.keys = _EMPTY_RECORD, {}
        return outline

    def committed(self) -> Head:
        """Return it as it is remembered: without the bodies of messages."""
        count = len(self.tail)
        while count and self.tail[count - 1].bodies is not None:
            count -= 1
        if count < len(self.tail):
            added = [Entry(entry.seq, entry.count, entry.size) for entry in self.tail[count:]]
            self.tail = (*self.tail[:count], *added)
        return self


def checked(value: object, kind: type[T], session_id: object) -> T:
    """Return what was read from MongoDB as what it must be.

    Args:
        value: What was read, of a session's document or of one that belongs to it.
        kind: What it must be.
        session_id: The session.

    Raises:
        CorruptSessionError: It isn't.
    """
    try:
        return msgspec.convert(value, kind, builtin_types=(bytes,))
    except msgspec.ValidationError as exc:
        raise CorruptSessionError(
            f"a document in MongoDB isn't as this store writes it: {exc}",
            session_id=session_id if isinstance(session_id, str) else None,
        ) from exc


def messages_of(
    bodies: bytes | None, runs: Iterable[tuple[int, int]], session_id: str
) -> list[tuple[int, bytes]]:
    """Return encoded messages with their ``seq``.

    Args:
        bodies: The messages, each on a line of its own.
        runs: From which ``seq`` on how many of them follow one another.
        session_id: The session.

    Raises:
        CorruptSessionError: There are more or fewer.
    """
    lines = (bodies or b"").split(b"\n")
    seqs = [seq for start, count in runs for seq in range(start, start + count)]
    if len(lines) != len(seqs):
        detail = "a document in MongoDB doesn't hold as many messages as it says"
        raise CorruptSessionError(detail, session_id=session_id)
    return list(zip(seqs, lines, strict=True))


def info_of(document: Document) -> SessionInfo:
    """Return the record in a document that was read without the fields of `NOT_INFO`."""
    return Head.read(dict.fromkeys(NOT_INFO, ()) | {"edition": 0, "writers": {}} | document).info()
