"""The Redis store: the conformance suite on every kind of server, and what is its own."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import math
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

import pytest
import pytest_asyncio
import redis
from hypothesis import given
from hypothesis import strategies as st
from redis import asyncio as aioredis
from redis.asyncio.cluster import ClusterNode

from asyncsessions import InvalidMessageError, StoreClosedError, open_store
from asyncsessions.hooks import Append, Window
from asyncsessions.protocols import SessionStore
from asyncsessions.stores._redis_keys import Keys
from asyncsessions.stores._redis_links import ClusterLink
from asyncsessions.stores._redis_windows import Places
from asyncsessions.stores.redis import RedisSessionStore
from asyncsessions.testing import ManualClock, SharedStoreConformance
from asyncsessions.testing._cases import StoreCases, result, same, texts, tool_call, user
from asyncsessions.testing.properties import property_settings
from asyncsessions.testing.servers import RedisServer, redis_binaries
from asyncsessions.testing.timing import LONG_ENOUGH, slowness

PARTS = ("record", "messages", "keys")
# When each key expires, all at the same moment.
ALL_TTLS = "local t = {} for i, key in ipairs(KEYS) do t[i] = redis.call('PTTL', key) end return t"
# What would cut a hash tag short, or make it empty.
ODD_IDS = ("}", "{", "{}", "}{", "%", "%7D", "a}b", "{a}", "\0", "🙂}", "index", "群/1", "a:b")
_number = (
    st.integers(-(2**70), 2**70)
    | st.sampled_from([2**53, 2**53 - 1, -(2**53), 10**7, 10**14 - 1, -(10**21), 0])
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from([0.1, 0.2, 1e22, -0.0, 5e-324, 1e308, 3.0])
)


@pytest.fixture(scope="session")
def new_redis_url() -> Iterator[str]:
    """The URL of a server of the newest version there is."""
    with RedisServer(binary=redis_binaries()[-1]) as server:
        yield server.url


def client_of(url: str, **options: Any) -> Any:
    """Return redis-py's client for a store's URL."""
    kind = aioredis.RedisCluster if "+cluster" in url else aioredis.Redis
    options |= {"socket_timeout": LONG_ENOUGH, "socket_connect_timeout": LONG_ENOUGH}
    return kind.from_url(url.replace("+cluster", ""), driver_info=None, **options)


class RedisCases(StoreCases):
    """A test's own keys on a shared server; they go when it ends."""

    url: str

    @pytest_asyncio.fixture(autouse=True)
    async def cleaned(self, server: None) -> AsyncIterator[None]:
        yield
        async with self.make_store() as store:
            while page := await store.list_sessions(500):
                for info in page:
                    await store.delete_session(info.session_id)

    @property
    def prefix(self) -> str:
        return hashlib.sha1(str(self.tmp_path).encode()).hexdigest()[:16]

    def make_store(self, **options: Any) -> RedisSessionStore:
        return RedisSessionStore(self.url, prefix=self.prefix, timeout=LONG_ENOUGH, **options)

    def store_url(self) -> str:
        return f"{self.url}?prefix={self.prefix}&timeout={LONG_ENOUGH:g}"


class TestRedisSessionStore(RedisCases, SharedStoreConformance):
    @pytest.fixture(autouse=True)
    def server(self, redis_url: str) -> None:
        self.url = redis_url


class TestRedisSessionStoreOnNewServer(RedisCases, SharedStoreConformance):
    """Beside the oldest server that is supported: the newest one there is."""

    @pytest.fixture(autouse=True)
    def server(self, new_redis_url: str) -> None:
        self.url = new_redis_url


class TestRedisSessionStoreOnCluster(RedisCases, SharedStoreConformance):
    @pytest.fixture(autouse=True)
    def server(self, redis_cluster_url: str) -> None:
        self.url = redis_cluster_url


class OwnCases(RedisCases):
    """What no other store has: keys, indexes, how the server takes part."""

    @pytest_asyncio.fixture
    async def client(self) -> AsyncIterator[Any]:
        client = client_of(self.url)
        try:
            yield client
        finally:
            await client.aclose()

    def key(self, session_id: str, part: str) -> str:
        return f"{self.prefix}:{{{session_id}}}:{part}"

    def index(self, name: str) -> str:
        return f"{self.prefix}:{{index}}:{name}"

    async def test_keys_are_as_documented(self, store: SessionStore, client: Any) -> None:
        await store.append("s", [user("x")], idempotency_key="k")
        await store.set_agent_info("s", "agent", "u" * 201)
        assert [await client.type(self.key("s", part)) for part in PARTS] == [
            b"hash",
            b"list",
            b"hash",
        ]
        (item,) = await client.lrange(self.key("s", "messages"), 0, -1)
        assert item.startswith(b'{"seq":1,')
        long = hashlib.sha1(b"u" * 201).hexdigest()
        for name in ("all", "agent_name=agent", f"user_id#{long}"):
            assert await client.zrange(self.index(name), 0, -1) == [b"s"]
        assert [info.session_id for info in await store.list_sessions(user_id="u" * 201)] == ["s"]

    async def test_delete_leaves_no_key(self, store: SessionStore, client: Any) -> None:
        await store.append("s", [user("x")], idempotency_key="k")
        await store.set_gateway_info("s", "gate", "agent")
        await store.expire_session("s", 100)
        await store.delete_session("s")
        names = ["all", "expiry", "gateway_session_id=gate", "agent_id=agent"]
        keys = [self.key("s", part) for part in PARTS] + [self.index(name) for name in names]
        assert [await client.exists(key) for key in keys] == [0] * len(keys)

    async def test_all_keys_of_a_session_expire_together(self, client: Any) -> None:
        async with self.make_store(ttl_seconds=1000) as store:
            await store.append("s", [user("x")], idempotency_key="k")
            await store.clear_session("s")
            await store.append("s", [user("y")], idempotency_key="l")
            keys = [self.key("s", part) for part in PARTS]
            ttls = await client.eval(ALL_TTLS, len(keys), *keys)
            assert all(1000 * (1000 - LONG_ENOUGH) < ttl <= 1000_000 for ttl in ttls)
            assert max(ttls) - min(ttls) < 500
            await store.expire_session("s", None)
            assert [await client.pttl(self.key("s", part)) for part in PARTS] == [-1] * 3

    async def test_session_vanishes_by_the_servers_clock(self, client: Any) -> None:
        async with self.make_store() as store:
            await store.append("s", [user("x")])
            await store.set_agent_info("s", "agent")
            seconds = 2 * slowness()
            await store.expire_session("s", seconds)
            assert await store.session_exists("s") is True
            await asyncio.sleep(seconds + 0.05)
            assert await store.session_exists("s") is False
            assert await store.get_messages("s") == []
            assert await client.exists(self.key("s", "record")) == 0
            (stored,) = await store.append("s", [user("new")])
            assert stored.seq == 1
            assert (await store.get_session("s")).agent_name is None

    async def test_purge_clears_the_indexes(self, client: Any) -> None:
        async with self.make_store() as store:
            for n in range(5):
                await store.set_agent_info(f"s{n}", "agent", f"u{n}")
                await store.expire_session(f"s{n}", 0.1 if n else None)
            await asyncio.sleep(0.15)
            # On a cluster an entry has to be a minute old before anybody takes it away.
            if isinstance(client, aioredis.RedisCluster):
                names = ["all", "expiry", "agent_name=agent", *(f"user_id=u{n}" for n in range(5))]
                for name in names:
                    members: Any = await client.zrange(self.index(name), 0, -1)
                    for member in members:
                        await client.zincrby(self.index(name), -100, member)
            await store.purge_expired()
            assert await client.zrange(self.index("all"), 0, -1) == [b"s0"]
            assert await client.zrange(self.index("agent_name=agent"), 0, -1) == [b"s0"]
            assert await client.zcard(self.index("user_id=u1")) == 0
            assert await client.zcard(self.index("expiry")) == 0

    async def test_list_corrects_wrong_entries(self, clock: ManualClock, client: Any) -> None:
        async with self.make_store(clock=clock) as store:
            for n in range(4):
                clock.advance(1)
                await store.set_agent_info(f"s{n}", "agent")
            for name in ("all", "agent_name=agent"):
                index = self.index(name)
                # Too high, too low, of no session, of another index.
                await client.zadd(index, {"s0": clock.now + 50, "s3": 5, "ghost": clock.now})
            clock.advance(1)
            await store.add_message("other", "user", "x")
            await client.zadd(self.index("agent_name=agent"), {"other": clock.now})
            expected = [["other", "s3", "s2", "s1", "s0"], ["s3", "s2", "s1", "s0"]]
            for _ in range(2):
                listed = [await store.list_sessions(), await store.get_sessions_by_agent("agent")]
                assert [[info.session_id for info in page] for page in listed] == expected
            assert await client.zrange(self.index("all"), 0, 0) == [b"s0"]
            assert await client.zcard(self.index("all")) == 5
            assert await client.zcard(self.index("agent_name=agent")) == 4

    async def test_long_lists_are_read_in_pages(self, clock: ManualClock, client: Any) -> None:
        async with self.make_store(clock=clock) as store:
            names = [f"s{n:03}" for n in range(450)]
            await asyncio.gather(*(store.add_message(name, "user", "x") for name in names))
            # All of one moment, and the first ones in the index are of no session.
            await client.zadd(self.index("all"), {f"ghost{n}": clock.now + 1 for n in range(300)})
            page = await store.list_sessions(250)
            rest = await store.list_sessions(250, page.next_cursor)
            assert [info.session_id for info in [*page, *rest]] == names[::-1]

    async def test_short_lists_read_few_records(
        self, clock: ManualClock, client: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async with self.make_store(clock=clock) as store:
            names = [f"s{n:02}" for n in range(50)]
            await asyncio.gather(*(store.add_message(name, "user", "x") for name in names))
            read_records = store._indexes.read
            read: list[str] = []

            async def note(ids: Sequence[str]) -> Any:
                read.extend(ids)
                return await read_records(ids)

            monkeypatch.setattr(store._indexes, "read", note)
            for limit in (1, 7):
                read.clear()
                page = await store.list_sessions(limit)
                assert [info.session_id for info in page] == names[: -limit - 1 : -1]
                assert len(read) <= limit + 1
            # Misses cost few steps, however many they are.
            await client.zadd(self.index("all"), {f"ghost{n}": clock.now + 1 for n in range(100)})
            read.clear()
            (info,) = await store.list_sessions(1)
            assert info.session_id == names[-1]
            assert len(read) < 400

    async def test_old_writers_are_forgotten(self, store: SessionStore, client: Any) -> None:
        await store.add_message("s", "user", "x")
        old = int(time.time()) - 7200
        slots = {f"w:{n}-0": f"1 {old} x" for n in range(200)}
        await client.hset(self.key("s", "record"), mapping=slots)
        async with self.make_store() as other:
            await other.add_message("s", "user", "y")
            assert await client.hlen(self.key("s", "record")) < 20
            assert texts(await other.get_messages("s")) == ["x", "y"]

    async def test_writers_are_forgotten_however_many_there_were(
        self, store: SessionStore, client: Any
    ) -> None:
        """A storm of them is no reason to keep them: here half are gone at the next pruning."""
        await store.add_message("s", "user", "x")
        now = int(time.time())
        record = self.key("s", "record")
        slots = {f"w:{n}-0": f"1 {now - 7200 * (n % 2)} x" for n in range(2000)}
        await client.hset(record, mapping=slots | {"prune_at": 4000})
        async with self.make_store() as other:
            await other.add_message("s", "user", "y")
            assert 1000 < await client.hlen(record) < 1020
            assert int(await client.hget(record, "prune_at")) > now

    async def test_keys_that_nobody_needs_are_forgotten(self, client: Any) -> None:
        clock = ManualClock()
        async with self.make_store(clock=clock, max_messages=2) as store:
            for n in range(40):
                await store.append("s", [user("x")], idempotency_key=f"k{n}")
                clock.advance(3600)
            # A day of them, twice (for the key and for its place in the queue), and the ends.
            assert await client.hlen(self.key("s", "keys")) < 2 * 28 + 2

    async def test_results_are_known_without_the_limit(self) -> None:
        """Also those that a store stored which keeps everything."""
        async with self.make_store() as store:
            await store.append("s", [user("a"), tool_call("c"), result("c"), result("c")])
            part = {"type": "tool_result", "tool_use_id": "d", "content": "x"}
            await store.append("s", [user("tool"), {"role": "user", "content": [part]}])
        async with self.make_store(max_messages=4) as store:
            await store.append("s", [user("b")])
            assert [each.seq for each in await store.get_messages("s")] == [5, 6, 7]

    async def test_cost_of_a_large_tool_result(self, store: SessionStore) -> None:
        await store.append("s", [tool_call("c"), result("c") | {"content": "x" * 600_000}])
        async with self.make_store(max_messages=1) as other:
            await other.append("s", [result("c")])
            assert [each.seq for each in await other.get_messages("s")] == [1, 2, 3]

    @given(start=_number, by=_number)
    @property_settings
    async def test_sums_are_pythons(self, store: SessionStore, start: Any, by: Any) -> None:
        await store.set_state("s", "n", start)
        total = start + by
        if not math.isfinite(total):
            with pytest.raises(InvalidMessageError, match="overflow"):
                await store.increment_state("s", "n", by)
            total = start
        else:
            assert same(await store.increment_state("s", "n", by), total)
        assert same(await store.get_state("s", "n"), total)

    async def test_repeated_write_has_effect_once(self, store: RedisSessionStore) -> None:
        link = store._link
        send = link.send

        async def send_twice(*args: Any, **options: Any) -> list[Any]:
            await send(*args, **options)
            return await send(*args, **options)

        await store.append("s", [user("0")])
        link.send = send_twice  # type: ignore[method-assign]  # a network that repeats itself
        calls = [store.append("s", [user(f"m{n}")], idempotency_key=f"k{n}") for n in range(3)]
        calls += [store.append(name, [user("x"), user("y")]) for name in ("s", "t", "s")]
        await asyncio.gather(*calls)
        assert await asyncio.gather(*(store.increment_state("s", "n") for _ in range(3))) == [
            1,
            2,
            3,
        ]
        popped = await store.pop_message("t")
        assert popped is not None
        assert popped.content == "y"
        link.send = send  # type: ignore[method-assign]  # as above
        assert texts(await store.get_messages("s")) == ["0", "m0", "m1", "m2", "x", "y", "x", "y"]
        assert texts(await store.get_messages("t")) == ["x"]
        assert await store.get_state("s") == {"n": 3}
        assert {info.session_id for info in await store.list_sessions()} == {"s", "t"}


class TestRedisItself(OwnCases):
    @pytest.fixture(autouse=True)
    def server(self, redis_url: str) -> None:
        self.url = redis_url


class TestRedisClusterItself(OwnCases):
    @pytest.fixture(autouse=True)
    def server(self, redis_cluster_url: str) -> None:
        self.url = redis_cluster_url

    async def test_crash_after_the_announcement_leaves_nothing_to_see(
        self, clock: ManualClock, client: Any
    ) -> None:
        async with self.make_store(clock=clock) as store:
            await store.add_message("s", "user", "x")
            clock.advance(1)
            # What a writer does first, before it crashed.
            lost = [Append(name, (b"{}",), (), clock.now) for name in ("s", "never")]
            await store._indexes.announce(lost)
            assert [info.session_id for info in await store.list_sessions()] == ["s"]
            assert await client.zrange(self.index("all"), 0, -1) == [b"s"]
            (info,) = await store.list_sessions()
            assert await client.zscore(self.index("all"), "s") == info.updated_at

    async def test_crash_before_the_indexes_were_settled_hides_nothing(
        self, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        class CrashError(Exception):
            """Stands for the end of the process."""

        async def crash(*_: object) -> None:
            raise CrashError

        async with self.make_store(clock=clock) as store:
            await store.set_agent_info("old", "agent")
            clock.advance(1)
            with monkeypatch.context() as patch:
                patch.setattr(store._indexes, "settle", crash)
                for call in (
                    store.add_message("old", "user", "x"),
                    store.set_agent_info("new", "agent"),
                    store.set_agent_info("old", "other"),
                ):
                    with pytest.raises(CrashError):
                        await call
            assert {info.session_id for info in await store.list_sessions()} == {"old", "new"}
            for name, expected in (("agent", ["new"]), ("other", ["old"])):
                found = await store.get_sessions_by_agent(name)
                assert [info.session_id for info in found] == expected

    async def test_write_that_is_done_succeeds_without_the_indexes(
        self, store: RedisSessionStore, monkeypatch: pytest.MonkeyPatch, caplog: Any
    ) -> None:
        """Their node may fail just then."""

        async def fail(*_: object) -> None:
            raise ConnectionResetError

        await store.set_agent_info("s", "agent")
        monkeypatch.setattr(store._indexes, "settle", fail)
        monkeypatch.setattr(store._indexes, "leave", fail)
        assert await store.add_message("s", "user", "x") is True
        assert [info.session_id for info in await store.get_sessions_by_agent("agent")] == ["s"]
        assert await store.delete_session("s") is True
        assert list(await store.list_sessions()) == []
        assert caplog.text.count("the indexes lag behind") == 2

    async def test_nodes_that_left_are_forgotten(self, store: RedisSessionStore) -> None:
        link = store._link
        assert isinstance(link, ClusterLink)
        await store.append("s", [user("x")])
        for port in range(1, 100):
            link._connections_to(ClusterNode("127.0.0.1", port))
        await store.append("s", [user("y")])
        assert set(link._nodes) <= {node.name for node in link._client.get_nodes()}
        assert texts(await store.get_messages("s")) == ["x", "y"]

    async def test_parts_of_a_session_share_a_slot(self, client: Any) -> None:
        keys = Keys("p")
        for session_id in ODD_IDS:
            parts = keys.of(session_id)
            assert len({client.keyslot(part) for part in parts}) == 1
            assert len(set(parts)) == 3
        assert len({keys.of(session_id) for session_id in ODD_IDS}) == len(ODD_IDS)
        indexes = {keys.all, keys.expiry, keys.index(b"agent_name=x")}
        assert not indexes & {part for each in ODD_IDS for part in keys.of(each)}


class TestRedisOptions:
    @pytest.mark.parametrize(
        "url",
        [
            "redis://",
            "redis:///0",
            "redis://:se/cret@host",
            "redis://host:port",
            "redis+cluster://",
            "unix://",
            "http://host",
            "redis://host?socket_connect_timeout=long",
            "redis://user:1/secret@host/0",
            "redis://user:1?secret@host/0",
            "redis://user:1#secret@host/0",
            "redis://host/name",
            "redis://host/1/2",
            "redis://host?ssl_cert_reqs=none",
        ],
    )
    def test_bad_url_is_refused(self, url: str) -> None:
        with pytest.raises(ValueError, match="URL") as caught:
            RedisSessionStore.from_url(url)
        assert "cret" not in str(caught.value)

    @pytest.mark.parametrize("source", [None, 5, redis.Redis(), aioredis.ConnectionPool()])
    def test_source_of_another_kind_is_refused(self, source: Any) -> None:
        with pytest.raises(TypeError, match="source"):
            RedisSessionStore(source)

    @pytest.mark.parametrize("prefix", ["", "a{b", "a}b", "x" * 65])
    def test_bad_prefix_is_refused(self, prefix: str) -> None:
        with pytest.raises(ValueError, match="prefix"):
            RedisSessionStore("redis://host", prefix=prefix)

    @pytest.mark.parametrize(
        "option", ["connections=1", "timeout=0", "prefix=%7B", "unknown=1", "max_messages=x"]
    )
    def test_bad_option_is_refused(self, option: str) -> None:
        with pytest.raises(ValueError, match=option.partition("=")[0]):
            open_store(f"redis://host?{option}")

    @pytest.mark.parametrize(
        ("url", "option"),
        [
            ("redis://host?protocol=4", "protocol"),
            ("redis://host?socket_read_size=0", "socket_read_size"),
            ("redis://host?socket_connect_timeout=-1", "socket_connect_timeout"),
            ("redis+cluster://host/1", "db"),
            ("redis+cluster://host?db=2", "db"),
            ("unix:///path?socket_keepalive=1", "socket_keepalive"),
            ("rediss://host?ssl_password=secret&ssl_min_version=5", "ssl_min_version"),
            ("rediss://host?ssl_cert_reqs=secret", "ssl_cert_reqs"),
        ],
    )
    def test_option_that_the_driver_refuses_is_named(self, url: str, option: str) -> None:
        for make in (open_store, RedisSessionStore):
            with pytest.raises(ValueError, match=f"option {option} ") as caught:
                make(url)
            assert "secret" not in str(caught.value)

    def test_unknown_option_is_named_by_the_constructor_too(self) -> None:
        with pytest.raises(ValueError, match="option unknown "):
            RedisSessionStore("redis://user:secret@host?unknown=1")

    @pytest.mark.parametrize(
        "url",
        [
            "redis://user:p%40ss@host:1/2?client_name=x&protocol=3&socket_read_size=4096",
            "unix:///path?db=1&username=u&password=p&socket_connect_timeout=1.5",
            "redis+cluster://host/0?socket_keepalive=no",
            "rediss://host?ssl_ca_certs=f&ssl_certfile=f&ssl_keyfile=f&ssl_password=p",
            "rediss://host?ssl_cert_reqs=none&ssl_check_hostname=no&ssl_min_version=771",
        ],
    )
    def test_options_of_the_driver_are_taken(self, url: str) -> None:
        open_store(url)

    @pytest.mark.parametrize("options", [{"decode_responses": True}, {"protocol": 3}])
    async def test_callers_client_is_used_and_left_open(
        self, redis_url: str, options: dict[str, Any]
    ) -> None:
        client = client_of(redis_url, max_connections=2, **options)
        try:
            store = RedisSessionStore(client, prefix=f"own{len(options)}{time.time_ns()}")
            async with store:
                await asyncio.gather(*(store.append("s", [user("x")]) for _ in range(20)))
                await store.set_state("s", "k", "é")
                assert len(await store.get_messages("s", after=1)) == 19
                assert await store.get_state("s") == {"k": "é"}
                assert [info.session_id for info in await store.list_sessions()] == ["s"]
                assert await store.delete_session("s") is True
            assert await client.ping()
            with pytest.raises(StoreClosedError):
                await store.ping()
        finally:
            await client.aclose()

    async def test_callers_cluster_client_is_used_and_left_open(
        self, redis_cluster_url: str
    ) -> None:
        client = client_of(redis_cluster_url)
        try:
            store = RedisSessionStore(client, prefix=f"own{time.time_ns()}")
            async with store:
                await asyncio.gather(*(store.append(f"s{n}", [user("x")]) for n in range(20)))
                assert len(await store.list_sessions()) == 20
                await asyncio.gather(*(store.delete_session(f"s{n}") for n in range(20)))
            assert await client.ping()
        finally:
            await client.aclose()

    async def test_unix_socket(self, tmp_path: Any) -> None:
        path = f"/tmp/{hashlib.sha1(str(tmp_path).encode()).hexdigest()[:12]}.sock"
        with RedisServer("--unixsocket", path):
            async with open_store(f"unix://{path}?prefix=u&db=1") as store:
                await store.add_message("s", "user", "x")
                assert texts(await store.get_messages("s")) == ["x"]

    async def test_updates_of_depth_nought_are_sets(self, redis_url: str) -> None:
        store = RedisSessionStore(redis_url, prefix=f"own{time.time_ns()}")
        async with store:
            report = await store.import_sessions(
                [{"session_id": "s", "agent_name": "a", "state": {"k": [1]}, "created_at": 5.0}]
            )
            assert report.imported == 1
            session = await store.get_session("s")
            assert (session.agent_name, session.state) == ("a", {"k": [1]})
            await store.delete_session("s")

    def test_driver_is_only_imported_when_needed(self) -> None:
        code = "import sys, asyncsessions; sys.exit('redis' in sys.modules)"
        assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("start", [1, 2, 40])
@pytest.mark.parametrize("gaps", [(), (0, 1, 2), (5,), (10,), (3, 9, 10), (4, 5, 6, 11)])
def test_a_window_is_where_it_should_be_or_looked_for(start: int, gaps: tuple[int, ...]) -> None:
    seqs = [start + place for place in range(12) if place not in gaps]
    bodies = [b'{"seq":%d,"role":"user"}' % seq for seq in seqs]
    ends = [start + each for each in (0, 1, 3, 4, 7, 11, 12, 13, 50)]
    for limit, after, before, oldest, knows in itertools.product(
        [None, 1, 3, 5, 20], [0, *ends], [None, *ends], [False, True], [False, True]
    ):
        places = Places()
        if knows:
            places.learn("s", 0, bodies)
        window = Window(limit, after, before, oldest)
        place = places.find("s", window)
        if place is None:
            continue
        first, last, _ = place
        found = places.check(
            window, place, bodies[first:] if last == -1 else bodies[first : last + 1]
        )
        begin, end = window.range_of(seqs)
        assert found is None or found == bodies[begin:end]
        if not gaps and begin < end and (before is None or end < len(seqs)):
            assert found is not None or (start > 1 and not knows)
