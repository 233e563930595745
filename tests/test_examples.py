"""What README and documentation show is run here, as it is shown."""

from __future__ import annotations

import importlib.util
import re
import runpy
from pathlib import Path
from types import ModuleType

import pytest
from fastapi.testclient import TestClient

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
EXAMPLES = DOCS / "examples"
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]

_FENCE = re.compile(r"^( *)```python[^\n]*\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)


def python_blocks(page: Path) -> list[str]:
    """Return the Python code of a page, without what it includes from a file."""
    blocks = [match[2] for match in _FENCE.finditer(page.read_text(encoding="utf-8"))]
    return [block for block in blocks if "--8<--" not in block]


def load(path: Path) -> ModuleType:
    """Return an example file as a module."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


BLOCKS = [
    pytest.param(block, id=f"{page.name}-{number}")
    for page in PAGES
    for number, block in enumerate(python_blocks(page), 1)
]


@pytest.fixture(autouse=True)
def working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_example_file_runs(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(EXAMPLES)  # As Python itself does for a script.
    runpy.run_path(str(path), run_name="__main__")


@pytest.mark.parametrize("block", BLOCKS)
def test_code_block_runs(block: str) -> None:
    exec(compile(block, "<code block>", "exec"), {"__name__": "__main__"})


def test_first_example_of_the_readme_has_ten_lines() -> None:
    first = python_blocks(ROOT / "README.md")[0]

    assert len(first.splitlines()) <= 10
    assert "asyncio.run(main())" in first


def test_first_example_of_the_readme_prints_the_history(
    capsys: pytest.CaptureFixture[str],
) -> None:
    exec(python_blocks(ROOT / "README.md")[0], {"__name__": "__main__"})

    assert capsys.readouterr().out == "[{'role': 'user', 'content': 'Hello'}]\n"


def test_readme_shows_the_fastapi_example() -> None:
    source = (EXAMPLES / "fastapi_app.py").read_text(encoding="utf-8")

    assert source in python_blocks(ROOT / "README.md")


def test_every_included_part_exists() -> None:
    included = [
        match
        for page in PAGES
        for match in re.findall(r'--8<-- "([^":]+):?([a-z]*)"', page.read_text(encoding="utf-8"))
    ]

    assert included
    for name, part in included:
        text = (DOCS / name).read_text(encoding="utf-8")
        assert not part or f"[start:{part}]" in text, f"{name} has no part {part}"


def test_session_file_is_what_the_store_writes(capsys: pytest.CaptureFixture[str]) -> None:
    """After a change of the format: ``python session_file.py > session_file.jsonl``."""
    runpy.run_path(str(EXAMPLES / "session_file.py"), run_name="__main__")

    expected = (EXAMPLES / "session_file.jsonl").read_text(encoding="utf-8")
    assert capsys.readouterr().out == expected


class TestFastAPIExample:
    """The example app, through its own start and stop."""

    @pytest.fixture
    def client(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TestClient:
        monkeypatch.setenv("SESSIONS_URL", f"jsonl://{tmp_path}/sessions")
        return TestClient(load(EXAMPLES / "fastapi_app.py").app)

    def test_posted_message_is_in_the_history(self, client: TestClient) -> None:
        with client:
            posted = client.post("/chats/ann:1/messages", json={"content": "Hello"})
            history = client.get("/chats/ann:1/messages")

        assert posted.status_code == 201
        assert posted.json()["seq"] == 1
        assert history.json() == [{"role": "user", "content": "Hello"}]

    def test_repeated_request_is_stored_once(self, client: TestClient) -> None:
        headers = {"Idempotency-Key": "k-1"}
        with client:
            first = client.post("/chats/a/messages", json={"content": "Hello"}, headers=headers)
            again = client.post("/chats/a/messages", json={"content": "Hello"}, headers=headers)
            history = client.get("/chats/a/messages")

        assert again.json() == first.json()
        assert len(history.json()) == 1

    def test_key_used_for_other_content_is_a_conflict(self, client: TestClient) -> None:
        headers = {"Idempotency-Key": "k-1"}
        with client:
            client.post("/chats/a/messages", json={"content": "Hello"}, headers=headers)
            other = client.post("/chats/a/messages", json={"content": "Bye"}, headers=headers)

        assert other.status_code == 409

    def test_id_that_is_too_long_is_refused(self, client: TestClient) -> None:
        with client:
            refused = client.post(f"/chats/{'x' * 600}/messages", json={"content": "Hello"})

        assert refused.status_code == 422

    def test_negative_limit_is_refused(self, client: TestClient) -> None:
        with client:
            refused = client.get("/chats/a/messages", params={"limit": -1})

        assert refused.status_code == 422

    def test_history_survives_a_restart(self, client: TestClient) -> None:
        with client:
            client.post("/chats/a/messages", json={"content": "Hello"})
        with TestClient(load(EXAMPLES / "fastapi_app.py").app) as restarted:
            history = restarted.get("/chats/a/messages", params={"limit": 1})

        assert history.json() == [{"role": "user", "content": "Hello"}]
