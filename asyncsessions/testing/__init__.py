"""The conformance suite: what every session store guarantees, as tests.

A store proves itself by subclassing once, in a test module::

    from asyncsessions.testing import SharedStoreConformance


    class TestMyStore(SharedStoreConformance):
        def make_store(self, **options):
            return MyStore(self.tmp_path / "data", **options)

        def store_url(self):
            return f"jsonl://{self.tmp_path / 'data'}"

`StoreConformance` is for a store whose data lives and dies with one object or process;
`SharedStoreConformance` adds what stores guarantee that several processes use at once, and
`DamageConformance` what they guarantee whose data can be damaged from outside.
`HierarchyConformance` is about what `HierarchicalSessionStore` guarantees over a store.

The suite needs pytest, pytest-asyncio and hypothesis, which this library's dependency group
``test`` has; the library itself needs none of them. It runs in pytest-asyncio's strict mode as
well as in its auto mode. A case that fails shows a store that breaks the contract: the case's
name says which part of it, and `asyncsessions.protocols` what it promises.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from asyncsessions.testing._cases import ManualClock
    from asyncsessions.testing.branching import HierarchyConformance
    from asyncsessions.testing.damaging import DamageConformance
    from asyncsessions.testing.sharing import SharedStoreConformance
    from asyncsessions.testing.suite import StoreConformance

__all__ = [
    "DamageConformance",
    "HierarchyConformance",
    "ManualClock",
    "SharedStoreConformance",
    "StoreConformance",
]

# Before the modules with the cases are imported, so that a failed assertion shows its values.
_MODULES = (
    "_model",
    "appending",
    "_branch_cases",
    "_branch_model",
    "branching",
    "branching_edges",
    "branching_interrupted",
    "branching_lineage",
    "branching_merges",
    "branching_properties",
    "branching_repeated",
    "branching_rewrites",
    "cancelling",
    "concurrency",
    "damaging",
    "expiring",
    "finding",
    "living",
    "moving",
    "processes",
    "properties",
    "reading",
    "recording",
    "refusing",
    "reopening",
    "rewriting",
)
pytest.register_assert_rewrite(*(f"{__name__}.{module}" for module in _MODULES))

# Imported when they are first used: the cases that hypothesis drives take its settings as they are
# then, and a `conftest.py` that imports `servers` has not yet loaded its profile.
_LAZY = {
    "DamageConformance": "damaging",
    "HierarchyConformance": "branching",
    "ManualClock": "_cases",
    "SharedStoreConformance": "sharing",
    "StoreConformance": "suite",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
