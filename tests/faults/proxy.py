"""A TCP proxy that breaks connections as a network does."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from types import TracebackType
from typing import Self


class _Link:
    """One client's connection, and the one to the server that belongs to it."""

    def __init__(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self._writers = (client, server)
        self.loses_reply = False
        self.is_dead = False
        self.is_held_back = False

    def cut(self) -> None:
        for writer in self._writers:
            writer.transport.abort()


class Proxy:
    """Forwards a port of its own to a server's; use it with ``async with``.

    Args:
        port: The server's, on ``host``.
        host: Where the server is.

    Attributes:
        port: Where it listens, on 127.0.0.1.
        delay: How many seconds each piece of data waits on its way, in either direction.
        replies_lost: How many replies were lost to `lose_reply`.
    """

    def __init__(self, port: int, *, host: str = "127.0.0.1") -> None:
        self.port: int = 0
        self.delay: float = 0.0
        self.replies_lost: int = 0
        self._target = (host, port)
        self._links: set[_Link] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._flows = asyncio.Event()
        self._flows.set()
        self._lost_request: bytes | None = None
        self._held_request: bytes | None = None
        self._is_let_through = asyncio.Event()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._server.close()
        self.cut()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut(self) -> None:
        """End every connection at once, in the middle of whatever it carries."""
        for link in tuple(self._links):
            link.cut()

    def redirect(self, port: int) -> None:
        """Forward new connections to another server; the open ones stay as they are."""
        self._target = (self._target[0], port)

    def stall(self) -> None:
        """Forward nothing more; connections stay open, and new ones are accepted."""
        self._flows.clear()

    def forget(self) -> None:
        """Forward nothing more on the connections there are, as a router that lost track of them.

        They stay open; new ones work.
        """
        for link in self._links:
            link.is_dead = True

    def resume(self) -> None:
        """Go on after `stall`."""
        self._flows.set()

    def lose_reply(self, request: bytes = b"") -> None:
        """Cut the connection that next carries such a request, once the server has answered it.

        Args:
            request: What the request holds.
        """
        self._lost_request = request

    def hold_back(self, request: bytes) -> None:
        """Forward nothing on the connection that next carries such a request, until `let_through`.

        Args:
            request: What the request holds.
        """
        self._held_request = request
        self._is_let_through.clear()

    def holds_back(self) -> bool:
        """Whether a request is being held back."""
        return any(link.is_held_back for link in self._links)

    def let_through(self) -> None:
        """Forward what was held back."""
        self._is_let_through.set()

    def cut_held_back(self) -> None:
        """End the connection that is held back, so that its request never arrives."""
        for link in tuple(self._links):
            if link.is_held_back:
                link.cut()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            replies, requests = await asyncio.open_connection(*self._target)
        except OSError:
            writer.transport.abort()
            return
        link = _Link(writer, requests)
        self._links.add(link)
        try:
            with suppress(OSError):
                await asyncio.gather(
                    self._forward(link, reader, requests, are_replies=False),
                    self._forward(link, replies, writer, are_replies=True),
                )
        finally:
            self._links.discard(link)
            link.cut()

    async def _forward(
        self,
        link: _Link,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        are_replies: bool,
    ) -> None:
        while data := await reader.read(1 << 16):
            if self.delay:
                await asyncio.sleep(self.delay)
            await self._flows.wait()
            if not are_replies and self._held_request is not None and self._held_request in data:
                self._held_request = None
                link.is_held_back = True
                await self._is_let_through.wait()
                link.is_held_back = False
            if link.is_dead:
                continue
            if are_replies and link.loses_reply:
                self.replies_lost += 1
                break
            if not are_replies and self._lost_request is not None and self._lost_request in data:
                self._lost_request = None
                link.loses_reply = True
            writer.write(data)
            await writer.drain()
        link.cut()
