"""``tree``, ``diff``, ``export --format mermaid``, and all commands on sessions that branch."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import pytest
import redis

from asyncsessions import open_store
from asyncsessions.cli.mermaid import flowchart
from asyncsessions.hierarchy import HierarchicalSessionStore, SessionTree
from asyncsessions.hierarchy.saved import TREE
from asyncsessions.hooks import SHARED, Change
from tests.cli.helpers import bad, call, contents, exported, good, with_store

T = TypeVar("T")

NASTY = 'Say "hi" [#1] <b>\n`x` %%{init: {}}%% -- \x1b[2J 群😀'


class Branched(NamedTuple):
    """A store with a session "chat", two forks of it, and a fork of the first of them."""

    url: str
    train: str
    plane: str
    slow: str


@pytest.fixture
def branched(url: str) -> Branched:
    async def fill(store: HierarchicalSessionStore) -> Branched:
        await store.add_message("chat", "user", "Plan a weekend")
        await store.add_message("chat", "assistant", "By train or by plane?")
        await store.rename_session("chat", "Weekend")
        train = await store.fork_session("chat", title="By train")
        plane = await store.fork_session("chat", from_seq=1, title=NASTY)
        await store.add_message(train, "user", "By train")
        await store.add_message(train, "assistant", "At 22:30")
        await store.create_snapshot(train)
        slow = await store.fork_session(train, from_seq=3, title="Slower")
        await store.revert_to_message(slow, 2)
        await store.add_message(plane, "user", "needle")
        return Branched(url, train, plane, slow)

    good("add", "other", "user", "x", "--store", url)
    return with_trees(url, fill)


def with_trees(url: str, use: Callable[[HierarchicalSessionStore], Awaitable[T]]) -> T:
    """Open a store whose sessions branch, in an event loop of its own, and use it."""

    async def main() -> T:
        async with HierarchicalSessionStore(open_store(url)) as store:
            return await use(store)

    return asyncio.run(main())


def amend(url: str, session_id: str, *changes: Change) -> None:
    """Write into a session's record what nobody writes there."""
    done = with_store(url, lambda store: store.amend_session(session_id, changes))
    assert done is not None


# tree


def test_tree_shows_where_each_fork_begins(branched: Branched) -> None:
    url, train, plane, slow = branched

    shown = good("tree", "chat", "--store", url).out.splitlines()

    assert shown[:3] == [
        "Weekend  chat  2 messages",
        f"├── from 2  By train  {train}  4 messages · 1 snapshot",
        f"│   └── from 3  Slower  {slow}  2 messages",
    ]
    assert shown[3].startswith("└── from 1  Say ")
    assert shown[3].endswith(f"群😀  {plane}  2 messages")
    assert len(shown) == 4
    below = good("tree", train, "--store", url).out.splitlines()
    assert below[0] == f"from 2 of chat  By train  {train}  4 messages · 1 snapshot"
    assert len(below) == 2


def test_tree_prints_json(branched: Branched) -> None:
    url, train, _, slow = branched

    found = good("tree", train, "--store", url, "--json").json

    assert found == {
        "session_id": train,
        "title": "By train",
        "message_count": 4,
        "seq": 2,
        "snapshot_count": 1,
        "parent_id": "chat",
        "children": [
            {
                "session_id": slow,
                "title": "Slower",
                "message_count": 2,
                "seq": 3,
                "snapshot_count": 0,
                "children": [],
            }
        ],
    }


def test_tree_goes_on_without_a_deleted_parent(branched: Branched) -> None:
    url, train, *_ = branched
    good("rm", "chat", "--yes", "--store", url)

    assert good("tree", train, "--store", url).out.startswith("from 2  By train  ")
    assert good("tree", train, "--store", url, "--json").json["parent_id"] is None


def test_tree_and_diff_fit_a_narrow_terminal(
    branched: Branched, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, train, plane, _ = branched
    monkeypatch.setenv("COLUMNS", "45")

    for command in (["tree", "chat"], ["diff", train, plane]):
        lines = good(*command, "--store", url).out.splitlines()
        if command[0] == "tree":
            assert max(len(line) for line in lines) <= 45
        assert not any("\x1b" in line for line in lines)
        for name in (train, plane):
            assert name in re.sub(r"[│├└─\s]", "", "".join(lines))


# diff


def test_diff_shows_what_each_has_alone(branched: Branched) -> None:
    url, train, plane, _ = branched

    shown = good("diff", train, plane, "--store", url).out.splitlines()
    assert shown.pop(7).startswith(f"only in {plane}  Say ")
    assert shown == [
        f"{train} and {plane} have 1 message in common, up to message 1",
        "",
        f"only in {train}  By train",
        "2 assistant By train or by plane?",
        "3 user      By train",
        "4 assistant At 22:30",
        "",
        "2 user      needle",
    ]
    assert good("diff", "chat", train, "--store", url).out.splitlines()[:4] == [
        f"chat and {train} have 2 messages in common, up to message 2",
        "",
        "only in chat  Weekend",
        "nothing",
    ]


def test_diff_prints_json(branched: Branched) -> None:
    url, train, plane, _ = branched

    found = good("diff", train, plane, "--store", url, "--json").json

    assert (found["ancestor_id"], found["seq"], found["common"]) == ("chat", 1, 1)
    assert [message["content"] for message in found["right"]] == ["needle"]
    assert [message["seq"] for message in found["left"]] == [2, 3, 4]


def test_diff_of_what_has_nothing_in_common(branched: Branched) -> None:
    url, train, *_ = branched
    good("rm", "chat", "--yes", "--store", url)

    assert with_trees(url, lambda store: store.clear_session(train))
    slow = branched.slow
    shown = good("diff", train, slow, "--store", url).out.splitlines()
    assert shown[0] == f"{train} and {slow} have no messages in common"


def test_unknown_and_unrelated_sessions_are_told(branched: Branched) -> None:
    url, train, *_ = branched

    for args in (
        ["tree", "nope"],
        ["diff", "nope", train],
        ["diff", train, "nope"],
        ["export", "nope"],
        ["export", "nope", "--format", "mermaid"],
    ):
        assert "there is no session 'nope'" in bad(1, *args, "--store", url)
    unrelated = bad(1, "diff", train, "other", "--store", url)
    assert f"sessions '{train}' and 'other' are unrelated" in unrelated


# export


def test_export_of_one_session_can_be_imported(branched: Branched, target: str) -> None:
    url, train, *_ = branched
    file = Path(target.removeprefix("jsonl://")).with_name("one.jsonl")

    out = good("export", train, "--store", url, "--output", file).out
    assert out == f"exported 1 session to {file}\n"
    assert json.loads(good("export", train, "--store", url).out) == json.loads(file.read_text())
    good("import", file, "--store", target)

    (record,) = exported(target).values()
    assert contents(record)[2:] == ["By train", "At 22:30"]
    assert record["metadata"] == {"title": "By train"}


def test_mermaid_shows_the_tree(branched: Branched, tmp_path: Path) -> None:
    url, train, plane, slow = branched

    out = good("export", "chat", "--format", "mermaid", "--store", url).out

    lines = out.splitlines()
    assert lines[:5] == [
        "flowchart TD",
        '    n0["Weekend<br/>chat<br/>2 messages"]',
        f'    n1["By train<br/>{train}<br/>4 messages"]',
        '    n0 -->|"2"| n1',
        f'    n2["Slower<br/>{slow}<br/>2 messages"]',
    ]
    assert lines[5] == '    n1 -->|"3"| n2'
    assert lines[6].endswith(f'#128512;<br/>{plane}<br/>2 messages"]')
    assert lines[7] == '    n0 -->|"1"| n3'
    file = tmp_path / "tree.mmd"
    told = good("export", "chat", "--format", "mermaid", "--store", url, "-o", file).out
    assert told == f"exported 4 sessions to {file}\n"
    assert file.read_text(encoding="utf-8") == out
    assert "say which" in bad(2, "export", "--format", "mermaid", "--store", url)
    assert "--format" in bad(2, "export", "chat", "--format", "png", "--store", url)


@pytest.mark.parametrize(
    "text",
    [
        NASTY,
        "end",
        '"]',
        "n0[x]",
        "1. one",
        "- one",
        "_a_ __b__",
        "`x`",
        "#quot;",
        "&quot;",
        "a-->b",
        "%% comment",
        "\x00\u202e\u2028",
        "|x|",
        "x" * 500,
    ],
)
def test_mermaid_is_valid_whatever_the_title(text: str) -> None:
    below = SessionTree(text, None, 1, [], 1)
    lines = list(flowchart(SessionTree(text, text, 1, [below])))

    node = r' {4}n\d\["(?:(?:[^\W_]|[ ,]|(?<=[^\W_])-|#\d+;)+(?:<br/>|"\]$)){2,3}'
    assert lines[0] == "flowchart TD"
    assert re.fullmatch(node, lines[1]), lines[1]
    assert re.fullmatch(node, lines[2]), lines[2]
    assert lines[3] == '    n0 -->|"1"| n1'


# The other commands.


def test_forks_are_shown_whole(branched: Branched) -> None:
    url, train, plane, slow = branched

    assert good("show", train, "--store", url).out.splitlines()[3:] == [
        "1 user      Plan a weekend",
        "2 assistant By train or by plane?",
        "3 user      By train",
        "4 assistant At 22:30",
    ]
    page = good("ls", "--store", url, "--json").json["sessions"]
    counts = {each["session_id"]: each["message_count"] for each in page}
    assert counts == {"chat": 2, train: 4, plane: 2, slow: 2, "other": 1}
    assert {each["session_id"]: each["metadata"] for each in page if "metadata" in each} == {
        "chat": {"title": "Weekend"},
        train: {"title": "By train"},
        plane: {"title": NASTY},
        slow: {"title": "Slower"},
    }
    assert contents(exported(url)[slow]) == ["Plan a weekend", "By train or by plane?"]
    hits = good("search", "weekend", "--store", url, "--json").json
    assert {hit["session_id"] for hit in hits} == {"chat", train, plane, slow}
    figures = good("stats", "--store", url, "--json").json
    assert (figures["sessions"], figures["messages"]) == (5, 11)


def test_rm_leaves_forks_whole(branched: Branched) -> None:
    url, train, plane, slow = branched

    good("rm", "chat", train, "--yes", "--store", url)

    page = good("ls", "--store", url, "--json").json["sessions"]
    assert {each["session_id"] for each in page} == {plane, slow, "other"}
    assert "there is no session 'chat'" in bad(1, "rm", "chat", "--yes", "--store", url)
    assert "there is no session 'chat'" in bad(1, "show", "chat", "--store", url)
    assert contents(exported(url)[slow]) == ["Plan a weekend", "By train or by plane?"]
    assert contents(exported(url)[plane]) == ["Plan a weekend", "needle"]
    good("rm", plane, slow, "other", "--yes", "--store", url)
    assert with_store(url, lambda store: store.list_sessions()) == []


def test_stores_with_forks_can_be_moved(branched: Branched, target: str) -> None:
    good("import", branched.url, "--store", target)

    before, after = exported(branched.url), exported(target)
    assert {name: contents(each) for name, each in before.items()} == {
        name: contents(each) for name, each in after.items()
    }
    assert good("doctor", "--store", target).out == "all is well\n"


def test_an_import_leaves_forks_as_they_are(branched: Branched, tmp_path: Path) -> None:
    url, train, *_ = branched
    file = tmp_path / "chat.jsonl"
    good("export", "chat", "--store", url, "--output", file)
    before = exported(url)

    assert "1 session was there before" in good("import", file, "--store", url).out
    assert "imported 1 session" in good("import", file, "--store", url, "--overwrite").out
    good("rm", "chat", "--yes", "--store", url)
    assert "imported 1 session" in good("import", file, "--store", url).out

    after = exported(url)
    assert {name: contents(each) for name, each in after.items()} == {
        name: contents(each) for name, each in before.items()
    }
    assert good("doctor", "--store", url).out == "all is well\n"
    good("rm", "chat", "--yes", "--store", url)
    assert len(contents(exported(url)[train])) == 4


# doctor


def test_doctor_finds_healthy_trees_well(branched: Branched) -> None:
    assert good("doctor", "--store", branched.url).out == "all is well\n"
    good("rm", "chat", "--yes", "--store", branched.url)
    assert good("doctor", "--store", branched.url, "--repair").out == "all is well\n"


def test_doctor_repairs_what_a_killed_fork_left(branched: Branched) -> None:
    url, *_ = branched
    amend(
        url,
        "chat",
        Change(("metadata", SHARED, "fork"), "set", 2),
        Change(("metadata", TREE, "child.fork"), "set", time.time() - 100_000.1),
    )

    result = call("doctor", "--store", url)
    assert result.code == 1
    assert result.out.startswith("unread     chat: it keeps messages for 'fork', which isn't")
    assert "1 problem in " in result.err
    assert result.err.endswith("; repair with --repair\n")
    (found,) = call("doctor", "--store", url, "--json").json
    assert (found["kind"], found["session_id"], found["other_id"]) == ("unread", "chat", "fork")
    assert found["repaired"] is None
    repaired = good("doctor", "--store", url, "--repair").out.splitlines()
    assert repaired[1:] == ["           removed", "1 repaired, all is well"]
    assert good("doctor", "--store", url).out == "all is well\n"


def test_doctor_leaves_a_young_fork_alone(branched: Branched) -> None:
    url, *_ = branched
    amend(
        url,
        "chat",
        Change(("metadata", SHARED, "fork"), "set", 2),
        Change(("metadata", TREE, "child.fork"), "set", time.time()),
    )

    for options in ([], ["--repair"]):
        lines = good("doctor", "--store", url, *options).out.splitlines()
        assert lines[0].endswith("less than a day old, it may still be under way")
        assert lines[1] == "all is well"


def test_doctor_tells_what_nobody_can_repair(branched: Branched) -> None:
    url, train, plane, _ = branched
    bad_view: Any = {"parts": "gone"}
    amend(url, train, Change(("metadata", TREE, "view"), "set", bad_view))

    result = call("doctor", "--store", url, "--repair")

    assert result.code == 1
    assert result.out.startswith(f"damaged    {train}: view in its metadata")
    assert result.err.endswith("; see above\n")
    listed = call("ls", "--store", url)
    assert listed.code == 0
    assert "chat" in listed.out
    assert listed.err.startswith("asyncsessions: warning: left out of the list: ")
    shown = call("tree", "chat", "--store", url)
    assert shown.code == 0
    assert plane in shown.out
    assert shown.err.startswith(f"asyncsessions: warning: left out of the tree: session '{train}'")


def test_doctor_tells_what_a_server_cannot_read(redis_url: str, tmp_path: Path) -> None:
    prefix = f"doctor-{tmp_path.parent.name}-{tmp_path.name}"
    url = f"{redis_url}?prefix={prefix}"
    good("add", "well", "user", "x", "--store", url)
    good("add", "bad", "user", "x", "--store", url)
    with redis.Redis.from_url(redis_url) as client:
        client.hset(f"{prefix}:{{bad}}:record", "metadata", "{")

    result = call("doctor", "--store", url)

    assert result.code == 1
    assert result.out.startswith("damaged    session 'bad' is damaged")
    assert result.err == f"asyncsessions: 1 problem in {url}; repair with --repair\n"
    (found,) = call("doctor", "--store", url, "--json").json
    assert (found["kind"], found["session_id"]) == ("damaged", None)
    assert call("doctor", "--store", url, "--repair").err.endswith("; see above\n")
