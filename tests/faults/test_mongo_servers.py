"""MongoDB that steps down, stalls, refuses; many that open it at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from motor.motor_asyncio import AsyncIOMotorClient
from pymongo import AsyncMongoClient
from pymongo.errors import PyMongoError

from asyncsessions import StoreRefusedError, StoreUnavailableError, open_store
from asyncsessions.stores.mongo import MongoSessionStore
from asyncsessions.testing.servers import MongoServer
from asyncsessions.testing.timing import LONG_ENOUGH, slowness
from tests.faults import load
from tests.faults.conversation import said, user
from tests.faults.mongo_server import (
    admin,
    database,
    other,
    proxy,
    server,
    start,
    store,
)
from tests.faults.proxy import Proxy

__all__ = ["admin", "database", "other", "proxy", "server", "store"]  # Fixtures of these tests.


async def test_step_down_under_load_loses_and_doubles_nothing() -> None:
    with MongoServer(replica_set=True) as server:
        url = f"{server.url}&timeout={LONG_ENOUGH:g}"
        pause = slowness()
        client: AsyncMongoClient[dict[str, Any]] = AsyncMongoClient(
            server.url, directConnection=True
        )
        async with client:
            with load.processes(url, 2) as workers:
                for _ in range(3):
                    await asyncio.sleep(pause)
                    with suppress(PyMongoError):  # It ends all connections, this one included.
                        await client.admin.command({"replSetStepDown": 1, "force": True})
                    await asyncio.sleep(pause)
                heard = await asyncio.to_thread(load.collect, workers)
        assert sum(len(each.stored) for each in heard) > 100
        await load.check(url, heard)


async def test_ten_processes_open_an_empty_database_at_once(
    server: MongoServer, database: str, other: MongoSessionStore
) -> None:
    code = "import asyncio, sys\nfrom asyncsessions import open_store\n"
    code += "async def main():\n async with open_store(sys.argv[1]) as store:\n"
    code += "  await store.add_user_message('s', 'hello')\nasyncio.run(main())"
    url = f"{server.url}?database={database}_new"
    openers = [start(code, url) for _ in range(10)]
    for opener in openers:
        await asyncio.to_thread(opener.communicate)
    assert [opener.returncode for opener in openers] == [0] * 10
    async with open_store(url) as store:
        assert await said(store, "s") == ["hello"] * 10


async def test_closed_store_leaves_no_connection(
    server: MongoServer, database: str, admin: AsyncMongoClient[dict[str, Any]]
) -> None:
    name = f"count-{database}"
    store = open_store(f"{server.url}?database={database}&appName={name}")
    await asyncio.gather(*(store.add_user_message(f"s{n % 7}", "hello") for n in range(100)))
    await asyncio.gather(*(store.get_messages(f"s{n % 7}") for n in range(100)))

    async def count() -> int:
        stages: list[Any] = [
            {"$currentOp": {"allUsers": True, "idleConnections": True}},
            {"$match": {"appName": name}},
        ]
        return len(await (await admin.admin.aggregate(stages)).to_list())

    # The pool, and the driver's own connections to watch the server.
    assert 0 < await count() <= 16 + 3
    await store.aclose()
    deadline = asyncio.get_running_loop().time() + LONG_ENOUGH
    while await count():
        assert asyncio.get_running_loop().time() < deadline
        await asyncio.sleep(0.05)


async def test_refusals_say_what_to_do_and_hide_the_password() -> None:
    with MongoServer("--auth") as server:
        host = f"127.0.0.1:{server.port}"
        client: AsyncMongoClient[dict[str, Any]] = AsyncMongoClient(host, directConnection=True)
        async with client:
            roles = [{"role": "root", "db": "admin"}]
            await client.admin.command({"createUser": "root", "pwd": "s3cret", "roles": roles})
        root = f"mongodb://root:s3cret@{host}/app?authSource=admin"
        async with open_store(root) as store:
            await store.add_user_message("s", "hello")
        client = AsyncMongoClient(root)
        async with client:
            roles = [{"role": "read", "db": "app"}]
            await client.app.command({"createUser": "reader", "pwd": "s3cret", "roles": roles})
        for url, advice in (
            (f"mongodb://root:s3cretly@{host}/app?authSource=admin", "password"),
            (f"mongodb://reader:s3cret@{host}/app", "readWrite"),
            (f"mongodb://{host}/app", "readWrite"),
        ):
            with pytest.raises(StoreRefusedError, match=advice) as caught:
                async with open_store(url):
                    pass
            assert "s3cret" not in f"{caught.value}{caught.value.__cause__}"


async def test_stalled_network_fails_in_time_and_the_store_goes_on(
    store: MongoSessionStore, proxy: Proxy, server: MongoServer, database: str
) -> None:
    url = f"mongodb://127.0.0.1:{proxy.port}/{database}?directConnection=true"
    timeout = 2 * slowness()
    async with open_store(url, timeout=timeout) as hasty:
        await hasty.append("s", [user("before")])
        proxy.stall()
        calls = [hasty.append("s", [user("during")]), hasty.get_messages("s"), hasty.ping()]
        async with asyncio.timeout(4 * timeout):
            outcomes = await asyncio.gather(*calls, return_exceptions=True)
        proxy.resume()
        assert [type(each) for each in outcomes] == [StoreUnavailableError] * 3
        await hasty.append("s", [user("after")])
        assert await said(hasty, "s") in (["before", "after"], ["before", "during", "after"])


async def test_to_wait_for_a_connection_takes_no_time_off_a_call(
    proxy: Proxy, database: str
) -> None:
    url = f"mongodb://127.0.0.1:{proxy.port}/{database}?directConnection=true"
    timeout = 4 * slowness()
    async with open_store(url, timeout=timeout) as store:
        await store.append("s", [user("x")])
        # On each way of each call.
        proxy.delay = 0.0075 * timeout
        loop = asyncio.get_running_loop()
        began = loop.time()
        found = await asyncio.gather(*(store.get_messages("s") for _ in range(1600)))
        assert all(found)
        assert loop.time() - began > timeout


@pytest.mark.parametrize("kind", [AsyncMongoClient, AsyncIOMotorClient])
async def test_store_on_a_client_without_limits_closes_in_time(
    proxy: Proxy, database: str, kind: Callable[..., Any]
) -> None:
    client = kind(f"mongodb://127.0.0.1:{proxy.port}/?directConnection=true")
    timeout = 2 * slowness()
    store = MongoSessionStore(client, database=database, timeout=timeout)
    await store.append("s", [user("before")])
    proxy.stall()
    calls = [store.append("s", [user("x")]), store.get_messages("s"), store.pop_message("s")]
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(each) for each in outcomes] == [StoreUnavailableError] * 3
    async with asyncio.timeout(5 * timeout):
        await store.aclose()
    proxy.resume()
    closing = client.close()
    if closing is not None:
        await closing
