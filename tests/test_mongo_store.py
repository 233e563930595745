"""MongoDB: the conformance suite, and what only this store has."""

from __future__ import annotations

import asyncio
import hashlib
import json
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pymongo
import pytest
import pytest_asyncio
from bson import ObjectId
from motor.motor_asyncio import AsyncIOMotorClient
from pymongo import AsyncMongoClient, MongoClient
from pymongo.errors import OperationFailure
from pymongo.monitoring import (
    CommandFailedEvent,
    CommandListener,
    CommandStartedEvent,
    CommandSucceededEvent,
)

from asyncsessions import (
    CorruptSessionError,
    InvalidMessageError,
    MessageTooLargeError,
    StoreRefusedError,
    StoreUnavailableError,
    open_store,
)
from asyncsessions.pacing import Pacer
from asyncsessions.protocols import SessionStore
from asyncsessions.stores import _mongo_moves
from asyncsessions.stores._mongo_cache import PageCache
from asyncsessions.stores._mongo_database import Database
from asyncsessions.stores._mongo_session import Head, Page
from asyncsessions.stores.mongo import MongoSessionStore
from asyncsessions.testing import ManualClock, SharedStoreConformance
from asyncsessions.testing.timing import LONG_ENOUGH, slowness

# As many messages of a lone caller as its session's document may hold; one more has them moved.
TAIL = _mongo_moves._BOUNDS_IF_ALONE.entries


def database_of(path: Path) -> str:
    return f"test_{hashlib.blake2b(str(path).encode(), digest_size=12).hexdigest()}"


async def drop(url: str, name: str) -> None:
    """Drop a database by its collections: a replica set needs a tenth of a second for it whole."""
    client: AsyncMongoClient[dict[str, Any]] = AsyncMongoClient(url, w=1)
    async with client:
        for collection in await client[name].list_collection_names():
            await client[name].drop_collection(collection)


class MongoConformance(SharedStoreConformance):
    """The suite, each test in a database of its own."""

    url: str

    @pytest.fixture(autouse=True)
    async def own_database(self, server_url: str, tmp_path: Path) -> AsyncIterator[None]:
        self.url = server_url
        self.database = database_of(tmp_path)
        yield
        await drop(server_url, self.database)

    def make_store(self, **options: Any) -> SessionStore:
        return MongoSessionStore(self.url, database=self.database, timeout=LONG_ENOUGH, **options)

    def store_url(self) -> str:
        separator = "&" if "?" in self.url else "?"
        return f"{self.url}{separator}database={self.database}&timeout={LONG_ENOUGH:g}"


class TestMongoSessionStore(MongoConformance):
    @pytest.fixture
    def server_url(self, mongo_url: str) -> str:
        return mongo_url


class TestMongoReplicaSet(MongoConformance):
    @pytest.fixture
    def server_url(self, mongo_replica_url: str) -> str:
        return mongo_replica_url


class TestMongoThroughMotor(MongoConformance):
    @pytest.fixture
    def server_url(self, mongo_url: str) -> str:
        return mongo_url

    @pytest.fixture(autouse=True)
    def own_client(self, own_database: None) -> Iterator[None]:
        self.client: Any = AsyncIOMotorClient(self.url)
        yield
        self.client.close()  # Or its threads would stay for all other tests.

    def make_store(self, **options: Any) -> SessionStore:
        return MongoSessionStore(
            self.client, database=self.database, timeout=LONG_ENOUGH, **options
        )


# What only this store has.


@pytest_asyncio.fixture
async def client(mongo_url: str) -> AsyncIterator[AsyncMongoClient[dict[str, Any]]]:
    async with AsyncMongoClient[dict[str, Any]](mongo_url) as client:
        yield client


@pytest_asyncio.fixture
async def store(
    client: AsyncMongoClient[dict[str, Any]], tmp_path: Path
) -> AsyncIterator[MongoSessionStore]:
    """A store on a client of the caller's."""
    database = database_of(tmp_path)
    async with MongoSessionStore(client, database=database, prefix="x.") as store:
        yield store
    await client.drop_database(database)


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


async def said(store: SessionStore, session_id: str, **window: Any) -> list[Any]:
    return [message.content for message in await store.get_messages(session_id, **window)]


async def largest_document(client: AsyncMongoClient[dict[str, Any]], path: Path) -> int:
    stages: list[Any] = [{"$project": {"size": {"$bsonSize": "$$ROOT"}}}]
    database = client[database_of(path)]
    sizes = [0]
    for name in await database.list_collection_names():
        sizes += [each["size"] async for each in await database[name].aggregate(stages)]
    return max(sizes)


@pytest.mark.parametrize("batch", [1, 20, 500])
async def test_documents_stay_small(
    store: MongoSessionStore,
    client: AsyncMongoClient[dict[str, Any]],
    tmp_path: Path,
    batch: int,
) -> None:
    for start in range(0, 2000, batch):
        await store.append("s", [user(f"{n} {'x' * 300}") for n in range(start, start + batch)])
    await store._commits.finish()
    assert await largest_document(client, tmp_path) < 1 << 20
    texts = await said(store, "s")
    assert [text.split()[0] for text in texts] == [str(n) for n in range(2000)]


@pytest.mark.parametrize(
    ("use", "least", "most"), [("alone", 2, 40), ("shared", 2, 24), ("read", 20, 44)]
)
async def test_how_many_messages_stay_in_the_document(
    store: MongoSessionStore,
    client: AsyncMongoClient[dict[str, Any]],
    tmp_path: Path,
    use: str,
    least: int,
    most: int,
) -> None:
    """All that a reader of twenty wants, or as little as an append has to rewrite."""
    lengths = []
    for n in range(150):
        sessions = ["s", "t"] if use == "shared" else ["s"]
        await asyncio.gather(*(store.append(each, [user(f"{n}")]) for each in sessions))
        if use == "read":
            await store.get_messages("s", limit=20)
        await store._commits.finish()
        document = await client[database_of(tmp_path)]["x.sessions"].find_one({"_id": "s"})
        assert document is not None
        lengths.append(len(document["tail"]))
    assert min(lengths[40:]) in range(least, least + 3)
    assert max(lengths) in range(most - 8, most + 1)
    assert await said(store, "s") == [f"{n}" for n in range(150)]


@pytest.mark.parametrize("is_repeated", [False, True], ids=["once", "repeated"])
async def test_pages_of_quiet_sessions_are_named_where_many_wait(
    store: MongoSessionStore,
    client: AsyncMongoClient[dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    is_repeated: bool,
) -> None:
    monkeypatch.setattr(_mongo_moves, "_MOST_WAITING", 6)
    monkeypatch.setattr(_mongo_moves, "_LEFT_WAITING", 2)
    sessions = [f"s{k}" for k in range(20)]
    texts = [f"{n}" for n in range(TAIL + 1)]
    for session_id in sessions:
        for text in texts:
            await store.append(session_id, [user(text)], idempotency_key=text)
        await store._commits.finish()
        if is_repeated:
            # What writes nothing names nothing.
            await store.append(session_id, [user(texts[-1])], idempotency_key=texts[-1])
            await store._commits.finish()
    assert len(store._commits._moves.sessions()) <= 6
    documents = client[database_of(tmp_path)]["x.sessions"]
    tails = [len(each["tail"]) async for each in documents.find()]
    assert sorted(tails)[:14] == [2] * 14
    for session_id in sessions:
        assert await said(store, session_id) == texts
        assert [m.seq for m in await store.append(session_id, [user("next")])] == [TAIL + 2]


async def test_pages_that_wait_hold_no_record_in_memory(store: MongoSessionStore) -> None:
    await store.set_state("s", "large", "x" * 1_000_000)
    for n in range(TAIL + 1):
        await store.append("s", [user(f"{n}")], idempotency_key=f"{n}")
    await store._commits.finish()
    move = store._commits._moves.of("s")
    assert move is not None
    assert (len(move.head.record) < 100, move.head.keys) == (True, {})
    assert await store.get_state("s", "large") == "x" * 1_000_000
    await store.append("s", [user("next")])
    assert len(await said(store, "s")) == TAIL + 2
    assert await store.get_state("s", "large") == "x" * 1_000_000


@pytest.mark.parametrize("count", [1, TAIL + 1], ids=["nothing", "pages"])
async def test_closing_asks_the_server_for_nothing_unless_pages_wait(
    mongo_url: str, tmp_path: Path, count: int
) -> None:
    commands = Commands()
    async with AsyncMongoClient[dict[str, Any]](mongo_url, event_listeners=[commands]) as client:
        database = database_of(tmp_path)
        store = MongoSessionStore(client, database=database)
        for n in range(count):
            await store.append("s", [user(f"{n}")])
        await store._commits.finish()
        # As long as the server is away, it costs time to ask it for its clock's.
        store._clock._measured = float("-inf")
        commands.counts.clear()
        await store.aclose()
        assert bool(commands.counts) is (count > 1)
        document = await client[database].sessions.find_one({"_id": "s"})
        assert document is not None
        assert len(document["tail"]) == min(count, 2)
        await client.drop_database(database)


async def test_many_pages_make_no_long_list_and_are_all_found(
    store: MongoSessionStore, client: AsyncMongoClient[dict[str, Any]], tmp_path: Path
) -> None:
    # As large as a page each, so that there are pages of pages.
    for n in range(120):
        await store.append("s", [user(f"{n}"), user("x" * 260_000)])
    document = await client[database_of(tmp_path)]["x.sessions"].find_one({"_id": "s"})
    assert document is not None
    assert len(document["pages"]) < 100
    assert {page["level"] for page in document["pages"]} >= {0, 1}
    short = [f"{n}" for n in range(120)]
    assert (await said(store, "s"))[::2] == short
    for seq in (1, 57, 119, 239):
        found = await store.get_messages("s", after=seq - 1, limit=1)
        assert [(each.seq, each.content) for each in found] == [(seq, short[seq // 2])]
        found = await store.get_messages("s", before=seq + 1, limit=1)
        assert [(each.seq, each.content) for each in found] == [(seq, short[seq // 2])]
    for left in (200, 101, 40):
        info = await store.get_session("s", max_messages=0)
        for _ in range(info.message_count - left):
            await store.pop_message("s")
        assert [each.seq for each in await store.get_messages("s", limit=2)] == [left - 1, left]
    await store.clear_session("s")
    assert await client[database_of(tmp_path)]["x.messages"].count_documents({}) == 0


class Commands(CommandListener):
    """Counts commands by their names and collections."""

    def __init__(self) -> None:
        self.counts: Counter[tuple[str, Any]] = Counter()

    def started(self, event: CommandStartedEvent) -> None:
        name = event.command_name
        self.counts[name, event.command[name]] += 1

    def succeeded(self, event: CommandSucceededEvent) -> None:
        pass

    def failed(self, event: CommandFailedEvent) -> None:
        pass


async def test_older_messages_are_fetched_once_and_never_out_of_date(
    mongo_url: str, store: MongoSessionStore, tmp_path: Path
) -> None:
    """Pages stay with a reader, but only the session's document says which of them count."""
    texts = [f"{n} {'x' * 500}" for n in range(600)]
    await store.append("s", [user(text) for text in texts])
    commands = Commands()
    async with AsyncMongoClient[dict[str, Any]](mongo_url, event_listeners=[commands]) as client:
        database = database_of(tmp_path)
        async with MongoSessionStore(client, database=database, prefix="x.") as reader:
            for window in ({"limit": 20}, {"limit": 20}, {}, {}, {"before": 300, "limit": 5}):
                await said(reader, "s", **window)
            assert commands.counts["find", "x.messages"] == 2  # The newest page, and the others.

            await store.pop_message("s")
            assert await said(reader, "s", limit=2) == texts[597:599]
            await store.set_chat_history("s", [user("other")])
            assert await said(reader, "s") == ["other"]
            await store.delete_session("s")
            assert await said(reader, "s") == []
            await store.append("s", [user(text) for text in reversed(texts)])
            assert await said(reader, "s") == texts[::-1]


def test_what_was_not_used_for_the_longest_time_makes_room() -> None:
    cache = PageCache(1000)
    head, other = (Head.new(name, ObjectId(), None) for name in "ab")
    pages = [Page(n, n, 1, 122, ObjectId()) for n in range(6)]  # 250 bytes each, all in all.
    for page in pages[:4]:
        cache.keep(head, {page: [(page.seq, b"{}")]})
    assert list(cache.find(head, pages)) == pages[:4]
    assert cache.find(head, pages[:1]) == {pages[0]: [(0, b"{}")]}  # The others are older now.
    assert cache.find(other, pages) == {}

    cache.keep(head, {pages[4]: []})
    assert list(cache.find(head, pages)) == [pages[0], *pages[2:5]]
    cache.keep(head, {Page(9, 9, 1, 123, ObjectId()): []})  # More than its share.
    assert list(cache.find(head, pages)) == [pages[0], *pages[2:5]]
    # What is kept twice counts once.
    for _ in range(9):
        cache.keep(head, {pages[4]: []})
    assert list(cache.find(head, pages)) == [pages[0], *pages[2:5]]


async def test_batch_larger_than_any_document_is_atomic_and_found(
    store: MongoSessionStore,
) -> None:
    await store.append("s", [user("before")])
    stored = await store.append("s", [user(f"{n}" + "x" * (1 << 20)) for n in range(40)])
    assert [each.seq for each in stored] == list(range(2, 42))
    await store.append("s", [user("after")])
    async for message in store.iter_messages("s"):
        expected = {1: "before", 42: "after"}.get(message.seq, f"{message.seq - 2}x")
        assert str(message.content).startswith(expected)
    assert await said(store, "s", limit=1, before=2) == ["before"]


async def test_message_near_the_servers_limit_fits(
    client: AsyncMongoClient[dict[str, Any]], store: MongoSessionStore, tmp_path: Path
) -> None:
    limit = 15 << 20
    options: dict[str, Any] = {"database": database_of(tmp_path), "prefix": "x."}
    async with MongoSessionStore(client, max_message_bytes=limit, **options) as large:
        text = "x" * (limit - 100)
        await large.append("s", [user(text)])
        assert await said(large, "s") == [text]
        with pytest.raises(MessageTooLargeError):
            await large.append("s", [user("x" * limit)])


async def test_record_that_no_document_holds_is_refused_before_it_is_sent(
    store: MongoSessionStore,
) -> None:
    await store.set_state("s", "a", "x" * (7 << 20))
    with pytest.raises(InvalidMessageError, match="record"):
        await store.set_state("s", "b", "x" * (7 << 20))
    assert list(await store.get_state("s")) == ["a"]
    await store.append("s", [user("still works")])
    assert await said(store, "s") == ["still works"]


async def test_keys_beyond_the_document_are_remembered_and_forgotten(
    client: AsyncMongoClient[dict[str, Any]], store: MongoSessionStore, tmp_path: Path
) -> None:
    clock = ManualClock()
    options: dict[str, Any] = {"database": database_of(tmp_path), "prefix": "x.", "clock": clock}
    async with MongoSessionStore(client, max_messages=10, **options) as store:
        for n in range(300):
            await store.append("s", [user(f"{n}")], idempotency_key=f"k{n}")
        for n in (0, 150, 299):
            again = await store.append("s", [user(f"{n}")], idempotency_key=f"k{n}")
            assert again[0].seq == n + 1
        keys = client[database_of(tmp_path)]["x.keys"]
        assert await keys.count_documents({}) > 200
        # A day later nobody needs those any more whose messages are gone.
        clock.advance(25 * 3600)
        for n in range(300, 900):
            await store.append("s", [user(f"{n}")], idempotency_key=f"k{n}")
        assert await keys.find_one({"key": "k0"}) is None
        assert (await store.append("s", [user("0")], idempotency_key="k0"))[0].seq == 901


async def test_client_of_the_caller_stays_open(
    client: AsyncMongoClient[dict[str, Any]], tmp_path: Path
) -> None:
    async with MongoSessionStore(client, database=database_of(tmp_path)) as store:
        await store.append("s", [user("hello")])
    assert (await client.admin.command("ping"))["ok"] == 1
    await client.drop_database(database_of(tmp_path))


async def test_url_names_database_prefix_and_write_concern(
    mongo_url: str, client: AsyncMongoClient[dict[str, Any]], tmp_path: Path
) -> None:
    database = database_of(tmp_path)
    url = f"{mongo_url}?database={database}&prefix=bot_&write_concern=1&journal=false&timeout=60"
    url += "&directconnection=true&maxPoolSize=4"
    async with open_store(url) as store:
        await store.append("s", [user("hello")])
    names = await client[database].list_collection_names()
    assert sorted(names) == ["bot_keys", "bot_sessions"]
    await client.drop_database(database)


@pytest.mark.parametrize("concern", [2, "racks"])
@pytest.mark.parametrize("server", ["mongo_url", "mongo_replica_url"])
async def test_write_concern_that_cannot_be_met_is_told_before_anything_is_written(
    request: pytest.FixtureRequest, tmp_path: Path, server: str, concern: int | str
) -> None:
    url = request.getfixturevalue(server)
    store = MongoSessionStore(url, database=database_of(tmp_path), write_concern=concern)
    with pytest.raises(StoreRefusedError, match="write_concern"):
        await store.append("s", [user("hello")])
    await store.aclose()
    async with MongoSessionStore(url, database=database_of(tmp_path)) as other:
        assert not await other.session_exists("s")


WRONG: dict[str, tuple[str, dict[str, Any], str]] = {
    "unknown option": ("mongodb://u:s3cret@localhost/app?colour=red", {}, "colour"),
    "unescaped": ("mongodb://u:s3cret@x@localhost/app", {}, "escaped"),
    "port": ("mongodb://u:s3cret@localhost:port/app", {}, "URL"),
    "prefix": ("mongodb://localhost", {"prefix": "a$b"}, "prefix"),
    "database": ("mongodb://localhost", {"database": "a.b"}, "database"),
    "timeout": ("mongodb://localhost", {"timeout": 0}, "timeout"),
    "write concern": ("mongodb://localhost", {"write_concern": 0}, "write_concern"),
    "size": ("mongodb://localhost", {"max_message_bytes": 16 << 20}, "max_message_bytes"),
}


@pytest.mark.parametrize("what", WRONG)
def test_wrong_argument_is_named(what: str) -> None:
    url, options, name = WRONG[what]
    with pytest.raises(ValueError, match=name) as caught:
        open_store(url, **options)
    assert "s3cret" not in str(caught.value)
    assert caught.value.__cause__ is None or "s3cret" not in str(caught.value.__cause__)


def test_client_that_would_block_is_refused() -> None:
    with (
        MongoClient[dict[str, Any]]("mongodb://localhost", connect=False) as client,
        pytest.raises(ValueError, match="AsyncMongoClient"),
    ):
        MongoSessionStore(client)
    with pytest.raises(ValueError, match="AsyncMongoClient"):
        MongoSessionStore(7)


async def test_motor_is_not_imported_by_itself() -> None:
    code = "import sys, json, asyncsessions.stores.mongo; print(json.dumps('motor' in sys.modules))"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE
    )
    printed, _ = await process.communicate()
    assert json.loads(printed) is False


async def test_damaged_document_is_an_error_of_its_session_only(
    store: MongoSessionStore, client: AsyncMongoClient[dict[str, Any]], tmp_path: Path
) -> None:
    await store.append("s", [user("hello")])
    await store.append("t", [user("hello")])
    sessions = client[database_of(tmp_path)]["x.sessions"]
    await sessions.update_one({"_id": "s"}, {"$unset": {"last_seq": ""}})
    with pytest.raises(CorruptSessionError):
        await store.get_messages("s")
    assert await said(store, "t") == ["hello"]
    # This one remembers nothing of it.
    async with MongoSessionStore(client, prefix="x.", database=database_of(tmp_path)) as other:
        calls = [other.append(name, [user("again")]) for name in ("s", "t")]
        error, appended = await asyncio.gather(*calls, return_exceptions=True)
        assert isinstance(error, CorruptSessionError)
        assert error.session_id == "s"
        assert isinstance(appended, list)
        assert [info.session_id for info in await other.list_sessions()] == ["t"]
    assert await sessions.find_one({"_id": "s"}) is not None


async def test_imported_session_with_messages_keeps_its_times(store: MongoSessionStore) -> None:
    data = {"session_id": "s", "created_at": 1000.0, "updated_at": 2000.0}
    await store.import_sessions([data | {"messages": [user("hello")]}])
    info = await store.get_session("s")
    assert (info.created_at, info.updated_at) == (1000.0, 2000.0)


async def test_keys_of_many_callers_at_once_leave_the_document(
    store: MongoSessionStore, client: AsyncMongoClient[dict[str, Any]], tmp_path: Path
) -> None:
    async def append(n: int) -> int:
        return (await store.append("s", [user(f"{n}")], idempotency_key=f"k{n}"))[0].seq

    stored = [await asyncio.gather(*map(append, range(n, n + 200))) for n in range(0, 1000, 200)]
    again = [await asyncio.gather(*map(append, range(n, n + 200))) for n in range(0, 1000, 200)]
    assert again == stored
    document = await client[database_of(tmp_path)]["x.sessions"].find_one({"_id": "s"})
    assert document is not None
    # What the last flush brought, and some.
    assert len(document["keys"]) <= 300


async def test_update_after_the_end_of_a_session_in_the_same_flush_begins_a_new_one(
    client: AsyncMongoClient[dict[str, Any]], store: MongoSessionStore, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"database": database_of(tmp_path), "prefix": "x."}
    async with MongoSessionStore(client, ttl_seconds=60, **options) as store:
        await store.append("s", [user("old")])
        await store.set_state("s", "old", 1)
        # The first keeps the others waiting, so that they share a flush.
        calls = [store.append("other", [user("x")]), store.expire_session("s", 0)]
        await asyncio.gather(*calls, store.set_state("s", "new", 1))
        assert await said(store, "s") == []
        assert await store.get_state("s") == {"new": 1}


@pytest.mark.parametrize("jump", [-7200.0, 7200.0])
async def test_jump_of_this_machines_clock_moves_no_expiry(
    store: MongoSessionStore, monkeypatch: pytest.MonkeyPatch, jump: float
) -> None:
    await store.append("s", [user("kept")])
    await store.expire_session("s", 3600)
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + jump)
    assert await said(store, "s") == ["kept"]
    await store.expire_session("s", 3600)
    monkeypatch.setattr(time, "time", real)
    await store.append("s", [user("and more")])
    assert await said(store, "s") == ["kept", "and more"]


async def test_a_callers_deadline_and_transaction_are_nobody_elses(
    store: MongoSessionStore, client: AsyncMongoClient[dict[str, Any]]
) -> None:
    """The driver keeps both in context variables, which a task inherits from who starts it."""
    end = time.monotonic() + 0.5 * slowness()

    async def steady(number: int) -> None:
        while time.monotonic() < end:
            await store.add_message(f"s{number}", "user", "x")

    async def hasty() -> None:
        with pymongo.timeout(0.1):
            await store.add_message("s", "user", "x")

    await asyncio.gather(hasty(), *map(steady, range(16)))
    async with client.start_session() as session, session.bind():
        await store.add_message("s", "user", "y")
        await asyncio.gather(*(store.add_message(f"s{number}", "user", "y") for number in range(3)))
    await store.add_message("s", "user", "z")
    assert await said(store, "s") == ["x", "y", "z"]


async def test_what_the_server_has_answered_is_told_whatever_ends_meanwhile(
    client: AsyncMongoClient[dict[str, Any]],
    store: MongoSessionStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The time limit passes while the callers of a flush are told one after the other."""
    pause = Pacer.pause
    is_told = False

    async def slow(pacer: Pacer) -> None:
        await (asyncio.sleep(0.1 * slowness()) if is_told else pause(pacer))

    update = Database.update

    async def answered(*args: Any) -> Any:
        nonlocal is_told
        written = await update(*args)
        is_told = True
        return written

    options: dict[str, Any] = {"database": database_of(tmp_path), "prefix": "x."}
    async with MongoSessionStore(client, timeout=slowness(), **options) as store:
        names = [f"s{number}" for number in range(30)]
        await asyncio.gather(*(store.append(name, [user("first")]) for name in names))
        monkeypatch.setattr(Pacer, "pause", slow)
        monkeypatch.setattr(Database, "update", answered)
        await asyncio.gather(*(store.append(name, [user("second")]) for name in names))
        monkeypatch.undo()
        for name in names:
            assert await said(store, name) == ["first", "second"]


async def test_a_refusal_of_one_sessions_keys_is_its_own(
    client: AsyncMongoClient[dict[str, Any]], store: MongoSessionStore, tmp_path: Path
) -> None:
    keyed = [store.append("s", [user("x")], idempotency_key=f"k{number}") for number in range(70)]
    await asyncio.gather(*keyed)
    # The document is full, so the next one moves some out.
    missing: dict[str, Any] = {"validator": {"missing": {"$exists": True}}}
    await client[database_of(tmp_path)].command("collMod", "x.keys", **missing)
    refused, *others = await asyncio.gather(
        store.append("s", [user("y")], idempotency_key="another"),
        *(store.append(f"s{number}", [user("y")]) for number in range(300)),
        return_exceptions=True,
    )
    assert isinstance(refused, StoreUnavailableError)
    assert not any(isinstance(each, Exception) for each in others)


@pytest.mark.parametrize("is_deleted", [False, True])
async def test_what_can_not_be_cleaned_up_does_not_undo_what_is_done(
    store: MongoSessionStore, monkeypatch: pytest.MonkeyPatch, *, is_deleted: bool
) -> None:
    texts = [f"{number} " * 2000 for number in range(100)]
    await store.append("s", list(map(user, texts)))

    async def gone(_: str) -> Any:
        raise OperationFailure("interrupted by the test", 50)

    with monkeypatch.context() as patch:
        patch.setattr(store._leftovers, "remove", gone)
        if is_deleted:
            with pytest.raises(StoreUnavailableError, match="is deleted, but not all"):
                await store.delete_session("s")
        else:
            popped = await store.pop_message("s")
            assert popped is not None
            assert popped.content == texts[-1]
    if is_deleted:
        await store.delete_session("s")
        assert not await store.session_exists("s")
    else:
        assert await said(store, "s") == texts[:-1]
