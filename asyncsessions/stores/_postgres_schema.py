"""The tables of a PostgreSQL store: their names, their definition, and how they are migrated.

A migration is a text with the tables' names in braces. Migrations only go forward, each is
applied once, in a transaction under a lock, so that any number of processes may start at once.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import Any

from asyncsessions.errors import StoreRefusedError

__all__ = ["VERSION", "Tables", "applied_versions", "apply_migrations", "migration_sql"]

_MAX_NAME = 63  # What PostgreSQL cuts names to.
_MAX_PREFIX = 32  # Leaves room for the names of indexes.
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_PREFIX = re.compile(r"[A-Za-z0-9_]*\Z")


class Tables:
    """The names of a store's tables.

    Args:
        schema: The schema that they are in; made by the first migration if it is missing.
        prefix: What their names begin with.

    Raises:
        ValueError: A name isn't valid.
    """

    def __init__(self, schema: str, prefix: str) -> None:
        if not _NAME.match(schema) or len(schema) > _MAX_NAME or schema.startswith("pg_"):
            text = f"schema={schema!r}: give letters, digits and _, not more than {_MAX_NAME}, "
            raise ValueError(text + "not with a digit or pg_ first")
        if not _PREFIX.match(prefix) or len(prefix) > _MAX_PREFIX:
            text = f"table_prefix={prefix!r}: give letters, digits and _, not more than"
            raise ValueError(f"{text} {_MAX_PREFIX}")
        self.schema: str = schema
        self.prefix: str = prefix
        # Quoted, so that case is kept and no word is reserved.
        names = ("sessions", "messages", "keys", "writers", "migrations")
        self._names = {name: f'"{schema}"."{prefix}{name}"' for name in names}
        self._names |= {"schema": f'"{schema}"', "prefix": prefix, "lock": str(self._lock())}

    def fill(self, template: str, **parts: str) -> str:
        """Return a template of SQL with the names, and further parts, in place of its braces."""
        return template.format_map(self._names | parts)

    def _lock(self) -> int:
        """Return the number that stands for all tables in this schema among advisory locks."""
        digest = hashlib.blake2b(f"asyncsessions {self.schema}".encode()).digest()
        return int.from_bytes(digest[:8], "big", signed=True)


# Why it is as it is:
# - Text is kept as bytea, because PostgreSQL's text can't hold U+0000, which ids and names may.
#   It also sorts by code point, whatever the database's collation. JSON is kept as it was encoded,
#   because jsonb refuses U+0000, too, and changes numbers.
# - There is no foreign key: the session's row is locked by whoever writes its messages, and to
#   check a key for each message would cost as much again.
# - No column that a plain append changes is in an index, so the row can be updated in place (HOT)
#   and leaves nothing behind in indexes. What lists are sorted by is the minute of the update.
# - Of a long name only the beginning is in an index, which has a limit of 2,700 bytes.
# - One row of writers is what one connection's last write did, for a retry of it.
_FIRST = """\
CREATE TABLE IF NOT EXISTS {sessions} (
    session_id bytea PRIMARY KEY,
    last_seq bigint NOT NULL,
    first_seq bigint NOT NULL,
    message_count bigint NOT NULL,
    created_at double precision NOT NULL,
    updated_at double precision NOT NULL,
    expires_at double precision,
    agent_name bytea,
    user_id bytea,
    agent_id bytea,
    gateway_session_id bytea,
    metadata bytea,
    state bytea,
    checkpoint bytea,
    updated_minute double precision GENERATED ALWAYS AS (floor(updated_at / 60)) STORED,
    expires_minute double precision GENERATED ALWAYS AS (floor(expires_at / 60)) STORED
);
CREATE INDEX IF NOT EXISTS "{prefix}sessions_newest" ON {sessions} (updated_minute);
CREATE INDEX IF NOT EXISTS "{prefix}sessions_expiry" ON {sessions} (expires_minute)
    WHERE expires_minute IS NOT NULL;
CREATE INDEX IF NOT EXISTS "{prefix}sessions_agent_name" ON {sessions}
    (substr(agent_name, 1, 256), updated_minute) WHERE agent_name IS NOT NULL;
CREATE INDEX IF NOT EXISTS "{prefix}sessions_user_id" ON {sessions}
    (substr(user_id, 1, 256), updated_minute) WHERE user_id IS NOT NULL;
CREATE INDEX IF NOT EXISTS "{prefix}sessions_agent_id" ON {sessions}
    (substr(agent_id, 1, 256), updated_minute) WHERE agent_id IS NOT NULL;
CREATE INDEX IF NOT EXISTS "{prefix}sessions_gateway" ON {sessions}
    (substr(gateway_session_id, 1, 256), updated_minute) WHERE gateway_session_id IS NOT NULL;
CREATE TABLE IF NOT EXISTS {messages} (
    session_id bytea NOT NULL,
    seq bigint NOT NULL,
    body bytea NOT NULL,
    is_result boolean,
    PRIMARY KEY (session_id, seq)
);
CREATE TABLE IF NOT EXISTS {keys} (
    session_id bytea NOT NULL,
    key bytea NOT NULL,
    first_seq bigint NOT NULL,
    message_count bigint NOT NULL,
    digest text NOT NULL,
    stored_at double precision NOT NULL,
    PRIMARY KEY (session_id, key)
);
CREATE INDEX IF NOT EXISTS "{prefix}keys_oldest" ON {keys} (session_id, first_seq);
CREATE TABLE IF NOT EXISTS {writers} (
    writer text PRIMARY KEY,
    counter bigint NOT NULL,
    session_ids bytea[],
    seqs bigint[],
    reply bytea,
    written_at timestamptz NOT NULL
);
ALTER TABLE {writers} ALTER COLUMN seqs SET STORAGE PLAIN;
"""

_MIGRATIONS = (_FIRST,)

VERSION: int = len(_MIGRATIONS)
"""The version of the tables that this library works with."""

# IF NOT EXISTS would demand the permission also where the schema is there.
_CREATE_SCHEMA = """\
DO $$ BEGIN
    IF to_regnamespace('{schema}') IS NULL THEN CREATE SCHEMA {schema}; END IF;
END $$;
"""
_CREATE_VERSIONS = """\
CREATE TABLE IF NOT EXISTS {migrations} (
    version integer PRIMARY KEY,
    applied_at timestamptz NOT NULL DEFAULT now()
);
"""
_LOCK = "SELECT pg_advisory_xact_lock({lock});\n"
_NOTE = "INSERT INTO {migrations} (version) VALUES ({version}) ON CONFLICT DO NOTHING;\n"


def migration_sql(tables: Tables) -> str:
    """Return the SQL that makes all tables; to run it again does nothing."""
    parts = ["BEGIN;\n", _LOCK, _CREATE_SCHEMA, _CREATE_VERSIONS]
    for version, migration in enumerate(_MIGRATIONS, 1):
        parts += [f"\n-- Version {version}.\n", migration, _NOTE.replace("{version}", str(version))]
    return "".join(tables.fill(part) for part in [*parts, "\nCOMMIT;\n"])


async def applied_versions(connection: Any, tables: Tables) -> set[int]:
    """Return which migrations were applied; none where there are no tables.

    Raises:
        StoreRefusedError: The tables were made by a newer version of this library.
    """
    exists = await connection.fetchval(
        "SELECT to_regclass($1) IS NOT NULL", tables.fill("{migrations}")
    )
    if not exists:
        return set()
    rows = await connection.fetch(tables.fill("SELECT version FROM {migrations}"))
    versions = {row["version"] for row in rows}
    if versions and max(versions) > VERSION:
        raise StoreRefusedError(
            f"the tables in schema {tables.schema!r} have version {max(versions)}, and this "
            f"library knows {VERSION}; install a newer version of asyncsessions"
        )
    return versions


async def apply_migrations(connection: Any, tables: Tables) -> Sequence[int]:
    """Apply the migrations that are missing, in a transaction that the caller has begun.

    Returns:
        Their versions.
    """
    await connection.execute(tables.fill(_LOCK))
    await connection.execute(tables.fill(_CREATE_SCHEMA))
    applied = await applied_versions(connection, tables)
    if not applied:
        await connection.execute(tables.fill(_CREATE_VERSIONS))
    missing = [version for version in range(1, VERSION + 1) if version not in applied]
    for version in missing:
        await connection.execute(tables.fill(_MIGRATIONS[version - 1]))
        await connection.execute(tables.fill(_NOTE, version=str(version)))
    return missing
