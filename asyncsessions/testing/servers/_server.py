"""A server's process, from its start to its end."""

from __future__ import annotations

import ctypes
import os
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
from typing import Self

from asyncsessions.testing.timing import LONG_ENOUGH

__all__ = ["Server", "free_port", "packaged", "wait_until"]

_STOP_SECONDS = 10.0
_PR_SET_PDEATHSIG = 1
_HIGHEST_PORT = 65535


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


def packaged(package: str, path: str) -> Path:
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


def wait_until(condition: Callable[[], bool]) -> None:
    """Return when a condition holds.

    Raises:
        RuntimeError: It doesn't in time.
    """
    deadline = time.monotonic() + LONG_ENOUGH
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError("the servers don't get ready in time")
        time.sleep(0.05)


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
