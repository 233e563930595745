"""The suite for a store that several objects and processes use at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from asyncsessions.testing.processes import ProcessCases
from asyncsessions.testing.reopening import ReopenCases, TwoStoreCases
from asyncsessions.testing.suite import StoreConformance

__all__ = ["SharedStoreConformance"]


class SharedStoreConformance(StoreConformance, TwoStoreCases, ReopenCases, ProcessCases):
    """Every guarantee of `StoreConformance`, and those for stores that processes share.

    Define `make_store`, whose stores reach the same data when it is called again in a test, and
    `store_url`, which tells other processes where that is. Where `open_store` doesn't know the
    store, define `store_factory` instead of `store_url`.
    """

    def store_url(self) -> str:
        """Return the URL with which `open_store` opens this test's store elsewhere."""
        raise NotImplementedError(f"{type(self).__name__} has to define store_url()")

    def store_factory(self) -> tuple[str, Sequence[Any]]:
        """Return what other processes call to make a store over this test's place.

        Returns:
            ``module:function`` to import, and its arguments, which must be JSON. It is imported
            with this process's ``sys.path``.
        """
        return "asyncsessions:open_store", (self.store_url(),)
