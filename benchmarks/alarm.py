"""Wakes an event loop at a moment, more exactly than its own timers do."""

from __future__ import annotations

import asyncio
import ctypes
import os
import sys
from contextlib import suppress
from typing import Self

__all__ = ["Alarm"]

_MONOTONIC = 1


class _Time(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _Setting(ctypes.Structure):
    _fields_ = (("interval", _Time), ("first", _Time))


class Alarm:
    """A timer of the system's that an event loop waits for as it does for a socket.

    The loop's own timers are up to a millisecond late. To stay awake instead would take the
    interpreter from the threads of those that are measured. Where the system has no such timer, as
    only Linux does, the loop's own must do.
    """

    def __init__(self) -> None:
        self._fd = -1

    async def __aenter__(self) -> Self:
        if sys.platform == "linux":
            self._libc = ctypes.CDLL(None, use_errno=True)
            self._fd = self._libc.timerfd_create(_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
            if self._fd < 0:
                raise OSError(ctypes.get_errno(), "no timer")
            self._rings = asyncio.Event()
            asyncio.get_running_loop().add_reader(self._fd, self._ring)
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._fd >= 0:
            asyncio.get_running_loop().remove_reader(self._fd)
            os.close(self._fd)

    def _ring(self) -> None:
        with suppress(BlockingIOError):
            os.read(self._fd, 8)
        self._rings.set()

    async def sleep(self, seconds: float) -> None:
        """Return in so many seconds, which are more than none."""
        if self._fd < 0:
            await asyncio.sleep(seconds)
            return
        self._rings.clear()
        whole, part = divmod(max(int(seconds * 1e9), 1), 10**9)
        setting = _Setting(_Time(0, 0), _Time(whole, part))
        if self._libc.timerfd_settime(self._fd, 0, ctypes.byref(setting), None):
            raise OSError(ctypes.get_errno(), "the timer can't be set")
        await self._rings.wait()
