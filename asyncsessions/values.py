"""Values of callers, checked and copied in slices of work where they are large."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator
from typing import Any, TypeAlias, TypeVar

from asyncsessions.codec import (
    MAX_DEPTH,
    check_json,
    decode_json,
    encode_json,
    encode_text,
    is_json,
)
from asyncsessions.errors import MessageTooLargeError
from asyncsessions.models import JSONValue

__all__ = ["Taking", "is_large_value"]

Result = TypeVar("Result")
Steps: TypeAlias = Generator[None, None, Result]

_CONTAINERS = frozenset({dict, list, tuple})
# What may be checked, encoded and decoded in one go, in characters: about half a millisecond. An
# item takes as long as so many of them.
_ROOM = 1 << 18
_ITEM = 64
_ITEMS_AT_ONCE = 64
# How many items are looked at for lists and dicts among them before the first pause, and how many
# those have together that are copied.
_HELD_ITEMS = 4096
_COPIED_ITEMS = 1 << 16


def is_large_value(value: object) -> bool:
    """Whether to take a value in slices; what isn't JSON may count as either."""
    return _room_beside(value, _ROOM, MAX_DEPTH) < 0


def _room_beside(value: Any, room: int, depth: int) -> int:
    """Return what a value leaves of some room; it isn't looked at further than that goes."""
    kind = type(value)
    if kind is str:
        return room - len(value)
    if kind not in _CONTAINERS:
        return room
    room -= _ITEM * len(value)
    if room < 0 or not depth:
        return room
    items = value
    if kind is dict:
        items = value.values()
        for key in value:
            if type(key) is str:
                room -= len(key)
    # On the hot path of every update, so without a call for each item.
    for item in items:
        kind = type(item)
        if kind is str:
            room -= len(item)
        elif kind in _CONTAINERS and item:
            room = _room_beside(item, room, depth - 1)
    return room


class Taking:
    """Checks and copies large values; each step of it takes much less than a millisecond.

    Lists and dicts of a caller may change between two steps. Each is taken as it was at one
    moment, which is that of the call for the outermost ones (see `hold`).

    Args:
        max_bytes: The size, in bytes of JSON, above which all values together are refused.
    """

    def __init__(self, max_bytes: int) -> None:
        self.size: int = 0
        self._max_bytes = max_bytes

    def hold(self, value: JSONValue) -> JSONValue:
        """Return a value with copies of its lists and dicts, from outside as far as is quick."""
        holder = [value]
        holders: deque[Any] = deque([holder])
        room, left = _HELD_ITEMS, _COPIED_ITEMS
        while holders:
            inner = holders.popleft()
            if len(inner) > room:
                continue
            room -= len(inner)
            for key, item in inner.items() if type(inner) is dict else enumerate(inner):
                if type(item) in _CONTAINERS and len(item) <= left:
                    left -= len(item)
                    inner[key] = dict(item) if type(item) is dict else list(item)
                    holders.append(inner[key])
        return holder[0]

    def take(self, value: JSONValue, path: str, depth: int = MAX_DEPTH) -> Steps[JSONValue]:
        """Return a copy of a value, in steps.

        Args:
            value: Anything that a caller may give.
            path: Where it is, for the error.
            depth: How deep it may be nested.

        Raises:
            InvalidMessageError: It isn't JSON; names the path.
            MessageTooLargeError: All values together are over ``max_bytes``.
            UnicodeEncodeError: It holds a lone surrogate.
        """
        if not is_large_value(value):
            check_json(value, path, depth)
            return self._copied(value)
        if type(value) is str:
            yield from self._text(value)
            return value
        if not depth:
            check_json(value, path, depth)
        self.add(len(value) + 1)
        if type(value) is dict:
            return (yield from self._dict(value, path, depth))
        return (yield from self._list(value, path, depth))

    def _list(self, value: JSONValue, path: str, depth: int) -> Steps[list[JSONValue]]:
        items = list(value)
        copy: list[JSONValue] = []
        for start in range(0, len(items), _ITEMS_AT_ONCE):
            part = items[start : start + _ITEMS_AT_ONCE]
            if is_large_value(part) or not is_json(part, depth):
                for index, item in enumerate(part, start):
                    copy.append((yield from self.take(item, f"{path}[{index}]", depth - 1)))
                    yield
            else:
                copy += self._copied(part, len(part) + 1)
                yield
        return copy

    def _dict(self, value: JSONValue, path: str, depth: int) -> Steps[dict[str, JSONValue]]:
        items = list(value.items())
        copy: dict[str, JSONValue] = {}
        for start in range(0, len(items), _ITEMS_AT_ONCE):
            part = dict(items[start : start + _ITEMS_AT_ONCE])
            if is_large_value(part) or not is_json(part, depth):
                for key, item in part.items():
                    check_json({key: None}, path, depth)
                    yield from self._text(key)
                    self.add(1)
                    copy[key] = yield from self.take(item, f"{path}.{key}", depth - 1)
                    yield
            else:
                copy |= self._copied(part, len(part) + 1)
                yield
        return copy

    def _text(self, text: str) -> Steps[None]:
        self.add(2)
        for piece in encode_text(text):
            self.add(len(piece))
            yield

    def _copied(self, value: JSONValue, counted: int = 0) -> JSONValue:
        """Return a copy, of whose bytes so many are counted already."""
        encoded = encode_json(value)
        self.add(len(encoded) - counted)
        return decode_json(encoded)

    def add(self, size: int) -> None:
        """Count so many bytes.

        Raises:
            MessageTooLargeError: They are too many.
        """
        self.size += size
        if self.size > self._max_bytes:
            raise MessageTooLargeError(size=self.size, limit=self._max_bytes)
