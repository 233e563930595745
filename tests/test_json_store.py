"""What is particular to PraisonAI's documents: the format, and what other programs put there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from asyncsessions import CorruptSessionError, Message
from asyncsessions.stores._disk import Disk
from asyncsessions.stores.json import JSONSessionStore

NOW = 1767225600.0


def store_at(path: Path, **options: Any) -> JSONSessionStore:
    return JSONSessionStore(path, **{"durability": "os", "clock": lambda: NOW, **options})


def turns(*texts: str) -> list[Message]:
    return [Message("user", text, NOW + place) for place, text in enumerate(texts)]


def load(path: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(path.read_text())
    return document


def save(path: Path, document: Any) -> None:
    path.write_text(json.dumps(document, indent=2, ensure_ascii=False))


def foreign(session_id: str, *messages: Any, **fields: Any) -> dict[str, Any]:
    return {
        "session_id": session_id,
        "messages": list(messages),
        "created_at": "2026-01-01T00:00:00+00:00",
        "updated_at": "2026-01-01T00:00:01.500000+00:00",
        "metadata": {},
        **fields,
    }


def said(text: Any, timestamp: Any = 1.0, **fields: Any) -> dict[str, Any]:
    return {"role": "user", "content": text, "timestamp": timestamp, "metadata": {}, **fields}


async def seqs_and_texts(store: JSONSessionStore, session_id: str = "s") -> list[tuple[int, Any]]:
    return [(each.seq, each.content) for each in await store.get_messages(session_id)]


# The format at rest.


async def test_the_format_at_rest(tmp_path: Path) -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    async with store_at(tmp_path) as store:
        await store.append("a.b", [Message("assistant", None, tool_calls=[call])])
        await store.add_message("a.b", "tool", "ü", {"k": []}, tool_call_id="c")
        await store.update_session_metadata("a.b", model="m-1", user_id="u")
    text = (tmp_path / "a_b.json").read_text()
    assert text == json.dumps(json.loads(text), indent=2, ensure_ascii=False)
    document = json.loads(text)
    anchor = document["metadata"]["asyncsessions"].pop("anchor")
    assert len(anchor) == 32
    assert list(document.items()) == [
        ("session_id", "a.b"),
        (
            "messages",
            [
                said(None, NOW, tool_calls=[call]) | {"role": "assistant"},
                said("ü", NOW, tool_call_id="c") | {"role": "tool", "metadata": {"k": []}},
            ],
        ),
        ("created_at", "2026-01-01T00:00:00+00:00"),
        ("updated_at", "2026-01-01T00:00:00+00:00"),
        ("agent_name", None),
        ("user_id", "u"),
        (
            "metadata",
            {
                "model": "m-1",
                "user_id": "u",
                "asyncsessions": {
                    "version": 1,
                    "session_id": "a.b",
                    "last_seq": 2,
                    "seqs": "1-2",
                },
            },
        ),
        ("gateway_session_id", None),
        ("agent_id", None),
        ("runtime_state", {}),
        ("archived_messages", []),
        ("model", "m-1"),
    ]


async def test_files_are_private_and_no_temporary_one_stays(tmp_path: Path) -> None:
    async with store_at(tmp_path) as store:
        await store.add_message("s", "user", "x")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s.json", "s.json.lock"]
    assert (tmp_path / "s.json").stat().st_mode & 0o777 == 0o600


async def test_nothing_is_reserved_where_nothing_is_needed(tmp_path: Path) -> None:
    async with store_at(tmp_path) as store:
        await store.update_session_metadata("s", title="T")
    assert load(tmp_path / "s.json")["metadata"] == {"title": "T"}


async def test_times_are_exact_and_their_text_is_rounded(tmp_path: Path) -> None:
    now = 1767225600.1234567
    async with store_at(tmp_path, clock=lambda: now) as store:
        await store.add_message("s", "user", "x")
        info = (await store.list_sessions())[0]
        assert (info.created_at, info.updated_at) == (now, now)
    document = load(tmp_path / "s.json")
    assert document["updated_at"] == "2026-01-01T00:00:00.123457+00:00"
    # Another program moves the time on; the exact one is of before.
    save(tmp_path / "s.json", document | {"updated_at": "2026-01-01T00:00:02+00:00"})
    async with store_at(tmp_path) as store:
        assert (await store.list_sessions())[0].updated_at == NOW + 2


async def test_name_extra_and_reserved_metadata_of_a_caller_survive(tmp_path: Path) -> None:
    message = Message(
        "user", "x", NOW, {"asyncsessions": {"version": 1}}, name="Ann", extra={"k": [1], "seq2": 2}
    )
    async with store_at(tmp_path) as store:
        (stored,) = await store.append("s", [message])
        await store.update_session_metadata("s", asyncsessions="mine")
        assert await store.get_messages("s") == [stored]
        assert (await store.get_session("s")).metadata == {"asyncsessions": "mine"}
        await store.add_message("s", "user", "y")
        assert (await store.get_session("s")).metadata == {"asyncsessions": "mine"}
    assert list(load(tmp_path / "s.json")["messages"][0]) == [
        "role",
        "content",
        "timestamp",
        "metadata",
    ]


# What other programs stored.


async def test_unknown_keys_are_kept_and_shown_as_extra(tmp_path: Path) -> None:
    document = foreign(
        "s", said("old", x={"deep": 1e22}), parent_id="p", custom={"b": 1, "a": [None, 2**70]}
    )
    save(tmp_path / "s.json", document)
    async with store_at(tmp_path) as store:
        await store.add_message("s", "user", "new")
        await store.set_state("s", "k", 1)
        old, _ = await store.get_messages("s")
    assert old.extra == {"x": {"deep": 1e22}}
    after = load(tmp_path / "s.json")
    assert after["messages"][0] == document["messages"][0]
    assert (after["parent_id"], after["custom"]) == ("p", document["custom"])


async def test_mirrored_keys_follow_the_metadata(tmp_path: Path) -> None:
    save(tmp_path / "s.json", foreign("s", model="old", cost=1.5, source=None))
    async with store_at(tmp_path) as store:
        assert (await store.get_session("s")).metadata == {"model": "old", "cost": 1.5}
        await store.update_session_metadata("s", model="new")
    after = load(tmp_path / "s.json")
    assert (after["model"], after["cost"]) == ("new", 1.5)
    assert after["metadata"] == {"model": "new", "cost": 1.5}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, Message("user", "", seq=1)),
        (said("x", "2026-01-01T00:00:00Z"), Message("user", "x", NOW, seq=1)),
        (said("x", "yesterday"), Message("user", "x", seq=1)),
        (said({"type": "text"}), Message("user", [{"type": "text"}], 1.0, seq=1)),
        (said(5), Message("user", "5", 1.0, seq=1)),
        (said("x", metadata=None), Message("user", "x", 1.0, seq=1)),
        (said("x", seq=9, name="N"), Message("user", "x", 1.0, name="N", seq=1)),
        (said("x", tool_call_id=7), Message("user", "x", 1.0, tool_call_id="7", seq=1)),
        (said("x", tool_calls={}), Message("user", "x", 1.0, seq=1)),
        (said(float("nan"), float("inf")), Message("user", None, seq=1)),
        (said("\ud800"), Message("user", "?", 1.0, seq=1)),
    ],
    ids=lambda value: json.dumps(value)[:50] if isinstance(value, dict) else "",
)
async def test_odd_messages_are_understood(
    tmp_path: Path, given: dict[str, Any], expected: Message
) -> None:
    (tmp_path / "s.json").write_text(json.dumps(foreign("s", given)))
    async with store_at(tmp_path) as store:
        assert await store.get_messages("s") == [expected]
        await store.add_message("s", "user", "new")
    after = load(tmp_path / "s.json")["messages"][0]
    assert json.dumps(after) == json.dumps(given)


async def test_entries_that_are_no_objects_are_skipped_and_kept(tmp_path: Path) -> None:
    entries = [None, said("a"), "text", said("b"), 7]
    compaction = {"summary": "S", "message_index": 3}
    save(tmp_path / "s.json", foreign("s", *entries, last_compaction=compaction))
    async with store_at(tmp_path) as store:
        history = await store.get_working_history("s")
        assert [each["content"] for each in history] == ["S", "b"]
        await store.add_message("s", "user", "c")
        assert await seqs_and_texts(store) == [(1, "a"), (2, "b"), (3, "c")]
        assert await store.get_working_history("s") == [*history, {"role": "user", "content": "c"}]
    after = load(tmp_path / "s.json")
    assert after["messages"][:5] == entries
    assert after["last_compaction"]["message_index"] == 3


async def test_nulls_and_an_empty_object_are_an_empty_session(tmp_path: Path) -> None:
    keys = ("messages", "metadata", "archived_messages", "runtime_state", "created_at")
    save(tmp_path / "nulls.json", dict.fromkeys(keys))
    save(tmp_path / "empty.json", {})
    async with store_at(tmp_path) as store:
        listed = {info.session_id: info for info in await store.list_sessions()}
        assert set(listed) == {"nulls", "empty"}
        assert listed["empty"].created_at == (tmp_path / "empty.json").stat().st_mtime
        await store.add_message("nulls", "user", "x")
    after = load(tmp_path / "nulls.json")
    assert (after["session_id"], after["metadata"].keys()) == ("nulls", {"asyncsessions"})


# Hierarchical documents.


async def test_pooled_snapshots_stay_compact_and_whole(tmp_path: Path) -> None:
    document = foreign(
        "s",
        said("a"),
        parent_id=None,
        snapshots=[{"id": "1", "message_index": 0, "transcript_refs": {}, "invalidated": True}],
        snapshot_storage={"version": 1, "records": {"0": said("a")}},
    )
    save(tmp_path / "s.json", document)
    async with store_at(tmp_path) as store:
        await store.add_message("s", "user", "b")
        await store.clear_session("s")
    text = (tmp_path / "s.json").read_text()
    after = json.loads(text)
    assert text == json.dumps(after, ensure_ascii=False, separators=(",", ":"))
    assert after["snapshots"] == document["snapshots"]
    assert after["snapshot_storage"] == document["snapshot_storage"]


async def test_positional_snapshots_of_removed_messages_are_invalidated(tmp_path: Path) -> None:
    snapshots = [{"id": str(place), "message_index": place} for place in range(3)]
    document = foreign("s", said("a"), said("b"), said("c"), snapshots=snapshots)
    save(tmp_path / "s.json", document)
    async with store_at(tmp_path) as store:
        await store.pop_message("s")
    after = load(tmp_path / "s.json")["snapshots"]
    assert [each.get("invalidated", False) for each in after] == [False, False, True]


# The archive and the checkpoint.


async def test_only_clearing_removes_the_archive(tmp_path: Path) -> None:
    save(tmp_path / "s.json", foreign("s", archived_messages=[said("old"), said("older")]))
    async with store_at(tmp_path) as store:
        await store.set_chat_history("s", turns("new"))
        assert len(load(tmp_path / "s.json")["archived_messages"]) == 2
        assert await store.search("older") == []
        assert await store.clear_session("s")
    assert load(tmp_path / "s.json")["archived_messages"] == []


async def test_a_checkpoint_is_a_position_in_the_document(tmp_path: Path) -> None:
    async with store_at(tmp_path, max_messages=3) as store:
        await store.append("s", turns("a", "b", "c"))
        await store.append_compaction_checkpoint("s", "S", seq=2)
        assert load(tmp_path / "s.json")["last_compaction"]["message_index"] == 2
        await store.append("s", turns("d"))
        assert load(tmp_path / "s.json")["last_compaction"]["message_index"] == 1
        await store.append("s", turns("e", "f"))
        assert load(tmp_path / "s.json")["last_compaction"]["message_index"] == 0
        checkpoint = (await store.get_session("s")).checkpoint
        assert checkpoint is not None
        assert (checkpoint.summary, checkpoint.seq) == ("S", 2)


# The numbers of messages that another program changed.


async def test_appended_messages_get_the_next_numbers(tmp_path: Path) -> None:
    async with store_at(tmp_path) as store:
        await store.append("s", turns("a", "b", "c"))
        await store.pop_message("s")
        document = load(tmp_path / "s.json")
        document["messages"] += [said("x"), said("y")]
        save(tmp_path / "s.json", document)
        assert await seqs_and_texts(store) == [(1, "a"), (2, "b"), (4, "x"), (5, "y")]
        await store.add_message("s", "user", "d")
        assert (await seqs_and_texts(store))[-2:] == [(5, "y"), (6, "d")]
    assert load(tmp_path / "s.json")["metadata"]["asyncsessions"]["seqs"] == "1-2,4-6"


async def test_a_summary_takes_the_number_of_the_last_message_it_stands_for(tmp_path: Path) -> None:
    async with store_at(tmp_path) as store:
        await store.append("s", turns("a", "b", "c", "d"))
        document = load(tmp_path / "s.json")
        document["archived_messages"] = document["messages"][:2]
        document["messages"][:2] = [said("[Session Summary]")]
        document["messages"].append(said("e"))
        save(tmp_path / "s.json", document)
        numbered = await seqs_and_texts(store)
        assert numbered == [(2, "[Session Summary]"), (3, "c"), (4, "d"), (5, "e")]
        await store.set_state("s", "k", 1)
        assert await seqs_and_texts(store) == numbered


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        ([], []),
        ([said("x"), said("a")], [(4, "x"), (5, "a")]),
        # More in front of the anchor than there are numbers below it.
        ([said("x"), said("a", NOW), said("b", NOW + 1), said("c", NOW + 2)], None),
    ],
    ids=["cleared", "replaced", "inserted"],
)
async def test_where_the_anchor_is_lost_all_numbers_are_new(
    tmp_path: Path, messages: list[Any], expected: list[Any] | None
) -> None:
    async with store_at(tmp_path) as store:
        await store.append("s", turns("a", "b", "c"))
        save(tmp_path / "s.json", load(tmp_path / "s.json") | {"messages": messages})
        if expected is None:
            expected = [(4, "x"), (5, "a"), (6, "b"), (7, "c")]
        assert await seqs_and_texts(store) == expected
        (new,) = await store.append("s", turns("new"))
        assert new.seq == 4 + len(messages)


async def test_a_fork_by_another_program_inherits_only_the_state(tmp_path: Path) -> None:
    async with store_at(tmp_path) as store:
        await store.append("s", turns("a", "b"), idempotency_key="k")
        await store.set_state("s", "n", 1)
        await store.expire_session("s", 60)
        document = load(tmp_path / "s.json")
        save(tmp_path / "f.json", document | {"session_id": "f"})
        fork = await store.get_session("f")
        assert (fork.state, fork.expires_at, fork.last_seq) == ({"n": 1}, None, 2)
        (stored,) = await store.append("f", turns("c"), idempotency_key="k")
        assert stored.seq == 3


async def test_a_retry_is_known_beside_foreign_messages(tmp_path: Path) -> None:
    async with store_at(tmp_path) as store:
        first = await store.append("s", turns("a"), idempotency_key="k k")
        document = load(tmp_path / "s.json")
        document["messages"].append(said("x"))
        save(tmp_path / "s.json", document)
        assert await store.append("s", turns("a"), idempotency_key="k k") == first
        assert await seqs_and_texts(store) == [(1, "a"), (2, "x")]


# Damage.


@pytest.mark.parametrize(
    ("data", "line"),
    [
        (b"", 1),
        (b"[]", 1),
        (b'{"session_id": "s",\n"messages": [\n{"role": "user",}]}', 3),
        (b'{\n"session_id": "s",\n"metadata": {"k": "\xff"}}', 3),
        (b'{\n"session_id": "s",\n"messages": {}}', 3),
        (b'{\n"metadata": []}', 2),
        (b'{"session_id": "s",\n"last_compaction": "x"}', 2),
        (b'{"metadata": {\n"asyncsessions": {"version": 2}}}', 2),
        (b'{"metadata": {\n"asyncsessions": {"version": 1, "seqs": "x"}}}', 2),
        (b'{"session_id": ' + b"[" * 100_000, 1),
    ],
    ids=[
        "empty", "list", "no-json", "no-utf8", "messages", "metadata", "checkpoint", "newer",
        "numbers", "deep",
    ],
)  # fmt: skip
async def test_a_damaged_document_is_reported_and_kept(
    tmp_path: Path, data: bytes, line: int
) -> None:
    (tmp_path / "s.json").write_bytes(data)
    async with store_at(tmp_path) as store:
        await store.add_message("other", "user", "x")
        for call in (store.get_messages("s"), store.session_exists("s"), store.pop_message("s")):
            with pytest.raises(CorruptSessionError) as caught:
                await call
            assert (caught.value.path, caught.value.line) == (str(tmp_path / "s.json"), line)
        with pytest.raises(CorruptSessionError):
            await store.add_message("s", "user", "x")
        assert [info.session_id for info in await store.list_sessions()] == ["other"]
    assert (tmp_path / "s.json").read_bytes() == data


@pytest.mark.parametrize("count", [0, 1, 127, 128, 129, 1000])
async def test_a_long_document_has_the_same_layout(tmp_path: Path, count: int) -> None:
    async with JSONSessionStore(tmp_path, durability="os") as store:
        turns = [
            Message("user", str(number) + '\n},\n    {"x": []', metadata={"n": [number]})
            for number in range(count)
        ]
        await store.set_chat_history("chat", turns)
        await store.set_state("chat", "key", {"a": []})
        assert [turn["content"] for turn in await store.get_chat_history("chat")] == [
            turn.content for turn in turns
        ]
    text = (tmp_path / "chat.json").read_text()
    assert text == json.dumps(json.loads(text), indent=2, ensure_ascii=False)


async def test_a_long_document_of_another_layout_is_understood(tmp_path: Path) -> None:
    document = foreign("s", *[said("x" * 300) for _ in range(1000)], notes=[1, 2])
    text = json.dumps(document, indent=2).replace("\n  ],", "\n ],", 1)
    (tmp_path / "s.json").write_text(text)
    async with store_at(tmp_path) as store:
        assert len(await store.get_messages("s")) == 1000
        await store.add_message("s", "user", "next")
    assert load(tmp_path / "s.json")["notes"] == [1, 2]
    assert len(load(tmp_path / "s.json")["messages"]) == 1001


async def test_no_step_takes_all_of_a_long_document(tmp_path: Path) -> None:
    written: list[int] = []

    class Noting(Disk):
        def write(self, fd: int, data: bytes, offset: int) -> None:
            written.append(len(data))
            super().write(fd, data, offset)

    async with store_at(tmp_path, disk=Noting()) as store:
        await store.append("s", turns(*["ü" * 200] * 3000))
        assert len(await store.get_messages("s")) == 3000
    assert max(written) * 10 < sum(written) == (tmp_path / "s.json").stat().st_size


@pytest.mark.parametrize("messages", [[], None, [{"role": "user", "content": "new"}]])
async def test_a_long_archive_is_kept_beside_few_messages(
    tmp_path: Path, messages: list[dict[str, str]] | None
) -> None:
    archive = [{"role": "user", "content": f"old {number}".ljust(200)} for number in range(2000)]
    document = {"session_id": "chat", "messages": messages, "archived_messages": archive}
    (tmp_path / "chat.json").write_text(json.dumps(document | {"custom": [1]}, indent=2))
    async with JSONSessionStore(tmp_path, durability="os") as store:
        assert len(await store.get_messages("chat")) == len(messages or [])
        await store.add_message("chat", "user", "next")
        assert (await store.get_messages("chat", limit=1))[0].content == "next"
    written = json.loads((tmp_path / "chat.json").read_text())
    assert written["archived_messages"] == archive
    assert written["custom"] == [1]
    assert len(written["messages"]) == len(messages or []) + 1
