"""The updates that make versions of sessions' documents in MongoDB into the next ones.

Most of what an update costs the server is there once for each, however many come in one command.
So changes of many sessions share one update where they can: it looks up what is new in a document
by the document's id. That is half of what an update for each session costs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from operator import attrgetter
from typing import Any

import msgspec

from asyncsessions.stores._mongo_database import Document
from asyncsessions.stores._mongo_session import Head

__all__ = ["shared_change", "shared_update", "update_between"]

_RARE = ("volume", "edition", "created_at", "first_seq", "expires_at", "has_old_keys")
_rare = attrgetter(*_RARE)
_ALL = 1 << 30


def update_between(old: Head, new: Head) -> Document:
    """Return the update that makes one version of a session into the next, and nothing else.

    Args:
        old: The version before. Of its tail, the bodies may be missing.
        new: Made from ``old``. A tail of another edition has all its bodies.
    """
    where = {"_id": old.session_id, "version": old.version}
    if old.incarnation != new.incarnation or new.updated_at is None:
        return {"q": where, "u": new.document()}
    return {"q": where, "u": _changes(old, new)}


def shared_change(old: Head, new: Head) -> Document | None:
    """Return a session's part of an update of many; None where it takes one of its own.

    Args:
        old: See `update_between`.
        new: See `update_between`.
    """
    is_same = old.incarnation is new.incarnation or old.incarnation == new.incarnation
    if not is_same or old.edition != new.edition or new.updated_at is None:
        return None
    if new.keys is not old.keys or new.names != old.names:
        return None
    sets = _counters(new)
    sets["writers"] = new.writers
    for name, value in _rare_changes(old, new):
        if value is None:
            return None
        sets[name] = value
    if new.pages is not old.pages:
        sets["pages"] = [msgspec.structs.asdict(page) for page in new.pages]
    if new.garbage is not old.garbage:
        sets["garbage"] = list(new.garbage)
    if new.record is not old.record:
        sets["record"] = new.record
    added = _added(new)
    gone = len(old.tail) + len(added) - len(new.tail)
    return {"version": old.version, "gone": gone, "added": added, "sets": sets}


def shared_update(changes: Mapping[str, Mapping[str, Any]]) -> Document:
    """Return one update for many sessions.

    A session of which another version is stored stays as it is, and isn't counted as modified.

    Args:
        changes: For each session its `shared_change`, which may be encoded already.
    """
    sessions = list(changes)
    place = {"$indexOfArray": [{"$literal": sessions}, "$_id"]}
    tail = {"$concatArrays": [{"$slice": ["$tail", "$$new.gone", _ALL]}, "$$new.added"]}
    changed = {"$mergeObjects": ["$$ROOT", "$$new.sets", {"tail": tail}]}
    is_meant = {"$eq": ["$version", "$$new.version"]}
    next_version = {
        "$let": {
            "vars": {"new": {"$arrayElemAt": [{"$literal": list(changes.values())}, place]}},
            "in": {"$cond": [is_meant, changed, "$$ROOT"]},
        }
    }
    where = {"_id": {"$in": sessions}}
    return {"q": where, "u": [{"$replaceWith": next_version}], "multi": True}


def _changes(old: Head, new: Head) -> Document:
    sets = _counters(new)
    update: Document = {"$set": sets}
    sets.update(_rare_changes(old, new))
    pushes: Document = {}
    _change_writers(old, new, sets)
    if new.tail is not old.tail:
        _change_tail(old, new, sets, pushes)
    if new.pages is not old.pages:
        _change_list("pages", old.pages, new.pages, sets, pushes)
    if new.keys is not old.keys:
        old_keys, new_keys = tuple(old.keys.values()), tuple(new.keys.values())
        _change_list("keys", old_keys, new_keys, sets, pushes)
    if pushes:
        update["$push"] = pushes
    if new.garbage is not old.garbage:
        sets["garbage"] = list(new.garbage)
    if new.record is not old.record:
        sets["record"] = new.record
    unset = _change_names(old, new, sets)
    if unset:
        update["$unset"] = dict.fromkeys(unset, "")
    return update


def _counters(head: Head) -> Document:
    return {
        "version": head.version,
        "last_seq": head.last_seq,
        "message_count": head.message_count,
        "updated_at": head.updated_at,
    }


def _rare_changes(old: Head, new: Head) -> Iterator[tuple[str, Any]]:
    before, after = _rare(old), _rare(new)
    if before != after:
        for name, former, value in zip(_RARE, before, after, strict=True):
            if value != former:
                yield name, value


def _added(new: Head) -> list[Document]:
    """Return what was added to a tail: it comes with its bodies, and what stays without."""
    count = 0
    for entry in reversed(new.tail):
        if entry.bodies is None:
            break
        count += 1
    return [msgspec.structs.asdict(entry) for entry in new.tail[len(new.tail) - count :]]


def _change_names(old: Head, new: Head, sets: Document) -> list[str]:
    """Return which fields go."""
    unset: list[str] = []
    if new.names is not old.names:
        sets.update(new.names)
        unset += old.names.keys() - new.names.keys()
    if "expires_at" in sets and new.expires_at is None:
        del sets["expires_at"]
        unset.append("expires_at")
    return unset


def _change_writers(old: Head, new: Head, sets: Document) -> None:
    if not old.writers.keys() <= new.writers.keys():
        sets["writers"] = new.writers
        return
    for writer, last in new.writers.items():
        if old.writers.get(writer) is not last:
            sets[f"writers.{writer}"] = last


def _change_tail(old: Head, new: Head, sets: Document, pushes: Document) -> None:
    if new.edition != old.edition or not new.tail:
        sets["tail"] = [msgspec.structs.asdict(entry) for entry in new.tail]
        return
    added = _added(new)
    push: Document = {"$each": added}
    if len(old.tail) + len(added) > len(new.tail):
        push["$slice"] = -len(new.tail)
    pushes["tail"] = push


def _change_list(
    name: str,
    old: tuple[msgspec.Struct, ...],
    new: tuple[msgspec.Struct, ...],
    sets: Document,
    pushes: Document,
) -> None:
    if old and new[: len(old)] == old:
        pushes[name] = {"$each": [msgspec.structs.asdict(each) for each in new[len(old) :]]}
    else:
        sets[name] = [msgspec.structs.asdict(each) for each in new]
