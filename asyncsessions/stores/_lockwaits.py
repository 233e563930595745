"""Waiting for sessions that other processes have locked: one poller for all of a store's."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import anyio

from asyncsessions.batching import Deferred
from asyncsessions.errors import LockTimeoutError, SessionStoreError
from asyncsessions.stores._jobs import Job
from asyncsessions.tasks import start

__all__ = ["LockWaits"]

_Tell = Callable[[Sequence[Job]], None]
_Try = Callable[[Sequence[Job], _Tell], asyncio.Future[Sequence[Job]]]

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

    def is_due(self, now: float, timeout: float) -> bool:
        """Whether to try the lock: it is time, or nearly, or a caller's time is up."""
        return now >= min(self.tried + self.delay / 2, self.callers[0].since + timeout)

    def answer(self) -> None:
        """Tell each caller what came of the job."""
        for caller, outcome in zip(self.callers, self.job.outcomes(), strict=True):
            if caller.done():
                continue
            if isinstance(outcome, Exception):
                caller.set_exception(outcome)
            else:
                caller.set_result(outcome)

    def cancel(self) -> None:
        """Leave the callers without an answer."""
        for caller in self.callers:
            caller.cancel()

    def fail_late(self, timeout: float) -> None:
        """Fail the callers whose time was up at the last try; the job does nothing for them."""
        late = self.tried - timeout
        if self.callers[0].since > late:
            return
        error = LockTimeoutError(self.job.session_id, timeout=timeout)
        count = 0
        for caller in self.callers:
            if caller.since > late:
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
    sessions that nobody has locked were slow, too. The hop also does what it has got the locks
    for; however long that takes, the other locks are tried meanwhile.

    Args:
        timeout: How long a caller waits, in seconds.
        at_once: How many locks one hop may have; the others are due for the next one.
    """

    def __init__(self, timeout: float, at_once: int) -> None:
        self._timeout = timeout
        self._at_once = at_once
        self._waits: list[_Wait] = []
        self._news = asyncio.Event()
        self._poller: asyncio.Task[None] | None = None
        self._hops: set[asyncio.Future[Sequence[Job]]] = set()

    def add(self, job: Job, callers: list[Deferred[Any]], try_again: _Try) -> None:
        """Try a job until it has its lock, or the time of all its callers is up; answer them.

        Args:
            job: What was tried once.
            callers: One for each of its outcomes, the one that waits for longest first.
            try_again: Does jobs in a thread; returns those whose session is still locked, and
                if it does others, tells before which these are. The same for all; it is kept only
                while jobs wait, or a store would keep itself alive.
        """
        self._leave_closed_loop()
        self._waits.append(_Wait(job, callers))
        if self._poller is None:
            self._news = asyncio.Event()
            self._poller = start(self._poll(try_again))
            # For it may be cancelled before it begins.
            self._poller.add_done_callback(self._note_end)
        self._news.set()

    async def end(self) -> None:
        """Return when no job waits any more."""
        self._leave_closed_loop()
        while self._poller is not None:
            await asyncio.wait([self._poller])
        if self._hops:
            await asyncio.wait(self._hops)

    def _leave_closed_loop(self) -> None:
        """Forget the jobs of another event loop, where nobody waits any more."""
        if self._poller is not None and self._poller.get_loop() is not asyncio.get_running_loop():
            self._poller = None
            self._waits.clear()
            self._hops.clear()

    def _note_end(self, poller: asyncio.Task[None]) -> None:
        if poller is self._poller:
            # It was cancelled.
            self._poller = None
            # Where the event loop shuts down, no caller may wait for ever.
            for wait in self._waits:
                wait.cancel()
            self._waits.clear()

    async def _poll(self, try_again: _Try) -> None:
        while self._fail_late():
            await self._rest()
            await self._try_due(try_again)
        # At once, for the next job needs another one.
        self._poller = None

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
        """Try the locks that are due; return when it is known which ones others still have."""
        now = time.monotonic()
        due: list[_Wait] = []
        left: list[_Wait] = []
        for wait in self._waits:
            is_next = len(due) < self._at_once and wait.is_due(now, self._timeout)
            (due if is_next else left).append(wait)
        if not due:
            return
        loop = asyncio.get_running_loop()
        told: asyncio.Future[None] = loop.create_future()
        hear = partial(self._hear, due, told, now)

        def tell(busy: Sequence[Job]) -> None:
            with suppress(RuntimeError):  # The event loop was closed.
                loop.call_soon_threadsafe(hear, busy)

        try:
            hop = try_again([wait.job for wait in due], tell)
        except SessionStoreError as exc:
            hop = loop.create_future()
            hop.set_exception(exc)
        self._waits = left
        self._hops.add(hop)
        hop.add_done_callback(partial(self._note_done, due, hear))
        await asyncio.wait([told])

    def _hear(
        self, due: list[_Wait], told: asyncio.Future[None], tried: float, busy: Sequence[Job]
    ) -> None:
        """Let those wait on that others still have locked, and leave the rest in ``due``."""
        if told.done():
            return
        told.set_result(None)
        locked = set(busy)
        back = [wait for wait in due if wait.job in locked]
        due[:] = [wait for wait in due if wait.job not in locked]
        longest = max(_LAST_POLL, _POLL_OF_MANY * (len(self._waits) + len(back)))
        for wait in back:
            wait.tried = tried
            wait.delay = min(longest, wait.delay * 1.5)
            if self._poller is None:
                wait.cancel()
        if self._poller is not None:
            self._waits += back

    def _note_done(
        self,
        due: list[_Wait],
        hear: Callable[[Sequence[Job]], None],
        hop: asyncio.Future[Sequence[Job]],
    ) -> None:
        """Answer the callers of jobs that wait no longer."""
        self._hops.discard(hop)
        error = hop.exception()
        hear([] if error else hop.result())
        for wait in due:
            if error is None or isinstance(error, Exception):
                wait.job.error = error or wait.job.error
                wait.answer()
            else:
                wait.cancel()

    def _fail_late(self) -> bool:
        """Fail the callers whose time is up; return whether any are left."""
        for wait in self._waits:
            wait.fail_late(self._timeout)
        self._waits = [wait for wait in self._waits if wait.callers]
        return bool(self._waits)
