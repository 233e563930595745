"""MongoDB that loses replies; writers that come late, or not to the end."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import pytest
from pymongo import AsyncMongoClient

from asyncsessions import VersionConflictError
from asyncsessions.hooks import Append, KeyRecord
from asyncsessions.protocols import SessionStore
from asyncsessions.stores._mongo_commits import Writer
from asyncsessions.stores._mongo_plans import DeleteJob
from asyncsessions.stores._mongo_session import HEAD_FIELDS, Entry, Head
from asyncsessions.stores.mongo import MongoSessionStore
from asyncsessions.testing.servers import MongoServer
from tests.faults.conversation import amended, said, user
from tests.faults.mongo_server import (
    TAIL,
    admin,
    database,
    held_back,
    other,
    proxy,
    server,
    start,
    store,
    stored_bytes,
)
from tests.faults.proxy import Proxy

__all__ = ["admin", "database", "other", "proxy", "server", "store"]  # Fixtures of these tests.


# Replies that are lost.


class Lost(NamedTuple):
    """A call, the request whose reply is lost, and what must have come of it.

    ``seen`` gets the call's outcome, what the session says afterwards, and its state.
    """

    request: bytes
    call: Callable[[MongoSessionStore], Awaitable[Any]]
    seen: Callable[[Any, list[Any], Any], bool]


LOST = {
    "append": Lost(
        b"update\0",
        lambda store: store.append("s", [user("x")]),
        lambda outcome, texts, state: (outcome[0].seq, texts[100:]) == (101, ["x"]),
    ),
    "large append": Lost(
        b"update\0",
        lambda store: store.append("s", [user("x" * 400_000)]),
        lambda outcome, texts, state: (outcome[0].seq, texts[100:]) == (101, ["x" * 400_000]),
    ),
    "increment": Lost(
        b"update\0",
        lambda store: store.increment_state("s", "n"),
        lambda outcome, texts, state: (outcome, state) == (2, {"n": 2}),
    ),
    "pop": Lost(
        b"update\0",
        lambda store: store.pop_message("s"),
        lambda outcome, texts, state: (outcome.content, texts[-1:]) == ("m99", ["m98"]),
    ),
    "replace": Lost(
        b"update\0",
        lambda store: store.set_chat_history("s", [user("x")]),
        lambda outcome, texts, state: (outcome, texts) == (True, ["x"]),
    ),
    "clear": Lost(
        b"update\0",
        lambda store: store.clear_session("s"),
        lambda outcome, texts, state: (outcome, texts, state) == (True, [], {"n": 1}),
    ),
    "amend": Lost(
        b"update\0",
        amended,
        lambda outcome, texts, state: (outcome, len(texts)) == ((None, "t", 102), 100),
    ),
    "delete": Lost(
        b"update\0",
        lambda store: store.delete_session("s"),
        lambda outcome, texts, state: (outcome, texts, state) == (True, [], {}),
    ),
}


@pytest.mark.parametrize("what", LOST)
async def test_lost_reply_is_neither_lost_nor_doubled(
    store: MongoSessionStore, other: MongoSessionStore, proxy: Proxy, what: str
) -> None:
    await store.append("s", [user(f"m{n}") for n in range(100)])
    await store.set_state("s", "n", 1)
    proxy.lose_reply(LOST[what].request)
    outcome = await LOST[what].call(store)
    assert proxy.replies_lost == 1
    assert LOST[what].seen(outcome, await said(other, "s"), await other.get_state("s"))


async def test_lost_reply_to_the_first_append(
    store: MongoSessionStore, other: MongoSessionStore, proxy: Proxy
) -> None:
    proxy.lose_reply(b"insert\0")
    stored = await store.append("s", [user("once")])
    assert proxy.replies_lost == 1
    assert stored[0].seq == 1
    assert await said(other, "s") == ["once"]


async def test_lost_reply_in_a_contested_session(
    store: MongoSessionStore, other: MongoSessionStore, proxy: Proxy
) -> None:
    expected = []
    for n in range(12):
        await store.append("s", [user(f"a{n}")])
        await other.append("s", [user(f"b{n}")])
        expected += [f"a{n}", f"b{n}"]
    proxy.lose_reply(b"update")
    stored = await store.append("s", [user("once")])
    assert proxy.replies_lost == 1
    assert stored[0].seq == 25
    assert await said(other, "s") == [*expected, "once"]


async def test_connections_cut_at_random_lose_and_double_nothing(
    store: MongoSessionStore, other: MongoSessionStore, proxy: Proxy
) -> None:
    is_over = False

    async def cut() -> None:
        rng = random.Random(7)
        longest = 0.15
        while not is_over:
            await asyncio.sleep(rng.uniform(0.02, longest))
            proxy.cut()
            # More and more seldom, so that even the slowest machine comes to the end.
            longest *= 1.05

    async def talk(session_id: str, name: str) -> None:
        for n in range(60):
            await store.append(session_id, [user(f"{name}{n}"), user(f"{name}{n}+")])
            await store.increment_state("counter", "n")

    cutter = asyncio.ensure_future(cut())
    names = [("hot", "a"), ("hot", "b"), ("warm", "c"), ("cold", "d")]
    try:
        await asyncio.gather(*(talk(*each) for each in names))
    finally:
        is_over = True
        await cutter
    for session_id, of in (("hot", "ab"), ("warm", "c"), ("cold", "d")):
        texts = await said(other, session_id)
        wanted = [f"{name}{n}{end}" for name in of for n in range(60) for end in ("", "+")]
        assert sorted(texts) == sorted(wanted)
    assert await other.get_state("counter") == {"n": 240}


# Writers that come late.


async def test_late_append_does_not_bring_a_cleared_history_back(
    store: MongoSessionStore, other: MongoSessionStore, proxy: Proxy
) -> None:
    await store.append("s", [user(f"old{n}") for n in range(200)])
    async with held_back(proxy, store.append("s", [user("late")])) as late:
        await other.clear_session("s")
        await other.append("s", [user("new")])
    assert [each.seq for each in late.result()] == [202]
    assert await said(other, "s") == ["new", "late"]


async def test_late_append_meets_a_later_session_of_the_same_id(
    store: MongoSessionStore, other: MongoSessionStore, proxy: Proxy
) -> None:
    await store.append("s", [user(f"old{n}") for n in range(20)])
    async with held_back(proxy, store.append("s", [user("late")])) as late:
        await other.delete_session("s")
        await other.append("s", [user("new")])
    assert [each.seq for each in late.result()] == [2]
    assert await said(other, "s") == ["new", "late"]


MEANWHILE: dict[str, Callable[[SessionStore], Awaitable[Any]]] = {
    "append": lambda s: s.append("s", [user("new")]),
    "pop": lambda s: s.pop_message("s"),
    "partial": lambda s: s.upsert_partial_assistant_message("s", "partial"),
    "clear": lambda s: s.clear_session("s"),
    "replace": lambda s: s.set_chat_history("s", [user(f"new{n}") for n in range(50)]),
    "delete": lambda s: s.delete_session("s"),
}


@pytest.mark.parametrize("what", MEANWHILE)
@pytest.mark.parametrize("delay", [0.0, 0.004, 0.008, 0.012, 0.016])
async def test_late_move_of_a_tail_changes_nothing(
    store: MongoSessionStore, other: MongoSessionStore, proxy: Proxy, what: str, delay: float
) -> None:
    for n in range(TAIL):
        await other.append("s", [user(f"m{n}")])
    # Each piece of data waits on its way, so the other's change falls between the mover's steps.
    proxy.delay = 0.002
    await store.append("s", [user("one too many for the document")])
    await asyncio.sleep(delay)
    await MEANWHILE[what](other)
    expected = await said(other, "s")
    await store._commits.finish()
    proxy.delay = 0.0
    assert await said(other, "s") == expected
    await store.append("s", [user("end")])
    assert await said(other, "s") == [*expected, "end"]
    assert [m.content for m in await other.get_messages("s", limit=3)] == [*expected, "end"][-3:]


async def test_rivals_with_every_kind_of_write_leave_a_whole_history(
    store: MongoSessionStore, other: MongoSessionStore
) -> None:
    appended: list[str] = []
    popped: list[Any] = []

    async def write(of: MongoSessionStore, name: str) -> None:
        rng = random.Random(name)
        for n in range(80):
            kind = rng.random()
            if kind < 0.7:
                texts = [f"{name}{n}.{k}" for k in range(rng.choice((1, 2, 60)))]
                await of.append("s", [user(text) for text in texts])
                appended.extend(texts)
            elif kind < 0.85:
                message = await of.pop_message("s")
                popped.extend([] if message is None else [message.content])
            else:
                await of.increment_state("s", "n")

    await asyncio.gather(*(write(of, f"{k}-") for k, of in enumerate([store, other] * 3)))
    texts = await said(store, "s")
    assert sorted(texts + popped) == sorted(appended)
    info = await other.get_session("s", max_messages=0)
    assert (info.message_count, info.last_seq) == (len(texts), len(appended))


# Writers that don't come to the end.


REMOVE_ALL: dict[str, Callable[[SessionStore], Awaitable[Any]]] = {
    "clear": lambda store: store.clear_session("s"),
    "replace": lambda store: store.set_chat_history("s", []),
    "delete": lambda store: store.delete_session("s"),
}


async def head_of(store: MongoSessionStore, session_id: str) -> Head:
    where = {"_id": session_id}
    return Head.read((await store._database.find("sessions", where, projection=HEAD_FIELDS))[0])


@pytest.mark.parametrize("remove", REMOVE_ALL.values(), ids=REMOVE_ALL)
async def test_pages_that_no_document_names_are_invisible_and_go_with_the_others(
    other: MongoSessionStore,
    admin: AsyncMongoClient[dict[str, Any]],
    database: str,
    remove: Callable[[SessionStore], Awaitable[Any]],
) -> None:
    await other.append("s", [user("m")])
    head = await head_of(other, "s")
    # As a writer leaves them that is killed before it commits.
    await other._pages.write(head, [Entry(1, 1, 2, b"{}"), Entry(2, 1, 2, b"{}")])
    assert await said(other, "s") == ["m"]
    await remove(other)
    assert await admin[database].messages.count_documents({}) == 0


@pytest.mark.parametrize("finisher", ["purge", "append", "delete", "state"])
async def test_interrupted_deletion_is_finished_later(
    other: MongoSessionStore,
    admin: AsyncMongoClient[dict[str, Any]],
    database: str,
    finisher: str,
) -> None:
    for n in range(200):
        await other.append("s", [user(f"secret{n}")], idempotency_key=f"k{n}")
    assert await admin[database].messages.count_documents({}) > 0
    # The deletion is committed, and its writer dies.
    job = DeleteJob("s", None)
    await other._commits.run([job], Writer("dead"))
    assert job.answer is True
    assert not await other.session_exists("s")
    assert await said(other, "s") == []
    match finisher:
        case "purge":
            assert await other.purge_expired() == 0
        case "append":
            assert [m.seq for m in await other.append("s", [user("new")])] == [1]
            assert await said(other, "s") == ["new"]
        case "delete":
            assert await other.delete_session("s") is False
        case "state":
            assert await other.increment_state("s", "n") == 1
    await other._commits.finish()
    assert b"secret" not in await stored_bytes(admin, database)
    assert await admin[database].messages.count_documents({}) == 0
    assert await admin[database].keys.count_documents({}) == 0


@pytest.mark.parametrize("call", ["clear_session", "delete_session", "set_chat_history"])
async def test_what_is_removed_is_nowhere(
    other: MongoSessionStore,
    admin: AsyncMongoClient[dict[str, Any]],
    database: str,
    call: str,
) -> None:
    for n in range(100):
        await other.append("s", [user(f"secret{n}.{k}") for k in range(50)])
    assert b"secret" in await stored_bytes(admin, database)
    await getattr(other, call)("s", *([[user("new")]] if call == "set_chat_history" else []))
    assert b"secret" not in await stored_bytes(admin, database)


async def test_popped_messages_are_nowhere(
    other: MongoSessionStore, admin: AsyncMongoClient[dict[str, Any]], database: str
) -> None:
    await other.append("s", [user(f"kept{n}") for n in range(100)])
    for n in range(150):
        await other.append("s", [user(f"secret{n}")])
    await other._commits.finish()
    for _ in range(150):
        await other.pop_message("s")
    await other._commits.finish()
    assert b"secret" not in await stored_bytes(admin, database)
    assert await said(other, "s") == [f"kept{n}" for n in range(100)]


KILLED = """
import asyncio, sys
from asyncsessions import open_store
async def main():
    async with open_store(sys.argv[1]) as store:
        n = 0
        while True:
            batch = [{"role": "user", "content": f"{n}.{k}"} for k in range(n % 70 + 1)]
            await store.append("s", batch)
            print(n, flush=True)
            n += 1
asyncio.run(main())
"""


async def test_killed_writers_leave_a_whole_history(
    other: MongoSessionStore, server: MongoServer, database: str
) -> None:
    url = f"{server.url}?database={database}"
    rng = random.Random(3)
    for _ in range(6):
        writer = start(KILLED, url)
        assert writer.stdout is not None
        assert await asyncio.to_thread(writer.stdout.readline) == "0\n"
        await asyncio.sleep(rng.uniform(0.2, 0.6))
        writer.kill()
        acknowledged = int(["0", *writer.communicate()[0].split()][-1])
        texts = await said(other, "s")
        whole = [f"{n}.{k}" for n in range(acknowledged + 1) for k in range(n % 70 + 1)]
        following = [f"{acknowledged + 1}.{k}" for k in range((acknowledged + 1) % 70 + 1)]
        assert texts in (whole, whole + following)
        await other.clear_session("s")


async def test_only_one_of_rivals_has_deleted_a_session(
    store: MongoSessionStore, other: MongoSessionStore
) -> None:
    for _ in range(30):
        await store.append("s", [user("x")])
        calls = [each.delete_session("s") for each in (store, other, store, other)]
        assert sorted(await asyncio.gather(*calls)) == [False, False, False, True]


async def test_move_that_two_writes_let_go_of_at_once(
    store: MongoSessionStore, other: MongoSessionStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    for n in range(TAIL + 1):
        await store.append("s", [user(f"{n}")], idempotency_key=f"k{n}")
    await store._commits.finish()
    # Now pages of this store wait to be named, and will wait in vain.
    await other.pop_message("s")
    prepare, calls = store._old_keys.prepare, iter(range(9))

    async def pop_first(head: Head, appends: Sequence[Append]) -> dict[str, KeyRecord]:
        if next(calls) == 1:
            await store.pop_message("s")
        return await prepare(head, appends)

    monkeypatch.setattr(store._old_keys, "prepare", pop_first)
    again = await store.append("s", [user("0")], idempotency_key="k0")
    assert again[0].seq == 1
    assert len(await said(other, "s")) == TAIL - 1


async def test_rivals_leave_no_page_that_nobody_names(
    store: MongoSessionStore,
    other: MongoSessionStore,
    admin: AsyncMongoClient[dict[str, Any]],
    database: str,
) -> None:
    async def write(of: MongoSessionStore, name: str) -> None:
        rng = random.Random(name)
        for n in range(60):
            kind = rng.random()
            text = f"{name}{n}" + "x" * rng.choice((10, 30_000, 300_000))
            if kind < 0.5:
                await of.append("s", [user(text)])
            elif kind < 0.8:
                last = (await of.get_session("s", max_messages=0)).last_seq
                with suppress(VersionConflictError):
                    await of.append("s", [user(text)], expected_seq=last)
            else:
                await of.pop_message("s")

    await asyncio.gather(*(write(of, f"{k}-") for k, of in enumerate([store, other] * 3)))
    for of in (store, other):
        await of._commits.finish()
        # Without rivals, whatever waits to be named is.
        await of.increment_state("s", "n")
        await of._commits.finish()
    pages = {each["_id"]["n"]: each async for each in admin[database].messages.find()}
    session = await admin[database].sessions.find_one({"_id": "s"})
    assert session is not None
    named = [page["node"] for page in session["pages"]]
    named += [each["node"] for node in named for each in pages[node].get("pages", ())]
    waiting = [
        node
        for of in (store, other)
        for m in of._commits._moves._waiting.values()
        for node in m.nodes
    ]
    assert pages.keys() == {*named, *waiting}


@pytest.mark.parametrize("call", ["append", "set_chat_history"])
@pytest.mark.parametrize("is_new", [True, False], ids=["new", "old"])
async def test_lost_reply_to_a_page_leaves_none_that_outlives_the_session(
    store: MongoSessionStore,
    other: MongoSessionStore,
    proxy: Proxy,
    admin: AsyncMongoClient[dict[str, Any]],
    database: str,
    call: str,
    *,
    is_new: bool,
) -> None:
    await store.append("t" if is_new else "s", [user("x")])
    proxy.lose_reply(b"insert\0")
    await getattr(store, call)("s", [user("x" * 1_000_000)])
    assert proxy.replies_lost == 1
    assert (await said(other, "s"))[-1:] == ["x" * 1_000_000]
    await other.delete_session("s")
    assert await admin[database].messages.count_documents({}) == 0
