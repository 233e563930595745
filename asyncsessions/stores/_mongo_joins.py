"""Appends that the server gives their place, in sessions that several processes write.

A compare-and-set of the whole session fails whenever another process was first, and that one is
first again while this one looks again. A join compares only what nobody else changes, this
store's own number in the session, and lets the server count. Whichever comes first, both succeed.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from asyncsessions.hooks import Append
from asyncsessions.stores._mongo_database import Document
from asyncsessions.stores._mongo_session import Entry, Head, step

__all__ = ["FIRST_SEQ", "join_fields", "join_filter"]

FIRST_SEQ: Document = {"$add": ["$last_seq", 1]}
"""What the server makes the ``seq`` of the first message."""

# Beyond these, it is for a compare-and-set to move the tail into pages.
_TAIL_ENTRIES = 512
_TAIL_BYTES = 1 << 20


def join_filter(head: Head, writer: str, moment: float) -> Document:
    """Return which document may be joined.

    Args:
        head: A version of the session in which this writer has its number.
        writer: The writer.
        moment: The time that decides what has expired.
    """
    return {
        "_id": head.session_id,
        "incarnation": head.incarnation,
        "updated_at": {"$exists": True},
        "expires_at": {"$not": {"$lte": moment}},
        # What repeats a write that came through after all finds another number here.
        f"writers.{writer}.0": head.writers[writer][0],
        f"tail.{_TAIL_ENTRIES - 1}": {"$exists": False},
        "$expr": {"$lt": [{"$sum": "$tail.size"}, _TAIL_BYTES]},
    }


def join_fields(entries: Sequence[Entry], append: Append, moment: float | None) -> Document:
    """Return the fields of a session with more messages, wherever it ends by then.

    Args:
        entries: What comes, with ``seq`` counting from 0.
        append: The newest append; says what time it is, and how long the session lives.
        moment: The time from which that counts; None: from the append's.
    """
    count = sum(entry.count for entry in entries)
    added = [
        msgspec.structs.asdict(entry) | {"seq": {"$add": ["$last_seq", 1 + entry.seq]}}
        for entry in entries
    ]
    fields: Document = {
        "version": {"$add": ["$version", step()]},
        "last_seq": {"$add": ["$last_seq", count]},
        "message_count": {"$add": ["$message_count", count]},
        "updated_at": append.now,
        "tail": {"$concatArrays": ["$tail", added]},
    }
    if append.ttl_seconds is not None:
        fields["expires_at"] = (append.now if moment is None else moment) + append.ttl_seconds
    return fields
