"""What PraisonAI's hooks for failures hear of, from its own store and from this library's."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from asyncsessions import sync

# PraisonAI's own imports warn.
pytestmark = [pytest.mark.interop, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(params=["theirs", "ours"])
def store(request: pytest.FixtureRequest, directory: Path) -> Any:
    if request.param == "ours":
        return sync.DefaultSessionStore(str(directory))
    theirs = importlib.import_module("praisonaiagents.session.store")
    return theirs.DefaultSessionStore(str(directory))


@pytest.fixture
def events(store: Any) -> Iterator[list[Any]]:
    """What a hook got that itself reads from the store."""
    registry = importlib.import_module("praisonaiagents.hooks.registry").get_default_registry()
    types = importlib.import_module("praisonaiagents.hooks.types")
    heard = []

    def hear(event: Any) -> Any:
        assert store.get_chat_history("another") == []
        heard.append(event)
        return types.HookResult.allow()

    hook = registry.register_function(types.HookEvent.SESSION_PERSIST_FAILED, hear)
    yield heard
    registry.unregister(hook)


def fields(event: Any) -> tuple[Any, ...]:
    return event.session_id, event.event_name, event.role, event.content, event.spilled


def test_a_damaged_document_is_reported_once(
    store: Any, events: list[Any], directory: Path
) -> None:
    (directory / "s.json").write_text("{no")
    assert store.add_message("s", "user", "x")
    assert store.get_chat_history("s") == [{"role": "user", "content": "x"}]
    (event,) = events
    assert fields(event) == ("s", "session_persist_failed", "", "", True)
    assert event.error.startswith("corrupt session file: ")
    assert Path(event.spill_path).read_text() == "{no"


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("list_sessions", ()),
        ("list_sessions_by_agent", ("a",)),
        ("list_sessions_by_gateway_agent", ("a",)),
        ("get_by_gateway_session", ("g",)),
        ("search", ("word",)),
        ("export_all", ()),
    ],
)
def test_a_look_at_all_sessions_reports_what_it_leaves_out(
    store: Any, events: list[Any], directory: Path, name: str, given: tuple[str, ...]
) -> None:
    store.add_message("s", "user", "x")
    (directory / "bad.json").write_text("{no")
    if name == "export_all":
        with pytest.raises(OSError, match=r"Incomplete session export: .*bad\.json"):
            store.export_all()
    else:
        getattr(store, name)(*given)
    (event,) = events
    assert fields(event) == ("bad", "session_persist_failed", "", "", False)
    assert event.spill_path is None
    assert (directory / "bad.json").exists()


def test_a_message_that_is_no_json_is_reported(store: Any, events: list[Any]) -> None:
    assert store.add_message("s", "user", "x", {"k": object()}) is False
    (event,) = events
    assert fields(event) == ("s", "session_persist_failed", "user", "x", False)


def test_a_spilled_message_is_reported(
    store: Any, events: list[Any], monkeypatch: pytest.MonkeyPatch, spills: Path
) -> None:
    def refuse(source: Any, target: Any) -> None:
        if str(target).endswith("s.json"):
            raise OSError(28, "No space left on device")
        replace(source, target)

    replace = os.replace
    assert store.add_message("s", "user", "1")
    assert events == []
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", refuse)
        assert store.add_message("s", "user", "2") is False
    (event,) = events
    assert fields(event) == ("s", "session_persist_failed", "user", "2", True)
    assert list(spills.iterdir()) == [Path(event.spill_path)]
    assert [each["content"] for each in store.get_chat_history("s")] == ["1", "2"]


def test_a_hook_that_fails_changes_nothing(store: Any, directory: Path) -> None:
    hooks = importlib.import_module("praisonaiagents.hooks")
    registry = importlib.import_module("praisonaiagents.hooks.registry").get_default_registry()
    event = hooks.HookEvent.SESSION_PERSIST_FAILED
    hook = registry.register_function(event, lambda given: given.nothing)
    try:
        (directory / "s.json").write_text("{no")
        assert store.add_message("s", "user", "x")
    finally:
        registry.unregister(hook)
