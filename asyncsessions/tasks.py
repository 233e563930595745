"""Tasks that work for many callers, or go on without the one who began them."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextvars import Context
from typing import Any, TypeVar

__all__ = ["start"]

T = TypeVar("T")


def start(work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    """Start a task without the context variables of whoever happens to start it.

    In them a driver may keep a deadline or a transaction, which is not for other callers' writes.
    """
    return asyncio.get_running_loop().create_task(work, context=Context())
