"""PraisonAI's `DefaultSessionStore` and this library's: the same calls, and one directory."""

from __future__ import annotations

import copy
import dataclasses
import importlib
import inspect
import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from asyncsessions import sync

# PraisonAI's own imports warn.
pytestmark = [pytest.mark.interop, pytest.mark.filterwarnings("ignore")]

SECONDS = 60
CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?\+00:00")
# What is raised is told apart as far as a caller of the original can.
KINDS = (OSError, TypeError, ValueError, AttributeError)

Step = tuple[str, tuple[Any, ...], dict[str, Any]]


def call(name: str, *args: Any, **kwargs: Any) -> Step:
    return name, args, kwargs


def file(name: str, content: Any) -> Step:
    """Put a file into the directory, as another program would."""
    text = content if isinstance(content, str) else json.dumps(content)
    return "", (name, text), {}


def say(*roles: str) -> list[Step]:
    return [
        call(
            "add_message",
            "s",
            role,
            f"m{number}",
            None,
            [CALL] if role == "assistant" else None,
            "c" if role == "tool" else None,
        )
        for number, role in enumerate(roles)
    ]


def talk(*texts: str, step: float = 600.0) -> list[dict[str, Any]]:
    roles = ["user", "assistant"] * len(texts)
    return [
        {"role": role, "content": text, "timestamp": 1.7e9 + place * step}
        for place, (role, text) in enumerate(zip(roles, texts, strict=False))
    ]


LOOK = [call("get_session", "s"), call("get_chat_history", "s"), call("get_working_history", "s")]

MESSAGES = [
    *(call(name, "s") for name in ("session_exists", "get_chat_history", "get_session")),
    call("session_exists", "s"),
    call("add_message", "s", "user", "Hi"),
    call("add_user_message", "s", "a", {"k": 1}),
    call("add_assistant_message", "s", "b"),
    call("add_message", "s", "assistant", None, None, [CALL]),
    call("add_message", "s", "tool", "4", None, None, "c"),
    call("add_message", "s", "tool", "5", tool_call_id="c", tool_calls=[]),
    call("add_message", "s", "user", [{"type": "text", "text": "x"}]),
    call("add_message", "s", "user", {"a": 1}),
    call("add_message", "s", "user", 5),
    call("add_message", "s", "", "no role"),
    call("add_message", "s", "user", "bad", {"x": {1, 2}}),
    call("add_message", "s", "user", "key", {1: (1, 2)}),
    call("add_message", "s", "user", "lone \ud800"),
    call("add_message", "s", "user", "ü \u2028 \x00 群"),
    *(call("get_chat_history", "s", limit) for limit in (None, 0, -1, 1, 3, 7, 8, 9, 99)),
    *(call("get_working_history", "s", limit) for limit in (None, 0, -3, 1, 2, 8)),
    *LOOK,
    call("window", "s"),
    *(call("window", "s", anchor, window=1) for anchor in ("2", "bad", 99, "-4", "")),
    call("window", "nobody"),
    *(call("list_sessions", limit) for limit in (50, 0, None)),
    *(call("recent", limit=limit) for limit in (10, 0)),
    call("clear_session", "s"),
    *LOOK,
    call("clear_session", "new"),
    call("session_exists", "new"),
    call("delete_session", "s"),
    call("delete_session", "s"),
    call("session_exists", "s"),
    *LOOK,
    call("invalidate_cache"),
    call("invalidate_cache", "s"),
    call("flush_mirror"),
    call("close_mirror"),
]

IDS = [
    *(
        call(name, session_id)
        for name in ("get_chat_history", "session_exists", "clear_session")
        for session_id in (None, 5)
    ),
    *(call("add_message", name, "user", "x") for name in ("a/b", "../up", "群", "A-b_9")),
    call("get_chat_history", "../up"),
    call("list_sessions"),
]

RECORD = [
    call("set_agent_info", "s"),
    call("set_agent_info", "s", "Bot", "u"),
    call("set_agent_info", "s", "", None),
    call("set_gateway_info", "s", "gw", "agent"),
    call("set_gateway_info", "s"),
    call("update_session_metadata", "s"),
    call("update_session_metadata", "q"),
    call("session_exists", "q"),
    call("update_session_metadata", "q", x=None),
    call("session_exists", "q"),
    call("update_session_metadata", "s", model="m", total_tokens=5, cost=0.5, source="chat"),
    call("update_session_metadata", "s", agent_id="A", agent_name="N", user_id="U"),
    call("update_session_metadata", "s", deep={"a": [1, (2, 3)], 1: 2}, parent_id="P", none=None),
    call("update_session_metadata", "s", bad={1}),
    call("get_session", "s"),
    *(call("get_session_model", name) for name in ("s", "nobody")),
    *(call("get_session_reasoning_effort", name) for name in ("s", "nobody")),
    call("merge_session_metadata_map", "s", "m", {"a": 1}),
    call("merge_session_metadata_map", "s", "m", {"b": 2}, defaults={"a": 9, "c": 3}),
    call("merge_session_metadata_map", "s", "m", {}),
    call("merge_session_metadata_map", "t", "m", {}),
    call("merge_session_metadata_map", "s", "model", {"x": 1}),
    *(call("get_session", name) for name in "st"),
    *(call("rename_session", "s", title) for title in ("  Title ", "  ", None, "T")),
    call("rename_session", "new", ""),
    call("session_exists", "new"),
    call("list_sessions"),
    *(call("list_sessions_by_agent", "N", limit) for limit in (50, 0)),
    call("get_sessions_by_agent", "N"),
    call("get_agent_chat_history", "N"),
    *(call("get_by_gateway_session", name) for name in ("gw", "nobody")),
    *(call("list_sessions_by_gateway_agent", name) for name in ("A", "agent")),
    call("add_message", "s", "user", "x", {"model": "mm", "reasoning_effort": "low"}),
    call("get_session_model", "s"),
    call("get_session_reasoning_effort", "s"),
    call("get_agent_chat_history", "N", 1, 1),
    call("update_session_metadata", "y", llm="L"),
    call("get_session_model", "y"),
    call("list_sessions"),
]

PARTIAL = [
    call("upsert_partial_assistant_message", "s", "", finalize=True),
    call("discard_partial_assistant_message", "s"),
    call("session_exists", "s"),
    *(call("upsert_partial_assistant_message", "s", text) for text in ("He", "Hello", "")),
    call("upsert_partial_assistant_message", "s", "Hello!", finalize=True),
    call("upsert_partial_assistant_message", "s", "again", finalize=True),
    *LOOK,
    call("upsert_partial_assistant_message", "s", "p"),
    call("add_message", "s", "user", "u"),
    call("upsert_partial_assistant_message", "s", "p2"),
    *LOOK,
    call("discard_partial_assistant_message", "s"),
    call("discard_partial_assistant_message", "s"),
    call("upsert_partial_assistant_message", "s", "z"),
    call("upsert_partial_assistant_message", "s", "", finalize=True),
    *LOOK,
]

HISTORY = [
    call(
        "set_chat_history",
        "s",
        [
            {"role": "user", "content": "a"},
            {"content": None},
            {"content": "", "timestamp": 12.5, "metadata": {"k": 1}, "tool_calls": [CALL], "x": 1},
            {"role": "tool", "content": "r", "metadata": None, "timestamp": "2026-01-01T00:00:00"},
        ],
    ),
    *LOOK,
    *(call("append_compaction_checkpoint", "s", summary) for summary in ("", "  ", None)),
    call("append_compaction_checkpoint", "s", "S", tokens_before=9, metadata={"a": 1}, role="user"),
    *say("user", "tool", "user"),
    *(call("get_working_history", "s", limit) for limit in (None, 1, 2, 3, 4, 9)),
    call("get_session", "s"),
    call("set_chat_history", "s", ["no dict"]),
    call("set_chat_history", "s", [{"content": "x", "metadata": {"b": {1}}}]),
    *LOOK,
    call("set_chat_history", "s", []),
    *LOOK,
    call("append_compaction_checkpoint", "new", "S"),
    call("get_session", "new"),
]

RETENTION = [
    *say(*["user", "assistant"] * 6),
    *LOOK,
    call("window", "s", "3", window=2),
    call("list_sessions"),
    call("append_compaction_checkpoint", "s", "S"),
    call("add_message", "s", "user", "after"),
    *LOOK,
    call("update_session_metadata", "s", x=1),
    *LOOK,
    call("set_chat_history", "s", talk(*"abcdefghi")),
    *LOOK,
    call("clear_session", "s"),
    *LOOK,
    call("export_session", "s"),
]

TOOLS = [*say("user", "assistant", "tool", "tool", "user", "assistant", "tool", "user"), *LOOK]

RUNTIME = [
    call("set_runtime_state", "s", "r", "t", {"a": [1]}, False),
    call("session_exists", "s"),
    call("set_runtime_state", "s", "r", "t", {"a": [1]}),
    call("set_runtime_state", "s", "r", "t2", {"b": (1, 2)}),
    call("set_runtime_state", "s", "q", "t", {}),
    call("set_runtime_state", "s", "r", "t3", {"b": {1}}),
    *(call("get_runtime_state", "s", name) for name in "rqx"),
    *(call("get_runtime_state", "s", "r", turn) for turn in ("t", "nothing")),
    call("get_runtime_state", "nobody", "r", "t"),
    call("clear_runtime_state", "s", "r"),
    call("get_session", "s"),
    call("clear_runtime_state", "s"),
    call("get_session", "s"),
    call("clear_runtime_state", "new"),
    call("session_exists", "new"),
]

SEARCH = [
    call("set_chat_history", "a", talk("billing migration plan", "ok", "the BILLING part")),
    call("set_chat_history", "b", talk("billing", "x", "y", "z", step=1.0)),
    call("set_chat_history", "c", talk("nothing here")),
    call("set_chat_history", "d", talk("a " * 200 + "migration " + "b " * 200, "q")),
    call("set_chat_history", "e", talk("billing one")),
    call("set_chat_history", "f", talk("billing two billing migration")),
    call("set_agent_info", "a", "Bot"),
    call("rename_session", "d", "D title"),
    call("update_session_metadata", "b", source="cron"),
    *(call("update_session_metadata", name, lineage_id="L") for name in "ef"),
    *(call("search", query) for query in ("billing migration", "BILLING", "", "  ", None, "zzz")),
    *(call("search", "migration", limit=limit) for limit in (0, 1, 9)),
    *(call("search", "billing", window=window) for window in (0, 1)),
    *(call("export_session", "e", include_lineage=lineage) for lineage in (True, False)),
    call("export_session", "nobody"),
]

FULL = {
    "session_id": "i",
    "messages": [
        {"role": "user", "content": "x", "timestamp": 1.0, "k": 1},
        5,
        {"content": {"a": 1}, "timestamp": 2.0},
    ],
    "archived_messages": [{"role": "user", "content": "old", "timestamp": 0.5}],
    "gateway_session_id": "g",
    "agent_id": "A",
    "metadata": {"agent_id": "A", "z": 1},
    "created_at": "2020-01-01T00:00:00+00:00",
    "runtime_state": {"r": {"t": {}}},
    "last_compaction": {"summary": "S", "message_index": 2, "timestamp": 3.0},
    "model": "m",
    "unknown": 3,
}

IMPORT = [
    *(call("import_sessions", payload) for payload in (None, {}, {"sessions": 5})),
    call("import_sessions", {"version": 2, "sessions": []}),
    call("import_sessions", {"version": "2", "sessions": [{"session_id": "v"}]}),
    call("import_sessions", {"version": 1, "sessions": [FULL, 7, {}, {"session_id": " "}, FULL]}),
    call("get_session", "i"),
    call("import_sessions", {"sessions": [FULL]}),
    call("import_sessions", {"sessions": [FULL]}, overwrite=True, reset_live_fields=False),
    call("get_session", "i"),
    call("import_sessions", {"sessions": [{"session_id": n} for n in "klm"]}, max_sessions=2),
    call("import_sessions", {"sessions": [{"session_id": "s", "messages": talk(*"x" * 130)}]}),
    *LOOK,
    call("export_session", "s"),
    call("add_message", "s", "user", "x"),
    *LOOK,
]

OLD = {
    "session_id": "old",
    "messages": [
        {"role": "user", "content": "x", "timestamp": 1.0, "metadata": {}},
        {"role": "user", "content": "y", "timestamp": "2026-01-01T00:00:00", "metadata": {}},
    ],
    "model": "M",
    "total_tokens": 7,
    "created_at": "2026-01-01T00:00:00",
    "updated_at": "2026-01-01T00:00:00",
    "last_compaction": {"summary": "S", "message_index": 1, "timestamp": 3.0},
}

FILES = [
    file("bad.json", "{no"),
    call("list_sessions"),
    call("get_chat_history", "bad"),
    file("s.json", ""),
    call("list_sessions"),
    call("add_message", "s", "user", "x"),
    *LOOK,
    file("old.json", OLD),
    call("get_session", "old"),
    call("get_session_model", "old"),
    call("get_working_history", "old"),
    call("list_sessions"),
    call("add_message", "old", "user", "z"),
    call("get_session", "old"),
    file("bad.json", "{no"),
    call("export_all"),
    call("session_exists", "bad"),
    call("delete_session", "bad"),
    call("session_exists", "bad"),
]

SCRIPTS: dict[str, tuple[dict[str, Any], list[Step]]] = {
    "messages": ({}, MESSAGES),
    "ids": ({}, IDS),
    "record": ({}, RECORD),
    "partial": ({}, PARTIAL),
    "history": ({}, HISTORY),
    "compact": ({"active_window": 5}, RETENTION),
    "compact with tools": ({"active_window": 3}, TOOLS),
    "truncate": ({"max_messages": 4}, RETENTION),
    "truncate with tools": ({"max_messages": 4}, TOOLS),
    "keep all": ({"max_messages": 4, "retention": "keep_all"}, RETENTION),
    "no window": ({"active_window": 0}, RETENTION),
    "runtime state": ({}, RUNTIME),
    "search": ({}, SEARCH),
    "import": ({}, IMPORT),
    "files": ({}, FILES),
}


def original(name: str) -> Any:
    return getattr(importlib.import_module("praisonaiagents.session.store"), name)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Its spill and state files must not meet those of the machine.
    monkeypatch.setenv("PRAISONAI_HOME", str(tmp_path / "home"))


def normal(value: Any) -> Any:
    """Return a value as JSON, with what differs between two runs made the same."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        return [type(value).__name__, normal(fields)]
    if isinstance(value, dict):
        return {key: normal(item) for key, item in value.items() if key != "asyncsessions"}
    if isinstance(value, list | tuple):
        return [normal(item) for item in value]
    if isinstance(value, float) and value > 1.75e9:
        return "now"
    if isinstance(value, str):
        # Only its text differs: the original's grows with each message.
        is_summary = value.startswith("[Session Summary]\n")
        return "a summary" if is_summary else TIME.sub("now", value)
    return value


def result(store: Any, step: Step) -> Any:
    name, args, kwargs = copy.deepcopy(step)
    try:
        return normal(getattr(store, name)(*args, **kwargs))
    except KINDS as exc:
        return [kind.__name__ for kind in KINDS if isinstance(exc, kind)]


def documents(directory: Path) -> dict[str, Any]:
    found = {}
    for path in sorted(directory.glob("*.json*")):
        name = re.sub(r"\d{13}", "now", path.name)
        text = path.read_text()
        if path.suffix == ".json" and text.endswith("}"):
            data = json.loads(text)
            assert text in {json.dumps(data, indent=2, ensure_ascii=False), json.dumps(data)}
            found[name] = (normal(data), list(data))
        elif not name.endswith(".lock"):
            found[name] = (text, [])
    return found


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_same_calls_have_the_same_results(tmp_path: Path, name: str) -> None:
    options, steps = SCRIPTS[name]
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    stores = (
        original("DefaultSessionStore")(str(theirs), **options),
        sync.DefaultSessionStore(str(ours), **options),
    )
    for number, step in enumerate(steps):
        if not step[0]:
            for directory in (theirs, ours):
                (directory / step[1][0]).write_text(step[1][1])
            continue
        expected, got = (result(store, step) for store in stores)
        assert got == expected, f"step {number}: {step}"
        assert documents(ours) == documents(theirs), f"after step {number}: {step}"


@pytest.mark.parametrize(
    "name",
    [
        "SessionStoreProtocol",
        "IncrementalSessionStoreProtocol",
        "PortableSessionStoreProtocol",
        "SearchableSessionStoreProtocol",
        "RuntimeStateMirroringProtocol",
    ],
)
def test_it_is_one_of_the_originals_protocols(tmp_path: Path, name: str) -> None:
    protocols = importlib.import_module("praisonaiagents.session.protocols")
    store = sync.DefaultSessionStore(str(tmp_path))
    assert isinstance(store, getattr(protocols, name))


def public_methods(kind: type[Any]) -> dict[str, inspect.Signature]:
    methods = inspect.getmembers(kind, inspect.isfunction)
    return {
        name: inspect.signature(method)
        for name, method in methods
        if not name.startswith("_") or name == "__init__"
    }


def test_every_method_takes_what_the_originals_takes() -> None:
    ours = public_methods(sync.DefaultSessionStore)
    for name, theirs in public_methods(original("DefaultSessionStore")).items():
        parameters = list(ours[name].parameters.values())
        for expected, got in zip(theirs.parameters.values(), parameters, strict=False):
            assert (got.name, got.kind, got.default) == (
                expected.name,
                expected.kind,
                expected.default,
            ), name
        extra = parameters[len(theirs.parameters) :]
        assert len(parameters) >= len(theirs.parameters), name
        assert all(each.kind is each.KEYWORD_ONLY for each in extra), name


@pytest.mark.parametrize("name", ["SessionData", "SessionMessage", "CompactionCheckpoint"])
def test_every_record_has_the_originals_members(name: str) -> None:
    theirs, ours = original(name), getattr(sync, name)
    fields = [[field.name for field in dataclasses.fields(kind)] for kind in (ours, theirs)]
    assert fields[0] == fields[1]
    assert public_methods(theirs).keys() <= public_methods(ours).keys()


def test_attributes_and_constants_are_the_originals(tmp_path: Path) -> None:
    theirs = original("DefaultSessionStore")(str(tmp_path / "theirs"), 7)
    ours = sync.DefaultSessionStore(str(tmp_path / "ours"), 7)
    names = [name for name in vars(theirs) if not name.startswith("_")]
    names += [name for name in vars(type(theirs)) if name.isupper() and not name.startswith("_")]
    assert {"retention", "active_window", "BOOKEND_SIZE", "PORTABLE_VERSION"} <= set(names)
    for name in set(names) - {"session_dir"}:
        assert getattr(ours, name) == getattr(theirs, name), name


def test_the_module_has_the_originals_public_names() -> None:
    theirs = importlib.import_module("praisonaiagents.session.store")
    names = [name for name in vars(theirs) if name.isupper() and not name.startswith("_")]
    assert {"DEFAULT_MAX_MESSAGES", "RETENTION_COMPACT"} <= set(names)
    for name in names:
        for ours in (sync, sync.default):
            assert getattr(ours, name) == getattr(theirs, name), name
    for name, member in vars(theirs).items():
        if getattr(member, "__module__", "") == theirs.__name__ and not name.startswith("_"):
            assert hasattr(sync, name)
            assert hasattr(sync.default, name)
    assert theirs.DEFAULT_SESSION_DIR == sync.DEFAULT_SESSION_DIR


def test_the_default_directory_is_the_originals() -> None:
    paths = importlib.import_module("praisonaiagents.paths")
    assert sync.DefaultSessionStore().session_dir == str(paths.get_sessions_dir())
    assert sync.get_default_session_store().session_dir == str(paths.get_sessions_dir())


# In one directory at the same time.

WRITER = """
import sys
from praisonaiagents.session.store import DefaultSessionStore
store = DefaultSessionStore(sys.argv[1], lock_timeout=60)
print("ready", flush=True)
sys.stdin.readline()
for number in range(int(sys.argv[3])):
    assert store.add_message("s", "user", f"{sys.argv[2]}-{number}")
    assert store.update_session_metadata("s", **{f"{sys.argv[2]}-{number}": number})
"""


def started(directory: Path, name: str, count: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WRITER, str(directory), name, str(count)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


@pytest.fixture
def writers(tmp_path: Path) -> Iterator[list[subprocess.Popen[str]]]:
    processes = [started(tmp_path / "sessions", f"their{n}", 15) for n in range(2)]
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def test_processes_of_the_original_and_threads_lose_nothing(
    tmp_path: Path, writers: list[subprocess.Popen[str]]
) -> None:
    directory = tmp_path / "sessions"
    store = sync.DefaultSessionStore(str(directory), lock_timeout=60)

    def work(name: str) -> None:
        for number in range(15):
            assert store.add_message("s", "user", f"{name}-{number}")
            assert store.update_session_metadata("s", **{f"{name}-{number}": number})

    names = ["their0", "their1", *(f"our{n}" for n in range(6))]
    threads = [threading.Thread(target=work, args=(name,)) for name in names[2:]]
    for process in writers:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in writers:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS)
    for process in writers:
        assert process.wait(SECONDS) == 0
    expected = {f"{name}-{number}" for name in names for number in range(15)}
    for other in (store, original("DefaultSessionStore")(str(directory))):
        session = other.get_session("s")
        said = [each.content for each in session.archived_messages + session.messages]
        texts = [text for text in said if not text.startswith("[Session Summary]")]
        assert sorted(texts) == sorted(expected)
        assert expected <= session.metadata.keys()
