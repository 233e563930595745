"""Files of sessions as async streams: JSON Lines, and what PraisonAI writes.

A JSON Lines file has one object ``{"session_id": ..., "messages": [...], ...}`` on each line, as
`SessionStore.export_all` gives and `SessionStore.import_sessions` takes it::

    await write_sessions("backup.jsonl", store.export_all())
    await store.import_sessions(read_sessions("backup.jsonl"))
"""

from __future__ import annotations

import itertools
import logging
import os
import re
import secrets
import stat
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Callable,
    Iterable,
    Iterator,
    Mapping,
)
from contextlib import aclosing
from pathlib import Path
from typing import Any, Protocol

import aiofiles
import anyio
import anyio.to_thread
import msgspec

from asyncsessions._praisonai import Directory, from_praisonai
from asyncsessions._praisonai.database import is_database
from asyncsessions._praisonai.parsing import BOM, checked, fail, kind, parse
from asyncsessions.codec import decode_json, encode_json
from asyncsessions.errors import SessionFileError

__all__ = ["read_sessions", "write_sessions"]

logger: logging.Logger = logging.getLogger("asyncsessions.streams")

_BLOCK = 1 << 18
# Files of a directory that are looked at without a pause.
_STEPS = 256
# Larger objects are parsed and encoded in a thread, so that the event loop never waits for them.
_INLINE_BYTES = 1 << 15
_INLINE_MESSAGES = 100
_FIRST_KEY = re.compile(rb'"(sessions|session_id|messages)"\s*:')
_STORE_FILE = b'{"asyncsessions":'


class _Readable(Protocol):
    async def read(self, size: int = -1, /) -> bytes: ...


class _Document(msgspec.Struct):
    sessions: list[msgspec.Raw] | msgspec.UnsetType = msgspec.UNSET


OnProgress = Callable[[int], object]
OnDamaged = Callable[[SessionFileError], object]
OnNote = Callable[[str], object]


async def read_sessions(
    path: str | os.PathLike[str],
    *,
    on_progress: OnProgress | None = None,
    on_damaged: OnDamaged | None = None,
    on_note: OnNote | None = None,
) -> AsyncGenerator[dict[str, Any], None]:
    """Iterate over the sessions of a file or directory, in their order there.

    Args:
        path: A JSON Lines file, read in bounded memory; or a JSON document with the list of
            sessions under ``sessions``, of which the text is held in memory as a whole; or what
            PraisonAI writes: a directory of sessions, or a ``sessions.db``.
        on_progress: Called with the number of bytes that were read since the last call.
        on_damaged: Called for each file of a directory, or row of a database, that can't be
            read, which is then left out; without it, a warning is logged.
        on_note: Called with what there is to know of the others, such as that an id was in two
            places; without it, that is logged.

    Raises:
        SessionFileError: A line or the document isn't what it should be; names the line.
        OSError: The file can't be read.
    """
    source = Path(path)
    report = on_progress or _ignore
    if await anyio.to_thread.run_sync(_is_praisonai, source):
        stream = _read_directory(source, report, on_damaged or _log_damaged, on_note or _log_note)
    else:
        stream = _read_file(source, report)
    async with aclosing(stream):
        async for record in stream:
            yield record


def _is_praisonai(source: Path) -> bool:
    return source.is_dir() or (source.is_file() and is_database(source))


def _ignore(_: int) -> None:
    return None


async def _read_file(path: Path, report: OnProgress) -> AsyncGenerator[dict[str, Any], None]:
    async with aiofiles.open(path, "rb") as file, aclosing(_lines(file, report)) as lines:
        is_first = True
        async for number, line in lines:
            text = line.strip()
            if not text:
                continue
            if is_first and _starts_document(text):
                rest = b"".join([part async for _, part in lines])
                for data in await _read_document(path, b"\n" * (number - 1) + line + rest):
                    for record in await anyio.to_thread.run_sync(_converted, data, path):
                        yield record
                return
            is_first = False
            yield await _decode_line(text, path, number)


async def _lines(file: _Readable, report: OnProgress) -> AsyncGenerator[tuple[int, bytes], None]:
    """Iterate over the lines of a file, numbered from 1, with their ends."""
    number = 0
    # Pieces of a line longer than a block, joined only when it ends.
    pieces: list[bytes] = []
    while block := await file.read(_BLOCK):
        report(len(block))
        for line in _split(block):
            pieces.append(line)
            if line.endswith(b"\n"):
                number += 1
                whole = b"".join(pieces)
                yield number, whole.removeprefix(BOM) if number == 1 else whole
                pieces.clear()
    if pieces:
        number += 1
        whole = b"".join(pieces)
        yield number, whole.removeprefix(BOM) if number == 1 else whole


def _split(block: bytes) -> list[bytes]:
    """Return a block's lines with their ends; only a line feed ends one."""
    *lines, rest = block.split(b"\n")
    ended = [line + b"\n" for line in lines]
    return [*ended, rest] if rest else ended


def _starts_document(first: bytes) -> bool:
    """Whether a file is one JSON document, by its first line that isn't blank."""
    if first == b"{":
        return True
    key = _FIRST_KEY.search(first[:4096])
    return key is not None and key[1] == b"sessions"


async def _decode_line(text: bytes, path: Path, number: int) -> dict[str, Any]:
    try:
        if len(text) > _INLINE_BYTES:
            record = await anyio.to_thread.run_sync(decode_json, text)
        else:
            record = decode_json(text)
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        detail = f"this line isn't JSON ({exc}); correct or remove it"
        raise SessionFileError(detail, path=str(path), line=number) from exc
    except RecursionError as exc:
        detail = "this line is nested too deep; correct or remove it"
        raise SessionFileError(detail, path=str(path), line=number) from exc
    if text.startswith(_STORE_FILE):
        fail("this is a file of a jsonl:// store; export that store instead", path, number)
    return checked(record, path, number)


async def _read_document(path: Path, data: bytes) -> list[Any]:
    return await anyio.to_thread.run_sync(_split_document, path, data)


def _split_document(path: Path, data: bytes) -> list[Any]:
    """Return the sessions of a document, each still encoded where that is possible."""
    try:
        document = msgspec.json.decode(data, type=_Document)
        if isinstance(document.sessions, list):
            return document.sessions
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        # PraisonAI writes NaN as it is, which only the slower parser takes.
        pass
    whole = parse(data, path)
    if isinstance(whole, dict) and "sessions" in whole:
        if not isinstance(whole["sessions"], list):
            fail(f'"sessions" is a list, not {kind(whole["sessions"])}', path, None)
        return list(whole["sessions"])
    return [whole]


def _converted(record: Any, path: Path) -> list[dict[str, Any]]:
    if isinstance(record, msgspec.Raw):
        record = parse(bytes(record), path)
    return from_praisonai(checked(record, path, None))


async def _read_directory(
    path: Path, report: OnProgress, on_damaged: OnDamaged, on_note: OnNote
) -> AsyncGenerator[dict[str, Any], None]:
    directory = await anyio.to_thread.run_sync(Directory, path)
    try:
        steps = directory.look_through()
        while await anyio.to_thread.run_sync(_advance, steps):
            pass
        if directory.is_empty:
            where = path / "sessions"
            hint = where if await anyio.to_thread.run_sync(where.is_dir) else "another directory"
            fail(f"this directory holds no sessions; give a file or {hint}", path, None)
        found = iter(directory)
        while True:
            records, size = await anyio.to_thread.run_sync(next, found, (None, 0))
            _tell(directory, on_damaged, on_note)
            if records is None:
                break
            report(size)
            for record in records:
                yield record
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(directory.close)


def _advance(steps: Iterator[None]) -> bool:
    """Take some steps, so that a cancelled caller needn't wait for all; whether there are more."""
    return sum(1 for _ in itertools.islice(steps, _STEPS)) == _STEPS


def _tell(directory: Directory, on_damaged: OnDamaged, on_note: OnNote) -> None:
    """Pass on what a directory has to say, from the event loop's thread."""
    for error in directory.damaged:
        on_damaged(error)
    for note in directory.notes:
        on_note(note)
    directory.damaged.clear()
    directory.notes.clear()


def _log_damaged(error: SessionFileError) -> None:
    logger.warning("left out: %s", error)


def _log_note(note: str) -> None:
    logger.info("%s", note)


async def write_sessions(
    path: str | os.PathLike[str],
    records: AsyncIterable[Mapping[str, Any]] | Iterable[Mapping[str, Any]],
) -> int:
    """Write sessions to a JSON Lines file and return how many they were.

    The file appears, whole and durable, when this returns; until then, and where it fails, an
    older file of that name stays as it is. A new file can be read by its owner only.

    Args:
        path: The file. What isn't a regular file (a pipe, a device) is written to directly.
        records: Sessions as `SessionStore.export_all` gives them; later parts of a long session
            are written, but not counted.

    Raises:
        OSError: The file can't be written.
    """
    target, is_special = await anyio.to_thread.run_sync(_resolve, Path(path))
    if is_special:
        async with aiofiles.open(target, "wb") as file:
            return await _write_all(file, records)
    draft = target.with_name(f".{target.name[:200]}.{secrets.token_hex(4)}.tmp")
    try:
        async with aiofiles.open(draft, "xb", opener=_open_private) as file:
            count = await _write_all(file, records)
            await file.flush()
            await anyio.to_thread.run_sync(os.fsync, file.fileno())
        await anyio.to_thread.run_sync(_publish, draft, target)
    except BaseException:
        # Also where the task was cancelled, which would stop this await, too.
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(_discard, draft)
        raise
    return count


def _resolve(path: Path) -> tuple[Path, bool]:
    target = path.resolve()
    try:
        mode = target.stat().st_mode
    except FileNotFoundError:
        return target, False
    return target, not stat.S_ISREG(mode)


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _publish(draft: Path, target: Path) -> None:
    draft.replace(target)
    if os.name == "nt":
        return  # A directory can't be opened there, and its file system journals names.
    fd = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _discard(draft: Path) -> None:
    draft.unlink(missing_ok=True)


async def _write_all(
    file: Any, records: AsyncIterable[Mapping[str, Any]] | Iterable[Mapping[str, Any]]
) -> int:
    buffer = bytearray()
    count = 0
    async for record in _iterate(records):
        if len(record.get("messages") or ()) > _INLINE_MESSAGES:
            buffer += await anyio.to_thread.run_sync(encode_json, record)
        else:
            buffer += encode_json(record)
        buffer += b"\n"
        count += not record.get("part")
        if len(buffer) >= _BLOCK:
            await file.write(bytes(buffer))
            buffer.clear()
    await file.write(bytes(buffer))
    return count


async def _iterate(
    records: AsyncIterable[Mapping[str, Any]] | Iterable[Mapping[str, Any]],
) -> AsyncIterator[Mapping[str, Any]]:
    if isinstance(records, AsyncIterable):
        async for record in records:
            yield record
    else:
        for record in records:
            yield record
