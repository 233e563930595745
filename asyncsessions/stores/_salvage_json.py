"""What can still be read of a damaged JSON document."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import msgspec

from asyncsessions.codec import decode_message
from asyncsessions.stores._docformat import RESERVED, DamageError
from asyncsessions.stores._docmessage import entry_to_body
from asyncsessions.stores._docplace import Place
from asyncsessions.stores._document import Document

__all__ = ["Salvaged", "salvage"]

_KEYS = (
    "session_id",
    "messages",
    "created_at",
    "updated_at",
    "agent_name",
    "user_id",
    "metadata",
    "gateway_session_id",
    "agent_id",
    "runtime_state",
    "archived_messages",
    "last_compaction",
    "parent_id",
    "children_ids",
    "snapshots",
    "snapshot_storage",
    "title",
)
_KEY = re.compile(r'[\s,{]*"((?:[^"\\]|\\.)*)"\s*:\s*')
# Where the top level goes on behind damage: a known key, indented as a pretty or compact document
# has it.
_NEXT_KEY = re.compile(r'(?:\n {1,4}|[,}\]])"(?:' + "|".join(_KEYS) + r')"\s*:')
_MESSAGE = re.compile(r'\{\s*"role"\s*:')
_decode_at = json.JSONDecoder(parse_constant=lambda _: None).raw_decode


class Salvaged(msgspec.Struct):
    """What was found.

    Attributes:
        messages: The messages that can be decoded.
        document: A document made of them; None where there is nothing of a session at all.
    """

    messages: list[msgspec.Raw]
    document: Document | None


def salvage(place: Place) -> Salvaged:
    """Return all that can be decoded of a document that is damaged."""
    if place.top is not None:
        top: dict[str, Any] = {key: _loads(raw) for key, raw in place.top.items()}
    else:
        text = (place.data or b"").decode("utf-8", "surrogateescape")
        top = dict(_top_level(text))
    given = top.get("messages")
    raws = map(_raw, given if isinstance(given, list) else [])
    messages = [raw for raw in raws if raw is not None and _is_good(raw)]
    if not (messages or set(top) & set(_KEYS)):
        return Salvaged([], None)
    sid = top.get("session_id")
    session_id = sid if isinstance(sid, str) and sid else place.owner() or place.path.stem
    values = {key: raw for key in top if (raw := _raw(top[key])) is not None}
    values["messages"] = msgspec.Raw(b"[%b]" % b",".join(map(bytes, messages)))
    return Salvaged(messages, _document(session_id, values, place.modified))


def _loads(raw: msgspec.Raw) -> Any:
    return json.loads(bytes(raw), parse_constant=lambda _: None)


def _raw(value: Any) -> msgspec.Raw | None:
    """Return a value as JSON; None where it holds bytes that aren't UTF-8."""
    try:
        return msgspec.Raw(json.dumps(value, ensure_ascii=False).encode())
    except UnicodeEncodeError:
        return None


def _is_good(raw: msgspec.Raw) -> bool:
    if not bytes(raw).startswith(b"{"):
        return False
    try:
        decode_message(entry_to_body(raw, 1))
    except (DamageError, msgspec.DecodeError, ValueError):
        return False
    return True


def _document(session_id: str, values: dict[str, msgspec.Raw], modified: float) -> Document:
    """Return a document of these values, without those that it can't be made with."""
    while True:
        try:
            return Document(session_id, values, modified)
        except DamageError as exc:
            key = "metadata" if exc.key is None else exc.key
            metadata = _loads(values["metadata"]) if "metadata" in values else None
            if key == RESERVED and isinstance(metadata, dict) and key in metadata:
                del metadata[key]
                values["metadata"] = msgspec.Raw(json.dumps(metadata).encode())
            elif values.pop(key, None) is None:
                # Each round leaves one value out, so at last there is none that could be wrong.
                values.popitem()


def _top_level(text: str) -> Iterator[tuple[str, Any]]:
    """Iterate over a document's keys and values, passing over what can't be decoded."""
    position = 0
    while True:
        key = _KEY.match(text, position)
        if key is not None and key[1] == "messages":
            # One damaged message doesn't take the others with it.
            following = _NEXT_KEY.search(text, key.end())
            value, position = _value(text, key.end())
            if position < 0:
                end = len(text) if following is None else following.start()
                value, position = list(_messages(text[key.end() : end])), end
            yield key[1], value
            continue
        if key is not None:
            value, position = _value(text, key.end())
            if position >= 0:
                yield key[1], value
                continue
            position = key.end()
        following = _NEXT_KEY.search(text, position)
        if following is None:
            return
        position = text.index('"', following.start())


def _value(text: str, position: int) -> tuple[Any, int]:
    """Return the value at a position and where it ends; -1 where it can't be decoded."""
    try:
        return _decode_at(text, position)
    except (ValueError, RecursionError):
        return None, -1


def _messages(text: str) -> Iterator[dict[str, Any]]:
    found = _MESSAGE.search(text)
    while found is not None:
        value, end = _value(text, found.start())
        if end >= 0 and isinstance(value, dict):
            yield value
        found = _MESSAGE.search(text, end if end >= 0 else found.end())
