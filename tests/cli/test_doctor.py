"""``doctor`` on JSON Lines stores: each kind of damage is found, repaired, and its bytes kept."""

from __future__ import annotations

import asyncio
import fcntl
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from asyncsessions import BaseSessionStore, LockTimeoutError, Message
from asyncsessions.ids import file_stem
from asyncsessions.stores import _repair
from asyncsessions.stores._log import INDEX
from tests.cli.helpers import DATA, bad, call, good, with_store

HOT = "cafe-1"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Return the directory of a store with the sample sessions and a few separate appends."""
    good("import", DATA, "--store", f"jsonl://{tmp_path}")
    for number in range(6, 10):
        good("add", HOT, "user", f"message {number}", "--store", f"jsonl://{tmp_path}")
    return tmp_path


def doctor(directory: Path, *options: str) -> list[dict[str, object]]:
    """Return what the doctor finds, and does."""
    found: list[dict[str, object]] = call(
        "doctor", "--store", f"jsonl://{directory}", "--json", *options
    ).json
    return found


def make_old(path: Path) -> None:
    """Let a file look as if its writer were long gone."""
    os.utime(path, (0, 0))


def messages(directory: Path, session_id: str = HOT) -> list[Message]:
    """Return a session's messages."""
    return with_store(f"jsonl://{directory}", lambda store: store.get_messages(session_id))


def contents(directory: Path) -> dict[str, bytes]:
    """Return all files."""
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_a_healthy_store_is_well(directory: Path) -> None:
    before = contents(directory)

    assert good("doctor", "--store", f"jsonl://{directory}").out == "all is well\n"
    assert good("doctor", "--store", f"jsonl://{directory}", "--repair").out == "all is well\n"

    assert contents(directory) == before


def lines_of(data: bytes) -> list[bytes]:
    return data.splitlines(keepends=True)


def garble_message(data: bytes) -> bytes:
    return data.replace(b'{"seq":2,', b'{"seX":2,')


def change_content(data: bytes) -> bytes:
    return data.replace(b"message 7", b"massage 7")


def garble_commit(data: bytes) -> bytes:
    """Garble the commit line behind message 7."""
    lines = lines_of(data)
    index = next(i for i, line in enumerate(lines) if line.startswith(b'{"seq":7'))
    lines[index + 1] = b"x" + lines[index + 1][1:]
    return b"".join(lines)


def garble_last_commit(data: bytes) -> bytes:
    lines = lines_of(data)
    return b"".join(lines[:-1]) + lines[-1].replace(b'"commit"', b'"c\x01mmit"')


def garble_header(data: bytes) -> bytes:
    return b"#" + data[1:]


def garble_record(data: bytes) -> bytes:
    return data.replace(b'{"record":{', b'{"record":[')


def remove_line_end(data: bytes) -> bytes:
    """Join message 7 and its commit line."""
    lines = lines_of(data)
    index = next(i for i, line in enumerate(lines) if line.startswith(b'{"seq":7'))
    lines[index] = lines[index].replace(b"\n", b" ")
    return b"".join(lines)


def garble_seq(data: bytes) -> bytes:
    return data.replace(b'\n{"seq":7,', b'\n{"seq":99,')


def raise_seq_in_a_batch(data: bytes) -> bytes:
    return data.replace(b'\n{"seq":2,', b'\n{"seq":3,')


def lower_seq_in_a_batch(data: bytes) -> bytes:
    return data.replace(b'\n{"seq":4,', b'\n{"seq":3,')


def garble_first_seq(data: bytes) -> bytes:
    return data.replace(b'\n{"seq":1,', b'\n{"seq":4,')


def raise_seq_of_a_commit(data: bytes) -> bytes:
    return data.replace(b'\n{"commit":{"seq":7,', b'\n{"commit":{"seq":8,')


def lower_seq_of_a_commit(data: bytes) -> bytes:
    return data.replace(b'\n{"commit":{"seq":7,', b'\n{"commit":{"seq":1,')


ALL = list(range(1, 10))


@pytest.mark.parametrize(
    ("damage", "left", "can_be_read"),
    [
        (garble_message, [1, 3, 4, 5, 6, 7, 8, 9], False),
        (change_content, ALL, True),
        (garble_commit, ALL, True),
        (garble_last_commit, ALL, False),
        (garble_header, ALL, True),
        (garble_record, ALL, True),
        (remove_line_end, [1, 2, 3, 4, 5, 6, 8, 9], False),
        (garble_seq, ALL, True),
        (raise_seq_in_a_batch, ALL, True),
        (lower_seq_in_a_batch, ALL, True),
        (garble_first_seq, ALL, True),
        (raise_seq_of_a_commit, ALL, True),
        (lower_seq_of_a_commit, ALL, True),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_damage_is_found_and_repaired(
    directory: Path, damage: Callable[[bytes], bytes], left: list[int], can_be_read: bool
) -> None:
    path = directory / f"{HOT}.jsonl"
    before = {message.seq: message for message in messages(directory)}
    others = {name: data for name, data in contents(directory).items() if name != path.name}
    damaged = damage(path.read_bytes())
    assert damaged != path.read_bytes()
    path.write_bytes(damaged)

    (finding,) = doctor(directory)
    assert (finding["kind"], finding["session_id"], finding["repaired"]) == ("damaged", HOT, None)
    assert f"{len(left)} messages can be recovered" in str(finding["detail"])
    assert path.read_bytes() == damaged
    assert "1 problem in" in bad_doctor(directory)

    (done,) = doctor(directory, "--repair")
    assert done["repaired"] is not None

    kept = directory / f"{path.name}.damaged-1"
    assert kept.read_bytes() == damaged
    assert {
        name: data
        for name, data in contents(directory).items()
        if name not in {path.name, kept.name}
    } == others
    after = {message.seq: message for message in messages(directory)}
    assert list(after) == left
    changed = {7} if damage is change_content else set()
    assert {seq for seq in after if after[seq] != before[seq]} == changed
    assert [finding["kind"] for finding in doctor(directory)] == ["kept"]
    assert (
        good("add", HOT, "user", "on it goes", "--store", f"jsonl://{directory}", "--json").json[
            "seq"
        ]
        == 10
    )


def change_in(number: int, old: bytes, new: bytes) -> Callable[[bytes], bytes]:
    """Return what changes one line, counted from the file's end."""

    def change(data: bytes) -> bytes:
        lines = lines_of(data)
        assert old in lines[-number]
        lines[-number] = lines[-number].replace(old, new, 1)
        return b"".join(lines)

    return change


@pytest.mark.parametrize(
    "damage",
    [
        change_in(6, b'"crc"', b'"crX"'),
        change_in(6, b'{"commit"', b'#"commit"'),
        change_in(6, b'"repeats":true', b'"repeats":trux'),
        change_in(6, b'{"commit":{"seq":3', b'{"commit":{"seq":4'),
        change_in(6, b'"count":3', b'"count":4'),
        change_in(7, b'{"seq":3,', b'{"seq":2,'),
        change_in(7, b'{"seq":3,', b'{"seq":4,'),
        change_in(7, b'{"seq":3,', b'{"seq":9,'),
        change_in(5, b'{"seq":4,', b'{"seq":3,'),
        change_in(4, b'"crc"', b'"crX"'),
        change_in(3, b'{"seq":5,', b'{"seq":3,'),
        change_in(2, b'{"seq":6,', b'{"seq":5,'),
    ],
)
def test_a_streamed_turn_stays_one_message(
    tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    async def fill(store: BaseSessionStore) -> None:
        await store.append("s", [{"role": "user", "content": text} for text in ("1", "2")])
        await store.upsert_partial_assistant_message("s", "Yes")
        await store.upsert_partial_assistant_message("s", "Yes, at 18:34.", finalize=True)
        await store.add_message("s", "user", "4")
        await store.append("s", [{"role": "user", "content": text} for text in ("5", "6")])

    with_store(f"jsonl://{tmp_path}", fill)
    path = tmp_path / "s.jsonl"
    path.write_bytes(damage(path.read_bytes()))

    (finding,) = doctor(tmp_path, "--repair")

    assert finding["kind"] == "damaged"
    after = [(message.seq, message.content) for message in messages(tmp_path, "s")]
    said = ["1", "2", "Yes, at 18:34.", "4", "5", "6"]
    assert after == list(enumerate(said, 1))


@pytest.mark.parametrize(
    "damage",
    [
        change_in(3, b'"crc"', b'"crX"'),
        change_in(3, b'{"commit":{"seq":11,', b'{"commit":{"seq":10,'),
        change_in(5, b'{"seq":10,', b'{"seq":7,'),
        change_in(5, b'{"seq":10,', b'{"seq":11,'),
    ],
)
def test_messages_of_a_file_that_was_rewritten_keep_their_numbers(
    directory: Path, damage: Callable[[bytes], bytes]
) -> None:
    async def start_anew(store: BaseSessionStore) -> None:
        await store.set_chat_history(HOT, [{"role": "user", "content": text} for text in "ab"])
        await store.add_message(HOT, "user", "c")

    with_store(f"jsonl://{directory}", start_anew)
    path = directory / f"{HOT}.jsonl"
    path.write_bytes(damage(path.read_bytes()))

    doctor(directory, "--repair")

    after = [(message.seq, message.content) for message in messages(directory)]
    assert after == [(10, "a"), (11, "b"), (12, "c")]


def test_a_text_that_is_nested_too_deep_without_its_quote_is_damage(tmp_path: Path) -> None:
    url = f"jsonl://{tmp_path}"
    good("add", "s", "tool", "-", "--store", url, text=100_000 * "[")
    good("add", "s", "user", "on it goes", "--store", url)
    path = tmp_path / "s.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"[', b" [", 1))

    doctor(tmp_path, "--repair")

    assert [message.seq for message in messages(tmp_path, "s")] == [2]


def bad_doctor(directory: Path) -> str:
    """Return the last line that a person gets about a store that isn't well."""
    result = call("doctor", "--store", f"jsonl://{directory}")
    assert result.code == 1
    return result.err


def test_the_record_survives_a_repair(directory: Path) -> None:
    path = directory / "train-3.jsonl"
    path.write_bytes(path.read_bytes().replace(b'{"seq":2,', b'{"seX":2,'))

    doctor(directory, "--repair")

    shown = good("show", "train-3", "--store", f"jsonl://{directory}", "--json").json
    assert shown["metadata"] == {"title": "Trains to Ghent"}
    assert shown["state"] == {"step": 3}
    assert [message["seq"] for message in shown["messages"]] == [1, 3]


def test_what_was_removed_does_not_come_back(directory: Path) -> None:
    url = f"jsonl://{directory}"

    async def remove_some(store: BaseSessionStore) -> None:
        await store.pop_message(HOT)
        await store.append(HOT, [{"role": "user", "content": "instead"}])
        await store.pop_message("train-3")

    with_store(url, remove_some)
    for name in (HOT, "train-3"):
        path = directory / f"{name}.jsonl"
        path.write_bytes(path.read_bytes().replace(b'{"seq":2,', b'{"seX":2,'))

    doctor(directory, "--repair")

    assert [message.seq for message in messages(directory)] == [1, 3, 4, 5, 6, 7, 8, 10]
    assert [message.seq for message in messages(directory, "train-3")] == [1]


def test_keys_survive_a_repair(directory: Path) -> None:
    url = f"jsonl://{directory}"
    message = [{"role": "user", "content": "once"}]

    async def append(store: BaseSessionStore) -> int:
        (stored,) = await store.append(HOT, message, idempotency_key="k")
        return stored.seq

    assert with_store(url, append) == 10
    path = directory / f"{HOT}.jsonl"
    path.write_bytes(path.read_bytes().replace(b'{"seq":2,', b'{"seX":2,'))
    doctor(directory, "--repair")

    assert with_store(url, append) == 10


def test_keys_in_an_index_survive_a_repair(directory: Path) -> None:
    url = f"jsonl://{directory}"

    async def append(store: BaseSessionStore) -> list[int]:
        stored: list[int] = []
        for number in range(300):
            message = [{"role": "user", "content": f"{number}"}]
            stored += [m.seq for m in await store.append("s", message, idempotency_key=f"{number}")]
        return stored

    assert with_store(url, append) == [*range(1, 301)]
    path = directory / "s.jsonl"
    data = path.read_bytes()
    assert INDEX in data
    path.write_bytes(data.replace(b'{"seq":2,', b'{"seX":2,'))
    doctor(directory, "--repair")

    assert INDEX not in path.read_bytes()
    assert with_store(url, append) == [*range(1, 301)]
    assert with_store(url, append) == [*range(1, 301)]


def test_a_torn_write_is_found_and_removed(directory: Path) -> None:
    path = directory / f"{HOT}.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"seq":10,"role":"us')

    (finding,) = doctor(directory)
    assert (finding["kind"], finding["session_id"]) == ("torn", HOT)
    assert finding["detail"] == "20 bytes of a write that was never acknowledged"

    doctor(directory, "--repair")
    assert path.read_bytes() == whole
    assert (directory / f"{HOT}.torn").read_bytes() == b'{"seq":10,"role":"us'
    assert [finding["kind"] for finding in doctor(directory)] == ["kept"]


def test_damage_before_a_torn_write(directory: Path) -> None:
    path = directory / f"{HOT}.jsonl"
    damaged = garble_message(path.read_bytes()) + b'{"seq":10,"role":"user"}\n'
    path.write_bytes(damaged)

    doctor(directory, "--repair")

    # It was never acknowledged, so it doesn't become a message.
    assert [message.seq for message in messages(directory)] == [1, 3, 4, 5, 6, 7, 8, 9]
    assert (directory / f"{HOT}.jsonl.damaged-1").read_bytes() == damaged


def test_empty_and_never_committed_files_go(directory: Path) -> None:
    (directory / "empty.jsonl").touch()
    make_old(directory / "empty.jsonl")
    (directory / "half.jsonl").write_bytes(b'{"asyncsessions":1,"session_id":"half"}\n{"rec')

    assert [(f["kind"], f["session_id"]) for f in doctor(directory)] == [
        ("empty", "empty"),
        ("torn", "half"),
    ]

    doctor(directory, "--repair")
    assert not (directory / "empty.jsonl").exists()
    assert not (directory / "half.jsonl").exists()
    assert (directory / "half.torn").read_bytes().endswith(b'{"rec')


def test_a_misnamed_file_gets_its_name(directory: Path) -> None:
    expected = messages(directory)
    (directory / f"{HOT}.jsonl").rename(directory / "copy of it.jsonl")

    (finding,) = doctor(directory)
    assert (finding["kind"], finding["session_id"]) == ("misnamed", HOT)

    doctor(directory, "--repair")
    assert messages(directory) == expected
    assert doctor(directory) == []


def test_a_misnamed_copy_is_put_aside(directory: Path) -> None:
    expected = messages(directory)
    copy = (directory / f"{HOT}.jsonl").read_bytes()
    good("add", HOT, "user", "newer", "--store", f"jsonl://{directory}")
    (directory / "copy.jsonl").write_bytes(copy)

    doctor(directory, "--repair")

    assert (directory / "copy.jsonl.damaged-1").read_bytes() == copy
    assert not (directory / "copy.jsonl").exists()
    assert len(messages(directory)) == len(expected) + 1


def test_a_damaged_header_of_a_hashed_name(directory: Path) -> None:
    session_id = "群/7: Änne@example.com"
    path = directory / f"{file_stem(session_id)}.jsonl"
    path.write_bytes(garble_header(path.read_bytes()))

    (done,) = doctor(directory, "--repair")

    assert done["session_id"] == session_id
    assert len(messages(directory, session_id)) == 5


def test_leftovers_are_put_aside(directory: Path) -> None:
    (directory / f"{HOT}.tmp").write_bytes(b"half a rewrite")
    make_old(directory / f"{HOT}.tmp")

    (finding,) = doctor(directory)
    assert finding["kind"] == "leftover"

    doctor(directory, "--repair")
    assert (directory / f"{HOT}.tmp.damaged-1").read_bytes() == b"half a rewrite"
    assert not (directory / f"{HOT}.tmp").exists()


def test_the_temporary_file_of_a_live_writer_stays(directory: Path) -> None:
    draft = directory / f"{HOT}.tmp"
    with draft.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        make_old(draft)

        assert doctor(directory, "--repair") == []

    assert draft.exists()


def test_a_temporary_file_that_a_writer_uses_again_stays(directory: Path) -> None:
    for draft in (directory / f"{HOT}.tmp", directory / "not-yet.tmp"):
        draft.write_bytes(b"half a rewrite")
        make_old(draft)
    first, second = _repair.examine(directory)
    (directory / f"{HOT}.tmp").write_bytes(b"new")
    assert _repair.repair(first) is None
    with (directory / "not-yet.tmp").open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert _repair.repair(second) is None

    assert (directory / f"{HOT}.tmp").read_bytes() == b"new"
    assert (directory / "not-yet.tmp").exists()


@pytest.mark.parametrize("kind", ["damaged", "torn"])
def test_a_lock_that_is_held_names_the_session(directory: Path, kind: str) -> None:
    session_id = "群/7: Änne@example.com"
    path = directory / f"{file_stem(session_id)}.jsonl"
    data = path.read_bytes()
    path.write_bytes(garble_message(data) if kind == "damaged" else data + b"{")
    (finding,) = _repair.examine(directory)
    assert finding.kind == kind
    fd = os.open(path, os.O_RDWR)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        with pytest.raises(LockTimeoutError) as caught:
            _repair.repair(finding, lock_timeout=0.1)
    finally:
        os.close(fd)

    assert caught.value.session_id == session_id


def test_files_that_a_writer_may_just_have_made_stay(directory: Path) -> None:
    """Between making its file and locking it, a writer leaves it empty and unlocked."""
    made = [directory / "new.jsonl", directory / f"{HOT}.tmp"]
    for path in made:
        path.touch()

    assert doctor(directory, "--repair") == []

    assert all(path.exists() for path in made)


def test_foreign_files_are_put_aside_and_others_left_alone(directory: Path) -> None:
    (directory / "notes.jsonl").write_bytes(b"shopping list\n")
    (directory / "readme.txt").write_bytes(b"hello")

    doctor(directory, "--repair")

    assert (directory / "notes.jsonl.damaged-1").read_bytes() == b"shopping list\n"
    assert not (directory / "notes.jsonl").exists()
    assert (directory / "readme.txt").read_bytes() == b"hello"


def test_a_directory_in_place_of_a_file_cannot_be_repaired(directory: Path) -> None:
    (directory / "folder.jsonl").mkdir()

    (finding,) = doctor(directory, "--repair")

    assert finding["kind"] == "unreadable"
    assert "can't be repaired" in str(finding["error"])
    assert (directory / "folder.jsonl").is_dir()


def test_a_second_repair_keeps_the_first_original(directory: Path) -> None:
    path = directory / f"{HOT}.jsonl"
    first = garble_message(path.read_bytes())
    path.write_bytes(first)
    doctor(directory, "--repair")
    second = path.read_bytes().replace(b'{"seq":3,', b'{"seX":3,')
    path.write_bytes(second)
    doctor(directory, "--repair")

    assert (directory / f"{path.name}.damaged-1").read_bytes() == first
    assert (directory / f"{path.name}.damaged-2").read_bytes() == second
    assert [message.seq for message in messages(directory)] == [1, 4, 5, 6, 7, 8, 9]


def test_a_large_file_is_repaired_in_parts(tmp_path: Path) -> None:
    url = f"jsonl://{tmp_path}"
    batch = [{"role": "user", "content": f"{number} " + "x" * 500} for number in range(400)]

    async def fill(store: BaseSessionStore) -> None:
        for _ in range(5):
            await store.append("big", batch)

    with_store(url, fill)
    path = tmp_path / "big.jsonl"
    path.write_bytes(path.read_bytes().replace(b'{"seq":1000,', b'{"seX":1000,'))

    doctor(tmp_path, "--repair")

    assert [message.seq for message in messages(tmp_path, "big")] == [
        seq for seq in range(1, 2001) if seq != 1000
    ]
    window = with_store(url, lambda store: store.get_messages("big", before=1002, limit=2))
    assert [message.seq for message in window] == [999, 1001]


def test_repair_waits_for_the_lock_and_says_so(directory: Path) -> None:
    path = directory / f"{HOT}.jsonl"
    path.write_bytes(garble_message(path.read_bytes()))
    (finding,) = _repair.examine(directory)
    fd = os.open(path, os.O_RDWR)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        with pytest.raises(LockTimeoutError):
            _repair.repair(finding, lock_timeout=0.1)
    finally:
        os.close(fd)

    assert _repair.repair(finding) is not None


def test_examining_beside_live_writers_finds_nothing(tmp_path: Path) -> None:
    """No write under way is ever taken for a torn one, and nothing acknowledged is lost."""
    url = f"jsonl://{tmp_path}"
    acknowledged = []
    is_over = threading.Event()

    async def write(store: BaseSessionStore) -> None:
        while not is_over.is_set():
            batch = [{"role": "user", "content": "x" * 2000}] * 20
            acknowledged.append((await store.append(HOT, batch))[-1].seq)

    writer = threading.Thread(target=with_store, args=(url, write))
    writer.start()
    findings: list[object] = []
    deadline = time.monotonic() + 1.5
    while time.monotonic() < deadline or not acknowledged:
        for finding in _repair.examine(tmp_path) if tmp_path.exists() else ():
            findings.append(finding)
            _repair.repair(finding)
    is_over.set()
    writer.join()

    assert findings == []
    assert [message.seq for message in messages(tmp_path)] == list(range(1, acknowledged[-1] + 1))


def test_repair_beside_a_live_writer_loses_nothing(directory: Path) -> None:
    """A writer that has the damaged file open goes on in the new one."""
    url = f"jsonl://{directory}"
    path = directory / f"{HOT}.jsonl"

    def damage_and_repair() -> None:
        path.write_bytes(garble_message(path.read_bytes()))
        for finding in _repair.examine(directory):
            _repair.repair(finding)

    async def write(store: BaseSessionStore) -> None:
        await store.add_message(HOT, "user", "before")
        await asyncio.to_thread(damage_and_repair)
        await store.add_message(HOT, "user", "after")

    with_store(url, write)

    assert [message.seq for message in messages(directory)] == [1, 3, 4, 5, 6, 7, 8, 9, 10, 11]


def test_people_are_told_what_was_done(directory: Path) -> None:
    path = directory / f"{HOT}.jsonl"
    path.write_bytes(garble_message(path.read_bytes()))

    out = good("doctor", "--store", f"jsonl://{directory}", "--repair").out.splitlines()

    assert out[0].startswith("damaged    cafe-1.jsonl: line 4: it can't be decoded")
    assert out[1].strip() == (
        "recovered 8 messages, 4 of them unverified; the original is cafe-1.jsonl.damaged-1"
    )
    assert out[2] == "1 repaired, all is well"


def test_a_missing_directory(tmp_path: Path) -> None:
    assert "there is no directory" in bad(1, "doctor", "--store", f"jsonl://{tmp_path / 'no'}")
