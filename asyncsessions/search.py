"""Full-text search without an index: read the newest sessions and count words."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from asyncsessions.errors import CorruptSessionError, InvalidSessionIdError
from asyncsessions.models import Message, SearchHit, SessionInfo
from asyncsessions.omissions import leave_out
from asyncsessions.pacing import Pacer

if TYPE_CHECKING:
    from asyncsessions.protocols import SessionStore

__all__ = ["MESSAGES_SEARCHED", "SESSIONS_SEARCHED", "search_newest"]

logger: logging.Logger = logging.getLogger("asyncsessions.search")

SESSIONS_SEARCHED = 1000
MESSAGES_SEARCHED = 1000
_PAGE = 100
_SNIPPET = 160


async def search_newest(
    store: SessionStore, query: str, *, limit: int, window: int
) -> list[SearchHit]:
    """Return the sessions that match best; see `SessionStore.search`."""
    phrase = " ".join(query.lower().split())
    if not phrase or not limit:
        return []
    hits: list[SearchHit] = []
    cursor: str | None = None
    pacer = Pacer()
    for _ in range(SESSIONS_SEARCHED // _PAGE):
        page = await store.list_sessions(_PAGE, cursor)
        for info in page:
            try:
                messages = await store.get_messages(info.session_id, limit=MESSAGES_SEARCHED)
            except CorruptSessionError as exc:
                leave_out(logger, "search", exc)
                continue
            except InvalidSessionIdError as exc:
                # Another program named it, in a directory that it shares with this one.
                leave_out(logger, "search", f"session {info.session_id[:40]!r}: {exc}")
                continue
            hit = await _match(info, messages, phrase, window, pacer)
            if hit is not None:
                hits.append(hit)
        # Stable, so that of equal scores the session last written comes first.
        hits.sort(key=lambda hit: -hit.score)
        del hits[limit:]
        cursor = page.next_cursor
        if cursor is None:
            break
    return hits


async def _match(
    info: SessionInfo, messages: Sequence[Message], phrase: str, window: int, pacer: Pacer
) -> SearchHit | None:
    words = phrase.split()
    total, best, best_index = 0.0, 0.0, 0
    for index, message in enumerate(messages):
        text = " ".join(message_text(message).lower().split())
        score = 2.0 * (phrase in text) + sum(word in text for word in words)
        await pacer.pause()
        total += score
        if score > best:
            best, best_index = score, index
    if not total:
        return None
    return SearchHit(
        session_id=info.session_id,
        title=info.title or info.agent_name or info.session_id,
        updated_at=info.updated_at,
        score=total,
        seq=messages[best_index].seq,
        snippet=_snippet(message_text(messages[best_index]), words),
        messages=list(messages[max(0, best_index - window) : best_index + window + 1]),
    )


def message_text(message: Message) -> str:
    """Return the words of a message: its text, or the text parts of its content."""
    if isinstance(message.content, str):
        return message.content
    parts = (part.get("text") for part in message.content or () if isinstance(part, dict))
    return " ".join(text for text in parts if isinstance(text, str))


def _snippet(text: str, words: Sequence[str]) -> str:
    lower = text.lower()
    found = [position for position in map(lower.find, words) if position >= 0]
    start = max(0, min(found, default=0) - _SNIPPET // 4)
    return text[start : start + _SNIPPET].strip()
