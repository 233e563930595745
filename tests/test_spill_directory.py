"""Where PraisonAI spills what it can't write."""

from __future__ import annotations

from pathlib import Path

import pytest

from asyncsessions.sync._original.spill import spill_directory


@pytest.mark.parametrize(
    ("environment", "existing", "expected"),
    [
        ({}, [], ".local/state/praisonai"),
        ({}, [".praison"], ".praison"),
        ({}, [".praison", ".praisonai"], ".praisonai"),
        ({"PRAISONAI_HOME": "~/p"}, [".praisonai"], "p"),
        ({"XDG_STATE_HOME": "{home}/x"}, [], "x/praisonai"),
        ({"XDG_STATE_HOME": "relative"}, [], ".local/state/praisonai"),
        ({"XDG_STATE_HOME": "{home}/x"}, [".praisonai"], ".praisonai"),
    ],
)
def test_the_directory_is_the_one_that_praisonai_uses(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    environment: dict[str, str],
    existing: list[str],
    expected: str,
) -> None:
    for name in ("PRAISONAI_HOME", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name, value in environment.items():
        monkeypatch.setenv(name, value.format(home=tmp_path))
    for name in existing:
        (tmp_path / name).mkdir()
    assert spill_directory() == tmp_path / expected / "state" / "session_spill"
