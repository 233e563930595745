"""Waiting for sessions that other processes have locked: one poller for all of a store's."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import anyio

from asyncsessions.batching import Deferred
from asyncsessions.errors import LockTimeoutError
from asyncsessions.stores._jobs import Job

__all__ = ["LockWaits"]

_Try = Callable[[Sequence[Job]], Awaitable[Sequence[Job]]]

# How often a lock is tried, in seconds; random around these, so that no waiter is favoured.
_FIRST_POLL = 0.001
_LAST_POLL = 0.004
# The same for each of many locks, so that trying takes a small part of the time.
_POLL_OF_MANY = 0.0001


class _Wait:
    """A job that waits for its lock, and those who wait for the job."""

    __slots__ = ("callers", "delay", "job", "tried")

    def __init__(self, job: Job, callers: list[Deferred[Any]]) -> None:
        self.job = job
        # The first of them waits for longest.
        self.callers = callers
        self.tried = time.monotonic()
        self.delay = _FIRST_POLL

    def answer(self) -> None:
        """Tell each caller what came of the job."""
        for caller, outcome in zip(self.callers, self.job.outcomes(), strict=True):
            if caller.done():
                continue
            if isinstance(outcome, Exception):
                caller.set_exception(outcome)
            else:
                caller.set_result(outcome)

    def fail_late(self, since: float, error: Exception) -> None:
        """Fail the callers that wait since a time or longer; the job does nothing for them."""
        count = 0
        for caller in self.callers:
            if caller.since > since:
                break
            count += 1
            if not caller.done():
                caller.set_exception(error)
        del self.callers[:count]
        if self.callers:
            # Then they are many, and each has its part of the request.
            del self.job.request[:count]


class LockWaits:
    """The jobs of one store that wait for locks; each round, one hop tries those that are due.

    A hop for each of them would take so many turns of the event loop and of the interpreter that
    sessions that nobody has locked were slow, too.

    Args:
        timeout: How long a caller waits, in seconds.
    """

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._waits: list[_Wait] = []
        self._news = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def add(self, job: Job, callers: list[Deferred[Any]], try_again: _Try) -> None:
        """Try a job until it has its lock, or the time of all its callers is up; answer them.

        Args:
            job: What was tried once.
            callers: One for each of its outcomes, the one that waits for longest first.
            try_again: Does jobs in a thread; returns those whose session is still locked. The
                same for all; it is kept only while jobs wait, or a store would keep itself alive.
        """
        self._waits.append(_Wait(job, callers))
        self._news.set()
        if self._task is None:
            # Another loop than the last one's, perhaps.
            self._news = asyncio.Event()
            self._task = asyncio.get_running_loop().create_task(self._poll(try_again))

    async def end(self) -> None:
        """Return when no job waits any more."""
        if self._task is not None:
            await asyncio.wait([self._task])

    async def _poll(self, try_again: _Try) -> None:
        try:
            while self._fail_late():
                await self._rest()
                await self._try_due(try_again)
        finally:
            self._task = None
            # Where the event loop shuts down, no caller may wait for ever.
            for wait in self._waits:
                for caller in wait.callers:
                    caller.cancel()
            self._waits.clear()

    async def _rest(self) -> None:
        """Wait until a lock is to be tried, a caller's time is up, or there is another job."""
        self._news.clear()
        now = time.monotonic()
        factor = 0.5 + random.random()  # noqa: S311  # no secret
        due = min(wait.tried + wait.delay * factor for wait in self._waits)
        deadline = min(wait.callers[0].since for wait in self._waits) + self._timeout
        # Not for each of many deadlines, though.
        until = min(due, max(deadline, now + _FIRST_POLL))
        with anyio.move_on_after(until - now):
            await self._news.wait()

    async def _try_due(self, try_again: _Try) -> None:
        """Try the locks that are due, and with them those that soon would be."""
        now = time.monotonic()
        due = [wait for wait in self._waits if now >= wait.tried + wait.delay / 2]
        if not due:
            return
        busy: set[Job] = set()
        try:
            busy.update(await try_again([wait.job for wait in due]))
        except Exception as exc:  # noqa: BLE001  # it reaches the callers
            for wait in due:
                wait.job.error = exc
        now = time.monotonic()
        longest = max(_LAST_POLL, _POLL_OF_MANY * len(self._waits))
        for wait in due:
            wait.tried = now
            wait.delay = min(longest, wait.delay * 1.5)
        self._answer([wait for wait in due if wait.job not in busy])

    def _fail_late(self) -> bool:
        """Fail the callers whose time is up; return whether any are left."""
        late = time.monotonic() - self._timeout
        for wait in self._waits:
            if wait.callers[0].since <= late:
                error = LockTimeoutError(wait.job.session_id, timeout=self._timeout)
                wait.fail_late(late, error)
        self._waits = [wait for wait in self._waits if wait.callers]
        return bool(self._waits)

    def _answer(self, waits: Sequence[_Wait]) -> None:
        """Answer the callers of jobs that wait no longer."""
        ended = set(waits)
        self._waits = [wait for wait in self._waits if wait not in ended]
        for wait in waits:
            wait.answer()
