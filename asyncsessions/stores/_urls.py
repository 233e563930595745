"""Options in a store's URL."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import SplitResult, parse_qsl, urlencode, urlsplit

__all__ = [
    "STORE_OPTIONS",
    "check_address",
    "query_options",
    "split_options",
    "split_url",
    "switch",
]

STORE_OPTIONS: dict[str, Callable[[str], Any]] = {
    "max_messages": int,
    "ttl_seconds": float,
    "max_message_bytes": int,
}
"""What every store takes, and how to read it."""


def split_url(url: str) -> SplitResult:
    """Return the parts of a URL.

    Raises:
        ValueError: It can't be split. Nothing of it is in the text, which may hold a password.
    """
    try:
        return urlsplit(url)
    except ValueError:
        text = "the URL isn't valid; in its user and its password, write special characters, such "
        raise ValueError(f"{text}as [ and whatever looks like / ? # @ :, as %xx") from None


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
            # What isn't like a name may be anything, even the rest of a password.
            shown = f" {name!r}" if name.isidentifier() else ""
            raise ValueError(f"unknown option{shown} in the URL; known are {', '.join(kinds)}")
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
        ValueError: The address isn't valid, or an option isn't known, or its value isn't of its
            type; names it. Nothing of the password is in the text.
    """
    parts = split_url(url)
    check_address(parts)
    pairs = parse_qsl(parts.query, keep_blank_values=True)
    for_driver = [pair for pair in pairs if pair[0] in driver]
    ours = [pair for pair in pairs if pair[0] not in driver]
    left = parts._replace(query=urlencode(for_driver))
    return left.geturl(), query_options(urlencode(ours), kinds)


def check_address(parts: SplitResult) -> None:
    """Check the part of a URL that a password may be in, before anybody quotes it.

    Raises:
        ValueError: It isn't valid. Nothing of the password is in the text.
    """
    if "@" not in parts.netloc and parts.netloc and "@" in f"{parts.path}{parts.query}":
        raise ValueError(
            "the user or the password in the URL holds a character that must be written as %xx: "
            "/ is %2F, ? is %3F, # is %23, @ is %40"
        )
    if parts.fragment:
        raise ValueError("the URL holds a #; in a user or a password, write it as %23")
    for host in parts.netloc.rpartition("@")[2].split(","):
        port = host.rpartition("]")[2].partition(":")[2]
        if port and not (port.isascii() and port.isdigit() and 0 < int(port[:6]) < 1 << 16):
            raise ValueError("the port in the URL isn't a number from 1 to 65535")
