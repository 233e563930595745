"""One flush of a JSON Lines session file, while it is being put together."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from asyncsessions.codec import encode_json
from asyncsessions.hooks import Append, Appended, KeyRecord, Replace, Update, renewed
from asyncsessions.models import SessionInfo
from asyncsessions.pacing import Breather
from asyncsessions.stores._log import HEADER, RECORD, Commit, flushed

__all__ = ["Draft", "header_line", "plain_flush", "record_line"]

_EMPTY = SessionInfo(session_id="")
# Messages that are put together before other threads get a chance to run.
_SLICE = 256


def record_line(info: SessionInfo) -> bytes:
    """Return the line of a record, without its defaults and without the commit's counters."""
    counters = {"last_seq", "message_count", "updated_at", "expires_at"}
    fields = {
        name: getattr(info, name)
        for name in info.__struct_fields__
        if name not in counters and getattr(info, name) != getattr(_EMPTY, name)
    }
    return b"%b%b}\n" % (RECORD, encode_json(fields))


def header_line(session_id: str) -> bytes:
    """Return the first line of a file."""
    return b'%b"session_id":%b}\n' % (HEADER, encode_json(session_id))


def plain_flush(
    commit: Commit, end: int, batch: Sequence[Append]
) -> tuple[bytes, Commit, list[Appended]] | None:
    """Return the flush of appends to a session that has messages, its commit and the outcomes.

    It is what `Draft` makes of them, in half the time, for the appends that are the rule:
    without a key or an expected ``seq``. For others it returns None.
    """
    if not commit.count:
        return None
    seq = commit.seq
    lines: list[bytes] = []
    outcomes: list[Appended] = []
    for append in batch:
        if not append.is_plain:
            return None
        outcomes.append(Appended(seq + 1, append.now))
        for body in append.bodies:
            seq += 1
            # `codec.with_seq`, without a call and another copy for each message.
            lines.append(b'{"seq":%d,%b\n' % (seq, body[1:]))
    body = b"".join(lines)
    commit = replace(
        commit,
        seq=seq,
        count=commit.count + len(lines),
        tail=end + len(body),
        # All of one store's appends prolong the session alike, so the last one counts.
        updated_at=append.now,
        expires_at=renewed(commit.expires_at, append),
    )
    return flushed(commit, body), commit, outcomes


class Draft:
    """A flush that is being put together."""

    __slots__ = ("commit", "end", "is_changed", "keys", "lines", "record_size")

    def __init__(self, commit: Commit, end: int) -> None:
        self.commit = replace(commit)
        self.end = end
        self.lines: list[bytes] = []
        self.keys: dict[str, KeyRecord] = {}
        self.record_size = 0
        self.is_changed = False

    def add(self, line: bytes) -> int:
        """Add a line; return the offset that it will have."""
        offset = self.end
        self.lines.append(line)
        self.end += len(line)
        self.is_changed = True
        return offset

    def add_messages(self, bodies: Sequence[bytes]) -> int:
        """Add messages with new ``seq``; return the first one."""
        commit = self.commit
        first = commit.seq + 1
        if len(bodies) > _SLICE:
            breather = Breather()
            for start in range(0, len(bodies), _SLICE):
                self.add_messages(bodies[start : start + _SLICE])
                breather.breathe()
            return first
        if not bodies:
            return first
        if not commit.count:
            commit.first, commit.first_at = first, self.end
        # `codec.with_seq`, without a call and another copy for each message.
        lines = [b'{"seq":%d,%b\n' % (seq, body[1:]) for seq, body in enumerate(bodies, first)]
        self.lines += lines
        self.end += sum(map(len, lines))
        commit.seq += len(bodies)
        commit.count += len(bodies)
        commit.tail = self.end
        self.is_changed = True
        return first

    def set_record(self, info: SessionInfo) -> None:
        line = record_line(info)
        self.record_size = len(line)
        self.commit.record = self.add(line)

    def touch(self, write: Append | Update | Replace) -> None:
        self.commit.updated_at = write.now
        self.commit.expires_at = renewed(self.commit.expires_at, write)
        self.is_changed = True
