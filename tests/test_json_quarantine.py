"""Damaged documents: what is reported, and what `quarantine` moves aside."""

from __future__ import annotations

import asyncio
import json
import re
import time
from pathlib import Path

import pytest

from asyncsessions import CorruptSessionError, InvalidSessionIdError, Message
from asyncsessions.stores._docplace import names_of
from asyncsessions.stores.json import JSONSessionStore

DAMAGED = {
    "empty": b"",
    "cut off": b'{"session_id": "s", "messages": [',
    "not UTF-8": b'{"session_id": "s", "messages": [{"role": "user", "content": "\xff"}]}',
    "no object": b"[]",
    "no list": b'{"messages": {}}',
    "a message": b'{"messages": [{"metadata": {"asyncsessions": {"version": 1, "extra": 5}}}]}',
}
SOUND = {
    "nothing in it": b"{}",
    "of PraisonAI": b'{"session_id": "s", "messages": [{"role": "user", "content": "x"}]}',
    "a later version": b'{"metadata": {"asyncsessions": {"version": 2}}}',
    "a later message": b'{"messages": [{"metadata": {"asyncsessions": {"version": 2}}}]}',
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
async def test_a_damaged_document_is_moved_aside_as_it_is(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "s.json").write_bytes(content)
    async with JSONSessionStore(tmp_path) as store:
        with pytest.raises(CorruptSessionError):
            await store.get_messages("s")
        aside = await store.quarantine("s")
        assert aside is not None
        assert aside.parent == tmp_path
        assert re.fullmatch(r"s\.json\.corrupt-\d{13}", aside.name)
        assert aside.read_bytes() == content
        # The session starts anew, and the file is none of the sessions.
        assert not await store.session_exists("s")
        assert await store.list_sessions() == []
        (stored,) = await store.append("s", [Message("user", "x")])
        assert stored.seq == 1
        assert await store.quarantine("s") is None


@pytest.mark.parametrize("session_id", ["s", "user:42", "群/7"])
async def test_damaged_numbers_of_messages_are_damage_for_any_id(
    tmp_path: Path, session_id: str
) -> None:
    async with JSONSessionStore(tmp_path) as store:
        await store.add_message(session_id, "user", "x")
        (path,) = tmp_path.glob("*.json")
        damaged = path.read_bytes().replace(b'"seqs": "1"', b'"seqs": "one"')
        assert damaged != path.read_bytes()
        path.write_bytes(damaged)
        with pytest.raises(CorruptSessionError):
            await store.get_messages(session_id)
        aside = await store.quarantine(session_id)
        assert aside is not None
        assert aside.read_bytes() == damaged


@pytest.mark.parametrize("content", SOUND.values(), ids=SOUND)
async def test_a_document_that_somebody_understands_stays(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "s.json").write_bytes(content)
    async with JSONSessionStore(tmp_path) as store:
        assert await store.quarantine("s") is None
        assert (tmp_path / "s.json").read_bytes() == content


async def test_nothing_is_made_where_there_is_no_document(tmp_path: Path) -> None:
    async with JSONSessionStore(tmp_path) as store:
        assert await store.quarantine("s") is None
        with pytest.raises(InvalidSessionIdError):
            await store.quarantine("")
    assert list(tmp_path.iterdir()) == []


async def test_each_damaged_document_keeps_a_name_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "time_ns", lambda: 1_700_000_000_000_000_000)
    async with JSONSessionStore(tmp_path) as store:
        for number in range(3):
            (tmp_path / "s.json").write_text(str(number))
            assert await store.quarantine("s") is not None
    moved = {each.name: each.read_text() for each in tmp_path.glob("s.json.corrupt-*")}
    name = "s.json.corrupt-1700000000000"
    assert moved == {name: "0", f"{name}-1": "1", f"{name}-2": "2"}


async def test_only_the_damaged_one_of_two_ids_of_one_name_moves(tmp_path: Path) -> None:
    async with JSONSessionStore(tmp_path) as store:
        await store.add_message("a_b", "user", "first")
        await store.add_message("a.b", "user", "second")
        (tmp_path / names_of("a.b").suffixed).write_text("garbage")
        assert await store.quarantine("a_b") is None
        aside = await store.quarantine("a.b")
        assert aside is not None
        assert aside.name.startswith(names_of("a.b").suffixed + ".corrupt-")
        assert not await store.session_exists("a.b")
        # A document whose owner can still be read is no other id's to move.
        (tmp_path / "a_b.json").write_text('{"session_id": "a_b", "messages": [')
        assert await store.quarantine("a.b") is None
        assert await store.quarantine("a_b") is not None


@pytest.mark.parametrize("session_id", ["x" * 245, "群" * 100])
async def test_long_names_are_cut_at_the_start(tmp_path: Path, session_id: str) -> None:
    async with JSONSessionStore(tmp_path) as store:
        await store.add_message(session_id, "user", "x")
        (path,) = tmp_path.glob("*.json")
        path.write_bytes(b"damaged")
        aside = await store.quarantine(session_id)
        assert aside is not None
        assert path.name.endswith(aside.name.partition(".corrupt-")[0])
        assert aside.read_bytes() == b"damaged"


async def test_of_many_callers_one_moves_it(tmp_path: Path) -> None:
    path = tmp_path / "s.json"
    async with JSONSessionStore(tmp_path) as one, JSONSessionStore(tmp_path) as other:
        for _ in range(10):
            path.write_bytes(b"damaged")
            calls = [store.quarantine("s") for store in (one, other) for _ in range(4)]
            moved = await asyncio.gather(*calls)
            assert sum(aside is not None for aside in moved) == 1
    assert len(list(tmp_path.glob("s.json.corrupt-*"))) == 10


async def test_writers_and_quarantine_at_once_lose_no_message(tmp_path: Path) -> None:
    (tmp_path / "s.json").write_bytes(b"damaged")
    async with JSONSessionStore(tmp_path) as store, JSONSessionStore(tmp_path) as other:

        async def append(number: int) -> None:
            while True:
                try:
                    await other.add_message("s", "user", str(number), idempotency_key=str(number))
                except CorruptSessionError:
                    await store.quarantine("s")
                else:
                    return

        await asyncio.gather(*(append(number) for number in range(20)))
        await asyncio.gather(*(store.quarantine("s") for _ in range(5)))
        assert {each.content for each in await store.get_messages("s")} == set(map(str, range(20)))
    assert len(list(tmp_path.glob("s.json.corrupt-*"))) == 1


async def test_a_damaged_archive_can_be_cleared(tmp_path: Path) -> None:
    (tmp_path / "s.json").write_text('{"messages": [{"role": "user"}], "archived_messages": 5}')
    async with JSONSessionStore(tmp_path) as store:
        assert await store.clear_session("s")
        assert await store.get_messages("s") == []
    assert json.loads((tmp_path / "s.json").read_text())["archived_messages"] == []
