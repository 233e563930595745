"""The original's API for forks and snapshots, on JSON files and on any store."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from asyncsessions import (
    InMemorySessionStore,
    InvalidMessageError,
    JSONSessionStore,
    Message,
    SessionInfo,
)
from asyncsessions.errors import SessionExistsError
from asyncsessions.hierarchy import HierarchicalSessionStore as AsyncHierarchicalSessionStore
from asyncsessions.sync import (
    DefaultSessionStore,
    ExtendedSessionData,
    HierarchicalSessionStore,
    SessionSnapshot,
)
from asyncsessions.sync._original.anybranches import AnyBranches
from asyncsessions.sync._original.anystore import AnyStore

Make = Callable[..., HierarchicalSessionStore]
SERVERS = {"postgres": "schema", "redis": "prefix", "mongo": "database"}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PRAISONAI_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture(params=["files", "json", "jsonl", "memory", *SERVERS])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Make]:
    stores = []
    name = f"tree_{uuid.uuid4().hex}"
    directory = tmp_path / "sessions"

    def make(**options: Any) -> HierarchicalSessionStore:
        if request.param == "files":
            store = HierarchicalSessionStore(str(directory), **options)
        elif request.param in SERVERS:
            server = request.getfixturevalue(f"{request.param}_url")
            url = f"{server}?{SERVERS[request.param]}={name}"
            store = HierarchicalSessionStore.from_url(url, **options)
        else:
            place = "" if request.param == "memory" else str(directory)
            store = HierarchicalSessionStore.from_url(f"{request.param}://{place}", **options)
        stores.append(store)
        return store

    yield make
    for store in stores:
        store.close()


@pytest.fixture
def store(make: Make) -> HierarchicalSessionStore:
    return make()


def say(store: DefaultSessionStore, session_id: str, *texts: str) -> None:
    for text in texts:
        assert store.add_message(session_id, "user", text)


def texts(store: DefaultSessionStore, session_id: str) -> list[Any]:
    return [turn["content"] for turn in store.get_chat_history(session_id)]


# Branching.


def test_a_session_is_made_with_what_is_given(store: HierarchicalSessionStore) -> None:
    assert store.create_session("s", "T", agent_name="Bot", metadata={"a": [1]}) == "s"
    made = store.create_session(parent_id="s")
    session = store.get_session("s")
    assert isinstance(session, ExtendedSessionData)
    assert (session.title, session.agent_name, session.metadata["a"]) == ("T", "Bot", [1])
    assert (session.children_ids, session.parent_id) == ([made], None)
    assert store.get_parent(made) == "s"
    assert store.get_children("s") == [made]
    assert store.session_exists(made)


def test_a_missing_parent_is_made(store: HierarchicalSessionStore) -> None:
    store.create_session("s", parent_id="p")
    assert store.get_children("p") == ["s"]
    assert store.session_exists("p")


def test_making_a_session_again_loses_nothing(store: HierarchicalSessionStore) -> None:
    store.create_session("p")
    store.create_session("s", "T", "p", metadata={"a": 1, "b": 1})
    say(store, "s", "m0")
    snapshot = store.create_snapshot("s")
    fork = store.fork_session("s")
    assert store.create_session("s", "new", "p", "Bot", {"b": 2}) == "s"
    session = store.get_session("s")
    assert texts(store, "s") == ["m0"]
    assert (session.title, session.parent_id, session.agent_name) == ("new", "p", "Bot")
    assert (session.children_ids, session.metadata["a"], session.metadata["b"]) == ([fork], 1, 2)
    assert [each.id for each in session.snapshots] == [snapshot]
    store.create_session("s")
    assert store.get_session("s").title == "new"


def test_a_session_is_never_its_own_ancestor(store: HierarchicalSessionStore) -> None:
    store.create_session("a")
    store.create_session("b", parent_id="a")
    store.create_session("c", parent_id="b")
    for session_id, parent_id in (("a", "a"), ("a", "c"), ("new", "new")):
        with pytest.raises(ValueError, match=f"'{session_id}'.*'{parent_id}'"):
            store.create_session(session_id, parent_id=parent_id)
    assert not store.session_exists("new")
    assert store.get_children("c") == []
    assert store.get_parent("a") is None


def test_a_fork_begins_as_its_session_and_goes_its_own_way(
    store: HierarchicalSessionStore,
) -> None:
    store.create_session("s", "T", agent_name="Bot", metadata={"a": [1]})
    say(store, "s", "m0", "m1", "m2")
    whole, first = store.fork_session("s"), store.fork_session("s", 0, "named")
    say(store, "s", "more")
    say(store, whole, "other")
    store.update_session_metadata(whole, a=2)
    assert texts(store, "s") == ["m0", "m1", "m2", "more"]
    assert texts(store, whole) == ["m0", "m1", "m2", "other"]
    assert texts(store, first) == ["m0"]
    assert store.get_session("s").metadata["a"] == [1]
    assert store.get_session(first).metadata["a"] == [1]
    assert [store.get_session(each).title for each in (whole, first)] == ["Fork of T", "named"]
    assert store.get_session(whole).agent_name == "Bot"
    assert store.get_children("s") == [whole, first]
    assert store.get_parent(first) == "s"


@pytest.mark.parametrize("index", [-1, 2, 99])
def test_a_fork_needs_a_message_of_its_session(store: HierarchicalSessionStore, index: int) -> None:
    say(store, "s", "m0", "m1")
    with pytest.raises(ValueError, match=f"'s' has no message with index {index}"):
        store.fork_session("s", index)
    assert store.get_children("s") == []
    assert len(store.list_sessions()) == 1


def test_forking_what_is_missing_makes_it(store: HierarchicalSessionStore) -> None:
    fork = store.fork_session("s")
    assert store.get_children("s") == [fork]
    assert texts(store, fork) == []
    assert store.get_session(fork).title == "Fork of s"


def test_a_tree(store: HierarchicalSessionStore) -> None:
    store.create_session("s", "T")
    say(store, "s", "m0")
    child = store.fork_session("s", title="C")
    below = store.fork_session(child, title="B")
    say(store, below, "m1")
    other = store.fork_session("s", title="O")

    def node(session_id: str, title: str, count: int, *children: dict[str, Any]) -> dict[str, Any]:
        fields = {"session_id": session_id, "title": title, "message_count": count}
        return fields | {"children": [*children]}

    expected = node("s", "T", 1, node(child, "C", 1, node(below, "B", 2)), node(other, "O", 1))
    assert store.get_session_tree("s") == expected


def test_what_is_missing_has_no_kin(store: HierarchicalSessionStore) -> None:
    assert store.get_children("nobody") == []
    assert store.get_parent("nobody") is None
    assert store.is_shared("nobody") is False
    assert store.get_snapshots("nobody") == []
    assert store.get_extended_session("nobody").to_dict()["children_ids"] == []
    assert store.revert_to_snapshot("nobody", "x") is False
    assert store.revert_to_message("nobody", 0) is False
    assert store.get_session_tree("nobody")["children"] == []
    assert not store.session_exists("nobody")


@pytest.mark.parametrize(
    "method", ["get_children", "get_snapshots", "share_session", "fork_session", "create_snapshot"]
)
def test_an_id_is_text(store: HierarchicalSessionStore, method: str) -> None:
    with pytest.raises(TypeError):
        getattr(store, method)(5)


# Snapshots.


def test_a_snapshot_brings_back_what_was_there(store: HierarchicalSessionStore) -> None:
    say(store, "s", "m0", "m1")
    store.append_compaction_checkpoint("s", "S")
    say(store, "s", "m2")
    working = store.get_working_history("s")
    snapshot = store.create_snapshot("s", "L", {"k": (1, 2)})
    say(store, "s", "m3")
    store.append_compaction_checkpoint("s", "other")
    assert store.revert_to_snapshot("s", snapshot)
    assert texts(store, "s") == ["m0", "m1", "m2"]
    assert store.get_working_history("s") == working
    say(store, "s", "again")
    assert texts(store, "s") == ["m0", "m1", "m2", "again"]
    (found,) = store.get_snapshots("s")
    assert isinstance(found, SessionSnapshot)
    assert (found.id, found.session_id, found.label) == (snapshot, "s", "L")
    assert (found.message_index, found.metadata, found.invalidated) == (2, {"k": [1, 2]}, False)


def test_a_snapshot_outlives_a_cleared_session(store: HierarchicalSessionStore) -> None:
    say(store, "s", "m0", "m1")
    snapshot = store.create_snapshot("s")
    assert store.clear_session("s")
    assert texts(store, "s") == []
    assert store.revert_to_snapshot("s", snapshot)
    assert texts(store, "s") == ["m0", "m1"]


def test_a_snapshot_of_nothing(store: HierarchicalSessionStore) -> None:
    snapshot = store.create_snapshot("s")
    say(store, "s", "m0")
    (found,) = store.get_snapshots("s")
    assert found.message_index == -1
    assert store.revert_to_snapshot("s", snapshot)
    assert texts(store, "s") == []


def test_another_sessions_snapshot_is_unknown(store: HierarchicalSessionStore) -> None:
    say(store, "s", "m0")
    say(store, "t", "m1")
    snapshot = store.create_snapshot("t")
    assert store.revert_to_snapshot("s", snapshot) is False
    assert texts(store, "s") == ["m0"]


@pytest.mark.parametrize(("index", "left"), [(0, 1), (1, 2), (2, 3), (3, 3), (-1, 3)])
def test_back_to_a_message(store: HierarchicalSessionStore, index: int, left: int) -> None:
    say(store, "s", "m0", "m1", "m2")
    assert store.revert_to_message("s", index) is (0 <= index < 3)
    assert texts(store, "s") == ["m0", "m1", "m2"][:left]


def test_places_count_among_the_active_messages(make: Make) -> None:
    store = make(active_window=3)
    say(store, "s", *(f"m{number}" for number in range(8)))
    shown = texts(store, "s")
    assert shown[1:] == ["m5", "m6", "m7"]  # Behind the summary.
    fork = store.fork_session("s", 2)
    assert texts(store, fork)[-2:] == ["m5", "m6"]
    snapshot = store.create_snapshot("s")
    assert store.get_snapshots("s")[0].message_index == 3
    assert store.get_session_tree("s")["message_count"] == 4
    assert store.revert_to_message("s", 1)
    assert texts(store, "s")[-1] == "m5"
    assert store.revert_to_snapshot("s", snapshot)
    assert texts(store, "s")[1:] == shown[1:]
    assert store.revert_to_message("s", 4) is False


def test_places_count_what_is_left_after_a_revert(store: HierarchicalSessionStore) -> None:
    say(store, "s", "m0", "m1", "m2")
    assert store.revert_to_message("s", 0)
    say(store, "s", "m3", "m4")
    fork = store.fork_session("s", 1)
    assert texts(store, fork) == ["m0", "m3"]
    assert store.revert_to_message("s", 1)
    assert texts(store, "s") == ["m0", "m3"]


def test_a_place_of_the_summary(make: Make) -> None:
    store = make(active_window=2)
    say(store, "s", *(f"m{number}" for number in range(6)))
    assert store.revert_to_message("s", 0)
    assert {"m4", "m5"}.isdisjoint(texts(store, "s"))


# The record.


def test_sharing(store: HierarchicalSessionStore) -> None:
    assert store.share_session("s")
    assert store.is_shared("s")
    assert store.get_session("s").is_shared
    assert store.unshare_session("s")
    assert not store.is_shared("s")


def test_a_title(store: HierarchicalSessionStore) -> None:
    assert store.set_title("s", "T")
    assert store.get_session("s").title == "T"
    assert store.set_title("s", "")
    assert not store.get_session("s").title


async def make_title(question: str, answer: str) -> str:
    return f" {question} / {answer} "


async def fail(question: str, answer: str) -> str:
    raise RuntimeError(question + answer)


def test_an_automatic_title(store: HierarchicalSessionStore) -> None:
    title = store.auto_title
    assert not asyncio.run(title("s", title_maker=make_title))
    store.add_message("s", "assistant", "before")
    store.add_message("s", "user", [{"type": "text", "text": "x"}])
    say(store, "s", " ", "Hi")
    assert not asyncio.run(title("s", title_maker=make_title))
    store.add_message("s", "assistant", "")
    store.add_message("s", "assistant", "Hello")
    assert asyncio.run(title("s", title_maker=make_title))
    assert store.get_session("s").title == "Hi / Hello"
    assert not asyncio.run(title("s", title_maker=fail))


def test_a_title_of_meanwhile_stays(store: HierarchicalSessionStore) -> None:
    store.set_chat_history(
        "s", [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    )

    async def slowly(question: str, answer: str) -> str:
        await asyncio.to_thread(store.set_title, "s", "mine")
        return question + answer

    assert asyncio.run(store.auto_title("s", title_maker=slowly))
    assert store.get_session("s").title == "mine"


def test_a_title_that_cannot_be_made(
    store: HierarchicalSessionStore, caplog: pytest.LogCaptureFixture
) -> None:
    store.add_message("s", "user", "secret")
    store.add_message("s", "assistant", "secret")
    assert not asyncio.run(store.auto_title("s", title_maker=fail))
    assert "RuntimeError" in caplog.text
    assert "secret" not in caplog.text


# Moving.


def test_an_export_comes_back_on_its_own(make: Make) -> None:
    store = make(retention="keep_all")
    store.create_session("p")
    store.create_session("s", "T", "p", "Bot", {"a": 1})
    say(store, "s", "m0", "m1")
    store.share_session("s")
    fork = store.fork_session("s")
    exported = json.loads(json.dumps(store.export_session("s")))
    assert (exported["parent_id"], exported["children_ids"]) == ("p", [fork])
    made = store.import_session(exported)
    session = store.get_session(made)
    assert texts(store, made) == ["m0", "m1"]
    assert (session.title, session.agent_name, session.metadata["a"]) == ("T", "Bot", 1)
    assert (session.parent_id, session.children_ids, session.is_shared) == (None, [], True)
    assert store.import_session(exported, "named") == "named"
    assert store.get_children("p") == ["s"]


def test_a_replaced_session_stays_among_its_kin(store: HierarchicalSessionStore) -> None:
    store.create_session("s", parent_id="p")
    say(store, "s", "m0")
    fork = store.fork_session("s")
    data = {"messages": [{"role": "user", "content": "new"}], "metadata": {"a": 1}}
    assert store.import_session(data, "s") == "s"
    assert texts(store, "s") == ["new"]
    assert store.get_session("s").metadata["a"] == 1
    assert (store.get_parent("s"), store.get_children("s")) == ("p", [fork])
    assert texts(store, fork) == ["m0"]


def test_an_export_of_several_sessions(store: HierarchicalSessionStore) -> None:
    store.create_session("s", "T", metadata={"lineage_id": "L"})
    say(store, "s", "m0")
    store.create_session("t", metadata={"lineage_id": "L"})
    alone = store.export_session("s", include_lineage=False)
    assert [each["session_id"] for each in alone["sessions"]] == ["s"]
    both = store.export_session("s", include_lineage=True)
    assert sorted(each["session_id"] for each in both["sessions"]) == ["s", "t"]
    assert store.delete_session("s")
    assert store.import_sessions(both).imported == 1
    assert texts(store, "s") == ["m0"]


def test_an_export_of_damaged_snapshots_is_refused(store: HierarchicalSessionStore) -> None:
    data = {"snapshots": [{"id": "x", "transcript_refs": {"messages": {"items": ["0"]}}}]}
    with pytest.raises(ValueError, match="damaged"):
        store.import_session(data, "s")
    report = store.import_sessions({"sessions": [{"session_id": "s", **data}]})
    assert (report.imported, report.skipped_count) == (0, 1)
    assert not store.session_exists("s")


# What can't be stored.


@pytest.mark.parametrize("bad", [{"x": {1}}, {"x": "lone \ud800"}], ids=["set", "surrogate"])
def test_what_json_cannot_hold_is_not_stored(make: Make, bad: dict[str, Any]) -> None:
    store = make()
    calls: list[Callable[[HierarchicalSessionStore], object]] = [
        lambda store: store.create_session("s", metadata=bad),
        lambda store: store.create_snapshot("s", metadata=bad),
        lambda store: store.import_session({"metadata": bad}, "s"),
    ]
    for call in calls:
        with pytest.raises(OSError, match=r"JSON|surrogate"):
            call(store)
    with make(errors="raise") as raising, pytest.raises(InvalidMessageError):
        calls[0](raising)
    assert not store.session_exists("s")


# At the same time.


class Vanishing(AsyncHierarchicalSessionStore):
    """A store whose session somebody else deletes as soon as it was looked at."""

    async def get_session(  # type: ignore[misc]  # final for all others
        self, session_id: str, *, max_messages: int | None = None
    ) -> Any:
        session = await super().get_session(session_id, max_messages=max_messages)
        await self.delete_session(session_id)
        return session

    async def get_info(  # type: ignore[misc]  # as above
        self, session_id: str
    ) -> SessionInfo | None:
        info = await super().get_info(session_id)
        await self.delete_session(session_id)
        return info


@pytest.mark.parametrize(
    ("method", "args", "expected"),
    [
        ("node", (), None),
        ("read", (), None),
        ("fork", (0, None), None),
        ("revert_to_message", (0,), False),
    ],
)
async def test_a_session_that_is_deleted_meanwhile(
    method: str, args: tuple[Any, ...], expected: object
) -> None:
    async with Vanishing(InMemorySessionStore()) as store:
        await store.append("s", [Message("user", "m0")])
        branches = AnyBranches(store, AnyStore(store, None))
        assert await getattr(branches, method)("s", *args) is expected
        assert not await store.session_exists("s")


def test_what_forks_of_the_async_store_read_stays(tmp_path: Path) -> None:
    async def fork() -> str:
        async with AsyncHierarchicalSessionStore(JSONSessionStore(tmp_path)) as tree:
            await tree.append("s", [Message("user", f"m{number}") for number in range(3)])
            return await tree.fork_session("s")

    async def count(session_id: str) -> int:
        async with AsyncHierarchicalSessionStore(JSONSessionStore(tmp_path)) as tree:
            return len(await tree.get_messages(session_id))

    session_id = asyncio.run(fork())
    with HierarchicalSessionStore(str(tmp_path)) as store:
        assert not store.clear_session("s")
        assert not store.set_chat_history("s", [{"role": "user", "content": "x"}])
    assert asyncio.run(count(session_id)) == asyncio.run(count("s")) == 3


def test_a_session_is_elsewhere_already(make: Make, tmp_path: Path) -> None:
    store = make()
    store.create_session("s", parent_id="p")
    if list((tmp_path / "sessions").glob("*.json")):
        # In files it is below both then, as the original has it.
        store.create_session("s", parent_id="q")
        assert store.get_children("p") == store.get_children("q") == ["s"]
    else:
        with pytest.raises(SessionExistsError, match="'s'"):
            store.create_session("s", parent_id="q")
        assert (store.get_parent("s"), store.get_children("q")) == ("p", [])
