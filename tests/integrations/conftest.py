"""PraisonAI's agents on a scripted model; nothing here leaves the machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integrations.model import Model

NewAgent = Callable[..., Any]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of PraisonAI's own, so that no file of the machine is touched."""
    monkeypatch.setenv("PRAISONAI_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PRAISONAI_TELEMETRY_DISABLED", "true")
    monkeypatch.setenv("DO_NOT_TRACK", "true")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "home"


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Iterator[Model]:
    with Model() as model:
        monkeypatch.setenv("OPENAI_API_KEY", "none")
        monkeypatch.setenv("OPENAI_BASE_URL", model.url)
        yield model


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@pytest.fixture
def new_agent(model: Model) -> NewAgent:
    """Make agents that talk to the scripted model."""
    from praisonaiagents import Agent

    def make(**options: Any) -> Any:
        given = {"name": "Ada", "llm": "gpt-4o-mini", "tools": [add], "output": "silent"}
        return Agent(**(given | options))

    return make
