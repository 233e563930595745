"""What a server says of itself when it is greeted."""

from __future__ import annotations

from typing import Any

from redis import exceptions

from asyncsessions.errors import StoreRefusedError
from asyncsessions.stores._redis_links import Link
from asyncsessions.stores._redis_scripts import Call

__all__ = ["ask", "check_server"]

_OLDEST = (6, 2)


async def ask(link: Link, key: bytes, *words: str) -> Any:
    """Return a server's answer to a plain command; on a cluster that of the node with the key.

    Raises:
        StoreRefusedError: The server doesn't know the command.
        RedisError: It has no answer.
    """
    (reply,) = await link.send([Call(key, lambda: words)])
    if isinstance(reply, exceptions.ResponseError) and str(reply).startswith("unknown command"):
        raise StoreRefusedError("the server is too old; use Redis 6.2 or later, or Valkey")
    if isinstance(reply, Exception):
        raise reply
    return reply


async def check_server(link: Link, key: bytes) -> None:
    """Check that a server is one that a store can use.

    Raises:
        StoreRefusedError: It isn't.
        RedisError: It has no answer.
    """
    hello = await ask(link, key, "HELLO")
    told = dict(zip(hello[::2], hello[1::2], strict=True)) if type(hello) is list else hello
    version = told[b"version"].decode()
    if tuple(map(int, version.split(".")[:2])) < _OLDEST:
        raise StoreRefusedError(f"the server is Redis {version}; use 6.2 or later, or Valkey")
    if told[b"mode"] == b"cluster" and not link.is_cluster:
        text = "the server is part of a cluster; use redis+cluster:// in the URL"
        raise StoreRefusedError(text)
