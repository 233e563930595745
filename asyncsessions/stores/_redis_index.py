"""The indexes by which sessions are listed and found.

On one server the scripts that write keep them. On a cluster they are on another node than most
sessions, so a write is announced in them before, and settled after; what a crash leaves between
is too much in an index, or an old score. Sessions that Redis lets expire leave their entries, too.
Readers therefore look at each session's record, go by that alone, and correct what is wrong.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any

import msgspec
from redis import exceptions

from asyncsessions.errors import CorruptSessionError
from asyncsessions.hooks import Append, Replace, Scan, Update
from asyncsessions.models import SessionInfo
from asyncsessions.omissions import leave_out
from asyncsessions.stores._redis_errors import DRIVER_ERRORS
from asyncsessions.stores._redis_keys import (
    LOOKED_UP,
    Keys,
    entry_of,
    index_for,
    index_name,
    parse_entry,
)
from asyncsessions.stores._redis_records import FIELDS, info_of
from asyncsessions.stores._redis_scripts import Call, Scripts, Word
from asyncsessions.stores._redis_writes import Todo, damaged

__all__ = ["Indexes"]

logger: logging.Logger = logging.getLogger("asyncsessions.redis")

# So many entries are looked at in one go. A list begins with as many as it needs if all are right,
# and takes more each time that they weren't.
_PAGE = 200
_GROWTH = 4
# On a cluster a writer announces a session before it makes it, and needs no longer than this.
_YOUNG = 60

Send = Callable[[Sequence[Call]], Awaitable[list[Any]]]


class _Fix(msgspec.Struct, frozen=True):
    """What is wrong with an entry; see ``heal.lua``."""

    index: bytes
    member: bytes
    found: Word
    action: str
    session_id: str


class Indexes:
    """Keeps and reads the indexes.

    Args:
        keys: The names of the keys.
        scripts: The scripts.
        send: Sends calls and returns their replies.
        send_once: Does so without trying again.
        is_cluster: Whether sessions may be on other nodes.
        by_server: Whether the server's clock decides what has expired.
    """

    def __init__(
        self,
        keys: Keys,
        scripts: Scripts,
        send: Send,
        send_once: Send,
        *,
        is_cluster: bool,
        by_server: bool,
    ) -> None:
        self._keys = keys
        self._scripts = scripts
        self._send = send
        self._send_once = send_once
        self._is_cluster = is_cluster
        self._by_server = by_server

    # On a cluster: around a write.

    async def announce(self, writes: Iterable[Append | Update | Replace]) -> None:
        """Put sessions where they will be after these writes, before these are made."""
        scores: defaultdict[bytes, dict[str, float]] = defaultdict(dict)
        for write in writes:
            names = [b"all"]
            if isinstance(write, Update):
                if not write.create and not write.changes:
                    continue
                names += _set_names(write)
            for name in names:
                newest = scores[name].get(write.session_id, write.now)
                scores[name][write.session_id] = max(newest, write.now)
        await self._put(
            {
                name: [(repr(score), sid) for sid, score in ids.items()]
                for name, ids in scores.items()
            }
        )

    async def settle(self, done: Sequence[tuple[str, Todo]]) -> None:
        """Complete the indexes after writes."""
        entries: defaultdict[bytes, list[tuple[Word, Word]]] = defaultdict(list)
        for session_id, todo in done:
            encoded = session_id.encode()
            names = [b"all", *todo.names] if todo.is_new else todo.names
            for name in names:
                entries[name].append((todo.updated_at, session_id))
            if todo.expires_at:
                for name in (b"", *todo.names):
                    entries[b"expiry"].append((todo.expires_at, entry_of(name, encoded)))
        await self._put(entries)
        for session_id, todo in done:
            if todo.left:
                await self.leave(session_id, todo.left, todo.updated_at)

    async def leave(self, session_id: str, names: Sequence[bytes], updated_at: bytes) -> None:
        """Take a session out of indexes, unless somebody has put it there again since."""
        encoded = session_id.encode()
        fixes = []
        for name in names:
            index = self._keys.index(name)
            entry = entry_of(b"" if name == b"all" else name, encoded)
            fixes.append(_Fix(index, encoded, updated_at, "leave", session_id))
            fixes.append(_Fix(self._keys.expiry, entry, "inf", "leave", session_id))
        await self._heal(fixes)

    async def _heal(self, fixes: Iterable[_Fix], send: Send | None = None) -> list[_Fix]:
        """Correct entries; return those that weren't, because they have changed or are young."""
        send = send or self._send
        by_index: defaultdict[bytes, list[_Fix]] = defaultdict(list)
        for fix in fixes:
            by_index[fix.index].append(fix)
        calls = []
        for index, group in by_index.items():
            keys: list[bytes] = [index]
            words: list[Word] = ["", "" if self._is_cluster else "records", _YOUNG]
            for fix in group:
                if not self._is_cluster:
                    keys.append(self._keys.of(fix.session_id)[0])
                words += [fix.member, fix.found, fix.action]
            calls.append(Call.of(self._scripts.heal, keys, *words))
        replies = await send(calls) if calls else []
        left = []
        for group, reply in zip(by_index.values(), replies, strict=True):
            left += [fix for fix, is_done in zip(group, reply, strict=True) if not is_done]
        return left

    async def _put(self, entries: Mapping[bytes, Sequence[tuple[Word, Word]]]) -> None:
        """Put entries into indexes: each raised, but for expiries, which may come sooner."""
        calls = []
        for name, pairs in entries.items():
            words = ["" if name == b"expiry" else "GT", *(word for pair in pairs for word in pair)]
            calls.append(Call.of(self._scripts.touch, [self._keys.index(name)], "", *words))
        if calls:
            await self._send(calls)

    # Reading.

    async def find(self, scan: Scan) -> list[SessionInfo]:
        """Return the sessions that a scan asks for, newest first."""
        if scan.expired:
            return await self._find_expired(scan)
        index = self._keys.index(index_for(scan.where))
        position: tuple[Word, Word] | None = None
        if scan.below is not None:
            position = repr(scan.below[0]), scan.below[1]
        found: list[SessionInfo] = []
        # Those whose entry was too high: they belong on another page, where they come again.
        early: dict[str, SessionInfo] = {}
        count = min(scan.limit, _PAGE)
        while True:
            entries = await self._page(index, count, position)
            early |= {info.session_id: info for info in await self._checked(index, entries, scan)}
            page = sorted(early.values(), key=_place, reverse=True)
            if len(entries) < count:
                return [*found, *page][: scan.limit]
            member, score = entries[-1]
            position = score, member
            last = (float(score), _id_of(member))
            page = [info for info in page if _place(info) >= last]
            found += page
            if len(found) >= scan.limit:
                return found[: scan.limit]
            for info in page:
                del early[info.session_id]
            count = min(_GROWTH * count, _PAGE)

    async def _page(
        self, index: bytes, count: int, position: tuple[Word, Word] | None
    ) -> list[tuple[bytes, bytes]]:
        words = ["", count, *(position or ("", ""))]
        (reply,) = await self._send([Call.of(self._scripts.page, [index], *words)])
        return list(zip(reply[::2], reply[1::2], strict=True))

    async def _checked(
        self, index: bytes, entries: Sequence[tuple[bytes, bytes]], scan: Scan
    ) -> list[SessionInfo]:
        """Return the sessions of entries that a scan asks for; correct the entries."""
        good, fixes = [], []
        ids = [_id_of(member) for member, _ in entries]
        for (member, score), sid, info in zip(entries, ids, await self.read(ids), strict=True):
            if isinstance(info, CorruptSessionError):
                leave_out(logger, "list", info)
            elif info is None:
                fixes.append(_Fix(index, member, score, "gone", sid))
            elif not self._has(index, info):
                fixes.append(_Fix(index, member, score, "foreign", sid))
            else:
                if info.updated_at != float(score):
                    fixes.append(_Fix(index, member, score, repr(info.updated_at), sid))
                if self._matches(info, scan):
                    good.append(info)
        try:
            await self._heal(fixes, self._send_once)
        except DRIVER_ERRORS as exc:
            # All is read, and whoever looks next corrects it, once the server takes writes again.
            logger.info("couldn't correct an index: %s", type(exc).__name__)
        return good

    def _has(self, index: bytes, info: SessionInfo) -> bool:
        """Whether an index is one that should have a session."""
        return index == self._keys.all or index in map(self._keys.index, _names_of(info))

    def _matches(self, info: SessionInfo, scan: Scan) -> bool:
        if self._by_server:
            # Redis leaves out what has expired by its own clock.
            return scan.matches(msgspec.structs.replace(info, expires_at=None))
        return scan.matches(info)

    async def _find_expired(self, scan: Scan) -> list[SessionInfo]:
        found: list[SessionInfo] = []
        kept = 0
        while len(found) < scan.limit:
            words = ["" if self._by_server else "clock", repr(scan.now), kept, _PAGE]
            (reply,) = await self._send([Call.of(self._scripts.due, [self._keys.expiry], *words)])
            entries = list(zip(reply[::2], reply[1::2], strict=True))
            expired, left = await self._checked_due(entries, scan)
            found += expired
            kept += left
            if len(entries) < _PAGE:
                break
        return found[: scan.limit]

    async def _checked_due(
        self, entries: Sequence[tuple[bytes, bytes]], scan: Scan
    ) -> tuple[list[SessionInfo], int]:
        """Return the sessions of entries that have expired, and how many entries stay."""
        expired, fixes = [], []
        expiry = self._keys.expiry
        parsed = [parse_entry(entry) for entry, _ in entries]
        ids = [_id_of(encoded) for _, encoded in parsed]
        infos = await self.read(ids)
        stay = 0
        for (entry, score), (name, encoded), sid, info in zip(
            entries, parsed, ids, infos, strict=True
        ):
            if isinstance(info, CorruptSessionError):
                stay += 1
            elif info is None:
                fixes.append(_Fix(expiry, entry, score, "gone", sid))
                index = self._keys.index(name or b"all")
                fixes.append(_Fix(index, encoded, "", "gone", sid))
            elif info.expires_at is None or not self._has(self._keys.index(name or b"all"), info):
                fixes.append(_Fix(expiry, entry, score, "foreign", sid))
            elif info.expires_at != float(score):
                fixes.append(_Fix(expiry, entry, score, repr(info.expires_at), sid))
            else:
                stay += 1
                if not name and info.is_expired(scan.now):
                    expired.append(info)
        left = await self._heal(fixes)
        return expired, stay + sum(fix.index == expiry for fix in left)

    async def read(self, ids: Sequence[str]) -> list[SessionInfo | CorruptSessionError | None]:
        """Return the records of sessions, as they are stored."""
        if not ids:
            return []
        keys = [self._keys.of(session_id)[:2] for session_id in ids]
        words: list[Word] = ["", *FIELDS]
        if self._is_cluster:
            calls = [Call.of(self._scripts.records, pair, *words) for pair in keys]
            replies = [reply[0] for reply in await self._send(calls)]
        else:
            flat = [key for pair in keys for key in pair]
            (replies,) = await self._send([Call.of(self._scripts.records, flat, *words)])
        return [_info_or_error(*pair) for pair in zip(ids, replies, strict=True)]


def _info_or_error(session_id: str, reply: Any) -> SessionInfo | CorruptSessionError | None:
    if isinstance(reply, exceptions.ResponseError):
        return damaged(session_id, reply)
    try:
        return info_of(session_id, reply) if reply else None
    except CorruptSessionError as exc:
        return exc


def _id_of(member: bytes) -> str:
    """Return the id of an entry's session; where that is no text, one that hardly anybody has."""
    return member.decode(errors="replace")


def _place(info: SessionInfo) -> tuple[float, str]:
    return info.updated_at, info.session_id


def _names_of(info: SessionInfo) -> list[bytes]:
    values = [(field, getattr(info, field)) for field in LOOKED_UP]
    return [index_name(field, value) for field, value in values if value is not None]


def _set_names(update: Update) -> list[bytes]:
    """Return the indexes in which an update puts its session."""
    return [
        index_name(change.path[0], change.value)
        for change in update.changes
        if change.path[0] in LOOKED_UP and isinstance(change.value, str)
    ]
