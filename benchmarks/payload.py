"""What is appended, and what a program without a store would do instead."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable
from pathlib import Path

from asyncsessions.codec import encode_json
from asyncsessions.models import Message
from benchmarks.measure import Case

__all__ = ["METADATA", "TEXT", "body", "messages", "naive_case"]

TEXT = ("The quick brown fox jumps over the lazy dog. " * 5)[:200]
METADATA = {
    "channel": "telegram",
    "message_id": "1234567890",
    "language": "en",
    "user": "user-000042-of-the-benchmark",
}


def messages(count: int) -> list[Message]:
    return [Message("user", TEXT, 0.0, METADATA) for _ in range(count)]


def body() -> bytes:
    """Return the message as a program without a store would encode it."""
    return encode_json(
        {"role": "user", "content": TEXT, "timestamp": time.time(), "metadata": METADATA}
    )


def _append_line(path: Path, *, is_synced: bool) -> None:
    line = body() + b"\n"
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(fd, line)
        if is_synced:
            os.fdatasync(fd)
    finally:
        os.close(fd)


def naive_case(directory: Path, *, callers: int, sessions: int, is_synced: bool) -> Case:
    """Return the reference: each append opens, writes, syncs and closes in one thread hop."""
    paths = [directory / f"{number}.jsonl" for number in range(sessions)]

    def append(number: int) -> Awaitable[None]:
        return asyncio.to_thread(_append_line, paths[number % sessions], is_synced=is_synced)

    async def stored() -> int:
        return await asyncio.to_thread(_count_lines, paths)

    return Case("one thread hop per append", callers, append, stored)


def _count_lines(paths: list[Path]) -> int:
    return sum(path.read_bytes().count(b"\n") for path in paths)
