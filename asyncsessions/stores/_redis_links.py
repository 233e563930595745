"""Connections to Redis: to one server, or to the nodes of a cluster."""

from __future__ import annotations

import asyncio
import inspect
import re
import ssl
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, cast
from urllib.parse import SplitResult, parse_qsl

from redis import asyncio as aioredis
from redis import exceptions
from redis.asyncio.connection import AbstractConnection, parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.client import NEVER_DECODE

from asyncsessions.stores._redis_connections import Connection, Connections
from asyncsessions.stores._redis_errors import DRIVER_ERRORS, is_read_only
from asyncsessions.stores._redis_scripts import Call, Word
from asyncsessions.stores._servers import connections_for_flushes
from asyncsessions.stores._urls import split_url
from asyncsessions.tasks import start

__all__ = ["ClusterLink", "Link", "ServerLink", "check_options", "check_url", "make_link"]

_SCHEMES = ("redis", "rediss", "redis+cluster", "rediss+cluster", "unix")
_SPECIAL = "write a password's special characters as %XX"
_DATABASE = re.compile(r"(/\d*)?")
# Of a call's time, what one node of a cluster may take. It leaves some to ask another one, where a
# node stalls, or its machine is gone, which takes no connection and refuses none.
_NODE_SHARE = 1 / 3
# What redis-py notices late or never.
_LIMITS: dict[str, Callable[[Any], bool]] = {
    "db": lambda value: value >= 0,
    "socket_connect_timeout": lambda value: value > 0,
    "socket_read_size": lambda value: value > 0,
    "ssl_min_version": lambda value: value in list(ssl.TLSVersion),
}
_REDIRECTED = (
    exceptions.MovedError,
    exceptions.AskError,
    exceptions.TryAgainError,
    exceptions.ClusterDownError,
)


class Link(ABC):
    """Sends commands and returns their raw replies."""

    is_cluster: bool

    @abstractmethod
    async def send(self, calls: Sequence[Call], *, is_flush: bool = False) -> list[Any]:
        """Send commands at once and return the reply of each, or its error.

        Args:
            calls: The commands; on a cluster each goes to the node that has its key.
            is_flush: Whether this is a group commit, for which a connection is set aside.

        Raises:
            RedisError: There was no connection, or it broke.
        """

    @abstractmethod
    async def close(self) -> None:
        """Close every connection of this link; no write is under way."""


class ServerLink(Link):
    """Connections to one server.

    Args:
        pool: Its settings are used; it stays the caller's to close.
        size: How many connections there are at the most, with those for group commits.
        timeout: How long a call may take, in seconds.
    """

    is_cluster = False

    def __init__(self, pool: aioredis.ConnectionPool, size: int, timeout: float) -> None:
        flushes = connections_for_flushes(size)
        self._flushes = Connections(pool.make_connection, flushes, timeout)
        self._others = Connections(pool.make_connection, size - flushes, timeout)

    async def send(self, calls: Sequence[Call], *, is_flush: bool = False) -> list[Any]:
        """See `Link.send`."""
        replies = await (self._flushes if is_flush else self._others).send(calls)
        if any(map(is_read_only, replies)):
            # It was the master, and keeps its connections. A new one may find the next master.
            await self._flushes.renew()
            await self._others.renew()
        return replies

    async def close(self) -> None:
        """See `Link.close`."""
        await self._flushes.close()
        await self._others.close()


class ClusterLink(Link):
    """Connections to the nodes of a cluster, of which redis-py keeps the map.

    Args:
        client: Knows which node has which slot.
        size: How many connections to each node there are at the most.
        timeout: How long a call may take, in seconds.
        is_owner: Whether to close the client.
    """

    is_cluster = True

    def __init__(
        self, client: aioredis.RedisCluster, size: int, timeout: float, *, is_owner: bool
    ) -> None:
        self._client = client
        self._is_owner = is_owner
        self._size = size
        self._timeout = timeout
        self._patience = timeout * _NODE_SHARE
        self._nodes: dict[str, Connections] = {}
        self._looks: dict[str, asyncio.Task[None]] = {}

    async def send(self, calls: Sequence[Call], *, is_flush: bool = False) -> list[Any]:
        """See `Link.send`."""
        del is_flush  # A flush goes to all nodes, as any other call may.
        await self._client.initialize()
        if len(self._nodes) > len(self._client.get_nodes()):
            await self._forget_former_nodes()
        nodes: dict[str, Any] = {}
        by_node: defaultdict[str, list[int]] = defaultdict(list)
        for index, call in enumerate(calls):
            # Annotated as text, but any key will do.
            node: Any = self._client.get_node_from_key(cast("str", call.key))
            nodes[node.name] = node
            by_node[node.name].append(index)
        replies: list[Any] = [None] * len(calls)

        async def send_to(name: str, indexes: list[int]) -> None:
            chosen = [calls[index] for index in indexes]
            try:
                found = await self._send_to(nodes[name], chosen)
            except DRIVER_ERRORS as exc:
                # The other nodes' replies are as good as ever.
                found = [exc] * len(chosen)
            for index, reply in zip(indexes, found, strict=True):
                replies[index] = reply

        await asyncio.gather(*(send_to(name, indexes) for name, indexes in by_node.items()))
        return replies

    def node_of(self, key: bytes) -> str:
        """Return the name of the node that has a key, by the client's map; empty if none has."""
        try:
            # Annotated as text, but any key will do.
            node: Any = self._client.get_node_from_key(cast("str", key))
        except DRIVER_ERRORS:
            return ""
        return "" if node is None else str(node.name)

    async def _send_to(self, node: Any, calls: Sequence[Call]) -> list[Any]:
        clock = asyncio.get_running_loop().time
        began = clock()
        try:
            replies = await self._connections_to(node).send(calls)
        except (exceptions.ConnectionError, exceptions.TimeoutError):
            await asyncio.shield(self._look_after(node))
            raise
        except (asyncio.CancelledError, TimeoutError):
            # The client is more patient than this call was, and has noticed nothing.
            if clock() - began > self._patience:
                self._look_after(node)
            raise
        for index, reply in enumerate(replies):
            if isinstance(reply, _REDIRECTED):
                replies[index] = await self._redirect(calls[index])
        return replies

    def _connections_to(self, node: Any) -> Connections:
        connections = self._nodes.get(node.name)
        if connections is None:

            def make() -> Connection:
                settings = node.connection_kwargs
                if settings.get("socket_timeout") is None:
                    settings = settings | {"socket_timeout": self._patience}
                return node.connection_class(**settings)

            connections = self._nodes[node.name] = Connections(make, self._size, self._timeout)
        return connections

    async def _forget_former_nodes(self) -> None:
        """Let go of nodes that have left the cluster; calls under way to them end as they may."""
        present = {node.name for node in self._client.get_nodes()}
        for connections in [self._nodes.pop(name) for name in self._nodes.keys() - present]:
            await connections.renew()

    def _look_after(self, node: Any) -> asyncio.Task[None]:
        """Have the client find out whether the node is gone, and then look for its successor."""
        look = self._looks.get(node.name)
        if look is None:
            # A task of its own: who noticed has no time left, or shares it with others.
            look = self._looks[node.name] = start(self._look(node))
            look.add_done_callback(lambda _: self._looks.pop(node.name))
        return look

    async def _look(self, node: Any) -> None:
        try:
            async with asyncio.timeout(self._patience):
                await self._command("PING", target_nodes=node)
        except TimeoutError:
            await self._learn_from_others(node)
        except DRIVER_ERRORS:
            pass  # The client has noticed, and learns the rest when it is next used.

    async def _learn_from_others(self, node: Any) -> None:
        """Let the client learn the cluster's shape without a node that would keep it waiting."""
        manager = self._client.nodes_manager
        asked: dict[str, Any] = manager.startup_nodes
        if len(asked) == 1 or asked.pop(node.name, None) is None:
            return
        try:
            async with asyncio.timeout(self._patience):
                await manager.initialize()
        except DRIVER_ERRORS:
            pass  # Whoever waits for the node in vain next has it looked after again.
        finally:
            asked.setdefault(node.name, node)

    async def _command(self, *words: Word, **options: Any) -> Any:
        """Let the client make a command, which for that learns the cluster's new shape."""
        try:
            return await self._client.execute_command(*words, **options)
        except AttributeError as exc:
            # While it learns, redis-py closes connections that others of its calls are using.
            raise exceptions.ConnectionError("the connection was closed meanwhile") from exc

    async def _redirect(self, call: Call) -> Any:
        """Send a command again, and let the client follow where the slot has gone."""
        for with_source in (False, True):
            command = call.command(with_source=with_source)
            try:
                return await self._command(*command, **{NEVER_DECODE: True})
            except exceptions.NoScriptError as exc:
                error = exc
            except DRIVER_ERRORS as exc:
                # Such as a slot that is half moved, for too long: the other replies are there.
                return exc
        return error

    async def close(self) -> None:
        """See `Link.close`."""
        for look in self._looks.values():
            look.cancel()
        await asyncio.gather(*self._looks.values(), return_exceptions=True)
        for connections in self._nodes.values():
            await connections.close()
        if self._is_owner:
            await self._client.aclose()


def check_url(url: str) -> None:
    """Check a URL without connecting.

    Raises:
        ValueError: It isn't valid.
    """
    known = ", ".join(f"{scheme}://" for scheme in _SCHEMES)
    fault = f"known are {known}"
    try:
        parts = split_url(url)
        if parts.scheme in _SCHEMES:
            fault = _fault_of(parts)
            if not fault:
                parse_url(_plain(url))
                return
    except ValueError as exc:
        # What else a parser complains about may be a part of the password.
        is_harmless = str(exc).startswith("Invalid value for")
        fault = str(exc) if is_harmless else _SPECIAL
    raise ValueError(f"the URL for Redis isn't valid; {fault}")


def check_options(url: str) -> None:
    """Check the options for redis-py in a valid URL, without connecting.

    Raises:
        ValueError: One can't be used; names it. A value may be a secret and isn't in the text.
    """
    settings: dict[str, Any] = dict(parse_url(_plain(url)))
    make_connection: Any = settings.pop("connection_class", aioredis.Connection)
    if "+cluster" in split_url(url).scheme and settings.get("db"):
        raise ValueError("option db in the URL isn't valid; a cluster has database 0 only")
    for name, value in settings.items():
        try:
            make_connection(**{name: value}, **_without_driver_info())
            is_valid = name not in _LIMITS or _LIMITS[name](value)
        except (TypeError, ValueError, exceptions.RedisError):
            is_valid = False
        if not is_valid:
            raise ValueError(f"option {name} in the URL isn't valid, or not for this kind of URL")


def _fault_of(parts: SplitResult) -> str:
    """Return what to do about a URL that can be parsed, but can't be meant; else nothing."""
    options = [name for name, _ in parse_qsl(parts.query, keep_blank_values=True)]
    # Behind them came the rest of a password and the host.
    if parts.fragment or any("@" in name for name in options):
        return _SPECIAL
    if any(name.startswith("ssl_") for name in options) and not parts.scheme.startswith("rediss"):
        return "options of TLS go with rediss://"
    is_place: object = parts.path
    if parts.scheme != "unix":
        is_place = parts.hostname and parts.port != 0 and _DATABASE.fullmatch(parts.path)
    return "" if is_place else f"write redis://host:port/database, or unix:///path; {_SPECIAL}"


def _plain(url: str) -> str:
    """Return a URL with a scheme that redis-py knows."""
    return url.replace("+cluster://", "://", 1)


def make_link(
    source: str | aioredis.Redis | aioredis.RedisCluster, *, size: int, timeout: float
) -> Link:
    """Return a link for a URL or for a caller's client."""
    if isinstance(source, aioredis.RedisCluster):
        return ClusterLink(source, size, timeout, is_owner=False)
    if not isinstance(source, str):
        return ServerLink(source.connection_pool, size, timeout)
    settings: dict[str, Any] = {
        "client_name": "asyncsessions",
        "protocol": 2,
        "socket_connect_timeout": timeout,
        # Only this library's own retries know how not to write twice.
        "retry": Retry(NoBackoff(), 0),
        **_without_driver_info(),
    }
    scheme = split_url(source).scheme
    if scheme != "unix":
        settings["socket_keepalive"] = True
    if scheme.endswith("+cluster"):
        settings["socket_timeout"] = settings["socket_connect_timeout"] = timeout * _NODE_SHARE
        client = aioredis.RedisCluster.from_url(_plain(source), **settings)
        return ClusterLink(client, size, timeout, is_owner=True)
    # A call's own time limit holds; a second one for each reply costs a tenth of a call.
    settings["socket_timeout"] = None
    return ServerLink(aioredis.ConnectionPool.from_url(source, **settings), size, timeout)


def _without_driver_info() -> dict[str, Any]:
    """Return the settings with which a connection doesn't tell the server redis-py's version.

    To find it out, redis-py reads files, in the event loop and again for every connection.
    """
    if "driver_info" in inspect.signature(AbstractConnection.__init__).parameters:
        return {"driver_info": None}
    return {"lib_name": None, "lib_version": None}
