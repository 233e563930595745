"""What may stand between a client and PostgreSQL: a line that breaks, a pooler, an old server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from urllib.parse import urlsplit

_SSL_REQUEST = b"\x00\x00\x00\x08\x04\xd2\x16\x2f"


class Line:
    """Passes bytes on, and breaks when it is told to.

    Attributes:
        url: The URL of the server through this line.
        break_at: As soon as the server says this, the client doesn't get to hear it: its
            connection is closed, and new ones can be made. Then it is None.
        rewrite: Changes what the server says.
    """

    def __init__(self, url: str) -> None:
        self._server = urlsplit(url)
        self.url: str = url
        self.break_at: bytes | None = None
        self.rewrite: Callable[[bytes], bytes] = lambda said: said
        self._clients: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Line]:
        listener = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port = listener.sockets[0].getsockname()[1]
        self.url = self._server._replace(
            netloc=f"{self._server.username}:{self._server.password}@127.0.0.1:{port}"
        ).geturl()
        try:
            yield self
        finally:
            listener.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut_clients(self) -> None:
        """Cut every client off; the server doesn't notice, and goes on with what it was told."""
        for client in list(self._clients):
            client.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._clients.add(writer)
        server = None
        try:
            with suppress(OSError, asyncio.CancelledError):
                host, port = self._server.hostname, self._server.port
                answers, server = await asyncio.open_connection(host, port)
                await asyncio.gather(
                    self._pass(reader, server),
                    self._answer(answers, writer),
                    return_exceptions=True,
                )
        finally:
            self._clients.discard(writer)
            self._tasks.discard(task)
            writer.transport.abort()
            if server is not None:
                server.transport.abort()

    async def _pass(self, reader: asyncio.StreamReader, server: asyncio.StreamWriter) -> None:
        while said := await reader.read(1 << 16):
            server.write(said)
            await server.drain()

    async def _answer(self, answers: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        while said := await answers.read(1 << 16):
            if self.break_at is not None and self.break_at in said:
                self.break_at = None
                client.transport.abort()
                return
            client.write(self.rewrite(said))
            await client.drain()
        client.transport.abort()


class Pooler:
    """A pooler in transaction mode at its worst: each transaction gets the other connection.

    Each client has two connections of the server. Authentication isn't passed on, so the
    client's role needs none.

    Attributes:
        url: The URL of the server through this pooler.
    """

    def __init__(self, url: str, role: str) -> None:
        self._server = urlsplit(url)
        self._role = role
        self.url: str = url
        self._tasks: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Pooler]:
        listener = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port = listener.sockets[0].getsockname()[1]
        self.url = f"postgresql://{self._role}@127.0.0.1:{port}{self._server.path}"
        try:
            yield self
        finally:
            listener.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        servers: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        try:
            with suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
                startup = await _startup(reader, writer)
                for _ in range(2):
                    host, port = self._server.hostname, self._server.port
                    servers.append(await asyncio.open_connection(host, port))
                    servers[-1][1].write(startup)
                greeting = [await _until_ready(answers) for answers, _ in servers]
                writer.write(greeting[0])
                await self._relay(reader, writer, servers)
        finally:
            self._tasks.discard(task)
            writer.transport.abort()
            for _, server in servers:
                server.transport.abort()

    async def _relay(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        servers: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]],
    ) -> None:
        turn = 0

        async def answer() -> None:
            nonlocal turn
            while True:
                kind, frame = await _frame(servers[turn][0])
                if kind == b"Z" and frame.endswith(b"I"):
                    turn = 1 - turn
                writer.write(frame)

        answering = asyncio.ensure_future(answer())
        try:
            while True:
                kind, frame = await _frame(reader)
                if kind == b"X":
                    return
                servers[turn][1].write(frame)
        finally:
            answering.cancel()
            await asyncio.gather(answering, return_exceptions=True)


async def _startup(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    while True:
        size = await reader.readexactly(4)
        packet = size + await reader.readexactly(int.from_bytes(size, "big") - 4)
        if packet != _SSL_REQUEST:
            return packet
        writer.write(b"N")


async def _frame(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    head = await reader.readexactly(5)
    return head[:1], head + await reader.readexactly(int.from_bytes(head[1:], "big") - 4)


async def _until_ready(reader: asyncio.StreamReader) -> bytes:
    said = b""
    while True:
        kind, frame = await _frame(reader)
        said += frame
        if kind == b"Z":
            return said
