"""Stores for the command line: empty ones, and ones with the sample sessions."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from tests.cli.helpers import DATA, good


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the caller's own settings out of the tests."""
    for name in ("ASYNCSESSIONS_STORE", "COLUMNS", "FORCE_COLOR", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)


# Where a test's own sessions are on a server that all share: a fixture, and what to add to its URL.
SERVERS = {
    "redis": ("redis_url", "?prefix={}"),
    "postgres": ("postgres_url", "?schema=cli_{}"),
    "mongo": ("mongo_url", "?prefix={}"),
}


@pytest.fixture(params=["jsonl", "json", *SERVERS])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return the URL of a store that is empty; its directory, if it has one, doesn't exist yet."""
    if request.param not in SERVERS:
        return f"{request.param}://{tmp_path / 'store'}"
    fixture, query = SERVERS[request.param]
    server: str = request.getfixturevalue(fixture)
    return server + query.format(hashlib.sha1(bytes(tmp_path)).hexdigest()[:12])


@pytest.fixture
def filled(url: str) -> str:
    """Return the URL of a store with the sample sessions."""
    good("import", DATA, "--store", url)
    return url


@pytest.fixture
def target(tmp_path: Path) -> str:
    """Return the URL of a store on files that doesn't exist yet."""
    return f"jsonl://{tmp_path / 'target'}"
