"""``import`` and ``export``: what goes in comes out."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import pty
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from asyncsessions import BaseSessionStore, Message
from asyncsessions.batching import Outcome
from asyncsessions.cli import verify
from asyncsessions.cli.common import safe_url
from asyncsessions.hooks import Append, Appended, Tail, Window
from asyncsessions.registry import STORES
from asyncsessions.stores._docplace import names_of
from asyncsessions.stores.jsonl import JSONLinesSessionStore
from tests.cli.helpers import DATA, bad, call, digests, good, records, with_store


def summary(record: dict[str, Any]) -> dict[str, Any]:
    """Return what of a session is the same before and after."""
    fields = {key: record.get(key) or None for key in ("metadata", "agent_name", "state")}
    messages = [
        {key: value for key, value in message.items() if key not in {"seq", "timestamp"}}
        for message in record["messages"]
    ]
    return {**fields, "messages": messages}


def test_import_brings_in_every_session_and_message(url: str) -> None:
    result = good("import", DATA, "--store", url, "--json").json

    assert result["imported"] == 6
    assert result["messages"] == 17
    assert result["skipped"] == []
    assert result["verified"] is True


def test_import_says_what_it_did(url: str) -> None:
    out = good("import", DATA, "--store", url).out

    shown = safe_url(url)
    assert out == f"imported 6 sessions with 17 messages into {shown}; all read back the same\n"


def test_export_gives_back_what_was_imported(filled: str) -> None:
    lines = good("export", "--store", filled).out.splitlines()

    exported = {record["session_id"]: record for record in map(json.loads, lines)}
    given = records()
    assert {sid: summary(record) for sid, record in exported.items()} == {
        sid: summary(record) for sid, record in given.items()
    }


def test_exported_messages_keep_times_and_unknown_keys(filled: str) -> None:
    lines = good("export", "--store", filled).out.splitlines()

    (parts,) = [record for line in lines if (record := json.loads(line))["session_id"] == "parts"]
    given = records()["parts"]["messages"]
    assert [{**message, "seq": 0} for message in parts["messages"]] == [
        {**message, "seq": 0} for message in given
    ]


def test_an_export_can_be_imported_into_another_kind_of_store(filled: str, tmp_path: Path) -> None:
    backup = tmp_path / "backup.jsonl"
    other = f"{'json' if filled.startswith('jsonl') else 'jsonl'}://{tmp_path / 'other'}"

    good("export", "--store", filled, "--output", backup)
    good("import", backup, "--store", other)

    def bare(text: str) -> dict[str, Any]:
        found = {}
        for line in text.splitlines():
            record = json.loads(line)
            found[record["session_id"]] = (record.get("metadata"), record["messages"])
        return found

    assert bare(good("export", "--store", other).out) == bare(backup.read_text(encoding="utf-8"))


def test_export_to_a_file_reports_for_machines(filled: str, tmp_path: Path) -> None:
    output = tmp_path / "backup.jsonl"

    result = good("export", "--store", filled, "-o", output, "--json").json

    assert result == {"exported": 6, "output": str(output), "complete": True}
    assert len(output.read_bytes().splitlines()) == 6


@pytest.mark.parametrize("kind", ["jsonl", "json"])
@pytest.mark.parametrize("form", ["jsonl", "mermaid"])
def test_export_replaces_no_file_of_the_store_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, form: str
) -> None:
    directory, link = tmp_path / "store", tmp_path / "link"
    good("import", DATA, "--store", f"{kind}://{directory}")
    link.symlink_to(directory / f"cafe-1.{kind}")
    before = digests(directory)
    monkeypatch.chdir(directory)

    for url in (f"{kind}://.", f"{kind}://{directory}"):
        for output in (f"cafe-1.{kind}", "new", directory / f"cafe-1.{kind}", link):
            args = ("export", "cafe-1", "--store", url, "--output", output, "--format", form)
            assert "in the directory of the store itself" in bad(1, *args)

    assert digests(directory) == before
    outside = ("export", "cafe-1", "--store", f"{kind}://.", "--format", form, "--output")
    good(*outside, tmp_path / "backup")
    assert "No such file" in bad(1, *outside, tmp_path / "no" / "backup")


def test_import_leaves_existing_sessions_alone(filled: str) -> None:
    good("add", "cafe-1", "user", "more", "--store", filled)

    result = call("import", DATA, "--store", filled, "--json")

    assert result.code == 0
    assert result.json["imported"] == 0
    assert {skip["reason"] for skip in result.json["skipped"]} == {"it exists"}
    shown = good("show", "cafe-1", "--store", filled, "--json").json
    assert len(shown["messages"]) == 6


def test_import_overwrites_when_told_to(filled: str) -> None:
    good("add", "cafe-1", "user", "more", "--store", filled)

    good("import", DATA, "--store", filled, "--overwrite")

    shown = good("show", "cafe-1", "--store", filled, "--json").json
    assert len(shown["messages"]) == 5


def test_a_bad_line_is_named_and_ends_the_import(url: str, tmp_path: Path) -> None:
    source = tmp_path / "some.jsonl"
    source.write_text('{"session_id": "a", "messages": []}\n{"session_id": \n', encoding="utf-8")

    error = bad(1, "import", source, "--store", url)

    assert f"{source}:2: this line isn't JSON" in error


@pytest.mark.parametrize("depth", [2_000, 100_000])
def test_a_line_that_is_nested_too_deep_is_named(tmp_path: Path, depth: int) -> None:
    source = tmp_path / "some.jsonl"
    source.write_text('{"session_id": "a", "messages": []}\n' + depth * "[", encoding="utf-8")

    error = bad(1, "import", source, "--store", f"jsonl://{tmp_path / 'store'}")

    assert f"{source}:2: this line is nested too deep" in error


def test_sessions_that_are_nested_too_deep_are_skipped(tmp_path: Path) -> None:
    source = tmp_path / "some.jsonl"
    # Long enough to be parsed in a thread, whose stack has more room.
    depths = range(900, 990, 5)
    line = '{"session_id": "%d", ' + 40_000 * " " + '"metadata": {"a": %s}}\n'
    lines = [line % (depth, depth * "[" + depth * "]") for depth in depths]
    source.write_text("".join(lines), encoding="utf-8")

    result = call("import", source, "--store", f"jsonl://{tmp_path / 'store'}", "--json")

    assert result.code == 1
    assert len(result.json["skipped"]) == len(depths)
    assert result.err == f"asyncsessions: {len(depths)} sessions could not be stored\n"


def test_a_session_that_cannot_be_stored_fails_the_import_but_not_the_others(
    url: str, tmp_path: Path
) -> None:
    source = tmp_path / "some.jsonl"
    source.write_text(
        '{"session_id": "a", "messages": [{"role": "user", "content": 5}]}\n'
        '{"session_id": "b", "messages": [{"role": "user", "content": "hi"}]}\n',
        encoding="utf-8",
    )

    result = call("import", source, "--store", url, "--json")

    assert result.code == 1
    assert result.json["imported"] == 1
    assert [skip["session_id"] for skip in result.json["skipped"]] == ["a"]
    assert result.err == "asyncsessions: 1 session could not be stored\n"


def test_import_of_a_missing_file(url: str) -> None:
    assert "no file or directory 'nowhere.jsonl'" in bad(
        1, "import", "nowhere.jsonl", "--store", url
    )


class ForgetfulStore(JSONLinesSessionStore):
    """Acknowledges the messages of one session without storing them."""

    async def _append(self, batch: Sequence[Append]) -> Sequence[Outcome[Appended]]:
        kept = [append for append in batch if append.session_id != "cafe-2"]
        outcomes = iter(await super()._append(kept))
        return [
            Appended(1, append.now) if append.session_id == "cafe-2" else next(outcomes)
            for append in batch
        ]


def test_an_import_that_reads_back_differently_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(STORES, "jsonl", f"{__name__}:ForgetfulStore")
    monkeypatch.setitem(sys.modules, __name__, sys.modules[ForgetfulStore.__module__])

    result = call("import", DATA, "--store", f"jsonl://{tmp_path / 'store'}", "--json")

    assert result.code == 1
    assert result.json["different"] == ["cafe-2"]
    assert "1 session read back differently from what was sent: 'cafe-2'" in result.err


def test_a_part_that_comes_too_late_is_missed(tmp_path: Path) -> None:
    message: dict[str, Any] = {"messages": [{"role": "user", "content": "x"}]}
    given: list[dict[str, Any]] = [
        {"session_id": "a"},
        {"session_id": "b"},
        {"session_id": "a", "part": 2},
    ]
    source = tmp_path / "given.jsonl"
    source.write_text("".join(json.dumps(each | message) + "\n" for each in given))

    result = call("import", str(source), "--store", f"jsonl://{tmp_path / 'store'}", "--json")

    assert result.code == 1
    told = json.loads(result.out)
    assert (told["verified"], told["different"]) == (False, ["a"])


class UnreadableStore(JSONLinesSessionStore):
    """Takes messages and can't give those of some sessions back."""

    async def _tail(self, session_id: str, window: Window) -> Tail | None:
        if session_id.startswith("cafe"):
            raise OSError(errno.EIO, "Input/output error")
        return await super()._tail(session_id, window)


def test_an_error_while_reading_back_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(STORES, "jsonl", f"{__name__}:UnreadableStore")
    monkeypatch.setitem(sys.modules, __name__, sys.modules[UnreadableStore.__module__])

    line = bad(1, "import", DATA, "--store", f"jsonl://{tmp_path / 'store'}")

    assert "Input/output error" in line
    assert "for session 'cafe" in line


def test_a_session_whose_id_is_too_long_stops_no_export(tmp_path: Path) -> None:
    url = f"json://{tmp_path}"
    odd = "🙂" * 140
    good("add", "a", "user", "needle", "--store", url)
    document = json.loads((tmp_path / "a.json").read_text()) | {"session_id": odd}
    (tmp_path / names_of(odd).suffixed).write_text(json.dumps(document))

    result = call("export", "--store", url)

    assert [json.loads(line)["session_id"] for line in result.out.splitlines()] == ["a"]
    assert result.code == 1
    assert "asyncsessions: warning: left out of the export: session" in result.err
    assert "Traceback" not in result.err
    assert call("search", "needle", "--store", url).code == 0


async def test_verification_sees_every_kind_of_change(tmp_path: Path) -> None:
    sent: list[dict[str, Any]] = [
        {"role": "user", "content": "a", "timestamp": 5.0},
        {"role": "user", "content": "b"},
    ]
    changes: list[list[dict[str, Any]]] = [
        sent[:1],
        sent[::-1],
        [sent[0], {**sent[1], "content": "c"}],
        [sent[0], {**sent[1], "name": "ann"}],
        [sent[0], {**sent[1], "metadata": {"a": 1}}],
        [*sent, sent[1]],
    ]
    async with JSONLinesSessionStore(tmp_path) as store:
        for number, stored in enumerate([sent, *changes]):
            await store.append(f"s{number}", stored)
        ledger = verify.Ledger()
        for number in range(len(changes) + 1):
            ledger.note({"session_id": f"s{number}", "messages": sent})
        report = await store.import_sessions([])

        different = await verify.check(store, ledger, report)

    assert sorted(different) == [f"s{number}" for number in range(1, len(changes) + 1)]


PRAISON = {
    "session_id": "bot:ann",
    "messages": [
        {"role": "user", "content": "Hi", "timestamp": "2026-01-01T00:00:00+00:00"},
        {"role": "assistant", "content": "", "timestamp": 5.5, "tool_calls": [{"id": "x"}]},
        "not a message",
        {"role": "tool", "tool_call_id": "x", "content": "fine", "timestamp": 6, "metadata": {}},
        {"role": "assistant", "content": {"type": "text", "text": "ok"}},
    ],
    "created_at": "2026-01-01T00:00:00+00:00",
    "updated_at": "2026-01-02T00:00:00+00:00",
    "agent_name": "Weather bot",
    "user_id": "ann",
    "agent_id": "agent-1",
    "gateway_session_id": "gw-1",
    "metadata": {"title": "Weather"},
    "runtime_state": {"r": {"t": {"x": 1}}},
    "last_compaction": {"summary": "They said hi.", "message_index": 3, "tokens_before": 9},
    "model": "some-model",
}


@pytest.fixture
def praison(tmp_path: Path) -> Path:
    """Return a directory as PraisonAI leaves it, with a damaged file."""
    directory = tmp_path / "praison"
    directory.mkdir()
    (directory / "bot_ann.json").write_text(json.dumps(PRAISON, indent=2), encoding="utf-8")
    (directory / "stem.json").write_text('{"messages": [{"role": "user"}]}', encoding="utf-8")
    (directory / "damaged.json").write_text('{"session_id": "damaged",\n "mess', encoding="utf-8")
    (directory / "bot_ann.json.lock").touch()
    return directory


def test_a_praisonai_directory_is_imported_but_for_damaged_files(
    praison: Path, tmp_path: Path
) -> None:
    url = f"jsonl://{tmp_path / 'store'}"

    result = call("import", praison, "--store", url, "--json")

    assert result.code == 0
    assert result.json["imported"] == 2
    (damaged,) = result.json["damaged"]
    assert damaged.startswith(f"{praison / 'damaged.json'}:2: this isn't JSON")

    async def read(store: BaseSessionStore) -> tuple[Any, list[Message]]:
        session = await store.get_session("bot:ann")
        return session, await store.get_messages("stem")

    session, stem = with_store(url, read)
    assert session.agent_name == "Weather bot"
    assert session.gateway_session_id == "gw-1"
    assert session.created_at == 1767225600.0
    assert session.metadata["model"] == "some-model"
    assert session.metadata["praisonai"] == {"runtime_state": {"r": {"t": {"x": 1}}}}
    assert [message.timestamp for message in session.messages[:3]] == [1767225600.0, 5.5, 6.0]
    assert session.messages[3].content == [{"type": "text", "text": "ok"}]
    # Three entries were covered, and one of them was no message.
    assert (session.checkpoint.summary, session.checkpoint.seq) == ("They said hi.", 2)
    assert [(message.role, message.content) for message in stem] == [("user", "")]


def test_a_praisonai_export_is_imported(tmp_path: Path) -> None:
    url = f"jsonl://{tmp_path / 'store'}"
    source = tmp_path / "export.json"
    source.write_text(json.dumps({"version": 1, "sessions": [PRAISON]}, indent=2), encoding="utf-8")

    assert good("import", source, "--store", url, "--json").json["imported"] == 1

    shown = good("show", "bot:ann", "--store", url, "--json").json
    assert len(shown["messages"]) == 4


def test_the_directory_of_a_json_store_is_imported_whole(tmp_path: Path) -> None:
    source, url = tmp_path / "source", f"jsonl://{tmp_path / 'store'}"
    good("import", DATA, "--store", f"json://{source}")

    assert good("import", source, "--store", url, "--json").json["imported"] == 6

    session = good("show", "parts", "--store", url, "--json").json
    assert session["messages"][0]["name"] == "ann"
    assert session["messages"][1]["finish_reason"] == "stop"
    assert session["messages"][0]["metadata"] == {"client": "web", "tags": ["a", "b"]}
    assert good("show", "train-3", "--store", url, "--json").json["state"] == {"step": 3}


def test_an_export_that_lacks_a_damaged_session_fails(tmp_path: Path) -> None:
    url = f"jsonl://{tmp_path / 'store'}"
    good("import", DATA, "--store", url)
    path = tmp_path / "store" / "cafe-1.jsonl"
    path.write_bytes(path.read_bytes()[:-20] + b"x" * 19 + b"\n")

    result = call("export", "--store", url)

    assert result.code == 1
    assert len(result.out.splitlines()) == 5
    assert "warning: left out" in result.err
    assert "cafe-1" in result.err


def test_a_store_is_imported_into_another(filled: str, tmp_path: Path) -> None:
    target = f"jsonl://{tmp_path / 'target'}"

    result = good("import", filled, "--store", target, "--json").json

    assert (result["imported"], result["messages"], result["verified"]) == (6, 17, True)
    exported = map(json.loads, good("export", "--store", target).out.splitlines())
    after = {record["session_id"]: summary(record) for record in exported}
    assert after == {sid: summary(record) for sid, record in records().items()}
    again = good("import", target, "--store", filled, "--overwrite", "--json").json
    assert (again["imported"], again["verified"]) == (6, True)


def test_a_store_is_not_imported_into_itself(filled: str) -> None:
    assert "both where from and where to" in bad(2, "import", filled, "--store", filled)
    before = good("export", "--store", filled).out
    sign = "&" if "?" in filled else "?"
    same = f"{filled}{sign}max_message_bytes=9000000"
    line = bad(1, "import", same, "--store", filled, "--overwrite")
    assert "both where from and where to" in line
    assert good("export", "--store", filled).out == before


def test_a_directory_is_not_imported_into_itself(tmp_path: Path) -> None:
    directory = tmp_path / "store"
    good("import", DATA, "--store", f"json://{directory}")
    before = sorted((path.name, path.read_bytes()) for path in directory.glob("*.json"))
    line = bad(1, "import", directory, "--store", f"json://{directory}", "--overwrite")
    assert "both where from and where to" in line
    assert sorted((path.name, path.read_bytes()) for path in directory.glob("*.json")) == before


def test_import_from_a_store_that_does_not_exist(url: str, tmp_path: Path) -> None:
    line = bad(1, "import", f"jsonl://{tmp_path / 'missing'}", "--store", url)
    assert "there is no directory" in line


def test_import_from_a_damaged_store_says_what_is_left_out(tmp_path: Path) -> None:
    source = f"jsonl://{tmp_path / 'source'}"
    good("import", DATA, "--store", source)
    path = max((tmp_path / "source").glob("*.jsonl"), key=lambda each: each.stat().st_size)
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2 : len(damaged) // 2 + 4] = b'"\xff}{'
    path.write_bytes(damaged)

    result = call("import", source, "--store", f"jsonl://{tmp_path / 'target'}", "--json")

    assert result.json["imported"] == 5
    assert len(result.json["damaged"]) == 1


@pytest.mark.parametrize("kind", ["jsonl", "json"])
def test_import_from_a_store_whose_lists_leave_a_session_out_says_so(
    tmp_path: Path, kind: str
) -> None:
    source, target = f"{kind}://{tmp_path / 'source'}", f"jsonl://{tmp_path / 'target'}"
    good("import", DATA, "--store", source)
    for name in ("cafe-1", "cafe-2"):
        path = tmp_path / "source" / f"{name}.{kind}"
        path.write_bytes(path.read_bytes()[:-20] + 19 * b"x" + b"\n")

    result = call("import", source, "--store", target, "--json")

    assert (result.code, result.err, result.json["imported"]) == (0, "", 4)
    first, second = sorted(result.json["damaged"])
    assert f"cafe-1.{kind}" in first
    assert f"cafe-2.{kind}" in second
    again = call("import", source, "--store", target)
    assert again.err.count("left out: ") == again.err.count("\n") == 2


def test_import_tells_damage_of_both_kinds(tmp_path: Path) -> None:
    source = f"jsonl://{tmp_path / 'source'}"
    good("import", DATA, "--store", source)
    directory = tmp_path / "source"
    unlisted, *listed = (directory / f"{name}.jsonl" for name in ("cafe-1", "cafe-2", "train-3"))
    unlisted.write_bytes(unlisted.read_bytes()[:-20] + 19 * b"x" + b"\n")
    for path in listed:
        path.write_bytes(path.read_bytes().replace(b'{"seq":2,', b'{"seX":2,'))

    result = call("import", source, "--store", f"jsonl://{tmp_path / 'target'}", "--json")

    damaged = sorted(result.json["damaged"])
    assert len(damaged) == 3
    for path, text in zip((unlisted, *listed), damaged, strict=True):
        assert str(path) in text


class WarningStore(JSONLinesSessionStore):
    """Warns of what has nothing to do with what it lists, and while it is written to."""

    async def _append(self, batch: Sequence[Append]) -> Sequence[Outcome[Appended]]:
        logging.getLogger("asyncsessions.stores").warning("left out of the list: another one")
        return await super()._append(batch)

    async def _tail(self, session_id: str, window: Window) -> Tail | None:
        logging.getLogger("asyncsessions.stores").warning("something else")
        return await super()._tail(session_id, window)


def test_other_warnings_are_shown_while_a_store_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = f"jsonl://{tmp_path / 'source'}"
    good("import", DATA, "--store", source)
    monkeypatch.setitem(STORES, "jsonl", f"{__name__}:WarningStore")
    monkeypatch.setitem(sys.modules, __name__, sys.modules[WarningStore.__module__])

    result = call("import", source, "--store", f"jsonl://{tmp_path / 'target'}", "--json")

    assert (result.code, result.json["damaged"]) == (0, [])
    assert set(result.err.splitlines()) == {
        "asyncsessions: warning: left out of the list: another one",
        "asyncsessions: warning: something else",
    }


def test_a_terminal_shows_how_far_an_import_is(tmp_path: Path) -> None:
    terminal, end = pty.openpty()
    command = [sys.executable, "-m", "asyncsessions", "import", str(DATA)]
    with subprocess.Popen(
        [*command, "--store", f"jsonl://{tmp_path / 'store'}"],
        stdout=end,
        stderr=end,
        env=os.environ | {"TERM": "xterm", "COLUMNS": "100"},
    ) as process:
        os.close(end)
        shown = b""
        # A terminal without writers is an error to read from.
        with contextlib.suppress(OSError):
            while block := os.read(terminal, 1 << 16):
                shown += block
    os.close(terminal)
    assert process.returncode == 0
    assert b"importing" in shown
    assert b"checking" in shown
    assert b"6/6" in shown
    assert b"imported 6 sessions" in shown.splitlines()[-1]
