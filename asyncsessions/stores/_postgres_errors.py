"""What the errors of PostgreSQL and its driver mean."""

from __future__ import annotations

import socket
import ssl

import asyncpg

from asyncsessions.errors import StoreFullError, StoreRefusedError, StoreUnavailableError

__all__ = ["DRIVER_ERRORS", "explain", "is_lost"]

DRIVER_ERRORS: tuple[type[Exception], ...] = (
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    OSError,
)

# The server ended the connection, can't take one now, or undid the transaction for another's sake.
_LOST = frozenset(
    {
        "25P03",  # idle_in_transaction_session_timeout
        "40001",  # serialization_failure
        "40P01",  # deadlock_detected
        "53300",  # too_many_connections
        "57P01",  # admin_shutdown
        "57P02",  # crash_shutdown
        "57P03",  # cannot_connect_now
        "57P05",  # idle_session_timeout
    }
)
_READ_ONLY = "25006"

_REFUSED = {
    "28000": "the server doesn't let this user in; check the user in the URL and pg_hba.conf",
    "28P01": "the password is wrong, or the user unknown; check both in the URL",
    "3D000": "there is no such database; create it, or check its name in the URL",
    "3F000": "there is no such schema; run: asyncsessions migrate",
    "42501": "permission denied; grant this user the rights that the documentation lists, or run "
    "asyncsessions migrate as the owner of the database",
    "42P01": "a table is missing; run: asyncsessions migrate",
    "42703": "a column is missing; run: asyncsessions migrate",
    _READ_ONLY: "the server is a read-only replica, or its transactions are set to read only; "
    "connect to the primary, for instance with target_session_attrs=primary in the URL",
}
_FULL = {
    "53100": "the server's disk is full; make room there",
    "53200": "the server is out of memory; give it more, or write less at once",
}
# A pooler gave the next part of a transaction's work to another connection of the server.
_POOLED = frozenset({"26000", "42P05"})
_POOLED_TEXT = (
    "a connection pooler mixes up prepared statements; "
    "open the store with prepared_statements=false"
)


def is_lost(exc: Exception, *, has_written: bool) -> bool:
    """Return whether an attempt failed because the server was away.

    Args:
        exc: The error.
        has_written: Whether this store could write before: a server that is read-only all of a
            sudden is on the wrong side of a failover, and a new connection may find the right one.
            A name that is unknown all of a sudden comes back.
    """
    if isinstance(exc, asyncpg.PostgresConnectionError):
        return True
    if isinstance(exc, asyncpg.PostgresError):
        return exc.sqlstate in _LOST or (exc.sqlstate == _READ_ONLY and has_written)
    if isinstance(exc, asyncpg.InterfaceError):
        # "the connection is closed", "... was closed in the middle of operation", "... has been
        # released back to the pool", because it was lost; a pool that is closed comes not back.
        text = str(exc)
        return ("clos" in text or "released" in text) and "pool is clos" not in text
    if isinstance(exc, asyncpg.InternalClientError):
        # Above all that the server has said goodbye on a connection that isn't closed yet.
        return True
    if isinstance(exc, socket.gaierror):
        return has_written or exc.errno == socket.EAI_AGAIN
    return isinstance(exc, OSError) and not isinstance(exc, ssl.SSLCertVerificationError)


def explain(exc: Exception) -> tuple[type[StoreUnavailableError], str]:
    """Return which error of this library stands for the driver's, and a text that says what to do.

    Of the driver's text only the message is shown: its details may quote what was stored.
    """
    if isinstance(exc, ssl.SSLCertVerificationError):
        text = "the server's certificate isn't trusted; name its authority with sslrootcert in the "
        return StoreRefusedError, f"{text}URL"
    if isinstance(exc, asyncpg.ClientConfigurationError):
        return StoreRefusedError, f"the driver can't connect as it is told to: {exc.args[0]}"
    if not isinstance(exc, asyncpg.PostgresError):
        return StoreUnavailableError, _plain(exc)
    # Tracebacks show the driver's error, too.
    exc.detail = None
    state = exc.sqlstate or "unknown"
    if state in _FULL:
        return StoreFullError, f"{_FULL[state]} (SQLSTATE {state})"
    if state in _REFUSED:
        return StoreRefusedError, f"{_REFUSED[state]} (SQLSTATE {state})"
    if state in _POOLED:
        return StoreRefusedError, f"{_POOLED_TEXT} (SQLSTATE {state})"
    return StoreUnavailableError, f"{exc.args[0]} (SQLSTATE {state})"


def _plain(exc: Exception) -> str:
    if isinstance(exc, asyncpg.TargetServerAttributeNotMatched):
        return "no server in the URL is of the kind that target_session_attrs asks for"
    if isinstance(exc, socket.gaierror):
        return "the name of the server in the URL can't be resolved"
    return str(exc)
