"""Values of a document, whatever another program put there; and its checkpoint among them."""

from __future__ import annotations

import bisect
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from asyncsessions.models import Checkpoint
from asyncsessions.stores._docformat import DamageError, from_iso, loads

__all__ = ["checkpoint_fields", "is_null", "part", "read_checkpoint", "typed"]


def part(top: Mapping[str, Any], key: str, parse: Any) -> Any:
    """Return a parsed value of a document; None where it is null or absent.

    Raises:
        DamageError: It can't be parsed; names the key.
    """
    raw = top.get(key)
    if is_null(raw):
        return None
    try:
        return parse(msgspec.Raw(raw or b""))
    except DamageError as exc:
        raise DamageError(f"{key}: {exc}", key=key) from exc


def is_null(raw: bytes | msgspec.Raw | None) -> bool:
    """Whether a value is null or absent."""
    # Not a copy of what may be megabytes.
    return raw is None or (len(memoryview(raw)) == len(b"null") and bytes(raw) == b"null")


def typed(value: Any, kind: type[Any], default: Any) -> Any:
    """Return a value if it is of a kind, else the default."""
    return value if isinstance(value, kind) and not isinstance(value, bool) else default


def read_checkpoint(
    top: Mapping[str, msgspec.Raw], seqs: Sequence[int], junk: Sequence[int], own: int | None
) -> Checkpoint | None:
    """Return a document's checkpoint; None where it has none.

    Args:
        top: The document's values.
        seqs: The ``seq`` of its messages.
        junk: The places, among all entries, of those that are no messages.
        own: The ``seq`` that this library remembers, which counts as long as it fits.

    Raises:
        DamageError: It can't be understood.
    """
    raw = top.get("last_compaction")
    given = None if is_null(raw) else loads(top["last_compaction"])
    if not given:
        return None
    if not isinstance(given, dict):
        raise DamageError("last_compaction is no object", key="last_compaction")
    index = typed(given.get("message_index"), int, 0)
    index -= sum(place < index for place in junk)
    index = max(0, min(index, len(seqs)))
    covered = seqs[index - 1] if index else 0
    if own is not None and bisect.bisect_right(seqs, own) == index:
        covered = own
    return Checkpoint(
        summary=typed(given.get("summary"), str, ""),
        seq=covered,
        role=typed(given.get("role"), str, "system"),
        tokens_before=typed(given.get("tokens_before"), int, 0),
        tokens_after=typed(given.get("tokens_after"), int, 0),
        timestamp=from_iso(given.get("timestamp")) or 0.0,
        metadata=typed(given.get("metadata"), dict, {}),
    )


def checkpoint_fields(checkpoint: Checkpoint, index: int) -> dict[str, Any]:
    """Return a checkpoint as a document holds it, which counts entries instead of ``seq``."""
    return {
        "summary": checkpoint.summary,
        "message_index": index,
        "role": checkpoint.role,
        "tokens_before": checkpoint.tokens_before,
        "tokens_after": checkpoint.tokens_after,
        "timestamp": checkpoint.timestamp,
        "metadata": checkpoint.metadata,
    }
