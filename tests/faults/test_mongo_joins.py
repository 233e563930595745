"""MongoDB: appends to sessions that several stores write, where the server decides the place."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any

import pytest
from pymongo import AsyncMongoClient

from asyncsessions.errors import CorruptSessionError
from asyncsessions.stores import _servers
from asyncsessions.stores._mongo_plans import MoveJob
from asyncsessions.stores._mongo_session import HEAD_FIELDS
from asyncsessions.stores.mongo import MongoSessionStore
from asyncsessions.testing._cases import settled
from asyncsessions.testing.servers import MongoServer
from asyncsessions.testing.timing import slowness
from tests.faults.conversation import said, user
from tests.faults.mongo_server import (
    TAIL,
    admin,
    database,
    held_back,
    other,
    proxy,
    server,
    store,
    stored_bytes,
)
from tests.faults.proxy import Proxy

__all__ = ["admin", "database", "other", "proxy", "server", "store"]  # Fixtures of these tests.

JOIN = b"findAndModify\0"


async def contest(store: MongoSessionStore, other: MongoSessionStore) -> list[str]:
    """Have two stores write session ``s`` until both know of each other; return what it says."""
    texts = []
    for n in range(4):
        for name, of in (("a", store), ("b", other)):
            texts.append(f"{name}{n}")
            await of.append("s", [user(texts[-1])])
    return texts


async def test_lost_reply_to_a_join(
    store: MongoSessionStore, other: MongoSessionStore, proxy: Proxy
) -> None:
    texts = await contest(store, other)
    proxy.lose_reply(JOIN)
    stored = await store.append("s", [user("once"), user("more")])
    assert proxy.replies_lost == 1
    assert [each.seq for each in stored] == [len(texts) + 1, len(texts) + 2]
    assert await said(other, "s") == [*texts, "once", "more"]


async def test_lost_reply_to_a_join_and_another_write_before_it_is_repeated(
    store: MongoSessionStore,
    other: MongoSessionStore,
    proxy: Proxy,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    texts = await contest(store, other)
    monkeypatch.setattr(_servers, "_FIRST_PAUSE", 8 * slowness())
    proxy.lose_reply(JOIN)
    append = asyncio.ensure_future(store.append("s", [user("once")]))
    assert await settled(lambda: proxy.replies_lost == 1)
    await asyncio.sleep(0.2)
    monkeypatch.setattr(_servers, "_FIRST_PAUSE", 0.05)
    # From here on the store believes in a version that has the join in it.
    assert await store.clear_session("s")
    assert not append.done()
    assert (await append)[0].seq == len(texts) + 1
    assert await said(other, "s") == []


async def test_repeated_join_changes_nothing(
    store: MongoSessionStore, other: MongoSessionStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = await contest(store, other)
    send = store._database.update_one
    sent = []

    async def send_twice(*args: Any) -> Mapping[str, Any] | None:
        sent.append([await send(*args), await other.append("s", [user("between")])])
        return await send(*args)

    monkeypatch.setattr(store._database, "update_one", send_twice)
    stored = await store.append("s", [user("once")])
    assert len(sent) == 1
    assert sent[0][0] is not None
    assert stored[0].seq == len(texts) + 1
    assert await said(other, "s") == [*texts, "once", "between"]


async def test_late_join_after_a_clear(
    store: MongoSessionStore, other: MongoSessionStore, proxy: Proxy
) -> None:
    texts = await contest(store, other)
    async with held_back(proxy, store.append("s", [user("late")])) as late:
        await other.clear_session("s")
        await other.append("s", [user("new")])
    assert [each.seq for each in late.result()] == [len(texts) + 2]
    assert await said(other, "s") == ["new", "late"]


async def test_late_join_meets_a_later_session_of_the_same_id(
    store: MongoSessionStore, other: MongoSessionStore, proxy: Proxy
) -> None:
    await contest(store, other)
    async with held_back(proxy, store.append("s", [user("late")])) as late:
        await other.delete_session("s")
        await other.append("s", [user("new")])
    assert [each.seq for each in late.result()] == [2]
    assert await said(other, "s") == ["new", "late"]


async def test_expired_session_is_not_joined(server: MongoServer, database: str) -> None:
    now = 1000.0
    options: dict[str, Any] = {"database": database, "ttl_seconds": 60, "clock": lambda: now}
    async with (
        MongoSessionStore(server.url, **options) as store,
        MongoSessionStore(server.url, **options) as other,
    ):
        texts = await contest(store, other)
        now += 59
        await store.append("s", [user("renewed")])
        now += 59
        assert await said(other, "s") == [*texts, "renewed"]
        now += 2
        assert [each.seq for each in await store.append("s", [user("new")])] == [1]
        assert await said(other, "s") == ["new"]


async def test_damaged_session_stays_alone(
    store: MongoSessionStore,
    other: MongoSessionStore,
    admin: AsyncMongoClient[dict[str, Any]],
    database: str,
) -> None:
    await contest(store, other)
    sessions = admin[database]["sessions"]
    await sessions.update_one({"_id": "s"}, {"$set": {"tail": "damaged"}})
    damaged, sound = await asyncio.gather(
        store.append("s", [user("x")]), store.append("t", [user("x")]), return_exceptions=True
    )
    assert isinstance(damaged, CorruptSessionError)
    assert not isinstance(sound, BaseException)
    assert await said(other, "t") == ["x"]


async def test_pages_named_late_are_there(
    store: MongoSessionStore, other: MongoSessionStore
) -> None:
    texts = [f"m{n}" for n in range(16)]
    for text in texts:
        await store.append("s", [user(text)])
    moves, head = store._commits._moves, store._commits._beliefs.head("s")
    assert head is not None
    [move] = await store._pages.move_tails([(head, 10)])
    move.sent_onto = head.version
    await other.append("s", [user("meanwhile")])
    # What this store gives up while the server has yet to work on it.
    await store._pages.remove_unnamed(move)
    await moves._name(move)
    assert moves.of("s") is None
    assert await said(other, "s") == [*texts, "meanwhile"]


async def test_a_move_of_a_deleted_session_holds_up_no_later_one(
    store: MongoSessionStore, other: MongoSessionStore
) -> None:
    """Whether the later session's versions are above the earlier one's or below."""
    for session_id in map(str, range(12)):
        for n in range(TAIL + 1):
            await store.append(session_id, [user(f"old {n}")])
        await store._commits.finish()
        waiting = store._commits._moves.of(session_id)
        assert waiting is not None
        assert await other.delete_session(session_id)
        for n in range(3):
            await store.append(session_id, [user(f"new {n}")])
        assert store._commits._moves.of(session_id) is None
        assert await said(other, session_id) == ["new 0", "new 1", "new 2"]


async def test_a_tail_stays_short_where_only_one_store_reads(
    store: MongoSessionStore,
    other: MongoSessionStore,
    admin: AsyncMongoClient[dict[str, Any]],
    database: str,
) -> None:
    """The one that doesn't read would move it sooner than the one that does."""
    longest = 0
    for n in range(150):
        await store.get_messages("s", limit=20)
        for each in (store, other):
            await each.append("s", [user(f"m{n}")])
            await each._commits.finish()
        document = await admin[database]["sessions"].find_one({"_id": "s"}, {"tail.seq": 1})
        assert document is not None
        longest = max(longest, len(document["tail"]))
    assert longest < 60


async def test_a_version_that_was_undone_is_not_taken_for_the_one_in_its_place(
    store: MongoSessionStore,
    other: MongoSessionStore,
    admin: AsyncMongoClient[dict[str, Any]],
    database: str,
) -> None:
    """As where a primary fails after somebody has read what no majority has."""
    documents = admin[database]["sessions"]
    await other.increment_state("s", "n", 1)
    before = await documents.find_one({"_id": "s"})
    assert before is not None
    await other.increment_state("s", "n", 100)
    heads = await store._commits._load([MoveJob("s")], HEAD_FIELDS)
    store._commits._beliefs.remember_read(heads["s"])
    await documents.replace_one({"_id": "s"}, before)
    other._commits._beliefs.forget("s")
    assert await other.increment_state("s", "n", 1) == 2
    assert await store.increment_state("s", "n", 1) == 3


async def test_a_wrong_clock_forgets_no_writer(
    store: MongoSessionStore,
    other: MongoSessionStore,
    admin: AsyncMongoClient[dict[str, Any]],
    database: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whoever was forgotten doesn't know its own write again, and repeats it."""
    documents = admin[database]["sessions"]
    await store.append("s", [user("x")])
    document = await documents.find_one({"_id": "s"})
    assert document is not None
    [(name, slot)] = document["writers"].items()
    many = {f"writers.w{n}": slot for n in range(20)}
    await documents.update_one({"_id": "s"}, {"$set": many})
    ahead = time.time() + 7200
    monkeypatch.setattr("time.time", lambda: ahead)
    await other.append("s", [user("y")])
    document = await documents.find_one({"_id": "s"})
    assert document is not None
    assert name in document["writers"]
    assert len(document["writers"]) == 22


@pytest.mark.parametrize("callers", [1, 20])
async def test_stores_together_leave_a_whole_history_and_nothing_else(
    server: MongoServer, admin: AsyncMongoClient[dict[str, Any]], database: str, callers: int
) -> None:
    appended: list[str] = []
    stores = [MongoSessionStore(server.url, database=database) for _ in range(3)]

    async def talk(of: MongoSessionStore, name: str) -> None:
        for n in range(240 // callers):
            texts = [f"{name}{n}.{k}." + "x" * 500 for k in range(1 + n % 3)]
            stored = await of.append("s", [user(text) for text in texts])
            assert [each.seq - stored[0].seq for each in stored] == list(range(len(texts)))
            appended.extend(texts)
            if n % 10 == 9:
                await of.increment_state("s", "n")

    talks = [talk(of, f"{k}.{c}-") for k, of in enumerate(stores) for c in range(callers)]
    await asyncio.gather(*talks)
    for of in stores:
        await of.aclose()
    async with MongoSessionStore(server.url, database=database) as store:
        texts = await said(store, "s")
        assert sorted(texts) == sorted(appended)
        for name in {text.split("-")[0] + "-" for text in texts}:
            mine = [text.split("-")[1].split(".")[:2] for text in texts if text.startswith(name)]
            assert mine == sorted(mine, key=lambda each: (int(each[0]), int(each[1])))
        info = await store.get_session("s", max_messages=0)
        assert (info.last_seq, info.message_count) == (len(texts), len(texts))
        assert info.state == {"n": 3 * callers * (240 // callers // 10)}
        # Pages that nobody names would show up here, twice.
        stored = await stored_bytes(admin, database)
        assert all(stored.count(text.encode()) == 1 for text in texts)
