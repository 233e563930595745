"""Search as the original does it: pure functions over a session's dict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from asyncsessions.stores._docsummary import is_summary_text
from asyncsessions.sync.records import SessionHit

__all__ = ["Query", "Ranking", "best_hits", "entries_of", "lineage_of", "window_of"]

_AUTOMATED_SOURCES = {"scheduled", "automated", "cron", "system", "batch"}
# Fewer messages say nothing of how fast they came.
_RATED_FROM = 4
_SNIPPET = 120
_TITLE = 60


class Ranking(NamedTuple):
    """How a search shows sessions, and which of them it puts behind the others.

    Attributes:
        bookends: How many of the first and last messages to show.
        rate: A session with more messages than this in an hour is a machine's.
        demotion: What a machine's session counts, where another one counts 1.
    """

    bookends: int = 2
    rate: float = 60.0
    demotion: float = 0.25


class Query:
    """Finds a query's words in sessions.

    Args:
        text: What to look for.
        window: How many messages to show on each side of the best one.
        ranking: How to show and rank what is found.
    """

    def __init__(self, text: str, *, window: int, ranking: Ranking) -> None:
        self._text = text
        self._phrase = text.lower()
        self._words = self._phrase.split()
        self._window = window
        self._ranking = ranking

    def match(self, data: Mapping[str, Any]) -> tuple[str | None, SessionHit] | None:
        """Return a session's lineage and hit; None where nothing matches."""
        entries = entries_of(data)
        scores = [self._score(entry["content"]) for entry in entries]
        total = sum(scores)
        if not total:
            return None
        best = max(range(len(scores)), key=scores.__getitem__)
        if _is_automated(data, entries, self._ranking.rate):
            total *= self._ranking.demotion
        hit = SessionHit(
            session_id=data.get("session_id", ""),
            title=_title(data),
            when=data.get("updated_at") or data.get("created_at"),
            snippet=self._snippet(entries[best]["content"]),
            score=total,
            anchor_index=best,
            messages=window_of(entries, best, self._window),
            bookends=_bookends(entries, self._ranking.bookends),
        )
        return lineage_of(data), hit

    def _score(self, content: Any) -> float:
        if is_summary_text(content):
            return 0.0  # Or "messages" would find every long session.
        text = str(content).lower()
        return 2.0 * (self._phrase in text) + sum(1.0 for word in self._words if word in text)

    def _snippet(self, content: Any) -> str:
        text = " ".join(str(content).split())
        at = text.lower().find(self._phrase)
        if at < 0:
            return text[:_SNIPPET]
        start = max(0, at - _SNIPPET // 2)
        end = min(len(text), start + _SNIPPET)
        return "…" * (start > 0) + text[start:end] + "…" * (end < len(text))


def best_hits(found: Sequence[tuple[str | None, SessionHit]], limit: int) -> list[SessionHit]:
    """Return the best hits, best first, and of each lineage only the best one."""
    ranked = sorted(found, key=lambda each: (each[1].score, each[1].when or ""), reverse=True)
    hits: list[SessionHit] = []
    seen: set[str] = set()
    for lineage, hit in ranked:
        if lineage is None or lineage not in seen:
            hits.append(hit)
        if lineage is not None:
            seen.add(lineage)
        if len(hits) >= limit:
            break
    return hits


def entries_of(data: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the archived and the active messages as a search shows them, oldest first."""
    archived, active = data.get("archived_messages"), data.get("messages")
    messages = [(message, True) for message in archived or ()]
    messages += [(message, False) for message in active or ()]
    return [
        {
            "index": index,
            "role": message.get("role", ""),
            "content": message.get("content", ""),
            "timestamp": message.get("timestamp"),
            "archived": is_archived,
        }
        for index, (message, is_archived) in enumerate(
            each for each in messages if isinstance(each[0], dict)
        )
    ]


def window_of(entries: list[dict[str, Any]], anchor: int, window: int) -> list[dict[str, Any]]:
    """Return the entries around one of them."""
    return entries[max(0, anchor - window) : max(0, anchor + window + 1)]


def lineage_of(data: Mapping[str, Any]) -> str | None:
    """Return what a conversation's successive sessions have in common; None where it is alone."""
    metadata = data.get("metadata") or {}
    for key in ("lineage_id", "root_session_id", "thread_id"):
        value = data.get(key) or metadata.get(key)
        if value:
            return str(value)
    return None


def _title(data: Mapping[str, Any]) -> str:
    title = (data.get("metadata") or {}).get("title") or data.get("agent_name")
    if title:
        return str(title)
    for message in data.get("messages") or ():
        if isinstance(message, dict) and message.get("role") == "user" and message.get("content"):
            return " ".join(str(message["content"]).split())[:_TITLE]
    return str(data.get("session_id", ""))


def _is_automated(
    data: Mapping[str, Any], entries: Sequence[Mapping[str, Any]], rate: float
) -> bool:
    """Whether a session is marked as a machine's, or faster than people talk."""
    metadata = data.get("metadata") or {}
    source = str(data.get("source") or metadata.get("source") or "").lower()
    if source in _AUTOMATED_SOURCES or metadata.get("automated") is True:
        return True
    stamps = [entry["timestamp"] for entry in entries if entry["timestamp"] is not None]
    try:
        times = [float(stamp) for stamp in stamps]
    except (TypeError, ValueError):
        return False
    if len(times) < _RATED_FROM:
        return False
    hours = (max(times) - min(times)) / 3600
    return hours > 0 and len(times) / hours > rate


def _bookends(entries: list[dict[str, Any]], size: int) -> dict[str, list[dict[str, Any]]]:
    talk = [entry for entry in entries if entry["role"] in {"user", "assistant"}]
    if not talk:
        return {}
    return {"opening": talk[:size], "closing": talk[-size:] if len(talk) > size else []}
