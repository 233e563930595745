"""Calls of several steps that a cancelled caller sees through."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec, TypeVar

import anyio

__all__ = ["whole"]

T = TypeVar("T")
P = ParamSpec("P")


def whole(
    call: Callable[P, Coroutine[Any, Any, T]],
) -> Callable[P, Coroutine[Any, Any, T]]:
    """Return the same call, of which a cancellation of its caller leaves all or nothing.

    What stops half-way leaves notes of readers that never came to be, and the messages that they
    would have read.
    """

    @functools.wraps(call)
    async def settled(*args: P.args, **kwargs: P.kwargs) -> T:
        task = asyncio.get_running_loop().create_task(call(*args, **kwargs))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            with anyio.CancelScope(shield=True):
                await asyncio.wait([task])
            if not task.cancelled():
                task.exception()  # Marks it as seen; the caller learns of the cancellation.
            raise

    return settled
