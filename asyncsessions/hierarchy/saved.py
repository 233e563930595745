"""What is stored of forks, snapshots, merges and reverts in a session's metadata."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from asyncsessions.hierarchy.models import Snapshot
from asyncsessions.hooks import SHARED, Change
from asyncsessions.models import Checkpoint, JSONValue, SessionInfo

__all__ = [
    "MERGED",
    "TREE",
    "Part",
    "SavedMerge",
    "SavedRecord",
    "SavedSnapshot",
    "View",
    "count_of",
    "cut",
    "in_tree",
    "new_token",
    "own_fields",
    "shared",
    "skip",
    "under",
    "view_changes",
    "without",
]

TREE = "asyncsessions:tree"
"""The key in a session's metadata of all that this package knows about it."""

MERGED = "merged."
"""What the keys of merges begin with, below that one."""

# All of them are in the session's record, which most calls read, and in each of its snapshots.
_MOST_RUNS = 64


class Part(msgspec.Struct, frozen=True, array_like=True):
    """Messages that stay as they are.

    Attributes:
        source: The session in which they are stored.
        after: They have a higher ``seq`` than this,
        upto: and this one at most.
        count: How many there are.
    """

    source: str
    after: int
    upto: int
    count: int


class View(msgspec.Struct, frozen=True):
    """What a session shows that was forked or reverted.

    Attributes:
        parts: These, and then its own messages
        after: with a higher ``seq`` than this.
        hidden: How many of its own messages that leaves out, when this was written.
    """

    parts: tuple[Part, ...]
    after: int
    hidden: int


class SavedRecord(msgspec.Struct, frozen=True):
    """What a revert brings back beside the messages."""

    metadata: dict[str, Any]
    state: dict[str, Any]
    checkpoint: Checkpoint | None = None

    @classmethod
    def of(cls, info: SessionInfo) -> SavedRecord:
        """Return what a session's record holds now."""
        return cls(own_fields(info.metadata), info.state, info.checkpoint)

    def changes(self, now: SessionInfo) -> list[Change]:
        """Return what brings it back in place of what a record holds now."""
        # Only its own: an imported one may hold anything.
        metadata = own_fields(self.metadata)
        gone = own_fields(now.metadata).keys() - metadata.keys()
        return [
            *(Change(("metadata", key), "remove") for key in gone),
            *(Change(("metadata", key), "set", value) for key, value in metadata.items()),
            Change(("state",), "set", self.state),
            Change(("checkpoint",), "set", self.checkpoint),
        ]


class SavedMerge(msgspec.Struct, frozen=True):
    """How far a session was merged into another.

    Attributes:
        seq: Its newest message then.
        record: What its record held; None: only messages were brought so far.
        runs: Where its messages are, oldest first: so many of them, the first of which has one
            ``seq`` in the other session, and one in its own (``there, here, count``). Only the
            newest ones are kept.
        claim: Up to where somebody has begun to append its messages; 0: nobody has.
        key: Their idempotency key.
        life: Of the session that was merged; see `Lineage.life`.
    """

    seq: int
    record: SavedRecord | None
    runs: tuple[tuple[int, int, int], ...] = ()
    claim: int = 0
    key: str = ""
    life: str = ""

    @property
    def is_begun(self) -> bool:
        """Whether an append of messages was begun, of which nobody has noted the end."""
        return bool(self.key)

    def claimed(self, upto: int) -> SavedMerge:
        """Return it with a note that messages up to one are about to be appended."""
        return msgspec.structs.replace(self, claim=upto, key=uuid.uuid4().hex)

    def unclaimed(self) -> SavedMerge:
        """Return it without such a note."""
        return msgspec.structs.replace(self, claim=0, key="")

    def finished(self, places: Iterable[tuple[int, int]]) -> SavedMerge:
        """Return it with what was appended: for each message its ``seq`` there, and its own."""
        runs = list(self.runs)
        for there, here in places:
            first, own, count = runs[-1] if runs else (0, 0, 0)
            if count and (there, here) == (first + count, own + count):
                runs[-1] = (first, own, count + 1)
            else:
                runs.append((there, here, 1))
        seq = max(self.seq, self.claim)
        return msgspec.structs.replace(self.unclaimed(), seq=seq, runs=tuple(runs[-_MOST_RUNS:]))

    def back_at(self, seq: int) -> SavedMerge:
        """Return what it is when messages after one are taken away from the other session."""
        runs = tuple(
            (there, here, min(count, seq + 1 - there))
            for there, here, count in self.runs
            if there <= seq
        )
        _, own, count = runs[-1] if runs else (0, 1, 0)
        return msgspec.structs.replace(self, seq=own + count - 1, runs=runs)

    def moved(self, after: int, to: int) -> SavedMerge:
        """Return it when what comes after one message there is put anew, the last one at ``to``."""
        kept = self.back_at(after)
        if kept.runs == self.runs:
            return self
        return msgspec.structs.replace(self, runs=(*kept.runs, (to, self.seq, 1)))

    def change(self, fork_id: str) -> Change:
        """Return what notes it."""
        return in_tree(MERGED + fork_id, msgspec.to_builtins(self))


class SavedSnapshot(msgspec.Struct, frozen=True):
    """A snapshot as it is stored; see `Snapshot`."""

    seq: int
    created_at: float
    parts: tuple[Part, ...]
    record: SavedRecord
    label: str | None = None
    metadata: dict[str, Any] = {}
    is_automatic: bool = False
    merges: dict[str, SavedMerge] = {}

    def public(self, session_id: str, snapshot_id: str) -> Snapshot:
        """Return what a caller gets to see of it."""
        return Snapshot(
            snapshot_id,
            session_id,
            self.seq,
            self.created_at,
            count_of(self.parts),
            self.label,
            self.metadata,
            self.is_automatic,
        )


def view_changes(view: View) -> list[Change]:
    """Return what makes a session show something, whatever it shows now."""
    return [in_tree("view", msgspec.to_builtins(view)), new_token()]


def new_token() -> Change:
    """Return what fails others' changes that depend on what was there; see `Lineage.token`."""
    return in_tree("token", uuid.uuid4().hex)


def in_tree(key: str, value: JSONValue = None) -> Change:
    """Return what sets something under the tree's key, or with None removes it."""
    return Change(("metadata", TREE, key), "remove" if value is None else "set", value)


def under(parent_id: str, seq: int) -> list[Change]:
    """Return what makes a new session belong under another one, as it was at a message."""
    link: dict[str, JSONValue] = {"id": parent_id, "seq": seq}
    return [in_tree("parent", link), in_tree("life", uuid.uuid4().hex)]


def skip(count: int) -> Change:
    """Return what leaves out so many ``seq``; its value is the newest of them."""
    return Change(("last_seq",), "increment", count)


def shared(reader: str, upto: int | None = None) -> Change:
    """Return what notes up to where somebody reads a session, or with None that it doesn't."""
    return Change(("metadata", SHARED, reader), "remove" if upto is None else "set", upto)


def own_fields(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return metadata without what this package put there."""
    return {key: value for key, value in metadata.items() if key not in {TREE, SHARED}}


def count_of(parts: Iterable[Part]) -> int:
    """Return how many messages there are in parts."""
    return sum(part.count for part in parts)


def cut(parts: Sequence[Part], after: int = 0, before: int | None = None) -> Iterator[Part]:
    """Iterate over what lies between two ``seq`` in parts; the count is then an upper bound."""
    for part in parts:
        low = max(part.after, after)
        high = part.upto if before is None else min(part.upto, before - 1)
        if low < high:
            yield Part(part.source, low, high, min(part.count, high - low))


def without(parts: Sequence[Part], seq: int) -> tuple[Part, ...]:
    """Return parts without a message and what came after it."""
    left = list(cut(parts, before=seq + 1))
    last = left.pop()
    whole = next(part for part in parts if part.after == last.after < part.upto)
    if last.after < seq - 1:
        # Where retention has removed some, the count may be too low, but never is the part empty.
        count = max(0, min(whole.count, seq - last.after) - 1)
        left.append(msgspec.structs.replace(last, upto=seq - 1, count=count))
    return tuple(left)
