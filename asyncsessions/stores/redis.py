"""Sessions in Redis: a list and a hash for each, and one script call for each group commit."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Self, TypeVar

from redis import asyncio as aioredis
from redis import exceptions

from asyncsessions._compat import override
from asyncsessions.batching import Outcome
from asyncsessions.errors import (
    CorruptSessionError,
    SessionSharedError,
    SessionStoreError,
    StoreUnavailableError,
)
from asyncsessions.hooks import Append, Appended, Replace, Replaced, Scan, Tail, Update, Window
from asyncsessions.models import JSONValue, SessionInfo
from asyncsessions.stores import _redis_errors as errors
from asyncsessions.stores._redis_hello import ask, check_server
from asyncsessions.stores._redis_index import Indexes
from asyncsessions.stores._redis_keys import Keys
from asyncsessions.stores._redis_links import ClusterLink, Link, check_options, check_url, make_link
from asyncsessions.stores._redis_nodes import NodeCommits
from asyncsessions.stores._redis_scripts import Call, Script, Scripts, Word, load_scripts
from asyncsessions.stores._redis_windows import Places
from asyncsessions.stores._redis_writers import Sending, Writers
from asyncsessions.stores._redis_writes import (
    Todo,
    append_outcomes,
    append_words,
    damaged,
    grouped,
    parted,
    replace_words,
    tail_words,
    update_outcomes,
    update_words,
)
from asyncsessions.stores._servers import SERVER_OPTIONS, ServerStore, connections_for_flushes
from asyncsessions.stores._urls import split_options

__all__ = ["RedisSessionStore"]

logger: logging.Logger = logging.getLogger("asyncsessions.redis")

T = TypeVar("T")
W = TypeVar("W", Append, Update)

_OPTIONS: dict[str, Callable[[str], Any]] = {"prefix": str, "connections": int} | SERVER_OPTIONS
# What stays in the URL for redis-py.
_DRIVER_OPTIONS = frozenset(
    {
        *("username", "password", "db", "client_name", "protocol"),
        *("socket_connect_timeout", "socket_keepalive", "socket_read_size"),
        *("ssl_ca_certs", "ssl_ca_data", "ssl_ca_path", "ssl_cert_reqs", "ssl_certfile"),
        *("ssl_check_hostname", "ssl_ciphers", "ssl_keyfile", "ssl_min_version", "ssl_password"),
    }
)
# So many writes go to the server in one call; while it does them, the next ones are encoded.
_WRITES_AT_ONCE = 32


class RedisSessionStore(ServerStore):
    """Keeps sessions in Redis or Valkey, or in a cluster, for any number of processes.

    Each step is one Lua script, so it is atomic, and a group commit is one round trip. A write
    whose connection broke is tried again, and the server itself knows whether the first attempt
    got through. Acknowledged is what the server's ``appendfsync`` makes durable.

    Args:
        source: A URL, ``redis://user:password@host:port/database``, ``rediss://`` for TLS,
            ``unix:///path`` or ``redis+cluster://host:port``; or a client of ``redis.asyncio``,
            whose settings are used and which stays the caller's to close.
        prefix: What the names of all keys begin with.
        connections: How many connections there are at the most, to each node; on one server two
            of them are for group commits, or one of two.
        **options: See `ServerStore` and `BaseSessionStore`.

    Raises:
        TypeError: ``source`` is neither.
        ValueError: Another argument isn't valid; names it.
    """

    _driver_errors = errors.DRIVER_ERRORS
    _overlaps_flushes = True

    def __init__(
        self,
        source: str | aioredis.Redis | aioredis.RedisCluster,
        *,
        prefix: str = "asyncsessions",
        connections: int = 16,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        if connections < 2:
            text = "give 2 or more, because one is for group commits"
            raise ValueError(f"connections={connections!r}: {text}")
        if isinstance(source, str):
            check_url(source)
            check_options(source)
        elif not isinstance(source, aioredis.Redis | aioredis.RedisCluster):
            text = f"give a URL or a client of redis.asyncio, not {type(source).__name__}"
            raise TypeError(f"source isn't valid: {text}")
        self._source = source
        self._size = connections
        self._flushes_at_once = connections_for_flushes(connections)
        self._keys = Keys(prefix)
        self._clock_word: str = "" if self._expires_by_server else "clock"

    @override
    @classmethod
    def from_url(cls, url: str, **options: Any) -> Self:
        """Return a store for a URL; see `open_store`."""
        check_url(url)
        driver_url, given = split_options(url, _OPTIONS, _DRIVER_OPTIONS)
        return cls(driver_url, **given | options)

    # Life cycle.

    @override
    async def _open(self) -> None:
        self._scripts: Scripts = await asyncio.to_thread(load_scripts)
        self._link: Link = make_link(self._source, size=self._size, timeout=self._timeout)
        # On a cluster the indexes are elsewhere, and a script can't reach them.
        self._script_prefix: bytes = b"" if self._link.is_cluster else self._keys.indexes
        # A cluster's calls go to their nodes one after the other, and may be sent on.
        self._chains_appends = not self._link.is_cluster
        self._writers = Writers(self._writer_id)
        self._places = Places()
        self._indexes = Indexes(
            self._keys,
            self._scripts,
            self._send,
            self._send_once,
            is_cluster=self._link.is_cluster,
            by_server=self._expires_by_server,
        )
        self._appends = NodeCommits(self._write_appends)
        self._updates = NodeCommits(self._write_updates)
        try:
            await self._retried(lambda: check_server(self._link, self._keys.all))
        except BaseException:
            await self._link.close()
            raise

    @override
    async def _close(self) -> None:
        await self._link.close()

    @override
    async def _ping(self) -> None:
        await self._retried(lambda: ask(self._link, self._keys.all, "PING"))

    @override
    def _is_lost(self, exc: Exception) -> bool:
        return errors.is_lost(exc)

    @override
    def _explain(self, exc: Exception) -> tuple[type[StoreUnavailableError], str]:
        return errors.explain(exc)

    async def _send(self, calls: Sequence[Call], *, is_flush: bool = False) -> list[Any]:
        """Return the replies of calls that may be made twice."""
        return await self._retried(lambda: self._replies(calls, is_flush=is_flush))

    async def _send_once(self, calls: Sequence[Call]) -> list[Any]:
        async with asyncio.timeout(self._timeout):
            return await self._replies(calls)

    async def _replies(self, calls: Sequence[Call], *, is_flush: bool = False) -> list[Any]:
        replies = await self._link.send(calls, is_flush=is_flush)
        for reply in replies:
            if isinstance(reply, errors.DRIVER_ERRORS) and not errors.is_damage(reply):
                raise reply
        return replies

    async def _send_write(
        self,
        make_calls: Callable[[Sending], list[Call]],
        *,
        session_id: str | None = None,
        is_flush: bool = False,
    ) -> list[Any]:
        """Make calls that write, as often as it takes to hear of them, but with effect only once.

        Each has its own reply, or its own error: what others have done is done.

        Args:
            make_calls: Takes what the server knows it by from its repetition.
            session_id: The session, if all of it are appends to that one, which come after those
                that are under way.
            is_flush: Whether this is a group commit.
        """
        sending = self._writers.begin(session_id)
        try:
            return await self._replies_or_errors(sending, make_calls(sending), is_flush=is_flush)
        finally:
            self._writers.end(sending)

    async def _replies_or_errors(
        self, sending: Sending, calls: Sequence[Call], *, is_flush: bool
    ) -> list[Any]:
        replies: list[Any] = [None] * len(calls)
        left: Sequence[int] = range(len(calls))

        async def attempt() -> None:
            nonlocal left
            chosen = [calls[index] for index in left]
            made = await self._link.send(chosen, is_flush=is_flush)
            if any(map(errors.is_early, made)):
                await sending.wait()
                made = await self._link.send(chosen, is_flush=is_flush)
            for index, reply in zip(left, made, strict=True):
                replies[index] = reply
            left = [index for index in left if self._is_unheard(replies[index])]
            if left:
                raise replies[left[0]]

        try:
            await self._retried(attempt)
        except errors.DRIVER_ERRORS as exc:
            for index in left:
                replies[index] = exc
        return replies

    def _is_unheard(self, reply: Any) -> bool:
        return isinstance(reply, errors.DRIVER_ERRORS) and self._is_lost(reply)

    # Writes.

    @override
    async def _append(self, batch: Sequence[Append]) -> Sequence[Outcome[Appended]]:
        return await self._write(batch, self._write_appends, self._appends)

    @override
    async def _update(self, batch: Sequence[Update]) -> Sequence[Outcome[list[JSONValue] | None]]:
        return await self._write(batch, self._write_updates, self._updates)

    async def _write(
        self,
        batch: Sequence[W],
        write: Callable[[Sequence[W]], Awaitable[list[Outcome[T]]]],
        commits: NodeCommits[W, T],
    ) -> Sequence[Outcome[T]]:
        link = self._link
        if not isinstance(link, ClusterLink):
            return await write(batch)
        await self._indexes.announce(batch)
        return await commits.submit(
            batch, lambda each: link.node_of(self._keys.of(each.session_id)[0])
        )

    async def _write_appends(self, batch: Sequence[Append]) -> list[Outcome[Appended]]:
        return await self._written(batch, self._scripts.append, append_words, append_outcomes)

    async def _write_updates(
        self, batch: Sequence[Update]
    ) -> list[Outcome[list[JSONValue] | None]]:
        return await self._written(batch, self._scripts.update, update_words, update_outcomes)

    async def _written(
        self,
        batch: Sequence[W],
        script: Script,
        words_of: Callable[[Sequence[W]], list[Word]],
        outcomes_of: Callable[[Sequence[W], Any], list[Outcome[T]]],
    ) -> list[Outcome[T]]:
        """Write a batch; the writes of one session are one step of a script."""
        by_session = grouped(batch)
        groups = [[batch[index] for index in indexes] for indexes in by_session.values()]
        # On a cluster one session in each call, because it has its own slot.
        parts = parted(groups, 1 if self._link.is_cluster else _WRITES_AT_ONCE)

        def make_calls(sending: Sending) -> list[Call]:
            return [self._call(script, part, sending, words_of) for part in parts]

        is_chained = self._chains_appends and script is self._scripts.append and len(groups) == 1
        session_id = batch[0].session_id if is_chained else None
        answers: list[Any] = []
        replies = await self._send_write(make_calls, session_id=session_id, is_flush=True)
        for part, reply in zip(parts, replies, strict=True):
            answers += [reply] * len(part) if isinstance(reply, Exception) else reply
        if self._link.is_cluster:
            answers = await self._settled(list(by_session), answers)
        outcomes: list[Any] = [None] * len(batch)
        for group, indexes, answer in zip(groups, by_session.values(), answers, strict=True):
            if isinstance(answer, Exception):
                session_id = group[0].session_id
                is_damage = errors.is_damage(answer)
                error: SessionStoreError = (
                    damaged(session_id, answer) if is_damage else self._failure(answer, session_id)
                )
                group_outcomes: list[Any] = [error] * len(group)
            else:
                group_outcomes = outcomes_of(group, answer)
            for index, outcome in zip(indexes, group_outcomes, strict=True):
                outcomes[index] = outcome
        return outcomes

    def _call(
        self,
        script: Script,
        part: Sequence[Sequence[W]],
        sending: Sending,
        words_of: Callable[[Sequence[W]], list[Word]],
    ) -> Call:
        write = part[0][0]

        def words() -> list[Word]:
            found: list[Word] = [3 * len(part)]
            for group in part:
                found += self._keys.of(group[0].session_id)
            found += self._heading(sending)
            if isinstance(write, Append):
                keep, ttl = write.keep, write.ttl_seconds
                found += ("" if ttl is None else repr(ttl), "" if keep is None else keep)
                found += sending.after()
            for group in part:
                found += words_of(group)
            return found

        return Call(self._keys.of(write.session_id)[0], words, script)

    def _heading(self, sending: Sending) -> tuple[Word, ...]:
        """Return what every write's arguments begin with; see ``write.lua``."""
        return self._clock_word, sending.field, sending.number, self._script_prefix

    async def _settled(self, ids: Sequence[str], answers: Sequence[Any]) -> list[Any]:
        """See to the indexes of a cluster; return the answers without what concerns these."""
        plain, todos = [], []
        for session_id, answer in zip(ids, answers, strict=True):
            if isinstance(answer, Exception):
                plain.append(answer)
                continue
            plain.append(answer[0])
            if len(answer) > 1:
                todos.append((session_id, Todo(*answer[1])))
        if todos:
            await self._tidied(self._indexes.settle(todos))
        return plain

    @staticmethod
    async def _tidied(tidying: Awaitable[None]) -> None:
        """Let the indexes follow a write that is done; where they can't, readers correct them."""
        try:
            await tidying
        except errors.DRIVER_ERRORS as exc:
            logger.warning("the indexes lag behind: %s", errors.explain(exc)[1])

    @override
    async def _replace(self, replace: Replace) -> Replaced | None:
        session_id = replace.session_id
        if self._link.is_cluster:
            await self._indexes.announce([replace])
        keys, words = self._keys.of(session_id), replace_words(replace)
        (answer,) = await self._send_write(
            lambda sending: [Call.of(self._scripts.replace, keys, *self._heading(sending), *words)]
        )
        if self._link.is_cluster:
            (answer,) = await self._settled([session_id], [answer])
        if isinstance(answer, Exception):
            raise damaged(session_id, answer) if errors.is_damage(answer) else answer
        if len(answer) == 1:
            raise SessionSharedError(session_id, last_seq=answer[0])
        return Replaced(answer[0], answer[1], bool(answer[2])) if answer else None

    @override
    async def _delete(self, session_id: str, *, expired_at: float | None = None) -> bool:
        limit = "" if expired_at is None else repr(expired_at)
        words = (self._clock_word, self._script_prefix, session_id, limit)
        call = Call.of(self._scripts.delete, self._keys.of(session_id), *words)
        attempts = 0

        async def attempt() -> Any:
            nonlocal attempts
            attempts += 1
            return await self._replies([call])

        ((existed, updated_at, names),) = await self._retried(attempt)
        if existed < 0:
            raise SessionSharedError(session_id, last_seq=-existed)
        if self._link.is_cluster and updated_at:
            await self._tidied(self._indexes.leave(session_id, [b"all", *names], updated_at))
        # What an earlier attempt removed, of which nobody heard, isn't there any more.
        return bool(existed) or attempts > 1

    # Reads.

    @override
    async def _head(self, session_id: str) -> SessionInfo | None:
        (info,) = await self._indexes.read([session_id])
        if isinstance(info, CorruptSessionError):
            raise info
        return info

    @override
    async def _tail(self, session_id: str, window: Window) -> Tail | None:
        record, messages, _ = self._keys.of(session_id)
        place = self._places.find(session_id, window) if self._expires_by_server else None
        try:
            if place is not None:
                call = Call(messages, lambda: ("LRANGE", messages, place.first, place.last))
                (listed,) = await self._send([call])
                found = self._places.check(window, place, listed)
                if found is not None:
                    return Tail(found)
            call = Call.of(self._scripts.tail, (record, messages), *tail_words(window))
            (reply,) = await self._send([call])
            if isinstance(reply, exceptions.ResponseError):
                raise damaged(session_id, reply)
            if not reply:
                return None
            expires_at, bodies, first = reply
            if place is not None:
                self._places.learn(session_id, first, bodies)
        except (exceptions.ResponseError, ValueError) as exc:
            if isinstance(exc, ValueError) or str(exc).startswith("WRONGTYPE"):
                raise damaged(session_id, exc) from exc
            raise
        known = expires_at and not self._expires_by_server
        return Tail(bodies, float(expires_at) if known else None)

    @override
    async def _scan(self, scan: Scan) -> list[SessionInfo]:
        return await self._indexes.find(scan)
