"""``ls``, ``show``, ``search``, ``add``, ``rm``, ``stats``; errors and exit codes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from asyncsessions import BaseSessionStore, Message, __version__
from asyncsessions.cli.common import store_directory
from asyncsessions.testing.timing import LONG_ENOUGH
from tests.cli.helpers import DATA, bad, call, good, with_store

COMMAND = [sys.executable, "-m", "asyncsessions"]
ENVIRONMENT = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


def test_ls_shows_sessions_last_written_first(filled: str) -> None:
    good("add", "cafe-2", "user", "Danke", "--store", filled)

    lines = good("ls", "--store", filled).out.splitlines()

    assert lines[0].split()[:3] == ["SESSION", "MESSAGES", "UPDATED"]
    assert len(lines) == 7
    assert lines[1].split()[:2] == ["cafe-2", "3"]
    assert any("群/7: Änne@example.com" in line for line in lines)
    assert any("Vision bot" in line for line in lines)


def test_ls_pages_with_a_cursor(filled: str) -> None:
    seen: list[str] = []
    cursor: list[str] = []
    while True:
        page = good("ls", "--store", filled, "--limit", 4, "--json", *cursor).json
        seen += [session["session_id"] for session in page["sessions"]]
        if page["next_cursor"] is None:
            break
        cursor = ["--cursor", page["next_cursor"]]

    assert len(seen) == len(set(seen)) == 6


def test_ls_tells_how_to_go_on(filled: str) -> None:
    result = call("ls", "--store", filled, "--limit", "2")

    assert result.code == 0
    assert result.err.startswith("more: add --cursor ")


@pytest.mark.parametrize(
    "option", [("--agent", "Vision bot"), ("--user", "ann")], ids=["agent", "user"]
)
def test_ls_filters(filled: str, option: tuple[str, str]) -> None:
    page = good("ls", "--store", filled, "--json", *option).json

    assert [session["session_id"] for session in page["sessions"]] == ["parts"]


def test_show_prints_a_readable_transcript(filled: str) -> None:
    out = good("show", "cafe-1", "--store", filled).out

    assert out.splitlines()[0] == "cafe-1"
    assert out.splitlines()[3:] == [
        "1 user      Two flat whites to go, please",
        '2 assistant → add_order_item(item="flat-white", quantity=2)',
        '3 tool      ← add_order_item: {"order_id":"7","total":6.4}',
        "4 assistant That is 6.40. Anything else?",
        "5 user      no",
    ]


def test_show_copes_with_lists_empty_content_and_broken_arguments(filled: str) -> None:
    parts = good("show", "parts", "--store", filled).out
    assert "1 user      (ann) What is on this picture?" in parts
    assert "            It leans on a wall." in parts

    other = good("show", "群/7: Änne@example.com", "--store", filled).out
    assert "            → get_clock(not json)" in other
    assert "4 tool      ← get_clock: 9:15" in other
    assert "5 assistant (empty)" in other


def test_show_copes_with_what_is_nested_too_deep_to_parse(tmp_path: Path) -> None:
    url = f"jsonl://{tmp_path}"
    # From what any parser takes to what none does.
    deep = [depth * "[" + depth * "]" for depth in (*range(800, 1000, 3), 100_000)]
    results = [Message("tool", text) for text in deep]
    functions = [{"function": {"name": "f", "arguments": text}} for text in deep]
    calls = Message("assistant", tool_calls=functions)
    with_store(url, lambda store: store.append("deep", [*results, calls]))

    lines = good("show", "deep", "--store", url).out.splitlines()[3:]

    assert len(lines) == 2 * len(deep)
    assert all(line.endswith((200 * "[" + "…", 200 * "[" + "…)")) for line in lines)
    assert good("show", "deep", "--store", url, "--full").out.count("[") == 2 * sum(
        text.count("[") for text in deep
    )


def test_show_wraps_to_the_width(filled: str, monkeypatch: pytest.MonkeyPatch) -> None:
    good("add", "long", "user", "many words " * 40, "--store", filled)
    monkeypatch.setenv("COLUMNS", "60")

    lines = good("show", "long", "--store", filled).out.splitlines()

    assert max(map(len, lines)) <= 60
    assert all(line.startswith(" " * 12) for line in lines[4:])


def test_show_shortens_results_unless_asked_not_to(filled: str) -> None:
    good("add", "long", "tool", "x" * 500, "--store", filled, "--tool-call-id", "c")

    assert "x" * 201 not in good("show", "long", "--store", filled).out
    assert "x" * 500 in good("show", "long", "--store", filled, "--full").out


def test_show_limits_to_the_newest(filled: str) -> None:
    shown = good("show", "cafe-1", "--store", filled, "--limit", 2).out
    assert shown.splitlines()[3:] == [
        "4 assistant That is 6.40. Anything else?",
        "5 user      no",
    ]
    data = good("show", "cafe-1", "--store", filled, "--limit", 2, "--json").json
    assert [message["seq"] for message in data["messages"]] == [4, 5]
    assert good("show", "cafe-1", "--store", filled, "--limit", 0, "--json").json["messages"] == []


def test_content_cannot_steer_the_terminal(filled: str) -> None:
    good("add", "evil\x1b[2J", "user", "\x1b]0;title\x07 \u202eabc", "--store", filled)

    for command in (["ls"], ["show", "evil\x1b[2J"], ["search", "title"]):
        out = good(*command, "--store", filled).out
        assert not {"\x1b", "\x07", "\u202e"} & set(out)
        assert "evil\\x1b[2J" in out


def test_search_finds_the_best_message(filled: str) -> None:
    out = good("search", "train ghent", "--store", filled).out
    assert out.startswith("train-3  message 2 · ")
    assert "When does the next train to Ghent leave?" in out

    hits = good("search", "train ghent", "--store", filled, "--window", 1, "--json").json
    assert [(hit["session_id"], hit["seq"]) for hit in hits] == [("train-3", 2)]
    assert [message["seq"] for message in hits[0]["messages"]] == [1, 2, 3]


def test_search_without_a_match(filled: str) -> None:
    result = call("search", "zeppelin", "--store", filled)

    assert (result.code, result.out, result.err) == (0, "", "nothing found\n")


def test_add_appends_and_tells_the_number(url: str) -> None:
    assert good("add", "chat", "user", "Hello", "--store", url).out == "added message 1 to chat\n"

    stored = good(
        "add", "chat", "tool", "5°", "--store", url, "--name", "get_weather",
        "--tool-call-id", "c1", "--metadata", '{"a": [1]}', "--json",
    ).json  # fmt: skip

    assert stored["seq"] == 2
    assert stored["metadata"] == {"a": [1]}
    data = good("show", "chat", "--store", url, "--json").json
    assert [message["content"] for message in data["messages"]] == ["Hello", "5°"]
    assert data["messages"][1]["tool_call_id"] == "c1"


def test_add_reads_stdin(url: str) -> None:
    good("add", "chat", "user", "-", "--store", url, text="two\nlines äöü\n\n")

    data = good("show", "chat", "--store", url, "--json").json
    assert data["messages"][0]["content"] == "two\nlines äöü\n"


def test_add_refuses_what_cannot_be_stored(url: str) -> None:
    assert "isn't UTF-8" in bad(2, "add", "c", "user", "-", "--store", url, text=b"\xff\xfe")
    assert "--metadata isn't a JSON object" in bad(
        2, "add", "c", "user", "x", "--metadata", "[1]", "--store", url
    )
    assert "--metadata is nested too deep" in bad(
        2, "add", "c", "user", "x", "--metadata", '{"a":' + 10_000 * "[", "--store", url
    )
    assert "role is text that isn't empty" in bad(1, "add", "c", "", "x", "--store", url)
    assert "over 512" in bad(1, "add", "c" * 513, "user", "x", "--store", url)


def test_rm_deletes_for_good(filled: str) -> None:
    assert good("rm", "cafe-1", "cafe-2", "--yes", "--store", filled).out == (
        "deleted cafe-1\ndeleted cafe-2\n"
    )

    page = good("ls", "--store", filled, "--json").json
    assert not {"cafe-1", "cafe-2"} & {session["session_id"] for session in page["sessions"]}


def test_rm_deletes_the_others_where_one_is_missing(filled: str) -> None:
    result = call("rm", "nope", "cafe-1", "--yes", "--store", filled, "--json")

    assert result.code == 1
    assert result.json == {"deleted": ["cafe-1"], "missing": ["nope"]}
    assert result.err == "asyncsessions: there is no session 'nope'\n"


def test_rm_does_not_go_ahead_unasked(filled: str) -> None:
    assert "give --yes" in bad(2, "rm", "cafe-1", "--store", filled, text="y\n")
    assert good("show", "cafe-1", "--store", filled, "--json").json["message_count"] == 5


def test_stats(filled: str) -> None:
    figures = good("stats", "--store", filled, "--json").json

    assert figures["sessions"] == 6
    assert figures["messages"] == 17
    # How much it takes at a server isn't asked.
    is_counted = figures["bytes"] is not None and figures["bytes"] > 1000
    assert is_counted == (store_directory(filled) is not None)
    assert figures["oldest"] <= figures["newest"]
    assert figures["top_agents"] == [{"agent_name": "Vision bot", "sessions": 1}]
    assert "Vision bot  (1 session)" in good("stats", "--store", filled).out


def test_the_store_comes_from_the_environment(filled: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASYNCSESSIONS_STORE", filled)

    assert good("stats", "--json").json["sessions"] == 6


def test_the_default_store_is_in_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    assert "there is no directory 'sessions'" in bad(1, "ls")
    good("add", "chat", "user", "Hello")

    assert (tmp_path / "sessions" / "chat.jsonl").exists()
    assert good("ls", "--json").json["sessions"][0]["session_id"] == "chat"


@pytest.mark.parametrize(
    ("code", "text", "args"),
    [
        (1, "no directory", ["ls", "--store", "jsonl:///nowhere/at/all"]),
        (2, "keeps nothing between commands", ["ls", "--store", "memory://"]),
        (2, "no store for", ["ls", "--store", "sessions"]),
        (2, "No such command", ["frobnicate"]),
        (2, "--limit", ["ls", "--limit", "-1"]),
        (2, "--limit", ["ls", "--limit", "many"]),
        (2, "Missing argument", ["show"]),
        (2, "No such option", ["ls", "--frobnicate"]),
        (2, "no store for 'foo://u:***@h'", ["doctor", "--store", "foo://u:secret@h"]),
    ],
)
def test_errors_are_one_line_and_an_exit_code(code: int, text: str, args: list[str]) -> None:
    assert text in bad(code, *args)


def test_errors_about_a_store_that_is_there(filled: str) -> None:
    assert "there is no session 'nope'" in bad(1, "show", "nope", "--store", filled)
    assert "cursor" in bad(2, "ls", "--cursor", "zzz", "--store", filled)
    with_option = f"{filled}{'&' if '?' in filled else '?'}x=1"
    assert "unknown option 'x'" in bad(2, "ls", "--store", with_option)


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("redis://bob:hunter2@127.0.0.1:1/1?timeout=0.2", 1),
        ("redis://bob:hun@ter2@127.0.0.1:x/1", 2),
        ("postgresql://bob:hunter2@127.0.0.1:1/app?timeout=0.2", 1),
        ("mongodb://bob:hunter2@127.0.0.1:1/app?timeout=0.2", 1),
        ("mongodb://bob:hun@ter2@127.0.0.1:1/app", 2),
        ("foo://h?password=hunter2", 2),
    ],
)
def test_no_error_shows_a_password(url: str, code: int) -> None:
    assert "ter2" not in bad(code, "ls", "--store", url)


def test_a_damaged_session_is_one_line(tmp_path: Path) -> None:
    url = f"jsonl://{tmp_path}"
    good("import", DATA, "--store", url)
    path = tmp_path / "cafe-1.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"Two flat', b"XTwo flat"))

    assert f"{path}:" in bad(1, "show", "cafe-1", "--store", url)


def test_version() -> None:
    assert good("--version").out == f"asyncsessions {__version__}\n"


def test_help_without_a_command() -> None:
    result = call()

    assert result.code == 2
    assert "Commands" in result.out


def start(*args: str) -> subprocess.Popen[bytes]:
    """Start a command in a process of its own."""
    return subprocess.Popen(
        [*COMMAND, *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=ENVIRONMENT,
        start_new_session=True,
    )


def test_a_broken_pipe_is_quiet(tmp_path: Path) -> None:
    url = f"jsonl://{tmp_path}"

    async def fill(store: BaseSessionStore) -> None:
        await store.append("long", [{"role": "user", "content": "x" * 1000}] * 1000)

    with_store(url, fill)
    process = start("show", "long", "--store", url)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.read(10)
    process.stdout.close()

    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait(LONG_ENOUGH) != 0


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_json_is_utf_8_whatever_the_terminals_encoding(tmp_path: Path, encoding: str) -> None:
    url, backup = f"jsonl://{tmp_path / 'store'}", tmp_path / "backup.jsonl"
    good("add", "é", "user", "é 群 🙂", "--store", url)

    def out(*args: str) -> bytes:
        environment = ENVIRONMENT | {"PYTHONIOENCODING": encoding}
        command = [*COMMAND, *args, "--store", url]
        return subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True).stdout

    shown = json.loads(out("show", "é", "--json"))
    assert (shown["session_id"], shown["messages"][0]["content"]) == ("é", "é 群 🙂")
    backup.write_bytes(out("export"))
    other = f"jsonl://{tmp_path / 'other'}"
    assert good("import", backup, "--store", other, "--json").json["imported"] == 1
    again = good("show", "é", "--store", other, "--json").json
    assert again["messages"] == shown["messages"]
    assert '"é<br/>' in out("export", "é", "--format", "mermaid").decode()


def test_no_colour_and_no_traceback_when_piped(tmp_path: Path) -> None:
    good("import", DATA, "--store", f"jsonl://{tmp_path}")

    process = start("show", "cafe-1", "--store", f"jsonl://{tmp_path}")
    out, err = process.communicate(timeout=LONG_ENOUGH)

    assert process.returncode == 0
    assert b"\x1b" not in out
    assert err == b""


@pytest.fixture
def signals_are_heard() -> Iterator[None]:
    """A shell that runs the tests in the background has children ignore the signal."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("signals_are_heard")
def test_ctrl_c_is_quiet_and_130(tmp_path: Path) -> None:
    process = start("demo", "--seconds", "600", "--workers", "1", "--directory", str(tmp_path))
    # The worker has begun when its files are there.
    deadline = time.monotonic() + LONG_ENOUGH
    while not list(tmp_path.glob("*/baseline/*")) and time.monotonic() < deadline:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=LONG_ENOUGH)

    assert (process.returncode, out, err) == (130, b"", b"")
    assert list(tmp_path.iterdir()) == []
