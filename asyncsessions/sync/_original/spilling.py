"""Messages that couldn't be written to their document, kept where PraisonAI keeps its own."""

from __future__ import annotations

import json
import logging
import os
import secrets
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from asyncsessions.stores._disk import Disk
from asyncsessions.stores._docplace import names_of
from asyncsessions.sync.records import iso_now

__all__ = ["write_spill"]

logger: logging.Logger = logging.getLogger("asyncsessions.sync")


def write_spill(
    spills: Path, session_id: str, message: Mapping[str, Any], lock: Path
) -> Path | None:
    """Keep a message in a file of its own, durably; whoever reads the session takes it over.

    That may be PraisonAI as well as this library. What can't be kept here either is logged.

    Args:
        spills: PraisonAI's directory of such files; made if missing.
        session_id: The session.
        message: The message, as a document would hold it.
        lock: The file of the session's lock; its time says that the session is of its directory.

    Returns:
        Where it is; None where it can't be kept.
    """
    spilled = {"session_id": session_id, "spilled_at": iso_now(), "messages": [message]}
    primary = names_of(session_id).primary
    if primary is None:
        return None  # PraisonAI could never have it.
    safe = primary.removesuffix(".json")
    path = (
        spills / f"{safe}.{time.time_ns() // 1_000_000}.{os.getpid()}.{secrets.token_hex(4)}.json"
    )
    try:
        data = json.dumps(spilled, ensure_ascii=False).encode()
        spills.mkdir(parents=True, exist_ok=True)
        _write(path, data)
    except (OSError, TypeError, ValueError) as exc:
        logger.error("a message of %r is lost: %s", session_id, type(exc).__name__)  # noqa: TRY400  # it may quote the message
        return None
    with suppress(OSError):
        # Two times that differ, as PraisonAI leaves them; equal ones would say that the lock's file
        # was made just now, and so after what was spilled before.
        os.utime(lock, (0, time.time()))
    return path


def _write(path: Path, data: bytes) -> None:
    disk = Disk()
    fd, temp = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
    try:
        try:
            disk.write(fd, data, 0)
            disk.sync(fd)
        finally:
            disk.close(fd)
        disk.replace(Path(temp), path)
    except BaseException:
        with suppress(OSError):
            disk.unlink(Path(temp))
        raise
    disk.sync_directory(path.parent)
