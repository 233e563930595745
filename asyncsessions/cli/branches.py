"""The commands that look at sessions that branch: ``tree`` and ``diff``."""

from __future__ import annotations

from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.text import Text
from rich.tree import Tree

from asyncsessions.cli.common import (
    JSONOption,
    StoreOption,
    one_line,
    opened,
    out_console,
    print_json,
    run,
)
from asyncsessions.cli.transcript import print_messages
from asyncsessions.hierarchy import SessionDiff, SessionTree
from asyncsessions.models import Message

__all__ = ["diff", "tree"]

_DEFAULT_STORE = "jsonl://sessions"
_FAINT = "bright_black"


def tree(
    session: Annotated[str, typer.Argument(metavar="SESSION", help="The session's id.")],
    store: StoreOption = _DEFAULT_STORE,
    json: JSONOption = False,
) -> None:
    """Show a session with its forks, their forks, and so on, and where each begins."""
    found, parent = run(_read_tree(store, session))
    if json:
        print_json(msgspec.to_builtins(found) | {"parent_id": parent})
        return
    root = Tree(_label(found, parent), guide_style=_FAINT)
    left = [(found, root)]
    while left:
        node, branch = left.pop()
        left += [(child, branch.add(_label(child))) for child in node.children]
    out_console().print(root)


async def _read_tree(url: str, session_id: str) -> tuple[SessionTree, str | None]:
    async with opened(url) as store:
        return await store.get_session_tree(session_id), await store.get_parent(session_id)


def _label(node: SessionTree, parent: str | None = None) -> Text:
    label = Text(overflow="fold")
    if node.seq is not None:
        origin = "" if parent is None else f" of {one_line(parent)}"
        label.append(f"from {node.seq}{origin}  ", style=_FAINT)
    if node.title:
        label.append(f"{one_line(node.title)}  ", style="bold")
    facts = _count(node.message_count, "message")
    if node.snapshot_count:
        facts += f" · {_count(node.snapshot_count, 'snapshot')}"
    label.append(one_line(node.session_id), style="" if node.title else "bold")
    label.append(f"  {facts}", style=_FAINT)
    return label


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def diff(
    left: Annotated[str, typer.Argument(metavar="A", help="A session's id.")],
    right: Annotated[str, typer.Argument(metavar="B", help="Its fork's, or another fork's.")],
    store: StoreOption = _DEFAULT_STORE,
    full: Annotated[
        bool, typer.Option("--full", help="Show tool calls and results in full.")
    ] = False,
    json: JSONOption = False,
) -> None:
    """Show where two sessions part that have the same origin, and what each has after that."""
    found, titles = run(_read_diff(store, left, right))
    if json:
        print_json(_as_json(found))
        return
    console = out_console()
    names = f"{one_line(left)} and {one_line(right)}"
    if found.common:
        # Both give the same seq to what they have in common.
        common = f"{_count(found.common, 'message')} in common, up to message {found.seq}"
    else:
        common = "no messages in common"
    console.print(Text(f"{names} have {common}"), soft_wrap=not console.is_terminal)
    for name, title, messages in zip((left, right), titles, (found.left, found.right), strict=True):
        heading = Text(f"only in {one_line(name)}", style="bold")
        if title:
            heading.append(f"  {one_line(title)}", style="not bold")
        _print_side(console, heading, messages, full=full)


async def _read_diff(url: str, left: str, right: str) -> tuple[SessionDiff, list[str | None]]:
    async with opened(url) as store:
        found = await store.diff(left, right)
        infos = [await store.get_info(each) for each in (left, right)]
    return found, [None if info is None else info.title for info in infos]


def _as_json(found: SessionDiff) -> dict[str, object]:
    fields: dict[str, object] = {name: getattr(found, name) for name in found.__struct_fields__}
    sides = {"left": found.left, "right": found.right}
    return fields | {name: [each.to_dict() for each in side] for name, side in sides.items()}


def _print_side(console: Console, heading: Text, messages: list[Message], *, full: bool) -> None:
    console.print()
    console.print(heading, soft_wrap=not console.is_terminal)
    if not messages:
        console.print(Text("nothing", style=_FAINT))
        return
    print_messages(console, messages, last_seq=messages[-1].seq, full=full)
