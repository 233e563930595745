"""What the stores on servers share: a time limit for each call, and retries that double nothing."""

from __future__ import annotations

import asyncio
import random
import secrets
from abc import abstractmethod
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from functools import cached_property
from typing import Any, TypeVar

from asyncsessions.base import BaseSessionStore
from asyncsessions.stores._urls import STORE_OPTIONS

__all__ = ["SERVER_OPTIONS", "ServerStore", "Turns", "connections_for_flushes"]

T = TypeVar("T")

SERVER_OPTIONS: dict[str, Callable[[str], Any]] = {"timeout": float} | STORE_OPTIONS
"""What every store on a server takes, and how to read it from a URL."""

# How long to wait before the next attempt, in seconds; doubled each time, up to the last, and
# random below that, so that clients which lost a server together don't come back together.
_FIRST_PAUSE = 0.05
_LAST_PAUSE = 1.0


class ServerStore(BaseSessionStore):
    """A store on a server.

    Args:
        timeout: How long a request may take at the server, in seconds, its retries included. Most
            calls are one request, those that look first, as `delete_session` does, up to three.
        **options: See `BaseSessionStore`. Where a ``clock`` is given, it also decides what has
            expired; otherwise the server's does.
    """

    #: For calls that aren't group commits, of which there may be any number.
    _turns: Turns

    def __init__(self, *, timeout: float = 10.0, **options: Any) -> None:
        super().__init__(**options)
        if not 0 < timeout < float("inf"):
            raise ValueError(f"timeout={timeout!r}: give seconds, more than 0")
        self._timeout = timeout
        self._expires_by_server = options.get("clock") is None

    @cached_property
    def _writer_id(self) -> str:
        """Stands for this store in what the server remembers of its last write.

        It is made when it is first used, because a store may be built before a process forks, and
        no two processes may have the same.
        """
        return secrets.token_hex(8)

    @abstractmethod
    def _is_lost(self, exc: Exception) -> bool:
        """Whether an attempt failed because the server was away, so that another may succeed."""

    async def _in_turn(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """Return what an attempt returns, as `_retried` does, after waiting for a turn."""
        async with self._turns.take() as since:
            return await self._retried(attempt, since=since)

    async def _retried(
        self, attempt: Callable[[], Awaitable[T]], *, since: float | None = None
    ) -> T:
        """Return what an attempt returns, trying again after a lost connection.

        Args:
            attempt: Talks to the server. It does no harm to do it twice: a write says who sends
                it and its number, by which the server knows it again.
            since: From when on ``timeout`` counts, by the event loop's clock; None: from now.

        Raises:
            TimeoutError: There was no answer within ``timeout``.
            Exception: The last attempt's error.
        """
        pause = _FIRST_PAUSE
        lost: Exception | None = None
        try:
            async with _limit(self._timeout, since):
                while True:
                    try:
                        return await attempt()
                    except self._driver_errors as exc:
                        if not self._is_lost(exc):
                            raise
                        lost = exc
                    await asyncio.sleep(random.uniform(pause / 2, pause))  # noqa: S311  # no secret
                    pause = min(2 * pause, _LAST_PAUSE)
        except TimeoutError as exc:
            if lost is not None:
                raise lost from exc
            text = f"no answer within {self._timeout:g} s; the outcome of a write is unknown"
            raise TimeoutError(text) from exc


def connections_for_flushes(connections: int) -> int:
    """Return how many connections are set aside for group commits, of two or more in all."""
    return 2 if connections > 2 else 1


class Turns:
    """Lets a few calls at a time talk to the server, and the others wait in order.

    To wait for others takes no time off a call's own limit, however many they are. But where the
    server stands still, everybody's time is up together.

    Args:
        count: How many calls may have a turn at the same time.
        timeout: How long to wait while no turn ends well, in seconds.
    """

    def __init__(self, count: int, timeout: float) -> None:
        self._free = asyncio.Semaphore(count)
        self._timeout = timeout
        self._ended_well_at = float("-inf")

    def take(self) -> AbstractAsyncContextManager[float]:
        """Wait for a turn, and have it within the block.

        The block gets the time from when on the call's time limit counts, by the event loop's
        clock.

        Raises:
            TimeoutError: No turn of anybody ended well for too long.
        """
        return _Turn(self)

    async def begin(self) -> float:
        """Begin a turn; see `take`."""
        clock = asyncio.get_running_loop().time
        began = clock()
        if self._free.locked():
            await self._wait(began)
        else:
            await self._free.acquire()
        return max(began, self._ended_well_at)

    async def _wait(self, began: float) -> None:
        while True:
            since = max(began, self._ended_well_at)
            try:
                async with _limit(self._timeout, since):
                    await self._free.acquire()
                break
            except TimeoutError as exc:
                if self._ended_well_at <= since:
                    text = f"no connection within {self._timeout:g} s; nothing was written"
                    raise TimeoutError(text) from exc

    def end(self, *, is_well: bool) -> None:
        """End a turn; see `take`."""
        if is_well:
            self._ended_well_at = asyncio.get_running_loop().time()
        self._free.release()


class _Turn:
    """One turn; a class, because a generator takes three times as long."""

    __slots__ = ("_turns",)

    def __init__(self, turns: Turns) -> None:
        self._turns = turns

    async def __aenter__(self) -> float:
        return await self._turns.begin()

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._turns.end(is_well=kind is None)


def _limit(seconds: float, since: float | None) -> asyncio.Timeout:
    return asyncio.timeout(seconds) if since is None else asyncio.timeout_at(since + seconds)
