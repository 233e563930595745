"""One async store for all sync stores of a process that are on the same directory."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Hashable

from asyncsessions.protocols import SessionStore
from asyncsessions.sync._bridge import LoopThread
from asyncsessions.sync._original.methods import Original

__all__ = ["Lease", "shared_lease"]


class Lease:
    """The right to use a store, as long as somebody holds this; then the store is closed.

    Args:
        thread: Where the store runs.
        store: The store.
        original: What is on top of it.
    """

    def __init__(self, thread: LoopThread, store: SessionStore, original: Original) -> None:
        self.store = store
        self.original = original
        thread.hold(store, self)


_leases: weakref.WeakValueDictionary[Hashable, Lease] = weakref.WeakValueDictionary()


def shared_lease(
    thread: LoopThread, key: Hashable | None, make: Callable[[], tuple[SessionStore, Original]]
) -> Lease:
    """Return the lease that others of this key have, or a new one.

    Args:
        thread: Where the store is to run.
        key: Says which directory and options; None shares nothing.
        make: Makes the store that isn't there yet. Where two threads come at once there may be
            two of them, which share the files but no group commits.
    """
    if key is None:
        return Lease(thread, *make())
    found = _leases.get((thread, key))
    return found or _leases.setdefault((thread, key), Lease(thread, *make()))
