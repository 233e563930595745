"""What callers give, as JSON: more than this library's stores take, as the original does."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from asyncsessions.errors import InvalidMessageError

__all__ = ["dumps", "plain"]


def dumps(value: Any) -> bytes:
    """Return a value as the JSON that the original would write.

    Raises:
        InvalidMessageError: It can't be written.
    """
    try:
        return json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as exc:
        # Its own error would quote the text.
        text = "it holds a lone surrogate, which UTF-8 can't; decode the text correctly first"
        raise InvalidMessageError(text, field="value") from UnicodeError(exc.reason)
    except (TypeError, ValueError, RecursionError) as exc:
        raise InvalidMessageError(f"it can't be stored as JSON: {exc}", field="value") from exc


def plain(value: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of a value as JSON holds it, with tuples as lists and all keys as text.

    Raises:
        InvalidMessageError: JSON can't hold it.
    """
    copy: dict[str, Any] = json.loads(dumps(dict(value)))
    return copy
