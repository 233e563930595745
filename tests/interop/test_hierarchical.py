"""PraisonAI's `HierarchicalSessionStore` and this library's: the same calls, and the same files."""

from __future__ import annotations

import asyncio
import copy
import importlib
import inspect
import json
import re
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from asyncsessions import sync
from tests.interop.test_default_store import CALL, KINDS, normal, public_methods, talk

# PraisonAI's own imports warn.
pytestmark = [pytest.mark.interop, pytest.mark.filterwarnings("ignore")]

UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}")
LINEAGE: dict[str, Any] = {
    "parent_id": None,
    "forked_from_message_id": None,
    "children_ids": [],
    "is_shared": False,
    "title": None,
    "snapshots": [],
}
NAMES = ("HierarchicalSessionStore", "SessionSnapshot", "ExtendedSessionData")


def original(name: str) -> Any:
    return getattr(importlib.import_module("praisonaiagents.session.hierarchy"), name)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRAISONAI_HOME", str(tmp_path / "home"))


class Run:
    """One store's run of a script: what each step returned, and what was in the files then."""

    def __init__(self, store: Any, directory: Path, *, with_files: bool = True) -> None:
        self.store = store
        self.steps: list[Any] = []
        self._directory = directory
        self._with_files = with_files
        self._ids: dict[str, str] = {}

    def __call__(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """Call a method; return what it returned, or None where it raised."""
        given = copy.deepcopy((args, kwargs))
        value: Any = None
        try:
            value = getattr(self.store, method)(*args, **kwargs)
            outcome = normal(value)
        except KINDS as exc:
            outcome = [kind.__name__ for kind in KINDS if isinstance(exc, kind)]
        files = self._files() if self._with_files else {}
        self.steps.append(self._named([method, normal(given), outcome, files]))
        return value

    def file(self, name: str, content: Any) -> None:
        """Put a file into the directory, as another program would."""
        (self._directory / name).write_text(json.dumps(content, indent=2))

    def _files(self) -> dict[str, Any]:
        return {path.name: self._file(path) for path in sorted(self._directory.glob("*.json"))}

    @staticmethod
    def _file(path: Path) -> Any:
        text = path.read_text()
        data = json.loads(text)
        compact = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
        pretty = json.dumps(data, ensure_ascii=False, indent=2)
        assert text == (compact if "snapshot_storage" in data else pretty)
        # A plain write of this library adds no fields that say nothing.
        said = {key: data[key] for key in data if key not in LINEAGE or data[key] != LINEAGE[key]}
        return [normal(said), list(said)]

    def _named(self, value: Any) -> Any:
        """Return a value with the same names, in both runs, for the ids that were made up."""
        text = json.dumps(value, default=repr)
        for found in UUID.findall(text):
            self._ids.setdefault(found, f"id-{len(self._ids)}")
        value = json.loads(UUID.sub(lambda found: self._ids[found[0]], text))
        # Files are in the order of what they were called.
        value[3] = dict(sorted(value[3].items()))
        return value


Script = Callable[[Run], None]


def say(run: Run, session_id: str, *texts: str) -> None:
    for text in texts:
        run("add_message", session_id, "user", text, {"k": text})


def missing(run: Run) -> None:
    reads = ("get_children", "get_parent", "is_shared", "get_snapshots", "get_session_tree")
    for name in (*reads, "get_session", "get_extended_session", "export_session"):
        run(name, "nobody")
    run("revert_to_snapshot", "nobody", "x")
    run("revert_to_message", "nobody", 0)
    run("fork_session", "nobody", 0)
    run("session_exists", "nobody")
    for name in ("share_session", "unshare_session", "create_snapshot", "fork_session"):
        run(name, f"new-{name}")
    run("set_title", "new-title", "T")
    run("get_snapshots", "new-create_snapshot")
    run("get_children", "new-fork_session")


def creating(run: Run) -> None:
    run("create_session", "s", "T", None, "Bot", {"a": 1, "model": "m"})
    run("create_session", "s2", parent_id="s")
    run("create_session", "s3", parent_id="s")
    run("create_session", "lone", parent_id="gone")
    made = run("create_session", title="made up", metadata={"deep": {"x": [1, 2]}})
    run("create_session", "self", parent_id="self")
    for session_id in ("s", "s2", "gone", "lone", made):
        run("get_extended_session", session_id)
        run("get_parent", session_id)
        run("get_children", session_id)
    run("get_session_tree", "s")
    run("delete_session", "s2")
    run("get_children", "s")
    run("get_session_tree", "s")
    run("list_sessions")


def forking(run: Run) -> None:
    run("create_session", "s", "T", agent_name="Bot", metadata={"a": [1]})
    run("set_agent_info", "s", user_id="u")
    run("fork_session", "s")
    say(run, "s", "a", "b", "c")
    run("add_message", "s", "assistant", None, None, [CALL])
    run("add_message", "s", "tool", "4", None, None, "c")
    run("append_compaction_checkpoint", "s", "S")
    forks = [run("fork_session", "s", index) for index in (None, 0, 2, 4)]
    for index in (5, -1, 99):
        run("fork_session", "s", index)
    forks.append(run("fork_session", "s", 1, "named"))
    forks.append(run("fork_session", forks[0]))
    say(run, forks[0], "d")
    run("update_session_metadata", forks[1], a=2)
    for session_id in ("s", *forks):
        run("get_session", session_id)
        run("get_parent", session_id)
        run("get_children", session_id)
        run("get_chat_history", session_id)
    run("get_session_tree", "s")


def snapshots(run: Run) -> None:
    empty = run("create_snapshot", "s")
    say(run, "s", "a", "b")
    two = run("create_snapshot", "s", "L", {"k": [1]})
    same = run("create_snapshot", "s")
    say(run, "s", "c")
    run("append_compaction_checkpoint", "s", "S", metadata={"m": 1})
    three = run("create_snapshot", "s", label="three")
    run("get_snapshots", "s")
    run("set_chat_history", "s", talk("x", "y"))
    run("get_snapshots", "s")
    for snapshot in (two, three, same, empty, three, "unknown", None):
        run("revert_to_snapshot", "s", snapshot)
        run("get_session", "s")
        run("get_working_history", "s")
        say(run, "s", "later")
    run("clear_session", "s")
    run("revert_to_snapshot", "s", three)
    run("get_extended_session", "s", True)
    run("create_snapshot", "s", "again")
    run("get_snapshots", "s")


def reverting(run: Run) -> None:
    say(run, "s", *"abcde")
    run("create_snapshot", "s", "L")
    for index in (5, -1, 3, 3, 9, 0):
        run("revert_to_message", "s", index)
        run("get_session", "s")
        run("get_snapshots", "s")
    say(run, "s", "after")
    run("get_chat_history", "s")


def record(run: Run) -> None:
    run("share_session", "s")
    run("is_shared", "s")
    run("set_title", "s", "T")
    run("rename_session", "s", "other")
    run("set_title", "s", " kept ")
    run("set_title", "s", "")
    run("unshare_session", "s")
    run("is_shared", "s")
    run("get_session", "s")
    run("set_title", "s", None)
    run("list_sessions")
    run("update_session_metadata", "s", model="m", bad={1})
    run("set_title", "s", "ü \u2028 群")
    run("get_extended_session", "s")


def moving(run: Run) -> None:
    run("create_session", "s", "T", metadata={"model": "m", "a": 1})
    say(run, "s", "a", "b")
    run("share_session", "s")
    run("create_snapshot", "s", "L")
    run("fork_session", "s", 0)
    exported = run("export_session", "s")
    made = run("import_session", exported)
    run("import_session", exported, "named")
    run("import_session", {})
    run("import_session", {"session_id": "x", "messages": talk("p", "q"), "title": "Q"}, "q")
    run("import_session", None)
    broken = {"snapshots": [{"id": "x", "transcript_refs": {}}]}
    run("import_session", broken, "broken")
    for session_id in (made, "named", "q", "broken"):
        run("session_exists", session_id)
        run("get_extended_session", session_id)
        run("export_session", session_id)
    (snapshot,) = run("get_snapshots", "named")
    say(run, "named", "c")
    run("revert_to_snapshot", "named", snapshot.id)
    run("get_chat_history", "named")


def retaining(run: Run) -> None:
    say(run, "s", *"abc")
    early = run("create_snapshot", "s")
    say(run, "s", *"defghi")
    run("get_session", "s")
    late = run("create_snapshot", "s")
    run("fork_session", "s", 1)
    say(run, "s", "j")
    for snapshot in (early, late):
        run("revert_to_snapshot", "s", snapshot)
        run("get_session", "s")
    run("export_session", "s")
    run("import_session", {"messages": talk(*"abcdefghi")}, "i")
    run("revert_to_message", "i", 7)
    run("get_session", "i")


def importing_more_than_fits(run: Run) -> None:
    run("import_session", {"messages": talk(*"abcdefghi")}, "s")
    # Noting a snapshot drops nothing.
    run("create_snapshot", "s")
    run("get_chat_history", "s")
    say(run, "s", "x")
    run("get_chat_history", "s")


def circles(run: Run) -> None:
    run.file("a.json", {"session_id": "a", "title": "A", "children_ids": ["b", "c"]})
    run.file("b.json", {"session_id": "b", "children_ids": ["c"], "parent_id": "a"})
    run.file("c.json", {"session_id": "c", "messages": talk("x")})
    run("get_session_tree", "a")
    run.file("c.json", {"session_id": "c", "children_ids": ["a"]})
    for session_id in "abc":
        run("get_session_tree", session_id)


SCRIPTS: dict[str, tuple[dict[str, Any], Script]] = {
    "missing": ({}, missing),
    "creating": ({}, creating),
    "forking": ({}, forking),
    "snapshots": ({}, snapshots),
    "reverting": ({}, reverting),
    "record": ({}, record),
    "moving": ({}, moving),
    "truncate": ({"max_messages": 4}, retaining),
    "compact": ({"active_window": 4}, retaining),
    "keep all": ({"max_messages": 4, "retention": "keep_all"}, retaining),
    "more than fits": ({"max_messages": 4}, importing_more_than_fits),
    "circles": ({}, circles),
}


def both(tmp_path: Path, script: Script, *, with_files: bool = True, **options: Any) -> list[Run]:
    runs = []
    for name, kind in (
        ("theirs", original("HierarchicalSessionStore")),
        ("ours", sync.HierarchicalSessionStore),
    ):
        run = Run(kind(str(tmp_path / name), **options), tmp_path / name, with_files=with_files)
        script(run)
        runs.append(run)
    return runs


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_same_calls_have_the_same_results(tmp_path: Path, name: str) -> None:
    options, script = SCRIPTS[name]
    theirs, ours = both(tmp_path, script, **options)
    for number, (expected, got) in enumerate(zip(theirs.steps, ours.steps, strict=True)):
        assert got == expected, f"step {number}: {got[:2]}"


# In one directory.


class InTurn:
    """Two stores on one directory; each call goes to the one that it is the turn of."""

    def __init__(self, *stores: Any) -> None:
        self._stores = stores
        self._turn = 0

    def __getattr__(self, name: str) -> Any:
        self._turn += 1
        return getattr(self._stores[self._turn % len(self._stores)], name)


@pytest.mark.parametrize("first", [0, 1], ids=["theirs first", "ours first"])
@pytest.mark.parametrize("name", SCRIPTS)
def test_both_take_turns_in_one_directory(tmp_path: Path, name: str, first: int) -> None:
    options, script = SCRIPTS[name]
    alone = Run(
        original("HierarchicalSessionStore")(str(tmp_path / "alone"), **options),
        tmp_path / "alone",
        with_files=False,
    )
    directory = str(tmp_path / "both")
    stores = [
        original("HierarchicalSessionStore")(directory, **options),
        sync.HierarchicalSessionStore(directory, **options),
    ]
    turns = Run(InTurn(*stores[first:], *stores[:first]), tmp_path / "both", with_files=False)
    script(alone)
    script(turns)
    for number, (expected, got) in enumerate(zip(alone.steps, turns.steps, strict=True)):
        assert got == expected, f"step {number}: {got[:2]}"


def inlined(document: dict[str, Any], exported: dict[str, Any]) -> dict[str, Any]:
    """Return a document whose snapshots hold their messages themselves."""
    del document["snapshot_storage"]
    return document | {"snapshots": exported["snapshots"]}


def positional(document: dict[str, Any], exported: dict[str, Any]) -> dict[str, Any]:
    """Return a document whose snapshots are only places among the messages, as old ones are."""
    document = inlined(document, exported)
    for snapshot in document["snapshots"]:
        del snapshot["transcript"]
    return document


LAYOUTS = {
    "pooled": lambda document, _: document,
    "inline": inlined,
    "positional": positional,
}


@pytest.mark.parametrize("maker", [0, 1], ids=["theirs", "ours"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_layout_of_snapshots_means_the_same(tmp_path: Path, layout: str, maker: int) -> None:
    def script(run: Run) -> None:
        directory = tmp_path / type(run.store).__module__
        makers = (original("HierarchicalSessionStore"), sync.HierarchicalSessionStore)
        store = makers[maker](str(directory))
        for text in "ab":
            store.add_message("s", "user", text)
        named = store.create_snapshot("s", "two", {"k": 1})
        store.upsert_partial_assistant_message("s", "c")
        last = store.create_snapshot("s")
        document = json.loads((directory / "s.json").read_text())
        run.file("s.json", LAYOUTS[layout](document, store.export_session("s")))
        run("get_snapshots", "s")
        run("export_session", "s")
        run("set_title", "s", "T")
        added = run("create_snapshot", "s")
        run("upsert_partial_assistant_message", "s", "c2")
        run("get_snapshots", "s")
        # What comes back unchanged is what a place among the messages still stands for.
        run("revert_to_snapshot", "s", added)
        run("get_snapshots", "s")
        run("revert_to_snapshot", "s", named)
        run("get_chat_history", "s")
        run("revert_to_snapshot", "s", last)
        run("get_chat_history", "s")
        run("revert_to_message", "s", 0)
        run("get_snapshots", "s")
        for snapshot in (named, last, added):
            run("revert_to_snapshot", "s", snapshot)
            run("get_chat_history", "s")
        run("set_chat_history", "s", talk("x"))
        for snapshot in (named, added):
            run("revert_to_snapshot", "s", snapshot)
            run("get_chat_history", "s")

    runs = []
    for kind in (original("HierarchicalSessionStore"), sync.HierarchicalSessionStore):
        directory = tmp_path / kind.__module__
        # Only its records are pooled anew by the original whenever it writes.
        run = Run(kind(str(directory)), directory, with_files=False)
        script(run)
        runs.append(run)
    assert runs[1].steps == runs[0].steps


@pytest.mark.parametrize(
    "damage",
    [
        {"snapshot_storage": None},
        {"snapshot_storage": {"version": 2, "records": {}}},
        {"snapshot_storage": {"version": 1, "records": {}}},
        {"snapshot_storage": {"version": 1}},
    ],
    ids=["none", "later version", "no records", "no list"],
)
def test_damaged_snapshots_are_left_as_they_are(tmp_path: Path, damage: dict[str, Any]) -> None:
    ours = sync.HierarchicalSessionStore(str(tmp_path))
    ours.add_message("s", "user", "a")
    snapshot = ours.create_snapshot("s")
    path = tmp_path / "s.json"
    damaged = json.loads(path.read_text()) | damage
    path.write_text(json.dumps(damaged))
    for store in (original("HierarchicalSessionStore")(str(tmp_path)), ours):
        assert store.get_snapshots("s") == []
        assert store.get_extended_session("s").messages == []
        assert store.revert_to_snapshot("s", snapshot) is False
        assert json.loads(path.read_text()) == damaged
    # What needs no snapshots goes on.
    assert ours.add_message("s", "user", "b")
    assert ours.get_chat_history("s") == [{"role": "user", "content": text} for text in "ab"]
    after = json.loads(path.read_text())
    assert after["snapshots"] == damaged["snapshots"]
    assert after["snapshot_storage"] == damaged["snapshot_storage"]
    assert [each.name for each in tmp_path.glob("*corrupt*")] == []


# The surface.


def test_every_method_takes_what_the_originals_takes() -> None:
    ours = public_methods(sync.HierarchicalSessionStore)
    theirs = public_methods(original("HierarchicalSessionStore"))
    del theirs["__init__"]  # It hands on whatever it gets.
    for name, signature in theirs.items():
        parameters = list(ours[name].parameters.values())
        expected = list(signature.parameters.values())
        for each, got in zip(expected, parameters, strict=False):
            assert (got.name, got.kind, got.default) == (each.name, each.kind, each.default), name
        extra = parameters[len(expected) :]
        assert len(parameters) >= len(expected), name
        assert all(each.kind is each.KEYWORD_ONLY for each in extra), name
        ours_is_async = inspect.iscoroutinefunction(getattr(sync.HierarchicalSessionStore, name))
        their_method = getattr(original("HierarchicalSessionStore"), name)
        assert ours_is_async == inspect.iscoroutinefunction(their_method), name


@pytest.mark.parametrize("name", NAMES[1:])
def test_every_record_has_the_originals_members(name: str) -> None:
    theirs, ours = original(name), getattr(sync, name)
    assert [field.name for field in fields(ours)] == [field.name for field in fields(theirs)]
    assert public_methods(theirs).keys() <= public_methods(ours).keys()


def test_the_module_has_the_originals_public_names() -> None:
    theirs = importlib.import_module("praisonaiagents.session.hierarchy")
    for name, member in vars(theirs).items():
        if getattr(member, "__module__", "") == theirs.__name__ and not name.startswith("_"):
            assert hasattr(sync, name)
            assert hasattr(sync.hierarchical, name)


def test_an_export_of_either_is_read_by_both(tmp_path: Path) -> None:
    theirs = original("HierarchicalSessionStore")(str(tmp_path / "theirs"))
    ours = sync.HierarchicalSessionStore(str(tmp_path / "ours"))
    for store in (theirs, ours):
        store.create_session("s", "T", agent_name="Bot", metadata={"model": "m"})
        store.add_message("s", "user", "a")
        store.create_snapshot("s", "L")
        store.add_message("s", "user", "b")
        exported = store.export_session("s")
        for record in (original("ExtendedSessionData"), sync.ExtendedSessionData):
            assert record.from_dict(exported).to_dict() == exported
        document = json.loads((Path(store.session_dir) / "s.json").read_text())
        records = [
            kind.from_dict(document).to_dict()
            for kind in (original("ExtendedSessionData"), sync.ExtendedSessionData)
        ]
        assert records[0] == records[1]
        for other in (theirs, ours):
            made = other.import_session(exported)
            (snapshot,) = other.get_snapshots(made)
            assert other.revert_to_snapshot(made, snapshot.id)
            assert other.get_chat_history(made) == [{"role": "user", "content": "a"}]


def test_it_is_portable_as_the_originals_protocol_says(tmp_path: Path) -> None:
    # The original's own store isn't: its method has no such argument.
    protocols = importlib.import_module("praisonaiagents.session.protocols")
    store = sync.HierarchicalSessionStore(str(tmp_path))
    assert isinstance(store, protocols.PortableSessionStoreProtocol)
    store.add_message("s", "user", "a")
    payload = store.export_session("s", include_lineage=True)
    other = importlib.import_module("praisonaiagents.session.store").DefaultSessionStore
    report = other(str(tmp_path / "other")).import_sessions(payload)
    assert (report.imported, report.skipped) == (1, [])


def test_a_title_is_the_originals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    titles = importlib.import_module("praisonaiagents.session.title")

    async def generate(question: str, answer: str) -> str:
        return f" {question} / {answer} "

    monkeypatch.setattr(titles, "generate_title_async", generate)
    history = [*talk("Hi", "Hello"), {"role": "user", "content": [{"type": "text", "text": "x"}]}]
    for kind in (original("HierarchicalSessionStore"), sync.HierarchicalSessionStore):
        store = kind(str(tmp_path / kind.__module__))
        assert not asyncio.run(store.auto_title("s"))
        store.set_chat_history("s", history[:1])
        assert not asyncio.run(store.auto_title("s"))
        store.set_chat_history("s", history)
        assert asyncio.run(store.auto_title("s"))
        assert store.get_extended_session("s").title == "Hi / Hello"
        assert not asyncio.run(store.auto_title("s"))
