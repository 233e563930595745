"""The original's API: what its methods return, on JSON files and on any store."""

from __future__ import annotations

import asyncio
import json
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from asyncsessions import (
    CorruptSessionError,
    IdempotencyConflictError,
    InvalidMessageError,
    LockTimeoutError,
    Message,
    StoreClosedError,
    StoreUnavailableError,
)
from asyncsessions.stores._disk import Disk
from asyncsessions.stores.json import JSONSessionStore
from asyncsessions.sync import (
    CompactionCheckpoint,
    DefaultSessionStore,
    FileLock,
    SessionData,
    SessionMessage,
)

CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
Make = Callable[..., DefaultSessionStore]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PRAISONAI_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture(params=["files", "json", "jsonl", "memory", "postgres", "redis", "mongo"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Make]:
    stores = []
    name = f"sync_{uuid.uuid4().hex}"

    def url() -> str:
        if request.param == "memory":
            return "memory://"
        if request.param in {"json", "jsonl"}:
            return f"{request.param}://{tmp_path / 'sessions'}"
        server = request.getfixturevalue(f"{request.param}_url")
        option = {"postgres": "schema", "redis": "prefix", "mongo": "database"}[request.param]
        return f"{server}?{option}={name}"

    def make(**options: Any) -> DefaultSessionStore:
        if request.param == "files":
            store = DefaultSessionStore(str(tmp_path / "sessions"), **options)
        else:
            store = DefaultSessionStore.from_url(url(), **options)
        stores.append(store)
        return store

    yield make
    for store in stores:
        store.close()


@pytest.fixture
def store(make: Make) -> DefaultSessionStore:
    return make()


@pytest.fixture
def files(tmp_path: Path) -> Iterator[DefaultSessionStore]:
    with DefaultSessionStore(str(tmp_path / "sessions")) as store:
        yield store


def say(store: DefaultSessionStore, *texts: str) -> None:
    for text in texts:
        assert store.add_message("s", "user", text)


def contents(messages: list[Any]) -> list[Any]:
    return [
        each.content if isinstance(each, SessionMessage) else each["content"] for each in messages
    ]


# Messages.


def test_a_conversation(store: DefaultSessionStore) -> None:
    assert store.get_chat_history("s") == []
    assert not store.session_exists("s")
    assert store.add_user_message("s", "Hi", {"k": 1})
    assert store.add_assistant_message("s", "Hello")
    assert store.session_exists("s")
    history = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    assert store.get_chat_history("s") == store.get_working_history("s") == history
    session = store.get_session("s")
    assert session.get_chat_history() == history
    assert session.messages[0].metadata == {"k": 1}
    assert abs(session.messages[0].timestamp - time.time()) < 60
    assert session.updated_at >= session.created_at > "2026"
    assert session.updated_at.endswith("+00:00")


def test_tool_turns(store: DefaultSessionStore) -> None:
    assert store.add_message("s", "assistant", None, None, [CALL])
    assert store.add_message("s", "tool", "4", tool_call_id="c", tool_calls=[])
    assert store.get_chat_history("s") == [
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "content": "4", "tool_call_id": "c"},
    ]


@pytest.mark.parametrize("content", [None, "", [{"type": "text", "text": "x"}], {"a": 1}, 5, 1.5])
def test_any_content_comes_back(store: DefaultSessionStore, content: Any) -> None:
    assert store.add_message("s", "user", content)
    assert store.get_chat_history("s") == [{"role": "user", "content": content}]


def test_metadata_comes_back_as_json_holds_it(store: DefaultSessionStore) -> None:
    assert store.add_message("s", "", "no role", {1: (1, 2)})  # type: ignore[dict-item]  # JSON takes it
    (message,) = store.get_session("s").messages
    assert (message.role, message.metadata) == ("", {"1": [1, 2]})


@pytest.mark.parametrize(("content", "metadata"), [("secret", {"k": {1}}), ("secret \ud800", None)])
def test_what_json_cannot_hold_is_not_stored(make: Make, content: str, metadata: Any) -> None:
    store = make()
    assert store.add_message("s", "user", content, metadata) is False
    assert not store.session_exists("s")
    with pytest.raises(InvalidMessageError) as caught:
        make(errors="raise").add_message("s", "user", content, metadata)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("limit", "expected"),
    [(None, "1234"), (0, "1234"), (2, "34"), (9, "1234"), (-1, "")],
)
def test_the_newest_messages(store: DefaultSessionStore, limit: int | None, expected: str) -> None:
    say(store, *"1234")
    assert contents(store.get_chat_history("s", limit)) == list(expected)


@pytest.mark.parametrize("limit", [2, 3])
def test_a_window_does_not_start_with_a_result(store: DefaultSessionStore, limit: int) -> None:
    store.add_message("s", "assistant", None, None, [CALL])
    for _ in range(2):
        store.add_message("s", "tool", "r", tool_call_id="c")
    store.add_message("s", "user", "u")
    assert contents(store.get_chat_history("s", limit)) == ["u"]
    assert len(store.get_chat_history("s", 4)) == 4


# Streaming turns.


def test_a_partial_turn_is_one_message(store: DefaultSessionStore) -> None:
    assert store.upsert_partial_assistant_message("s", "He")
    assert store.upsert_partial_assistant_message("s", "Hello")
    (message,) = store.get_session("s").messages
    assert (message.content, message.metadata) == ("Hello", {"partial": True})
    assert store.upsert_partial_assistant_message("s", "Hello!", finalize=True)
    (message,) = store.get_session("s").messages
    assert (message.content, message.metadata) == ("Hello!", {})
    assert store.upsert_partial_assistant_message("s", "Next", finalize=True)
    assert contents(store.get_session("s").messages) == ["Hello!", "Next"]


def test_a_partial_turn_is_discarded(store: DefaultSessionStore) -> None:
    assert store.discard_partial_assistant_message("s")
    assert store.upsert_partial_assistant_message("s", "", finalize=True)
    assert not store.session_exists("s")
    say(store, "u")
    assert store.discard_partial_assistant_message("s")
    assert store.upsert_partial_assistant_message("s", "x")
    assert store.upsert_partial_assistant_message("s", "", finalize=True)
    assert store.upsert_partial_assistant_message("s", "y")
    assert store.discard_partial_assistant_message("s")
    assert contents(store.get_session("s").messages) == ["u"]


# Rewriting.


def test_a_history_is_replaced(store: DefaultSessionStore) -> None:
    say(store, "old")
    store.append_compaction_checkpoint("s", "S")
    store.update_session_metadata("s", k=1)
    turns: list[dict[str, Any]] = [
        {"content": None},
        {"role": "assistant", "content": "a", "timestamp": 12.5, "tool_calls": [CALL], "x": 1},
        {"role": "tool", "content": "r", "timestamp": "2026-01-01T00:00:00", "metadata": None},
    ]
    assert store.set_chat_history("s", turns)
    session = store.get_session("s")
    assert contents(session.messages) == ["", "a", "r"]
    assert [each.role for each in session.messages] == ["user", "assistant", "tool"]
    assert session.messages[1].tool_calls == [CALL]
    assert session.messages[1].timestamp == 12.5
    assert session.messages[2].timestamp == "2026-01-01T00:00:00"
    assert session.messages[2].metadata is None
    assert (session.last_compaction, session.metadata) == (None, {"k": 1})
    with pytest.raises(AttributeError):
        store.set_chat_history("s", ["no dict"])
    assert len(store.get_chat_history("s")) == 3
    assert store.set_chat_history("s", [])
    assert store.get_chat_history("s") == []
    assert store.session_exists("s")


def test_a_session_is_cleared_and_deleted(store: DefaultSessionStore) -> None:
    say(store, "x")
    store.append_compaction_checkpoint("s", "S")
    store.update_session_metadata("s", k=1)
    assert store.clear_session("s")
    session = store.get_session("s")
    assert (session.messages, session.last_compaction) == ([], None)
    assert session.metadata == {"k": 1}
    assert store.clear_session("new")
    assert store.session_exists("new")
    assert store.delete_session("s")
    assert store.delete_session("s")
    assert not store.session_exists("s")
    assert store.get_session("s").metadata == {}


def test_a_checkpoint_stands_for_what_was_before(store: DefaultSessionStore) -> None:
    for blank in ("", "  "):
        assert store.append_compaction_checkpoint("s", blank) is False
    say(store, "1", "2")
    assert store.append_compaction_checkpoint("s", "S", role="user", tokens_before=9)
    say(store, "3", "4", "5")
    working = store.get_working_history("s")
    assert working[0] == {"role": "user", "content": "S"}
    assert contents(working) == ["S", "3", "4", "5"]
    assert contents(store.get_working_history("s", 3)) == ["S", "4", "5"]
    assert contents(store.get_working_history("s", 1)) == ["S"]
    checkpoint = store.get_session("s").last_compaction
    assert isinstance(checkpoint, CompactionCheckpoint)
    assert (checkpoint.message_index, checkpoint.tokens_before) == (2, 9)


# Retention.


def test_compact_archives_behind_one_summary(make: Make) -> None:
    store = make(active_window=3)
    say(store, *map(str, range(10)))
    session = store.get_session("s")
    assert contents(session.messages[1:]) == ["7", "8", "9"]
    assert contents(session.archived_messages) == list("0123456")
    lead = session.messages[0]
    assert (lead.role, lead.metadata) == ("system", {"compaction": True, "compacted_count": 7})
    assert lead.content == "[Session Summary]\n7 earlier messages are archived."
    assert len(store.get_chat_history("s")) == 4
    assert contents(store.get_chat_history("s", 2)) == ["8", "9"]
    assert store.list_sessions()[0]["message_count"] == 4
    assert [each["archived"] for each in store.window("s", "6", window=1)] == [True, True, False]
    assert store.search("5")[0].anchor_index == 5
    store.append_compaction_checkpoint("s", "S")
    say(store, "10")
    assert contents(store.get_working_history("s")) == ["S", "10"]


def test_truncate_drops(make: Make) -> None:
    store = make(max_messages=3)
    assert (store.retention, store.active_window) == ("truncate", 3)
    say(store, *"12345")
    assert contents(store.get_chat_history("s")) == ["3", "4", "5"]
    store.set_chat_history("s", [{"role": "user", "content": text} for text in "abcde"])
    assert contents(store.get_chat_history("s")) == ["c", "d", "e"]
    assert store.get_session("s").archived_messages == []


@pytest.mark.parametrize("options", [{"retention": "keep_all"}, {"active_window": 0}])
def test_everything_is_kept(make: Make, options: dict[str, Any]) -> None:
    store = make(max_messages=2, **options)
    say(store, *"12345")
    assert len(store.get_chat_history("s")) == 5
    assert contents(store.get_working_history("s")) == ["4", "5"]


def test_what_is_no_retention_is_refused(make: Make) -> None:
    with pytest.raises(ValueError, match="retention"):
        make(retention="none")
    with pytest.raises(ValueError, match="errors"):
        make(errors="ignore")


# The record.


def test_the_record(store: DefaultSessionStore) -> None:
    assert store.set_agent_info("s")
    assert store.session_exists("s")
    assert store.set_agent_info("s", "Bot", "u1")
    assert store.set_agent_info("s", "", None)
    assert store.set_gateway_info("s", "gw", "agent")
    assert store.set_gateway_info("s")
    session = store.get_session("s")
    assert (session.agent_name, session.user_id) == ("Bot", "u1")
    assert (session.gateway_session_id, session.agent_id) == ("gw", "agent")
    found = store.get_by_gateway_session("gw")
    assert found is not None
    assert found.session_id == "s"
    assert store.get_by_gateway_session("other") is None
    assert store.list_sessions_by_gateway_agent("agent") == ["s"]
    assert store.list_sessions_by_agent("Bot") == ["s"]
    assert store.list_sessions_by_agent("Bot", 0) == []


def test_metadata_is_merged(store: DefaultSessionStore) -> None:
    assert store.update_session_metadata("s")
    assert not store.session_exists("s")
    assert store.update_session_metadata("s", nothing=None)
    assert store.session_exists("s")
    assert store.update_session_metadata("s", model="m", cost=0.5, user_id="u", deep={1: (2,)})
    assert store.update_session_metadata("s", model="m2", cost=None)
    session = store.get_session("s")
    assert session.metadata == {"model": "m2", "cost": 0.5, "user_id": "u", "deep": {"1": [2]}}
    assert session.user_id == "u"
    assert store.update_session_metadata("s", bad={1}) is False
    assert store.merge_session_metadata_map("s", "m", {"a": 1}, defaults={"a": 9, "b": 9})
    assert store.merge_session_metadata_map("s", "m", {"c": 3}, defaults={"b": 8})
    assert store.get_session("s").metadata["m"] == {"a": 1, "b": 9, "c": 3}


def test_a_title_is_set_and_removed(store: DefaultSessionStore) -> None:
    assert store.rename_session("s", "  Title ")
    assert store.list_sessions()[0]["title"] == "Title"
    assert store.rename_session("s", " ")
    assert store.list_sessions()[0]["title"] is None


def test_the_model_that_was_used(store: DefaultSessionStore) -> None:
    assert store.get_session_model("s") is None
    store.add_message("s", "user", "x", {"model": "old", "reasoning_effort": "low"})
    store.add_message("s", "user", "x", {"model": "new"})
    assert store.get_session_model("s") == "new"
    assert store.get_session_reasoning_effort("s") == "low"
    store.update_session_metadata("s", llm="l", reasoning_effort="high")
    assert store.get_session_model("s") == "l"
    store.update_session_metadata("s", model="m")
    assert store.get_session_model("s") == "m"
    assert store.get_session_reasoning_effort("s") == "high"


def test_runtime_state(store: DefaultSessionStore) -> None:
    assert store.set_runtime_state("s", "r", "t1", {"a": [1]}, mirror_enabled=False)
    assert not store.session_exists("s")
    assert store.set_runtime_state("s", "r", "t1", {"a": [1]})
    assert store.set_runtime_state("s", "r", "t2", {"b": (2,)})
    assert store.set_runtime_state("s", "q:1", "t", {})
    assert store.get_runtime_state("s", "r") == {"t1": {"a": [1]}, "t2": {"b": [2]}}
    assert store.get_runtime_state("s", "r", "t2") == {"b": [2]}
    assert store.get_runtime_state("s", "r", "t3") == store.get_runtime_state("s", "x") == {}
    assert store.set_runtime_state("s", "r", "t3", {"b": {1}}) is False
    assert store.clear_runtime_state("s", "r")
    assert store.get_session("s").runtime_state == {"q:1": {"t": {}}}
    assert store.clear_runtime_state("s")
    assert store.get_session("s").runtime_state == {}


# Finding and moving.


def test_lists_may_be_the_first_thing_asked_for(store: DefaultSessionStore) -> None:
    assert not store.list_sessions()
    assert not store.list_sessions_by_agent("a")
    assert not store.search("x")
    assert store.export_all() == {"version": 1, "sessions": []}


def test_lists_are_newest_first(store: DefaultSessionStore) -> None:
    for name in "abc":
        store.add_message(name, "user", "x")
        time.sleep(0.002)
    store.set_agent_info("a", "Bot")
    assert [each["session_id"] for each in store.list_sessions()] == ["a", "c", "b"]
    assert [each["id"] for each in store.list_sessions(2)] == ["a", "c"]
    assert len(store.list_sessions(None)) == 3
    assert [each.title for each in store.recent(limit=2)] == ["Bot", "c"]
    assert store.recent()[1].as_dict()["message_count"] == 1
    assert [each.session_id for each in store.get_sessions_by_agent("Bot")] == ["a"]
    where = {"session_id": "a", "agent_name": "Bot"}
    assert store.get_agent_chat_history("Bot") == [{"role": "user", "content": "x", **where}]


def test_search_finds_words_and_phrases(store: DefaultSessionStore) -> None:
    talk = ["plan", "the Billing migration", "ok"]
    turns = [{"role": "user", "content": text, "timestamp": 1.0} for text in talk]
    store.set_chat_history("a", turns)
    store.set_chat_history("b", turns[1:2])
    store.update_session_metadata("b", source="cron")
    store.set_chat_history("c", turns[:1])
    hits = store.search(" billing MIGRATION ", window=1)
    assert [(hit.session_id, hit.score) for hit in hits] == [("a", 4.0), ("b", 1.0)]
    assert (hits[0].anchor_index, hits[0].snippet) == (1, "the Billing migration")
    assert (hits[0].title, contents(hits[0].messages)) == ("plan", talk)
    assert contents(hits[0].bookends["opening"]) == talk[:2]
    assert store.search(" ") == store.search("nowhere") == []
    assert len(store.search("billing", limit=1)) == 1


def test_search_passes_over_the_summary_of_an_archive(make: Make) -> None:
    store = make(active_window=1)
    say(store, "the first", "2", "the last")
    assert store.get_session("s").messages[0].content.endswith("messages are archived.")
    assert store.search("messages are archived") == []
    assert [hit.anchor_index for hit in store.search("first")] == [0]
    say(store, "my messages")
    assert [hit.snippet for hit in store.search("messages")] == ["my messages"]


def test_search_shows_a_lineage_once(store: DefaultSessionStore) -> None:
    for name, text in (("a", "word"), ("b", "word word two")):
        store.set_chat_history(name, [{"role": "user", "content": text, "timestamp": 1.0}])
        store.update_session_metadata(name, lineage_id="L")
    assert [hit.session_id for hit in store.search("word two")] == ["b"]
    exported = store.export_session("a")["sessions"]
    assert [each["session_id"] for each in exported] == ["a", "b"]
    assert len(store.export_session("a", include_lineage=False)["sessions"]) == 1


def test_a_window_of_messages(store: DefaultSessionStore) -> None:
    assert store.window("s") == []
    say(store, *"12345")
    assert contents(store.window("s", "1", window=1)) == list("123")
    assert contents(store.window("s", window=1)) == list("45")
    assert contents(store.window("s", "no number", window=0)) == ["5"]
    assert [each["index"] for each in store.window("s", "99", window=0)] == [4]


def test_exports_are_imported(make: Make, tmp_path: Path) -> None:
    store = make(active_window=3)
    say(store, *"12345")
    store.set_gateway_info("s", "gw", "agent")
    store.set_runtime_state("s", "r", "t", {"v": 1})
    store.append_compaction_checkpoint("s", "S")
    say(store, "6")
    payload = json.loads(json.dumps(store.export_all()))
    with DefaultSessionStore(str(tmp_path / "other"), active_window=3) as other:
        report = other.import_sessions(payload)
        assert report.as_dict() == {"imported": 1, "skipped": [], "skipped_count": 0, "version": 1}
        before, after = store.get_session("s"), other.get_session("s")
    assert after.messages == before.messages
    assert after.archived_messages == before.archived_messages
    assert after.last_compaction == before.last_compaction
    assert after.runtime_state == {"r": {"t": {"v": 1}}}
    assert (after.gateway_session_id, after.agent_id) == (None, None)
    again = make(active_window=3)
    again.delete_session("s")
    assert again.import_sessions(payload, reset_live_fields=False).imported == 1
    restored = again.get_session("s")
    assert contents(restored.messages) == contents(before.messages)
    assert contents(restored.archived_messages) == contents(before.archived_messages)
    assert restored.last_compaction == before.last_compaction
    assert restored.runtime_state == before.runtime_state
    assert restored.gateway_session_id == "gw"


def test_an_import_reports_what_it_left_out(store: DefaultSessionStore) -> None:
    say(store, "x")
    sessions = [5, {}, {"session_id": "s"}, {"session_id": "n"}, {"session_id": "n"}]
    report = store.import_sessions({"version": 1, "sessions": sessions})
    assert report.imported == 1
    assert [each["reason"] for each in report.skipped] == [
        "malformed record at index 0",
        "missing session_id at index 1",
        "already exists (use overwrite)",
        "duplicate in payload",
    ]
    assert contents(store.get_chat_history("s")) == ["x"]
    assert store.import_sessions({"sessions": [{"session_id": "s"}]}, overwrite=True).imported == 1
    assert store.get_chat_history("s") == []
    newer = store.import_sessions({"version": 2, "sessions": [{"session_id": "m"}]})
    assert (newer.imported, newer.skipped_count) == (0, 1)
    many = {"sessions": [{"session_id": f"m{n}"} for n in range(3)]}
    capped = store.import_sessions(many, max_sessions=1)
    assert (capped.imported, capped.skipped[0]["reason"]) == (1, "max_sessions=1 cap reached")
    for nothing in (None, {}, {"sessions": 5}):
        assert store.import_sessions(nothing).imported == 0  # type: ignore[arg-type]  # as some caller may


# Life.


def test_ids_are_text(store: DefaultSessionStore) -> None:
    for bad in (None, 5):
        with pytest.raises(TypeError):
            store.get_chat_history(bad)  # type: ignore[arg-type]  # the test is about it
        with pytest.raises(TypeError):
            store.clear_session(bad)  # type: ignore[arg-type]  # as above
    with pytest.raises(ValueError, match="empty"):
        store.add_message("", "user", "x")


def test_a_closed_store_raises(make: Make) -> None:
    store = make()
    say(store, "x")
    store.close()
    store.close()
    with pytest.raises(StoreClosedError):
        store.get_chat_history("s")


def test_many_threads_lose_nothing(store: DefaultSessionStore) -> None:
    store.retention = "keep_all"

    def work(name: int) -> None:
        for number in range(10):
            assert store.add_message("s", "user", f"{name}-{number}")
            assert store.update_session_metadata("s", **{f"{name}-{number}": number})

    threads = [threading.Thread(target=work, args=(name,)) for name in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    session = store.get_session("s")
    said = contents(session.messages)
    assert sorted(said) == sorted(f"{name}-{number}" for name in range(16) for number in range(10))
    assert session.metadata.keys() == set(said)
    for name in range(16):
        mine = [text for text in said if text.startswith(f"{name}-")]
        assert mine == [f"{name}-{number}" for number in range(10)]


# Files.


def test_two_ids_never_share_a_session(files: DefaultSessionStore) -> None:
    for session_id in ("a.b@x.com", "a_b@x.com", "a+b@x.com"):
        assert files.add_message(session_id, "user", session_id)
    for session_id in ("a.b@x.com", "a_b@x.com", "a+b@x.com"):
        assert contents(files.get_chat_history(session_id)) == [session_id]
    assert len(files.list_sessions()) == 3


def test_a_file_of_the_original_is_continued(files: DefaultSessionStore) -> None:
    path = Path(files.session_dir) / "a_b_x_com.json"
    said = {"role": "user", "content": "old", "timestamp": 1.0, "metadata": {}}
    path.write_text(json.dumps({"session_id": "a.b@x.com", "messages": [said], "mine": 1}))
    assert files.add_message("a.b@x.com", "user", "new")
    document = json.loads(path.read_text())
    assert [each["content"] for each in document["messages"]] == ["old", "new"]
    assert document["mine"] == 1


async def test_what_the_async_store_hides_does_not_show(tmp_path: Path) -> None:
    async with JSONSessionStore(tmp_path) as async_store:
        message = Message("user", "x", 1.0, {"k": 1}, name="Ann", extra={"unknown": [1]})
        await async_store.append("s", [message], idempotency_key="key")
        await async_store.set_state("s", "k", 1)

    def look() -> None:
        with DefaultSessionStore(str(tmp_path)) as store:
            session = store.get_session("s")
            assert session.messages == [SessionMessage("user", "x", 1.0, {"k": 1})]
            assert session.metadata == {}
            (exported,) = store.export_all()["sessions"]
            assert exported["messages"][0]["metadata"] == {"k": 1}
            assert store.add_message("s", "user", "y")

    await asyncio.to_thread(look)
    async with JSONSessionStore(tmp_path) as async_store:
        first, _ = await async_store.get_messages("s")
        assert (first.name, first.extra) == ("Ann", {"unknown": [1]})
        assert await async_store.get_state("s", "k") == 1


@pytest.mark.parametrize("number", ["NaN", "Infinity"])
def test_numbers_that_json_does_not_know(files: DefaultSessionStore, number: str) -> None:
    said = f'{{"role": "user", "content": "x", "timestamp": 1.0, "metadata": {{"n": {number}}}}}'
    path = Path(files.session_dir) / "s.json"
    path.write_text(f'{{"session_id": "s", "messages": [{said}], "metadata": {{"n": {number}}}}}')
    assert files.add_message("s", "user", "y", {"n": float(number)})
    assert contents(files.get_chat_history("s")) == ["x", "y"]
    assert len(files.search("y")) == len(files.list_sessions()) == 1
    assert path.read_text().count(number) == 3


def test_clearing_a_file_keeps_its_archive(tmp_path: Path) -> None:
    with DefaultSessionStore(str(tmp_path), active_window=2) as store:
        say(store, *"1234")
        store.clear_session("s")
        assert contents(store.get_session("s").archived_messages) == ["1", "2"]
        assert [hit.session_id for hit in store.search("1")] == ["s"]


def test_what_changes_nothing_is_not_written(files: DefaultSessionStore) -> None:
    say(files, "x")
    files.set_agent_info("s", "Bot")
    files.update_session_metadata("s", model="m", deep={"a": [1]})
    before = (Path(files.session_dir) / "s.json").stat()
    assert files.set_agent_info("s", "Bot")
    assert files.update_session_metadata("s", model="m", deep={"a": [1]})
    assert files.discard_partial_assistant_message("s")
    assert (Path(files.session_dir) / "s.json").stat() == before
    assert files.update_session_metadata("s", model="n")
    assert files.get_session("s").metadata["model"] == "n"


@pytest.mark.parametrize("data", [b"{no", b"", b"\xff\xfe", b"[1]"])
def test_a_damaged_file_is_moved_aside(files: DefaultSessionStore, data: bytes) -> None:
    path = Path(files.session_dir) / "s.json"
    for number in range(2):
        path.write_bytes(data)
        assert files.session_exists("s")
        assert files.list_sessions() == []
        if number:
            assert files.get_chat_history("s") == []
        else:
            assert files.add_message("s", "user", "new")
            assert contents(files.get_chat_history("s")) == ["new"]
        assert len(list(path.parent.glob("s.json.corrupt-*"))) == number + 1


def test_many_threads_may_find_a_damaged_file(files: DefaultSessionStore) -> None:
    path = Path(files.session_dir) / "s.json"
    with ThreadPoolExecutor(8) as pool:
        for number in range(5):
            path.write_text("{no")
            histories = pool.map(files.get_chat_history, ["s"] * 8)
            assert list(histories) == [[]] * 8
            assert len(list(path.parent.glob("s.json.corrupt-*"))) == number + 1


def test_a_damaged_file_is_only_imported_over_where_that_is_wanted(
    files: DefaultSessionStore,
) -> None:
    path = Path(files.session_dir) / "s.json"
    path.write_text("{no")
    payload = {"sessions": [{"session_id": "s", "messages": [{"role": "user", "content": "x"}]}]}
    assert files.import_sessions(payload).skipped[0]["reason"].startswith("already exists")
    assert path.read_text() == "{no"
    assert files.import_sessions(payload, overwrite=True).imported == 1
    assert contents(files.get_chat_history("s")) == ["x"]
    assert [each.read_text() for each in path.parent.glob("s.json.corrupt-*")] == ["{no"]


@pytest.mark.parametrize("write", ["add_message", "update_session_metadata", "import_sessions"])
def test_a_directory_that_was_removed_is_made_anew(files: DefaultSessionStore, write: str) -> None:
    say(files, "1")
    shutil.rmtree(files.session_dir)
    assert files.list_sessions() == []
    assert not files.session_exists("s")
    given: tuple[Any, ...] = {
        "add_message": ("s", "user", "2"),
        "update_session_metadata": ("s",),
        "import_sessions": ({"sessions": [{"session_id": "s"}]},),
    }[write]
    options = {"k": 1} if write == "update_session_metadata" else {}
    assert getattr(files, write)(*given, **options)
    assert files.session_exists("s")
    assert contents(files.get_chat_history("s")) == ["2"] * (write == "add_message")


def test_an_export_is_complete_or_an_error(files: DefaultSessionStore) -> None:
    say(files, "x")
    bad = Path(files.session_dir) / "bad.json"
    bad.write_text("{no")
    with pytest.raises(OSError, match=r"^Incomplete session export: .*bad\.json"):
        files.export_all()
    assert len(files.export_session("s")["sessions"]) == 1
    bad.unlink()
    shutil.rmtree(files.session_dir)
    with pytest.raises(OSError, match=r"^Incomplete session export: "):
        files.export_all()


def test_a_version_to_come_is_left_alone(files: DefaultSessionStore) -> None:
    path = Path(files.session_dir) / "s.json"
    path.write_text('{"session_id": "s", "metadata": {"asyncsessions": {"version": 2}}}')
    before = path.read_bytes()
    with pytest.raises(CorruptSessionError, match="version 2"):
        files.add_message("s", "user", "x")
    assert path.read_bytes() == before


def test_a_locked_session_raises(tmp_path: Path) -> None:
    with DefaultSessionStore(str(tmp_path), lock_timeout=0.1) as store:
        say(store, "x")
        with FileLock(str(tmp_path / "s.json")):
            with pytest.raises(OSError, match="locked") as caught:
                store.add_message("s", "user", "y")
            assert isinstance(caught.value, LockTimeoutError)
            assert contents(store.get_chat_history("s")) == ["x"]
        say(store, "y")


def test_a_lock_is_exclusive(tmp_path: Path) -> None:
    path = str(tmp_path / "deep" / "s.json")
    lock, other = FileLock(path), FileLock(path, 0.05)
    assert lock.acquire()
    assert not other.acquire()
    with pytest.raises(OSError, match=r"^Failed to acquire file lock for"), other:
        pass
    lock.release()
    lock.release()
    with other:
        assert (tmp_path / "deep" / "s.json.lock").exists()


@contextmanager
def refusing_disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let no document of session ``s`` be written."""
    replace = Path.replace

    def refuse(self: Path, target: Path) -> None:
        if target.name == "s.json":
            raise OSError("no")
        replace(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", refuse)
        yield


def test_what_cannot_be_written_is_spilled_and_taken_over(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spills = home / "state" / "session_spill"
    with DefaultSessionStore(str(tmp_path / "sessions")) as store:
        say(store, "1")
        with refusing_disk(monkeypatch):
            assert store.add_message("s", "user", "2", {"k": 1}) is False
            assert store.update_session_metadata("s", k=1) is False
            assert contents(store.get_chat_history("s")) == ["1"]
        (spill,) = spills.iterdir()
        assert spill.stat().st_mode & 0o777 == 0o600
        assert list(json.loads(spill.read_text())) == ["session_id", "spilled_at", "messages"]
        assert contents(store.get_chat_history("s")) == ["1", "2"]
        assert store.get_session("s").messages[1].metadata == {"k": 1}
        assert not list(spills.iterdir())


def test_all_that_was_spilled_is_taken_over(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long the disk refuses."""
    with DefaultSessionStore(str(tmp_path / "sessions")) as store:
        say(store, "1")
        with refusing_disk(monkeypatch):
            for text in ("2", "3", "4"):
                assert store.add_message("s", "user", text) is False
                time.sleep(0.2)
        assert contents(store.get_chat_history("s")) == ["1", "2", "3", "4"]
    assert not list((home / "state" / "session_spill").iterdir())


def test_what_has_expired_is_nowhere(tmp_path: Path) -> None:
    url = f"json://{tmp_path / 'sessions'}"
    with DefaultSessionStore.from_url(f"{url}?ttl_seconds=0.1") as store:
        store.add_message("a", "user", "secret")
        store.set_gateway_info("a", gateway_session_id="g")
        time.sleep(0.2)
    with DefaultSessionStore.from_url(url) as store:
        store.add_message("b", "user", "open")
        store.set_gateway_info("b", gateway_session_id="g")
        assert [each["session_id"] for each in store.list_sessions()] == ["b"]
        assert not store.search("secret")
        found = store.get_by_gateway_session("g")
        assert found is not None
        assert found.session_id == "b"


def test_an_unavailable_store_is_said_as_the_caller_likes(tmp_path: Path) -> None:
    path = tmp_path / "sessions"
    with DefaultSessionStore(str(path)) as store:
        say(store, "1")
        for file in path.iterdir():
            file.unlink()
        path.rmdir()
        path.write_text("no directory")
        assert store.get_chat_history("s") == []
        session = store.get_session("s")
        assert session == SessionData("s", [], session.created_at, session.updated_at)
        assert not store.session_exists("s")
        assert store.list_sessions() == []
        assert store.add_message("s", "user", "2") is False
        with pytest.raises(OSError, match="sessions"):
            DefaultSessionStore(str(path))
        store._raises = True
        for call in (store.get_session, store.clear_session):
            with pytest.raises(StoreUnavailableError):
                call("s")


def test_stores_on_one_directory_share_their_writes(tmp_path: Path) -> None:
    first, second = (DefaultSessionStore(str(tmp_path)) for _ in range(2))
    say(first, "1")
    say(second, "2")
    assert first._lease() is second._lease()
    first.close()
    say(second, "3")
    assert contents(second.get_chat_history("s")) == ["1", "2", "3"]
    with DefaultSessionStore(str(tmp_path), max_messages=2) as third:
        say(third, "4")
        assert contents(second.get_chat_history("s")) == ["3", "4"]
    second.close()


def test_attributes_may_be_changed(tmp_path: Path) -> None:
    with DefaultSessionStore(str(tmp_path / "a")) as store:
        say(store, "1")
        store.session_dir = str(tmp_path / "b")
        assert not store.session_exists("s")
        store.active_window = 1
        say(store, "1", "2")
        assert len(store.get_session("s").archived_messages) == 1


# Messages and metadata in one write.


def test_messages_and_metadata_are_written_together(store: DefaultSessionStore) -> None:
    say(store, "a")
    call = [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
    turn: list[dict[str, Any]] = [
        {"role": "assistant", "content": None, "tool_calls": call},
        {"role": "tool", "content": "1", "tool_call_id": "c1"},
        {"role": "assistant", "content": "b", "metadata": {"k": 1}},
    ]
    fields = {"model": "m", "agent_id": "x", "cost": None}
    for _ in range(2):
        assert store.append_with_metadata("s", turn, fields, idempotency_key="turn-1")
    session = store.get_session("s")
    assert [message.content for message in session.messages] == ["a", None, "1", "b"]
    assert session.messages[1].tool_calls == call
    assert session.messages[3].metadata == {"k": 1}
    assert session.metadata == {"model": "m", "agent_id": "x"}
    assert session.agent_id == "x"
    with pytest.raises(IdempotencyConflictError):
        store.append_with_metadata("s", turn[2:], {}, idempotency_key="turn-1")
    assert store.append_with_metadata("s", [], {"model": "n"})
    assert store.append_with_metadata("s", turn[2:], {})
    session = store.get_session("s")
    assert (session.metadata["model"], len(session.messages)) == ("n", 5)


def test_a_conflict_leaves_the_writes_beside_it_alone(files: DefaultSessionStore) -> None:
    turn = [{"role": "user", "content": "a"}]
    assert files.append_with_metadata("s", turn, {}, idempotency_key="k")
    other = [{"role": "user", "content": "b"}]
    conflicts = []

    def write(number: int) -> None:
        if number % 2:
            assert files.append_with_metadata("s", other, {f"n{number}": number})
            return
        try:
            files.append_with_metadata("s", other, {f"n{number}": number}, idempotency_key="k")
        except IdempotencyConflictError:
            conflicts.append(number)

    with ThreadPoolExecutor(16) as threads:
        list(threads.map(write, range(64)))
    session = files.get_session("s")
    assert len(conflicts) == 32
    assert len(session.messages) == 33
    assert session.metadata == {f"n{number}": number for number in range(1, 64, 2)}


@pytest.mark.parametrize("scheme", ["json", "jsonl", "memory"])
def test_every_write_renews_the_expiry(tmp_path: Path, scheme: str) -> None:
    now = 1000.0
    url = f"{scheme}://{tmp_path if scheme != 'memory' else ''}"
    with DefaultSessionStore.from_url(url, ttl_seconds=60, clock=lambda: now) as store:
        writes: list[Callable[[], Any]] = [
            lambda: say(store, "a"),
            lambda: store.update_session_metadata("s", cost=now),
            lambda: store.set_chat_history("s", [{"role": "user", "content": "b"}]),
            lambda: store.upsert_partial_assistant_message("s", "c"),
            lambda: store.append_with_metadata("s", [{"role": "user", "content": "d"}], {}),
            lambda: store.set_agent_info("s", agent_name=str(now)),
        ]
        for write in writes:
            write()
            now += 50
            assert store.session_exists("s")
        now += 11
        assert not store.session_exists("s")
        store.update_session_metadata("s", model="m")
        now += 61
        assert not store.session_exists("s")


def test_one_write_takes_both(files: DefaultSessionStore, monkeypatch: pytest.MonkeyPatch) -> None:
    say(files, "a")
    written: list[Path] = []
    replace = Disk.replace

    def counted(disk: Disk, source: Path, target: Path) -> None:
        written.append(target)
        replace(disk, source, target)

    monkeypatch.setattr(Disk, "replace", counted)
    assert files.append_with_metadata("s", [{"role": "user", "content": "b"}], {"model": "m"})
    assert len(written) == 1
    assert files.update_session_metadata("s", model="m")
    assert files.set_agent_info("s", agent_name=None)
    assert len(written) == 1


def test_what_is_refused_is_kept_unless_it_will_be_repeated(files: DefaultSessionStore) -> None:
    document = Path(files.session_dir) / "s.json"
    document.mkdir()
    message = {"role": "user", "content": "x"}
    assert not files.append_with_metadata("s", [message], {}, idempotency_key="k")
    assert not files.append_with_metadata("s", [message], {"model": "m"})
    document.rmdir()
    assert files.append_with_metadata("s", [message], {}, idempotency_key="k")
    assert len(files.get_session("s").messages) == 2


# Subclasses.


def test_what_a_subclass_overrides_counts_elsewhere_too(tmp_path: Path) -> None:
    class Mine(DefaultSessionStore):
        def list_sessions(self, limit: int | None = 50) -> list[dict[str, Any]]:
            rows = super().list_sessions(limit)
            return [row | {"agent_name": "Mine"} for row in rows]

        def list_sessions_by_agent(self, agent_name: str, limit: int | None = 50) -> list[str]:
            return [row["session_id"] for row in self.list_sessions(limit)]

        def get_session(self, session_id: str) -> SessionData:
            session = super().get_session(session_id)
            session.metadata["seen"] = True
            return session

    with Mine(str(tmp_path)) as store:
        say(store, "x")
        assert store.recent()[0].title == "Mine"
        assert [each.metadata for each in store.get_sessions_by_agent("A")] == [{"seen": True}]
        (turn,) = store.get_agent_chat_history("A")
        assert (turn["content"], turn["session_id"], turn["agent_name"]) == ("x", "s", "A")


def test_a_subclass_ranks_what_a_search_finds(tmp_path: Path) -> None:
    class Mine(DefaultSessionStore):
        BOOKEND_SIZE = 1
        AUTOMATED_RATE_THRESHOLD = 2.0
        AUTOMATED_DEMOTION = 0.5

    turns = [{"role": "user", "content": "word", "timestamp": hour * 1200.0} for hour in range(4)]
    with DefaultSessionStore(str(tmp_path)) as store, Mine(str(tmp_path)) as mine:
        store.set_chat_history("s", turns)
        (hit,), (ranked,) = store.search("word"), mine.search("word")
        assert (len(hit.bookends["opening"]), hit.score) == (2, 12.0)
        assert (len(ranked.bookends["opening"]), ranked.score) == (1, 6.0)
