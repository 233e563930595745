"""Connections to one Redis server, few of them, for callers who may be thousands."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, NamedTuple, TypeAlias

from redis import exceptions

from asyncsessions.pacing import Pacer
from asyncsessions.stores._redis_errors import DRIVER_ERRORS
from asyncsessions.stores._redis_scripts import Call, Word, packed
from asyncsessions.tasks import start

__all__ = ["Connection", "Connections"]

Connection: TypeAlias = Any
"""One of redis-py's, which has no types for what is used here."""

# How many callers go together where some have to wait. The first of them has its replies no
# sooner than the last; but the more there are, the fewer round trips they all wait for.
_FEWEST_TURNS, _MOST_TURNS = 16, 256
# A server that is well has answered by now, in seconds.
_PATIENCE = 1.0


class _Turn(NamedTuple):
    """A caller who waits for a connection."""

    calls: Sequence[Call]
    replies: asyncio.Future[list[Any]]


class Connections:
    """Sends calls on at most so many connections, first come first served.

    Who finds none free waits, and goes together with others who wait, so that nobody waits for
    as many round trips as there are callers.

    Args:
        make: Makes a connection. It has the settings of a pool of redis-py, but isn't in it: that
            raises an error where all are in use.
        size: How many connections there are at the most.
        timeout: How long the server may take for those who go together, in seconds.
    """

    def __init__(self, make: Callable[[], Connection], size: int, timeout: float) -> None:
        self._make = make
        self._size = self._room = size
        self._timeout = timeout
        self._idle: list[Connection] = []
        # Counts up when none that was made before is used again.
        self._generation = 0
        self._waiting: deque[_Turn] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_closed = False

    async def send(self, calls: Sequence[Call]) -> list[Any]:
        """Send commands on one connection and return their replies; see `Link.send`."""
        if not self._room:
            turn = _Turn(calls, asyncio.get_running_loop().create_future())
            self._waiting.append(turn)
            return await turn.replies
        self._room -= 1
        try:
            return await self._exchange(calls)
        finally:
            self._make_room()

    def _make_room(self) -> None:
        """Give a connection's place to those who have waited longest."""
        share = len(self._waiting) // self._size
        most = min(max(share, _FEWEST_TURNS), _MOST_TURNS)
        turns: list[_Turn] = []
        while self._waiting and len(turns) < most:
            turn = self._waiting.popleft()
            if not turn.replies.done():
                turns.append(turn)
        if not turns:
            self._room += 1
            return
        # A task of its own, because each of them may be cancelled without the others.
        task = start(self._send_for(turns))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _send_for(self, turns: Sequence[_Turn]) -> None:
        waiting = [turn.replies for turn in turns]
        try:
            async with asyncio.timeout(self._timeout):
                replies = await self._exchange([call for turn in turns for call in turn.calls])
        except Exception as exc:  # noqa: BLE001  # it reaches all who wait for these replies
            for future in waiting:
                if not future.done():
                    future.set_exception(exc)
        except asyncio.CancelledError:
            # The event loop is shutting down; nobody may hang on this.
            for future in waiting:
                future.cancel()
            raise
        else:
            left = iter(replies)
            for turn in turns:
                own = [next(left) for _ in turn.calls]
                if not turn.replies.done():
                    turn.replies.set_result(own)
        finally:
            self._make_room()

    async def _exchange(self, calls: Sequence[Call]) -> list[Any]:
        connection = self._idle.pop() if self._idle else self._make()
        generation = self._generation
        loop = asyncio.get_running_loop()
        start = loop.time()
        try:
            replies = await _exchange(connection, calls)
        except BaseException as exc:
            # Nobody can say what is under way on it.
            await connection.disconnect(nowait=True)
            if isinstance(exc, DRIVER_ERRORS) or loop.time() - start > _PATIENCE:
                # The others were made for the same server, and would fail one after the other.
                await self._drop_idle()
            raise
        self._idle.append(connection)
        if self._is_closed or generation != self._generation:
            await self._drop_idle()
        return replies

    async def renew(self) -> None:
        """Use no connection again that was made before; those in use end after it."""
        self._generation += 1
        await self._drop_idle()

    async def _drop_idle(self) -> None:
        idle, self._idle = self._idle, []
        for connection in idle:
            with suppress(*DRIVER_ERRORS):  # A server that is away misses no farewell.
                await connection.disconnect(nowait=not self._is_closed)

    async def close(self) -> None:
        """Close the connections; one that is in use follows when it no longer is."""
        self._is_closed = True
        while self._tasks:
            await asyncio.wait(self._tasks)
        await self._drop_idle()


async def _exchange(connection: Connection, calls: Sequence[Call]) -> list[Any]:
    if not connection.is_connected:
        await connection.connect()
    pacer = Pacer()
    for call in calls:
        # One by one, so that the server can begin and the event loop goes on.
        await _write(connection, call.command(), pacer)
    replies = [await _read(connection) for _ in calls]
    missing = [
        index for index, reply in enumerate(replies) if isinstance(reply, exceptions.NoScriptError)
    ]
    # After a restart or SCRIPT FLUSH; the server remembers what it is given to run.
    for index in missing:
        await _write(connection, calls[index].command(with_source=True), pacer)
    for index in missing:
        replies[index] = await _read(connection)
    return replies


async def _write(connection: Connection, command: tuple[Word, ...], pacer: Pacer) -> None:
    for piece in packed(command):
        await connection.send_packed_command(piece, check_health=False)
        await pacer.pause()


async def _read(connection: Connection) -> Any:
    try:
        return await connection.read_response(disable_decoding=True)
    except exceptions.ResponseError as exc:
        return exc
