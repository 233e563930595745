"""What the tests beside PraisonAI share."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory of sessions; PraisonAI's other files don't meet those of the machine."""
    monkeypatch.setenv("PRAISONAI_HOME", str(tmp_path / "home"))
    (tmp_path / "sessions").mkdir()
    return tmp_path / "sessions"


@pytest.fixture
def spills(tmp_path: Path) -> Path:
    """Where PraisonAI spills in these tests; made when it first does."""
    return tmp_path / "home" / "state" / "session_spill"
