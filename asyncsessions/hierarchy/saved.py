"""What is stored of forks, snapshots, merges and reverts in a session's metadata."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import reduce
from typing import Any

import msgspec

from asyncsessions.hierarchy.models import Snapshot
from asyncsessions.hooks import SHARED, Change
from asyncsessions.models import Checkpoint, JSONValue, SessionInfo

__all__ = [
    "MERGED",
    "TREE",
    "Part",
    "Run",
    "SavedMerge",
    "SavedRecord",
    "SavedSnapshot",
    "View",
    "count_of",
    "cut",
    "in_tree",
    "new_token",
    "own_fields",
    "runs_of",
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
# Where there would be more, two become one around what lies between them.
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


class Run(msgspec.Struct, frozen=True, array_like=True):
    """Messages of a session, one after the other, that were brought to another.

    Attributes:
        there: The ``seq`` of the first of them in the other session,
        here: and in its own.
        count: How many there are.
    """

    there: int
    here: int
    count: int

    def goes_on_with(self, run: Run) -> bool:
        """Whether another one comes right after this one in both sessions."""
        return (run.there, run.here) == (self.there + self.count, self.here + self.count)

    def sized(self, count: int) -> Run:
        """Return as many messages from its first one on."""
        return Run(self.there, self.here, count)

    def places(self) -> Iterator[tuple[int, int]]:
        """Iterate over the ``seq`` of each message there and in its own session."""
        return ((self.there + index, self.here + index) for index in range(self.count))


class SavedMerge(msgspec.Struct, frozen=True):
    """What of a session was merged into another.

    Attributes:
        record: What its record held then; None: only messages were brought so far.
        common: Both had the same messages up to this ``seq``, and those weren't brought.
        runs: Where the messages are that were.
        claim: Those that somebody has begun to append, and where they get if nobody else appends.
        key: Their idempotency key; empty: nobody has begun to.
        life: Of the session that was merged; see `Lineage.life`.
    """

    record: SavedRecord | None
    common: int = 0
    runs: tuple[Run, ...] = ()
    claim: tuple[Run, ...] = ()
    key: str = ""
    life: str = ""

    @property
    def is_begun(self) -> bool:
        """Whether an append of messages was begun, of which nobody has noted the end."""
        return bool(self.key)

    def has(self, seq: int) -> bool:
        """Whether a message was brought."""
        return any(run.here <= seq < run.here + run.count for run in self.runs)

    def gaps(self) -> Iterator[tuple[int, int | None]]:
        """Iterate over what is new in it: ranges of ``seq``, given by what is before and after."""
        after = self.common
        for run in sorted(self.runs, key=lambda run: run.here):
            if after < run.here - 1:
                yield after, run.here
            after = max(after, run.here + run.count - 1)
        yield after, None

    def claimed(self, seqs: Iterable[int], after: int) -> SavedMerge:
        """Return it with a note that messages are about to be appended after another one.

        If there are too many runs of them, it is only the first ones.
        """
        claim = runs_of(enumerate(seqs, after + 1))[:_MOST_RUNS]
        return msgspec.structs.replace(self, claim=claim, key=uuid.uuid4().hex)

    def unclaimed(self) -> SavedMerge:
        """Return it without such a note."""
        return msgspec.structs.replace(self, claim=(), key="")

    def brought(self, runs: Iterable[Run]) -> SavedMerge:
        """Return it with more messages that were brought."""
        joined = _joined((*self.runs, *runs))
        first = max(1, len(joined) + 1 - _MOST_RUNS)
        joined[:first] = [reduce(_around, joined[:first])] if joined else []
        return msgspec.structs.replace(self, runs=tuple(joined))

    def back_at(self, seq: int) -> SavedMerge:
        """Return what it is when messages after one are taken away from the other session."""
        left = (run.sized(min(run.count, seq + 1 - run.there)) for run in self.runs)
        runs = tuple(run for run in left if run.count > 0)
        return msgspec.structs.replace(self, common=min(self.common, seq), runs=runs)

    def moved(self, after: int, places: Mapping[int, int], upto: int) -> SavedMerge:
        """Return it when messages after one are put elsewhere in the other session, or at ``upto``.

        Args:
            after: What comes after this message there was put anew.
            places: Their new ``seq`` by their old one.
            upto: Where it is taken to be what isn't in there.
        """
        moved = (
            (places.get(there, upto), here)
            for run in self.runs
            for there, here in run.places()
            if there > after
        )
        left = self.back_at(after).brought(runs_of(moved))
        return msgspec.structs.replace(left, common=self.common)

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


def runs_of(places: Iterable[tuple[int, int]]) -> tuple[Run, ...]:
    """Return messages in runs, given the ``seq`` of each there and in its own session."""
    return tuple(_joined(Run(there, here, 1) for there, here in places))


def _joined(runs: Iterable[Run]) -> list[Run]:
    joined: list[Run] = []
    for run in runs:
        if joined and joined[-1].goes_on_with(run):
            joined[-1] = joined[-1].sized(joined[-1].count + run.count)
        else:
            joined.append(run)
    return joined


def _around(first: Run, second: Run) -> Run:
    """Return a run of all that lies between two, as if it were where the second one ends."""
    here = min(first.here, second.here)
    count = max(first.here + first.count, second.here + second.count) - here
    return Run(second.there + second.count - count, here, count)


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
