"""Stores for the command line: empty ones, and ones with the sample sessions."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.helpers import DATA, good


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the caller's own settings out of the tests."""
    for name in ("ASYNCSESSIONS_STORE", "COLUMNS", "FORCE_COLOR", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(params=["jsonl", "json"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return the URL of a store whose directory doesn't exist yet."""
    return f"{request.param}://{tmp_path / 'store'}"


@pytest.fixture
def filled(url: str) -> str:
    """Return the URL of a store with the sample sessions."""
    good("import", DATA, "--store", url)
    return url
