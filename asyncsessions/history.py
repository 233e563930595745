"""Windows over a conversation that keep tool calls and their results together.

Both spellings of chat APIs count: ``tool_calls`` with ``tool_call_id`` (OpenAI), and content
parts of the types ``tool_use`` and ``tool_result`` (Anthropic).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from asyncsessions.models import Message
from asyncsessions.pacing import Pacer

__all__ = ["PairFilter", "drop_orphan_results", "is_tool_result", "messages_to_drop", "to_chat"]


def is_tool_result(message: Message) -> bool:
    """Whether a message answers a tool call, and so means nothing without it."""
    if message.role == "tool" or message.tool_call_id is not None:
        return True
    return bool(_part_ids(message.content, "tool_result", "tool_use_id"))


def _part_ids(content: object, kind: str, key: str) -> list[str | None]:
    if not isinstance(content, list):
        return []
    return [
        _id(part, key) for part in content if isinstance(part, dict) and part.get("type") == kind
    ]


def _id(part: Mapping[str, Any], key: str) -> str | None:
    """Return the id of a call; None where there is none, or it isn't text."""
    value = part.get(key)
    return value if isinstance(value, str) else None


def _called_ids(message: Message) -> list[str | None]:
    calls = message.tool_calls or ()
    ids = [_id(call, "id") for call in calls if isinstance(call, dict)]
    return ids + _part_ids(message.content, "tool_use", "id")


def _answered_ids(message: Message) -> list[str | None]:
    if message.tool_call_id is not None:
        return [message.tool_call_id]
    return _part_ids(message.content, "tool_result", "tool_use_id")


class PairFilter:
    """Finds, in the newest messages of a conversation, results whose call was cut off.

    A window that starts at the first message of its session is left as it is: nothing was cut
    off there.

    Args:
        window: Stored messages, oldest first; then give each in turn to `keeps`.
    """

    def __init__(self, window: Sequence[Message]) -> None:
        self._is_cut = bool(window) and window[0].seq != 1
        self._called: set[str | None] = set()

    def keeps(self, message: Message) -> bool:
        """Whether the next message belongs in the window."""
        if not self._is_cut:
            return True
        if is_tool_result(message):
            answered = _answered_ids(message)
            # A result without an id belongs to whichever call came before it.
            if not (self._called.issuperset(answered) if answered else self._called):
                return False
        self._called.update(_called_ids(message))
        return True


async def to_chat(window: list[Message]) -> list[dict[str, Any]]:
    """Return messages as a chat model API takes them, without the results of calls cut off.

    Args:
        window: Stored messages, oldest first; it is empty afterwards.
    """
    pairs = PairFilter(window)
    pacer = Pacer()
    chat: list[dict[str, Any]] = []
    # Emptied on the way, because to free all of a long list at the end takes long, too.
    window.reverse()
    while window:
        message = window.pop()
        if pairs.keeps(message):
            chat.append(message.to_chat())
        if not len(window) & 15:
            await pacer.pause()
    return chat


def drop_orphan_results(window: Sequence[Message]) -> list[Message]:
    """Return a window without the results that `PairFilter` doesn't keep."""
    pairs = PairFilter(window)
    return [message for message in window if pairs.keeps(message)]


def messages_to_drop(is_result: Iterable[bool], excess: int) -> int:
    """Return how many of the oldest messages retention drops so that pairs stay whole.

    The cut never falls between a call and its results: it moves on past the results, and where
    the conversation ends with them, back to before their call. So more than the limit may stay,
    and the newest exchange is never lost.

    Args:
        is_result: For each kept message, oldest first, whether it is a tool result. Consumed
            only as far as needed.
        excess: How many messages are over the limit.
    """
    if excess <= 0:
        return 0
    boundary = 0
    for index, result in enumerate(is_result):
        if not result:
            if index >= excess:
                return index
            boundary = index
    return boundary
