"""`open_store`: a store from a URL."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from asyncsessions.stores._urls import split_url

if TYPE_CHECKING:
    from asyncsessions.base import BaseSessionStore

__all__ = ["STORES", "open_store"]

STORES = {
    "memory": "asyncsessions.stores.memory:InMemorySessionStore",
    "jsonl": "asyncsessions.stores.jsonl:JSONLinesSessionStore",
    "json": "asyncsessions.stores.json:JSONSessionStore",
    "redis": "asyncsessions.stores.redis:RedisSessionStore",
    "rediss": "asyncsessions.stores.redis:RedisSessionStore",
    "redis+cluster": "asyncsessions.stores.redis:RedisSessionStore",
    "rediss+cluster": "asyncsessions.stores.redis:RedisSessionStore",
    "unix": "asyncsessions.stores.redis:RedisSessionStore",
    "postgresql": "asyncsessions.stores.postgres:PostgresSessionStore",
    "postgres": "asyncsessions.stores.postgres:PostgresSessionStore",
    "mongodb": "asyncsessions.stores.mongo:MongoSessionStore",
    "mongodb+srv": "asyncsessions.stores.mongo:MongoSessionStore",
}
"""Which class serves a URL's scheme; each module is imported only when it is asked for."""

# Which extra has a store's driver, by the driver's package.
_EXTRAS = {"redis": "redis", "hiredis": "redis", "asyncpg": "postgres", "pymongo": "mongo"}


def open_store(url: str, **options: Any) -> BaseSessionStore:
    """Return the store for a URL; use it with ``async with``.

    ``memory://``, ``jsonl://DIRECTORY`` and ``json://DIRECTORY`` need no server; ``jsonl://data``
    is relative to the working directory, ``jsonl:///var/data`` is absolute. On servers there are
    ``redis://``, ``redis+cluster://`` (with TLS ``rediss://``, ``rediss+cluster://``), ``unix://``,
    ``postgresql://`` or ``postgres://``, ``mongodb://`` and ``mongodb+srv://``, each with what its
    driver takes. Options may also stand in the URL's query (but for ``memory://``), as in
    ``jsonl://data?durability=os&max_messages=200``.

    Args:
        url: Where the sessions are.
        **options: The arguments of the store's class; they win over the query.

    Raises:
        ValueError: The scheme, the URL or an option isn't valid; names it.
        TypeError: An argument isn't known, or isn't of its type.
        ImportError: The store's driver isn't installed; says what to install.
    """
    scheme = split_url(url).scheme if isinstance(url, str) else ""
    target = STORES.get(scheme)
    if target is None:
        known = ", ".join(f"{name}://" for name in STORES)
        shown = f"{scheme}://..." if scheme else repr(url)
        if not scheme and "@" in str(url):
            shown = "a URL without a scheme"
        raise ValueError(f"no store for {shown}; known are {known}")
    module, _, name = target.partition(":")
    try:
        kind: type[BaseSessionStore] = getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as exc:
        package = (exc.name or "").partition(".")[0]
        if package not in _EXTRAS:
            raise
        command = f"pip install 'asyncsessions[{_EXTRAS[package]}]'"
        text = f"{scheme}:// needs {package}; run: {command}"
        raise ImportError(text, name=package) from exc
    return kind.from_url(url, **options)
