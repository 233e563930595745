"""Files of sessions as async streams."""

from __future__ import annotations

import asyncio
import json
import os
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from asyncsessions.errors import SessionFileError
from asyncsessions.streams import read_sessions, write_sessions

RECORDS: list[dict[str, Any]] = [
    {"session_id": "a", "messages": [{"role": "user", "content": "Hi 👋"}]},
    {"session_id": "b", "messages": [], "metadata": {"x": 1}},
]


async def read(path: Path, **options: Any) -> list[dict[str, Any]]:
    return [record async for record in read_sessions(path, **options)]


def lines(*records: object) -> bytes:
    return b"".join(json.dumps(record, ensure_ascii=False).encode() + b"\n" for record in records)


async def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "some.jsonl"

    assert await write_sessions(path, RECORDS) == 2

    assert await read(path) == RECORDS


async def test_a_stream_is_written(tmp_path: Path) -> None:
    async def stream() -> AsyncIterator[dict[str, Any]]:
        for record in RECORDS:
            yield record
        yield {"session_id": "b", "part": 2, "messages": []}

    # A later part is no session of its own.
    assert await write_sessions(tmp_path / "x", stream()) == 2
    assert len(await read(tmp_path / "x")) == 3


async def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "some.jsonl"
    path.write_bytes(b"old")

    async def stream() -> AsyncIterator[dict[str, Any]]:
        yield RECORDS[0]
        raise LookupError("no more")

    with pytest.raises(LookupError, match="no more"):
        await write_sessions(path, stream())

    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


async def test_a_cancelled_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "some.jsonl"
    started = asyncio.Event()

    async def stream() -> AsyncIterator[dict[str, Any]]:
        yield RECORDS[0]
        started.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(write_sessions(path, stream()))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert list(tmp_path.iterdir()) == []


async def test_a_new_file_is_private(tmp_path: Path) -> None:
    await write_sessions(tmp_path / "some.jsonl", RECORDS)

    assert stat.S_IMODE((tmp_path / "some.jsonl").stat().st_mode) == 0o600


async def test_a_device_is_written_to_and_not_replaced(tmp_path: Path) -> None:
    fifo = tmp_path / "pipe"
    os.mkfifo(fifo)

    reader = asyncio.create_task(asyncio.to_thread(fifo.read_bytes))
    assert await write_sessions(fifo, RECORDS) == 2

    assert [json.loads(line) for line in (await reader).splitlines()] == RECORDS
    assert stat.S_ISFIFO(fifo.stat().st_mode)


async def test_a_link_stays_one(tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    link.symlink_to(target)

    await write_sessions(link, RECORDS)

    assert link.is_symlink()
    assert await read(target) == RECORDS


async def test_blank_lines_line_ends_and_a_byte_order_mark_are_no_problem(tmp_path: Path) -> None:
    path = tmp_path / "some.jsonl"
    first, second = lines(*RECORDS).splitlines()
    path.write_bytes(b"\xef\xbb\xbf" + first + b"\r\n\r\n\n" + second)

    assert await read(path) == RECORDS


async def test_lines_longer_than_a_block(tmp_path: Path) -> None:
    path = tmp_path / "some.jsonl"
    record = {"session_id": "big", "messages": [{"role": "user", "content": "ä" * 700_000}]}
    path.write_bytes(lines(RECORDS[0], record, RECORDS[1]))

    assert await read(path) == [RECORDS[0], record, RECORDS[1]]


async def test_progress_adds_up_to_the_size(tmp_path: Path) -> None:
    path = tmp_path / "some.jsonl"
    path.write_bytes(lines(*RECORDS) * 5000)
    counts: list[int] = []

    await read(path, on_progress=counts.append)

    assert sum(counts) == path.stat().st_size
    assert len(counts) > 1


@pytest.mark.parametrize(
    ("line", "detail"),
    [
        (b'{"session_id": "x", "messages"', "this line isn't JSON"),
        (b'{"session_id": "\xff"}', "this line isn't JSON"),
        (b"[1]", "a session is a JSON object, not a list"),
        (b"{}", 'no text under "session_id"'),
        (b'{"session_id": 5}', 'no text under "session_id"'),
        (b'{"session_id": "x", "messages": {}}', '"messages" is a list of objects, not an object'),
        (b'{"asyncsessions":1,"session_id":"x"}', "a file of a jsonl:// store"),
        (b"[" * 100_000, "this line is nested too deep"),
        (b"[" * 2_000, "this line is nested too deep"),
    ],
)
async def test_a_bad_line_is_named(tmp_path: Path, line: bytes, detail: str) -> None:
    path = tmp_path / "some.jsonl"
    path.write_bytes(lines(RECORDS[0]) + b"\n" + line + b"\n")
    stream = read_sessions(path)

    assert await anext(stream) == RECORDS[0]
    with pytest.raises(SessionFileError) as caught:
        await anext(stream)

    assert (caught.value.path, caught.value.line) == (str(path), 3)
    assert str(caught.value).startswith(f"{path}:3: ")
    assert detail in str(caught.value)


@pytest.mark.parametrize("indent", [None, 2], ids=["compact", "pretty"])
async def test_a_document_of_sessions(tmp_path: Path, indent: int | None) -> None:
    path = tmp_path / "export.json"
    document = {"version": 1, "exported_at": "today", "sessions": RECORDS}
    path.write_text(json.dumps(document, indent=indent), encoding="utf-8")

    found = await read(path)

    assert [record["session_id"] for record in found] == ["a", "b"]
    assert found[0]["messages"][0]["content"] == "Hi 👋"


async def test_a_document_with_nan(tmp_path: Path) -> None:
    path = tmp_path / "export.json"
    text = '{"version": 1, "sessions": [{"session_id": "a", "metadata": {"cost": NaN, "b": 1}}]}'
    path.write_text(text, encoding="utf-8")

    assert (await read(path))[0]["metadata"] == {"cost": None, "b": 1}


async def test_one_session_as_a_pretty_document(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps(RECORDS[0], indent=2), encoding="utf-8")

    assert [record["session_id"] for record in await read(path)] == ["a"]


async def test_a_damaged_document_is_named(tmp_path: Path) -> None:
    path = tmp_path / "export.json"
    path.write_text('{\n  "sessions": [\n    {"session_id": }\n', encoding="utf-8")

    with pytest.raises(SessionFileError) as caught:
        await read(path)

    assert (caught.value.path, caught.value.line) == (str(path), 3)


async def test_a_document_that_is_nested_too_deep_is_named(tmp_path: Path) -> None:
    path = tmp_path / "export.json"
    path.write_bytes(b'{"sessions": ' + b"[" * 100_000)

    with pytest.raises(SessionFileError, match=r"export\.json: this is nested too deep"):
        await read(path)


async def test_a_directory_without_sessions_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SessionFileError, match="holds no sessions"):
        await read(tmp_path)


async def test_damaged_files_of_a_directory_are_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "a.json").write_text('{"messages": []}', encoding="utf-8")
    (tmp_path / "b.json").write_text("", encoding="utf-8")
    (tmp_path / "c.json").write_bytes(b'{\n"x": "\xff"}')
    (tmp_path / "d.json").write_text("[]", encoding="utf-8")

    assert [record["session_id"] for record in await read(tmp_path)] == ["a"]

    reasons = [record.getMessage() for record in caplog.records]
    assert len(reasons) == 3
    assert "b.json: the file is empty" in reasons[0]
    assert "c.json:2: this isn't UTF-8" in reasons[1]
    assert "d.json: a session is a JSON object, not a list" in reasons[2]


async def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        await read(tmp_path / "none.jsonl")


async def test_reading_can_stop_early(tmp_path: Path) -> None:
    path = tmp_path / "some.jsonl"
    path.write_bytes(lines(*RECORDS))
    stream = read_sessions(path)

    assert await anext(stream) == RECORDS[0]
    await stream.aclose()
