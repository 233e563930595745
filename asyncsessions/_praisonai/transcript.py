"""A session's messages: those that PraisonAI archived, then the active ones.

PraisonAI's ``compact`` retention moves the oldest messages to an archive, and puts a summary of
their number in front of the others. The stores here need no archive, so its messages come back
to their place, and a checkpoint takes the place of the summary: the working history is the same.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from asyncsessions._praisonai.message import seconds, to_message

__all__ = ["Transcript", "stands_for", "transcript"]

_SUMMARY = "[Session Summary]\n"
# A summary has one such line for each time that messages were archived; this library's has one.
_COUNT = re.compile(r"(?:Previous conversation: |\A)(\d+) (?:earlier )?messages")


class Transcript(NamedTuple):
    """A session's messages.

    Attributes:
        messages: As an import takes them, oldest first.
        checkpoint: As an import takes it; None without one.
        cleared: Archived messages from before the session was cleared, which aren't part of the
            conversation any more.
        positions: For each active message that is in ``messages``, its place in PraisonAI's list.
    """

    messages: list[dict[str, Any]]
    checkpoint: dict[str, Any] | None
    cleared: list[dict[str, Any]]
    positions: list[int]

    def covered(self, index: int) -> int:
        """Return how many messages come before a place in PraisonAI's list of active ones."""
        front = len(self.messages) - len(self.positions)
        return front + sum(position < index for position in self.positions)


def transcript(data: Mapping[str, Any]) -> Transcript:
    """Return the messages of a session, or of a snapshot."""
    # PraisonAI skips what isn't an object, too.
    active = [(n, m) for n, m in enumerate(data.get("messages") or []) if isinstance(m, dict)]
    archived = [m for m in data.get("archived_messages") or [] if isinstance(m, dict)]
    summary = active[0][1] if active else {}
    start = _start_of_archived(archived, summary)
    cleared, front = archived[: max(start, 0)], archived[max(start, 0) :]
    default = None
    if front:
        del active[0]
        if start >= 0:
            front = [message for message in front if stands_for(message) is None]
            text = f"{_SUMMARY}{len(front)} earlier messages are archived."
        else:
            # It is all that is left of some messages.
            front = [summary, *front]
            text = summary["content"]
        time = seconds(summary.get("timestamp"))
        default = {"summary": text, "seq": len(front), "timestamp": time}
    given = [*front, *(message for _, message in active)]
    messages = [to_message(message, number) for number, message in enumerate(given, 1)]
    found = Transcript(messages, default, cleared, [position for position, _ in active])
    return found._replace(checkpoint=_checkpoint(data.get("last_compaction"), found) or default)


def _start_of_archived(archived: list[dict[str, Any]], summary: Mapping[str, Any]) -> int:
    """Return where the archived messages begin that a summary stands for.

    Where there is none, that is behind the last one; negative where the archive lacks some. What
    comes before them was archived before the session was cleared. A bot writes its history back
    without what marks a summary, which is then archived as a message, so one follows another.
    """
    start = len(archived) - (stands_for(summary) or 0)
    while 0 <= start < len(archived):
        count = stands_for(archived[start])
        if count is None:
            break
        start -= count
    return start


def stands_for(message: Mapping[str, Any]) -> int | None:
    """Return how many archived messages a summary stands for; None where it is no summary."""
    metadata, content = message.get("metadata"), message.get("content")
    if not isinstance(content, str) or not content.startswith(_SUMMARY):
        return None
    count = metadata.get("compacted_count") if isinstance(metadata, dict) else None
    if isinstance(count, int) and count > 0:
        return count
    counts = _COUNT.findall(content.removeprefix(_SUMMARY))
    return sum(map(int, counts)) or None


def _checkpoint(given: Any, found: Transcript) -> dict[str, Any] | None:
    """Return PraisonAI's last compaction as a checkpoint; None where it has no summary.

    Its ``message_index`` counts the active messages, from the first, that the summary covers.
    """
    summary = given.get("summary") if isinstance(given, dict) else None
    if not isinstance(summary, str) or not summary.strip():
        return None
    index = given.get("message_index")
    checkpoint: dict[str, Any] = {
        "summary": summary,
        "seq": found.covered(index if isinstance(index, int) else 0),
        "role": given["role"] if isinstance(given.get("role"), str) else "system",
        "timestamp": seconds(given.get("timestamp")),
        "metadata": given["metadata"] if isinstance(given.get("metadata"), dict) else {},
    }
    for key in ("tokens_before", "tokens_after"):
        checkpoint[key] = int(seconds(given.get(key)))
    return checkpoint
