"""One message of PraisonAI's, translated."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from datetime import datetime
from typing import Any

__all__ = ["RESERVED", "identity", "seconds", "to_message", "unhidden"]

RESERVED = "asyncsessions"
"""What a json:// store adds to the metadata of a document and of its messages."""


def to_message(given: Mapping[str, Any], number: int) -> dict[str, Any]:
    """Return a message as an import takes it.

    PraisonAI checks nothing, so a value of the wrong type is converted, or kept in the metadata.

    Args:
        given: The message.
        number: Its ``seq``, where it has none.
    """
    message = dict(given)
    message["role"] = str(given.get("role") or "user")
    message["content"] = _content(given.get("content", ""))
    message["timestamp"] = seconds(given.get("timestamp"))
    metadata = given.get("metadata") or {}
    message["metadata"] = dict(metadata) if isinstance(metadata, dict) else {"praisonai": metadata}
    if not message["timestamp"] and given.get("timestamp"):
        message["metadata"].setdefault("timestamp", given["timestamp"])
    own = unhidden(message["metadata"])
    if own.get("name") is not None:
        message["name"] = own["name"]
    if isinstance(own.get("extra"), dict):
        message |= own["extra"]
    _convert_tools(message)
    if not isinstance(given.get("seq"), int) or isinstance(given.get("seq"), bool):
        message["seq"] = number
    return message


def _convert_tools(message: dict[str, Any]) -> None:
    calls = message.pop("tool_calls", None)
    if calls:
        message["tool_calls"] = calls if isinstance(calls, list) else [calls]
    for key in ("tool_call_id", "name"):
        if message.get(key) is not None:
            message[key] = str(message[key])


def unhidden(metadata: dict[str, Any]) -> dict[str, Any]:
    """Take what a json:// store keeps in metadata out of it; return that."""
    own = metadata.get(RESERVED)
    if not isinstance(own, dict) or own.get("version") != 1:
        return {}
    del metadata[RESERVED]
    if "metadata" in own:
        metadata[RESERVED] = own["metadata"]
    return own


def _content(content: object) -> str | list[Any] | None:
    if content is None or isinstance(content, str | list):
        return content
    return [content] if isinstance(content, dict) else json.dumps(content)


def identity(message: Mapping[str, Any]) -> str:
    """Return what tells a message apart, as PraisonAI does: role, content and time."""
    key = [message.get("role"), message.get("content"), message.get("timestamp")]
    return json.dumps(key, sort_keys=True)


def seconds(value: object) -> float:
    """Return a time as seconds since the epoch; 0.0 where it isn't known.

    Accepts numbers, numbers as text, and ISO text; a time without a zone is local, as
    PraisonAI's command line writes it.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return 0.0
    if not isinstance(value, str):
        return _finite(value)
    try:
        return datetime.fromisoformat(value).timestamp()
    except (ValueError, OverflowError, OSError):
        return _finite(value)


def _finite(value: float | str) -> float:
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return 0.0
    return number if math.isfinite(number) else 0.0
