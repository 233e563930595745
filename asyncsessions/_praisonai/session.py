"""PraisonAI's session objects, translated to those that `import_sessions` takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from asyncsessions._praisonai.message import seconds, to_message, unhidden
from asyncsessions._praisonai.snapshots import take_snapshots
from asyncsessions._praisonai.transcript import transcript

__all__ = ["from_praisonai"]

_TEXTS = ("agent_name", "user_id", "agent_id", "gateway_session_id")
# What this library's own exports have.
_OURS = ("state", "checkpoint", "expires_at", "part", "message_count")
# What a json:// store keeps under its reserved key.
_HIDDEN = ("state", "expires_at", "created_at", "updated_at")
# Copies of metadata entries that PraisonAI also keeps at the top level.
_MIRRORED = (
    "model",
    "llm",
    "total_tokens",
    "token_count",
    "cost",
    "source",
    "reasoning_effort",
)
_KNOWN = frozenset(
    {
        "session_id",
        "messages",
        "archived_messages",
        "last_compaction",
        "created_at",
        "updated_at",
        "metadata",
        "snapshots",
        "snapshot_storage",
        *_OURS,
        *_TEXTS,
        *_MIRRORED,
    }
)


def from_praisonai(data: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a PraisonAI session as objects for `SessionStore.import_sessions`.

    The first is the session. Others follow for what it keeps beside its conversation: messages
    that were cleared but are still archived (``<id>@archive``), and snapshots that aren't the
    beginning of the conversation (``<id>@snapshot-<snapshot's id>``).

    Nothing that says something is dropped: top-level keys that have no place of their own go to
    ``metadata.praisonai``. An object that this library exported comes back as it was.

    Args:
        data: With ``session_id``, and ``messages`` as a list if at all.
    """
    session_id = data["session_id"]
    found = transcript(data)
    snapshots, others = take_snapshots(data, found, from_praisonai)
    metadata = _metadata(data, snapshots)
    own = unhidden(metadata)
    record: dict[str, Any] = {
        **_record(data),
        "checkpoint": found.checkpoint,
        "metadata": metadata,
        **{key: data[key] for key in _OURS if data.get(key)},
        **{key: own[key] for key in _HIDDEN if own.get(key)},
    }
    kept = {key: value for key, value in record.items() if value}
    sessions = [{"session_id": session_id, **kept, "messages": found.messages}]
    if found.cleared:
        archive = _record(data) | {"metadata": {"praisonai": {"archive_of": session_id}}}
        # Only the session itself is to be found by it.
        archive.pop("gateway_session_id", None)
        messages = [to_message(message, n) for n, message in enumerate(found.cleared, 1)]
        sessions.append({"session_id": f"{session_id}@archive", **archive, "messages": messages})
    return sessions + others


def _record(data: Mapping[str, Any]) -> dict[str, Any]:
    times = {key: seconds(data.get(key)) for key in ("created_at", "updated_at")}
    texts = {key: data[key] for key in _TEXTS if isinstance(data.get(key), str)}
    return {key: value for key, value in {**times, **texts}.items() if value}


def _metadata(data: Mapping[str, Any], snapshots: dict[str, Any]) -> dict[str, Any]:
    given = data.get("metadata")
    metadata = dict(given) if isinstance(given, dict) else {}
    rest = {key: value for key, value in data.items() if key not in _KNOWN and _says(value)}
    rest |= snapshots
    if isinstance(given, list | str) and given:
        rest["metadata"] = given
    copies = {key: data.get(key) for key in _MIRRORED}
    # What PraisonAI's command line counts, under the names that its agents use.
    tokens = seconds(data.get("total_input_tokens")) + seconds(data.get("total_output_tokens"))
    copies["model"] = copies["model"] or data.get("current_model")
    copies["cost"] = copies["cost"] or data.get("total_cost") or None
    copies["total_tokens"] = copies["total_tokens"] or int(tokens) or None
    # A hierarchical session has a title beside that of its metadata.
    copies["title"] = rest.get("title")
    for key, value in copies.items():
        if value is not None:
            metadata.setdefault(key, value)
    if metadata.get("title") == rest.get("title"):
        rest.pop("title", None)
    if rest:
        before = metadata.get("praisonai", {})
        metadata["praisonai"] = (before if isinstance(before, dict) else {"": before}) | rest
    return metadata


def _says(value: object) -> bool:
    return value is not None and value is not False and value not in ("", [], {})
