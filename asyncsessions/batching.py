"""Group commit: callers that write at the same time share one round trip.

While one flush is under way, newcomers queue; when it returns, all of them go in the next one.
There is no timer, so a lone caller waits for nobody. The scheme is the group commit of
databases (DeWitt et al., "Implementation Techniques for Main Memory Database Systems", 1984).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeAlias, TypeVar

import anyio
import msgspec

from asyncsessions.errors import StoreClosedError

__all__ = ["Entry", "GroupCommit", "Outcome"]

Item = TypeVar("Item")
Result = TypeVar("Result")

Outcome: TypeAlias = Result | Exception | asyncio.Future[Result]
"""What became of one item: its result, its error, or a future where that isn't known yet."""


# Callers that wake in one turn of the event loop, which takes them several milliseconds together
# where they are some hundred.
_ANSWERED_AT_ONCE = 64
# Outcomes that aren't a result.
_SPECIAL = (BaseException, asyncio.Future)


class Entry(msgspec.Struct, Generic[Item, Result], eq=False):
    """One caller's item, from submission to its outcome; a struct because one is made per call."""

    key: str
    item: Item
    size: int
    caller: asyncio.Future[Result]
    taken: bool = False
    # Whether a caller that had been cancelled before may stop waiting.
    is_done: bool = False
    # Set by a caller that was cancelled while its item was under way, and waits for the end.
    unheard: asyncio.Future[None] | None = None

    def answer(self, outcome: Result | BaseException) -> None:
        """Tell the caller, or whoever waits in its place, what became of the item."""
        self.is_done = True
        if self.unheard is not None and not self.unheard.done():
            self.unheard.set_result(None)
        if self.caller.done():
            return
        if not isinstance(outcome, BaseException):
            self.caller.set_result(outcome)
        elif isinstance(outcome, asyncio.CancelledError):
            self.caller.cancel()
        else:
            self.caller.set_exception(outcome)

    async def settle(self) -> None:
        """Wait, as a cancelled caller, for an outcome that is under way.

        A second cancellation stops the wait; the item completes all the same.
        """
        if self.taken and self.caller.cancelled() and not self.is_done:
            self.unheard = asyncio.get_running_loop().create_future()
            with anyio.CancelScope(shield=True):
                await self.unheard


class _Turn(Generic[Item, Result]):
    """A caller that waits for room, and its item."""

    __slots__ = ("entry", "item", "key", "size")

    def __init__(self, key: str, item: Item, size: int) -> None:
        self.key = key
        self.item = item
        self.size = size
        self.entry: asyncio.Future[Entry[Item, Result]]
        self.entry = asyncio.get_running_loop().create_future()


class _Hold(Generic[Item, Result]):
    """A key with an outcome that isn't known yet, and what waits behind it."""

    __slots__ = ("behind", "unknown")

    def __init__(self) -> None:
        self.unknown = 0
        self.behind: deque[Entry[Item, Result]] = deque()


class GroupCommit(Generic[Item, Result]):
    """Collects concurrent items and hands them over in batches, one batch at a time.

    Guarantees:

    * Items with the same key are flushed in the order of submission.
    * An item that fails does so alone.
    * A cancelled item that is still queued is never flushed. One that is under way completes,
      and only then does its caller see the cancellation.
    * The queue is bounded: callers wait for room, first come first served.

    Args:
        flush: Takes the items of one batch and returns one outcome for each, in order. An
            exception that it raises fails the whole batch. Where an outcome is a future, later
            items of that key wait for it while other keys go on.
        max_items: The most items in one batch.
        max_bytes: The most bytes in one batch; a larger item goes alone.
        max_queued_items: How many items may wait before callers do.
        max_queued_bytes: How many bytes may wait before callers do.
    """

    def __init__(
        self,
        flush: Callable[[list[Item]], Awaitable[Sequence[Outcome[Result]]]],
        *,
        max_items: int = 512,
        max_bytes: int = 16 << 20,
        max_queued_items: int = 131_072,
        max_queued_bytes: int = 64 << 20,
    ) -> None:
        self._flush = flush
        self._max_items = max_items
        self._max_bytes = max_bytes
        self._max_queued_items = max_queued_items
        self._max_queued_bytes = max_queued_bytes
        self._queue: deque[Entry[Item, Result]] = deque()
        self._held: dict[str, _Hold[Item, Result]] = {}
        # Queued and held entries together.
        self._items = 0
        self._bytes = 0
        self._waiting_for_room: deque[_Turn[Item, Result]] = deque()
        self._drainer: asyncio.Task[None] | None = None
        self._idle: asyncio.Future[None] | None = None
        self._closed = False

    async def submit(self, key: str, item: Item, size: int) -> Result:
        """Flush an item together with whatever else is waiting, and return its result.

        Args:
            key: Items with the same key keep their order.
            item: Anything that ``flush`` understands.
            size: Its approximate size in bytes.

        Raises:
            StoreClosedError: `aclose` was called before.
            Exception: Whatever ``flush`` gave as this item's outcome.
        """
        entry = await self.enqueue(key, item, size)
        try:
            return await entry.caller
        except asyncio.CancelledError:
            await entry.settle()
            raise

    async def enqueue(self, key: str, item: Item, size: int) -> Entry[Item, Result]:
        """Return an item's entry as soon as it is queued; see `submit`.

        It is for callers that are many: they await ``entry.caller`` themselves, as `submit` does,
        and save the memory of one frame each.
        """
        entry = self.offer(key, item, size)
        if entry is not None:
            return entry
        if self._closed:
            raise StoreClosedError
        turn: _Turn[Item, Result] = _Turn(key, item, size)
        self._waiting_for_room.append(turn)
        try:
            return await turn.entry
        except asyncio.CancelledError:
            if not turn.entry.cancelled() and turn.entry.exception() is None:
                # It was queued in the same moment.
                entry = turn.entry.result()
                entry.caller.cancel()
                await entry.settle()
            self._let_in()
            raise

    def offer(self, key: str, item: Item, size: int) -> Entry[Item, Result] | None:
        """Return an item's entry if there is room for it now; else see `enqueue`."""
        if self._items >= self._max_queued_items or self._bytes >= self._max_queued_bytes:
            return None
        if self._waiting_for_room or self._closed:
            return None
        return self._put(key, item, size)

    def _put(self, key: str, item: Item, size: int) -> Entry[Item, Result]:
        loop = asyncio.get_running_loop()
        entry = Entry(key, item, size, loop.create_future())
        self._queue.append(entry)
        self._items += 1
        self._bytes += size
        if self._drainer is None:
            self._drainer = loop.create_task(self._drain())
        return entry

    async def aclose(self) -> None:
        """Refuse new items, and return when every item that was taken has its outcome."""
        self._closed = True
        self._let_in()
        if self._drainer is None and not self._held:
            return
        if self._idle is None:
            self._idle = asyncio.get_running_loop().create_future()
        await asyncio.shield(self._idle)

    def _let_in(self) -> None:
        """Queue the items of those who wait, first come first served, as far as there is room."""
        while self._waiting_for_room:
            turn = self._waiting_for_room[0]
            if not turn.entry.done():
                if self._closed:
                    turn.entry.set_exception(StoreClosedError())
                elif self._items < self._max_queued_items and self._bytes < self._max_queued_bytes:
                    turn.entry.set_result(self._put(turn.key, turn.item, turn.size))
                else:
                    return
            self._waiting_for_room.popleft()

    async def _drain(self) -> None:
        try:
            while self._queue:
                batch = self._take()
                self._let_in()
                if batch:
                    await self._flush_batch(batch)
                # Callers that were just answered may submit again before the next batch leaves.
                await asyncio.sleep(0)
        finally:
            self._drainer = None
            self._note_idle()

    def _take(self) -> list[Entry[Item, Result]]:
        if not self._held and self._items <= self._max_items and self._bytes <= self._max_bytes:
            # All of them, which is the rule; the rest of this method is for the exceptions.
            batch = [entry for entry in self._queue if not entry.caller.done()]
            self._queue.clear()
            self._items = self._bytes = 0
        else:
            batch = self._take_some()
        for entry in batch:
            entry.taken = True
        return batch

    def _take_some(self) -> list[Entry[Item, Result]]:
        batch: list[Entry[Item, Result]] = []
        size = 0
        while self._queue and len(batch) < self._max_items:
            entry = self._queue[0]
            if batch and size + entry.size > self._max_bytes:
                break
            self._queue.popleft()
            if entry.key in self._held:
                self._held[entry.key].behind.append(entry)
                continue
            self._items -= 1
            self._bytes -= entry.size
            if not entry.caller.done():
                size += entry.size
                batch.append(entry)
        return batch

    async def _flush_batch(self, batch: list[Entry[Item, Result]]) -> None:
        outcomes: Sequence[Outcome[Result]]
        try:
            outcomes = await self._flush([entry.item for entry in batch])
            if len(outcomes) != len(batch):
                text = f"a flush of {len(batch)} items returned {len(outcomes)} outcomes"
                raise RuntimeError(text)  # noqa: TRY301  # or callers would wait for ever
        except asyncio.CancelledError as exc:
            # The event loop is shutting down; no caller may hang on a batch without an end.
            for entry in batch:
                entry.answer(exc)
            raise
        except Exception as exc:  # noqa: BLE001  # it reaches every caller of the batch
            outcomes = [exc] * len(batch)
        try:
            for start in range(0, len(batch), _ANSWERED_AT_ONCE):
                if start:
                    await asyncio.sleep(0)
                stop = start + _ANSWERED_AT_ONCE
                self._answer(batch[start:stop], outcomes[start:stop])
        except asyncio.CancelledError:
            # As above; what has its answer already is passed over.
            self._answer(batch, outcomes)
            raise

    def _answer(
        self, batch: Sequence[Entry[Item, Result]], outcomes: Sequence[Outcome[Result]]
    ) -> None:
        for entry, outcome in zip(batch, outcomes, strict=True):
            if entry.unheard or entry.caller.done() or isinstance(outcome, _SPECIAL):
                if isinstance(outcome, asyncio.Future):
                    self._hold(entry, outcome)
                else:
                    entry.answer(outcome)
            else:
                # What `answer` comes to as a rule, without a call for each caller.
                entry.caller.set_result(outcome)

    def _hold(self, entry: Entry[Item, Result], outcome: asyncio.Future[Result]) -> None:
        hold = self._held.setdefault(entry.key, _Hold())
        hold.unknown += 1

        def release(outcome: asyncio.Future[Result]) -> None:
            if outcome.cancelled():
                entry.answer(asyncio.CancelledError())
            else:
                entry.answer(outcome.exception() or outcome.result())
            hold.unknown -= 1
            if not hold.unknown:
                del self._held[entry.key]
                self._queue.extendleft(reversed(hold.behind))
                if self._queue and self._drainer is None:
                    self._drainer = asyncio.get_running_loop().create_task(self._drain())
                self._note_idle()

        outcome.add_done_callback(release)

    def _note_idle(self) -> None:
        if self._idle is not None and self._drainer is None and not self._held:
            self._idle.set_result(None)
            self._idle = None
