"""A complete session store on the standard library's sqlite3: one file, any number of processes."""

from __future__ import annotations

import asyncio
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

from msgspec.structs import replace as changed

from asyncsessions import BaseSessionStore, SessionInfo, SessionStoreError, hooks
from asyncsessions.codec import decode_info, decode_message, encode_info, with_seq
from asyncsessions.history import is_tool_result, messages_to_drop

SCHEMA = """PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON;
CREATE TABLE IF NOT EXISTS sessions (id PRIMARY KEY, updated_at, expires_at, info);
CREATE INDEX IF NOT EXISTS newest ON sessions (updated_at, id);
CREATE TABLE IF NOT EXISTS messages (id REFERENCES sessions ON DELETE CASCADE, seq, body,
    PRIMARY KEY (id, seq));
CREATE TABLE IF NOT EXISTS keys (id REFERENCES sessions ON DELETE CASCADE, key, first_seq, count,
    digest, now, PRIMARY KEY (id, key))"""
# Not INSERT OR REPLACE: that deletes the session first, and with it all that refers to it.
SAVE = """INSERT INTO sessions VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET info = excluded.info,
    updated_at = excluded.updated_at, expires_at = excluded.expires_at"""
READ = "SELECT body FROM messages WHERE id = ? AND seq > ? AND seq < ? ORDER BY seq"
FORGET_KEYS = "DELETE FROM keys WHERE id = ? AND first_seq + count <= ? AND now <= ?"
LIST = "SELECT info FROM sessions WHERE (updated_at, id) < (?, ?) ORDER BY updated_at DESC, id DESC"
LARGEST = 2**63 - 1  # SQLite has no larger whole number.


def in_thread(function):
    """Make a coroutine of a method: it runs in the store's one thread, which has the connection."""

    async def hook(self, *args, **options):
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, lambda: function(self, *args, **options))

    return hook


def in_transaction(function):
    def run(self, *args, **options):
        with self._db:  # Commits at the end, with one sync; rolls back after an exception.
            self._sql("BEGIN IMMEDIATE")  # One process gets past this line, the others wait.
            return function(self, *args, **options)

    return in_thread(run)


class SQLiteSessionStore(BaseSessionStore):
    _driver_errors = (sqlite3.Error,)

    def __init__(self, path, *, lock_timeout=5.0, **options):
        super().__init__(**options)
        self._path, self._lock_timeout = path, lock_timeout
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="sqlite-sessions")

    @classmethod
    def from_url(cls, url, **options):
        return cls(url.removeprefix("sqlite://"), **options)

    @in_thread
    def _open(self):
        self._db = sqlite3.connect(self._path, timeout=self._lock_timeout, isolation_level=None)
        self._db.executescript(SCHEMA)

    @in_thread
    def _close(self):
        self._db.close()
        self._thread.shutdown(wait=False)

    def _sql(self, statement, *values):
        return self._db.execute(statement, values)

    def _load(self, session_id):
        row = self._sql("SELECT info FROM sessions WHERE id = ?", session_id).fetchone()
        return decode_info(row[0]) if row else None

    def _record(self, request, *, create):
        """Return a session's record; a new one, or None, if there is no session or it expired."""
        sid = request.session_id
        self._sql("DELETE FROM sessions WHERE id = ? AND expires_at <= ?", sid, request.now)
        return self._load(sid) or (SessionInfo(session_id=sid) if create else None)

    def _save(self, info):
        self._sql(SAVE, info.session_id, info.updated_at, info.expires_at, encode_info(info))

    def _add(self, info, write, first_seq, removed=0):
        """Store a write's messages from ``first_seq`` on, and the record that comes of it."""
        info = changed(
            info,
            created_at=info.created_at or write.now,
            updated_at=write.now,
            last_seq=max(info.last_seq, first_seq + len(write.bodies) - 1),
            message_count=info.message_count - removed + len(write.bodies),
            expires_at=hooks.renewed(info.expires_at, write),
        )
        self._save(info)
        for seq, body in enumerate(write.bodies, first_seq):
            row = (info.session_id, seq, with_seq(body, seq))
            self._sql("INSERT INTO messages VALUES (?, ?, ?)", *row)
        return info

    @in_transaction
    def _append(self, batch):
        return [self._append_one(append) for append in batch]

    def _append_one(self, append):
        sid, find = append.session_id, "SELECT * FROM keys WHERE id = ? AND key = ?"
        info = self._record(append, create=True)
        row = self._sql(find, sid, append.key).fetchone()
        known = hooks.KeyRecord(*row[1:]) if row else None
        outcome = hooks.admit(append, last_seq=info.last_seq, known=known)
        if outcome is not None:
            return outcome
        first_seq, count = info.last_seq + 1, len(append.bodies)
        info = self._add(info, append, first_seq)
        if append.key is not None:
            row = (sid, append.key, first_seq, count, append.digest, append.now)
            self._sql("INSERT INTO keys VALUES (?, ?, ?, ?, ?, ?)", *row)
        if append.keep is not None and info.message_count > append.keep:
            bodies = self._sql(READ, sid, 0, LARGEST)
            results = (is_tool_result(decode_message(body)) for (body,) in bodies)
            drop = messages_to_drop(results, info.message_count - append.keep)
            oldest = "SELECT seq FROM messages WHERE id = ? ORDER BY seq LIMIT 1 OFFSET ?"
            seq = self._sql(oldest, sid, drop).fetchone()[0]
            self._sql("DELETE FROM messages WHERE id = ? AND seq < ?", sid, seq)
            self._sql(FORGET_KEYS, sid, seq, append.now - hooks.KEY_LIFETIME)
            self._save(changed(info, message_count=info.message_count - drop))
        return hooks.Appended(first_seq, append.now)

    @in_transaction
    def _update(self, batch):
        return [self._update_one(update) for update in batch]

    def _update_one(self, update):
        info = self._record(update, create=update.create)
        if info is None:
            return None
        try:
            info, values = hooks.apply_changes(info, update)
        except SessionStoreError as exc:
            return exc
        self._save(info)
        return values

    @in_transaction
    def _replace(self, replace):
        sid, info = replace.session_id, self._record(replace, create=replace.create)
        newest = self._sql("SELECT max(seq) FROM messages WHERE id = ?", sid).fetchone()[0] or 0
        if info is None or replace.if_newest not in (None, newest):
            return None
        hooks.check_unshared(sid, info.metadata, replace.from_seq)
        delete = "DELETE FROM messages WHERE id = ? AND seq >= ?"
        removed = self._sql(delete, sid, replace.from_seq).rowcount
        first_seq = replace.from_seq if replace.in_place else info.last_seq + 1
        checkpoint = None if replace.drop_checkpoint else info.checkpoint
        self._add(changed(info, checkpoint=checkpoint), replace, first_seq, removed)
        return hooks.Replaced(removed, first_seq, info.checkpoint is not None)

    @in_transaction
    def _delete(self, session_id, *, expired_at=None):
        info = self._load(session_id)
        hooks.check_unshared(session_id, info.metadata if info else {})
        delete = "DELETE FROM sessions WHERE id = ? AND coalesce(expires_at <= ?, ? IS NULL)"
        return self._sql(delete, session_id, expired_at, expired_at).rowcount > 0

    _head = in_thread(_load)

    @in_thread
    def _tail(self, session_id, window):
        before = LARGEST if window.before is None else min(window.before, LARGEST)
        newest_first = window.limit is not None and not window.oldest
        statement = READ + (" DESC" if newest_first else "")
        bodies, size = [], 0
        with self._db:
            self._sql("BEGIN")  # Record and messages are of the same moment.
            info = self._load(session_id)
            for (body,) in self._sql(statement, session_id, min(window.after, LARGEST), before):
                bodies.append(body)
                size += len(body)
                if len(bodies) == window.limit or size >= (window.max_bytes or LARGEST):
                    break
        bodies = bodies[::-1] if newest_first else bodies
        return None if info is None else hooks.Tail(bodies, info.expires_at)

    @in_thread
    def _scan(self, scan):
        rows = self._sql(LIST, *(scan.below or (LARGEST, "")))
        infos = (decode_info(info) for (info,) in rows)
        return list(islice(filter(scan.matches, infos), scan.limit))
