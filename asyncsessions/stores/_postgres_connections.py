"""Connections to PostgreSQL: a small pool, and those that are kept for the group commits."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from types import TracebackType
from typing import Any, TypeAlias
from urllib.parse import parse_qsl

import asyncpg

from asyncsessions.errors import SessionStoreError, StoreRefusedError
from asyncsessions.stores._servers import connections_for_flushes
from asyncsessions.stores._urls import check_address, split_url

__all__ = ["Connection", "Connections", "transaction"]

# What lay idle for longer, in seconds, may be forgotten by a router on the way, and isn't used.
_OLDEST_KEPT = 240.0
# Options in the URL that the driver would refuse late, and not by name; and those that name files.
_CHOICES = {
    "sslmode": "disable allow prefer require verify-ca verify-full",
    "sslnegotiation": "postgres direct",
    "target_session_attrs": "any primary standby prefer-standby read-write read-only",
}
_FILES = ("sslrootcert", "sslcert", "sslkey", "sslcrl")
# What PostgreSQL takes for one, in milliseconds.
_LONGEST_LIMIT = 2**31 - 1
# After these a connection can be used on.
_HARMLESS = (asyncpg.PostgresError, SessionStoreError)
_WRONG_SERVER = asyncpg.ReadOnlySQLTransactionError
# After these another host may do.
_NOT_THIS_HOST = (
    OSError,
    asyncpg.CannotConnectNowError,
    asyncpg.TargetServerAttributeNotMatched,
)

Connection: TypeAlias = Any
"""One of asyncpg's, or its pool's stand-in for one; the driver has no type hints."""


class Connections:
    """Lends connections, and ends those of which nobody can say what state they are in.

    Args:
        source: A URL, or the caller's pool, which is never closed.
        size: With a URL, how many connections there are at the most.
        timeout: How long to wait for a connection to be made, in seconds.
        is_prepared: Whether statements may stay prepared at the server.

    Raises:
        ValueError: The URL isn't valid.
    """

    def __init__(self, source: Any, *, size: int, timeout: float, is_prepared: bool) -> None:
        self._url: str | None = source if isinstance(source, str) else None
        self._pool: Any = None if isinstance(source, str) else source
        if self._url is not None:
            parts = split_url(self._url)
            check_address(parts)
            if parts.netloc.count("@") > 1:
                # The driver would take what follows the first one for a host, and name it.
                raise ValueError("the URL holds more than one @; in a password, write it as %40")
            _check_choices(parts.query)
        self._hosts: list[str] = _each_host(self._url or "")
        self._size = size
        self._timeout = timeout
        self._is_prepared = is_prepared
        # Those for flushes that lie idle, and since when.
        self._kept: list[tuple[Connection, float]] = []

    @property
    def flushes_at_once(self) -> int:
        """For how many flushes at the same time connections are set aside."""
        return connections_for_flushes(self._all)

    @property
    def at_once(self) -> int:
        """How many connections `lend` can lend at the same time, beside those for flushes."""
        return max(self._all - self.flushes_at_once, 1)

    @property
    def _all(self) -> int:
        size: int = self._size if self._url is not None else self._pool.get_max_size()
        return size

    @property
    def begin(self) -> str:
        """How a transaction begins.

        Each statement sees what was committed before it began, whatever the database's default:
        that is what makes it right to read after the rows are locked.
        """
        # Behind a pooler no setting outlives a transaction.
        limits = [] if self._is_prepared else [f"SET LOCAL {limit}" for limit in self._limits()]
        return "; ".join(["BEGIN ISOLATION LEVEL READ COMMITTED", *limits])

    def _limits(self) -> list[str]:
        """Return the settings that end what a client has left behind at the server.

        A connection that is given up, or whose process stands still, would otherwise hold its
        locks on sessions until somebody ends it. A caller's own pool, and whoever sets a limit in
        the URL, decide themselves.
        """
        if self._url is None:
            return []
        milliseconds = min(max(round(self._timeout * 1000), 2), _LONGEST_LIMIT)
        limits = {
            "statement_timeout": milliseconds,
            # Others that wait for a lock get it before their own time is up.
            "idle_in_transaction_session_timeout": milliseconds // 2,
        }
        given = split_url(self._url).query
        return [f"{name} = {value}" for name, value in limits.items() if name not in given]

    def _options(self) -> dict[str, Any]:
        options: dict[str, Any] = {} if self._is_prepared else {"statement_cache_size": 0}
        names = {name for name, _ in parse_qsl(split_url(self._url or "").query)}
        if "application_name" not in names:
            options["server_settings"] = {"application_name": "asyncsessions"}
        return options

    async def _prepare(self, connection: Connection) -> None:
        """Have a new connection use indexes, and end what nobody waits for.

        Every statement is made for one, and a plan stays with a prepared statement: one from
        when a table had few rows would read all of it for long after. What `begin` says of
        transactions holds for single statements, too. Behind a pooler the connection isn't this
        store's to set up, and no plan stays.
        """
        if not self._is_prepared:
            return
        settings = [
            "enable_seqscan = off",
            "enable_bitmapscan = off",
            # Where no index helps, that makes a plan look worth compiling, which takes 0.2 s.
            "jit = off",
            "default_transaction_isolation = 'read committed'",
            *self._limits(),
        ]
        try:
            async with asyncio.timeout(self._timeout):
                await connection.execute("; ".join(f"SET {setting}" for setting in settings))
        except BaseException:
            # The pool would ask a server that doesn't answer for a proper end, without a limit.
            connection.terminate()
            raise

    async def _connect(self, _url: Any, **options: Any) -> Connection:
        """Connect to the first host that will do; none of them takes the time of the next ones.

        The driver would wait for one that doesn't answer until the time is up.
        """
        hosts = self._hosts.copy()
        clock = asyncio.get_running_loop().time
        end = clock() + self._timeout
        while True:
            host = hosts.pop(0)
            share = max(end - clock(), 0.0) / (len(hosts) + 1)
            try:
                return await asyncpg.connect(host, **{**options, "timeout": share})
            except _NOT_THIS_HOST as exc:
                if isinstance(exc, TimeoutError) and "target_session_attrs=" in host:
                    # The next connection needn't wait for it: each host is asked if it will do.
                    self._hosts.sort(key=host.__eq__)
                if not hosts:
                    raise

    async def open(self) -> None:
        """Connect, unless that is done or the caller's business.

        Raises:
            StoreRefusedError: A file that the URL names can't be read.
        """
        if self._pool is not None:
            return
        await asyncio.to_thread(_check_files, split_url(self._url or "").query)
        # The others are kept outside of the pool; see `lend_kept`.
        pool = asyncpg.create_pool(
            self._url,
            min_size=0,
            max_size=self.at_once,
            max_inactive_connection_lifetime=_OLDEST_KEPT,
            connect=self._connect,
            init=self._prepare,
            reset=_no_reset,
            **self._options(),
        )
        try:
            await pool
            async with pool.acquire():
                self._pool = pool
        except BaseException:
            pool.terminate()
            raise

    async def close(self) -> None:
        """Close what isn't the caller's. No connection is lent any more."""
        if self._url is None or self._pool is None:
            return
        kept, pool = self._kept, self._pool
        self._kept, self._pool = [], None
        try:
            async with asyncio.timeout(self._timeout):
                for connection, _ in kept:
                    await connection.close()
                await pool.close()
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
            pass  # The server is away, so nobody misses a farewell.
        finally:
            # Nothing is left of them, even where the caller has given up.
            for connection, _ in kept:
                connection.terminate()
            pool.terminate()

    @asynccontextmanager
    async def lend(self) -> AsyncIterator[Connection]:
        """Lend a connection of the pool."""
        pool = self._pool
        connection = await pool.acquire()
        try:
            yield connection
        except BaseException as exc:
            _end_unless_usable(connection, exc)
            raise
        finally:
            await pool.release(connection)

    def lend_kept(self) -> AbstractAsyncContextManager[Connection]:
        """Lend a connection that is kept for flushes, of which there are `flushes_at_once`.

        To take one of the pool and give it back costs a tenth of a single append. From a caller's
        pool nothing is kept.
        """
        return self.lend() if self._url is None else _Kept(self)

    async def take_kept(self) -> Connection:
        """Return a connection for a flush, a new one if none lies idle."""
        clock = asyncio.get_running_loop().time
        while self._kept:
            connection, since = self._kept.pop()
            if _is_closed(connection):
                continue
            if clock() - since < _OLDEST_KEPT:
                return connection
            connection.terminate()
        connection = await self._connect(self._url, **self._options())
        try:
            await self._prepare(connection)
        except BaseException:
            connection.terminate()
            raise
        return connection

    def give_back_kept(self, connection: Connection) -> None:
        """Take back what `take_kept` returned; if it was ended, so are those that lie idle.

        They were made for the same server, and would fail one after the other.
        """
        if not _is_closed(connection):
            self._kept.append((connection, asyncio.get_running_loop().time()))
            return
        kept, self._kept = self._kept, []
        for other, _ in kept:
            other.terminate()


class _Kept:
    """Lends a connection that is kept; a class, because a generator takes three times as long."""

    __slots__ = ("_connection", "_connections")

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    async def __aenter__(self) -> Connection:
        self._connection = await self._connections.take_kept()
        return self._connection

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if exc is not None:
            _end_unless_usable(self._connection, exc)
        self._connections.give_back_kept(self._connection)


def _end_unless_usable(connection: Connection, exc: BaseException) -> None:
    """End a connection that may be in the middle of something.

    After an error that the server or this library reported it waits for the next statement,
    unless the server is a replica by now: another connection may find the primary.
    Otherwise, above all when time was up, to wait for what it is doing could take for ever.
    """
    is_usable = isinstance(exc, _HARMLESS) and not isinstance(exc, _WRONG_SERVER)
    if not is_usable and not _is_closed(connection):
        connection.terminate()


def _is_closed(connection: Connection) -> bool:
    try:
        closed: bool = connection.is_closed()
    except asyncpg.InterfaceError:
        return True  # Its pool has taken it back, because it was lost.
    return closed


def _check_choices(query: str) -> None:
    given = dict(parse_qsl(query, keep_blank_values=True))
    for name, choices in _CHOICES.items():
        if name in given and given[name] not in choices.split():
            raise ValueError(f"option {name} in the URL isn't valid; it is one of {choices}")


def _check_files(query: str) -> None:
    """Check that there are the files for a connection; the driver would take one for a server."""
    for name, value in parse_qsl(query):
        if name in _FILES and not os.access(value, os.R_OK):
            raise StoreRefusedError(f"there is no file for {name} in the URL, or not for this user")


def _each_host(url: str) -> list[str]:
    """Return a URL for each of the hosts in one, in their order."""
    parts = split_url(url)
    user, at, hosts = parts.netloc.rpartition("@")
    options = dict(parse_qsl(parts.query))
    if "," not in hosts or "host" in options or "port" in options:
        return [url]
    if options.get("target_session_attrs") == "prefer-standby":
        return [url]  # Which is decided when all are connected.
    each = (parts._replace(netloc=f"{user}{at}{host}") for host in hosts.split(","))
    return [one.geturl() for one in each]


async def _no_reset(connection: Connection) -> None:
    """Stand for the round trip that puts back settings, of which this library changes none."""


@asynccontextmanager
async def transaction(connection: Connection, begin: str) -> AsyncIterator[None]:
    """Run the block in a transaction; it is undone where the block raises.

    Args:
        connection: Where.
        begin: See `Connections.begin`.
    """
    await connection.execute(begin)
    try:
        yield
    except _HARMLESS:
        if not _is_closed(connection):
            await connection.execute("ROLLBACK")
        raise
    # After any other error the connection is ended, and the transaction with it.
    await connection.execute("COMMIT")
