"""Messages that PraisonAI could not write to their session, and set aside.

It puts them back when it next reads the session. An import doesn't wait for that.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from asyncsessions._praisonai.message import identity, seconds
from asyncsessions._praisonai.parsing import checked, parse
from asyncsessions.errors import SessionFileError

__all__ = ["put_back", "read_spilled", "spill_directory"]


def spill_directory(sessions: Path) -> Path:
    """Return where the messages of a directory of sessions are set aside."""
    return sessions.absolute().parent / "state" / "session_spill"


def read_spilled(
    directory: Path,
) -> tuple[dict[str, list[dict[str, Any]]], list[SessionFileError]]:
    """Return the messages that were set aside, by session, and what can't be read."""
    found: dict[str, list[dict[str, Any]]] = {}
    damaged = []
    for path in sorted(directory.glob("*.json")):
        try:
            data = checked(parse(path.read_bytes(), path), path, None)
        except SessionFileError as exc:
            damaged.append(exc)
        except OSError as exc:
            damaged.append(SessionFileError(f"can't be read: {exc.strerror}", path=str(path)))
        else:
            messages = [each for each in data.get("messages") or [] if isinstance(each, dict)]
            found.setdefault(data["session_id"], []).extend(messages)
    return found, damaged


def put_back(data: Mapping[str, Any], spilled: list[dict[str, Any]]) -> dict[str, Any]:
    """Return a session with messages that were set aside, each at the place that its time says.

    Those that the session has are left out. (PraisonAI puts them all at the end.)
    """
    messages = list(data.get("messages") or [])
    given = data.get("last_compaction")
    checkpoint = dict(given) if isinstance(given, dict) else {}
    index = checkpoint.get("message_index")
    everything = [*messages, *(data.get("archived_messages") or [])]
    known = {identity(each) for each in everything if isinstance(each, dict)}
    for message in spilled:
        if identity(message) in known:
            continue
        known.add(identity(message))
        place = _place(messages, seconds(message.get("timestamp")))
        messages.insert(place, message)
        if isinstance(index, int) and place < index:
            index = checkpoint["message_index"] = index + 1
    changed = {"last_compaction": checkpoint} if checkpoint else {}
    return {**data, "messages": messages, **changed}


def _place(messages: list[Any], time: float) -> int:
    """Return where a message goes: behind the last one that isn't later."""
    for place in range(len(messages), 0, -1):
        before = messages[place - 1]
        if isinstance(before, dict) and 0 < seconds(before.get("timestamp")) <= time:
            return place
    # A summary stays in front.
    return len(messages) if not time else min(len(messages), _is_summary(messages))


def _is_summary(messages: list[Any]) -> bool:
    metadata = messages[0].get("metadata") if messages and isinstance(messages[0], dict) else None
    return isinstance(metadata, dict) and bool(metadata.get("compaction"))
