"""The Lua scripts, and calls of them in Redis' own protocol."""

from __future__ import annotations

import functools
import hashlib

# Or a worker thread would import it for `resources`, and a child forked meanwhile never could.
import importlib.readers  # noqa: F401
import re
from collections.abc import Callable, Iterator, Sequence
from importlib import resources
from typing import NamedTuple

from hiredis import pack_command

__all__ = ["Call", "Script", "Scripts", "Word", "load_scripts", "packed"]

Word = str | bytes | int
"""One word of a command."""

# Its annotation says a tuple of one.
_pack: Callable[[tuple[Word, ...]], bytes] = pack_command  # type: ignore[assignment]
_INCLUDE = re.compile(r"^ *-- include: (\w+)$", re.MULTILINE)
# How many words are encoded at a time, and how many bytes are sent: what takes a millisecond at
# the most.
_WORDS_AT_ONCE = 2000
_BYTES_AT_ONCE = 1 << 18


class Script(NamedTuple):
    """A script, and the name that a server has for it."""

    source: str
    sha: str


class Scripts(NamedTuple):
    """Every script; see the files in ``lua`` for what they do."""

    append: Script
    update: Script
    replace: Script
    delete: Script
    tail: Script
    records: Script
    page: Script
    due: Script
    heal: Script
    touch: Script


@functools.cache
def load_scripts() -> Scripts:
    """Read the scripts from this package's files."""
    scripts = []
    for name in Scripts._fields:
        source = _text_of(name)
        sha = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()
        scripts.append(Script(source, sha))
    return Scripts(*scripts)


def _text_of(name: str) -> str:
    """Return a script with the files that it includes, as Lua in Redis can't."""
    text = (resources.files("asyncsessions.stores") / "lua" / f"{name}.lua").read_text()
    return _INCLUDE.sub(lambda found: _text_of(found[1]), text)


class Call(NamedTuple):
    """One command: a script with its keys and arguments, or plain words.

    Attributes:
        key: A key of it, which says which node of a cluster it is for.
        words: Returns what follows the script's name; without a script, all of the command. It
            is called when the command is sent, so that the server can work meanwhile.
        script: The script.
    """

    key: bytes
    words: Callable[[], Sequence[Word]]
    script: Script | None = None

    @classmethod
    def of(cls, script: Script, keys: Sequence[bytes], *arguments: Word) -> Call:
        """Return the call of a script."""
        return cls(keys[0], lambda: (len(keys), *keys, *arguments), script)

    def command(self, *, with_source: bool = False) -> tuple[Word, ...]:
        """Return all words; a server that doesn't know the script needs its source."""
        if self.script is None:
            return tuple(self.words())
        if with_source:
            return ("EVAL", self.script.source, *self.words())
        return ("EVALSHA", self.script.sha, *self.words())


def packed(command: tuple[Word, ...]) -> Iterator[bytes]:
    """Yield a command as bytes, in pieces that don't take long."""
    if len(command) <= _WORDS_AT_ONCE:
        yield from _sliced(_pack(command))
        return
    yield b"*%d\r\n" % len(command)
    for start in range(0, len(command), _WORDS_AT_ONCE):
        piece = command[start : start + _WORDS_AT_ONCE]
        yield from _sliced(_pack(piece)[len(b"*%d\r\n" % len(piece)) :])


def _sliced(piece: bytes) -> Iterator[bytes]:
    if len(piece) <= _BYTES_AT_ONCE:
        yield piece
        return
    for start in range(0, len(piece), _BYTES_AT_ONCE):
        yield piece[start : start + _BYTES_AT_ONCE]
