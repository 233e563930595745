"""The update that makes one version of a session's document in MongoDB into the next."""

from __future__ import annotations

import msgspec

from asyncsessions.stores._mongo_database import Document
from asyncsessions.stores._mongo_session import Head

__all__ = ["update_between"]

_COUNTERS = ("version", "last_seq", "message_count", "updated_at")
_RARE = ("volume", "edition", "created_at", "first_seq", "expires_at", "has_old_keys")


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


def _changes(old: Head, new: Head) -> Document:
    sets: Document = {name: getattr(new, name) for name in _COUNTERS}
    update: Document = {"$set": sets}
    for name in _RARE:
        value = getattr(new, name)
        if value != getattr(old, name):
            sets[name] = value
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
    # What was added comes with its bodies; what stays is known without.
    added = [msgspec.structs.asdict(entry) for entry in new.tail if entry.bodies is not None]
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
