"""The names of the keys in Redis."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Mapping

__all__ = ["LOOKED_UP", "Keys", "entry_of", "index_name", "parse_entry"]

LOOKED_UP = ("gateway_session_id", "user_id", "agent_id", "agent_name")
"""The fields by which sessions are found, that with the fewest sessions to a value first."""

_MAX_PREFIX = 64
_KEPT = 4096
# Longer values are in an index's name as a digest.
_MAX_VALUE = 200
_ESCAPES = str.maketrans({"%": "%25", "{": "%7B", "}": "%7D"})


class Keys:
    """Makes keys with one prefix; those of the sessions in use are kept at hand.

    A session's keys share a hash tag, its id, so that they are on one node of a cluster; so do
    the indexes.

    Raises:
        ValueError: The prefix can't be one.
    """

    def __init__(self, prefix: str) -> None:
        if not isinstance(prefix, str) or not 0 < len(prefix) <= _MAX_PREFIX:
            raise ValueError(f"prefix={prefix!r}: give text of 1 to {_MAX_PREFIX} characters")
        if "{" in prefix or "}" in prefix:
            raise ValueError(f"prefix={prefix!r}: braces are for the session's id behind it")
        self._prefix = prefix
        self.indexes: bytes = f"{prefix}:{{index}}:".encode()
        self.all: bytes = self.indexes + b"all"
        self.expiry: bytes = self.indexes + b"expiry"
        self.of: Callable[[str], tuple[bytes, bytes, bytes]]
        self.of = functools.lru_cache(_KEPT)(self._of)

    def _of(self, session_id: str) -> tuple[bytes, bytes, bytes]:
        """Return a session's record, messages and idempotency keys."""
        escaped = session_id.translate(_ESCAPES) if _is_special(session_id) else session_id
        # The last letter keeps them apart from the indexes, of which none ends like this.
        base = f"{self._prefix}:{{{escaped}}}:".encode()
        return base + b"record", base + b"messages", base + b"keys"

    def index(self, name: bytes) -> bytes:
        """Return the key of an index."""
        return self.indexes + name


def _is_special(session_id: str) -> bool:
    return "{" in session_id or "}" in session_id or "%" in session_id


def index_name(field: str, value: str) -> bytes:
    """Return the name of the index of all sessions with this value; as ``common.lua`` has it."""
    encoded = value.encode()
    if len(encoded) <= _MAX_VALUE:
        return f"{field}=".encode() + encoded
    digest = hashlib.sha1(encoded, usedforsecurity=False).hexdigest()
    return f"{field}#{digest}".encode()


def index_for(where: Mapping[str, str]) -> bytes:
    """Return the name of the smallest index that has every session to be found."""
    for field in LOOKED_UP:
        if field in where:
            return index_name(field, where[field])
    return b"all"


def entry_of(name: bytes, session_id: bytes) -> bytes:
    """Return the entry for a session in an index, in the index of expiries."""
    return b"%d:%b%b" % (len(name), name, session_id)


def parse_entry(entry: bytes) -> tuple[bytes, bytes]:
    """Return the name of the index, empty for that of all, and the session's id.

    What isn't such an entry is taken for the id of a session that doesn't expire.
    """
    size, _, rest = entry.partition(b":")
    if not size.isdigit():
        return b"", entry
    return rest[: int(size)], rest[int(size) :]
