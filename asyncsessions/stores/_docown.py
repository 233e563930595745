"""What a session's document has no place for, above all the numbers of its messages.

It is under the reserved key of the document's metadata, which PraisonAI keeps as it is.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import Any

import msgspec

from asyncsessions.hooks import KeyRecord
from asyncsessions.pacing import Breather
from asyncsessions.stores._docformat import RESERVED, DamageError
from asyncsessions.stores._docmessage import identity

__all__ = ["Own", "number", "runs"]

# Keys are looked through for what is no longer needed whenever they have doubled from here.
_PRUNE_FROM = 64


class Own(msgspec.Struct, omit_defaults=True):
    """What a document has no place for; under the reserved key of its metadata.

    Attributes:
        version: Of this layout: 1; 0 until it is written, so that it always is.
        session_id: Whose it is; in a copy of the metadata (a fork) it is another's.
        last_seq: The newest ``seq`` ever given.
        seqs: The ``seq`` of the messages when this was written, as in ``1-40,43-50``.
        anchor: The `identity` of the newest of them.
        state: The session's state.
        expires_at: When the session expires.
        keys: Idempotency keys, each with ``first_seq count digest now``.
        created_at: Exactly, where the document's text is rounded.
        updated_at: Exactly, where the document's text is rounded.
        covered: The checkpoint's ``seq``, where the document's ``message_index`` can't say it.
        metadata: The caller's own metadata of the reserved key.
    """

    version: int = 0
    session_id: str = ""
    last_seq: int = 0
    seqs: str = ""
    anchor: str = ""
    state: dict[str, Any] = {}
    expires_at: float | None = None
    keys: dict[str, str] = {}
    created_at: float | None = None
    updated_at: float | None = None
    covered: int | None = None
    metadata: Any = msgspec.UNSET

    def is_expired(self, now: float) -> bool:
        """Whether the session has vanished at this time."""
        return self.expires_at is not None and self.expires_at <= now

    def key(self, key: str | None) -> KeyRecord | None:
        """Return what is remembered of an idempotency key."""
        text = None if key is None else self.keys.get(key)
        return None if key is None or text is None else _key_record(key, text)

    def remember(self, record: KeyRecord, oldest_seq: int) -> None:
        """Remember an idempotency key, and forget those that are no longer needed."""
        text = f"{record.first_seq} {record.count} {record.digest} {record.now!r}"
        self.keys[record.key] = text
        size = len(self.keys)
        if size >= _PRUNE_FROM and size & (size - 1) == 0:
            self.keys = {
                key: text
                for key, text in self.keys.items()
                if _key_record(key, text).is_needed(oldest_seq, record.now)
            }


def _key_record(key: str, text: str) -> KeyRecord:
    try:
        first, count, digest, now = text.split(" ")
        return KeyRecord(key, int(first), int(count), digest, float(now))
    except ValueError as exc:
        raise DamageError(f"metadata.{RESERVED}.keys was changed") from exc


def number(
    own: Own, entries: Sequence[msgspec.Raw], lost: Container[int] = frozenset()
) -> list[int]:
    """Return the ``seq`` of each message, also after other programs changed them.

    What was written last (the anchor) keeps its ``seq``; later messages follow ``last_seq``, and
    earlier ones count backwards, so that a summary put in front takes the place of the last
    message it stands for. Where the anchor is gone, all messages count as new.

    Args:
        own: What is known of the numbers.
        entries: The messages.
        lost: The places of those that were damaged; one of them may have been the anchor.
    """
    known = _expand(own.seqs)
    place = _find(own.anchor, entries, len(known) - 1) if known else None
    if place is None and len(known) - 1 in lost:
        place = len(known) - 1
    older: list[int] = []
    if place is not None:
        older = known[-place - 1 :]
        missing = place + 1 - len(older)
        first = older[0] - missing
        older = [*range(first, older[0]), *older] if first > 0 else []
    start = own.last_seq + 1 - len(older)
    return older + list(range(start + len(older), start + len(entries)))


def _find(anchor: str, entries: Sequence[msgspec.Raw], expected: int) -> int | None:
    if expected < len(entries) and identity(entries[expected]) == anchor:
        return expected
    breather = Breather()
    for place in reversed(range(len(entries))):
        if identity(entries[place]) == anchor:
            return place
        breather.breathe()
    return None


def _expand(text: str) -> list[int]:
    seqs: list[int] = []
    for run in text.split(",") if text else ():
        first, _, last = run.partition("-")
        try:
            seqs += range(int(first), int(last or first) + 1)
        except ValueError as exc:
            raise DamageError(f"metadata.{RESERVED}.seqs was changed") from exc
    return seqs


def runs(seqs: Sequence[int]) -> str:
    """Return ascending numbers as in ``1-40,43-50``."""
    parts: list[list[int]] = []
    if seqs and seqs[-1] - seqs[0] == len(seqs) - 1:
        parts = [[seqs[0], seqs[-1]]]  # Without a gap, which is the rule.
    else:
        for seq in seqs:
            if parts and parts[-1][1] == seq - 1:
                parts[-1][1] = seq
            else:
                parts.append([seq, seq])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in parts)
