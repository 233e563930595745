"""Wakes an event loop at a moment, more exactly than its own timers do."""

from __future__ import annotations

import asyncio
import ctypes
import os
import sys
import time
from typing import Self

__all__ = ["Alarm"]

_CLOCK_MONOTONIC = 1
_ABSOLUTE = 1


class _Time(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _Setting(ctypes.Structure):
    _fields_ = (("interval", _Time), ("first", _Time))


class Alarm:
    """A timer of the system's (`timerfd`) that an event loop waits for as it does for a socket.

    The loop's own timers are up to a millisecond late. To stay awake instead would take the
    interpreter from the threads of those that are measured. Only Linux is supported; elsewhere the
    loop's own timers are used.
    """

    def __init__(self) -> None:
        self._fd = -1
        self._rings = asyncio.Event()

    async def __aenter__(self) -> Self:
        if sys.platform == "linux":
            # Its calls take a microsecond, and so don't give up the interpreter, as others do.
            self._libc = ctypes.PyDLL(None, use_errno=True)
            flags = os.O_NONBLOCK | os.O_CLOEXEC
            self._fd = _checked(self._libc.timerfd_create(_CLOCK_MONOTONIC, flags))
            asyncio.get_running_loop().add_reader(self._fd, self._ring)
        return self

    async def __aexit__(self, *exc: object) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            asyncio.get_running_loop().remove_reader(fd)
            os.close(fd)

    def _ring(self) -> None:
        try:
            os.read(self._fd, 8)
        except BlockingIOError:
            return  # It was for a moment that nobody waits for any more.
        self._rings.set()

    async def until(self, moment: float) -> None:
        """Wait until a moment of `time.monotonic`, which may be over."""
        if self._fd < 0:
            await asyncio.sleep(moment - time.monotonic())
            return
        self._rings.clear()
        whole, part = divmod(max(int(moment * 1e9), 1), 10**9)
        setting = ctypes.byref(_Setting(_Time(0, 0), _Time(whole, part)))
        _checked(self._libc.timerfd_settime(self._fd, _ABSOLUTE, setting, None))
        await self._rings.wait()


def _checked(returned: int) -> int:
    if returned < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return returned
