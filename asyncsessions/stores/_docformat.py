"""PraisonAI's session document as JSON text: parsing and writing it.

Nothing here does I/O. Values that a write doesn't change are kept as the bytes they came as
(`msgspec.Raw`), so keys and numbers that this library doesn't understand survive.
"""

from __future__ import annotations

import codecs
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, cast

import msgspec

from asyncsessions.pacing import Breather

__all__ = [
    "EPOCH",
    "RESERVED",
    "DamageError",
    "VersionError",
    "clean",
    "compact",
    "extend_list",
    "format_document",
    "from_iso",
    "is_object",
    "lay_out",
    "loads",
    "owner",
    "owner_of_damaged",
    "parse_document",
    "parse_list",
    "parse_messages",
    "parse_object",
    "to_iso",
]

RESERVED = "asyncsessions"
"""The one key, of a document's metadata and of a message's, that holds what is this library's."""

EPOCH = "1970-01-01T00:00:00+00:00"

_decode_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_list = msgspec.json.Decoder(list[msgspec.Raw]).decode
_decode = msgspec.json.Decoder().decode
# Below it, a list is parsed fast enough to be parsed at once.
_LARGE = 1 << 17
# What comes before the list of messages in PraisonAI's layout, and nowhere inside of a value;
# then comes its first object, or else it is empty.
_BEFORE_MESSAGES = b'\n  "messages": '
# What is around and between the objects of a list at the top level there.
_OPENING, _CLOSING = b"[\n    ", b"\n  ]"
_COMMA = b",\n    "
_BETWEEN = re.compile(rb"},\n    {")
_BRACE = ord("{")
# Messages that are formatted at once, and their bytes.
_SLICE = 128
_SLICE_BYTES = 1 << 17
# Bytes that are searched or checked at once.
_BLOCK = 1 << 18
_ID_AT_START = re.compile(rb'\s*\{\s*"session_id"\s*:\s*("(?:[^"\\]|\\.)+")')


class DamageError(ValueError):
    """A document can't be understood.

    Attributes:
        line: The damaged line, counted from 1; None where it isn't known.
        key: Where the line isn't known: the key of what is damaged, if that is.
    """

    def __init__(self, detail: str, line: int | None = None, key: str | None = None) -> None:
        super().__init__(detail)
        self.line = line
        self.key = key


class VersionError(DamageError):
    """A document is of a later version of this library, which understands it."""


# Parsing.


def parse_object(data: bytes | msgspec.Raw) -> dict[str, msgspec.Raw]:
    """Return a JSON object's values, each as its bytes.

    Raises:
        DamageError: It is no JSON object, or not UTF-8.
    """
    value = _parse(data, _decode_object, dict)
    return cast("dict[str, msgspec.Raw]", value)


def parse_document(data: bytes) -> dict[str, msgspec.Raw]:
    """Return a document's values, each as its bytes.

    Where it is long, and in PraisonAI's layout, its messages are only cut out, so that no single
    call parses all of them; what is wrong with them shows in `parse_list`.

    Raises:
        DamageError: It is no JSON object, or not UTF-8.
    """
    if len(data) < _LARGE or not data.startswith(b'{\n  "'):
        return parse_object(data)
    before = _search(data, _BEFORE_MESSAGES + b"[\n    {", 0)
    start = before + len(_BEFORE_MESSAGES)
    end = _search(data, b"\n  ]", start) + len(b"\n  ]")
    if before < 0 or end < start:
        return parse_object(data)
    try:
        top = parse_object(b"%b[]%b" % (data[:start], data[end:]))
    except DamageError:
        return parse_object(data)  # Which tells the line.
    if bytes(top.get("messages", b"")) != b"[]":
        return parse_object(data)
    top["messages"] = msgspec.Raw(memoryview(data)[start:end])
    return top


def _search(data: bytes, wanted: bytes, start: int) -> int:
    """Return what ``data.find`` would, block by block."""
    breather = Breather()
    for at in range(start, len(data), _BLOCK):
        found = data.find(wanted, at, at + _BLOCK + len(wanted) - 1)
        if found >= 0:
            return found
        breather.breathe()
    return -1


def parse_list(data: msgspec.Raw) -> list[msgspec.Raw]:
    """Return a JSON list's values, each as its bytes.

    Raises:
        DamageError: It is no list.
    """
    return parse_messages(data)[0]


def parse_messages(data: msgspec.Raw) -> tuple[list[msgspec.Raw], bool]:
    """Return a JSON list's values as `parse_list`, and whether each is known to be laid out.

    Raises:
        DamageError: It is no list.
    """
    pieces = _split(memoryview(data))
    if pieces is not None:
        return pieces, True
    return cast("list[msgspec.Raw]", _parse(data, _decode_list, list)), False


def _split(data: memoryview) -> list[msgspec.Raw] | None:
    """Return the objects of a long list in PraisonAI's layout; None where it is another.

    It works in slices, as the parser can't. The separator stands between the list's own objects
    only, or else one of the pieces isn't JSON.
    """
    if len(data) < _LARGE or not _is_laid_out(data):
        return None
    breather = Breather()
    # The parser doesn't look inside of texts.
    decode = codecs.getincrementaldecoder("utf-8")().decode
    try:
        for at in range(0, len(data), _BLOCK):
            decode(data[at : at + _BLOCK], at + _BLOCK >= len(data))
            breather.breathe()
    except UnicodeDecodeError:
        return None
    pieces = []
    start, end = len(_OPENING), len(data) - len(_CLOSING)
    while start < end:
        cut = _BETWEEN.search(data, start, end)
        stop = end if cut is None else cut.start() + 1
        piece = bytes(data[start:stop])
        try:
            _decode_object(piece)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return None
        pieces.append(msgspec.Raw(piece))
        start = stop + len(_COMMA)
        breather.breathe()
    return pieces


def _is_laid_out(data: memoryview | bytes) -> bool:
    """Whether it looks like a list of objects at the top level in PraisonAI's layout."""
    is_open = data[: len(_OPENING) + 1] == _OPENING + b"{"
    return is_open and data[-len(_CLOSING) - 1 :] == b"}" + _CLOSING


def _parse(data: bytes | msgspec.Raw, decode: Any, kind: type[Any]) -> Any:
    raw = bytes(data)
    try:
        if not raw.isascii():
            raw.decode()  # The parser doesn't look inside of texts.
        return decode(data)
    except UnicodeDecodeError as exc:
        raise DamageError("it isn't UTF-8", raw.count(b"\n", 0, exc.start) + 1) from exc
    except (msgspec.DecodeError, RecursionError):
        return _parse_slowly(raw, kind)


def _parse_slowly(raw: bytes, kind: type[Any]) -> Any:
    """Parse what only the standard library takes: NaN, Infinity and lone surrogates."""
    try:
        value = json.loads(raw.decode())
    except json.JSONDecodeError as exc:
        raise DamageError(f"it isn't JSON: {exc.msg}", exc.lineno) from exc
    except (ValueError, RecursionError) as exc:
        raise DamageError(f"it can't be parsed: {exc}", 1) from exc
    if not isinstance(value, kind):
        raise DamageError(f"there is {type(value).__name__} where {kind.__name__} belongs", 1)
    if isinstance(value, dict):
        return {key: msgspec.Raw(_dumps(item)) for key, item in value.items()}
    return [msgspec.Raw(_dumps(item)) for item in value]


def _dumps(value: Any, indent: int | None = None) -> bytes:
    separators = (",", ":") if indent is None else None
    try:
        text = json.dumps(value, ensure_ascii=False, indent=indent, separators=separators)
        return text.encode()
    except UnicodeEncodeError:
        # UTF-8 can't hold a lone surrogate, but an escape can.
        return json.dumps(value, indent=indent, separators=separators).encode()


def clean(raw: msgspec.Raw) -> bytes:
    """Return a JSON value without what JSON can't hold: NaN is null, lone surrogates are ``?``."""
    value = json.loads(bytes(raw), parse_constant=lambda _: None, parse_float=_finite)
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "replace")


def _finite(text: str) -> float | None:
    number = float(text)
    return number if math.isfinite(number) else None


def loads(raw: msgspec.Raw) -> Any:
    """Return a JSON value that this library can store and return."""
    try:
        return _decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return _decode(clean(raw))


def is_object(raw: msgspec.Raw) -> bool:
    """Whether a value of a list is an object, as every message is."""
    return memoryview(raw)[0] == _BRACE


def owner(top: Mapping[str, msgspec.Raw], stem: str) -> str:
    """Return whose document it is: the id inside or, without one, the file's name."""
    inside = loads(top["session_id"]) if "session_id" in top else None
    return inside if inside and isinstance(inside, str) else stem


def owner_of_damaged(data: bytes) -> str | None:
    """Return the id at the start of a document that can't be parsed; None where there is none."""
    found = _ID_AT_START.match(data)
    if found is None:
        return None
    try:
        return msgspec.json.decode(found[1], type=str)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


# Writing.


def format_document(
    top: Mapping[str, bytes | msgspec.Raw],
    entries: Sequence[bytes | msgspec.Raw],
    *,
    is_laid_out: bool = False,
) -> list[bytes]:
    """Return the parts of a document's text, laid out as PraisonAI does it.

    That is with an indent of 2, and compact where snapshots are pooled. A long text is never in
    one piece, because each copy of it would take long without a break.

    Args:
        top: The document's values; what is under ``messages`` only holds their place.
        entries: Its messages.
        is_laid_out: Whether each message is as `lay_out` returns it, so that they are only
            joined.
    """
    is_compact = "snapshot_storage" in top
    parts = []
    before = b"{%b:" if is_compact else b"{\n  %b: "
    for key, value in top.items():
        parts.append(before % _dumps(key))
        if key == "messages":
            parts += _format_list(entries, is_compact=is_compact, is_laid_out=is_laid_out)
        else:
            parts.append(_format(value, is_compact=is_compact))
        before = b",%b:" if is_compact else b",\n  %b: "
    parts.append(b"}" if is_compact else b"\n}")
    return parts if sum(map(len, parts)) > _LARGE else [b"".join(parts)]


def _format(value: bytes | msgspec.Raw, *, is_compact: bool) -> bytes:
    """Return a value of a document as it stands behind its key."""
    raw = bytes(value)
    # What is long, an archive, is in its layout as a rule: formatting it takes a hundred times
    # as long as to look.
    if not is_compact and len(raw) > _LARGE and _is_laid_out(raw):
        return raw
    return _indent(raw, b"\n" if is_compact else b"\n  ")


def lay_out(entry: bytes | msgspec.Raw) -> msgspec.Raw:
    """Return an object as it stands in a list at a document's top level."""
    return msgspec.Raw(_indent(bytes(entry), b"\n    "))


def compact(value: bytes | msgspec.Raw) -> msgspec.Raw:
    """Return a value without spaces and line ends between its parts."""
    return msgspec.Raw(_indent(bytes(value), b"\n"))


def _indent(raw: bytes, line_end: bytes) -> bytes:
    """Return a value laid out with this before each line; without an indent, compact."""
    is_compact = line_end == b"\n"
    try:
        text = msgspec.json.format(raw, indent=-1 if is_compact else 2)
    except msgspec.DecodeError:
        text = _dumps(json.loads(raw), None if is_compact else 2)
    # No text in JSON holds a line end of its own.
    return text if is_compact else text.replace(b"\n", line_end)


def extend_list(value: bytes | msgspec.Raw | None, entries: Sequence[bytes | msgspec.Raw]) -> bytes:
    """Return a document's list with objects added to its end, at little more than a copy's cost.

    Args:
        value: The list; None or null is an empty one.
        entries: What to add, each as `lay_out` returns it.

    Raises:
        DamageError: It is no list.
    """
    raw = b"" if value is None else bytes(value)
    added = _COMMA.join(map(bytes, entries))
    if not _is_laid_out(raw):
        given = [] if raw in {b"", b"null"} else parse_list(msgspec.Raw(raw))
        raw = _OPENING + _COMMA.join(map(bytes, map(lay_out, given))) + _CLOSING
        if not given:
            return _OPENING + added + _CLOSING
    return b"".join((memoryview(raw)[: -len(_CLOSING)], _COMMA, added, _CLOSING))


def _format_list(
    entries: Sequence[bytes | msgspec.Raw], *, is_compact: bool, is_laid_out: bool
) -> Iterator[bytes]:
    """Iterate over the parts of the messages' text as it stands in a document."""
    if not entries:
        yield b"[]"
        return
    breather = Breather()
    end = b"]" if is_compact else _CLOSING
    before = b"["
    some: list[bytes | msgspec.Raw] = []
    size = 0
    for index, entry in enumerate(entries, 1):
        some.append(entry)
        size += len(memoryview(entry))
        if len(some) == _SLICE or size > _SLICE_BYTES or index == len(entries):
            if is_laid_out:
                yield before + _OPENING[1:] + _COMMA.join(some)
            else:
                text = _format(b"[%b]" % b",".join(some), is_compact=is_compact)
                # The slice's own brackets make way for what holds the slices together.
                yield before + text[1 : -len(end)]
            breather.breathe()
            before, some, size = b",", [], 0
    yield end


def to_iso(seconds: float) -> str:
    """Return a time as PraisonAI writes it, in UTC, rounded to microseconds."""
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat()
    except (ValueError, OverflowError, OSError):
        return EPOCH  # Before the year 1 or after 9999.


def from_iso(value: Any) -> float | None:
    """Return seconds since the epoch of a time in ISO 8601, or of a number; else None.

    A time without a zone is local, as PraisonAI's command line writes it.
    """
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    try:
        return datetime.fromisoformat(value).timestamp()
    except (TypeError, ValueError, OverflowError, OSError):
        return None
