"""SQLiteSessionStore keeps every guarantee of a session store: `pytest test_sqlite_store.py`."""

from __future__ import annotations

from sqlite_store import SQLiteSessionStore

from asyncsessions.testing import HierarchyConformance, SharedStoreConformance


class TestSQLiteSessionStore(SharedStoreConformance, HierarchyConformance):
    def make_store(self, **options):
        return SQLiteSessionStore(str(self.tmp_path / "sessions.db"), **options)

    def store_factory(self):
        # What other processes import and call. A store that open_store knows defines store_url.
        return "sqlite_store:SQLiteSessionStore", [str(self.tmp_path / "sessions.db")]
