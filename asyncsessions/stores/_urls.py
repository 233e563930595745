"""Options in a store's URL."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

__all__ = ["STORE_OPTIONS", "query_options", "split_options", "switch"]

STORE_OPTIONS: dict[str, Callable[[str], Any]] = {
    "max_messages": int,
    "ttl_seconds": float,
    "max_message_bytes": int,
}
"""What every store takes, and how to read it."""


def switch(text: str) -> bool:
    """Read an option that is on or off.

    Raises:
        ValueError: It is neither.
    """
    values = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
    if text.lower() not in values:
        raise ValueError(text)
    return values[text.lower()]


def query_options(query: str, kinds: Mapping[str, Callable[[str], Any]]) -> dict[str, Any]:
    """Return a URL's options with the types that a constructor takes.

    Args:
        query: What follows the question mark.
        kinds: Every option that is known, and how to read it.

    Raises:
        ValueError: An option isn't known, or its value isn't of its type; names it.
    """
    options = {}
    for name, text in parse_qsl(query, keep_blank_values=True):
        if name not in kinds:
            raise ValueError(f"unknown option {name!r} in the URL; known are {', '.join(kinds)}")
        try:
            options[name] = kinds[name](text)
        except ValueError as exc:
            what = "true or false" if kinds[name] is switch else "a number"
            raise ValueError(f"option {name}={text!r} in the URL is not {what}") from exc
    return options


def split_options(
    url: str, kinds: Mapping[str, Callable[[str], Any]], driver: frozenset[str]
) -> tuple[str, dict[str, Any]]:
    """Return a URL with only its driver's options, and the store's options.

    Args:
        url: As the caller gave it.
        kinds: The store's options, as in `query_options`.
        driver: The names of the options that stay in the URL for the driver.

    Raises:
        ValueError: An option isn't known, or its value isn't of its type; names it.
    """
    parts = urlsplit(url)
    pairs = parse_qsl(parts.query, keep_blank_values=True)
    for_driver = [pair for pair in pairs if pair[0] in driver]
    ours = [pair for pair in pairs if pair[0] not in driver]
    left = parts._replace(query=urlencode(for_driver))
    return left.geturl(), query_options(urlencode(ours), kinds)
