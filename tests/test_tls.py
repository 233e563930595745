"""Servers behind TLS: the certificate is checked, and the URL says by what."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import trustme

from asyncsessions import StoreRefusedError, open_store

_SSL_REQUEST = (8).to_bytes(4, "big") + (80877103).to_bytes(4, "big")

# How each driver is told the authority that it trusts.
URLS = {
    "redis": "rediss://{address}/0?ssl_ca_certs={ca}",
    "postgres": "postgresql://{address}/app?sslmode=verify-full&sslrootcert={ca}",
    "mongo": "mongodb://{address}/tls?tls=true&tlsCAFile={ca}",
}


@asynccontextmanager
async def behind_tls(url: str, context: ssl.SSLContext, *, asks: bool) -> AsyncIterator[int]:
    """Take TLS off in front of a server, and yield the port.

    Args:
        url: The server's.
        context: Holds the certificate to show.
        asks: Whether clients ask for TLS first, as those of PostgreSQL do.
    """
    server = urlsplit(url)
    pumps: set[asyncio.Task[None]] = set()

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if asks:
                assert await reader.readexactly(8) == _SSL_REQUEST
                writer.write(b"S")
                await writer.start_tls(context)
            answers, requests = await asyncio.open_connection(server.hostname, server.port)
        except OSError:
            writer.close()  # The client doesn't trust this.
            return
        for pair in ((reader, requests), (answers, writer)):
            pumps.add(asyncio.create_task(pump(*pair)))

    listener = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=None if asks else context)
    try:
        yield listener.sockets[0].getsockname()[1]
    finally:
        listener.close()
        for task in pumps:
            task.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)


@pytest.mark.parametrize("name", URLS)
async def test_store_through_tls(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    plain = urlsplit(request.getfixturevalue(f"{name}_url"))
    trusted, foreign = trustme.CA(), trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trusted.issue_cert("localhost").configure_cert(context)
    files: list[Path] = []
    for authority in (trusted, foreign):
        files.append(tmp_path / f"{len(files)}.pem")
        authority.cert_pem.write_to_path(str(files[-1]))
    async with behind_tls(plain.geturl(), context, asks=name == "postgres") as port:
        user, at, _ = plain.netloc.rpartition("@")
        address = f"{user}{at}localhost:{port}"
        async with open_store(URLS[name].format(address=address, ca=files[0])) as store:
            await store.append("s", [{"role": "user", "content": "x"}])
            assert len(await store.get_messages("s")) == 1
            assert await store.delete_session("s") is True
        url = URLS[name].format(address=address, ca=files[1])
        with pytest.raises(StoreRefusedError, match="certificate isn't trusted"):
            async with open_store(url):
                pass
