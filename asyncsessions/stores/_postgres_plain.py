"""The hot path of a PostgreSQL store: plain appends, grouped for one statement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

from asyncsessions.hooks import Append, Appended

__all__ = ["Flush"]


class Flush:
    """A batch of appends that ask for nothing but to be stored.

    Args:
        batch: The appends.
    """

    def __init__(self, batch: Sequence[Append]) -> None:
        self._batch = batch
        groups: dict[str, list[Append]] = {}
        counts: dict[str, int] = {}
        for append in batch:
            session_id = append.session_id
            if session_id in groups:
                groups[session_id].append(append)
                counts[session_id] += len(append.bodies)
            else:
                groups[session_id] = [append]
                counts[session_id] = len(append.bodies)
        self._groups = groups
        self._counts = counts

    @classmethod
    def of(cls, batch: Sequence[Append]) -> Self | None:
        """Return the flush for a batch; None where an append asks for more."""
        if all(append.is_plain and append.keep is None for append in batch):
            return cls(batch)
        return None

    def arguments(self) -> tuple[Any, ...]:
        """Return the statement's arguments: a column for each thing that it takes.

        None stands for a column that says nothing new: a session has one message, its first
        write is its last one, it doesn't expire. Messages of one session, or one of each, need
        no word on where they belong.
        """
        groups = self._groups.values()
        ids = [session_id.encode() for session_id in self._groups]
        first_nows = [appends[0].now for appends in groups]
        bodies = [body for appends in groups for append in appends for body in append.bodies]
        counts = last_nows = ttls = owners = behind = None
        if len(bodies) > len(ids):
            counts = list(self._counts.values())
            last_nows = [appends[-1].now for appends in groups]
            if len(ids) > 1:
                pairs = zip(ids, counts, strict=True)
                owners = [owner for owner, count in pairs for _ in range(count)]
                # How far each message is from its session's newest.
                behind = [place for count in counts for place in range(count - 1, -1, -1)]
        if any(appends[-1].ttl_seconds is not None for appends in groups):
            ttls = [appends[-1].ttl_seconds for appends in groups]
        return ids, counts, first_nows, last_nows, ttls, owners, behind, bodies

    def outcomes(self, rows: Sequence[Any]) -> list[Appended | None]:
        """Return what became of each append; None where its session had expired.

        Args:
            rows: Each session and its newest ``seq``.
        """
        last_seqs: dict[bytes, int] = dict(rows)
        # The next ``seq`` of each session to be given out.
        following: dict[str, int] = {}
        for session_id, count in self._counts.items():
            last_seq = last_seqs.get(session_id.encode())
            if last_seq is not None:
                following[session_id] = last_seq + 1 - count
        outcomes: list[Appended | None] = []
        for append in self._batch:
            first_seq = following.get(append.session_id)
            if first_seq is None:
                outcomes.append(None)
            else:
                outcomes.append(Appended(first_seq, append.now))
                following[append.session_id] = first_seq + len(append.bodies)
        return outcomes

    def recalled(self, noted: Mapping[str, Any]) -> list[tuple[bytes, int]]:
        """Return the rows that an earlier attempt returned, from what it noted of them."""
        if noted["seqs"] is None:
            return []
        # Where the ids weren't noted, it was all of them.
        everyone = (session_id.encode() for session_id in self._groups)
        return list(zip(noted["session_ids"] or sorted(everyone), noted["seqs"], strict=True))
