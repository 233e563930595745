"""A MongoDB replica set without a majority: what may still be undone is nobody's answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from pymongo import AsyncMongoClient, MongoClient

from asyncsessions import StoreRefusedError, StoreUnavailableError
from asyncsessions.protocols import SessionStore
from asyncsessions.stores.mongo import MongoSessionStore
from asyncsessions.testing.servers import MongoServer
from asyncsessions.testing.timing import LONG_ENOUGH, slowness
from tests.faults.conversation import said, user
from tests.faults.mongo_server import (
    database,
)
from tests.faults.proxy import Proxy

__all__ = ["database"]  # A fixture of these tests.


class Member(MongoServer):
    """A server that waits to be taken into a replica set."""

    def __init__(self) -> None:
        super().__init__(replica_set=True)

    def _is_ready(self) -> bool:
        client: MongoClient[dict[str, Any]] = MongoClient("127.0.0.1", self.port, **DIRECT)
        with client:
            return bool(client.admin.command("ping")["ok"])


DIRECT: dict[str, Any] = {
    "directConnection": True,
    "serverSelectionTimeoutMS": int(LONG_ENOUGH * 1000),
}


class Pair:
    """A primary, and a secondary without which there is no majority."""

    def __init__(self, primary: Member, secondary: Member) -> None:
        self.primary = primary
        self.secondary = secondary

    def form(self) -> None:
        """Make them a replica set."""
        members = [
            {"_id": index, "host": f"127.0.0.1:{member.port}", "priority": 1 - index}
            for index, member in enumerate((self.primary, self.secondary))
        ]
        # The primary stays one while the secondary stands still.
        settings = {"electionTimeoutMillis": 60_000}
        config = {"_id": "rs", "version": 1, "members": members[:1], "settings": settings}
        client: MongoClient[dict[str, Any]] = MongoClient("127.0.0.1", self.primary.port, **DIRECT)
        with client:
            # Alone it need not wait for an election.
            client.admin.command("replSetInitiate", config)
            _wait_for(client, ["PRIMARY"])
            client.admin.command("replSetReconfig", config | {"version": 2, "members": members})
            _wait_for(client, ["PRIMARY", "SECONDARY"])

    def store(self, database: str, *, port: int | None = None) -> MongoSessionStore:
        """Return a store that gives up soon."""
        url = f"mongodb://127.0.0.1:{port or self.primary.port}/{database}?directConnection=true"
        return MongoSessionStore(url, timeout=5 * slowness())

    @asynccontextmanager
    async def without_majority(self) -> AsyncIterator[None]:
        """Let the primary write alone within the block."""
        self.secondary.pause()
        try:
            yield
        finally:
            self.secondary.resume()


def _wait_for(client: MongoClient[dict[str, Any]], states: list[str]) -> None:
    """Return when a replica set's members are in such states, and the primary takes writes."""
    deadline = time.monotonic() + LONG_ENOUGH
    while True:
        status = client.admin.command("replSetGetStatus")
        is_writable = client.admin.command("hello")["isWritablePrimary"]
        if is_writable and [member["stateStr"] for member in status["members"]] == states:
            return
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    with Member() as primary, Member() as secondary:
        pair = Pair(primary, secondary)
        pair.form()
        yield pair
        for member in (primary, secondary):
            member.kill()  # Else each would try to hand over first, for ten seconds.


async def test_repeated_key_is_answered_only_when_its_append_is_durable(
    pair: Pair, database: str
) -> None:
    async with pair.store(database) as store, pair.store(database) as other:
        await store.append("s", [user("first")])
        async with pair.without_majority():
            for each in (store, other):
                with pytest.raises(StoreUnavailableError):
                    await each.append("s", [user("once")], idempotency_key="k")
        assert [m.seq for m in await other.append("s", [user("once")], idempotency_key="k")] == [2]
        assert await said(store, "s") == ["first", "once"]


async def test_join_that_is_not_durable_in_time_is_not_repeated(pair: Pair, database: str) -> None:
    url = f"mongodb://127.0.0.1:{pair.primary.port}/{database}?directConnection=true"
    milliseconds = int(2000 * slowness())
    async with (
        MongoSessionStore(f"{url}&wTimeoutMS={milliseconds}", timeout=LONG_ENOUGH) as store,
        pair.store(database) as other,
    ):
        for n in range(4):
            await store.append("s", [user(f"a{n}")])
            await other.append("s", [user(f"b{n}")])
        async with pair.without_majority():
            with pytest.raises(StoreUnavailableError, match="write_concern"):
                await store.append("s", [user("once")])
        await store.append("s", [user("after")])
        assert (await said(other, "s"))[8:] == ["once", "after"]


async def test_store_opens_while_members_are_away_that_its_writes_wait_for(
    pair: Pair, database: str
) -> None:
    async with pair.store(database) as store:
        await store.append("s", [user("hello")])
    url = f"mongodb://127.0.0.1:{pair.primary.port}/{database}?directConnection=true"
    async with (
        pair.without_majority(),
        MongoSessionStore(url, write_concern=2, timeout=5 * slowness()) as other,
    ):
        assert await said(other, "s") == ["hello"]


CALLS: dict[str, Callable[[SessionStore], Awaitable[Any]]] = {
    "first append": lambda store: store.append("new", [user("x")]),
    "append": lambda store: store.append("s", [user("x")]),
    "increment": lambda store: store.increment_state("s", "n"),
    "pop": lambda store: store.pop_message("s"),
    "clear": lambda store: store.clear_session("s"),
    "delete": lambda store: store.delete_session("s"),
}


@pytest.mark.parametrize("what", CALLS)
async def test_write_whose_connection_broke_is_answered_only_when_it_is_durable(
    pair: Pair, database: str, what: str
) -> None:
    async with (
        Proxy(pair.primary.port) as proxy,
        pair.store(database, port=proxy.port) as store,
        pair.store(database) as other,
    ):
        await store.append("s", [user("first"), user("second")])
        async with pair.without_majority():
            before = await stored(other)
            call = asyncio.ensure_future(CALLS[what](store))
            # By then it is written, and waits for the secondary.
            deadline = time.monotonic() + LONG_ENOUGH
            while await stored(other) == before:
                assert not call.done()
                assert time.monotonic() < deadline
                await asyncio.sleep(0.01)
            proxy.cut()
            with pytest.raises(StoreUnavailableError):
                await call


async def stored(store: MongoSessionStore) -> list[Any]:
    """Return what the primary has, durable or not."""
    return await store._database.find("sessions", {}, sort={"_id": 1})


async def test_garbage_stays_until_letting_go_of_it_is_durable(pair: Pair, database: str) -> None:
    client: AsyncMongoClient[dict[str, Any]] = AsyncMongoClient(
        f"mongodb://127.0.0.1:{pair.primary.port}", **DIRECT
    )
    async with client, pair.store(database) as store, pair.store(database) as other:
        await store.append("s", [user(f"secret {n}" + "x" * 1000) for n in range(1000)])
        pages = client[database]["messages"]
        count = await pages.count_documents({})
        assert count > 1
        async with pair.without_majority():
            with pytest.raises(StoreUnavailableError):
                await store.clear_session("s")
            with pytest.raises(StoreUnavailableError):
                await other.purge_expired()
            assert await said(other, "s") == []
            # A primary that is lost now has never cleared the session.
            assert await pages.count_documents({}) == count
        await other.purge_expired()
        assert await pages.count_documents({}) == 0


async def test_a_secondary_is_named_as_such(pair: Pair, database: str) -> None:
    url = f"mongodb://127.0.0.1:{pair.secondary.port}/{database}?directConnection=true"
    store = MongoSessionStore(url, timeout=2.0 * slowness())
    with pytest.raises(StoreRefusedError, match="secondary"):
        await store.append("s", [user("x")])
    await store.aclose()
