"""What PostgreSQL refuses: each with one clear error that says what to do."""

from __future__ import annotations

import traceback
from collections.abc import AsyncIterator
from typing import Any

import pytest

from asyncsessions import (
    StoreFullError,
    StoreRefusedError,
    StoreUnavailableError,
    open_store,
)
from asyncsessions.stores.postgres import PostgresSessionStore
from asyncsessions.testing.servers import PostgresServer
from tests.faults.conversation import user
from tests.faults.postgres_proxies import Line
from tests.faults.postgres_server import connected, empty_database, server

__all__ = ["empty_database", "server"]  # Fixtures of this module's tests.

pytestmark = pytest.mark.usefixtures("empty_database")


async def refusal(url: str, **options: Any) -> str:
    with pytest.raises(StoreRefusedError) as caught:
        async with open_store(url, **options) as store:
            await store.append("s", [user("something secret")])
    text = str(caught.value)
    assert "secret" not in text
    return text


@pytest.fixture
async def role(server: PostgresServer) -> AsyncIterator[str]:
    """The URL of a role without rights."""
    async with connected(server) as connection:
        await connection.execute("CREATE ROLE lowly LOGIN PASSWORD 'secret'")
        yield server.url.replace(f"app:{server.password}", "lowly:secret")
        await connection.execute("DROP OWNED BY lowly; DROP ROLE lowly")


async def test_wrong_password(server: PostgresServer) -> None:
    text = await refusal(server.url.replace(server.password, "secret"))
    assert "password" in text
    assert server.password not in text


async def test_missing_database(server: PostgresServer) -> None:
    text = await refusal(server.url.removesuffix("/app") + "/nowhere")
    assert "no such database" in text
    assert server.password not in text


async def test_no_permission_to_migrate(server: PostgresServer, role: str) -> None:
    assert "asyncsessions migrate" in await refusal(role)


async def test_no_permission_to_write(server: PostgresServer, role: str) -> None:
    async with open_store(server.url) as store, connected(server) as connection:
        await store.append("s", [user("x")])
        await connection.execute("GRANT USAGE ON SCHEMA asyncsessions TO lowly")
        await connection.execute("GRANT SELECT ON ALL TABLES IN SCHEMA asyncsessions TO lowly")
        assert "permission" in await refusal(role)
        async with open_store(role) as reader:
            assert len(await reader.get_messages("s")) == 1


async def test_existing_tables_need_no_permission_to_create(
    server: PostgresServer, role: str
) -> None:
    async with open_store(server.url) as store, connected(server) as connection:
        await store.ping()
        await connection.execute("GRANT USAGE ON SCHEMA asyncsessions TO lowly")
        rights = "SELECT, INSERT, UPDATE, DELETE"
        await connection.execute(f"GRANT {rights} ON ALL TABLES IN SCHEMA asyncsessions TO lowly")
        async with open_store(role) as worker:
            await worker.append("s", [user("x")], idempotency_key="k")
            await worker.increment_state("s", "n")
            await worker.pop_message("s")
            assert await worker.delete_session("s") is True


async def test_read_only_server_still_reads(server: PostgresServer) -> None:
    async with open_store(server.url) as store, connected(server) as connection:
        await store.append("s", [user("x")])
        await connection.execute("ALTER DATABASE app SET default_transaction_read_only = on")
        try:
            async with open_store(server.url) as reader:
                assert len(await reader.get_messages("s")) == 1
            assert "read-only" in await refusal(server.url)
        finally:
            await connection.execute("SET default_transaction_read_only = off")
            await connection.execute("ALTER DATABASE app RESET default_transaction_read_only")


async def test_server_that_is_too_old(server: PostgresServer) -> None:
    async with connected(server) as connection:
        version = (await connection.fetchval("SHOW server_version")).split()[0].encode()
    older = b"12." + b"9" * (len(version) - 3)
    line = Line(server.url)
    line.rewrite = lambda said: said.replace(
        b"server_version\x00" + version, b"server_version\x00" + older
    )
    async with line.open():
        assert "PostgreSQL 12" in await refusal(line.url)


async def test_tables_of_a_newer_version(server: PostgresServer) -> None:
    async with open_store(server.url) as store, connected(server) as connection:
        await store.ping()
        await connection.execute("INSERT INTO asyncsessions.migrations VALUES (99)")
        assert "install a newer version" in await refusal(server.url)


FULL = """
CREATE FUNCTION asyncsessions.fail() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN RAISE 'could not extend file: No space left on device' USING ERRCODE = '53100'; END $$;
CREATE TRIGGER full_disk BEFORE INSERT ON asyncsessions.messages
    FOR EACH ROW EXECUTE FUNCTION asyncsessions.fail()"""


@pytest.mark.parametrize("key", [None, "k"])
async def test_full_disk_stores_nothing_and_still_reads(
    server: PostgresServer, key: str | None
) -> None:
    async with open_store(server.url) as store, connected(server) as connection:
        await store.append("s", [user("x")])
        await connection.execute(FULL)
        with pytest.raises(StoreFullError, match="make room"):
            await store.append("s", [user("y")], idempotency_key=key)
        assert len(await store.get_messages("s")) == 1
        await connection.execute("DROP TRIGGER full_disk ON asyncsessions.messages")
        assert (await store.append("s", [user("y")], idempotency_key=key))[0].seq == 2


async def test_store_that_is_open_may_migrate(server: PostgresServer) -> None:
    async with PostgresSessionStore(server.url) as store:
        await store.append("s", [user("x")])
        assert list(await store.migrate()) == []
        assert len(await store.get_messages("s")) == 1


@pytest.mark.parametrize("name", ["sslrootcert", "sslcert", "sslkey", "sslcrl"])
async def test_missing_file(server: PostgresServer, name: str) -> None:
    assert name in await refusal(f"{server.url}?sslmode=require&{name}=/secret/none.pem")


async def test_settings_that_the_driver_refuses(
    server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGSSLMODE", "maybe")
    assert "sslmode" in await refusal(server.url)


async def test_unknown_host() -> None:
    with pytest.raises(StoreUnavailableError, match="resolved"):
        async with open_store("postgresql://app:secret@nowhere.invalid/app", timeout=5):
            pass


async def test_detail_of_the_server_with_content_is_not_shown(server: PostgresServer) -> None:
    async with open_store(server.url) as store, connected(server) as connection:
        await store.append("s", [user("x")])
        check = "CHECK (position('secret'::bytea in body) = 0)"
        await connection.execute(f"ALTER TABLE asyncsessions.messages ADD CONSTRAINT c {check}")
        with pytest.raises(StoreUnavailableError) as caught:
            await store.append("s", [user("secret" * 2)])
        assert "secretsecret" not in "".join(traceback.format_exception(caught.value))
        assert "23514" in str(caught.value)
