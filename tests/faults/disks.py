"""Disks that record, and what a power loss can leave of what they recorded."""

from __future__ import annotations

import random
import threading
from dataclasses import dataclass, field
from pathlib import Path

from asyncsessions.stores._disk import Disk

PAGE = 4096


@dataclass
class Write:
    """Bytes on their way to the disk; None cuts the file off at the offset instead."""

    offset: int
    data: bytes | None


@dataclass
class File:
    """A file as it is on the platters, and what has been written to it since."""

    durable: bytes = b""
    pending: list[Write] = field(default_factory=list)


def apply(content: bytes, write: Write) -> bytes:
    if write.data is None:
        return content[: write.offset]
    padded = content.ljust(write.offset, b"\0")
    return padded[: write.offset] + write.data + padded[write.offset + len(write.data) :]


class RecordingDisk(Disk):
    """A real disk that keeps the order of every write, sync and change of a name.

    ``events`` holds functions that replay the run on a `Platters`, and the acknowledgements that
    the test adds with `note`.
    """

    def __init__(self) -> None:
        self.events: list[tuple[object, ...]] = []
        self._lock = threading.Lock()
        self._files: dict[int, int] = {}
        self._names: dict[str, int] = {}
        self._next = 0

    def note(self, *event: object) -> None:
        with self._lock:
            self.events.append(event)

    def open(self, path: Path, *, create: bool = False) -> int:
        fd = super().open(path, create=create)
        with self._lock:
            if path.name not in self._names:
                self._next += 1
                self._names[path.name] = self._next
                self.events.append(("create", path.name, self._next))
            self._files[fd] = self._names[path.name]
        return fd

    def write(self, fd: int, data: bytes, offset: int) -> None:
        self.note("write", self._files[fd], offset, bytes(data))
        super().write(fd, data, offset)

    def truncate(self, fd: int, size: int) -> None:
        self.note("write", self._files[fd], size, None)
        super().truncate(fd, size)

    def sync(self, fd: int) -> None:
        # Recorded when it is done: until then nothing is promised.
        super().sync(fd)
        self.note("sync", self._files[fd])

    def sync_directory(self, path: Path) -> None:
        super().sync_directory(path)
        self.note("sync_directory")

    def replace(self, source: Path, target: Path) -> None:
        super().replace(source, target)
        with self._lock:
            self._names[target.name] = self._names.pop(source.name)
            self.events.append(("replace", source.name, target.name))

    def unlink(self, path: Path) -> None:
        super().unlink(path)
        with self._lock:
            del self._names[path.name]
            self.events.append(("unlink", path.name))


class Platters:
    """What is durable, and what isn't yet, at one moment of a recorded run."""

    def __init__(self) -> None:
        self.files: dict[int, File] = {}
        self.names: dict[str, int] = {}
        self.pending_names: list[tuple[object, ...]] = []

    def replay(self, event: tuple[object, ...]) -> None:
        match event:
            case ("create", str(), int(number)):
                self.files[number] = File()
                self.pending_names.append(event)
            case ("replace" | "unlink", *_):
                self.pending_names.append(event)
            case ("write", int(number), int(offset), bytes() | None as data):
                self.files[number].pending.append(Write(offset, data))
            case ("sync", int(number)):
                file = self.files[number]
                for write in file.pending:
                    file.durable = apply(file.durable, write)
                file.pending.clear()
            case ("sync_directory",):
                for change in self.pending_names:
                    rename(self.names, change)
                self.pending_names.clear()

    def after_power_loss(self, rng: random.Random, directory: Path) -> None:
        """Write into a directory one of the states that a power loss now could leave."""
        names = dict(self.names)
        for change in self.pending_names[: rng.randint(0, len(self.pending_names))]:
            rename(names, change)
        for name, number in names.items():
            (directory / name).write_bytes(torn(self.files[number], rng))


def rename(names: dict[str, int], change: tuple[object, ...]) -> None:
    match change:
        case ("create", str(name), int(number)):
            names[name] = number
        case ("replace", str(source), str(target)):
            if source in names:
                names[target] = names.pop(source)
        case ("unlink", str(name)):
            names.pop(name, None)


def torn(file: File, rng: random.Random) -> bytes:
    """Return what could be left of a file: unsynced writes missing, cut off, or with holes."""
    content = file.durable
    whole = rng.randint(0, len(file.pending))
    for write in file.pending[:whole]:
        content = apply(content, write)
    if whole < len(file.pending):
        write = file.pending[whole]
        if write.data is not None:
            part = write.data[: rng.randint(0, len(write.data))]
            content = apply(content, Write(write.offset, part))
    if len(content) > len(file.durable) and rng.random() < 0.5:
        content = with_hole(content, len(file.durable), rng)
    return content


def with_hole(content: bytes, durable: int, rng: random.Random) -> bytes:
    """Return the content with one page of what wasn't synced still as zeros."""
    pages = range(durable // PAGE, len(content) // PAGE + 1)
    page = rng.choice(pages)
    start, end = max(durable, page * PAGE), min(len(content), (page + 1) * PAGE)
    return content[:start] + b"\0" * (end - start) + content[end:]
