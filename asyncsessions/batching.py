"""Group commit: callers that write at the same time share one round trip.

While one flush is under way, newcomers queue; when it returns, all of them go in the next one.
There is no timer, so a lone caller waits for nobody. The scheme is the group commit of
databases (DeWitt et al., "Implementation Techniques for Main Memory Database Systems", 1984).

Where a store allows it, callers that keep this process busy go in two batches: while the server
works on one of them, this process sees to the other. Many keys are divided between them. One key's
second batch leaves when the first has come back, before all its callers have been told; or, where
the store keeps their order itself, while the first is still under way.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Generic, TypeAlias, TypeVar

import anyio
import msgspec

from asyncsessions.errors import StoreClosedError
from asyncsessions.tasks import start

__all__ = ["Deferred", "Entry", "GroupCommit", "Outcome"]

Item = TypeVar("Item")
Result = TypeVar("Result")

Outcome: TypeAlias = Result | Exception | asyncio.Future[Result]
"""What became of one item: its result, its error, or a future where that isn't known yet."""


class Deferred(asyncio.Future[Result]):
    """An outcome that isn't known yet, and since when its caller waits.

    Attributes:
        since: When it began to wait behind its key, or else this was made; by `time.monotonic`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.since: float = time.monotonic()


# Callers that wake in one turn of the event loop, which takes them several milliseconds together
# where they are some hundred.
_ANSWERED_AT_ONCE = 16
# The fewest keys, or callers of one key, for which a batch of their own pays beside another one.
_FEWEST = 24
# How far a batch that may not take all looks into the queue.
_LOOKED_AT = 4096
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
    # When it began to wait behind its key, by `time.monotonic`; 0 where it didn't.
    since: float = 0.0
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

    __slots__ = ("entry", "item", "key", "since", "size")

    def __init__(self, key: str, item: Item, size: int) -> None:
        self.key = key
        self.item = item
        self.size = size
        self.since = time.monotonic()
        self.entry: asyncio.Future[Entry[Item, Result]]
        self.entry = asyncio.get_running_loop().create_future()


class _Hold(Generic[Item, Result]):
    """What waits behind a key's flush, or behind outcomes that aren't known yet."""

    __slots__ = ("behind", "can_follow", "unknown")

    def __init__(self) -> None:
        self.unknown = 0
        self.behind: deque[Entry[Item, Result]] = deque()
        # Whether all of it may leave before that flush has come back.
        self.can_follow = True


class GroupCommit(Generic[Item, Result]):
    """Collects concurrent items and hands them over in batches.

    Guarantees:

    * Items with the same key are flushed in the order of submission, and never by two flushes at
      the same time, but for those that are chained.
    * An item that fails does so alone.
    * A cancelled item that is still queued is never flushed. One that is under way completes,
      and only then does its caller see the cancellation.
    * The queue is bounded: callers wait for room, first come first served.

    Args:
        flush: Takes the items of one batch and returns one outcome for each, in order. An
            exception that it raises fails the whole batch. Where an outcome is a future, later
            items of that key wait for it while other keys go on; a `Deferred` learns for how
            long its own item did so before.
        max_flushes: How many batches may be flushed at the same time, each with keys of its own,
            where there are enough of them; may change.
        overlaps: Whether a batch may leave while callers of the last one are still to be told,
            where that saves time; may change.
        chained: Types of items of which a batch of one key may leave while the one before it is
            under way, where that saves time; ``flush`` sees to their order. May change.
        max_items: The most items in one batch.
        max_bytes: The most bytes in one batch; a larger item goes alone.
        max_queued_items: How many items may wait before callers do.
        max_queued_bytes: How many bytes may wait before callers do.
    """

    def __init__(
        self,
        flush: Callable[[list[Item]], Awaitable[Sequence[Outcome[Result]]]],
        *,
        max_flushes: int = 1,
        overlaps: bool = False,
        chained: frozenset[type] = frozenset(),
        max_items: int = 512,
        max_bytes: int = 16 << 20,
        max_queued_items: int = 131_072,
        max_queued_bytes: int = 64 << 20,
    ) -> None:
        self._flush = flush
        self.max_flushes = max_flushes
        self.overlaps = overlaps
        self.chained = chained
        self._max_items = max_items
        self._max_bytes = max_bytes
        self._max_queued_items = max_queued_items
        self._max_queued_bytes = max_queued_bytes
        self._queue: deque[Entry[Item, Result]] = deque()
        # How many entries of each key are queued.
        self._keys: dict[str, int] = {}
        # By how many flushes each key is being flushed, where others could be beside them.
        self._busy: dict[str, int] = {}
        self._held: dict[str, _Hold[Item, Result]] = {}
        # Keys that are held no longer, but were while some callers waited for room.
        self._held_lately: set[str] = set()
        # Queued and held entries together.
        self._items = 0
        self._bytes = 0
        self._waiting_for_room: deque[_Turn[Item, Result]] = deque()
        self._drainers = 0
        self._tasks: set[asyncio.Task[None]] = set()
        # How many batches are under way, and of how many that came back the callers are told.
        self._flushing = 0
        self._answering = 0
        # Whether this thread worked rather than waited between the last two batches, and until
        # when that was measured: by the clock, and by what it worked.
        self._is_busy = False
        self._measured = (0.0, 0.0)
        # The key of the batch that left last, if another one of that key may follow it; and whether
        # one is about to.
        self._lead: str | None = None
        self._is_following = False
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
        entry = Entry(key, item, size, asyncio.get_running_loop().create_future())
        self._items += 1
        self._bytes += size
        if (key in self._busy or key in self._held) and key not in self._keys:
            self._park(entry)
            if self.chained and not self._is_following and self._may_follow(key):
                self._is_following = True
                self._start_drainer(self._follow(key))
        else:
            self._queue.append(entry)
            self._keys[key] = self._keys.get(key, 0) + 1
        self._see_to_queue()
        return entry

    def _see_to_queue(self) -> None:
        """Have the queue drained, by one task more if there is enough for another batch."""
        if self._queue and (
            not self._drainers
            or (
                self._drainers < self.max_flushes
                and len(self._keys) >= _FEWEST
                # Or those who are being told would be left out.
                and not self._answering
            )
        ):
            self._start_drainer(self._drain())

    def _start_drainer(self, drainer: Coroutine[Any, Any, None]) -> None:
        self._drainers += 1
        task = start(drainer)
        self._tasks.add(task)
        task.add_done_callback(self._note_drained)

    async def aclose(self) -> None:
        """Refuse new items, and return when every item that was taken has its outcome."""
        self._closed = True
        self._let_in()
        if not self._drainers and not self._held:
            return
        if self._idle is None:
            self._idle = asyncio.get_running_loop().create_future()
        await asyncio.shield(self._idle)

    def _let_in(self) -> None:
        """Queue the items of those who wait, first come first served, as far as there is room."""
        while self._waiting_for_room:
            has_room = self._items < self._max_queued_items and self._bytes < self._max_queued_bytes
            if not (has_room or self._closed):
                return
            turn = self._waiting_for_room.popleft()
            if turn.entry.done():
                continue
            if self._closed:
                turn.entry.set_exception(StoreClosedError())
            else:
                entry = self._put(turn.key, turn.item, turn.size)
                if turn.key in self._held or turn.key in self._held_lately:
                    # It waited behind its key as well.
                    entry.since = turn.since
                turn.entry.set_result(entry)
        self._held_lately.clear()

    async def _drain(self) -> None:
        while self._queue and self._flushing < self.max_flushes:
            entries = self._take()
            self._let_in()
            if entries:
                await self._see_through(entries)
            # Callers that were just answered may submit again before the next batch leaves.
            await asyncio.sleep(0)

    def _may_follow(self, key: str) -> bool:
        """Return whether what waits behind a key's flush may leave before that has come back.

        It saves the time for which the server would wait for it, where this thread is what limits.
        Nobody else may be waiting for a turn.
        """
        hold = self._held.get(key)
        return (
            hold is not None
            and len(hold.behind) >= _FEWEST
            and hold.can_follow
            and not hold.unknown
            and self._lead == key
            and self._flushing == 1
            and self._is_busy
            and not self._answering
            and not self._queue
        )

    async def _follow(self, key: str) -> None:
        """Flush what waits behind a key's flush, and then what is queued."""
        self._is_following = False
        if self._may_follow(key):
            entries = self._take_behind(key)
            self._let_in()
            if entries:
                await self._see_through(entries)
            await asyncio.sleep(0)
        await self._drain()

    def _take_behind(self, key: str) -> list[Entry[Item, Result]]:
        behind = self._held[key].behind
        entries: list[Entry[Item, Result]] = []
        size = 0
        while behind and len(entries) < self._max_items:
            entry = behind[0]
            if entries and size + entry.size > self._max_bytes:
                break
            behind.popleft()
            self._items -= 1
            self._bytes -= entry.size
            if not entry.caller.done():
                size += entry.size
                entry.taken = True
                entries.append(entry)
        return entries

    def _note_drained(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._drainers -= 1
        # Where a drainer was cancelled, others may still wait.
        self._see_to_queue()
        self._note_idle()

    def _take(self) -> list[Entry[Item, Result]]:
        """Return what goes in the next batch: of many keys a share, of few all there is."""
        keys = len(self._keys) + len(self._busy)
        shares = max(min(keys // _FEWEST, self.max_flushes), 1)
        is_all = shares == 1 and not self._busy and not self._held
        if is_all and self._items <= self._max_items and self._bytes <= self._max_bytes:
            entries = [entry for entry in self._queue if not entry.caller.done()]
            self._queue.clear()
            self._keys.clear()
            self._items = self._bytes = 0
        else:
            entries = self._take_some(-(-keys // shares))
        for entry in entries:
            entry.taken = True
        return entries

    def _take_some(self, most_keys: int) -> list[Entry[Item, Result]]:
        entries: list[Entry[Item, Result]] = []
        keys: set[str] = set()
        size = 0
        passed_over: list[Entry[Item, Result]] = []
        for _ in range(min(len(self._queue), _LOOKED_AT)):
            entry = self._queue[0]
            is_full = len(entries) == self._max_items or size + entry.size > self._max_bytes
            if entries and is_full:
                break
            self._queue.popleft()
            key = entry.key
            if key in self._busy or key in self._held:
                self._uncount(key)
                self._park(entry)
            elif key not in keys and len(keys) == most_keys:
                passed_over.append(entry)
            else:
                keys.add(key)
                self._uncount(key)
                self._items -= 1
                self._bytes -= entry.size
                if not entry.caller.done():
                    size += entry.size
                    entries.append(entry)
        self._queue.extendleft(reversed(passed_over))
        return entries

    def _uncount(self, key: str) -> None:
        """Note that an entry with a key has left the queue."""
        count = self._keys.pop(key) - 1
        if count:
            self._keys[key] = count

    def _park(self, entry: Entry[Item, Result]) -> None:
        """Let an entry wait for its key; all that are queued with that key came later."""
        entry.since = entry.since or time.monotonic()
        hold = self._held.get(entry.key)
        if hold is None:
            hold = self._held[entry.key] = _Hold()
        hold.behind.append(entry)
        if type(entry.item) not in self.chained:
            hold.can_follow = False

    def _unpark(self, key: str) -> None:
        """Queue what waits for a key, unless that has to wait for something else."""
        hold = self._held.get(key)
        if hold is None or hold.unknown:
            return
        del self._held[key]
        if self._waiting_for_room:
            self._held_lately.add(key)
        if hold.behind:
            self._queue.extendleft(reversed(hold.behind))
            self._keys[key] = self._keys.get(key, 0) + len(hold.behind)
            self._see_to_queue()

    async def _see_through(self, entries: Sequence[Entry[Item, Result]]) -> None:
        """Flush a batch and answer its callers."""
        items = [entry.item for entry in entries]
        if self.max_flushes > 1:
            keys = {entry.key for entry in entries}
            for key in keys:
                self._busy[key] = self._busy.get(key, 0) + 1
            self._lead = None
            if len(keys) == 1 and len(items) >= _FEWEST:
                self._lead = entries[0].key if self.chained.issuperset(map(type, items)) else None
        # Where the event loop shuts down, no caller may hang on a batch without an end.
        outcomes: Sequence[Outcome[Result] | BaseException]
        outcomes = [asyncio.CancelledError()] * len(entries)
        try:
            self._flushing += 1
            self._measure(entries)
            try:
                outcomes = await self._flush_batch(items)
            finally:
                self._flushing -= 1
                self._answering += 1
                self._note_flushed(entries, outcomes)
            for start in range(0, len(entries), _ANSWERED_AT_ONCE):
                if start:
                    await asyncio.sleep(0)
                self._overlap(len(entries) - start)
                stop = start + _ANSWERED_AT_ONCE
                _answer(entries[start:stop], outcomes[start:stop])
        except BaseException:
            # What has its answer already is passed over.
            _answer(entries, outcomes)
            raise
        finally:
            self._answering -= 1

    def _measure(self, entries: Sequence[Entry[Item, Result]]) -> None:
        """Note whether this thread is busy, as a batch that could have been two leaves."""
        if not self.overlaps or len(entries) < _FEWEST:
            return
        now, worked = time.perf_counter(), time.thread_time()
        last, had_worked = self._measured
        self._is_busy = 2 * (worked - had_worked) > now - last
        self._measured = (now, worked)

    def _overlap(self, untold: int) -> None:
        """Let the next batch leave while the callers of the last one are being told.

        Two batches in turn cost the fixed time of one more flush, and save the time that this
        thread works, which it then does while a flush is under way. That is worth it where it
        works for more than half of the time.
        """
        queued = len(self._queue)
        are_enough = queued >= untold and queued + untold >= 2 * _FEWEST
        if self._is_busy and are_enough and not self._flushing:
            self._start_drainer(self._drain())

    async def _flush_batch(self, items: list[Item]) -> Sequence[Outcome[Result]]:
        try:
            outcomes = await self._flush(items)
            if len(outcomes) != len(items):
                text = f"a flush of {len(items)} items returned {len(outcomes)} outcomes"
                raise RuntimeError(text)  # noqa: TRY301  # or callers would wait for ever
        except Exception as exc:  # noqa: BLE001  # it reaches every caller of the batch
            return [exc] * len(items)
        return outcomes

    def _note_flushed(
        self,
        entries: Sequence[Entry[Item, Result]],
        outcomes: Sequence[Outcome[Result] | BaseException],
    ) -> None:
        """Let go on what waited for this flush, unless an outcome isn't known yet."""
        for entry, outcome in zip(entries, outcomes, strict=True):
            if isinstance(outcome, asyncio.Future):
                self._hold(entry, outcome)
        if self._busy:
            # The last one first, so that the first one is in front again.
            for key in dict.fromkeys(entry.key for entry in reversed(entries)):
                others = self._busy.pop(key, 1) - 1
                if others:
                    self._busy[key] = others
                else:
                    self._unpark(key)

    def _hold(self, entry: Entry[Item, Result], outcome: asyncio.Future[Result]) -> None:
        """Let an entry's key wait until its outcome is known, and answer it then."""
        hold = self._held.setdefault(entry.key, _Hold())
        hold.unknown += 1
        if isinstance(outcome, Deferred) and entry.since:
            outcome.since = entry.since

        def release(outcome: asyncio.Future[Result]) -> None:
            if outcome.cancelled():
                entry.answer(asyncio.CancelledError())
            else:
                entry.answer(outcome.exception() or outcome.result())
            hold.unknown -= 1
            self._unpark(entry.key)
            self._note_idle()

        outcome.add_done_callback(release)

    def _note_idle(self) -> None:
        if self._idle is not None and not self._drainers and not self._held:
            self._idle.set_result(None)
            self._idle = None


def _answer(
    entries: Sequence[Entry[Item, Result]], outcomes: Sequence[Outcome[Result] | BaseException]
) -> None:
    """Answer callers, but for those whose outcome isn't known yet."""
    for entry, outcome in zip(entries, outcomes, strict=True):
        if entry.unheard or entry.caller.done() or isinstance(outcome, _SPECIAL):
            if not isinstance(outcome, asyncio.Future):
                entry.answer(outcome)
        else:
            # What `answer` comes to as a rule, without a call for each caller.
            entry.caller.set_result(outcome)
