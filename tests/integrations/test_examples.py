"""What the documentation shows of agents and bots is run here."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from asyncsessions.sync import open_store
from asyncsessions.testing.timing import LONG_ENOUGH
from tests.integrations.model import Model, calls, says

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples" / "praisonai"


def start(name: str, url: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(EXAMPLES / f"{name}.py"), *arguments],
        env=os.environ | {"SESSIONS_URL": url},
        stdout=subprocess.PIPE,
        text=True,
    )


def output(process: subprocess.Popen[str]) -> list[str]:
    text, _ = process.communicate(timeout=LONG_ENOUGH)
    assert process.returncode == 0
    return text.splitlines()


@pytest.fixture(params=["json", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "json":
        return f"json://{tmp_path}/sessions"
    return str(request.getfixturevalue("postgres_url"))


def test_a_sync_agent_goes_on_where_it_stopped(model: Model, url: str) -> None:
    model.script += [calls(("c1", "add", {"a": 2, "b": 3})), says("5")]
    with open_store(url) as store:
        store.delete_session("ann@example.org")
    assert output(start("agent", url)) == ["5", "4 messages are stored"]
    assert output(start("agent", url))[1] == "6 messages are stored"
    assert [each["role"] for each in model.told()] == [
        "user",
        "assistant",
        "tool",
        "assistant",
        "user",
    ]


def test_async_agents_talk_at_the_same_time(model: Model, tmp_path: Path) -> None:
    lines = output(start("async_agent", f"json://{tmp_path}/sessions"))
    assert sorted(lines) == ["ann 2", "ann echo Hello", "bob 2", "bob echo Good evening"]


def test_every_agent_uses_the_store(model: Model, tmp_path: Path) -> None:
    lines = output(start("every_agent", f"json://{tmp_path}/sessions"))
    assert lines == ["['about-Ada', 'about-Bob']"]


def test_two_workers_of_a_bot_lose_nothing(model: Model, tmp_path: Path) -> None:
    url = f"json://{tmp_path}/sessions"
    said = [[f"{worker}-{number}" for number in range(5)] for worker in "ab"]
    workers = [start("bot", url, *texts) for texts in said]
    assert [output(worker) for worker in workers] == [
        [f"echo {text}" for text in texts] for texts in said
    ]
    with open_store(url) as store:
        history = [each["content"] for each in store.get_chat_history("bot_telegram_ann")]
    assert len(history) == 20
    for texts in said:
        assert [text for text in history if text in texts] == texts
    assert history[1::2] == [f"echo {text}" for text in history[::2]]
