"""PraisonAI's session objects, translated to those that `import_sessions` takes."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from datetime import datetime
from typing import Any

__all__ = ["from_praisonai"]

_TEXTS = ("agent_name", "user_id", "agent_id", "gateway_session_id")
# What this library's own exports have.
_OURS = ("state", "checkpoint", "expires_at", "part", "message_count")
# What a json:// store keeps under its reserved key.
_HIDDEN = ("state", "expires_at", "created_at", "updated_at")
# Copies of metadata entries that PraisonAI also keeps at the top level.
_MIRRORED = (
    "model",
    "llm",
    "total_tokens",
    "token_count",
    "cost",
    "source",
    "reasoning_effort",
    "title",
)
# What a json:// store adds to the metadata of a document and of its messages.
_RESERVED = "asyncsessions"
_KNOWN = frozenset(
    {
        "session_id",
        "messages",
        "created_at",
        "updated_at",
        "metadata",
        "last_compaction",
        *_OURS,
        *_TEXTS,
        *_MIRRORED,
    }
)


def from_praisonai(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return a PraisonAI session as an object for `SessionStore.import_sessions`.

    Nothing that says something is dropped: top-level keys that have no place of their own go to
    ``metadata.praisonai``. An object that this library exported comes back as it was.

    Args:
        data: With ``session_id``, and ``messages`` as a list if at all.
    """
    messages, positions = _messages(data.get("messages") or [])
    metadata = _metadata(data)
    own = _unhidden(metadata)
    texts = {key: data[key] for key in _TEXTS if isinstance(data.get(key), str)}
    record: dict[str, Any] = {
        "created_at": _seconds(data.get("created_at")),
        "updated_at": _seconds(data.get("updated_at")),
        "checkpoint": _checkpoint(data.get("last_compaction"), positions),
        "metadata": metadata,
        **texts,
        **{key: data[key] for key in _OURS if data.get(key)},
        **{key: own[key] for key in _HIDDEN if own.get(key)},
    }
    kept = {key: value for key, value in record.items() if value}
    return {"session_id": data["session_id"], **kept, "messages": messages}


def _metadata(data: Mapping[str, Any]) -> dict[str, Any]:
    given = data.get("metadata")
    metadata = dict(given) if isinstance(given, dict) else {}
    for key in _MIRRORED:
        if data.get(key) is not None:
            metadata.setdefault(key, data[key])
    rest = {key: value for key, value in data.items() if key not in _KNOWN and _says(value)}
    if rest:
        metadata.setdefault("praisonai", rest)
    return metadata


def _unhidden(metadata: dict[str, Any]) -> dict[str, Any]:
    """Take what a json:// store keeps in metadata out of it; return that."""
    own = metadata.get(_RESERVED)
    if not isinstance(own, dict) or own.get("version") != 1:
        return {}
    del metadata[_RESERVED]
    if "metadata" in own:
        metadata[_RESERVED] = own["metadata"]
    return own


def _says(value: object) -> bool:
    return value is not None and value is not False and value not in ("", [], {})


def _messages(given: list[Any]) -> tuple[list[dict[str, Any]], list[int]]:
    """Return the messages, numbered, and for each the position it had in the list."""
    messages: list[dict[str, Any]] = []
    positions = []
    for position, message in enumerate(given):
        # PraisonAI skips what isn't an object, too.
        if isinstance(message, dict):
            messages.append(_message(message, len(messages) + 1))
            positions.append(position)
    return messages, positions


def _message(given: Mapping[str, Any], number: int) -> dict[str, Any]:
    message = dict(given)
    message["role"] = given.get("role") or "user"
    message["content"] = _content(given.get("content", ""))
    message["timestamp"] = _seconds(given.get("timestamp"))
    metadata = given.get("metadata")
    message["metadata"] = dict(metadata) if isinstance(metadata, dict) else {}
    own = _unhidden(message["metadata"])
    if own.get("name") is not None:
        message["name"] = own["name"]
    if isinstance(own.get("extra"), dict):
        message |= own["extra"]
    if not given.get("tool_calls"):
        message.pop("tool_calls", None)
    if not isinstance(given.get("seq"), int) or isinstance(given.get("seq"), bool):
        message["seq"] = number
    return message


def _content(content: object) -> str | list[Any] | None:
    if content is None or isinstance(content, str | list):
        return content
    return [content] if isinstance(content, dict) else json.dumps(content)


def _seconds(value: object) -> float:
    """Return a time as seconds since the epoch; 0.0 where it isn't known.

    Accepts numbers, numbers as text, and ISO text; a time without a zone is local, as
    PraisonAI's command line writes it.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return 0.0
    if not isinstance(value, str):
        return float(value) if math.isfinite(value) else 0.0
    try:
        return datetime.fromisoformat(value).timestamp()
    except (ValueError, OverflowError, OSError):
        return _number(value)


def _number(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        return 0.0
    return number if math.isfinite(number) else 0.0


def _checkpoint(given: Any, positions: list[int]) -> dict[str, Any] | None:
    """Return PraisonAI's last compaction as a checkpoint; None where it has no summary.

    Its ``message_index`` counts the messages, from the first, that the summary covers.
    """
    summary = given.get("summary") if isinstance(given, dict) else None
    if not isinstance(summary, str) or not summary.strip():
        return None
    index = given.get("message_index")
    covered = index if isinstance(index, int) else 0
    checkpoint: dict[str, Any] = {
        "summary": summary,
        "seq": sum(position < covered for position in positions),
        "role": given["role"] if isinstance(given.get("role"), str) else "system",
        "timestamp": _seconds(given.get("timestamp")),
        "metadata": given["metadata"] if isinstance(given.get("metadata"), dict) else {},
    }
    for key in ("tokens_before", "tokens_after"):
        value = given.get(key)
        checkpoint[key] = int(_seconds(value))
    return checkpoint
