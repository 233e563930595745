"""The command ``stats``."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import anyio.to_thread
from rich.table import Table
from rich.text import Text

from asyncsessions.cli.common import (
    JSONOption,
    StoreOption,
    moment,
    opened,
    out_console,
    print_json,
    run,
    safe_text,
    safe_url,
    store_directory,
)

__all__ = ["size_text", "stats"]

_DEFAULT_STORE = "jsonl://sessions"
# A store on files reads every file for each page, so its pages are large.
_FILES_PAGE, _SERVER_PAGE = 10_000, 500
_TOP = 5


def stats(store: StoreOption = _DEFAULT_STORE, json: JSONOption = False) -> None:
    """Show how much a store holds, and whose it is."""
    figures = run(_count(store))
    if json:
        print_json(figures)
        return
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row("store", Text(safe_url(store)))
    table.add_row("sessions", f"{figures['sessions']:,}")
    table.add_row("messages", f"{figures['messages']:,}")
    if figures["bytes"] is not None:
        table.add_row("size", size_text(figures["bytes"]))
    table.add_row("oldest", moment(figures["oldest"] or 0.0))
    table.add_row("newest", moment(figures["newest"] or 0.0))
    for index, agent in enumerate(figures["top_agents"]):
        name = safe_text(agent["agent_name"])
        count = f"{agent['sessions']:,} session{'' if agent['sessions'] == 1 else 's'}"
        table.add_row("" if index else "top agents", Text(f"{name}  ({count})"))
    out_console().print(table)


async def _count(url: str) -> dict[str, Any]:
    sessions = messages = 0
    oldest: float | None = None
    newest: float | None = None
    agents: Counter[str] = Counter()
    directory = store_directory(url)
    limit = _SERVER_PAGE if directory is None else _FILES_PAGE
    async with opened(url) as store:
        cursor: str | None = None
        while True:
            page = await store.list_sessions(limit, cursor)
            sessions += len(page)
            for info in page:
                messages += info.message_count
                oldest = min(filter(None, (oldest, info.created_at)), default=None)
                newest = max(newest or 0.0, info.updated_at)
                if info.agent_name:
                    agents[info.agent_name] += 1
            cursor = page.next_cursor
            if cursor is None:
                break
    size = None if directory is None else await anyio.to_thread.run_sync(_size_of, directory)
    top = [{"agent_name": name, "sessions": count} for name, count in agents.most_common(_TOP)]
    return {
        "sessions": sessions,
        "messages": messages,
        "bytes": size,
        "oldest": oldest,
        "newest": newest,
        "top_agents": top,
    }


def _size_of(directory: Path) -> int:
    size = 0
    for path in directory.iterdir():
        try:
            if path.is_file():
                size += path.stat().st_size
        except FileNotFoundError:
            continue  # Deleted since it was listed.
    return size


def size_text(size: float) -> str:
    """Return a number of bytes for a person."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if size < 1024 or unit == "GiB":
            break
        size /= 1024
    return f"{size:,.0f} {unit}" if unit == "bytes" else f"{size:,.1f} {unit}"
