"""The servers that tests start: real, restartable, and gone afterwards."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from asyncsessions.testing.servers import (
    MongoServer,
    PostgresServer,
    RedisClusterServers,
    RedisServer,
    Server,
)
from asyncsessions.testing.timing import LONG_ENOUGH


def is_listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.parametrize("kind", [RedisServer, PostgresServer, MongoServer])
def test_server_restarts_and_leaves_nothing(kind: type[Server]) -> None:
    with kind() as server:
        assert is_listening(server.port)
        before = server.process_id
        server.restart()
        assert is_listening(server.port)
        assert server.process_id != before
        assert server.directory.is_dir()
    assert not is_listening(server.port)
    assert not server.directory.exists()


def test_redis_keeps_what_it_acknowledged_through_a_crash() -> None:
    with RedisServer(password="secret") as server:
        assert server.command("SET", "key", "value") == "+OK\r\n"
        server.restart()
        assert server.command("GET", "key") == "$5\r\nvalue\r\n"


def test_redis_forgets_a_transaction_whose_end_a_crash_has_cut_off() -> None:
    script = "redis.call('RPUSH', 'list', ARGV[1]) redis.call('SET', 'newest', ARGV[1])"
    with RedisServer() as server:
        server.command("EVAL", script, "0", "one")
        server.kill()
        [file] = server.directory.rglob("*.aof")
        with file.open("ab") as log:
            log.write(b"*1\r\n$5\r\nMULTI\r\n*3\r\n$5\r\nRPUSH\r\n$4\r\nlist\r\n$4\r\ntorn\r\n*3")
        server.start()
        server.command("EVAL", script, "0", "two")
        server.restart()
        assert server.command("LRANGE", "list", "0", "-1") == "*2\r\n$3\r\none\r\n$3\r\ntwo\r\n"


def test_cluster_covers_all_slots() -> None:
    with RedisClusterServers() as servers:
        assert all(
            "cluster_slots_ok:16384" in node.command("CLUSTER", "INFO") for node in servers.nodes
        )


def test_server_that_cannot_start_says_why() -> None:
    with (
        pytest.raises(RuntimeError, match="no-such-setting"),
        RedisServer("--no-such-setting", "1"),
    ):
        pass


def test_server_ends_with_its_parent(tmp_path: Path) -> None:
    script = (
        "import time; from asyncsessions.testing.servers import RedisServer; "
        "server = RedisServer(); server.start(); print(server.port, flush=True); time.sleep(600)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parent.parent,
        env=os.environ | {"TMPDIR": str(tmp_path)},
    ) as parent:
        assert parent.stdout is not None
        port = int(parent.stdout.readline())
        assert is_listening(port)
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    deadline = time.monotonic() + LONG_ENOUGH
    while is_listening(port):
        assert time.monotonic() < deadline
        time.sleep(0.02)
