"""Snapshots as PraisonAI's files hold them, each message once for all of them; pure, without I/O.

A snapshot in a file has no transcript but references to records, which all snapshots of the file
share. Readers that don't know of those find it marked as invalidated, and so leave it alone.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec

from asyncsessions.codec import encode_json
from asyncsessions.pacing import Breather
from asyncsessions.stores._docformat import compact, parse_object
from asyncsessions.stores._docparts import is_null
from asyncsessions.sync._original.plain import dumps

__all__ = ["Pool", "in_place_of_transcript", "inlined", "stored_form"]

_VERSION = 1
_LISTS = ("messages", "archived_messages")
_CHECKPOINT = "last_compaction"
# What stands in a file in place of a transcript.
_STORED = ("transcript_refs", "transcript_invalidated", "invalidated")


class Pool:
    """The records that a file's snapshots share.

    Args:
        storage: What the file has under ``snapshot_storage``.

    Raises:
        ValueError: It is damaged, or of a later version.
    """

    def __init__(self, storage: msgspec.Raw | None = None) -> None:
        self._records: dict[str, msgspec.Raw] = {}
        if storage is not None and not is_null(storage):
            stored = parse_object(storage)
            if bytes(stored.get("version", b"")) != b"%d" % _VERSION or "records" not in stored:
                raise ValueError("snapshot_storage isn't what this version knows")
            self._records = parse_object(stored["records"])
        self._keys = {bytes(record): key for key, record in self._records.items()}

    def refer(
        self,
        messages: Iterable[msgspec.Raw],
        archived: Iterable[msgspec.Raw],
        checkpoint: msgspec.Raw,
    ) -> dict[str, Any]:
        """Return references to a transcript, whose records are added where they are new."""
        breather = Breather()

        def keys(records: Iterable[msgspec.Raw]) -> Iterator[str]:
            for record in records:
                yield self._key(record)
                breather.breathe()

        return {
            "messages": {"items": [*keys(messages)]},
            "archived_messages": {"items": [*keys(archived)]},
            _CHECKPOINT: {"value": self._key(checkpoint)},
        }

    def _key(self, record: msgspec.Raw) -> str:
        record = compact(record)
        key = self._keys.get(bytes(record))
        if key is None:
            number = len(self._records)
            while str(number) in self._records:
                number += 1
            key = self._keys[bytes(record)] = str(number)
            self._records[key] = record
        return key

    @property
    def storage(self) -> dict[str, Any]:
        """What belongs under ``snapshot_storage``."""
        return {"version": _VERSION, "records": self._records}


def in_place_of_transcript(refs: Mapping[str, Any], *, invalidated: bool = False) -> dict[str, Any]:
    """Return what a snapshot in a file has instead of its transcript."""
    return {"transcript_refs": refs, "invalidated": True, "transcript_invalidated": invalidated}


def inlined(snapshots: Any, storage: Any) -> list[dict[str, Any]]:
    """Return a file's snapshots with their transcripts; what is no object is left out.

    Args:
        snapshots: What the file has under ``snapshots``.
        storage: What it has under ``snapshot_storage``.

    Raises:
        ValueError: A record that a snapshot needs is missing or damaged.
    """
    listed = snapshots if isinstance(snapshots, list) else []
    return [_inlined(each, storage) for each in listed if isinstance(each, dict)]


def _inlined(snapshot: dict[str, Any], storage: Any) -> dict[str, Any]:
    if "transcript_refs" not in snapshot:
        return snapshot
    refs, records = snapshot["transcript_refs"], None
    if isinstance(storage, dict) and storage.get("version") == _VERSION:
        records = storage.get("records")
    if not isinstance(records, dict) or not isinstance(refs, dict) or "transcript" in snapshot:
        raise ValueError("what its snapshots share is damaged")
    transcript = {name: _resolved(name, ref, records) for name, ref in refs.items()}
    if not _is_whole(transcript):
        raise ValueError("a snapshot's transcript is incomplete")
    header = {key: value for key, value in snapshot.items() if key not in _STORED}
    invalidated = bool(snapshot.get("transcript_invalidated"))
    return header | {"transcript": transcript, "invalidated": invalidated}


def _resolved(name: str, ref: Any, records: Mapping[str, Any]) -> Any:
    try:
        if ref.keys() == {"items"} and name != _CHECKPOINT:
            return [_copied(records[key]) for key in ref["items"]]
        if ref.keys() == {"value"}:
            return _copied(records[ref["value"]])
    except (AttributeError, KeyError, TypeError) as exc:
        raise ValueError(f"a snapshot's {name} can't be found") from exc
    raise ValueError(f"a snapshot's {name} is no reference")


def _copied(record: Any) -> Any:
    """Return a record for one snapshot alone."""
    if not isinstance(record, dict):
        return record
    # Most of a message are texts, which nobody can change; deepcopy would look at each of them.
    return {
        key: copy.deepcopy(value) if isinstance(value, dict | list) else value
        for key, value in record.items()
    }


def _is_whole(transcript: Any) -> bool:
    """Whether a transcript has all that belongs there, so that it may be pooled."""
    if not isinstance(transcript, dict) or not {*_LISTS, _CHECKPOINT} <= transcript.keys():
        return False
    checkpoint = transcript[_CHECKPOINT]
    return (checkpoint is None or isinstance(checkpoint, dict)) and all(
        isinstance(transcript[name], list)
        and all(isinstance(message, dict) for message in transcript[name])
        for name in _LISTS
    )


def stored_form(session: Mapping[str, Any]) -> dict[str, msgspec.Raw]:
    """Return an exported session's values as a file holds them, its snapshots' records pooled.

    Raises:
        InvalidMessageError: A value can't be stored as JSON.
    """
    given = session.get("snapshots") or ()
    pool = Pool()
    snapshots = [_pooled(snapshot, pool) for snapshot in given]
    top = {key: msgspec.Raw(dumps(value)) for key, value in session.items() if key != "snapshots"}
    if "snapshots" in session:
        top["snapshots"] = msgspec.Raw(dumps(snapshots))
    if any("transcript_refs" in snapshot for snapshot in snapshots):
        top["snapshot_storage"] = msgspec.Raw(encode_json(pool.storage))
    return top


def _pooled(snapshot: Mapping[str, Any], pool: Pool) -> dict[str, Any]:
    transcript = snapshot.get("transcript")
    if not isinstance(transcript, dict) or not _is_whole(transcript):
        return dict(snapshot)
    refs = pool.refer(
        [msgspec.Raw(dumps(message)) for message in transcript["messages"]],
        [msgspec.Raw(dumps(message)) for message in transcript["archived_messages"]],
        msgspec.Raw(dumps(transcript[_CHECKPOINT])),
    )
    header = {key: value for key, value in snapshot.items() if key not in {"transcript", *_STORED}}
    return header | in_place_of_transcript(refs, invalidated=bool(snapshot.get("invalidated")))
