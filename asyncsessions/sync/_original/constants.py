"""The limits and retentions that PraisonAI's store has by default, under its names."""

from __future__ import annotations

from typing import Final

__all__ = [
    "ARCHIVE_WARN_THRESHOLD",
    "DEFAULT_CACHE_MAXSIZE",
    "DEFAULT_LOCK_TIMEOUT",
    "DEFAULT_MAX_MESSAGES",
    "DEFAULT_MIRROR_MAX_RETRIES",
    "DEFAULT_MIRROR_QUEUE_SIZE",
    "DEFAULT_RETENTION",
    "RETENTION_COMPACT",
    "RETENTION_KEEP_ALL",
    "RETENTION_TRUNCATE",
]

DEFAULT_MAX_MESSAGES: Final = 100
DEFAULT_LOCK_TIMEOUT: Final = 5.0
"""In seconds."""

RETENTION_COMPACT: Final = "compact"
RETENTION_TRUNCATE: Final = "truncate"
RETENTION_KEEP_ALL: Final = "keep_all"
DEFAULT_RETENTION: Final = RETENTION_COMPACT

DEFAULT_MIRROR_QUEUE_SIZE: Final = 1000
"""How many writes may wait for a mirror."""
DEFAULT_MIRROR_MAX_RETRIES: Final = 3
"""How often a mirror is given the same records."""

# For programs that import them: there is no cache, and an append costs the same beside any archive.
DEFAULT_CACHE_MAXSIZE: Final = 256
ARCHIVE_WARN_THRESHOLD: Final = 10_000
