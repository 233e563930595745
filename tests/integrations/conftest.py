"""PraisonAI's agents on a scripted model; nothing here leaves the machine."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from blockbuster import blockbuster_ctx

from tests.integrations.model import Model

NewAgent = Callable[..., Any]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let agents leave connections to their model open; PraisonAI never closes them."""
    ignored = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(ignored)


@pytest.fixture(autouse=True)
def no_leftovers() -> Iterator[None]:
    """Collect what agents left open here rather than in a test of something else."""
    yield
    gc.collect()


@pytest.fixture(autouse=True)
def no_blocking_calls() -> Iterator[None]:
    """Fail a test in which the library blocks the event loop; what agents do below is theirs."""
    agents = "asyncsessions.integrations._praisonai_methods"
    excluded = ["asyncsessions.testing", agents]
    with blockbuster_ctx("asyncsessions", excluded_modules=excluded) as guard:
        for function in guard.functions.values():
            # It looks for certificates and passwords in the user's home before it connects.
            function.can_block_in("asyncpg/connect_utils.py", {"_parse_connect_dsn_and_args"})
            function.can_block_in("asyncsessions/sync/_bridge.py", {"pause", "stand"})
        yield


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
        given = {"name": "Ada", "model": "gpt-4o-mini", "tools": [add], "output": "silent"}
        return Agent(**(given | options))

    return make
