"""``doctor`` on JSON stores."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from asyncsessions import LockTimeoutError, Message
from asyncsessions.stores import _repair_json
from tests.cli.helpers import DATA, call, good, with_store

NAME = "cafe-1.json"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Return the directory of a store with the sample sessions."""
    good("import", DATA, "--store", f"json://{tmp_path}")
    return tmp_path


def doctor(directory: Path, *options: str) -> list[dict[str, object]]:
    """Return what the doctor finds, and does."""
    found: list[dict[str, object]] = call(
        "doctor", "--store", f"json://{directory}", "--json", *options
    ).json
    return found


def messages(directory: Path, session_id: str = "cafe-1") -> list[Message]:
    """Return a session's messages."""
    return with_store(f"json://{directory}", lambda store: store.get_messages(session_id))


def contents(directory: Path) -> dict[str, bytes]:
    """Return all files but locks."""
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.suffix != ".lock"}


def test_a_healthy_store_is_well(directory: Path) -> None:
    before = contents(directory)

    assert good("doctor", "--store", f"json://{directory}", "--repair").out == "all is well\n"

    assert contents(directory) == before


def cut_in_the_fourth(data: bytes) -> bytes:
    return data[: data.index(b"Anything else")]


def garble_the_fourth(data: bytes) -> bytes:
    return data.replace(b'"content": "That is', b'"content": That is')


def break_utf8_in_the_fourth(data: bytes) -> bytes:
    return data.replace(b"That is", b"That \xff is")


def garble_the_id(data: bytes) -> bytes:
    return data.replace(b'"session_id": "cafe-1"', b'"session_id": cafe-1"')


def garble_metadata(data: bytes) -> bytes:
    return data.replace(b'"vertical": "Coffee"', b'"vertical": Coffee"')


def cut_the_end(data: bytes) -> bytes:
    return data[:-1]


def change_own_metadata(data: bytes) -> bytes:
    head, last = data.rsplit(b'"version": 1', 1)
    return head + b'"version": "one"' + last


@pytest.mark.parametrize(
    ("damage", "left"),
    [
        (cut_in_the_fourth, [1, 2, 3]),
        (garble_the_fourth, [1, 2, 3, 5]),
        (break_utf8_in_the_fourth, [1, 2, 3, 5]),
        (garble_the_id, [1, 2, 3, 4, 5]),
        (garble_metadata, [1, 2, 3, 4, 5]),
        (cut_the_end, [1, 2, 3, 4, 5]),
        (change_own_metadata, [1, 2, 3, 4, 5]),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_damage_is_found_and_repaired(
    directory: Path, damage: Callable[[bytes], bytes], left: list[int]
) -> None:
    path = directory / NAME
    before = {message.seq: message for message in messages(directory)}
    others = {name: data for name, data in contents(directory).items() if name != NAME}
    damaged = damage(path.read_bytes())
    assert damaged != path.read_bytes()
    path.write_bytes(damaged)

    (finding,) = doctor(directory)
    assert (finding["kind"], finding["session_id"]) == ("damaged", "cafe-1")
    assert f"{len(left)} messages can be recovered" in str(finding["detail"])
    assert path.read_bytes() == damaged

    (done,) = doctor(directory, "--repair")
    assert str(done["repaired"]).startswith(f"recovered {len(left)} messages")

    assert (directory / f"{NAME}.damaged-1").read_bytes() == damaged
    left_alone = contents(directory)
    del left_alone[NAME], left_alone[f"{NAME}.damaged-1"]
    assert left_alone == others
    after = [(message.content, message.tool_calls, message.name) for message in messages(directory)]
    expected = [before[seq] for seq in left]
    assert after == [(message.content, message.tool_calls, message.name) for message in expected]
    assert [finding["kind"] for finding in doctor(directory)] == ["kept"]
    good("add", "cafe-1", "user", "on it goes", "--store", f"json://{directory}")


def test_other_keys_survive_a_repair(directory: Path) -> None:
    path = directory / "train-3.json"
    path.write_bytes(path.read_bytes().replace(b'"content": "At 17', b'"content": At 17'))

    doctor(directory, "--repair")

    shown = good("show", "train-3", "--store", f"json://{directory}", "--json").json
    assert shown["metadata"] == {"title": "Trains to Ghent"}
    assert shown["state"] == {"step": 3}


def test_keys_of_praisonai_survive_a_repair(tmp_path: Path) -> None:
    document = {
        "session_id": "p",
        "messages": [{"role": "user", "content": "Hi"}, {"role": "user", "content": "Ho"}],
        "agent_name": "Bot",
        "runtime_state": {"a": {"b": {}}},
        "archived_messages": [{"role": "user", "content": "old"}],
        "children_ids": ["x"],
    }
    text = json.dumps(document, indent=2).replace('"Ho"', "Ho")
    (tmp_path / "p.json").write_text(text, encoding="utf-8")

    doctor(tmp_path, "--repair")

    repaired = json.loads((tmp_path / "p.json").read_text(encoding="utf-8"))
    assert [message["content"] for message in repaired["messages"]] == ["Hi"]
    for key in ("session_id", "agent_name", "runtime_state", "archived_messages", "children_ids"):
        assert repaired[key] == document[key]


@pytest.mark.parametrize("text", ["[]", "5", "nonsense", '{"foo": 1'])
def test_what_is_no_session_is_put_aside(directory: Path, text: str) -> None:
    (directory / "other.json").write_text(text, encoding="utf-8")

    assert [finding["kind"] for finding in doctor(directory)] == ["damaged"]
    doctor(directory, "--repair")

    assert not (directory / "other.json").exists()
    assert (directory / "other.json.damaged-1").read_text(encoding="utf-8") == text


def test_an_empty_file_is_put_aside(directory: Path) -> None:
    (directory / "empty.json").touch()

    assert [finding["kind"] for finding in doctor(directory)] == ["empty"]
    doctor(directory, "--repair")

    assert not (directory / "empty.json").exists()
    assert (directory / "empty.json.damaged-1").exists()


def test_a_misnamed_document_gets_its_name(directory: Path) -> None:
    expected = messages(directory)
    (directory / NAME).rename(directory / "copy.json")

    (finding,) = doctor(directory)
    assert (finding["kind"], finding["session_id"]) == ("misnamed", "cafe-1")

    doctor(directory, "--repair")
    assert messages(directory) == expected
    assert doctor(directory) == []


def test_a_misnamed_copy_is_put_aside(directory: Path) -> None:
    copy = (directory / NAME).read_bytes()
    good("add", "cafe-1", "user", "newer", "--store", f"json://{directory}")
    (directory / "copy.json").write_bytes(copy)

    doctor(directory, "--repair")

    assert (directory / "copy.json.damaged-1").read_bytes() == copy
    assert not (directory / "copy.json").exists()
    assert len(messages(directory)) == 6


def test_ids_that_share_a_name_are_fine(directory: Path) -> None:
    for session_id in ("a.b", "a_b", "a b"):
        good("add", session_id, "user", session_id, "--store", f"json://{directory}")

    assert doctor(directory) == []


def test_old_temporary_files_are_put_aside(directory: Path) -> None:
    old, young = directory / "tmpold.tmp", directory / "tmpnew.tmp"
    for path in (old, young):
        path.write_bytes(b"half")
    os.utime(old, (0, 0))

    assert [finding["path"] for finding in doctor(directory)] == [str(old)]
    doctor(directory, "--repair")

    assert young.exists()
    assert (directory / "tmpold.tmp.damaged-1").read_bytes() == b"half"


def test_what_praisonai_put_aside_is_named(directory: Path) -> None:
    (directory / "x.json.corrupt-1767225600000").write_bytes(b"?")

    assert [finding["kind"] for finding in doctor(directory)] == ["kept"]


def test_repair_waits_for_the_lock_and_says_so(directory: Path) -> None:
    path = directory / NAME
    path.write_bytes(cut_the_end(path.read_bytes()))
    (finding,) = _repair_json.examine(directory)
    fd = os.open(directory / f"{NAME}.lock", os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        with pytest.raises(LockTimeoutError):
            _repair_json.repair(finding, lock_timeout=0.1)
    finally:
        os.close(fd)

    assert _repair_json.repair(finding) is not None
