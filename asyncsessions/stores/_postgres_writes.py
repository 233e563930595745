"""The writes of a PostgreSQL store that take a transaction.

Each locks the rows of its sessions first, in the order of their ids, decides in Python, and
then saves in as few statements as it can. The last one notes what the write answered.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

from asyncsessions.errors import CorruptSessionError, SessionStoreError
from asyncsessions.hooks import (
    KEY_LIFETIME,
    Append,
    Appended,
    KeyRecord,
    Replace,
    Replaced,
    Update,
    check_unshared,
)
from asyncsessions.models import JSONValue, SessionInfo
from asyncsessions.stores._postgres_connections import Connection, transaction
from asyncsessions.stores._postgres_replies import encode_reply
from asyncsessions.stores._postgres_sessions import (
    Held,
    Oldest,
    info_of,
    metadata_of,
    record_columns,
)
from asyncsessions.stores._postgres_statements import Statements

__all__ = ["Claim", "Writes"]

# How many of a session's oldest keys are looked at, beside two for each that is added.
_FEWEST_FORGOTTEN = 8

_AppendOutcome: TypeAlias = Appended | SessionStoreError
_UpdateOutcome: TypeAlias = list[JSONValue] | SessionStoreError | None


class Claim(NamedTuple):
    """Stands for one write, whichever attempt of it gets through.

    Attributes:
        writer: Who writes; one write at a time.
        counter: The number of the write, higher than that of the one before.
    """

    writer: str
    counter: int


class Writes:
    """Runs writes on a connection.

    Args:
        statements: The SQL.
        begin: How a transaction begins.
        by_server: Whether the server's clock decides what has expired.
    """

    def __init__(self, statements: Statements, *, begin: str, by_server: bool) -> None:
        self._sql = statements
        self._begin = begin
        self._by_server = by_server

    def _moment(self, held: Held, write: Append | Update | Replace) -> float:
        return held.server_now if self._by_server else write.now

    async def append(
        self, connection: Connection, batch: Sequence[Append], claim: Claim
    ) -> list[_AppendOutcome]:
        """Append, with all that can be asked of an append; see `BaseSessionStore._append`."""
        async with transaction(connection, self._begin):
            rows = await connection.fetch(self._sql.lock, _ids(batch))
            sessions = {held.id: held for held in map(Held, rows)}
            await self._find_keys(connection, sessions, batch)
            outcomes: list[_AppendOutcome] = []
            keeps: dict[bytes, int] = {}
            for append in batch:
                held = sessions[append.session_id.encode()]
                outcomes.append(held.append(append, self._moment(held, append)))
                if append.keep is not None:
                    keeps[held.id] = append.keep
            written = [held for held in sessions.values() if held.is_written]
            over = [
                Oldest(held, keeps[held.id])
                for held in written
                if held.message_count > keeps.get(held.id, held.message_count)
            ]
            await self._retain(connection, over)
            await self._clear_up(connection, sessions.values())
            await self._remember(connection, written, batch[-1].now)
            await self._save(connection, written, claim, encode_reply(outcomes, batch))
        return outcomes

    async def _find_keys(
        self, connection: Connection, sessions: dict[bytes, Held], batch: Sequence[Append]
    ) -> None:
        wanted = {
            (append.session_id.encode(), append.key.encode())
            for append in batch
            if append.key is not None
        }
        if not wanted:
            return
        for row in await connection.fetch(self._sql.find_keys, *_columns(wanted, 2)):
            key = row["key"].decode()
            sessions[row["session_id"]].keys[key] = KeyRecord(
                key, row["first_seq"], row["message_count"], row["digest"], row["stored_at"]
            )

    async def _retain(self, connection: Connection, over: list[Oldest]) -> None:
        """Drop the oldest messages of sessions that have more than they keep."""
        changed = list(over)
        while over:
            asked = [
                (each.held.id, each.held.old_first_seq, each.skipped, each.wanted) for each in over
            ]
            rows: dict[bytes, list[Any]] = {each.held.id: [] for each in over}
            for row in await connection.fetch(self._sql.oldest, *_columns(asked, 4)):
                rows[row["session_id"]].append(row)
            over = [each for each in over if not each.see(rows[each.held.id])]
        dropped = [
            (each.held.id, each.held.old_first_seq, each.held.first_seq)
            for each in changed
            if each.held.first_seq > each.held.old_first_seq
        ]
        if dropped:
            await connection.executemany(self._sql.drop, dropped)

    async def _clear_up(self, connection: Connection, sessions: Iterable[Held]) -> None:
        """Empty what had expired, and remove what the lock made and nobody needs."""
        sessions = list(sessions)
        reborn = [held.id for held in sessions if held.is_reborn]
        if reborn:
            await connection.execute(self._sql.wipe, reborn)
        # Also what was alive until a write before in this batch ended it.
        unneeded = [
            held.id for held in sessions if (held.is_new or held.is_reborn) and not held.is_written
        ]
        if unneeded:
            await connection.execute(self._sql.discard, unneeded)

    async def _remember(self, connection: Connection, written: Iterable[Held], now: float) -> None:
        keys = [
            (held.id, key.key.encode(), key.first_seq, key.count, key.digest, key.now)
            for held in written
            for key in held.new_keys
        ]
        if keys:
            await connection.execute(self._sql.remember, *_columns(keys, 6))
        before = now - KEY_LIFETIME
        with_old = [
            (held.id, held.first_seq, before, _FEWEST_FORGOTTEN + 2 * len(held.new_keys))
            for held in written
            if held.new_keys and held.first_seq > 1
        ]
        if with_old:
            await connection.executemany(self._sql.forget, with_old)

    async def _save(
        self, connection: Connection, written: Sequence[Held], claim: Claim, reply: bytes
    ) -> None:
        counters = _columns([held.counters() for held in written], 7)
        added = [(held.id, *message) for held in written for message in held.added]
        await connection.execute(
            self._sql.save_counters, *claim, reply, *counters, *_columns(added, 4)
        )

    async def update(
        self, connection: Connection, batch: Sequence[Update], claim: Claim
    ) -> list[_UpdateOutcome]:
        """Change records; see `BaseSessionStore._update`."""
        async with transaction(connection, self._begin):
            rows = await connection.fetch(self._sql.lock_records, _ids(batch))
            sessions = {row["session_id"]: Held(row) for row in rows}
            records = {row["session_id"]: row for row in rows}
            infos: dict[bytes, SessionInfo] = {}
            outcomes: list[_UpdateOutcome] = []
            for update in batch:
                held = sessions[update.session_id.encode()]
                moment = self._moment(held, update)
                held.expire(moment)
                empty = None if held.exists else SessionInfo(session_id=update.session_id)
                try:
                    info = empty or infos.get(held.id) or info_of(records[held.id])
                except CorruptSessionError as exc:
                    outcomes.append(exc)
                    continue
                infos[held.id], outcome = held.update(info, update, moment)
                outcomes.append(outcome)
            written = [held for held in sessions.values() if held.is_written]
            await self._clear_up(connection, sessions.values())
            saved = [(*held.counters(), *record_columns(infos[held.id])) for held in written]
            reply = encode_reply(outcomes, batch)
            await connection.execute(self._sql.save_records, *claim, reply, *_columns(saved, 14))
        return outcomes

    async def replace(
        self, connection: Connection, replace: Replace, claim: Claim
    ) -> Replaced | None:
        """Replace the newest messages; see `BaseSessionStore._replace`."""
        replaced = None
        async with transaction(connection, self._begin):
            session_id = replace.session_id.encode()
            if replace.create:
                rows = await connection.fetch(self._sql.lock_records, [session_id])
            else:
                rows = await connection.fetch(self._sql.lock_existing, session_id)
            held = Held(rows[0]) if rows else None
            if held is not None:
                held.expire(self._moment(held, replace))
                replaced = await self._replace(connection, held, rows[0], replace)
                await self._clear_up(connection, [held])
            written = [held] if held is not None and held.is_written else []
            # Also where nothing was done: a retry must not find that it is possible by now.
            await self._save(connection, written, claim, encode_reply([replaced], [replace]))
        return replaced

    async def _replace(
        self, connection: Connection, held: Held, row: Mapping[str, Any], replace: Replace
    ) -> Replaced | None:
        newest = removed = 0
        if held.exists:
            check_unshared(replace.session_id, metadata_of(row), replace.from_seq)
            bounds = (held.id, replace.from_seq, replace.if_newest)
            newest, removed = await connection.fetchrow(self._sql.cut, *bounds)
        if replace.if_newest not in (None, newest) or not (held.exists or replace.create):
            return None
        had_checkpoint = held.exists and row["checkpoint"] is not None
        if had_checkpoint and replace.drop_checkpoint:
            await connection.execute(self._sql.drop_checkpoint, held.id)
        replaced = _replaced(held, replace, removed, had_checkpoint=had_checkpoint)
        held.touch(replace, self._moment(held, replace))
        return replaced

    async def delete(
        self, connection: Connection, session_id: str, expired_at: float | None, claim: Claim
    ) -> bool:
        """Remove a session; see `BaseSessionStore._delete`."""
        async with transaction(connection, self._begin):
            rows = await connection.fetch(self._sql.lock_existing, session_id.encode())
            is_wanted = bool(rows)
            if rows and expired_at is None:
                check_unshared(session_id, metadata_of(rows[0]))
            if rows and expired_at is not None:
                held = Held(rows[0])
                held.expire(held.server_now if self._by_server else expired_at)
                is_wanted = not held.exists
            reply = encode_reply([is_wanted], [None])
            if is_wanted:
                await connection.execute(self._sql.delete, *claim, reply, session_id.encode())
            else:
                await connection.execute(self._sql.claim, *claim, reply)
        return is_wanted


def _replaced(held: Held, replace: Replace, removed: int, *, had_checkpoint: bool) -> Replaced:
    """Replace in a session of which the messages are removed already."""
    held.message_count -= removed
    is_empty = held.message_count == 0
    first_seq = held.last_seq + 1
    if replace.in_place:
        first_seq = replace.from_seq
        held.added.append((first_seq, replace.bodies[0], None))
        held.last_seq = max(held.last_seq, first_seq)
        held.message_count += 1
    else:
        held.add(replace.bodies)
    if is_empty:
        held.first_seq = first_seq
    return Replaced(removed, first_seq, had_checkpoint)


def _ids(batch: Sequence[Append | Update]) -> list[bytes]:
    return [session_id.encode() for session_id in {write.session_id for write in batch}]


def _columns(rows: Iterable[tuple[Any, ...]], width: int) -> list[list[Any]]:
    """Return rows as columns, which is how they are sent."""
    return [list(column) for column in zip(*rows, strict=True)] or [[] for _ in range(width)]
