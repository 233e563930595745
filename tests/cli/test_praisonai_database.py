"""``import`` of PraisonAI's ``sessions.db``: as it was closed, as a crash left it, and damaged."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from asyncsessions.testing.timing import LONG_ENOUGH
from tests.cli.helpers import call, contents, digests, exported, good

TABLE = """
CREATE TABLE IF NOT EXISTS sessions (session_id TEXT PRIMARY KEY, data TEXT NOT NULL,
agent_name TEXT, gateway_session_id TEXT, agent_id TEXT, updated_at TEXT);
CREATE INDEX IF NOT EXISTS idx_sessions_updated ON sessions(updated_at);
"""
WRITER = f"""
import json, os, sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("PRAGMA journal_mode=" + sys.argv[2])
connection.executescript({TABLE!r})
for number in range(int(sys.argv[3])):
    message = {{"role": "user", "content": f"hi {{number}} " * 200, "timestamp": 5.5}}
    data = json.dumps({{"session_id": f"s{{number:03}}", "messages": [message]}})
    insert = "INSERT OR REPLACE INTO sessions (session_id, data) VALUES (?, ?)"
    connection.execute(insert, (f"s{{number:03}}", data))
if sys.argv[4] == "stay":
    print("ready", flush=True)
    sys.stdin.readline()
elif sys.argv[4] == "die":
    os._exit(0)
connection.close()
"""


def write_database(path: Path, mode: str = "wal", count: int = 5, end: str = "die") -> None:
    """Let another process write a database, and close it or leave it as a crash does."""
    path.parent.mkdir(exist_ok=True)
    command = [sys.executable, "-c", WRITER, str(path), mode, str(count), end]
    subprocess.run(command, check=True, timeout=LONG_ENOUGH)


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "sessions" / "sessions.db"


@pytest.mark.parametrize("mode", ["wal", "delete"])
def test_a_database_that_was_closed_is_read_without_a_trace(
    database: Path, target: str, mode: str
) -> None:
    write_database(database, mode, end="close")
    before = digests(database.parent)

    assert good("import", database.parent, "--store", target, "--json").json["imported"] == 5

    assert before.keys() == {"sessions.db"}
    assert digests(database.parent) == before


@pytest.mark.parametrize("lost", [[], ["-shm"]], ids=["as it was", "copied without -shm"])
def test_what_a_crash_left_in_the_log_is_read(database: Path, target: str, lost: list[str]) -> None:
    write_database(database)
    for suffix in lost:
        Path(f"{database}{suffix}").unlink()
    before = digests(database.parent)

    assert good("import", database.parent, "--store", target, "--json").json["imported"] == 5

    after = digests(database.parent)
    # Readers mark in the -shm file how far they have read, which is of no account after a crash.
    assert {**after, "sessions.db-shm": ""} == {**before, "sessions.db-shm": ""}
    assert after.keys() == before.keys()
    assert Path(f"{database}-wal").stat().st_size > database.stat().st_size


def test_a_database_in_use_is_read(database: Path, target: str) -> None:
    database.parent.mkdir()
    command = [sys.executable, "-c", WRITER, str(database), "wal", "5", "stay"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
        assert good("import", database.parent, "--store", target, "--json").json["imported"] == 5
        writer.communicate("\n", timeout=LONG_ENOUGH)
    assert writer.returncode == 0


def test_a_transaction_that_a_crash_left_half_done_is_taken_back(
    database: Path, target: str
) -> None:
    write_database(database, "delete", end="close")
    code = """
import os, sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
# With so small a cache, changes reach the file before the commit.
connection.execute("PRAGMA cache_size=1")
connection.execute("PRAGMA cache_spill=1")
connection.execute("BEGIN IMMEDIATE")
connection.execute("UPDATE sessions SET data = '{\\"session_id\\": \\"gone\\"}' || data")
os._exit(0)
"""
    subprocess.run([sys.executable, "-c", code, str(database)], check=True, timeout=LONG_ENOUGH)
    assert Path(f"{database}-journal").stat().st_size
    before = digests(database.parent)

    assert good("import", database.parent, "--store", target, "--json").json["imported"] == 5

    assert all(contents(record)[0].startswith("hi ") for record in exported(target).values())
    assert digests(database.parent) == before


def test_damaged_rows_are_named_and_the_others_imported(database: Path, target: str) -> None:
    write_database(database, end="close")
    with sqlite3.connect(database) as connection:
        update = "UPDATE sessions SET data = ? WHERE session_id = ?"
        connection.execute(update, ('{"session_id": "s001", "mess', "s001"))
        connection.execute(update, (b"\xff\xfe", "s002"))
        connection.execute(update, ("[]", "s003"))
        # SQLite lets a text be any bytes.
        connection.execute("UPDATE sessions SET data = CAST(x'7bff' AS TEXT) WHERE rowid = 5")
    connection.close()

    result = call("import", database.parent, "--store", target, "--json").json

    assert result["imported"] == 1
    assert exported(target).keys() == {"s000"}
    assert [text.split(": ")[1] for text in result["damaged"]] == [
        f"the session 's00{n}' is damaged" for n in range(1, 5)
    ]


def test_rows_without_an_id_are_kept_apart(database: Path, target: str) -> None:
    write_database(database, count=1, end="close")
    with sqlite3.connect(database) as connection:
        for content in "ab":
            data = f'{{"messages": [{{"role": "user", "content": "{content}"}}]}}'
            connection.execute("INSERT INTO sessions (data) VALUES (?)", (data,))
    connection.close()

    good("import", database.parent, "--store", target)

    found = exported(target)
    assert contents(found["@sessions.db:2"]) + contents(found["@sessions.db:3"]) == ["a", "b"]


def test_a_view_without_end_is_refused(database: Path, target: str) -> None:
    write_database(database, count=1, end="close")
    rows = "SELECT 's', '{}' UNION ALL SELECT session_id || 'x', data FROM endless"
    with sqlite3.connect(database) as connection:
        connection.execute("DROP TABLE sessions")
        connection.execute(
            f"CREATE VIEW sessions AS WITH RECURSIVE endless (session_id, data) AS ({rows}) "
            "SELECT * FROM endless"
        )
    connection.close()

    result = call("import", database.parent, "--store", target, "--json")

    (text,) = result.json["damaged"]
    assert text.endswith("this database has a view in place of its table of sessions")


def test_a_damaged_page_stops_only_what_is_on_it(database: Path, target: str) -> None:
    write_database(database, count=60, end="close")
    data = bytearray(database.read_bytes())
    for page in range(8, 12):
        data[page * 4096 : (page + 1) * 4096] = b"\xa5" * 4096
    database.write_bytes(data)
    (database.parent / "a.json").write_text('{"session_id": "a"}', encoding="utf-8")

    result = call("import", database.parent, "--store", target, "--json")

    found = exported(target)
    assert "a" in found
    assert 40 < len(found) < 61
    named = {sid for n in range(60) for sid in [f"s{n:03}"] if sid in str(result.json["damaged"])}
    assert found.keys() - {"a"} == {f"s{n:03}" for n in range(60)} - named
    assert result.code == 0


def test_a_damaged_index_costs_no_session(database: Path, target: str) -> None:
    write_database(database, count=20, end="close")
    with sqlite3.connect(database) as connection:
        query = "SELECT rootpage FROM sqlite_master WHERE name = 'sqlite_autoindex_sessions_1'"
        ((page,),) = connection.execute(query)
    connection.close()
    data = bytearray(database.read_bytes())
    data[(page - 1) * 4096 : page * 4096] = b"\xa5" * 4096
    database.write_bytes(data)

    result = call("import", database.parent, "--store", target, "--json").json

    assert result["imported"] == 20
    (text,) = result["damaged"]
    assert text.startswith(f"{database}: this database is damaged (")


@pytest.mark.parametrize(
    "data", [b"", b"no database at all", b"SQLite format 3\x00" + b"\x00" * 5000]
)
def test_what_is_no_database_is_named(database: Path, target: str, data: bytes) -> None:
    database.parent.mkdir()
    database.write_bytes(data)
    (database.parent / "a.json").write_text('{"session_id": "a"}', encoding="utf-8")

    result = call("import", database.parent, "--store", target, "--json").json

    assert result["imported"] == 1
    (text,) = result["damaged"]
    assert text.startswith(f"{database}: this database can't be read (")
