"""What can still be read of a damaged JSON document."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from asyncsessions.codec import decode_message
from asyncsessions.stores._docformat import RESERVED, DamageError
from asyncsessions.stores._docmessage import entry_to_body
from asyncsessions.stores._docown import number
from asyncsessions.stores._docparts import read_checkpoint
from asyncsessions.stores._docplace import Place, id_of, names_of
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
_LISTS = ("messages", "archived_messages")
# Where these can't be decoded, messages may follow that are none of the session's.
_CONTAINERS = {"metadata", "runtime_state", "last_compaction", "snapshots", "snapshot_storage"}
# What is only at the top level.
_TOP_ONLY = {"archived_messages", "gateway_session_id", "last_compaction", "runtime_state"}
_ANY_KEY = "|".join(_KEYS)
_SPACES = re.compile(r"\s*")
_START = re.compile(r"\s*\{")
_KEY = re.compile(r'\s*,?\s*("(?:[^"\\]|\\.)*")\s*:\s*')
_INDENTED_KEY = re.compile(rf'\n( {{1,4}})"(?:{_ANY_KEY})"\s*:')
_COMPACT_KEY = re.compile(rf'[,}}\]] ?"(?:{_ANY_KEY})"\s*:')
# The keys behind a compact list: messages have metadata, too, and there may be anything in it.
_BEHIND_LIST = re.compile(
    rf'\]\s*, ?"(?:{_ANY_KEY})"\s*:|[,}}] ?"(?:messages|archived_messages|created_at|updated_at|'
    r'gateway_session_id|runtime_state|last_compaction|snapshot_storage|children_ids)"\s*:'
)
# The same behind anything else that messages may be in.
_BEHIND_CONTAINER = re.compile(
    rf'[}}\]]\s*, ?"(?:{"|".join(key for key in _KEYS if key != "metadata")})"\s*:'
)
# A document's end, and not a message's.
_END = re.compile(r"\s*\}(?!\s*[,\]}])")
_INDENTED_END = re.compile(r"\s*\n\}(?!\s*[,\]}])")
_MESSAGE = re.compile(r'(?<!:)(?<!: )\{\s*"role"\s*:')
# Stands for a message that can't be decoded: it holds what isn't UTF-8.
_LOST: dict[str, Any] = {"role": "\udcff"}
_decode_at = json.JSONDecoder(parse_constant=lambda _: None).raw_decode


class Salvaged(msgspec.Struct):
    """What was found.

    Attributes:
        messages: The messages that can be decoded.
        session_id: Whose they are; None where nothing tells, or there is nothing of a session.
        document: A document made of them; None where ``session_id`` is.
        is_foreign: Whether there is nothing of a session at all.
    """

    messages: list[msgspec.Raw] = []
    session_id: str | None = None
    document: Document | None = None
    is_foreign: bool = False


def salvage(place: Place) -> Salvaged:
    """Return all that can be decoded of a document that is damaged."""
    if place.top is not None:
        top: dict[str, Any] = {key: _loads(raw) for key, raw in place.top.items()}
    else:
        top = _read_top((place.data or b"").decode("utf-8", "surrogateescape"))
    lists = {key: _raws(top[key]) for key in _LISTS if key in top}
    places = lists.setdefault("messages", [])
    messages = _good(places)
    if not (messages or set(top) & set(_KEYS)):
        return Salvaged(is_foreign=True)
    session_id = _whose(place, top)
    if session_id is None:
        return Salvaged(messages)
    values = {key: raw for key in top if (raw := _raw(top[key])) is not None}
    values |= {key: msgspec.Raw(b"[%b]" % b",".join(_good(raws))) for key, raws in lists.items()}
    document = _document(session_id, values, place.modified)
    _keep_numbers(document, values, places)
    return Salvaged(messages, session_id, document)


def _whose(place: Place, top: Mapping[str, Any]) -> str | None:
    """Return whose document it is; None where that can't be told.

    An id inside counts most where the file has its name. One in this library's own metadata
    counts only there: PraisonAI copies it to a fork.
    """
    name, stem = place.path.name, place.path.stem
    ids = (top.get("session_id"), _id_in_metadata(top.get("metadata")))
    told = [sid for sid in ids if isinstance(sid, str) and sid and _raw(sid) is not None]
    named = [sid for sid in told if name in {names_of(sid).primary, names_of(sid).suffixed}]
    inside = place.inside()
    if named or inside:
        return next(iter(named), inside)
    if told or _raw(stem) is None:
        return None  # What is inside contradicts the name.
    if place.top is None:
        return id_of(name)
    # The store takes a document that is without an id for that of its name.
    return stem if names_of(stem).primary == name else None


def _id_in_metadata(metadata: Any) -> Any:
    own = metadata.get(RESERVED) if isinstance(metadata, dict) else None
    return own.get("session_id") if isinstance(own, dict) else None


def _raws(entries: Any) -> list[msgspec.Raw | None]:
    """Return the messages of a list; None for each that can't be decoded."""
    given = entries if isinstance(entries, list) else []
    raws = [_raw(entry) for entry in given if isinstance(entry, dict)]
    return [raw if raw is not None and _is_good(raw) else None for raw in raws]


def _good(raws: Sequence[msgspec.Raw | None]) -> list[msgspec.Raw]:
    return [raw for raw in raws if raw is not None]


def _loads(raw: msgspec.Raw) -> Any:
    return json.loads(bytes(raw), parse_constant=lambda _: None)


def _raw(value: Any) -> msgspec.Raw | None:
    """Return a value as JSON; None where it holds bytes that aren't UTF-8."""
    try:
        return msgspec.Raw(json.dumps(value, ensure_ascii=False).encode())
    except UnicodeEncodeError:
        return None


def _is_good(raw: msgspec.Raw) -> bool:
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


def _keep_numbers(
    document: Document, values: Mapping[str, msgspec.Raw], places: Sequence[msgspec.Raw | None]
) -> None:
    """Give the messages the ``seq`` that they had, and let the checkpoint cover what it did.

    Args:
        document: Made of those that can be decoded.
        values: The document's.
        places: All messages; None for each that can't be decoded.
    """
    lost = {place for place, raw in enumerate(places) if raw is None}
    if not lost:
        return
    own = document.own
    seqs = number(own, [msgspec.Raw(b"{}") if raw is None else raw for raw in places], lost)
    if own.seqs and seqs[0] > own.last_seq:
        return  # The places don't fit the numbers that were given.
    document.seqs = [seq for place, seq in enumerate(seqs) if place not in lost]
    document.last_seq = max(own.last_seq, seqs[-1])
    document.checkpoint = read_checkpoint(values, seqs, (), own.covered)


class _Layout(msgspec.Struct):
    """How to find one's way in a document's text.

    Attributes:
        key: Where the top level goes on behind damage.
        behind_list: The same behind a list of messages.
        behind_container: The same behind anything else that messages may be in.
        message: The start of a message.
        end: The document's end.
        is_indented: Whether its lines are indented, which tells the top level's messages apart
            from what is deeper inside.
    """

    key: re.Pattern[str] = _COMPACT_KEY
    behind_list: re.Pattern[str] = _BEHIND_LIST
    behind_container: re.Pattern[str] = _BEHIND_CONTAINER
    message: re.Pattern[str] = _MESSAGE
    end: re.Pattern[str] = _END
    is_indented: bool = False


def _layout(text: str) -> _Layout:
    indent = min((len(found[1]) for found in _INDENTED_KEY.finditer(text)), default=0)
    if not indent:
        return _Layout()
    key = re.compile(rf'\n {{{indent}}}"(?:{_ANY_KEY})"\s*:')
    message = re.compile(rf'(?<!: )\{{\r?\n {{{3 * indent}}}"role"\s*:')
    if message.search(text) is None:
        return _Layout(key, key, key)
    return _Layout(key, key, key, message, _INDENTED_END, is_indented=True)


def _read_top(text: str) -> dict[str, Any]:
    """Return a document's values by key, without what can't be decoded.

    What is damaged doesn't take the messages behind it along. Where their list's own key is
    damaged, they count to the one that is next.
    """
    if _is_other_json(text):
        return {}
    layout = _layout(text)
    found: dict[str, Any] = {}
    position, in_list, is_sound = _start(text, layout), "messages", True
    while True:
        name, start = _key_at(text, position)
        value, end = (None, -1) if name is None else _value(text, start)
        if end >= 0 and not _is_out_of_place(name or "", value):
            _put(found, name or "", value)
            in_list = "archived_messages" if name == "messages" else in_list
            if (is_sound or layout.is_indented) and layout.end.match(text, end):
                return found  # What is behind the end is no part of it.
            position = end
            continue
        is_sound = False
        if name in _LISTS:
            in_list = name
            found.setdefault(name, [])
        entries, position = _pass_over(text, start, layout, name)
        if entries:
            _put(found, in_list, entries)
        if name == "messages" or (entries and in_list == "messages" and layout.is_indented):
            in_list = "archived_messages"
        if position < 0:
            return found


def _start(text: str, layout: _Layout) -> int:
    """Return where the first key is, if the document's start is whole."""
    found = _START.match(text)
    # Without a start, the first brace may be a message's.
    return 0 if found is None or layout.message.match(text, found.end() - 1) else found.end()


def _is_out_of_place(key: str, value: Any) -> bool:
    """Whether a value is a message, most likely, whose list's start is damaged."""
    return isinstance(value, dict) and key in _KEYS and key not in _CONTAINERS


def _is_other_json(text: str) -> bool:
    """Whether it is whole, but no document."""
    value, end = _value(text, _skip(text, 0))
    return end >= 0 and not isinstance(value, dict) and _skip(text, end) == len(text)


def _skip(text: str, position: int) -> int:
    """Return where the next character stands that is no space."""
    found = _SPACES.match(text, position)
    return position if found is None else found.end()


def _key_at(text: str, position: int) -> tuple[str | None, int]:
    """Return the key at a position, if a whole one is there, and where to go on."""
    found = _KEY.match(text, position)
    if found is None:
        return None, position
    name, _ = _value(found[1], 0)
    return (None if name is None or _raw(name) is None else name), found.end()


def _put(found: dict[str, Any], key: str, value: Any) -> None:
    """Add a value; of two, the first counts, because the other may be from deeper inside."""
    if key in _CONTAINERS and isinstance(value, dict):
        # Without the end of one value, those behind it seem to be inside.
        for other in _TOP_ONLY & value.keys():
            _put(found, other, value.pop(other))
    known = found.setdefault(key, value)
    if key in _LISTS and known is not value and isinstance(value, list):
        found[key] = [*known, *value] if isinstance(known, list) else value


def _pass_over(text: str, position: int, layout: _Layout, key: str | None) -> tuple[list[Any], int]:
    """Return the messages in what can't be decoded, and where the next key is; -1: nowhere.

    In place of a message of which no more than the start is left, there is `_LOST`.

    Args:
        text: The document's.
        position: Where the damage starts.
        layout: The text's.
        key: The last one before the damage; None where that can't be decoded.
    """
    entries: list[Any] = []
    behind = layout.behind_container if key in _CONTAINERS else layout.key
    following = _first(behind, text, position)
    message = _first(layout.message, text, position)
    is_in_list = key in _LISTS or message < following
    if is_in_list and (layout.is_indented or key not in _CONTAINERS):
        following = _first(layout.behind_list, text, position)
        while message < following:
            value, end = _value(text, message)
            # One that lost its end may seem to hold the rest of the document.
            is_whole = end >= 0 and not _TOP_ONLY & value.keys()
            if is_whole:
                entries.append(value)
            elif entries or key in _LISTS:  # Elsewhere it may be anything.
                entries.append(_LOST)
            position = end if is_whole else message + 1
            message = _first(layout.message, text, position)
            if following < position:
                following = _first(layout.behind_list, text, position)
    return entries, text.index('"', following) if following < len(text) else -1


def _first(pattern: re.Pattern[str], text: str, position: int) -> int:
    """Return where the first match starts; the text's end where there is none."""
    found = pattern.search(text, position)
    return len(text) if found is None else found.start()


def _value(text: str, position: int) -> tuple[Any, int]:
    """Return the value at a position and where it ends; -1 where it can't be decoded."""
    try:
        return _decode_at(text, position)
    except (ValueError, RecursionError):
        return None, -1
