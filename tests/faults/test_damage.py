"""Damaged JSON Lines files: a typed error with file and line, kept bytes, no other harm."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from asyncsessions import CorruptSessionError, Message, open_store
from asyncsessions.stores.jsonl import JSONLinesSessionStore


async def fill(directory: Path, count: int = 4) -> Path:
    """Store some messages, one flush each, and return the session's file."""
    async with JSONLinesSessionStore(directory) as store:
        for number in range(count):
            await store.add_message("chat", "user", f"message {number}")
        await store.add_message("other", "user", "untouched")
    return directory / "chat.jsonl"


def change_line(path: Path, number: int, change: Callable[[bytes], bytes]) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    lines[number - 1] = change(lines[number - 1])
    path.write_bytes(b"".join(lines))


DAMAGE = {
    "garbage line": lambda line: b"garbage\n",
    "flipped bytes": lambda line: line.replace(b"message", b"mess\xffge"),
    "cut short": lambda line: line[:20] + b"\n",
    "other text": lambda line: line.replace(b'"user"', b'"us""r"'),
    "no line end": lambda line: line[:-1] + b" ",
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
@pytest.mark.parametrize("line", [3, 5, 9])
async def test_a_damaged_line_is_named_and_kept(
    tmp_path: Path, damage: Callable[[bytes], bytes], line: int
) -> None:
    path = await fill(tmp_path)
    change_line(path, line, damage)
    damaged = path.read_bytes()
    async with JSONLinesSessionStore(tmp_path) as store:
        with pytest.raises(CorruptSessionError) as caught:
            await store.get_messages("chat")
        assert caught.value.session_id == "chat"
        assert caught.value.path == str(path)
        assert caught.value.line == line
        assert path.read_bytes() == damaged
        assert len(await store.get_messages("other")) == 1
        assert "other" in [info.session_id for info in await store.list_sessions()]
        assert [hit.session_id for hit in await store.search("untouched")] == ["other"]


@pytest.mark.parametrize(
    "damage",
    [
        lambda line: b"x" * (len(line) - 1) + b"\n",
        lambda line: line[:20] + b"x" * (len(line) - 21) + b"\n",
        lambda line: line[:-1] + b" ",
    ],
    ids=["garbage", "garbage from some byte on", "no line end"],
)
@pytest.mark.parametrize("line", range(5, 10))
async def test_a_damaged_line_among_the_newest_is_named(
    tmp_path: Path, damage: Callable[[bytes], bytes], line: int
) -> None:
    path = await fill(tmp_path)
    change_line(path, line, damage)
    async with JSONLinesSessionStore(tmp_path) as store:
        with pytest.raises(CorruptSessionError) as caught:
            await store.get_messages("chat", limit=3)
        assert (caught.value.path, caught.value.line) == (str(path), line)


async def test_zeros_in_place_of_the_newest_message_are_named(tmp_path: Path) -> None:
    """They are more than the newest message takes on average."""
    path = await fill(tmp_path, 9)
    async with JSONLinesSessionStore(tmp_path) as store:
        await store.add_message("chat", "user", "x" * 4000)
        await store.set_state("chat", "key", 1)
        data = path.read_bytes()
        end = data.index(b"\n", data.index(b"x" * 4000)) + 1
        path.write_bytes(data[: end - 2000] + bytes(2000) + data[end:])
        with pytest.raises(CorruptSessionError) as caught:
            await store.get_messages("chat", limit=1)
        assert caught.value.path == str(path)


@pytest.mark.parametrize(
    "damage",
    [
        lambda line: re.sub(rb'"crc":"..', b'"crc":"xy', line),
        lambda line: re.sub(rb',"crc":', b', "crc":', line),
        lambda line: line.replace(b'"commit":{', b'"commit":{"x":' + b"[" * 100_000),
    ],
    ids=["no number", "other spaces", "nested too deep"],
)
async def test_a_checksum_that_cannot_be_read_is_damage(
    tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    path = await fill(tmp_path)
    change_line(path, 10, damage)
    async with JSONLinesSessionStore(tmp_path) as store:
        with pytest.raises(CorruptSessionError) as caught:
            await store.get_messages("chat")
        assert caught.value.path == str(path)
        assert len(await store.get_messages("other")) == 1


@pytest.mark.parametrize("line", [4, 10])
async def test_a_damaged_commit_line_at_the_end_stops_writers(tmp_path: Path, line: int) -> None:
    path = await fill(tmp_path)
    for number in range(line, 11):
        change_line(path, number, lambda text: text.replace(b"commit", b"c0mmit"))
    damaged = path.read_bytes()
    async with JSONLinesSessionStore(tmp_path) as store:
        with pytest.raises(CorruptSessionError):
            await store.add_message("chat", "user", "refused")
        with pytest.raises(CorruptSessionError):
            await store.set_state("chat", "key", 1)
        with pytest.raises(CorruptSessionError):
            await store.pop_message("chat")
        assert path.read_bytes() == damaged
        # What can't be read can still be removed.
        assert await store.delete_session("chat")
        await store.add_message("chat", "user", "a new start")
        assert len(await store.get_messages("chat")) == 1


@pytest.mark.parametrize(
    "content", [b"garbage", b"garbage\n", b"{}\n", b'{"seq":1,"role":"user"}\n']
)
async def test_a_foreign_file_is_not_taken_for_a_session(tmp_path: Path, content: bytes) -> None:
    await fill(tmp_path)
    path = tmp_path / "foreign.jsonl"
    path.write_bytes(content)
    async with JSONLinesSessionStore(tmp_path) as store:
        with pytest.raises(CorruptSessionError):
            await store.get_messages("foreign")
        with pytest.raises(CorruptSessionError):
            await store.add_message("foreign", "user", "refused")
        assert path.read_bytes() == content
        assert {info.session_id for info in await store.list_sessions()} == {"chat", "other"}


@pytest.mark.parametrize("cut", [1, 7, 60, 150])
async def test_a_torn_end_is_removed_by_the_next_writer(tmp_path: Path, cut: int) -> None:
    path = await fill(tmp_path)
    whole = path.read_bytes()
    async with JSONLinesSessionStore(tmp_path) as store:
        await store.add_message("chat", "user", "torn")
    torn = path.read_bytes()[:-cut]
    path.write_bytes(torn)
    async with JSONLinesSessionStore(tmp_path) as store:
        texts = [message.content for message in await store.get_messages("chat")]
        assert texts == [f"message {number}" for number in range(4)]
        assert path.read_bytes() == torn
        (stored,) = await store.append("chat", [Message("user", "after")])
        assert stored.seq == 5
    assert path.read_bytes().startswith(whole + b'{"seq":5,"role":"user","content":"after"')
    assert path.with_suffix(".torn").read_bytes() == torn[len(whole) :]


async def test_an_empty_file_is_no_session(tmp_path: Path) -> None:
    (tmp_path / "chat.jsonl").touch()
    async with open_store(f"jsonl://{tmp_path}") as store:
        assert not await store.session_exists("chat")
        assert await store.list_sessions() == []
        await store.add_message("chat", "user", "Hello")
        assert len(await store.get_messages("chat")) == 1


async def test_a_copy_under_another_name_is_not_listed(tmp_path: Path) -> None:
    path = await fill(tmp_path)
    (tmp_path / "copy.jsonl").write_bytes(path.read_bytes())
    async with JSONLinesSessionStore(tmp_path) as store:
        assert sorted(info.session_id for info in await store.list_sessions()) == ["chat", "other"]
