"""The store of every agent in the process that has none of its own."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self
from weakref import WeakKeyDictionary, WeakSet

from asyncsessions.integrations._praisonai_checks import check_sync, import_package
from asyncsessions.integrations._praisonai_store import AgentStore

__all__ = ["DefaultStore", "use_as_default"]

# What was the default before each store that took its place, and which of these were taken back.
_before: WeakKeyDictionary[AgentStore, Any] = WeakKeyDictionary()
_restored: WeakSet[AgentStore] = WeakSet()


class DefaultStore:
    """A store that is PraisonAI's default, until `restore`.

    Args:
        module: The module that holds the default.
        store: What it is to hold.
    """

    def __init__(self, module: Any, store: AgentStore) -> None:
        self.store = store
        self._module = module
        _before[store] = module._default_store
        module._default_store = store

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.restore()

    def restore(self) -> None:
        """Give back the former default, and write the statistics that wait.

        Where somebody else has set another default meanwhile, that one stays. Agents that have
        talked keep the store that they have.
        """
        _restored.add(self.store)
        if self._module._default_store is self.store:
            self._module._default_store = _former(self.store)
        self.store.close()


def _former(store: AgentStore) -> Any:
    """Return what was the default before a store, and wasn't itself taken back meanwhile."""
    before = _before[store]
    while isinstance(before, AgentStore) and before in _restored:
        before = _before[before]
    return before


def use_as_default(store: Any) -> DefaultStore:
    """Let every agent of the process that has a session id use a store, and the tools as well.

    It takes the place of what ``praisonaiagents.session.get_default_session_store`` returns;
    statistics are coalesced as `AgentStore` says. The agents read and write it in their own way:
    only `attach` restores tool calls and stores the turns of ``achat``.

    Args:
        store: A sync store with PraisonAI's API, as this library's ``DefaultSessionStore``. It
            stays yours to close.

    Returns:
        What undoes it: its ``restore``, as the end of a ``with`` does.

    Raises:
        TypeError: It is no sync store; says what to give.
        ImportError: praisonaiagents isn't installed; says what to install.
    """
    check_sync(store, "use_as_default()")
    module = import_package("praisonaiagents.session.store", "use_as_default()")
    return DefaultStore(module, AgentStore(store))
