"""The commands that look: ``ls``, ``show`` and ``search``."""

from __future__ import annotations

from functools import partial
from typing import Annotated

import anyio.to_thread
import typer
from rich.console import Console
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
)
from asyncsessions.cli.transcript import print_heading, print_messages
from asyncsessions.errors import SessionNotFoundError
from asyncsessions.models import SearchHit, SessionInfo, SessionPage

__all__ = ["ls", "search", "show"]

_DEFAULT_STORE = "jsonl://sessions"
# So much of a conversation is read, and shown, at a time.
_PAGE = 500
# A longer id goes on in the next line where room is short.
_ID_WIDTH = 40
_EXTRA_WIDTH = 12


def ls(
    store: StoreOption = _DEFAULT_STORE,
    limit: Annotated[int, typer.Option(min=0, help="The most sessions to list.")] = 50,
    agent: Annotated[str | None, typer.Option(help="Only sessions of this agent.")] = None,
    user: Annotated[str | None, typer.Option(help="Only sessions of this user.")] = None,
    cursor: Annotated[
        str | None, typer.Option(help="Go on where the page before has ended.")
    ] = None,
    json: JSONOption = False,
) -> None:
    """List sessions, last written first."""
    page = run(_list(store, limit, agent, user, cursor))
    if json:
        sessions = [_as_json(info) for info in page]
        print_json({"sessions": sessions, "next_cursor": page.next_cursor})
        return
    console = out_console()
    if not page:
        typer.echo("no sessions", err=True)
        return
    _print_sessions(console, page)
    if page.next_cursor:
        typer.echo(f"more: add --cursor {page.next_cursor}", err=True)


async def _list(
    url: str, limit: int, agent: str | None, user: str | None, cursor: str | None
) -> SessionPage:
    async with opened(url) as store:
        return await store.list_sessions(limit, cursor, agent_name=agent, user_id=user)


def _as_json(info: SessionInfo) -> dict[str, object]:
    fields = {name: getattr(info, name) for name in info.__struct_fields__}
    return {key: value for key, value in fields.items() if value not in (None, {})}


def _print_sessions(console: Console, page: SessionPage) -> None:
    ids = [_cell(info.session_id) for info in page]
    id_width = min(_ID_WIDTH, max(7, *(cell.cell_len for cell in ids)))
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("SESSION", overflow="fold", min_width=id_width)
    table.add_column("MESSAGES", justify="right", no_wrap=True, min_width=8)
    table.add_column("UPDATED", no_wrap=True, min_width=16)
    # What is nice to know is shown as far as there is room for it.
    room = console.width - (id_width + 2 + 8 + 2 + 16)
    names = ("title", "agent_name", "user_id")
    extras = [name for name in names if any(getattr(info, name) for info in page)]
    del extras[room // (_EXTRA_WIDTH + 2) :]
    for name in extras:
        width = room // len(extras) - 2
        header = name.partition("_")[0].upper()
        table.add_column(header, overflow="ellipsis", no_wrap=True, max_width=width)
    for cell, info in zip(ids, page, strict=True):
        row = [cell, Text(f"{info.message_count:,}"), Text(moment(info.updated_at))]
        table.add_row(*row, *(_cell(getattr(info, name) or "") for name in extras))
    console.print(table)


def _cell(text: str) -> Text:
    return Text(safe_text(text).replace("\n", " "))


def show(
    session: Annotated[str, typer.Argument(metavar="SESSION", help="The session's id.")],
    store: StoreOption = _DEFAULT_STORE,
    limit: Annotated[
        int | None, typer.Option(min=0, help="Only so many of the newest messages.")
    ] = None,
    full: Annotated[
        bool, typer.Option("--full", help="Show tool calls and results in full.")
    ] = False,
    json: JSONOption = False,
) -> None:
    """Show a session's transcript."""
    run(_show_json(store, session, limit) if json else _show(store, session, limit, full=full))


async def _show_json(url: str, session_id: str, limit: int | None) -> None:
    async with opened(url) as store:
        data = await store.export_session(session_id)
    if limit is not None:
        data["messages"] = data["messages"][len(data["messages"]) - limit :] if limit else []
    print_json(data)


async def _show(url: str, session_id: str, limit: int | None, *, full: bool) -> None:
    console = out_console()
    async with opened(url) as store:
        info = await store.get_session(session_id, max_messages=0)
        if not info.created_at:
            raise SessionNotFoundError(session_id)
        print_heading(console, info)
        console.print()
        show_page = partial(print_messages, console, last_seq=info.last_seq, full=full)
        if limit is not None:
            newest = await store.get_messages(session_id, limit=limit)
            await anyio.to_thread.run_sync(show_page, newest)
            return
        after = 0
        while page := await store.get_messages(session_id, after=after, limit=_PAGE):
            await anyio.to_thread.run_sync(show_page, page)
            after = page[-1].seq


def search(
    query: Annotated[str, typer.Argument(metavar="QUERY", help="Words to look for.")],
    store: StoreOption = _DEFAULT_STORE,
    limit: Annotated[int, typer.Option(min=0, help="The most sessions to list.")] = 10,
    window: Annotated[
        int, typer.Option(min=0, help="How many messages around each match to show.")
    ] = 0,
    json: JSONOption = False,
) -> None:
    """Find sessions whose messages contain the words, best first."""
    hits = run(_search(store, query, limit, window))
    if json:
        print_json([_hit_as_json(hit) for hit in hits])
        return
    if not hits:
        typer.echo("nothing found", err=True)
        return
    console = out_console()
    for hit in hits:
        _print_hit(console, hit, query, with_messages=window > 0)


async def _search(url: str, query: str, limit: int, window: int) -> list[SearchHit]:
    async with opened(url) as store:
        return await store.search(query, limit=limit, window=window)


def _hit_as_json(hit: SearchHit) -> dict[str, object]:
    fields: dict[str, object] = {name: getattr(hit, name) for name in hit.__struct_fields__}
    return fields | {"messages": [message.to_dict() for message in hit.messages]}


def _print_hit(console: Console, hit: SearchHit, query: str, *, with_messages: bool) -> None:
    line = _cell(hit.session_id)
    line.stylize("bold")
    line.append(f"  message {hit.seq} · {moment(hit.updated_at)}", style="bright_black")
    console.print(line)
    if with_messages:
        print_messages(console, hit.messages, last_seq=hit.messages[-1].seq)
        return
    snippet = Text("  ") + _cell(hit.snippet)
    snippet.highlight_words(query.split(), style="bold yellow", case_sensitive=False)
    console.print(snippet)
