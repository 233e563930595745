"""Session ids: what is a valid one, and which file name stands for it."""

from __future__ import annotations

import hashlib
import re

from asyncsessions.errors import InvalidSessionIdError

__all__ = ["MAX_SESSION_ID_BYTES", "check_session_id", "file_stem", "id_digest"]

MAX_SESSION_ID_BYTES = 512

_PLAIN_ID = re.compile(r"[a-z0-9][a-z0-9_-]{0,99}\Z")
_UNSAFE = re.compile(r"[^a-z0-9_-]+")
# Names that Windows gives to devices, whatever their extension.
_DEVICE = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)\Z")


def check_session_id(session_id: str) -> None:
    """Check that an id is text of 1 to 512 bytes in UTF-8.

    Raises:
        InvalidSessionIdError: It isn't.
    """
    # A subclass, such as an enumeration's, may have another text in a file's name than at a server.
    if type(session_id) is not str:
        kind = type(session_id).__name__
        raise InvalidSessionIdError(f"a session id is a plain str, not {kind}; convert it first")
    if session_id.isascii() and 0 < len(session_id) <= MAX_SESSION_ID_BYTES:
        return
    if not session_id:
        raise InvalidSessionIdError("a session id can't be empty", session_id=session_id)
    try:
        size = len(session_id.encode())
    except UnicodeEncodeError as exc:
        text = "a session id can't hold a lone surrogate; decode the text correctly first"
        raise InvalidSessionIdError(text, session_id=session_id) from exc
    if size > MAX_SESSION_ID_BYTES:
        text = f"a session id of {size} bytes is over {MAX_SESSION_ID_BYTES}; use a digest of it"
        raise InvalidSessionIdError(text, session_id=session_id)


def id_digest(session_id: str) -> str:
    """Return 32 hex digits that stand for the id (128 bits of BLAKE2b)."""
    return hashlib.blake2b(session_id.encode(), digest_size=16).hexdigest()


def file_stem(session_id: str) -> str:
    """Return a readable file name, without ending, that no other id has.

    A short id of lower-case letters, digits, ``-`` and ``_`` is its own name. Any other gets its
    readable part, ``~`` (which no plain id holds) and a digest, so that ids stay apart on disks
    that ignore case, normalise Unicode or reserve names such as ``CON``.
    """
    if _PLAIN_ID.match(session_id) and not _DEVICE.match(session_id):
        return session_id
    readable = _UNSAFE.sub("_", session_id.lower()).strip("_-")[:60]
    return f"{readable}~{id_digest(session_id)}"
