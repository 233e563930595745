"""What is appended."""

from __future__ import annotations

import time

from asyncsessions.codec import encode_json
from asyncsessions.models import Message

__all__ = ["METADATA", "TEXT", "body", "messages"]

TEXT = ("The quick brown fox jumps over the lazy dog. " * 5)[:200]
METADATA = {
    "channel": "telegram",
    "message_id": "1234567890",
    "language": "en",
    "user": "user-000042-of-the-benchmark",
}


def messages(count: int) -> list[Message]:
    """Return so many messages of 400 bytes, as they are stored."""
    return [Message("user", TEXT, 0.0, METADATA) for _ in range(count)]


def body(text: str = TEXT) -> bytes:
    """Return a message as a program without a store would encode it."""
    return encode_json(
        {"role": "user", "content": text, "timestamp": time.time(), "metadata": METADATA}
    )
