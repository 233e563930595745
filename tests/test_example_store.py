"""The store of the documentation keeps every guarantee, as its own test file says it."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

EXAMPLES = Path(__file__).parents[1] / "docs" / "examples"

# The suite hands this path to the other processes that it starts.
sys.path.append(str(EXAMPLES))

TestSQLiteSessionStore = import_module("test_sqlite_store").TestSQLiteSessionStore


def test_it_is_as_short_as_the_documentation_says() -> None:
    lines = (EXAMPLES / "sqlite_store.py").read_text(encoding="utf-8").splitlines()
    code = [line for line in lines if line.strip() and not line.lstrip().startswith(("#", '"""'))]

    assert len(code) <= 158
