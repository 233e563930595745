"""The window of a JSON store: older messages move to the document's archive."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from asyncsessions import Message, open_store
from asyncsessions.stores.json import JSONSessionStore

NOW = 1767225600.0
CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}


def store_at(path: Path, window: int | None = 3, **options: Any) -> JSONSessionStore:
    given = {"durability": "os", "clock": lambda: NOW, "active_window": window, **options}
    return JSONSessionStore(path, **given)


def load(path: Path) -> dict[str, Any]:
    text = path.read_text()
    document: dict[str, Any] = json.loads(text)
    assert text == json.dumps(document, indent=2, ensure_ascii=False)
    return document


def archived(path: Path) -> list[Any]:
    return [entry["content"] for entry in load(path)["archived_messages"]]


async def say(store: JSONSessionStore, *texts: str) -> None:
    for text in texts:
        await store.add_message("s", "user", text)


async def seqs_and_texts(store: JSONSessionStore) -> list[tuple[int, Any]]:
    return [(each.seq, each.content) for each in await store.get_messages("s")]


async def test_the_oldest_move_to_the_archive_behind_one_summary(tmp_path: Path) -> None:
    async with store_at(tmp_path) as store:
        await say(store, "1", "2", "3")
        assert archived(tmp_path / "s.json") == []
        await say(store, "4", "5")
        summary = "[Session Summary]\n2 earlier messages are archived."
        expected = [(2, summary), (3, "3"), (4, "4"), (5, "5")]
        assert await seqs_and_texts(store) == expected
        (lead, *_) = await store.get_messages("s")
    assert (lead.role, lead.metadata) == ("system", {"compaction": True, "compacted_count": 2})
    assert archived(tmp_path / "s.json") == ["1", "2"]
    async with store_at(tmp_path) as store:
        assert await seqs_and_texts(store) == expected


async def test_the_summary_does_not_grow(tmp_path: Path) -> None:
    async with store_at(tmp_path) as store:
        await say(store, *map(str, range(40)))
        messages = await store.get_messages("s")
    assert len(messages) == 4
    assert messages[0].content == "[Session Summary]\n37 earlier messages are archived."
    assert archived(tmp_path / "s.json") == [str(n) for n in range(37)]


async def test_one_archived_message_is_one(tmp_path: Path) -> None:
    async with store_at(tmp_path) as store:
        await say(store, "1", "2", "3", "4")
        (lead, *_) = await store.get_messages("s")
    assert lead.content == "[Session Summary]\n1 earlier message is archived."


async def test_a_summary_of_praisonai_is_folded_in(tmp_path: Path) -> None:
    lead = {
        "role": "system",
        "content": "[Session Summary]\nPrevious conversation: 9 messages\n---\nand so on",
        "timestamp": 1.0,
        "metadata": {"compaction": True, "compacted_count": 9},
    }
    said = [{"role": "user", "content": str(n), "timestamp": 1.0} for n in range(4)]
    old = [{"role": "user", "content": "old", "timestamp": 0.5}]
    document = {"session_id": "s", "messages": [lead, *said], "archived_messages": old}
    (tmp_path / "s.json").write_text(json.dumps(document))
    async with store_at(tmp_path) as store:
        await say(store, "4")
        messages = await store.get_messages("s")
    assert [each.content for each in messages[1:]] == ["2", "3", "4"]
    assert messages[0].metadata["compacted_count"] == 11
    assert archived(tmp_path / "s.json") == ["old", "0", "1"]


async def test_a_call_and_its_results_go_together(tmp_path: Path) -> None:
    async with store_at(tmp_path) as store:
        await say(store, "1")
        await store.append("s", [Message("assistant", None, tool_calls=[CALL])])
        await store.append("s", [Message("tool", "r", tool_call_id="c") for _ in range(2)])
        await say(store, "5")
        # Two over the window; the third one would be a result without its call.
        assert [text for _, text in (await seqs_and_texts(store))[1:]] == ["5"]
    assert archived(tmp_path / "s.json") == ["1", None, "r", "r"]


async def test_the_newest_exchange_stays_active(tmp_path: Path) -> None:
    async with store_at(tmp_path, 2) as store:
        await store.append("s", [Message("assistant", None, tool_calls=[CALL])])
        await store.append("s", [Message("tool", "r", tool_call_id="c") for _ in range(4)])
        assert len(await store.get_messages("s")) == 5


async def test_a_replaced_history_is_archived_too(tmp_path: Path) -> None:
    async with store_at(tmp_path) as store:
        await say(store, "a")
        await store.set_chat_history("s", [Message("user", str(n)) for n in range(5)])
        assert [seq for seq, _ in await seqs_and_texts(store)] == [3, 4, 5, 6]
    assert archived(tmp_path / "s.json") == ["0", "1"]


async def test_clearing_removes_the_archive(tmp_path: Path) -> None:
    async with store_at(tmp_path) as store:
        await say(store, *"12345")
        assert await store.clear_session("s")
        assert archived(tmp_path / "s.json") == []
        await say(store, "6")
        assert await seqs_and_texts(store) == [(6, "6")]


async def test_a_checkpoint_keeps_what_it_covers(tmp_path: Path) -> None:
    async with store_at(tmp_path) as store:
        await say(store, *"1234")
        await store.append_compaction_checkpoint("s", "S")
        await say(store, "5", "6")
        working = await store.get_working_history("s")
        assert [each["content"] for each in working] == ["S", "5", "6"]
    checkpoint = load(tmp_path / "s.json")["last_compaction"]
    assert checkpoint["message_index"] == 2


async def test_entries_that_are_no_messages_stay_where_they_are(tmp_path: Path) -> None:
    said = [{"role": "user", "content": str(n), "timestamp": 1.0} for n in range(5)]
    document = {"session_id": "s", "messages": [*said[:4], None, said[4]]}
    (tmp_path / "s.json").write_text(json.dumps(document))
    async with store_at(tmp_path) as store:
        await say(store, "5")
        assert [text for _, text in (await seqs_and_texts(store))[1:]] == ["3", "4", "5"]
    assert load(tmp_path / "s.json")["messages"][2] is None


@pytest.mark.parametrize("archive", [None, [], "null", "[ ]"])
async def test_any_empty_archive_is_one(tmp_path: Path, archive: Any) -> None:
    text = json.dumps({"session_id": "s", "messages": []})
    if archive is not None:
        text = text[:-1] + f', "archived_messages": {archive}' + "}"
    (tmp_path / "s.json").write_text(text)
    async with store_at(tmp_path) as store:
        await say(store, *"1234")
    assert archived(tmp_path / "s.json") == ["1"]


async def test_a_long_archive_keeps_its_layout(tmp_path: Path) -> None:
    old = [{"role": "user", "content": "x" * 300, "timestamp": float(n)} for n in range(600)]
    document = {"session_id": "s", "messages": [], "archived_messages": old}
    (tmp_path / "s.json").write_text(json.dumps(document))
    async with store_at(tmp_path) as store:
        await say(store, *"12345")
    assert archived(tmp_path / "s.json") == ["x" * 300] * 600 + ["1", "2"]


async def test_a_document_with_pooled_snapshots_stays_compact(tmp_path: Path) -> None:
    document = {"session_id": "s", "messages": [], "snapshot_storage": {"version": 1}}
    (tmp_path / "s.json").write_text(json.dumps(document))
    async with store_at(tmp_path) as store:
        await say(store, *"1234")
    text = (tmp_path / "s.json").read_text()
    assert "\n" not in text
    assert [each["content"] for each in json.loads(text)["archived_messages"]] == ["1"]


@pytest.mark.parametrize("window", [0, -1, True])
def test_a_window_is_positive(tmp_path: Path, window: int) -> None:
    with pytest.raises(ValueError, match="active_window"):
        JSONSessionStore(tmp_path, active_window=window)


def test_a_window_and_retention_contradict_each_other(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="max_messages"):
        JSONSessionStore(tmp_path, active_window=3, max_messages=3)


async def test_a_url_may_say_the_window(tmp_path: Path) -> None:
    async with open_store(f"json://{tmp_path}?active_window=1&durability=os") as store:
        for text in "12":
            await store.add_message("s", "user", text)
    assert archived(tmp_path / "s.json") == ["1"]
