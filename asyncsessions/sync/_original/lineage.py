"""Forks, snapshots and titles in PraisonAI's documents; pure, without I/O."""

from __future__ import annotations

import bisect
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec

from asyncsessions.codec import encode_json
from asyncsessions.errors import StoreUnavailableError
from asyncsessions.hierarchy.saved import own_fields
from asyncsessions.hooks import check_unshared
from asyncsessions.pacing import Breather
from asyncsessions.stores._docformat import loads, parse_list
from asyncsessions.stores._docparts import checkpoint_fields, is_null, read_checkpoint
from asyncsessions.stores._document import Document
from asyncsessions.sync._original.snapshots import Pool, in_place_of_transcript, inlined
from asyncsessions.sync.records import SessionMessage

__all__ = [
    "add_child",
    "add_snapshot",
    "children_of",
    "fork_of",
    "inherit",
    "revert_to_message",
    "revert_to_snapshot",
    "set_fields",
    "snapshots_of",
]

# In the order in which PraisonAI writes them, with what is there where nothing is set.
_FIELDS: Mapping[str, Any] = {
    "parent_id": None,
    "forked_from_message_id": None,
    "children_ids": [],
    "is_shared": False,
    "title": None,
    "snapshots": [],
}
_POOL = "snapshot_storage"


def set_fields(document: Document, **fields: Any) -> None:
    """Set fields of a document, and those that it lacks to what stands for nothing."""
    for key, default in _FIELDS.items():
        if key in fields or document.raw(key) is None:
            document.set_value(key, fields.get(key, default))


def children_of(document: Document) -> list[str]:
    """Return the ids of the sessions that were forked from this one, oldest first."""
    return [each for each in _listed(document.value("children_ids")) if isinstance(each, str)]


def add_child(document: Document, child_id: str) -> None:
    """Note a session that was forked from this one."""
    children = children_of(document)
    if child_id not in children:
        set_fields(document, children_ids=[*children, child_id])


def inherit(document: Document, old: Document) -> None:
    """Take over what a document that this one replaces says of its kin, and this one doesn't."""
    left_out = [key for key in _FIELDS if not document.value(key)]
    if "snapshots" in left_out:
        left_out.append(_POOL)
    for key in left_out:
        raw = old.raw(key)
        if raw is not None:
            document.set_value(key, raw)
    if "snapshots" in left_out:
        document.invalidate_snapshots(0)


def fork_of(document: Document, child_id: str, index: int | None, title: str | None) -> Document:
    """Return a fork with the messages up to an index, or with all of them."""
    entries = document.entries()
    child = Document(child_id, {})
    child.add_entries(entries if index is None else entries[: index + 1])
    info = document.read_info()
    child.set_info(
        msgspec.structs.replace(
            child.info,
            metadata=own_fields(info.metadata),
            state=info.state,
            agent_name=info.agent_name,
        )
    )
    set_fields(
        child,
        parent_id=document.session_id,
        forked_from_message_id=None if index is None else str(index),
        title=title or f"Fork of {document.value('title') or document.session_id}",
    )
    return child


# Snapshots.


@contextmanager
def _understanding(document: Document) -> Iterator[None]:
    """Raise `StoreUnavailableError` for damaged snapshots.

    The session itself is sound, so it isn't to be moved aside.
    """
    try:
        yield
    except ValueError as exc:
        text = f"the snapshots of {document.session_id!r} are damaged, and stay as they are: {exc}"
        raise StoreUnavailableError(text, session_id=document.session_id) from exc


def snapshots_of(document: Document) -> list[dict[str, Any]]:
    """Return the snapshots as exports hold them.

    Raises:
        StoreUnavailableError: They are damaged.
    """
    with _understanding(document):
        return inlined(document.value("snapshots"), document.value(_POOL))


def add_snapshot(
    document: Document, snapshot_id: str, label: str | None, metadata: Mapping[str, Any]
) -> None:
    """Note what the session holds now, archive and checkpoint included.

    Raises:
        StoreUnavailableError: The snapshots that are there are damaged.
    """
    listed = document.raw("snapshots")
    # Or those that refer to what isn't there would refer to something else from now on.
    snapshots_of(document)
    with _understanding(document):
        pool = Pool(document.raw(_POOL))
        older = [] if is_null(listed) or listed is None else parse_list(listed)
    entries = document.entries()
    refs = pool.refer(entries, document.archived(), _checkpoint(document))
    snapshot = {
        "id": snapshot_id,
        "session_id": document.session_id,
        "message_index": len(entries) - 1,
        "created_at": time.time(),
        "label": label,
        "metadata": metadata,
        **in_place_of_transcript(refs),
    }
    set_fields(document, snapshots=[*older, snapshot])
    document.set_value(_POOL, pool.storage)


def _checkpoint(document: Document) -> msgspec.Raw:
    checkpoint = document.checkpoint
    if checkpoint is None:
        return msgspec.Raw(b"null")
    covered = bisect.bisect_right(document.seqs, checkpoint.seq)
    return msgspec.Raw(encode_json(checkpoint_fields(checkpoint, covered)))


def revert_to_snapshot(document: Document, snapshot_id: str) -> bool:
    """Bring a session back to a snapshot; return whether it has one that still holds.

    Raises:
        StoreUnavailableError: The snapshot is damaged.
        SessionSharedError: Others read messages that would go.
    """
    listed = _objects(document.value("snapshots"))
    named = [each for each in listed if each.get("id") == snapshot_id]
    if not named:
        return False
    with _understanding(document):
        snapshot = inlined(named, document.value(_POOL))[0]
        transcript = snapshot.get("transcript")
        if transcript is not None and not _is_transcript(transcript):
            raise ValueError("a transcript isn't what belongs there")
    if snapshot.get("invalidated"):
        return False
    if transcript is not None:
        _restore(document, transcript)
        return True
    index = snapshot.get("message_index", 0)
    if not isinstance(index, int) or index >= len(document.seqs):
        return False
    _keep(document, max(0, index + 1))
    return True


def revert_to_message(document: Document, index: int) -> bool:
    """Remove what came after a message; return whether there is such a message.

    Raises:
        SessionSharedError: Others read messages that would go.
    """
    if not 0 <= index < len(document.seqs):
        return False
    _keep(document, index + 1)
    return True


def _keep(document: Document, count: int) -> None:
    """Remove all messages but so many of the first ones."""
    if count < len(document.seqs):
        first = document.seqs[count]
        check_unshared(document.session_id, document.info.metadata, first)
        document.cut(first)


def _restore(document: Document, transcript: Mapping[str, Any]) -> None:
    messages = _objects(transcript.get("messages"))
    # What is the same stays, under its seq.
    same = _count_same(document.entries(), messages)
    _keep(document, same)
    document.add_entries(msgspec.Raw(encode_json(message)) for message in messages[same:])
    document.set_value("archived_messages", _objects(transcript.get("archived_messages")))
    top = {"last_compaction": msgspec.Raw(encode_json(transcript.get("last_compaction")))}
    checkpoint = read_checkpoint(top, document.seqs, (), None)
    document.set_info(msgspec.structs.replace(document.info, checkpoint=checkpoint))


def _is_transcript(value: Any) -> bool:
    """Whether it can be restored, with what it lacks left empty."""
    return isinstance(value, dict) and isinstance(value.get("last_compaction"), dict | None)


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _objects(value: Any) -> list[dict[str, Any]]:
    return [each for each in _listed(value) if isinstance(each, dict)]


def _count_same(entries: Sequence[msgspec.Raw], messages: Sequence[Mapping[str, Any]]) -> int:
    """Return how many messages, from the first on, are the same."""
    count = 0
    breather = Breather()
    for entry, message in zip(entries, messages, strict=False):
        if SessionMessage.from_dict(loads(entry)) != SessionMessage.from_dict(message):
            break
        count += 1
        breather.breathe()
    return count
