"""PraisonAI's documents, read and changed as a whole; for what no async store has."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from anyio import to_thread

from asyncsessions.batching import GroupCommit, Outcome
from asyncsessions.errors import CorruptSessionError
from asyncsessions.requests import Policy
from asyncsessions.stores._docformat import RESERVED
from asyncsessions.stores._docplace import names_of, read_place
from asyncsessions.stores._document import Document
from asyncsessions.stores._documentfile import Edit
from asyncsessions.stores.json import JSONSessionStore
from asyncsessions.sync._original.failures import Failure, report
from asyncsessions.sync._original.spilling import write_spill

__all__ = ["EditableStore"]

T = TypeVar("T")

# A function has no size, and few of them wait.
_EDIT_BYTES = 1000

logger: logging.Logger = logging.getLogger("asyncsessions.json")

_decode_object = msgspec.json.Decoder(dict[str, Any]).decode


class EditableStore(JSONSessionStore):
    """A JSON store that also hands out its documents, to functions that run in a thread.

    Changes that come at the same time are made in one write, as appends are.
    """

    def __init__(self, directory: str | os.PathLike[str], **options: Any) -> None:
        super().__init__(directory, **options)
        self._edits: GroupCommit[Edit, bool | None] = GroupCommit(self._flush_edits)

    async def view(self, session_id: str, read: Callable[[Document], T]) -> T | None:
        """Return what a function returns for a document, which it leaves as it is.

        Returns:
            None where there is no session, or it has expired.
        """

        async def view(policy: Policy) -> T | None:
            def read_current(document: Document) -> T | None:
                return None if document.own.is_expired(policy.clock()) else read(document)

            return await self._in_thread(self._read, session_id, read_current)

        return await self._perform(session_id, view)

    async def edit(
        self, session_id: str, change: Callable[[Document], Document | None], **options: bool
    ) -> bool:
        """Change a document in any way, under the lock; see `Edit`, for the options too.

        Returns:
            Whether it was the function's to change.
        """

        async def edit(policy: Policy) -> bool:
            now, keep, ttl = policy.clock(), policy.max_messages, policy.ttl_seconds
            request = Edit(session_id, change, now, keep, ttl, **options)
            return bool(await self._edits.submit(session_id, request, _EDIT_BYTES))

        return await self._perform(session_id, edit)

    async def _flush_edits(self, batch: list[Edit]) -> Sequence[Outcome[bool | None]]:
        return await self._flush("edit", batch, creates=False)

    async def spill(self, session_id: str, message: Mapping[str, Any], spills: Path) -> Path | None:
        """Keep a message that can't be written to its document; see `write_spill`."""
        lock = self.directory / names_of(session_id).lock
        # In no thread of the store's, which may be unavailable as a whole.
        return await to_thread.run_sync(write_spill, spills, session_id, message, lock)

    async def make_directory(self) -> None:
        """Make the directory, if it is missing by now."""
        try:
            await self._in_thread(self._make_directory)
        except OSError as exc:
            raise self._failure(exc, None) from exc

    async def scan(self, visit: Callable[[dict[str, Any]], T | None], *, strict: bool) -> list[T]:
        """Call a function, in a thread, with what each document holds; see `Backing.scan`."""
        await self.__aenter__()  # Opens it unless it is open, as each call does.
        damaged: list[Failure] = []
        try:
            return await self._in_thread(self._scan_all, visit, strict, damaged)
        except OSError as exc:
            raise self._failure(exc, None) from exc
        finally:
            for failure in damaged:
                await report(failure)

    def _scan_all(
        self,
        visit: Callable[[dict[str, Any]], T | None],
        strict: bool,  # noqa: FBT001  # called in a thread, by position
        damaged: list[Failure],
    ) -> list[T]:
        found = (visit(data) for data in self._plain_documents(damaged, strict=strict))
        return [each for each in found if each is not None]

    def _plain_documents(self, damaged: list[Failure], *, strict: bool) -> Iterator[dict[str, Any]]:
        names = sorted(os.listdir(self.directory))  # noqa: PTH208  # raises where it is missing
        for path in [self.directory / name for name in names if name.endswith(".json")]:
            try:
                place = read_place(self._disk, path)
                if place.damage is not None:
                    raise place.damage
                data = None if place.data is None else _plain(place.data, self.policy.clock())
            except (ValueError, OSError) as exc:
                if isinstance(exc, ValueError):
                    damaged.append(Failure(path.stem, f"corrupt session file: {exc}"))
                if strict:
                    raise CorruptSessionError(str(exc), path=str(path)) from exc
                logger.warning("left out: %s can't be read", path)
                continue
            if data is not None:  # Else it was removed just now, or has expired.
                data.setdefault("session_id", path.stem)
                yield data


def _plain(data: bytes, now: float) -> dict[str, Any] | None:
    """Return a document without what is this library's own; None where it has expired."""
    try:
        document = _decode_object(data)
    except msgspec.DecodeError:
        # What only the standard library takes, such as NaN.
        document = json.loads(data)
    if _is_expired(document, now):
        return None
    for holder in (document, *(document.get("messages") or ())):
        metadata = holder.get("metadata") if isinstance(holder, dict) else None
        if isinstance(metadata, dict):
            metadata.pop(RESERVED, None)
    return document


def _is_expired(document: Any, now: float) -> bool:
    metadata = document.get("metadata") if isinstance(document, dict) else None
    own = metadata.get(RESERVED) if isinstance(metadata, dict) else None
    # A fork that PraisonAI made has a copy, which says nothing about it.
    if not isinstance(own, dict) or own.get("session_id") != document.get("session_id"):
        return False
    expires_at = own.get("expires_at")
    return isinstance(expires_at, int | float) and expires_at <= now
