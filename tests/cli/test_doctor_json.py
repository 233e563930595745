"""``doctor`` on JSON stores."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from asyncsessions import BaseSessionStore, LockTimeoutError, Message
from asyncsessions.hierarchy import HierarchicalSessionStore
from asyncsessions.stores import _repair_json
from asyncsessions.stores._docplace import lock_of, names_of
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


def change_what_is_hidden_in_the_third(data: bytes) -> bytes:
    head, last = data.rsplit(b'"name": "add_order_item"', 1)
    return head + b'"name": 5' + last


def garble_the_last(data: bytes) -> bytes:
    return data.replace(b'"content": "no"', b'"content": no"')


def garble_the_third_and_the_last(data: bytes) -> bytes:
    return garble_the_last(data).replace(b'"role": "tool"', b'"role": tool"')


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
        (change_what_is_hidden_in_the_third, [1, 2, 4, 5]),
        (garble_the_last, [1, 2, 3, 4]),
        (garble_the_third_and_the_last, [1, 2, 4]),
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
    assert messages(directory) == [before[seq] for seq in left]
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


async def fill(store: BaseSessionStore) -> None:
    for number in range(1, 6):
        await store.add_message("s", "user", f"m{number}")


def repair_without(directory: Path, *texts: str) -> None:
    """Damage messages of the session ``s``, and repair what is left."""
    path = directory / "s.json"
    data = path.read_bytes()
    for text in texts:
        data = data.replace(f'"{text}"'.encode(), f'{text}"'.encode())
    path.write_bytes(data)
    (finding,) = _repair_json.examine(directory)
    assert _repair_json.repair(finding) is not None


def test_a_fork_shows_the_same_when_the_newest_message_is_lost(tmp_path: Path) -> None:
    url = f"json://{tmp_path}"

    async def fork(store: BaseSessionStore) -> str:
        await fill(store)
        return await HierarchicalSessionStore(store).fork_session("s", from_seq=3)

    async def shown(store: BaseSessionStore) -> list[tuple[int, object]]:
        found = await HierarchicalSessionStore(store).get_messages(forked)
        return [(message.seq, message.content) for message in found]

    forked = with_store(url, fork)
    repair_without(tmp_path, "m5")

    assert with_store(url, shown) == [(1, "m1"), (2, "m2"), (3, "m3")]
    good("add", "s", "user", "m6", "--store", url)
    assert [message.seq for message in messages(tmp_path, "s")] == [1, 2, 3, 4, 6]


def test_the_newest_message_is_lost_and_another_program_added_some(tmp_path: Path) -> None:
    with_store(f"json://{tmp_path}", fill)
    path = tmp_path / "s.json"
    document = json.loads(path.read_text(encoding="utf-8"))
    document["messages"] += said(2, start=6)
    path.write_text(json.dumps(document, indent=2), encoding="utf-8")

    repair_without(tmp_path, "m2", "m5")

    left = [(message.seq, message.content) for message in messages(tmp_path, "s")]
    assert left == [(1, "m1"), (3, "m3"), (4, "m4"), (6, "m6"), (7, "m7")]


def test_messages_count_as_new_where_the_place_of_a_lost_one_cannot_be_told(tmp_path: Path) -> None:
    with_store(f"json://{tmp_path}", fill)
    path = tmp_path / "s.json"
    head, last = path.read_bytes().rsplit(b'"role"', 1)
    path.write_bytes(head + b'role"' + last)

    repair_without(tmp_path, "m2")

    left = [(message.seq, message.content) for message in messages(tmp_path, "s")]
    assert left == [(6, "m1"), (7, "m3"), (8, "m4")]


@pytest.mark.parametrize(
    ("lost", "left"),
    [
        (["m2"], ["m4", "m5"]),
        (["m3"], ["m4", "m5"]),
        (["m1", "m4"], ["m5"]),
        (["m5"], ["m4"]),
        (["m1", "m2", "m3"], ["m4", "m5"]),
    ],
)
def test_a_checkpoint_covers_the_same_when_messages_are_lost(
    tmp_path: Path, lost: list[str], left: list[str]
) -> None:
    async def compact(store: BaseSessionStore) -> None:
        await fill(store)
        await store.append_compaction_checkpoint("s", "so far", seq=3)

    async def working(store: BaseSessionStore) -> list[object]:
        return [message["content"] for message in await store.get_working_history("s")]

    with_store(f"json://{tmp_path}", compact)
    repair_without(tmp_path, *lost)

    assert with_store(f"json://{tmp_path}", working) == ["so far", *left]


def said(count: int, *, start: int = 0) -> list[dict[str, object]]:
    """Return messages as PraisonAI stores them."""
    return [
        {"role": "user", "content": f"m{number}", "timestamp": 1.0 + number, "metadata": {}}
        for number in range(start, start + count)
    ]


def contents_of(entries: list[dict[str, object]]) -> list[object]:
    return [entry["content"] for entry in entries]


def repaired(directory: Path, name: str, data: bytes) -> dict[str, Any]:
    """Return a damaged document as it is after its repair, without what is this library's."""
    path = directory / name
    path.write_bytes(data)
    (finding,) = _repair_json.examine(directory)
    assert _repair_json.repair(finding) is not None
    document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    document["metadata"].pop("asyncsessions", None)
    return document


LAYOUTS: dict[str, dict[str, Any]] = {
    "indented by two": {"indent": 2},
    "indented by four": {"indent": 4},
    "in one line": {},
    "compact": {"separators": (",", ":")},
}


def praisonai(layout: str, **values: object) -> bytes:
    """Return a document of PraisonAI, with two kinds of messages that aren't the session's."""
    document = {
        "session_id": "p",
        "messages": said(10),
        "created_at": "2026-01-01T00:00:00+00:00",
        "agent_name": "Bot",
        "metadata": {"agent_histories": {"a:b": said(2, start=200)}},
        "runtime_state": {"a": {"role": "x"}},
        "archived_messages": said(50, start=100),
        "snapshots": [{"id": "1", "session_id": "p", "transcript": said(2, start=300)}],
        **values,
    }
    return json.dumps(document, **LAYOUTS[layout]).encode()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("old", "new"), [(b'"m130"', b"m130"), (b"m130", b"m\xff130")])
def test_one_damaged_archived_message_leaves_the_others(
    tmp_path: Path, layout: str, old: bytes, new: bytes
) -> None:
    document = repaired(tmp_path, "p.json", praisonai(layout).replace(old, new))

    expected = contents_of(said(50, start=100))
    expected.remove("m130")
    assert contents_of(document["archived_messages"]) == expected
    assert document["messages"] == said(10)
    assert document["agent_name"] == "Bot"


@pytest.mark.parametrize("layout", LAYOUTS)
def test_one_damaged_message_leaves_the_others(tmp_path: Path, layout: str) -> None:
    data = praisonai(layout).replace(b'"m3"', b"m3")

    document = repaired(tmp_path, "p.json", data)

    assert contents_of(document["messages"]) == ["m0", "m1", "m2", *contents_of(said(6, start=4))]
    assert document["metadata"] == json.loads(praisonai(layout))["metadata"]
    assert document["archived_messages"] == said(50, start=100)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("start", [0, 1, 14])
@pytest.mark.parametrize("junk", [b"\0", b"\xff", b" ", b"x"])
def test_messages_behind_a_damaged_start_are_kept(
    tmp_path: Path, layout: str, start: int, junk: bytes
) -> None:
    data = praisonai(layout)
    end = data.index(b"[") + 1
    data = data[:start] + junk * (end - start) + data[end:]

    document = repaired(tmp_path, "p.json", data)

    assert document["session_id"] == "p"
    assert document["messages"] == said(10)
    for key in ("created_at", "agent_name", "metadata", "archived_messages", "snapshots"):
        assert document[key] == json.loads(praisonai(layout))[key], key


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("key", [b'"messages"', b'"archived_messages"'])
def test_messages_behind_a_damaged_key_stay_where_they_belong(
    tmp_path: Path, layout: str, key: bytes
) -> None:
    data = praisonai(layout).replace(key, b'"\xff' + key[2:])

    document = repaired(tmp_path, "p.json", data)

    assert document["messages"] == said(10)
    assert document["archived_messages"] == said(50, start=100)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_messages_inside_of_damaged_metadata_are_not_the_sessions(
    tmp_path: Path, layout: str
) -> None:
    data = praisonai(layout).replace(b'"m200"', b"m200")

    document = repaired(tmp_path, "p.json", data)

    assert document["messages"] == said(10)
    assert document["archived_messages"] == said(50, start=100)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_value_without_its_end_does_not_take_the_archive_along(
    tmp_path: Path, layout: str
) -> None:
    data = praisonai(layout)
    at = data.rindex(b"}", 0, data.index(b'"archived_messages"'))

    document = repaired(tmp_path, "p.json", data[:at] + b" " + data[at + 1 :])

    assert document["messages"] == said(10)
    assert document["archived_messages"] == said(50, start=100)
    assert document["runtime_state"]["a"] == {"role": "x"}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_message_without_its_end_does_not_take_the_archive_along(
    tmp_path: Path, layout: str
) -> None:
    data = praisonai(layout)
    start = data.index(b"etadata", data.index(b'"m5"'))

    document = repaired(tmp_path, "p.json", data[:start] + data[data.index(b"gent_name") :])

    assert document["messages"][:5] == said(5)
    assert document["archived_messages"] == said(50, start=100)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_an_older_document_left_behind_the_end_is_no_part(tmp_path: Path, layout: str) -> None:
    older = praisonai(layout, agent_name="Old")

    document = repaired(tmp_path, "p.json", praisonai(layout) + older[40:])

    assert document == json.loads(praisonai(layout)) | {"agent_name": "Bot"} | {
        key: document[key] for key in document.keys() - json.loads(older).keys()
    }


def test_a_list_of_messages_of_another_program_is_put_aside(tmp_path: Path) -> None:
    path = tmp_path / "log.json"
    path.write_text(json.dumps(said(2), indent=2), encoding="utf-8")

    doctor(tmp_path, "--repair")

    assert not path.exists()
    assert (tmp_path / "log.json.damaged-1").exists()


def garble_any_id(data: bytes) -> bytes:
    return data.replace(b'"session_id": "', b'"session_id": ', 1)


def name_of(directory: Path, session_id: str) -> Path:
    """Return the file of a session."""
    names = names_of(session_id)
    suffixed = directory / names.suffixed
    return suffixed if suffixed.exists() else directory / str(names.primary)


@pytest.mark.parametrize("order", [("user:42", "user_42"), ("user_42", "user:42")])
def test_messages_stay_with_an_id_that_needs_escaping(
    tmp_path: Path, order: tuple[str, str]
) -> None:
    for session_id in order:
        good("add", session_id, "user", f"of {session_id}", "--store", f"json://{tmp_path}")
    path = name_of(tmp_path, "user:42")
    path.write_bytes(garble_any_id(path.read_bytes()))

    (finding,) = doctor(tmp_path, "--repair")

    assert (finding["session_id"], finding["error"]) == ("user:42", None)
    assert [found["kind"] for found in doctor(tmp_path)] == ["kept"]
    for session_id in order:
        assert [m.content for m in messages(tmp_path, session_id)] == [f"of {session_id}"]


def test_messages_whose_id_is_lost_go_to_nobody(tmp_path: Path) -> None:
    """The name is that of ``user:42``, ``user.42`` and others."""
    path = tmp_path / "user_42.json"
    damaged = garble_any_id(praisonai("indented by two", session_id="user:42"))
    path.write_bytes(damaged)

    (finding,) = doctor(tmp_path, "--repair")

    assert finding["session_id"] is None
    assert "whose session it is" in str(finding["error"])
    assert path.read_bytes() == damaged
    assert not (tmp_path / "user_42.json.damaged-1").exists()

    path.write_bytes(b'{"session_id": "user:42", ' + damaged)
    doctor(tmp_path, "--repair")
    assert len(messages(tmp_path, "user:42")) == 10


def test_a_copy_under_another_name_becomes_nobody_elses(directory: Path) -> None:
    damaged = garble_any_id((directory / NAME).read_bytes())
    (directory / "copy.json").write_bytes(damaged)

    (finding,) = doctor(directory, "--repair")

    assert (finding["session_id"], finding["repaired"]) == (None, None)
    assert (directory / "copy.json").read_bytes() == damaged


def test_a_name_whose_session_has_another_file_tells_no_id(tmp_path: Path) -> None:
    good("add", "a", "user", "mine", "--store", f"json://{tmp_path}")
    (tmp_path / "a.json").rename(tmp_path / names_of("a").suffixed)
    damaged = garble_any_id(praisonai("indented by two", session_id="a"))
    (tmp_path / "a.json").write_bytes(damaged)

    (finding,) = doctor(tmp_path, "--repair")

    assert "whose session it is" in str(finding["error"])
    assert (tmp_path / "a.json").read_bytes() == damaged
    assert [message.content for message in messages(tmp_path, "a")] == ["mine"]


def test_a_document_without_an_id_stays_under_its_suffixed_name(tmp_path: Path) -> None:
    for session_id in ("a_b", "a.b"):
        good("add", session_id, "user", session_id, "--store", f"json://{tmp_path}")
    path = tmp_path / names_of("a.b").suffixed
    document = json.loads(path.read_text(encoding="utf-8"))
    del document["session_id"]
    path.write_text(json.dumps(document), encoding="utf-8")

    assert doctor(tmp_path, "--repair") == []

    assert [message.content for message in messages(tmp_path, "a.b")] == ["a.b"]


@pytest.mark.parametrize("text", ["[]", "5", "nonsense", '{"foo": 1', '{"role": "user", x'])
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


def test_a_file_of_only_spaces_is_put_aside(directory: Path) -> None:
    path = directory / "blank.json"
    path.write_bytes(b" \n\n")

    assert [finding["kind"] for finding in doctor(directory)] == ["empty"]
    doctor(directory, "--repair")

    assert not path.exists()
    assert (directory / "blank.json.damaged-1").read_bytes() == b" \n\n"


def test_a_file_that_is_no_longer_empty_stays(directory: Path) -> None:
    path = directory / "empty.json"
    path.touch()
    (finding,) = _repair_json.examine(directory)
    path.write_bytes(b'{"session_id": "empty"}')

    assert _repair_json.repair(finding) is None

    assert path.exists()


def test_a_misnamed_document_gets_its_name(directory: Path) -> None:
    expected = messages(directory)
    (directory / NAME).rename(directory / "copy.json")

    (finding,) = doctor(directory)
    assert (finding["kind"], finding["session_id"]) == ("misnamed", "cafe-1")

    doctor(directory, "--repair")
    assert messages(directory) == expected
    assert doctor(directory) == []


@pytest.mark.parametrize("name", ["tsconfig.base.json", "a b.json", f"{'x' * 250}.json"])
@pytest.mark.parametrize("text", ['{"compilerOptions": {}}', '{\n  "messages": []\n}', "{}"])
def test_a_document_without_an_id_keeps_its_name(directory: Path, name: str, text: str) -> None:
    (directory / name).write_text(text, encoding="utf-8")
    before = contents(directory)

    assert doctor(directory, "--repair") == []

    assert contents(directory) == before


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


@pytest.mark.parametrize("session_id", ["user:42", "cafe-1"])
def test_a_temporary_file_that_a_writer_uses_again_stays(directory: Path, session_id: str) -> None:
    good("add", session_id, "user", "x", "--store", f"json://{directory}")
    temp = directory / names_of(session_id).temp
    temp.write_bytes(b"half")
    os.utime(temp, (0, 0))
    (finding,) = _repair_json.examine(directory)
    fd = os.open(directory / names_of(session_id).lock, os.O_RDWR)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        with pytest.raises(LockTimeoutError) as caught:
            _repair_json.repair(finding, lock_timeout=0.1)
        assert caught.value.session_id == session_id
        temp.write_bytes(b"new")
    finally:
        os.close(fd)

    assert _repair_json.repair(finding) is None

    assert temp.read_bytes() == b"new"


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


@pytest.mark.parametrize("kind", ["damaged", "empty"])
def test_the_lock_is_that_of_the_session_and_not_of_the_name(tmp_path: Path, kind: str) -> None:
    for session_id in ("a_b", "a.b"):
        good("add", session_id, "user", session_id, "--store", f"json://{tmp_path}")
    path = tmp_path / names_of("a.b").suffixed
    path.write_bytes(b"nonsense" if kind == "damaged" else b"")
    (finding,) = _repair_json.examine(tmp_path)
    assert (finding.kind, finding.session_id) == (kind, None)
    fd = os.open(tmp_path / names_of("a.b").lock, os.O_RDWR)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        with pytest.raises(LockTimeoutError):
            _repair_json.repair(finding, lock_timeout=0.1)
    finally:
        os.close(fd)

    assert _repair_json.repair(finding) is not None
    assert not path.exists()


@pytest.mark.parametrize("session_id", ["a", "a.b", "x" * 100, "x" * 230, "x" * 250, "äöü " * 40])
def test_a_name_tells_the_lock_or_nothing(session_id: str) -> None:
    names = names_of(session_id)
    if names.primary is not None:
        assert lock_of(names.primary) == names.lock
    assert lock_of(names.suffixed) in {names.lock, None}
