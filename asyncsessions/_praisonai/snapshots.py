"""Snapshots of a session: what they hold that the session itself doesn't."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from asyncsessions._praisonai.message import seconds
from asyncsessions._praisonai.transcript import Transcript, transcript

__all__ = ["take_snapshots"]

_TRANSCRIPT = ("messages", "archived_messages", "last_compaction")


def take_snapshots(
    data: Mapping[str, Any],
    found: Transcript,
    convert: Callable[[Mapping[str, Any]], list[dict[str, Any]]],
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return what to note of a session's snapshots, and the sessions that hold the others.

    Most snapshots are the beginning of their session: for these the note says up to which ``seq``
    it is. Any other becomes a session of its own, which its note names.

    Args:
        data: The session as PraisonAI has it.
        found: Its messages.
        convert: Translates a session.
    """
    notes: list[Any] = []
    sessions: list[dict[str, Any]] = []
    is_damaged = False
    for snapshot in data.get("snapshots") or []:
        if not isinstance(snapshot, dict):
            continue
        try:
            content = _content(snapshot, data)
        except (AttributeError, LookupError, TypeError):
            is_damaged = True
            notes.append(snapshot)
            continue
        note, others = _noted(snapshot, content, data["session_id"], found, convert)
        notes.append(note)
        sessions += others
    kept: dict[str, Any] = {"snapshots": notes} if notes else {}
    if is_damaged:
        kept["snapshot_storage"] = data.get("snapshot_storage")
    return kept, sessions


def _content(snapshot: Mapping[str, Any], data: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return a snapshot's transcript; None where it is only a place in its session.

    Raises:
        LookupError: It refers to what isn't there.
        AttributeError: It isn't of the format.
        TypeError: As above.
    """
    refs = snapshot.get("transcript_refs")
    if refs is None:
        inline = snapshot.get("transcript")
        if inline is None:
            return None
        lists = [list(inline.get(key) or []) for key in _TRANSCRIPT[:2]]
        return dict(zip(_TRANSCRIPT, [*lists, inline.get(_TRANSCRIPT[2])], strict=True))
    records = data["snapshot_storage"]["records"]
    return {
        "messages": [records[key] for key in refs["messages"]["items"]],
        "archived_messages": [records[key] for key in refs["archived_messages"]["items"]],
        "last_compaction": records[refs["last_compaction"]["value"]],
    }


def _noted(
    snapshot: Mapping[str, Any],
    content: dict[str, Any] | None,
    session_id: str,
    found: Transcript,
    convert: Callable[[Mapping[str, Any]], list[dict[str, Any]]],
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    # Where its messages are pooled, it is marked so that older versions leave it alone.
    flag = "transcript_invalidated" if "transcript_refs" in snapshot else "invalidated"
    note = {
        "id": snapshot.get("id"),
        "label": snapshot.get("label"),
        "created_at": seconds(snapshot.get("created_at")),
        "metadata": snapshot.get("metadata"),
        "invalidated": bool(snapshot.get(flag)),
    }
    note = {key: value for key, value in note.items() if value}
    if content is None:
        index = snapshot.get("message_index")
        note["seq"] = found.covered(index + 1) if isinstance(index, int) else 0
        return note, []
    its = transcript(content)
    if its.messages == found.messages[: len(its.messages)] and _is_start(its, found):
        note["seq"] = len(its.messages)
        if its.checkpoint is not None:
            note["checkpoint"] = its.checkpoint
        return note, []
    note["session_id"] = f"{session_id}@snapshot-{snapshot.get('id')}"
    time = note.get("created_at")
    own = {"session_id": note["session_id"], "created_at": time, "updated_at": time}
    others = {"snapshot_of": session_id, "title": note.get("label")}
    return note, convert({**content, **own, **others})


def _is_start(its: Transcript, found: Transcript) -> bool:
    """Whether all that was cleared before a snapshot is in its session, too."""
    return all(message in found.cleared for message in its.cleared)
