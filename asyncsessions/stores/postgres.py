"""Sessions in PostgreSQL: one row for each message, one statement for each group commit."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any, Self, TypeAlias, TypeVar

import asyncpg
import msgspec

from asyncsessions._compat import override
from asyncsessions.batching import Outcome
from asyncsessions.codec import with_seq
from asyncsessions.errors import (
    CorruptSessionError,
    StoreRefusedError,
    StoreUnavailableError,
)
from asyncsessions.hooks import Append, Appended, Replace, Replaced, Scan, Tail, Update, Window
from asyncsessions.models import JSONValue, SessionInfo
from asyncsessions.omissions import leave_out
from asyncsessions.pacing import Pacer
from asyncsessions.stores import _postgres_errors as errors
from asyncsessions.stores._detached import Detached
from asyncsessions.stores._postgres_connections import Connection, Connections, transaction
from asyncsessions.stores._postgres_plain import Flush
from asyncsessions.stores._postgres_replies import decode_reply
from asyncsessions.stores._postgres_schema import (
    VERSION,
    Tables,
    applied_versions,
    apply_migrations,
    migration_sql,
)
from asyncsessions.stores._postgres_sessions import info_of
from asyncsessions.stores._postgres_statements import Statements
from asyncsessions.stores._postgres_writes import Claim, Writes
from asyncsessions.stores._servers import SERVER_OPTIONS, ServerStore, Turns
from asyncsessions.stores._urls import split_options, switch

__all__ = ["PostgresSessionStore"]

logger: logging.Logger = logging.getLogger("asyncsessions.postgres")

T = TypeVar("T")
_Write: TypeAlias = Callable[[Connection, Claim], Awaitable[T]]

_OPTIONS: dict[str, Callable[[str], Any]] = {
    "schema": str,
    "table_prefix": str,
    "connections": int,
    "migrate": switch,
    "prepared_statements": switch,
}
_OPTIONS |= SERVER_OPTIONS
# What stays in the URL: the parameters of libpq that asyncpg knows, and settings of the server.
_DRIVER_OPTIONS = frozenset(
    {
        *("host", "port", "database", "dbname", "user", "password", "passfile", "service"),
        *("servicefile", "application_name", "target_session_attrs", "krbsrvname", "gsslib"),
        *("sslmode", "sslcert", "sslkey", "sslpassword", "sslrootcert", "sslcrl"),
        *("sslnegotiation", "ssl_min_protocol_version", "ssl_max_protocol_version"),
        *("options", "synchronous_commit", "statement_timeout", "lock_timeout"),
        "idle_in_transaction_session_timeout",
    }
)
_OLDEST_SERVER = (13,)
_LARGEST = 2**63 - 1  # Of PostgreSQL's bigint.
_SLICE = 256  # Messages that take less than a millisecond.


class PostgresSessionStore(ServerStore):
    """Keeps sessions in a PostgreSQL database, for any number of processes.

    A flush of plain appends, to however many sessions, is one statement and one commit. A write
    whose connection broke is tried again, and the database itself knows whether the first
    attempt got through. Acknowledged is what the server's ``synchronous_commit`` makes durable.

    Args:
        source: A URL, ``postgresql://user:password@host/database``, or a pool of asyncpg, which
            stays the caller's to close.
        schema: The schema with the tables.
        table_prefix: What the tables' names begin with.
        connections: How many connections there are at the most, with a URL; two of them are for
            group commits, or one of two.
        migrate: Whether to create or update the tables when the store opens; otherwise somebody
            runs ``asyncsessions migrate``.
        prepared_statements: Whether statements stay prepared at the server. Not behind a
            transaction-mode pooler such as pgbouncer.
        **options: See `ServerStore` and `BaseSessionStore`.

    Raises:
        ValueError: An argument isn't valid; names it.
    """

    _driver_errors = errors.DRIVER_ERRORS
    _overlaps_flushes = True

    def __init__(
        self,
        source: str | asyncpg.Pool,
        *,
        schema: str = "asyncsessions",
        table_prefix: str = "",
        connections: int = 4,
        migrate: bool = True,
        prepared_statements: bool = True,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        if connections < 2:
            text = "give 2 or more, because one is for group commits"
            raise ValueError(f"connections={connections!r}: {text}")
        self._tables = Tables(schema, table_prefix)
        self._migrates = migrate
        self._make_connections = partial(
            Connections,
            source,
            size=connections,
            timeout=self._timeout,
            is_prepared=prepared_statements,
        )
        self._connections = self._make_connections()
        self._flushes_at_once = self._connections.flushes_at_once
        # Who waits here waits in no queue of the pool, where the time would count.
        self._turns = Turns(self._connections.at_once, self._timeout)
        by_server = self._expires_by_server
        self._sql = Statements(self._tables, by_server=by_server)
        begin = self._connections.begin
        self._writes = Writes(self._sql, begin=begin, by_server=by_server)
        # Names of writers that have no write under way, each with the number of its last one.
        self._idle_writers: list[list[Any]] = []
        self._writer_count = 0
        self._has_forgotten = self._has_written = False
        self._reads = Detached()

    @override
    @classmethod
    def from_url(cls, url: str, **options: Any) -> Self:
        """Return a store for a URL; see `open_store`.

        Its query takes this store's options, asyncpg's, and a few settings of the server.
        """
        driver_url, given = split_options(url, _OPTIONS, _DRIVER_OPTIONS)
        return cls(driver_url, **given | options)

    # Life cycle.

    def migration_sql(self) -> str:
        """Return the SQL that makes this store's tables, for those who run their own."""
        return migration_sql(self._tables)

    async def migrate(self) -> Sequence[int]:
        """Create or update the tables; any number of processes may do so at once.

        Returns:
            The versions that were applied; empty where the tables are up to date.

        Raises:
            StoreRefusedError: A newer version of this library made the tables, or a permission
                is missing.
            StoreUnavailableError: The server can't be reached.
        """
        connections = self._make_connections()
        try:
            await connections.open()
            return await self._retried(partial(self._migrate, connections))
        except self._driver_errors as exc:
            raise self._failure(exc, None) from exc
        finally:
            await connections.close()

    async def _migrate(self, connections: Connections) -> Sequence[int]:
        begin = connections.begin
        async with connections.lend() as connection, transaction(connection, begin):
            return await apply_migrations(connection, self._tables)

    @override
    async def _open(self) -> None:
        try:
            await self._retried(self._connect)
        except BaseException:
            await self._connections.close()
            raise

    async def _connect(self) -> None:
        await self._connections.open()
        async with self._connections.lend() as connection:
            version = connection.get_server_version()
            if version < _OLDEST_SERVER:
                text = f"the server is PostgreSQL {version.major}; use {_OLDEST_SERVER[0]} or later"
                raise StoreRefusedError(text)
            async with transaction(connection, self._connections.begin):
                applied = await applied_versions(connection, self._tables)
        if VERSION in applied:
            return
        if not self._migrates:
            text = f"the tables in schema {self._tables.schema!r} are missing or out of date"
            raise StoreRefusedError(f"{text}; run: asyncsessions migrate")
        await self._migrate(self._connections)

    @override
    async def _close(self) -> None:
        await self._reads.finish()
        await self._connections.close()

    @override
    async def _ping(self) -> None:
        await self._read("SELECT 1")

    @override
    def _is_lost(self, exc: Exception) -> bool:
        return errors.is_lost(exc, has_written=self._has_written)

    @override
    def _explain(self, exc: Exception) -> tuple[type[StoreUnavailableError], str]:
        return errors.explain(exc)

    # Writes.

    async def _once(self, write: _Write[T], recall: Callable[[Any], T]) -> T:
        """Write, as often as it takes to hear of it, but with effect only once.

        Args:
            write: Writes on a connection, and notes the claim and the answer in the same step.
            recall: Makes the answer of an earlier attempt from what it noted.
        """
        async with self._turns.take() as since:
            return await self._claimed(write, recall, self._connections.lend, since=since)

    async def _once_in_flush(self, write: _Write[T], recall: Callable[[Any], T]) -> T:
        """Write as `_once` does, on a connection for group commits."""
        return await self._claimed(write, recall, self._connections.lend_kept)

    async def _claimed(
        self,
        write: _Write[T],
        recall: Callable[[Any], T],
        lend: Callable[[], AbstractAsyncContextManager[Connection]],
        *,
        since: float | None = None,
    ) -> T:
        writer = self._idle_writers.pop() if self._idle_writers else self._new_writer()
        writer[1] += 1
        claim = Claim(*writer)

        async def attempt() -> T:
            async with lend() as connection:
                if not self._has_forgotten:
                    await connection.execute(self._sql.forget_writers)
                    self._has_forgotten = True
                try:
                    return await write(connection, claim)
                except asyncpg.NotNullViolationError:
                    noted = await connection.fetchrow(self._sql.recall, claim.writer)
                    if noted is None or noted["counter"] != claim.counter:
                        raise
                    return recall(noted)

        try:
            done = await self._retried(attempt, since=since)
        finally:
            self._idle_writers.append(writer)
        self._has_written = True
        return done

    def _new_writer(self) -> list[Any]:
        self._writer_count += 1
        return [f"{self._writer_id}-{self._writer_count}", 0]

    @override
    async def _append(self, batch: Sequence[Append]) -> Sequence[Outcome[Appended]]:
        flush = Flush.of(batch)
        if flush is None:
            return await self._append_carefully(batch)
        if len(batch) > _SLICE // 2:
            # All these callers have just had the event loop, and to send theirs takes as long.
            await asyncio.sleep(0)

        async def write(connection: Connection, claim: Claim) -> list[Any]:
            rows: list[Any]
            rows = await connection.fetch(self._sql.append, *claim, *flush.arguments())
            return rows

        rows = await self._once_in_flush(write, flush.recalled)
        outcomes: list[Any] = flush.outcomes(rows)
        left = [index for index, outcome in enumerate(outcomes) if outcome is None]
        if left:
            # Sessions that had expired. The others are stored, whatever becomes of these.
            half = await self._append_expired([batch[index] for index in left])
            for index, outcome in zip(left, half, strict=True):
                outcomes[index] = outcome
        return outcomes

    async def _append_expired(self, batch: Sequence[Append]) -> Sequence[Outcome[Appended]]:
        try:
            return await self._append_carefully(batch)
        except self._driver_errors as exc:
            return [self._failure(exc, append.session_id) for append in batch]

    async def _append_carefully(self, batch: Sequence[Append]) -> Sequence[Outcome[Appended]]:
        return await self._once_in_flush(
            lambda connection, claim: self._writes.append(connection, batch, claim),
            lambda noted: decode_reply(noted["reply"], batch),
        )

    @override
    async def _update(self, batch: Sequence[Update]) -> Sequence[Outcome[list[JSONValue] | None]]:
        return await self._once_in_flush(
            lambda connection, claim: self._writes.update(connection, batch, claim),
            lambda noted: decode_reply(noted["reply"], batch),
        )

    @override
    async def _replace(self, replace: Replace) -> Replaced | None:
        done: Replaced | None = await self._once(
            lambda connection, claim: self._writes.replace(connection, replace, claim),
            lambda noted: decode_reply(noted["reply"], [replace])[0],
        )
        return done

    @override
    async def _delete(self, session_id: str, *, expired_at: float | None = None) -> bool:
        return await self._once(
            lambda connection, claim: self._writes.delete(
                connection, session_id, expired_at, claim
            ),
            lambda noted: bool(decode_reply(noted["reply"], [None])[0]),
        )

    # Reads.

    async def _read(self, statement: str, *arguments: Any) -> list[Any]:
        """Return the rows of a statement.

        A cancelled caller doesn't wait, but the statement runs to its end: to stop it would take
        a connection of its own, and cost the one that it runs on.
        """

        async def attempt() -> list[Any]:
            async with self._connections.lend() as connection:
                rows: list[Any] = await connection.fetch(statement, *arguments)
                return rows

        return await self._reads.run(self._in_turn, attempt)

    @override
    async def _head(self, session_id: str) -> SessionInfo | None:
        rows = await self._read(self._sql.head, session_id.encode())
        if not rows or (self._expires_by_server and _has_expired(rows[0], rows[0]["clock"])):
            return None
        return info_of(rows[0])

    @override
    async def _tail(self, session_id: str, window: Window) -> Tail | None:
        before = _LARGEST if window.before is None else min(window.before, _LARGEST)
        limit = None if window.limit is None else min(window.limit, _LARGEST)
        arguments = [session_id.encode(), min(window.after + 1, _LARGEST), before, limit]
        is_bounded = window.max_bytes is not None
        if is_bounded:
            arguments.append(window.max_bytes)
        statement = self._sql.tail(oldest=window.oldest, bounded=is_bounded)
        rows = await self._read(statement, *arguments)
        place = next((place for place, row in enumerate(rows) if row["seq"] is None), None)
        if place is None:
            return None
        session = rows.pop(place)
        if self._expires_by_server and session["is_expired"]:
            return None
        if not window.oldest:
            rows.reverse()
        expires_at = None if self._expires_by_server else session["expires_at"]
        return Tail(await _with_seqs(rows), expires_at)

    @override
    async def _scan(self, scan: Scan) -> list[SessionInfo]:
        infos: list[SessionInfo] = []
        wanted = scan.limit
        while True:
            statement, arguments = self._sql.scan(scan)
            rows = await self._read(statement, *arguments)
            for row in rows:
                try:
                    infos.append(_expired_info(row) if scan.expired else info_of(row))
                except CorruptSessionError as exc:
                    leave_out(logger, "list", exc)
            if len(rows) < scan.limit or len(infos) == wanted:
                return infos
            last = (rows[-1]["updated_at"], rows[-1]["session_id"].decode())
            scan = msgspec.structs.replace(scan, limit=wanted - len(infos), below=last)


def _expired_info(row: Any) -> SessionInfo:
    """Return what it takes to purge a session, even where the rest of its record is damaged."""
    return SessionInfo(session_id=row["session_id"].decode(), expires_at=row["expires_at"])


def _has_expired(row: Any, now: float) -> bool:
    return row["expires_at"] is not None and row["expires_at"] <= now


async def _with_seqs(rows: Sequence[Any]) -> list[bytes]:
    pacer = Pacer()
    bodies: list[bytes] = []
    for start in range(0, len(rows), _SLICE):
        bodies += [with_seq(row[1], row[0]) for row in rows[start : start + _SLICE]]
        await pacer.pause()
    return bodies
