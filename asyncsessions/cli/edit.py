"""The commands that change one session: ``add`` and ``rm``."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import msgspec
import typer

from asyncsessions.cli.common import (
    CommandError,
    JSONOption,
    StoreOption,
    one_line,
    opened,
    print_json,
    run,
    safe_url,
)
from asyncsessions.models import Message

__all__ = ["add", "rm"]

_DEFAULT_STORE = "jsonl://sessions"


def add(
    session: Annotated[str, typer.Argument(metavar="SESSION", help="The session's id.")],
    role: Annotated[str, typer.Argument(metavar="ROLE", help="user, assistant, system, tool.")],
    content: Annotated[
        str, typer.Argument(metavar="CONTENT", help="The text; - reads it from stdin.")
    ],
    store: StoreOption = _DEFAULT_STORE,
    name: Annotated[str | None, typer.Option(help="The speaker's or tool's name.")] = None,
    tool_call_id: Annotated[
        str | None, typer.Option(help="The call that a tool's result answers.")
    ] = None,
    metadata: Annotated[
        str | None, typer.Option(metavar="JSON", help="A JSON object to keep beside it.")
    ] = None,
    json: JSONOption = False,
) -> None:
    """Append a message to a session, creating it if needed."""
    message = Message(
        role,
        _read_stdin() if content == "-" else content,
        metadata={} if metadata is None else _object(metadata),
        tool_call_id=tool_call_id,
        name=name,
    )
    stored = run(_append(store, session, message))
    if json:
        print_json({"session_id": session, **stored.to_dict()})
    else:
        typer.echo(f"added message {stored.seq} to {one_line(session)}")


def _read_stdin() -> str:
    """Return what stdin holds, without the line end that a shell puts after it."""
    try:
        text = sys.stdin.buffer.read().decode()
    except UnicodeDecodeError as exc:
        raise ValueError(f"stdin isn't UTF-8 (byte {exc.start}); convert it first") from exc
    return text.removesuffix("\n").removesuffix("\r")


def _object(text: str) -> dict[str, Any]:
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeEncodeError) as exc:
        raise ValueError(f"--metadata isn't a JSON object: {exc}") from exc
    except RecursionError as exc:
        raise ValueError("--metadata is nested too deep; flatten it") from exc


async def _append(url: str, session_id: str, message: Message) -> Message:
    async with opened(url, create=True) as store:
        (stored,) = await store.append(session_id, [message])
        return stored


def rm(
    sessions: Annotated[list[str], typer.Argument(metavar="SESSION...", help="Sessions' ids.")],
    store: StoreOption = _DEFAULT_STORE,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")] = False,
    json: JSONOption = False,
) -> None:
    """Delete sessions and everything in them, for good."""
    ids = list(dict.fromkeys(sessions))
    if not yes and not _is_confirmed(ids, store):
        raise CommandError("nothing was deleted")
    deleted = run(_delete(store, ids))
    missing = [session_id for session_id in ids if session_id not in deleted]
    if json:
        print_json({"deleted": deleted, "missing": missing})
    else:
        for session_id in deleted:
            typer.echo(f"deleted {one_line(session_id)}")
    if missing:
        names = ", ".join(map(repr, missing))
        raise CommandError(f"there is no session {names}")


def _is_confirmed(ids: list[str], url: str) -> bool:
    if not sys.stdin.isatty():
        raise ValueError("rm deletes for good; give --yes where nobody can be asked")
    what = one_line(ids[0]) if len(ids) == 1 else f"{len(ids)} sessions"
    return typer.confirm(f"Delete {what} from {safe_url(url)} for good?", err=True)


async def _delete(url: str, ids: list[str]) -> list[str]:
    async with opened(url) as store:
        return [session_id for session_id in ids if await store.delete_session(session_id)]
