"""What a session's record says of its forks, snapshots and reverts.

A session shows *parts* of what is stored, one after the other: messages of its own or of the
session that it was forked from, none of which change any more, and then its own newer ones. So a
fork, a snapshot and a revert write down a few numbers, whatever the length of the conversation.

All of it is under one key of the session's metadata, which each step changes at once with whatever
else it changes. Under another key stands who else reads the session's messages, so that no store
removes them meanwhile; see `hooks.check_unshared`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from typing import Any

import msgspec

from asyncsessions.errors import CorruptSessionError
from asyncsessions.hierarchy.saved import (
    MERGED,
    TREE,
    Part,
    SavedMerge,
    SavedRecord,
    SavedSnapshot,
    View,
    count_of,
    cut,
    in_tree,
    new_token,
    own_fields,
    shared,
    view_changes,
)
from asyncsessions.hooks import SHARED, Change
from asyncsessions.models import Checkpoint, SessionInfo

__all__ = ["Lineage"]

_ANNEX, _CHILD, _SNAPSHOT = "annex.", "child.", "snapshot."


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
    def life(self) -> str:
        """What tells a session that belongs under another one apart from others of its id."""
        life = self._tree.get("life")
        return life if isinstance(life, str) else ""

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
        """What of other sessions was merged into this one, by their ids."""
        keys = [key for key in self._tree if key.startswith(MERGED)]
        return {key.removeprefix(MERGED): self._read(key, SavedMerge) for key in keys}

    def merge_of(self, fork: Lineage) -> SavedMerge:
        """Return what of a session was merged into this one."""
        merged = self.merges.get(fork.info.session_id)
        if merged is None or merged.life != fork.life:
            merged = SavedMerge(None, life=fork.life)
        common = self.in_common(fork)
        newest = common[-1].upto if common else 0
        return msgspec.structs.replace(merged, common=max(merged.common, newest))

    def has(self, seq: int) -> bool:
        """Whether it shows a message of its own, unless that was removed."""
        own = (part for part in self.parts if part.source == self.info.session_id)
        return any(part.after < seq <= part.upto for part in own)

    @property
    def is_being_merged(self) -> bool:
        """Whether a merge has begun to append messages to it, and nobody has noted the end."""
        return any(merge.is_begun for merge in self.merges.values())

    @staticmethod
    def unmerged(fork_id: str) -> Change:
        """Return what forgets that a session was merged into this one."""
        return in_tree(MERGED + fork_id)

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
        view = View(parts, self.info.last_seq, self.hiding())
        return [self.unless_changed(), *view_changes(view)]

    def hiding(self, shown: int = 0) -> int:
        """Return how many messages are hidden by a view that shows so many of its own newest.

        0 where a clear is about to remove them all, or was cut off before it did: the view knows
        of fewer than there are.
        """
        info, view = self.info, self.view
        is_cleared = info.message_count - view.hidden > info.last_seq - view.after
        return 0 if is_cleared else info.message_count - shown

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
