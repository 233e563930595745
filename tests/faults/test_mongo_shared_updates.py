"""Updates in MongoDB that change many sessions at once: what happens to one stays its affair."""

from __future__ import annotations

import asyncio
from typing import Any

from pymongo import AsyncMongoClient

from asyncsessions import CorruptSessionError, Message, StoreUnavailableError
from asyncsessions.protocols import SessionStore
from asyncsessions.stores.mongo import MongoSessionStore
from tests.faults.conversation import said, user
from tests.faults.mongo_server import (
    admin,
    database,
    other,
    proxy,
    server,
    store,
)
from tests.faults.proxy import Proxy

__all__ = ["admin", "database", "other", "proxy", "server", "store"]  # Fixtures of these tests.

# More than go to the server in one command.
SESSIONS = [f"s{n}" for n in range(150)]


async def append_to_all(store: SessionStore, text: str) -> dict[str, list[Message] | BaseException]:
    """Append the same to each session in one flush, and return the outcomes."""
    calls = [store.append(session_id, [user(text)]) for session_id in SESSIONS]
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    return dict(zip(SESSIONS, outcomes, strict=True))


def seqs(outcomes: dict[str, Any]) -> set[int]:
    return {message.seq for [message] in outcomes.values()}


async def test_a_session_that_another_store_has_written_meanwhile(
    store: MongoSessionStore, other: MongoSessionStore
) -> None:
    await append_to_all(store, "a")
    await other.append("s7", [user("b")])
    outcomes = await append_to_all(store, "c")
    assert seqs({"s7": outcomes.pop("s7")}) == {3}
    assert seqs(outcomes) == {2}
    for session_id in SESSIONS:
        expected = ["a", "b", "c"] if session_id == "s7" else ["a", "c"]
        assert await said(other, session_id) == expected


async def test_a_damaged_session_fails_alone(
    store: MongoSessionStore,
    other: MongoSessionStore,
    admin: AsyncMongoClient[dict[str, Any]],
    database: str,
) -> None:
    await append_to_all(store, "a")
    # The update can't be made of this one, which keeps the server from going on to the next.
    await admin[database]["sessions"].update_one({"_id": "s7"}, {"$set": {"tail": "damaged"}})
    outcomes = await append_to_all(store, "b")
    assert isinstance(outcomes.pop("s7"), CorruptSessionError)
    assert seqs(outcomes) == {2}
    for session_id in outcomes:
        assert await said(other, session_id) == ["a", "b"]


async def test_a_session_that_the_server_refuses_fails_alone(
    store: MongoSessionStore,
    other: MongoSessionStore,
    admin: AsyncMongoClient[dict[str, Any]],
    database: str,
) -> None:
    await append_to_all(store, "a")
    rule = {"$or": [{"_id": {"$ne": "s7"}}, {"last_seq": {"$lt": 2}}]}
    await admin[database].command({"collMod": "sessions", "validator": rule})
    outcomes = await append_to_all(store, "b")
    assert isinstance(outcomes.pop("s7"), StoreUnavailableError)
    assert seqs(outcomes) == {2}
    for session_id in SESSIONS:
        expected = ["a"] if session_id == "s7" else ["a", "b"]
        assert await said(other, session_id) == expected


async def test_a_lost_reply_doubles_nothing(
    store: MongoSessionStore, other: MongoSessionStore, proxy: Proxy
) -> None:
    await append_to_all(store, "a")
    proxy.lose_reply(b"update")
    outcomes = await append_to_all(store, "once")
    assert proxy.replies_lost == 1
    assert seqs(outcomes) == {2}
    for session_id in SESSIONS:
        assert await said(other, session_id) == ["a", "once"]


async def test_ids_that_look_like_fields_or_operators(
    store: MongoSessionStore, other: MongoSessionStore
) -> None:
    names = ["$_id", "$$ROOT", "a.b", "$literal"]
    for text in ("a", "b", "c"):
        await asyncio.gather(*(store.append(name, [user(text)]) for name in names))
    for name in names:
        assert await said(other, name) == ["a", "b", "c"]


async def test_records_that_one_update_could_not_hold(
    store: MongoSessionStore, other: MongoSessionStore
) -> None:
    large = {"s1": {"a": "a" * 7_000_000}, "s2": {"a": "a" * 5_000_000, "b": "b" * 6_000_000}}
    for session_id, state in large.items():
        for key, value in state.items():
            await store.set_state(session_id, key, value)
    await asyncio.gather(*(store.set_state(session_id, "n", 1) for session_id in large))
    for session_id, state in large.items():
        assert await other.get_state(session_id) == state | {"n": 1}
