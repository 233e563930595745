"""One message as PraisonAI's session document holds it."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec

from asyncsessions.codec import encode_json, with_seq
from asyncsessions.stores._docformat import (
    RESERVED,
    DamageError,
    VersionError,
    clean,
    from_iso,
    loads,
)

__all__ = ["entry_from_body", "entry_to_body", "identity", "unhide"]

_decode_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode

_ABSENT = msgspec.Raw(b"")


class _Body(msgspec.Struct):
    """An encoded `Message`."""

    role: msgspec.Raw
    content: msgspec.Raw = msgspec.Raw(b"null")
    timestamp: msgspec.Raw = msgspec.Raw(b"0.0")
    metadata: msgspec.Raw = msgspec.Raw(b"{}")
    tool_calls: msgspec.Raw = _ABSENT
    tool_call_id: msgspec.Raw = _ABSENT
    name: msgspec.Raw = _ABSENT
    extra: msgspec.Raw = _ABSENT


class _Plain(msgspec.Struct, forbid_unknown_fields=True):
    """A message of a document that is a `Message` as it stands."""

    role: str
    content: str | list[Any] | None
    timestamp: float
    metadata: dict[str, Any]
    tool_calls: list[Any] | None = None
    tool_call_id: str | None = None


class _Identity(msgspec.Struct):
    role: Any = None
    content: Any = None
    timestamp: Any = None


class _Hidden(msgspec.Struct):
    """What a message's metadata holds under the reserved key.

    Attributes:
        version: Of this layout.
        name: The message's ``name``.
        extra: The message's unknown keys.
        metadata: The caller's own metadata of the reserved key.
    """

    version: int
    name: str | None = None
    extra: dict[str, Any] = {}
    metadata: Any = msgspec.UNSET


_decode_body = msgspec.json.Decoder(_Body).decode
_decode_plain = msgspec.json.Decoder(_Plain).decode
_decode_identity = msgspec.json.Decoder(_Identity).decode
_KNOWN = frozenset(_Plain.__struct_fields__)


def entry_from_body(body: bytes) -> msgspec.Raw:
    """Return an encoded message as a document holds it."""
    given = _decode_body(body)
    metadata: bytes | msgspec.Raw = given.metadata
    hidden = {
        field: value
        for field, value in (("name", given.name), ("extra", given.extra))
        if value is not _ABSENT
    }
    if hidden or b'"asyncsessions"' in bytes(metadata):
        metadata = _hide(given.metadata, hidden)
    parts = [b'{"role":%b,"content":%b' % (given.role, given.content)]
    parts.append(b',"timestamp":%b,"metadata":%b' % (given.timestamp, metadata))
    if given.tool_calls is not _ABSENT:
        parts.append(b',"tool_calls":%b' % given.tool_calls)
    if given.tool_call_id is not _ABSENT:
        parts.append(b',"tool_call_id":%b' % given.tool_call_id)
    return msgspec.Raw(b"".join(parts) + b"}")


def _hide(metadata: msgspec.Raw, hidden: dict[str, msgspec.Raw]) -> bytes:
    """Return metadata with what a message of PraisonAI has no place for, which it keeps there."""
    fields: dict[str, Any] = dict(_decode_object(metadata))
    if RESERVED in fields:
        hidden["metadata"] = fields.pop(RESERVED)
    if hidden:
        fields[RESERVED] = {"version": 1, **hidden}
    return encode_json(fields)


def entry_to_body(entry: msgspec.Raw, seq: int) -> bytes:
    """Return a document's message as an encoded `Message`.

    Raises:
        DamageError: It can't be decoded.
    """
    try:
        plain = _decode_plain(entry)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return _adapted(entry, seq)
    if RESERVED in plain.metadata:
        return _adapted(entry, seq)
    return with_seq(bytes(entry), seq)


def _adapted(entry: msgspec.Raw, seq: int) -> bytes:
    """Return a message that isn't quite of the format; what is missing gets its default."""
    data: dict[str, Any] = loads(entry)
    role, content = data.get("role", "user"), data.get("content", "")
    calls, call_id = data.get("tool_calls"), data.get("tool_call_id")
    metadata = data.get("metadata")
    metadata = dict(metadata) if isinstance(metadata, dict) else {}
    fields: dict[str, Any] = {
        "seq": seq,
        "role": role if isinstance(role, str) else str(role),
        "content": _content(content),
        "timestamp": from_iso(data.get("timestamp")) or 0.0,
        "tool_calls": calls if isinstance(calls, list) else None,
        "tool_call_id": call_id if call_id is None or isinstance(call_id, str) else str(call_id),
        "extra": {key: value for key, value in data.items() if key not in {*_KNOWN, "seq"}},
    }
    name = fields["extra"].get("name")
    if isinstance(name, str):
        fields["name"] = fields["extra"].pop("name")
    hidden = unhide(metadata, _Hidden)
    if hidden is not None:
        fields["extra"] |= hidden.extra
        fields["name"] = hidden.name or fields.get("name")
    return encode_json(fields | {"metadata": metadata})


def _content(content: Any) -> str | list[Any] | None:
    if content is None or isinstance(content, str | list):
        return content
    return [content] if isinstance(content, dict) else encode_json(content).decode()


def unhide(metadata: dict[str, Any], kind: type[Any]) -> Any:
    """Take what is under the reserved key out of metadata, as a struct with ``metadata``.

    What a caller stored there of their own goes back to its place.

    Returns:
        None where there is nothing of this library's.

    Raises:
        VersionError: It is of another version of the library.
        DamageError: It was changed.
    """
    value = metadata.get(RESERVED)
    if isinstance(value, msgspec.Raw):
        value = loads(value)
    if not isinstance(value, dict) or "version" not in value:
        return None
    if value["version"] != 1:
        raise VersionError(f"it is of version {value['version']}; this library knows version 1")
    try:
        hidden = msgspec.convert(value, kind)
    except msgspec.ValidationError as exc:
        raise DamageError(f"metadata.{RESERVED} was changed: {exc}") from exc
    del metadata[RESERVED]
    if hidden.metadata is not msgspec.UNSET:
        metadata[RESERVED] = hidden.metadata
    return hidden


def identity(entry: msgspec.Raw) -> str:
    """Return a digest of what tells a message apart: time, role and content."""
    try:
        message = _decode_identity(entry)
    except (msgspec.DecodeError, UnicodeDecodeError):
        message = _decode_identity(clean(entry))
    key = encode_json((message.timestamp, message.role, message.content))
    return hashlib.blake2b(key, digest_size=16).hexdigest()
