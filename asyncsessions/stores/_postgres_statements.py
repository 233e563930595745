"""The SQL of a PostgreSQL store."""

from __future__ import annotations

from typing import Any

from asyncsessions.hooks import Scan
from asyncsessions.stores._postgres_schema import Tables

__all__ = ["Statements"]

# For writes, which may have waited for a lock, the time is that of the moment; for reads that of
# the statement, with which an index can be used.
_CLOCK = "date_part('epoch', clock_timestamp())"
_STATEMENT_CLOCK = "date_part('epoch', statement_timestamp())"

# Of this flush what a retry of it needs: its number and what it answered. A retry, or a first
# attempt that arrives after it, finds the number taken, and NULL fails the whole statement.
_CLAIM_CONFLICT = """
    ON CONFLICT (writer) DO UPDATE SET
        counter = CASE WHEN w.counter < excluded.counter THEN excluded.counter END,
        session_ids = excluded.session_ids, seqs = excluded.seqs, reply = excluded.reply,
        written_at = excluded.written_at"""
_CLAIM = """
INSERT INTO {writers} AS w (writer, counter, reply, written_at)
VALUES ($1, $2, $3, now()){claim_conflict}"""

# Plain appends to any number of sessions. The rows are locked in the order of their ids, which
# every other statement here keeps to as well, so that no two writers wait for each other. A
# session that has expired is locked and left alone.
#
# To send an array takes the driver as long as all else, so `Flush` leaves out what goes without
# saying: a short array continues with NULL.
_APPEND = """
WITH s AS (
    INSERT INTO {sessions} AS s
        (session_id, last_seq, first_seq, message_count, created_at, updated_at, expires_at)
    SELECT id, coalesce(count, 1), 1, coalesce(count, 1), first_now,
        coalesce(last_now, first_now), {last_moment} + ttl
    FROM unnest($3::bytea[], $4::bigint[], $5::float8[], $6::float8[], $7::float8[])
        AS given (id, count, first_now, last_now, ttl)
    ORDER BY id
    ON CONFLICT (session_id) DO UPDATE SET
        last_seq = s.last_seq + excluded.last_seq,
        message_count = s.message_count + excluded.message_count,
        updated_at = excluded.updated_at,
        expires_at = coalesce(excluded.expires_at, s.expires_at)
    WHERE s.expires_at IS NULL OR s.expires_at > {first_moment}
    RETURNING session_id, last_seq
), m AS (
    INSERT INTO {messages} (session_id, seq, body)
    SELECT s.session_id, s.last_seq - coalesce(given.behind,
        CASE cardinality($3) WHEN 1 THEN cardinality($10) - given.place ELSE 0 END), given.body
    FROM unnest(coalesce($8::bytea[], $3), $9::bigint[], $10::bytea[]) WITH ORDINALITY
        AS given (id, behind, body, place)
    JOIN s ON s.session_id = coalesce(given.id, ($3)[1])
), w AS (
    INSERT INTO {writers} AS w (writer, counter, session_ids, seqs, written_at)
    SELECT $1::text, $2::bigint,
        CASE WHEN count(*) < cardinality($3) THEN array_agg(session_id ORDER BY session_id) END,
        array_agg(last_seq ORDER BY session_id), now()
    FROM s{claim_conflict}
)
SELECT session_id, last_seq FROM s"""

# Locks sessions in order; one that is missing is made, and marked by when it was created.
_COUNTERS = """\
session_id, last_seq, first_seq, message_count, created_at, updated_at, expires_at,
    {clock} AS clock"""
_RECORD = "agent_name, user_id, agent_id, gateway_session_id, metadata, state, checkpoint"
_LOCK = """
INSERT INTO {sessions} AS s
    (session_id, last_seq, first_seq, message_count, created_at, updated_at)
SELECT id, 0, 1, 0, '-infinity', '-infinity' FROM unnest($1::bytea[]) AS given (id) ORDER BY id
ON CONFLICT (session_id) DO UPDATE SET last_seq = s.last_seq
RETURNING {columns}"""
_LOCK_EXISTING = "SELECT {columns} FROM {sessions} WHERE session_id = $1 FOR UPDATE"
_DISCARD = "DELETE FROM {sessions} WHERE session_id = ANY($1::bytea[])"
# Empties sessions that have expired, of which the rows stay.
_WIPE = """
WITH m AS (DELETE FROM {messages} WHERE session_id = ANY($1::bytea[])),
    k AS (DELETE FROM {keys} WHERE session_id = ANY($1::bytea[]))
UPDATE {sessions} SET agent_name = NULL, user_id = NULL, agent_id = NULL,
    gateway_session_id = NULL, metadata = NULL, state = NULL, checkpoint = NULL
WHERE session_id = ANY($1::bytea[])"""

# The limit has each key looked up by itself, whatever the planner thinks of the table's size.
_FIND_KEYS = """
SELECT found.* FROM unnest($1::bytea[], $2::bytea[]) AS given (id, key), LATERAL (
    SELECT session_id, key, first_seq, message_count, digest, stored_at FROM {keys} AS k
    WHERE k.session_id = given.id AND k.key = given.key LIMIT 1
) AS found"""
_REMEMBER = """
INSERT INTO {keys} (session_id, key, first_seq, message_count, digest, stored_at)
SELECT * FROM unnest($1::bytea[], $2::bytea[], $3::bigint[], $4::bigint[], $5::text[], $6::float8[])
"""
# Looks at more of the oldest keys than were added, so they never pile up.
_FORGET = """
DELETE FROM {keys} WHERE session_id = $1 AND key = ANY(ARRAY(
    SELECT key FROM {keys} WHERE session_id = $1 AND first_seq < $2 ORDER BY first_seq LIMIT $4
)) AND first_seq + message_count <= $2 AND stored_at <= $3"""

# The oldest messages of sessions over their limit; the body only where it has to be looked at.
_OLDEST = """
SELECT session_id, seq, is_result, CASE WHEN is_result IS NULL THEN body END AS body
FROM unnest($1::bytea[], $2::bigint[], $3::bigint[], $4::bigint[])
        AS given (id, first, skipped, number),
    LATERAL (
        SELECT * FROM {messages} AS m WHERE m.session_id = given.id AND m.seq >= given.first
        ORDER BY m.seq LIMIT given.number OFFSET given.skipped
    ) AS oldest
ORDER BY session_id, seq"""
_DROP = "DELETE FROM {messages} WHERE session_id = $1 AND seq >= $2 AND seq < $3"

# The rows are there and locked. To insert them again finds each by the index, which an UPDATE
# joined with the arrays does only if the planner likes.
_SAVE_COUNTERS = """
WITH s AS (
    INSERT INTO {sessions} AS s (session_id, last_seq, first_seq, message_count, created_at,
        updated_at, expires_at)
    SELECT * FROM unnest($4::bytea[], $5::bigint[], $6::bigint[], $7::bigint[], $8::float8[],
        $9::float8[], $10::float8[])
    ON CONFLICT (session_id) DO UPDATE SET
        last_seq = excluded.last_seq, first_seq = excluded.first_seq,
        message_count = excluded.message_count, created_at = excluded.created_at,
        updated_at = excluded.updated_at, expires_at = excluded.expires_at
), m AS (
    INSERT INTO {messages} (session_id, seq, body, is_result)
    SELECT * FROM unnest($11::bytea[], $12::bigint[], $13::bytea[], $14::boolean[])
){claim}"""
_SAVE_RECORDS = """
WITH s AS (
    INSERT INTO {sessions} AS s (session_id, last_seq, first_seq, message_count, created_at,
        updated_at, expires_at, agent_name, user_id, agent_id, gateway_session_id, metadata, state,
        checkpoint)
    SELECT * FROM unnest($4::bytea[], $5::bigint[], $6::bigint[], $7::bigint[], $8::float8[],
        $9::float8[], $10::float8[], $11::bytea[], $12::bytea[], $13::bytea[], $14::bytea[],
        $15::bytea[], $16::bytea[], $17::bytea[])
    ON CONFLICT (session_id) DO UPDATE SET
        last_seq = excluded.last_seq, first_seq = excluded.first_seq,
        message_count = excluded.message_count, created_at = excluded.created_at,
        updated_at = excluded.updated_at, expires_at = excluded.expires_at,
        agent_name = excluded.agent_name, user_id = excluded.user_id,
        agent_id = excluded.agent_id, gateway_session_id = excluded.gateway_session_id,
        metadata = excluded.metadata, state = excluded.state, checkpoint = excluded.checkpoint
){claim}"""

# Removes messages from $2 on, unless the newest one isn't $3.
_CUT = """
WITH newest AS (
    SELECT coalesce(max(seq), 0) AS seq FROM {messages} WHERE session_id = $1
), cut AS (
    DELETE FROM {messages} AS m USING newest
    WHERE m.session_id = $1 AND m.seq >= $2 AND newest.seq = coalesce($3::bigint, newest.seq)
    RETURNING 1
)
SELECT newest.seq AS newest, (SELECT count(*) FROM cut) AS removed FROM newest"""
_DROP_CHECKPOINT = "UPDATE {sessions} SET checkpoint = NULL WHERE session_id = $1"
_DELETE = """
WITH s AS (DELETE FROM {sessions} WHERE session_id = $4),
    m AS (DELETE FROM {messages} WHERE session_id = $4),
    k AS (DELETE FROM {keys} WHERE session_id = $4)
{claim}"""

_RECALL = "SELECT counter, session_ids, seqs, reply FROM {writers} WHERE writer = $1"
# Whoever is forgotten has stopped trying long ago. Others may clean up at the same time.
_FORGET_WRITERS = """
DELETE FROM {writers} WHERE writer IN (
    SELECT writer FROM {writers} WHERE written_at < now() - interval '1 day'
    LIMIT 1000 FOR UPDATE SKIP LOCKED)"""

_HEAD = "SELECT {columns} FROM {sessions} WHERE session_id = $1"
# One statement, so that what it says about the session and its messages fits together. The
# session's row comes first, and has no message.
_TAIL = """
WITH s AS MATERIALIZED (
    SELECT first_seq, expires_at, expires_at <= {clock} AS is_expired
    FROM {sessions} WHERE session_id = $1
)
SELECT NULL::bigint AS seq, NULL::bytea AS body, expires_at, is_expired FROM s
UNION ALL
SELECT seq, body, NULL, NULL FROM ({window}) AS m"""
_WINDOW = """
    SELECT seq, body FROM {messages}
    WHERE session_id = $1 AND seq >= greatest($2, (SELECT first_seq FROM s)) AND seq < $3
    ORDER BY seq {direction} LIMIT $4"""
# The size is known without reading what is stored apart from its row.
_BOUNDED_WINDOW = """
    SELECT seq, body FROM (
        SELECT seq, body, sum(length(body)) OVER
            (ORDER BY seq {direction} ROWS UNBOUNDED PRECEDING) - length(body) AS size
        FROM {messages}
        WHERE session_id = $1 AND seq >= greatest($2, (SELECT first_seq FROM s)) AND seq < $3
        ORDER BY seq {direction} LIMIT $4
    ) AS sized WHERE size < $5 ORDER BY seq {direction}"""
_SCAN = """
SELECT {columns} FROM {sessions} WHERE {conditions} ORDER BY {order} LIMIT $1"""
_NEWEST_FIRST = "updated_minute DESC, updated_at DESC, session_id DESC"
# By the index that says which these are, or each page would sort all of them.
_EXPIRED_FIRST = "expires_minute"


class Statements:
    """The statements of one store, with the names of its tables.

    Args:
        tables: The names.
        by_server: Whether the server's clock decides what has expired; otherwise it is each
            write's own time.
    """

    def __init__(self, tables: Tables, *, by_server: bool) -> None:
        fill = tables.fill
        first_moment, last_moment = "excluded.created_at", "coalesce(last_now, first_now)"
        if by_server:
            first_moment = last_moment = _CLOCK
        claim = fill(_CLAIM, claim_conflict=_CLAIM_CONFLICT)
        counters = _COUNTERS.replace("{clock}", _CLOCK)
        record = f"{counters}, {_RECORD}"
        read = f"{_COUNTERS}, {_RECORD}".replace("{clock}", _STATEMENT_CLOCK)
        self.claim: str = claim
        self.append: str = fill(
            _APPEND,
            first_moment=first_moment,
            last_moment=last_moment,
            claim_conflict=_CLAIM_CONFLICT,
        )
        self.lock: str = fill(_LOCK, columns=counters)
        self.lock_records: str = fill(_LOCK, columns=record)
        self.lock_existing: str = fill(_LOCK_EXISTING, columns=record)
        self.discard: str = fill(_DISCARD)
        self.wipe: str = fill(_WIPE)
        self.find_keys: str = fill(_FIND_KEYS)
        self.remember: str = fill(_REMEMBER)
        self.forget: str = fill(_FORGET)
        self.oldest: str = fill(_OLDEST)
        self.drop: str = fill(_DROP)
        self.save_counters: str = fill(_SAVE_COUNTERS, claim=claim)
        self.save_records: str = fill(_SAVE_RECORDS, claim=claim)
        self.cut: str = fill(_CUT)
        self.drop_checkpoint: str = fill(_DROP_CHECKPOINT)
        self.delete: str = fill(_DELETE, claim=claim)
        self.recall: str = fill(_RECALL)
        self.forget_writers: str = fill(_FORGET_WRITERS)
        self.head: str = fill(_HEAD, columns=read)
        self._scan = fill(_SCAN, columns=read, conditions="{conditions}", order="{order}")
        self._tails = {
            (oldest, bounded): fill(
                _TAIL,
                clock=_STATEMENT_CLOCK,
                window=fill(
                    _BOUNDED_WINDOW if bounded else _WINDOW, direction="ASC" if oldest else "DESC"
                ),
            )
            for oldest in (False, True)
            for bounded in (False, True)
        }
        self._by_server = by_server

    def tail(self, *, oldest: bool, bounded: bool) -> str:
        """Return how to read messages: the oldest or the newest, with a bound on their size."""
        return self._tails[oldest, bounded]

    def scan(self, scan: Scan) -> tuple[str, list[Any]]:
        """Return how to list sessions, and the arguments of that statement."""
        arguments: list[Any] = [scan.limit]

        def given(value: object, kind: str) -> str:
            arguments.append(value)
            return f"${len(arguments)}::{kind}"

        now = _STATEMENT_CLOCK if self._by_server else given(scan.now, "float8")
        if scan.expired:
            conditions = [f"expires_minute <= floor({now} / 60) AND expires_at <= {now}"]
        else:
            conditions = [f"(expires_at IS NULL OR expires_at > {now})"]
        if scan.below is not None:
            updated_at = given(scan.below[0], "float8")
            session_id = given(scan.below[1].encode(), "bytea")
            conditions.append(f"updated_minute <= floor({updated_at} / 60)")
            conditions.append(f"(updated_at, session_id) < ({updated_at}, {session_id})")
        for field, text in scan.where.items():
            value = given(text.encode(), "bytea")
            conditions.append(f"substr({field}, 1, 256) = substr({value}, 1, 256)")
            conditions.append(f"{field} = {value}")
        order = _EXPIRED_FIRST if scan.expired else _NEWEST_FIRST
        statement = self._scan.replace("{conditions}", " AND ".join(conditions))
        return statement.replace("{order}", order), arguments
