"""The original's API for forks and snapshots on JSON files: what is in them, and what fails."""

from __future__ import annotations

import asyncio
import json
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from asyncsessions import LockTimeoutError, Message, StoreUnavailableError
from asyncsessions.errors import SessionSharedError
from asyncsessions.hierarchy import HierarchicalSessionStore as AsyncHierarchicalSessionStore
from asyncsessions.stores.json import JSONSessionStore
from asyncsessions.sync import (
    DefaultSessionStore,
    ExtendedSessionData,
    FileLock,
    HierarchicalSessionStore,
    SessionData,
    SessionSnapshot,
    get_hierarchical_session_store,
    hierarchical,
)
from tests.test_sync_hierarchical import home, say, texts

__all__ = ["home"]


@pytest.fixture
def files(tmp_path: Path) -> Iterator[HierarchicalSessionStore]:
    with HierarchicalSessionStore(str(tmp_path / "sessions")) as store:
        yield store


def document(store: DefaultSessionStore, session_id: str) -> dict[str, Any]:
    data: dict[str, Any] = json.loads((Path(store.session_dir) / f"{session_id}.json").read_text())
    return data


def test_snapshots_share_what_they_have_in_common(files: HierarchicalSessionStore) -> None:
    say(files, "s", "m0", "m1")
    files.create_snapshot("s")
    say(files, "s", "m2")
    files.create_snapshot("s")
    files.create_snapshot("s")
    storage = document(files, "s")["snapshot_storage"]
    contents = [record and record["content"] for record in storage["records"].values()]
    assert contents == ["m0", "m1", None, "m2"]
    text = (Path(files.session_dir) / "s.json").read_text()
    assert text == json.dumps(json.loads(text), ensure_ascii=False, separators=(",", ":"))


def test_each_snapshot_has_its_messages_for_itself(files: HierarchicalSessionStore) -> None:
    files.add_message("s", "user", "m0", {"k": [1]})
    for _ in range(2):
        files.create_snapshot("s")
    transcripts = [each.transcript or {} for each in files.get_snapshots("s")]
    transcripts[0]["messages"][0]["metadata"]["k"].append(2)
    transcripts[0]["messages"][0]["content"] = "changed"
    (kept,) = transcripts[1]["messages"]
    assert (kept["content"], kept["metadata"]) == ("m0", {"k": [1]})


def test_seq_goes_on_after_a_revert(files: HierarchicalSessionStore) -> None:
    say(files, "s", "m0", "m1", "m2")
    snapshot = files.create_snapshot("s")
    say(files, "s", "m3")
    files.set_chat_history("s", [*files.get_chat_history("s")[:1], {"content": "x"}])
    files.revert_to_snapshot("s", snapshot)
    say(files, "s", "m4")
    seqs = asyncio.run(stored(Path(files.session_dir), "s"))
    assert [text for _, text in seqs] == ["m0", "m1", "m2", "m4"]
    assert seqs[-1][0] > 6
    assert sorted(seqs) == seqs
    files.revert_to_message("s", 1)
    assert asyncio.run(stored(Path(files.session_dir), "s")) == seqs[:2]


async def stored(directory: Path, session_id: str) -> list[tuple[int, Any]]:
    async with JSONSessionStore(directory) as store:
        messages = await store.get_messages(session_id)
        return [(message.seq, message.content) for message in messages]


def test_a_checkpoint_covers_what_it_was_made_of(files: HierarchicalSessionStore) -> None:
    say(files, "s", "m0", "m1", "m2")
    files.append_compaction_checkpoint("s", "S")
    assert files.revert_to_message("s", 0)
    say(files, "s", "m3")
    working = [turn["content"] for turn in files.get_working_history("s")]
    assert working == ["S", "m3"]


def test_the_state_goes_along_with_a_fork(files: HierarchicalSessionStore) -> None:
    async def put() -> None:
        async with JSONSessionStore(files.session_dir) as store:
            await store.append("s", [Message("user", "m0", name="Ann")])
            await store.set_state("s", "n", 1)

    async def look(session_id: str) -> tuple[Any, str | None]:
        async with JSONSessionStore(files.session_dir) as store:
            (message,) = await store.get_messages(session_id)
            return await store.get_state(session_id), message.name

    asyncio.run(put())
    snapshot, fork = files.create_snapshot("s"), files.fork_session("s")
    assert asyncio.run(look(fork)) == ({"n": 1}, "Ann")
    assert files.clear_session("s")
    assert files.revert_to_snapshot("s", snapshot)
    assert asyncio.run(look("s")) == ({"n": 1}, "Ann")


def test_what_an_async_fork_reads_stays(files: HierarchicalSessionStore) -> None:
    async def fork() -> str:
        async with AsyncHierarchicalSessionStore(JSONSessionStore(files.session_dir)) as store:
            return await store.fork_session("s")

    async def look(session_id: str) -> list[Any]:
        async with AsyncHierarchicalSessionStore(JSONSessionStore(files.session_dir)) as store:
            return [message.content for message in await store.get_messages(session_id)]

    say(files, "s", "m0", "m1")
    snapshot = files.create_snapshot("s")
    forked = asyncio.run(fork())
    say(files, "s", "m2")
    assert files.revert_to_message("s", 1)
    assert not files.revert_to_message("s", 0)
    raising = HierarchicalSessionStore(files.session_dir, errors="raise")
    with raising, pytest.raises(SessionSharedError):
        raising.revert_to_message("s", 0)
    assert files.revert_to_snapshot("s", snapshot)
    assert asyncio.run(look(forked)) == ["m0", "m1"]
    # A copy of the record doesn't say that somebody reads the copy.
    assert files.clear_session(files.fork_session("s"))


def test_what_is_no_message_and_no_snapshot_survives(files: HierarchicalSessionStore) -> None:
    junk = {"messages": [5, {"role": "user", "content": "m0"}], "snapshots": [7], "x": 1}
    (Path(files.session_dir) / "s.json").write_text(json.dumps({"session_id": "s"} | junk))
    snapshot = files.create_snapshot("s")
    data = document(files, "s")
    assert (data["messages"][0], data["snapshots"][0], data["x"]) == (5, 7, 1)
    assert [each.id for each in files.get_snapshots("s")] == [snapshot]
    assert files.revert_to_snapshot("s", snapshot)


def test_a_line_of_forks_is_as_long_as_it_gets(files: HierarchicalSessionStore) -> None:
    directory = Path(files.session_dir)
    for number in range(1500):
        document = {"session_id": f"s{number}", "children_ids": [f"s{number + 1}"]}
        (directory / f"s{number}.json").write_text(json.dumps(document))
    node, depth = files.get_session_tree("s0"), 0
    while node["children"]:
        (node,) = node["children"]
        depth += 1
    assert depth == 1500


def test_a_file_that_is_imported_keeps_its_lineage(tmp_path: Path) -> None:
    store = HierarchicalSessionStore(str(tmp_path / "a"))
    say(store, "s", "m0")
    snapshot, fork = store.create_snapshot("s"), store.fork_session("s")
    payload = json.loads(json.dumps(store.export_all()))
    other = HierarchicalSessionStore(str(tmp_path / "b"))
    assert other.import_sessions(payload).imported == 2
    assert (other.get_children("s"), other.get_parent(fork)) == ([fork], "s")
    assert other.revert_to_snapshot("s", snapshot)
    say(other, "s", "m1")
    # Of the plain store, too, over a session that is there.
    plain = DefaultSessionStore(str(tmp_path / "b"))
    data = {"session_id": "s", "messages": [{"role": "user", "content": "new"}]}
    assert plain.import_sessions({"sessions": [data]}, overwrite=True).imported == 1
    assert other.get_children("s") == [fork]
    assert other.revert_to_snapshot("s", snapshot)
    assert texts(other, "s") == ["m0"]


def test_a_locked_session_raises_and_stays_as_it_is(tmp_path: Path) -> None:
    store = HierarchicalSessionStore(str(tmp_path), lock_timeout=0.05)
    say(store, "s", "m0", "m1")
    snapshot = store.create_snapshot("s")
    before = (tmp_path / "s.json").read_bytes()
    with FileLock(str(tmp_path / "s.json")):
        for call in (
            lambda: store.revert_to_message("s", 0),
            lambda: store.revert_to_snapshot("s", snapshot),
            lambda: store.create_snapshot("s"),
            lambda: store.share_session("s"),
        ):
            with pytest.raises(LockTimeoutError):
                call()
        # The fork is there, and the error says which it is.
        with pytest.raises(OSError, match="is stored, but 's' doesn't name it") as raised:
            store.fork_session("s")
    assert (tmp_path / "s.json").read_bytes() == before
    (fork,) = (path.stem for path in tmp_path.glob("*.json") if path.stem != "s")
    assert fork in str(raised.value)
    assert (store.get_parent(fork), texts(store, fork)) == ("s", ["m0", "m1"])


def test_a_store_that_is_unavailable(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "a").mkdir()
    url = f"json://{tmp_path / 'a' / 'sessions'}"
    store = HierarchicalSessionStore.from_url(url)
    store.create_session("s", "secret")
    (tmp_path / "a").rename(tmp_path / "b")
    (tmp_path / "a").write_text("no directory")
    assert store.get_children("s") == []
    assert store.get_session("s").title is None
    assert store.set_title("s", "x") is False
    assert store.revert_to_message("s", 0) is False
    assert store.get_session_tree("s")["children"] == []
    for method in ("create_session", "create_snapshot", "fork_session"):
        with pytest.raises(OSError, match="sessions"):
            getattr(store, method)("s")
    raising = HierarchicalSessionStore.from_url(url, errors="raise")
    with pytest.raises(StoreUnavailableError):
        raising.revert_to_message("s", 0)
    with pytest.raises(StoreUnavailableError):
        raising.create_session()
    assert "secret" not in caplog.text


def put(store: DefaultSessionStore, name: str, /, **fields: Any) -> None:
    path = Path(store.session_dir) / f"{name}.json"
    path.write_text(json.dumps({"session_id": name} | fields))


def turns(*contents: str) -> list[dict[str, Any]]:
    return [
        {"role": "user", "content": text, "timestamp": 1.0, "metadata": {}} for text in contents
    ]


def test_old_snapshots_are_places_among_the_messages(files: HierarchicalSessionStore) -> None:
    snapshots = [{"id": f"at{index}", "message_index": index} for index in (-1, 0, 1, 5)]
    put(files, "s", messages=turns("m0", "m1", "m2"), snapshots=snapshots)
    assert files.revert_to_snapshot("s", "at5") is False
    assert files.revert_to_snapshot("s", "at1")
    assert texts(files, "s") == ["m0", "m1"]
    files.set_chat_history("s", turns("m0", "x", "y"))
    # Other messages stand there now.
    assert files.revert_to_snapshot("s", "at1") is False
    exported = files.export_session("s")
    assert [each.get("invalidated") for each in exported["snapshots"]] == [None, True, True, True]
    assert files.revert_to_snapshot("s", "at-1")
    assert texts(files, "s") == []
    assert files.get_snapshots(files.import_session(exported)) == [
        SessionSnapshot.from_dict(each) for each in exported["snapshots"]
    ]


def test_inline_snapshots(files: HierarchicalSessionStore) -> None:
    checkpoint = {"summary": "S", "message_index": 1}
    whole = {"messages": turns("m0", "m1"), "archived_messages": turns("old")}
    snapshots = [
        {"id": "whole", "transcript": whole | {"last_compaction": checkpoint}},
        {"id": "part", "transcript": {"messages": [*turns("p"), 5]}},
        {"id": "gone", "transcript": whole, "invalidated": True},
    ]
    put(files, "s", messages=turns("x"), snapshots=snapshots)
    assert files.revert_to_snapshot("s", "gone") is False
    assert files.revert_to_snapshot("s", "whole")
    session = files.get_session("s")
    assert [each.content for each in session.messages] == ["m0", "m1"]
    assert [each.content for each in session.archived_messages] == ["old"]
    assert session.get_working_history()[0]["content"] == "S"
    imported = files.import_session(files.export_session("s"))
    stored = document(files, imported)["snapshots"]
    # What isn't whole stays as it is.
    assert ["transcript" in each for each in stored] == [False, True, True]
    assert files.revert_to_snapshot(imported, "part")
    assert texts(files, imported) == ["p"]


DAMAGE: dict[str, dict[str, Any]] = {
    "no storage": {"snapshot_storage": None},
    "a later version": {"snapshot_storage": {"version": 2, "records": {}}},
    "no records": {"snapshot_storage": {"version": 1}},
    "a missing record": {"snapshot_storage": {"version": 1, "records": {}}},
    "a record that is none": {"snapshot_storage": {"version": 1, "records": {"0": 5, "1": None}}},
    "no references": {"snapshots": [{"id": "x", "transcript_refs": 5}]},
    "odd references": {"snapshots": [{"id": "x", "transcript_refs": {"messages": {"all": 1}}}]},
    "half a transcript": {"snapshots": [{"id": "x", "transcript_refs": {}}]},
}


@pytest.mark.parametrize(
    "transcript", [5, ["x"], {"messages": [], "last_compaction": 5}], ids=["number", "list", "part"]
)
def test_a_transcript_that_is_none_changes_nothing(
    files: HierarchicalSessionStore, transcript: Any
) -> None:
    put(files, "s", messages=turns("m0"), snapshots=[{"id": "x", "transcript": transcript}])
    before = document(files, "s")
    assert files.revert_to_snapshot("s", "x") is False
    assert document(files, "s") == before


@pytest.mark.parametrize("field", ["children_ids", "snapshots", "parent_id", "title"])
@pytest.mark.parametrize("value", [None, 5, {"a": 1}], ids=["null", "number", "object"])
def test_odd_fields_break_nothing(
    files: HierarchicalSessionStore, field: str, value: object
) -> None:
    put(files, "s", messages=turns("m0"), **{field: value})
    assert isinstance(files.get_children("s"), list)
    assert isinstance(files.get_snapshots("s"), list)
    assert texts(files, files.fork_session("s")) == ["m0"]
    assert files.get_session_tree("s")["children"][0]["message_count"] == 1
    snapshot = files.create_snapshot("s") if field != "snapshots" or value is None else ""
    assert files.revert_to_snapshot("s", snapshot) is bool(snapshot)


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_damaged_snapshots_stay_as_they_are(
    files: HierarchicalSessionStore, damage: dict[str, Any]
) -> None:
    say(files, "s", "m0")
    files.create_snapshot("s")
    data = document(files, "s") | damage
    data["snapshots"][0]["id"] = "x"
    put(files, "s", **data)
    before = document(files, "s")
    assert files.get_snapshots("s") == []
    assert files.revert_to_snapshot("s", "x") is False
    assert document(files, "s") == before
    with HierarchicalSessionStore(files.session_dir, errors="raise") as raising:
        for method in ("get_snapshots", "get_session", "export_session"):
            with pytest.raises(StoreUnavailableError, match="snapshots of 's' are damaged"):
                getattr(raising, method)("s")
    # What needs none of them goes on.
    say(files, "s", "m1")
    assert files.get_children("s") == []
    after = document(files, "s")
    assert [after["snapshots"], after["snapshot_storage"]] == [
        before["snapshots"],
        before["snapshot_storage"],
    ]


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_nothing_is_added_to_damaged_snapshots(
    files: HierarchicalSessionStore, damage: dict[str, Any]
) -> None:
    # Or what they refer to could become something else.
    say(files, "s", "m0")
    files.create_snapshot("s")
    put(files, "s", **document(files, "s") | damage)
    before = document(files, "s")
    with pytest.raises(OSError, match="snapshots of 's' are damaged"):
        files.create_snapshot("s")
    assert document(files, "s") == before


def test_a_pool_of_a_later_version_stays(files: HierarchicalSessionStore) -> None:
    put(files, "s", snapshot_storage={"version": 2})
    with pytest.raises(OSError, match="snapshots of 's' are damaged"):
        files.create_snapshot("s")
    assert document(files, "s")["snapshot_storage"] == {"version": 2}


def test_a_pool_with_odd_keys_keeps_them(files: HierarchicalSessionStore) -> None:
    say(files, "s", "m0")
    files.create_snapshot("s")
    data = document(files, "s")
    data["snapshot_storage"]["records"] |= {"3": {"x": 1}}
    put(files, "s", **data)
    say(files, "s", "m1", "m2")
    snapshot = files.create_snapshot("s")
    records = document(files, "s")["snapshot_storage"]["records"]
    assert records["3"] == {"x": 1}
    assert len(records) == 5
    files.clear_session("s")
    assert files.revert_to_snapshot("s", snapshot)
    assert texts(files, "s") == ["m0", "m1", "m2"]


def test_a_session_below_itself_is_an_error(files: HierarchicalSessionStore) -> None:
    put(files, "a", children_ids=["b", "c"], parent_id="b")
    put(files, "b", children_ids=["c"], parent_id="a")
    put(files, "c")
    files.create_session("new", parent_id="a")
    tree = files.get_session_tree("a")
    # One may be below two others.
    assert [[each["session_id"] for each in node["children"]] for node in tree["children"]] == [
        ["c"],
        [],
        [],
    ]
    put(files, "c", children_ids=["b"])
    with pytest.raises(ValueError, match="'b'"):
        files.get_session_tree("a")


# Titles.

MODULE = "praisonaiagents.session.title"


def titled(files: HierarchicalSessionStore, question: str) -> str | None:
    files.add_message("s", "user", question)
    files.add_message("s", "assistant", "Hello")
    assert asyncio.run(files.auto_title("s"))
    return files.get_session("s").title


@pytest.mark.parametrize(
    ("question", "title"),
    [
        ("What is  up?", "What is up"),
        ("One. Two.", "One"),
        ("v1.2 or v1.3?", "v1.2 or v1.3"),
        ("x" * 61, "x" * 57 + "..."),
    ],
)
def test_a_title_without_a_model(
    files: HierarchicalSessionStore, monkeypatch: pytest.MonkeyPatch, question: str, title: str
) -> None:
    monkeypatch.setitem(sys.modules, MODULE, None)
    assert titled(files, question) == title


def test_a_title_of_praisonais_model(
    files: HierarchicalSessionStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def generate_title_async(question: str, answer: str) -> str:
        return f"{question} / {answer}"

    module = types.ModuleType(MODULE)
    vars(module)["generate_title_async"] = generate_title_async
    monkeypatch.setitem(sys.modules, MODULE, module)
    assert titled(files, "Hi") == "Hi / Hello"


# Records and the rest.


def test_a_plain_session_as_an_extended_one() -> None:
    plain = SessionData("s", metadata={"a": 1})
    extended = ExtendedSessionData.from_session_data(plain)
    assert isinstance(extended, ExtendedSessionData)
    assert extended.to_dict().items() >= plain.to_dict().items()
    assert ExtendedSessionData.from_dict(extended.to_dict()) == extended


def test_a_snapshot_is_the_callers_own() -> None:
    data: dict[str, Any] = {"id": "x", "metadata": {"a": [1]}, "transcript": {"messages": [{}]}}
    snapshot = SessionSnapshot.from_dict(data)
    data["metadata"]["a"].append(2)
    copied = snapshot.to_dict()
    copied["transcript"]["messages"].append({})
    assert snapshot.metadata == {"a": [1]}
    assert snapshot.transcript == {"messages": [{}]}
    assert "invalidated" not in copied


def test_what_praisonais_command_line_calls(files: HierarchicalSessionStore) -> None:
    files.create_session("s", "T")
    load = getattr(files, "_load_extended_session")  # noqa: B009  # a private name, for its sake
    assert load("s", force_reload=True) == files.get_extended_session("s", force_reload=True)


def test_a_mirror_gets_what_is_added(tmp_path: Path) -> None:
    records: list[Any] = []

    class Mirror:
        def append(self, session_id: str, added: list[Any]) -> None:
            records.extend((session_id, each["content"]) for each in added)

    with HierarchicalSessionStore(str(tmp_path), mirror=Mirror()) as store:
        say(store, "s", "m0")
        assert store.flush_mirror(60)
    assert records == [("s", "m0")]


def test_a_store_for_the_process(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hierarchical, "_store", None)
    store = get_hierarchical_session_store()
    assert store is get_hierarchical_session_store()
    assert store.session_dir == str(home / "sessions")
    store.close()
