"""What is in MongoDB that this library didn't write, or is no longer there."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from bson import ObjectId
from pymongo import AsyncMongoClient, MongoClient

from asyncsessions import CorruptSessionError, StoreUnavailableError
from asyncsessions.protocols import SessionStore
from asyncsessions.stores import _mongo_leftovers
from asyncsessions.stores.mongo import MongoSessionStore
from asyncsessions.testing import DamageConformance
from asyncsessions.testing.servers import MongoServer
from asyncsessions.testing.timing import LONG_ENOUGH
from tests.faults.conversation import said, user
from tests.faults.mongo_server import (
    admin,
    database,
    other,
    proxy,
    server,
    store,
    stored_bytes,
)

__all__ = ["admin", "database", "other", "proxy", "server", "store"]  # Fixtures of these tests.

Admin = AsyncMongoClient[dict[str, Any]]


class TestDamage(DamageConformance):
    @pytest.fixture(autouse=True)
    def own_database(self, server: MongoServer, database: str) -> Iterator[None]:
        self.url, self.database = server.url, database
        with MongoClient[dict[str, Any]](server.url) as client:
            self.sessions = client[database]["sessions"]
            yield

    def make_store(self, **options: Any) -> SessionStore:
        return MongoSessionStore(self.url, database=self.database, **options)

    def damage(self, session_id: str) -> None:
        self.sessions.update_one({"_id": session_id}, {"$set": {"last_seq": "three"}})


DAMAGES: dict[str, dict[str, Any]] = {
    "field missing": {"$unset": {"incarnation": ""}},
    "version": {"$set": {"version": "one"}},
    "record": {"$set": {"record": 7}},
    "record's text": {"$set": {"record": b'{"metadata":'}},
    "no list": {"$set": {"tail": 7}},
    "entry": {"$set": {"tail": [{"seq": "1", "count": 1, "size": 2, "bodies": b"{}"}]}},
    "page": {"$set": {"pages": [{"seq": 1}]}},
    "time": {"$set": {"updated_at": 1.0, "expires_at": "never"}},
    "all of it": {"$set": {"version": None, "tail": None, "writers": [1], "keys": "none"}},
}


async def test_garbage_that_stays_is_passed_over(
    other: MongoSessionStore, admin: Admin, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_mongo_leftovers, "_SESSIONS_AT_A_TIME", 2)
    for n in range(7):
        await other.append(f"s{n}", [user("x")])
    garbage = {"$set": {"garbage": [{"bad": 1}]}}
    await admin[database]["sessions"].update_many({}, garbage)
    async with asyncio.timeout(LONG_ENOUGH):
        assert await other.purge_expired() == 0


async def test_pages_that_were_never_named_go_with_their_session(
    other: MongoSessionStore, admin: Admin, database: str
) -> None:
    """A process that is killed before its large write is committed leaves some."""
    pages = admin[database]["messages"]
    await other.append("s", [user("x")])
    days_ago = datetime.now(UTC) - timedelta(days=3)
    for session_id, moment in [("s", days_ago), ("t", days_ago), ("s", datetime.now(UTC))]:
        volume = ObjectId.from_datetime(moment)
        page = {"_id": {"s": session_id, "i": volume, "n": ObjectId()}, "bodies": b"secret"}
        await pages.insert_one(page)
    assert await other.delete_session("s")
    left = [(each["_id"]["s"], each["_id"]["i"].generation_time) async for each in pages.find()]
    # The young one may be about to be named.
    assert sorted(session_id for session_id, _ in left) == ["s", "t"]
    assert max(left)[0] == "t"


@pytest.mark.parametrize("what", DAMAGES)
@pytest.mark.parametrize("is_known", [True, False], ids=["known", "unknown"])
async def test_damaged_session_fails_alone_and_can_be_deleted(
    other: MongoSessionStore, admin: Admin, database: str, what: str, *, is_known: bool
) -> None:
    sessions = admin[database]["sessions"]
    await other.append("good", [user("x")])
    async with MongoSessionStore(admin, database=database) as first:
        writer = other if is_known else first
        await writer.append("bad", [user(f"secret{n}" + "x" * 1000) for n in range(500)])
    await sessions.update_one({"_id": "bad"}, DAMAGES[what])
    damaged = await sessions.find_one({"_id": "bad"})
    for call in (
        lambda name: other.append(name, [user("y")]),
        lambda name: other.set_state(name, "k", 1),
        lambda name: other.append(name, [user("z")]),
    ):
        good, bad = await asyncio.gather(*map(call, ("good", "bad")), return_exceptions=True)
        assert not isinstance(good, Exception)
        # The server refuses what doesn't fit, before the store looks itself.
        assert bad is None or isinstance(bad, list | CorruptSessionError | StoreUnavailableError)
    assert await said(other, "good") == ["x", "y", "z"]
    assert "good" in [info.session_id for info in await other.list_sessions()]
    assert await other.purge_expired() == 0
    if what not in ("record", "record's text", "time"):
        with pytest.raises(CorruptSessionError):
            await other.get_messages("bad")
        # Who remembers the session may have written to it all the same.
        assert is_known or await sessions.find_one({"_id": "bad"}) == damaged
    assert await other.delete_session("bad") is True
    assert b"secret" not in await stored_bytes(admin, database)
    assert [m.seq for m in await other.append("bad", [user("new")])] == [1]
    assert await said(other, "bad") == ["new"]


async def test_damaged_session_that_has_expired_is_purged(
    other: MongoSessionStore, admin: Admin, database: str
) -> None:
    for name in ("gone", "stays"):
        await other.append(name, [user(f"secret{n}" + "x" * 1000) for n in range(500)])
    await other.expire_session("gone", 0)
    await other.append("last", [user("x")])
    await other.expire_session("last", 0)
    await admin[database]["sessions"].update_many({}, {"$set": {"pages.0.seq": "x"}})
    assert await other.purge_expired() == 2
    names = [each["_id"] for each in await admin[database]["sessions"].find().to_list()]
    assert names == ["stays"]


async def test_damaged_garbage_holds_up_no_other(
    other: MongoSessionStore, admin: Admin, database: str
) -> None:
    sessions = admin[database]["sessions"]
    for name in ("a", "b", "c"):
        await other.append(name, [user("x")])
    for name in ("b", "c"):
        await other.expire_session(name, 0)
    await sessions.update_one({"_id": "a"}, {"$set": {"garbage": [{"page": 1}], "version": 1}})
    assert await other.purge_expired() == 2
    await sessions.update_one({"_id": "a"}, {"$set": {"garbage": [7]}})
    assert await other.purge_expired() == 0


@pytest.mark.parametrize("kind", ["gone", "empty", "other"])
async def test_missing_pages_hold_up_no_other_session(
    server: MongoServer, admin: Admin, database: str, kind: str
) -> None:
    options: dict[str, Any] = {"database": database, "max_messages": 300, "timeout": LONG_ENOUGH}
    async with MongoSessionStore(server.url, **options) as first:
        await first.append("bad", [user(f"{n}" + "x" * 1000) for n in range(300)])
    pages = admin[database]["messages"]
    match kind:
        case "gone":
            await pages.delete_many({})
        case "empty":
            await pages.update_many({}, {"$set": {"bodies": b""}})
        case "other":
            await pages.update_many({}, {"$unset": {"bodies": ""}})
    async with MongoSessionStore(server.url, **options) as store:
        began = asyncio.get_running_loop().time()
        calls: list[Any] = [
            store.append("good", [user("x")]),
            store.append("bad", [user("x")]),
            store.get_messages("bad"),
        ]
        good, *bad = await asyncio.gather(*calls, return_exceptions=True)
        assert isinstance(good, list)
        assert [type(each) for each in bad] == [CorruptSessionError] * 2
        with pytest.raises(CorruptSessionError):
            while True:
                await store.pop_message("bad")
        assert asyncio.get_running_loop().time() - began < LONG_ENOUGH / 2
        assert await store.clear_session("bad") is True
        assert [m.seq for m in await store.append("bad", [user("new")])] == [301]
