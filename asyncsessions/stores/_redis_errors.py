"""What redis-py's errors mean."""

from __future__ import annotations

import ssl

from redis import exceptions

from asyncsessions.errors import StoreFullError, StoreRefusedError, StoreUnavailableError

__all__ = ["DRIVER_ERRORS", "explain", "is_damage", "is_early", "is_lost", "is_read_only"]

DRIVER_ERRORS: tuple[type[Exception], ...] = (
    exceptions.RedisError,
    # Of the cluster's client; not a RedisError.
    exceptions.RedisClusterException,
    OSError,
)

_REFUSALS = (
    exceptions.AuthenticationError,
    exceptions.AuthorizationError,
    exceptions.NoPermissionError,
    exceptions.AuthenticationWrongNumberOfArgsError,
)
_LOST = (
    exceptions.ConnectionError,
    exceptions.TimeoutError,
    exceptions.ClusterError,
    exceptions.ClusterDownError,
    exceptions.MovedError,
    exceptions.AskError,
    exceptions.TryAgainError,
    exceptions.ReadOnlyError,
    exceptions.SlotNotCoveredError,
    OSError,
)
# Codes for which redis-py has no class of its own, and that pass.
_PASSING = (
    "BUSY ",
    "NOREPLICAS ",
    "UNBLOCKED ",
    "LOADING ",
    "MASTERDOWN ",
    "READONLY ",
    "TRYAGAIN ",
)


def _is_untrusted(exc: BaseException | None) -> bool:
    """Whether an error comes from a certificate that can't be checked."""
    while exc is not None and not isinstance(exc, ssl.SSLCertVerificationError):
        exc = exc.__cause__ or exc.__context__
    return exc is not None


def _refusal(exc: BaseException | None) -> BaseException | None:
    """Return the refusal behind an error, if that is what it comes from."""
    while exc is not None and not isinstance(exc, _REFUSALS):
        exc = exc.__cause__ or exc.__context__
    return exc


def is_lost(exc: Exception) -> bool:
    """Whether the server was away, or is about to change, so that another attempt may succeed."""
    if _refusal(exc) is not None or _is_untrusted(exc) or isinstance(exc, exceptions.DataError):
        return False
    if isinstance(exc, exceptions.RedisClusterException):
        return "mode is not enabled" not in str(exc)
    return isinstance(exc, _LOST) or str(exc).startswith(_PASSING)


def is_read_only(reply: object) -> bool:
    """Whether a reply is the error of a server that is a replica by now."""
    return isinstance(reply, exceptions.RedisError) and (
        isinstance(reply, exceptions.ReadOnlyError) or str(reply).startswith("READONLY ")
    )


def is_early(reply: object) -> bool:
    """Whether an append was refused because another one has to come first; see ``append.lua``."""
    return isinstance(reply, exceptions.ResponseError) and str(reply).startswith("EARLY")


def is_damage(exc: Exception) -> bool:
    """Whether a script found something else in one session's keys; see ``common.lua``."""
    return str(exc).startswith("DAMAGED")


def explain(exc: Exception) -> tuple[type[StoreUnavailableError], str]:
    """Say which error it becomes, and what to do; without content and credentials."""
    refusal = _refusal(exc)
    text = str(exc)
    if isinstance(refusal, exceptions.NoPermissionError):
        return StoreRefusedError, (
            "the user lacks a permission; allow it the keys with this store's prefix, and "
            "+@read +@write +@scripting +@connection +time (see ACL SETUSER)"
        )
    if _is_untrusted(exc):
        return StoreRefusedError, (
            "the server's certificate isn't trusted; name its authority with ssl_ca_certs "
            "in the URL"
        )
    if refusal is not None:
        return StoreRefusedError, "wrong user or password; check those in the URL"
    if isinstance(exc, exceptions.OutOfMemoryError) or text.startswith("OOM "):
        return StoreFullError, (
            "the server has reached its maxmemory; delete sessions, give them a ttl, or raise it"
        )
    if text.startswith("MISCONF"):
        return StoreFullError, (
            "the server can't write to its disk and takes no more writes; look at its log"
        )
    return _explain_state(exc, text)


def _explain_state(exc: Exception, text: str) -> tuple[type[StoreUnavailableError], str]:
    if isinstance(exc, exceptions.ReadOnlyError) or text.startswith("READONLY"):
        return StoreRefusedError, (
            "the server is a read-only replica; give the URL of the master, or of the cluster"
        )
    if "mode is not enabled" in text:
        return StoreRefusedError, "the server isn't part of a cluster; use redis:// in the URL"
    if isinstance(exc, exceptions.MovedError):
        return StoreRefusedError, "the server is part of a cluster; use redis+cluster:// in the URL"
    if text.startswith(("WRONGTYPE", "INDEX ")):
        return StoreRefusedError, (
            "an index holds what this library didn't write; look at the keys with {index} in "
            "their names, and delete those that aren't sorted sets"
        )
    if isinstance(exc, exceptions.NoScriptError):
        return StoreUnavailableError, "the server forgot a script; try again"
    return StoreUnavailableError, text or type(exc).__name__
