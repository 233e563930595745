"""The message that stands for a document's archived messages, as PraisonAI marks it."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from asyncsessions.codec import encode_json

__all__ = ["count_of_summary", "is_summary_text", "make_summary", "summary_text"]

_TEXT = re.compile(r"\[Session Summary\]\n\d+ earlier messages? (is|are) archived\.")


class _Lead(msgspec.Struct):
    metadata: Any = None


_decode_lead = msgspec.json.Decoder(_Lead).decode


def count_of_summary(entry: msgspec.Raw) -> int | None:
    """Return how many messages a summary stands for; None where the message is no summary."""
    try:
        metadata = _decode_lead(entry).metadata
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None  # No program writes such a summary.
    if not isinstance(metadata, dict) or not metadata.get("compaction"):
        return None
    count = metadata.get("compacted_count")
    return count if isinstance(count, int) else 0


def summary_text(count: int) -> str:
    """Return what a summary says of ``count`` archived messages."""
    what = "1 earlier message is" if count == 1 else f"{count} earlier messages are"
    return f"[Session Summary]\n{what} archived."


def is_summary_text(text: object) -> bool:
    """Return whether a text is one of `summary_text`, which says nothing that isn't archived."""
    return isinstance(text, str) and _TEXT.fullmatch(text) is not None


def make_summary(count: int, now: float) -> msgspec.Raw:
    """Return the summary of ``count`` messages, as a document holds it."""
    fields = {
        "role": "system",
        "content": summary_text(count),
        "timestamp": now,
        "metadata": {"compaction": True, "compacted_count": count},
    }
    return msgspec.Raw(encode_json(fields))
