"""The demo's proof: what was acknowledged against what is stored."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from asyncsessions.models import Message
from asyncsessions.registry import open_store

__all__ = ["Ack", "Proof", "content_crc", "prove", "read_back"]

# Of each kind of failure, so many are named.
_NAMED = 5
_PAGE = 1000


class Ack(msgspec.Struct, frozen=True, array_like=True):
    """What a worker knows of a message that the store has acknowledged.

    Attributes:
        session_id: Where it was stored.
        number: The worker's own number, rising with each message that it sends.
        seq: What the store answered.
        crc: Of the content that was sent.
    """

    session_id: str
    number: int
    seq: int
    crc: int


class Proof(msgspec.Struct):
    """What came of comparing; each list names the first few cases.

    Attributes:
        sessions: How many sessions are stored.
        messages: How many messages are stored.
        acknowledged: How many messages the workers were told are stored.
        lost: Acknowledged, but not stored where the store said.
        doubled: Stored more than once.
        reordered: Sent by one worker in another order than stored.
        changed: Stored with other content than sent.
        gaps: Sessions whose ``seq`` aren't 1, 2, 3, ...
        unknown: Stored, but never acknowledged to anybody.
    """

    sessions: int = 0
    messages: int = 0
    acknowledged: int = 0
    lost: list[str] = []
    doubled: list[str] = []
    reordered: list[str] = []
    changed: list[str] = []
    gaps: list[str] = []
    unknown: list[str] = []

    @property
    def faults(self) -> dict[str, list[str]]:
        """What went wrong, by kind; empty if nothing did."""
        kinds = ("lost", "doubled", "reordered", "changed", "gaps", "unknown")
        return {kind: getattr(self, kind) for kind in kinds if getattr(self, kind)}

    @property
    def holds(self) -> bool:
        """Whether nothing was lost, doubled, reordered or changed."""
        return not self.faults and self.messages == self.acknowledged


def content_crc(content: object) -> int:
    """Return a checksum of a message's content."""
    return zlib.crc32(str(content).encode())


def prove(
    acknowledged: Mapping[int, Sequence[Ack]], stored: Mapping[str, Sequence[Message]]
) -> Proof:
    """Compare what workers were told with what is stored.

    Args:
        acknowledged: By worker.
        stored: By session, in the order of the store. Each message's metadata names the
            ``worker`` and its ``number``.
    """
    proof = Proof(
        sessions=len(stored),
        messages=sum(map(len, stored.values())),
        acknowledged=sum(map(len, acknowledged.values())),
    )
    seen: Counter[tuple[int, int]] = Counter()
    places: dict[tuple[int, int], tuple[str, Message]] = {}
    for session_id, messages in stored.items():
        _check_session(proof, session_id, messages)
        for message in messages:
            who = _who(message)
            seen[who] += 1
            places[who] = (session_id, message)
    for worker, acks in acknowledged.items():
        for ack in acks:
            _check_ack(proof, worker, ack, places.pop((worker, ack.number), None))
    for worker, number in places:
        _note(proof.unknown, f"message {number} of worker {worker}")
    for (worker, number), count in seen.items():
        if count > 1:
            _note(proof.doubled, f"message {number} of worker {worker}, {count} times")
    return proof


def _check_session(proof: Proof, session_id: str, messages: Sequence[Message]) -> None:
    if [message.seq for message in messages] != list(range(1, len(messages) + 1)):
        _note(proof.gaps, session_id)
    newest: dict[int, int] = {}
    for message in messages:
        worker, number = _who(message)
        if number < newest.get(worker, -1):
            _note(proof.reordered, f"message {number} of worker {worker} in {session_id}")
        newest[worker] = number


def _check_ack(proof: Proof, worker: int, ack: Ack, place: tuple[str, Message] | None) -> None:
    name = f"message {ack.number} of worker {worker}, {ack.session_id}:{ack.seq}"
    if place is None or (place[0], place[1].seq) != (ack.session_id, ack.seq):
        _note(proof.lost, name)
    elif content_crc(place[1].content) != ack.crc:
        _note(proof.changed, name)


def _who(message: Message) -> tuple[int, int]:
    return message.metadata.get("worker", -1), message.metadata.get("number", -1)


def _note(cases: list[str], name: str) -> None:
    if len(cases) < _NAMED:
        cases.append(name)


async def read_back(directory: Path) -> dict[str, list[Message]]:
    """Return all that a JSON Lines directory holds, by session."""
    stored: dict[str, list[Message]] = {}
    async with open_store(f"jsonl://{directory}") as store:
        cursor: str | None = None
        while True:
            page = await store.list_sessions(_PAGE, cursor)
            for info in page:
                stored[info.session_id] = await store.get_messages(info.session_id)
            cursor = page.next_cursor
            if cursor is None:
                return stored
