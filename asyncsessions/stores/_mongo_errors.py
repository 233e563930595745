"""What MongoDB's errors mean: whether to try again, and what to tell the caller."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pymongo.errors import (
    ConfigurationError,
    ConnectionFailure,
    InvalidURI,
    NetworkTimeout,
    NotPrimaryError,
    OperationFailure,
    PyMongoError,
    ServerSelectionTimeoutError,
    WaitQueueTimeoutError,
    WriteConcernError,
)

from asyncsessions.errors import StoreFullError, StoreRefusedError, StoreUnavailableError

__all__ = [
    "BAD_VALUE",
    "DRIVER_ERRORS",
    "DUPLICATE_KEY",
    "WRITE_CONCERN_TIMEOUT",
    "check_reply",
    "explain",
    "is_lost",
]

DRIVER_ERRORS: tuple[type[Exception], ...] = (PyMongoError, OSError)
"""What the driver raises; a `TimeoutError` is an `OSError`."""

BAD_VALUE = 2
DUPLICATE_KEY = 11000
WRITE_CONCERN_TIMEOUT = 64

# Codes of https://github.com/mongodb/mongo/blob/master/src/mongo/base/error_codes.yml.
_NOT_PRIMARY = frozenset({10058, 10107, 13435, 13436})
# The server stops, steps down, or lost another one; the operation may have happened.
_INTERRUPTED = frozenset({6, 7, 89, 91, 134, 189, 262, 9001, 11600, 11602})
_REFUSED = {
    13: "this user lacks a permission; grant it readWrite on the database",
    18: "the user or the password is wrong, or authSource is missing; check them in the URL",
    20: "the server refuses this operation as it is set up; check its kind and version",
    59: "the server doesn't know a command; use MongoDB 5.0 or later",
    73: "the server allows no such name; check database and prefix",
    79: "the server doesn't know this write concern; check write_concern",
    85: "an index of the same name differs; drop it, or use another prefix",
    86: "an index of the same name differs; drop it, or use another prefix",
    100: "the write concern can't be met by this replica set; check write_concern",
    8000: "the user or the password is wrong; check them in the URL",
}
_NOT_PRIMARY_TEXT = (
    "the server is a secondary; give all members of the replica set, or its name, in the URL"
)
_FULL = frozenset({14031})
_TIME_LIMIT = 50
_FULL_TEXT = "No space left on device"

# The first of them that an error is an instance of.
_ANSWERS: Mapping[type[Exception], tuple[type[StoreUnavailableError], str]] = {
    ServerSelectionTimeoutError: (
        StoreUnavailableError,
        (
            "no server that takes writes was found in time; check that it runs, its host and port, "
            "and the name of the replica set in the URL"
        ),
    ),
    WaitQueueTimeoutError: (
        StoreUnavailableError,
        "no connection came free in time; raise maxPoolSize",
    ),
    NotPrimaryError: (StoreRefusedError, _NOT_PRIMARY_TEXT),
    NetworkTimeout: (StoreUnavailableError, "the server didn't answer in time"),
    ConnectionFailure: (StoreUnavailableError, "the connection to the server broke"),
    # The driver's text may quote the password.
    InvalidURI: (StoreRefusedError, "the URL isn't valid; escape special characters in it"),
}


def check_reply(reply: Mapping[str, Any]) -> dict[int, OperationFailure]:
    """Return what failed of a write command, by its place there.

    The server's texts aren't in it: they may quote documents.

    Raises:
        OperationFailure: Some failed because the server stops or isn't primary any more.
        WriteConcernError: The write happened, but isn't as durable as it should be.
    """
    failures = {}
    for error in reply.get("writeErrors", ()):
        text = _FULL_TEXT if _FULL_TEXT in error.get("errmsg", "") else "the write failed"
        failure = OperationFailure(text, error.get("code"))
        if is_lost(failure):
            raise failure
        failures[int(error["index"])] = failure
    concern = reply.get("writeConcernError")
    if concern is not None:
        raise WriteConcernError(str(concern.get("codeName", "")), concern.get("code"))
    return failures


def is_lost(exc: Exception) -> bool:
    """Return whether an attempt failed because the server was away, or isn't primary any more."""
    if isinstance(exc, OperationFailure):
        return exc.code in _INTERRUPTED or exc.code in _NOT_PRIMARY
    if isinstance(exc, ConnectionFailure):
        return not (isinstance(exc, WaitQueueTimeoutError) or _is_untrusted(exc))
    return isinstance(exc, OSError) and not isinstance(exc, TimeoutError)


def explain(exc: Exception) -> tuple[type[StoreUnavailableError], str]:
    """Return which error of this library stands for the driver's, and a text that says what to do.

    The server's own texts aren't shown: they may quote what was stored.
    """
    if isinstance(exc, OperationFailure):
        return _explain_code(exc)
    if _is_untrusted(exc):
        text = (
            "the server's certificate isn't trusted; name its authority with tlsCAFile in the URL"
        )
        return StoreRefusedError, text
    for kind, answer in _ANSWERS.items():
        if isinstance(exc, kind):
            return answer
    if isinstance(exc, ConfigurationError):
        return StoreRefusedError, f"the driver can't work with this server or URL: {exc}"
    if isinstance(exc, PyMongoError):
        return StoreUnavailableError, f"the driver failed with {type(exc).__name__}"
    return StoreUnavailableError, str(exc)


def _is_untrusted(exc: Exception) -> bool:
    # The driver passes on only the text of what went wrong with each server.
    return isinstance(exc, ConnectionFailure) and "CERTIFICATE_VERIFY_FAILED" in str(exc)


def _explain_code(exc: OperationFailure) -> tuple[type[StoreUnavailableError], str]:
    code = exc.code
    if code in _FULL or _FULL_TEXT in str(exc):
        return StoreFullError, f"the server's disk is full; make room there (code {code})"
    if code in _REFUSED:
        return StoreRefusedError, f"{_REFUSED[code]} (code {code})"
    if code in _NOT_PRIMARY:
        return StoreRefusedError, f"{_NOT_PRIMARY_TEXT} (code {code})"
    if code == _TIME_LIMIT:
        text = "the client's own time limit passed; a write may have happened; raise timeoutMS"
        return StoreUnavailableError, f"{text} (code {code})"
    if code == WRITE_CONCERN_TIMEOUT:
        text = "the write isn't on as many members as write_concern asks for"
        return StoreUnavailableError, f"{text}, because some are away (code {code})"
    return StoreUnavailableError, f"the server failed with code {code}"
