"""Copies of new messages for a mirror, handed over by a thread that nobody waits for."""

from __future__ import annotations

import copy
import json
import logging
import queue
import threading
import time
from collections.abc import Sequence
from typing import Any, Protocol

from asyncsessions._forks import renew_in_children
from asyncsessions.sync._original.constants import (
    DEFAULT_MIRROR_MAX_RETRIES,
    DEFAULT_MIRROR_QUEUE_SIZE,
)
from asyncsessions.sync.records import SessionMessage

__all__ = ["Mirror", "MirrorWriter"]

logger: logging.Logger = logging.getLogger("asyncsessions.mirror")

_FIRST_DELAY = 0.05
_LAST_DELAY = 1.0
# How often the thread looks whether it is to end.
_IDLE_SECONDS = 0.25
_CLOSE_SECONDS = 5.0


class Mirror(Protocol):
    """What gets a copy of each message; see PraisonAI's ``SessionMirrorProtocol``."""

    def append(self, session_id: str, records: list[dict[str, Any]]) -> None:
        """Take over records; one with an ``id`` that was there before replaces it."""


class MirrorWriter:
    """Hands records to a mirror in a daemon thread, in order.

    Neither a slow mirror nor one that fails delays a write or makes it fail. What doesn't fit into
    the queue, and what the mirror refuses three times, is dropped and logged.
    """

    def __init__(self, mirror: Mirror) -> None:
        self._mirror = mirror
        self._closing = threading.Event()
        self.renew()
        renew_in_children(self)

    def renew(self) -> None:
        """Begin with an empty queue, as also a forked child does: its parent hands over its own."""
        self._queue: queue.Queue[tuple[str, list[dict[str, Any]]]] = queue.Queue(
            DEFAULT_MIRROR_QUEUE_SIZE
        )
        if not self._closing.is_set():
            name = "asyncsessions-mirror"
            self._thread = threading.Thread(target=self._work, name=name, daemon=True)
            self._thread.start()

    def put(self, session_id: str, messages: Sequence[SessionMessage]) -> None:
        """Queue copies of stored messages; returns at once."""
        records = [record for message in messages for record in _records(session_id, message)]
        if not records:
            return
        reason = "it is closed"
        if not self._closing.is_set():
            try:
                self._queue.put_nowait((session_id, records))
            except queue.Full:
                reason = "its queue is full"
            else:
                return
        logger.warning("%d records of %r aren't mirrored: %s", len(records), session_id, reason)

    def flush(self, timeout: float | None = None) -> bool:
        """Wait until the mirror has all records so far; return False if that takes too long."""
        done = self._queue.all_tasks_done
        with done:
            return done.wait_for(lambda: not self._queue.unfinished_tasks, timeout)

    def close(self) -> None:
        """Hand over what is queued, as far as that takes seconds, and end the thread."""
        self._closing.set()
        self._thread.join(_CLOSE_SECONDS)

    def _work(self) -> None:
        while not self._closing.is_set() or not self._queue.empty():
            try:
                session_id, records = self._queue.get(timeout=_IDLE_SECONDS)
            except queue.Empty:
                continue
            try:
                self._hand_over(session_id, records)
            finally:
                self._queue.task_done()

    def _hand_over(self, session_id: str, records: list[dict[str, Any]]) -> None:
        delay = _FIRST_DELAY
        for left in reversed(range(DEFAULT_MIRROR_MAX_RETRIES)):
            try:
                # A copy, because a mirror may change it before it fails.
                self._mirror.append(session_id, copy.deepcopy(records))
            except Exception as exc:  # noqa: BLE001  # whatever it is, no writer is to notice
                if not left:
                    logger.error("the mirror refused records of %r: %r", session_id, type(exc))  # noqa: TRY400  # it may hold content
                    return
                time.sleep(delay)
                delay = min(_LAST_DELAY, delay * 2)
            else:
                return


def _records(session_id: str, message: SessionMessage) -> list[dict[str, Any]]:
    try:
        record = json.loads(json.dumps(message.to_dict()))
    except (TypeError, ValueError):
        logger.warning("a message of %r isn't mirrored: it isn't JSON", session_id)
        return []
    record.setdefault("id", f"{session_id}:{message.timestamp}")
    return [record | {"session_id": session_id}]
