"""A conversation as a person reads it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import Any

import msgspec
from rich.console import Console
from rich.style import Style
from rich.text import Text

from asyncsessions.cli.common import moment, safe_text
from asyncsessions.codec import encode_json
from asyncsessions.models import Message, SessionInfo

__all__ = ["print_heading", "print_messages"]

_ROLES = {
    "user": "bold cyan",
    "assistant": "bold green",
    "system": "bold magenta",
    "tool": "yellow",
}
_OTHER_ROLE = "bold blue"
_FAINT = "bright_black"
# "assistant" is the longest of the usual roles.
_ROLE_WIDTH = 9
_MIN_WIDTH = 20
# Of a tool's arguments and results, so much is shown unless all is asked for.
_COMPACT = 200
# What a model wrote may be nested deeper than any parser goes.
_UNDECODABLE = (msgspec.DecodeError, UnicodeEncodeError, RecursionError)


def print_heading(console: Console, info: SessionInfo) -> None:
    """Print what a session is, in two lines at most unless it says much."""
    heading = Text(safe_text(info.session_id), style="bold")
    if info.title:
        heading.append(f"  {safe_text(info.title)}", style="not bold")
    console.print(heading, soft_wrap=not console.is_terminal)
    facts = [f"{info.message_count} message{'' if info.message_count == 1 else 's'}"]
    for label, text in (("agent", info.agent_name), ("user", info.user_id)):
        if text:
            facts.append(f"{label} {safe_text(text)}")
    facts.append(f"updated {moment(info.updated_at)}")
    console.print(Text(" · ".join(facts), style=_FAINT))


def print_messages(
    console: Console, messages: Iterable[Message], *, last_seq: int, full: bool = False
) -> None:
    """Print messages below each other: number, role, and what was said.

    Args:
        console: Where to.
        messages: Oldest first.
        last_seq: The highest number that will come, for the width of their column.
        full: Whether tool calls and results are shown in full.
    """
    margin = len(str(last_seq)) + 1 + _ROLE_WIDTH + 1
    # A terminal too narrow for that still gets all of the text.
    width = max(console.width - margin, _MIN_WIDTH)
    for message in messages:
        number = f"{message.seq:>{margin - _ROLE_WIDTH - 2}} "
        role = f"{safe_text(message.role):<{_ROLE_WIDTH}} "
        style = _ROLES.get(message.role, _OTHER_ROLE)
        head = Text.assemble((number, _FAINT), (role, style))
        for line in _body(message, full=full).wrap(console, width, overflow="fold"):
            line.rstrip()
            console.print(head + line, soft_wrap=True)
            head = Text(" " * margin)


def _body(message: Message, *, full: bool) -> Text:
    if message.role == "tool" or message.tool_call_id is not None:
        return _result(message, full=full)
    parts = []
    text = _words(message.content, full=full)
    if message.name:
        text = f"({safe_text(message.name)}) {text}"
    if text:
        parts.append(Text(text))
    parts += [_call(call, full=full) for call in message.tool_calls or ()]
    if message.metadata.get("partial"):
        parts.append(Text("(still being written)", style=_FAINT))
    if not parts:
        return Text("(empty)", style=_FAINT)
    return Text("\n").join(parts)


def _call(call: Any, *, full: bool) -> Text:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict):
        return Text(f"→ {_shorten(_compact_json(call), full=full)}", style=_FAINT)
    name = safe_text(str(function.get("name") or "?"))
    arguments = _arguments(function.get("arguments"))
    line = Text.assemble(("→ ", _FAINT))
    line.append(name, style=Style(color="yellow", bold=True))
    line.append(f"({_shorten(arguments, full=full)})", style="yellow")
    return line


def _arguments(given: object) -> str:
    """Return a call's arguments as ``key=value, ...`` where they are an object."""
    if not isinstance(given, str):
        return _pairs(given)
    try:
        return _pairs(msgspec.json.decode(given))
    except _UNDECODABLE:
        return given


def _pairs(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}={_compact_json(item)}" for key, item in value.items())
    return "" if value is None else _compact_json(value)


def _result(message: Message, *, full: bool) -> Text:
    line = Text.assemble(("← ", _FAINT))
    if message.name:
        line.append(f"{safe_text(message.name)}: ", style="yellow")
    words = _words(message.content, full=True)
    # A result is often plain text.
    with contextlib.suppress(*_UNDECODABLE):
        words = _compact_json(msgspec.json.decode(words))
    line.append(_shorten(words, full=full) or "(empty)", style=_FAINT)
    return line


def _words(content: Any, *, full: bool) -> str:
    if isinstance(content, str):
        return safe_text(content)
    return "\n".join(_part(part, full=full) for part in content or ())


def _part(part: Any, *, full: bool) -> str:
    """Return one part of a content that is a list: its text, or what it is."""
    if isinstance(part, dict) and isinstance(part.get("text"), str):
        return safe_text(part["text"])
    return _shorten(_compact_json(part), full=full)


def _compact_json(value: object) -> str:
    return encode_json(value).decode()


def _shorten(text: str, *, full: bool) -> str:
    text = safe_text(text)
    return text if full or len(text) <= _COMPACT else f"{text[:_COMPACT]}…"
