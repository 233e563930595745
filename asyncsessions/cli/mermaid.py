"""A session's tree as a Mermaid flowchart."""

from __future__ import annotations

import re
from collections.abc import Iterator

import anyio
import anyio.to_thread

from asyncsessions.cli.common import safe_text, write_out
from asyncsessions.hierarchy import HierarchicalSessionStore, SessionTree

__all__ = ["export_flowchart", "flowchart"]

_MAX_TITLE = 80
# Letters, digits and what means nothing to Mermaid, nor to Markdown, which it reads in labels.
_SPECIAL = re.compile(r"[^\w ,-]|_|(?<!\w)-")


async def export_flowchart(store: HierarchicalSessionStore, session_id: str, output: str) -> int:
    """Write the flowchart of a session's tree to a file, or to stdout for ``-``.

    Returns:
        How many sessions it shows.
    """
    tree = await store.get_session_tree(session_id)
    text = "".join(f"{line}\n" for line in flowchart(tree))
    if output == "-":
        await anyio.to_thread.run_sync(write_out, text.encode())
    else:
        await anyio.Path(output).write_text(text, encoding="utf-8")
    return text.count('["')


def flowchart(tree: SessionTree) -> Iterator[str]:
    """Iterate over the lines of a flowchart of a session and its forks.

    A node tells a session's title, id and number of messages; an edge the last message that a
    fork has from its parent. Whatever the titles and ids are, the flowchart is valid.
    """
    yield "flowchart TD"
    left = [(tree, "")]
    number = 0
    while left:
        node, parent = left.pop()
        name = f"n{number}"
        number += 1
        yield f'    {name}["{_label(node)}"]'
        if parent:
            yield f'    {parent} -->|"{node.seq}"| {name}'
        left += [(child, name) for child in reversed(node.children)]


def _label(node: SessionTree) -> str:
    count = f"{node.message_count} message{'' if node.message_count == 1 else 's'}"
    lines = [_escape(node.session_id), count]
    if node.title:
        title = node.title if len(node.title) <= _MAX_TITLE else f"{node.title[: _MAX_TITLE - 1]}…"
        lines.insert(0, _escape(title))
    return "<br/>".join(lines)


def _escape(text: str) -> str:
    text = " ".join(safe_text(text).split())
    return _SPECIAL.sub(lambda match: f"#{ord(match[0])};", text)
