"""Finds what isn't right between sessions that branch, and repairs what can be repaired.

It works beside others that use the store. What it finds is looked at twice, and a repair changes a
record only if that is as it was found; so it neither reports nor undoes what others are about to
do. What may be the work of somebody who is at it still is left alone until it is a day old.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable

import msgspec

from asyncsessions.base import BaseSessionStore
from asyncsessions.errors import CorruptSessionError, SessionChangedError
from asyncsessions.hierarchy.examining import Examiner, Finding, Suspicion
from asyncsessions.hierarchy.lineage import Lineage
from asyncsessions.hierarchy.reading import Reader
from asyncsessions.hierarchy.records import Records
from asyncsessions.hierarchy.saved import TREE
from asyncsessions.hooks import SHARED

__all__ = ["Finding", "check_trees"]

# A store on files reads every file for each page, so pages are large.
_SESSIONS_PER_PAGE = 1000
_Key = tuple[str, str, str | None]


async def check_trees(
    store: BaseSessionStore, *, repair: bool = False, clock: Callable[[], float] | None = None
) -> list[Finding]:
    """Return what isn't right between the sessions of a store; nothing where all is well.

    Every session's record is read, and the messages of those that others read. Sessions that the
    store can't read at all are left out, as they are of its lists.

    Args:
        store: The store itself, not a `HierarchicalSessionStore` over it.
        repair: Whether to repair what can be repaired without harm.
        clock: Returns seconds since the epoch; the store's own by default.

    Raises:
        StoreUnavailableError: The server refused or was unreachable.
    """
    clock = clock or store.policy.clock
    kin = await _walk(store)
    suspects, first = await _examine(Examiner(store, clock(), kin), kin)
    # Others write meanwhile, and what looked wrong may have been half done.
    again = Examiner(store, clock())
    found = []
    for session_id in suspects:
        with contextlib.suppress(CorruptSessionError):
            found.append(await again.lineage(session_id))
    _, second = await _examine(again, filter(None, found))
    confirmed = [suspicion for key, suspicion in second.items() if key in first]
    confirmed = _without_needed(confirmed)
    if repair:
        confirmed = await _repair(store, confirmed)
    return [suspicion.finding for suspicion in confirmed]


async def _walk(store: BaseSessionStore) -> list[Lineage]:
    """Return all sessions that branch, or that others read."""
    seen: set[str] = set()
    kin: list[Lineage] = []
    found = True
    while found:
        # A session that is written meanwhile moves to the front of the list, past the cursor, so
        # the list is read again until it holds nothing new.
        found = False
        cursor: str | None = None
        while True:
            page = await store.list_sessions(_SESSIONS_PER_PAGE, cursor)
            for lineage in map(Lineage, page):
                if lineage.info.session_id not in seen:
                    found = True
                    seen.add(lineage.info.session_id)
                    if not lineage.info.metadata.keys().isdisjoint((TREE, SHARED)):
                        kin.append(lineage)
            cursor = page.next_cursor
            if cursor is None:
                break
    return kin


async def _examine(
    examiner: Examiner, lineages: Iterable[Lineage]
) -> tuple[list[str], dict[_Key, Suspicion]]:
    """Return whose examination led to suspicions, and these."""
    suspects: list[str] = []
    found: dict[_Key, Suspicion] = {}
    for lineage in lineages:
        count = 0
        async for suspicion in examiner.examine(lineage):
            count += 1
            known = found.get(suspicion.key)
            if known is None or known.weight < suspicion.weight:
                found[suspicion.key] = suspicion
        if count:
            suspects.append(lineage.info.session_id)
    return suspects, found


def _without_needed(suspicions: list[Suspicion]) -> list[Suspicion]:
    """Leave out that nobody reads a session where somebody does, unnoted."""
    needed = {each.finding.session_id for each in suspicions if each.finding.what == "unnoted"}
    return [
        each
        for each in suspicions
        if each.finding.what != "leftover" or each.finding.session_id not in needed
    ]


async def _repair(store: BaseSessionStore, suspicions: list[Suspicion]) -> list[Suspicion]:
    """Repair what can be repaired; return all, with what became of it."""
    by_session: dict[str, list[Suspicion]] = {}
    for suspicion in suspicions:
        if suspicion.finding.can_repair:
            by_session.setdefault(suspicion.finding.session_id, []).append(suspicion)
    repaired: set[_Key] = set()
    for session_id, each in by_session.items():
        repaired |= await _amend(store, session_id, each)
    unnoted = {each.key for each in suspicions if each.finding.what == "unnoted"}
    # As long as somebody's messages aren't kept for sure, nothing is removed.
    if unnoted <= repaired:
        records = Records(store, Reader(store))
        for session_id, each in by_session.items():
            repaired |= await _collect(store, records, session_id, each)
    return [
        suspicion._replace(finding=msgspec.structs.replace(suspicion.finding, is_repaired=True))
        if suspicion.key in repaired
        else suspicion
        for suspicion in suspicions
    ]


async def _amend(
    store: BaseSessionStore, session_id: str, suspicions: list[Suspicion]
) -> set[_Key]:
    """Change a session's record in one step; return what that repaired."""
    changes = [change for suspicion in suspicions for change in suspicion.fix]
    if not changes:
        return set()
    try:
        if await store.amend_session(session_id, changes) is None:
            return set()
    except SessionChangedError:
        return set()
    return {each.key for each in suspicions if each.fix}


async def _collect(
    store: BaseSessionStore, records: Records, session_id: str, suspicions: list[Suspicion]
) -> set[_Key]:
    """Remove a deleted session for good if nobody reads it; return what that repaired."""
    with contextlib.suppress(CorruptSessionError):
        await records.collect(session_id)
    remains = {each.key for each in suspicions if not each.fix}
    return remains if remains and await store.get_info(session_id) is None else set()
