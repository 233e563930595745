"""What a session's record says of its forks, snapshots and reverts.

A session shows *parts* of what is stored, one after the other: messages of its own or of the
session that it was forked from, none of which change any more, and then its own newer ones. So a
fork, a snapshot and a revert write down a few numbers, whatever the length of the conversation.

All of it is under one key of the session's metadata, which each step changes at once with whatever
else it changes. Under another key stands who else reads the session's messages, so that no store
removes them meanwhile; see `hooks.check_unshared`.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import msgspec

from asyncsessions.errors import CorruptSessionError
from asyncsessions.hierarchy.models import Snapshot
from asyncsessions.hooks import SHARED, Change
from asyncsessions.models import Checkpoint, JSONValue, SessionInfo

__all__ = [
    "TREE",
    "Lineage",
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
    "view_changes",
    "without",
]

TREE = "asyncsessions:tree"
"""The key in a session's metadata of all that this package knows about it."""

_ANNEX, _CHILD, _MERGED, _SNAPSHOT = "annex.", "child.", "merged.", "snapshot."
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
    life: tuple[float, int] | None = None

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
        return in_tree(_MERGED + fork_id, msgspec.to_builtins(self))


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


class _Parent(msgspec.Struct, frozen=True):
    id: str
    seq: int


class Lineage:
    """What a session's record says of its kin, and what it shows.

    Args:
        info: The record, as the store has it.
    """

    def __init__(self, info: SessionInfo) -> None:
        self.info = info
        tree = info.metadata.get(TREE)
        self._tree: Mapping[str, Any] = tree if isinstance(tree, dict) else {}
        sharers = info.metadata.get(SHARED)
        #: Who reads the session's messages: forks and snapshots, and up to which ``seq`` of them.
        self.sharers: Mapping[str, int] = sharers if isinstance(sharers, dict) else {}

    def _read(self, key: str, kind: Any) -> Any:
        value = self._tree.get(key)
        if value is None:
            return None
        try:
            return msgspec.convert(value, kind)
        except msgspec.ValidationError as exc:
            detail = f"{key} in its metadata under {TREE!r} is not what belongs there: {exc}"
            raise CorruptSessionError(detail, session_id=self.info.session_id) from exc

    @property
    def has_kin(self) -> bool:
        """Whether there is anything to say of forks, snapshots or reverts."""
        return bool(self._tree.keys() - {"token"} or self.sharers)

    @property
    def is_plain(self) -> bool:
        """Whether it shows all of its own messages, and others only read them, if at all."""
        return "view" not in self._tree

    @cached_property
    def view(self) -> View:
        """What it shows."""
        return self._read("view", View) or View((), 0, 0)

    @property
    def token(self) -> str | None:
        """What changes with what it shows, its snapshots and merges, and when it is deleted."""
        token = self._tree.get("token")
        return token if isinstance(token, str) else None

    @property
    def parent(self) -> _Parent | None:
        """Which session it was forked from, and at which ``seq``."""
        # A deleted session's id may be in use again, for one that was never forked.
        return self.source if self._tree.get("gone") is None else None

    @property
    def source(self) -> _Parent | None:
        """The same, also after it was deleted: whose messages its readers need, too."""
        parent: _Parent | None = self._read("parent", _Parent)
        return parent

    @property
    def born(self) -> int:
        """The newest ``seq`` of a deleted session that had its id; 0 if there was none."""
        born = self._tree.get("born")
        return born if isinstance(born, int) else 0

    @property
    def life(self) -> tuple[float, int]:
        """What tells it apart from sessions that had its id before."""
        return self.info.created_at, self.born

    @property
    def annexes(self) -> list[str]:
        """Where messages are stored that it shows and that were never appended to it."""
        return [key.removeprefix(_ANNEX) for key in self._tree if key.startswith(_ANNEX)]

    @property
    def sources(self) -> list[str]:
        """The sessions whose messages are kept because of it."""
        return [*self.annexes, *([] if self.source is None else [self.source.id])]

    @property
    def origin(self) -> SavedRecord | None:
        """The parent's record when it was forked from it."""
        origin: SavedRecord | None = self._read("origin", SavedRecord)
        return origin

    @property
    def copied(self) -> tuple[Part, ...]:
        """What its first messages are copies of, where some are; they have the same ``seq``."""
        copied: tuple[Part, ...] = self._read("copied", tuple[Part, ...]) or ()
        return copied

    @property
    def is_shared(self) -> bool:
        """Whether `share_session` was called."""
        return self._tree.get("is_shared") is True

    @property
    def children(self) -> list[str]:
        """The sessions that were forked from it, oldest first, and maybe some that never were."""
        found = [(value, key) for key, value in self.noted_children.items()]
        return [key for _, key in sorted(found, key=_when)]

    @property
    def noted_children(self) -> dict[str, float]:
        """When each of these was noted, in seconds since the epoch."""
        noted = [key for key in self._tree if key.startswith(_CHILD)]
        return {key.removeprefix(_CHILD): self._tree[key] for key in noted}

    @property
    def snapshots(self) -> dict[str, SavedSnapshot]:
        """Its snapshots by id, oldest first."""
        keys = [key for key in self._tree if key.startswith(_SNAPSHOT)]
        found = {key.removeprefix(_SNAPSHOT): self._read(key, SavedSnapshot) for key in keys}
        return dict(sorted(found.items(), key=lambda each: each[1].created_at))

    @property
    def merges(self) -> dict[str, SavedMerge]:
        """How far other sessions were merged into this one, by their ids."""
        keys = [key for key in self._tree if key.startswith(_MERGED)]
        return {key.removeprefix(_MERGED): self._read(key, SavedMerge) for key in keys}

    def merge_of(self, fork: Lineage) -> SavedMerge:
        """Return how far a session was merged into this one."""
        merged = self.merges.get(fork.info.session_id)
        if merged is None or merged.life != fork.life:
            return SavedMerge(0, None, life=fork.life)
        return merged

    @property
    def is_being_merged(self) -> bool:
        """Whether a merge has begun to append messages to it, and nobody has noted the end."""
        return any(merge.is_begun for merge in self.merges.values())

    @staticmethod
    def unmerged(fork_id: str) -> Change:
        """Return what forgets that a session was merged into this one."""
        return in_tree(_MERGED + fork_id)

    def only_merged(self, merges: Mapping[str, SavedMerge]) -> list[Change]:
        """Return what makes these all that was merged, as far as it shows now."""
        gone = self.merges.keys() - merges.keys()
        return [
            *map(self.unmerged, gone),
            *(merge.change(fork_id) for fork_id, merge in merges.items()),
        ]

    @property
    def is_gone(self) -> bool:
        """Whether it was deleted, and is stored only for those who read its messages."""
        gone = self._tree.get("gone")
        info = self.info
        return (
            isinstance(gone, int)
            and info.last_seq <= gone
            and not own_fields(info.metadata)
            and not info.state
            and info.checkpoint is None
            and info.agent_name is info.user_id is info.agent_id is info.gateway_session_id is None
        )

    @cached_property
    def parts(self) -> tuple[Part, ...]:
        """All that it shows, up to its newest message now."""
        info, view = self.info, self.view
        if not info.message_count or info.last_seq <= view.after:
            return view.parts
        # Where a clear was cut off, or a store's own user removed some, the count may be wrong.
        count = min(max(0, info.message_count - view.hidden), info.last_seq - view.after)
        own = Part(info.session_id, view.after, info.last_seq, count)
        return (*view.parts, own)

    def in_common(self, other: Lineage) -> list[Part]:
        """Return what both sessions show, from their first message on; of copies, the originals."""
        common: list[Part] = []
        pairs = zip(self.originals(self.parts), other.originals(other.parts), strict=False)
        for mine, theirs in pairs:
            if (mine.source, mine.after) != (theirs.source, theirs.after):
                break
            common.append(min(mine, theirs, key=lambda part: part.upto))
            if mine.upto != theirs.upto:
                break
        return common

    def originals(self, parts: Iterable[Part]) -> Iterator[Part]:
        """Iterate over parts, with what was copied in place of the copies."""
        copied = self.copied
        newest = copied[-1].upto if copied else 0
        for part in parts:
            if part.after >= newest:
                yield part
                continue
            pieces = list(cut(copied, part.after, part.upto + 1))
            yield from pieces
            if part.upto > newest:
                own = max(0, part.count - count_of(pieces))
                yield Part(part.source, newest, part.upto, own)

    def shown(self) -> SessionInfo:
        """Return the record as a caller gets to see it."""
        info = self.info
        if TREE not in info.metadata and SHARED not in info.metadata:
            return info
        metadata = own_fields(info.metadata)
        return msgspec.structs.replace(info, metadata=metadata, message_count=count_of(self.parts))

    def checkpoint_at(self, seq: int) -> Checkpoint | None:
        """Return the compaction checkpoint, unless it covers messages after one."""
        checkpoint = self.info.checkpoint
        return None if checkpoint is None or checkpoint.seq > seq else checkpoint

    def own_upto(self, parts: Iterable[Part]) -> int:
        """Return the newest of its own messages among parts; 0 if there is none."""
        own = self.info.session_id
        return max((part.upto for part in parts if part.source == own), default=0)

    def snapshot(self, parts: tuple[Part, ...], now: float, **fields: Any) -> SavedSnapshot:
        """Return a snapshot of the session as it is, showing these parts."""
        record = SavedRecord.of(self.info)
        return SavedSnapshot(self.info.last_seq, now, parts, record, merges=self.merges, **fields)

    def keep(self, snapshot_id: str, snapshot: SavedSnapshot) -> list[Change]:
        """Return what stores a snapshot, with the messages that it needs."""
        return [
            new_token(),
            in_tree(_SNAPSHOT + snapshot_id, msgspec.to_builtins(snapshot)),
            # Of at least one message, or a clear would let go of those that are stored elsewhere.
            shared(snapshot_id, max(1, self.own_upto(snapshot.parts)) if snapshot.parts else 0),
        ]

    def show(self, parts: tuple[Part, ...]) -> list[Change]:
        """Return what makes it show these parts and what is appended from now on."""
        return [
            self.unless_changed(),
            *view_changes(View(parts, self.info.last_seq, self.info.message_count)),
        ]

    def unless_changed(self) -> Change:
        """Return what fails a change if something else changed the token meanwhile."""
        return Change(("metadata", TREE, "token"), "expect", self.token)

    def again(self) -> list[Change]:
        """Return what makes a deleted session one again, an empty one."""
        return [self.unless_changed(), in_tree("gone", -1)]

    @staticmethod
    def forget(snapshot_ids: Iterable[str]) -> list[Change]:
        """Return what removes snapshots."""
        return [
            change for each in snapshot_ids for change in (in_tree(_SNAPSHOT + each), shared(each))
        ]

    @staticmethod
    def annex(annex_id: str, now: float | None) -> Change:
        """Return what notes an annex, or with None forgets it."""
        return in_tree(_ANNEX + annex_id, now)

    @staticmethod
    def child(child_id: str, now: float | None) -> Change:
        """Return what notes a fork, or with None forgets it."""
        return in_tree(_CHILD + child_id, now)


def _when(child: tuple[Any, str]) -> tuple[float, str]:
    moment, key = child
    return (moment if isinstance(moment, int | float) else 0.0, key)


def view_changes(view: View) -> list[Change]:
    """Return what makes a session show something, whatever it shows now."""
    return [in_tree("view", msgspec.to_builtins(view)), new_token()]


def new_token() -> Change:
    """Return what fails others' changes that depend on what was there; see `Lineage.token`."""
    return in_tree("token", uuid.uuid4().hex)


def in_tree(key: str, value: JSONValue = None) -> Change:
    """Return what sets something under the tree's key, or with None removes it."""
    return Change(("metadata", TREE, key), "remove" if value is None else "set", value)


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
