"""`open_store`: a store from a URL."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from asyncsessions.base import BaseSessionStore

__all__ = ["STORES", "open_store"]

STORES = {
    "memory": "asyncsessions.stores.memory:InMemorySessionStore",
    "jsonl": "asyncsessions.stores.jsonl:JSONLinesSessionStore",
    "json": "asyncsessions.stores.json:JSONSessionStore",
}
"""Which class serves a URL's scheme; each module is imported only when it is asked for."""


def open_store(url: str, **options: Any) -> BaseSessionStore:
    """Return the store for a URL; use it with ``async with``.

    ``memory://``, ``jsonl://DIRECTORY`` and ``json://DIRECTORY`` work; ``jsonl://data`` is
    relative to the working directory, ``jsonl:///var/data`` is absolute. Options may also stand
    in the URL's query, as in ``jsonl://data?durability=os&max_messages=200``.

    Args:
        url: Where the sessions are.
        **options: The arguments of the store's class; they win over the query.

    Raises:
        ValueError: The scheme, the URL or an option isn't valid; names it.
    """
    scheme = urlsplit(url).scheme if isinstance(url, str) else ""
    target = STORES.get(scheme)
    if target is None:
        known = ", ".join(f"{name}://" for name in STORES)
        shown = f"{scheme}://..." if scheme else repr(url)
        raise ValueError(f"no store for {shown}; known are {known}")
    module, _, name = target.partition(":")
    kind: type[BaseSessionStore] = getattr(importlib.import_module(module), name)
    return kind.from_url(url, **options)
