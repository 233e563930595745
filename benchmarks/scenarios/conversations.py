"""Turns of a chat, long histories, and real dialogues."""

from __future__ import annotations

from collections.abc import Awaitable, Iterator
from pathlib import Path
from typing import Any

from asyncsessions.codec import decode_json
from benchmarks.match import MakeWork, Match, Work
from benchmarks.measure import CannotMeasureError, Run
from benchmarks.payload import TEXT
from benchmarks.systems import System

__all__ = ["history", "replay", "turn"]

_TAIL = 20
_LENGTHS = (10, 100, 1000, 10_000, 100_000)
# Below, each repetition has a session of its own, which grows by 40 messages while it is measured.
_LONG = 10_000
_CALLS = 40
_CALLERS = 64


async def turn(match: Match) -> None:
    """What a gateway does for a message: read the last 20, append two messages, set a state."""

    def at(level: int) -> MakeWork:
        ids = [f"turn-{level}-{number}" for number in range(level)]

        def make(system: System, repetition: int) -> Work:
            async def operation(caller: int) -> None:
                session_id = ids[caller]
                await system.tail(session_id, _TAIL)
                await system.append(session_id, TEXT)
                await system.append(session_id, TEXT)
                await system.set_state(session_id, repetition)

            return Work(operation, ids, messages=2)

        return make

    for level in match.levels(1, 64, 256):
        await match.closed(level, at(level), operation="turn")


async def history(match: Match) -> None:
    """A lone caller's append and tail read of 20 on sessions of 10 to 100,000 messages."""
    for length in match.levels(*_LENGTHS, quick=(10, 10_000)):
        entrants = [each for each in match.entrants() if length <= each.contender.longest]
        for entrant in entrants:
            match.run.progress(f"{match.store}: fill {length:,}, {entrant.contender.name}")
            await match.attempt(entrant, _fill(match.run, entrant.system, length))
        entrants = [each for each in match.entrants() if each in entrants]
        await match.closed(length, _appending(length), callers=1, most=_CALLS, entrants=entrants)
        await match.closed(
            length, _reading(length), callers=1, most=_CALLS, operation="tail", entrants=entrants
        )


def _session(length: int, repetition: int) -> str:
    return f"history-{length}" + ("" if length >= _LONG else f"-{repetition}")


async def _fill(run: Run, system: System, length: int) -> None:
    repetitions = range(-1, run.repetitions)
    for session_id in dict.fromkeys(_session(length, each) for each in repetitions):
        await system.fill(session_id, length)


def _appending(length: int) -> MakeWork:
    def make(system: System, repetition: int) -> Work:
        session_id = _session(length, repetition)

        def operation(_: int) -> Awaitable[object]:
            return system.append(session_id, TEXT)

        # What is filled in counts as acknowledged, once for each session.
        is_first = length < _LONG or repetition < 0
        return Work(operation, [session_id], before=length if is_first else 0)

    return make


def _reading(length: int) -> MakeWork:
    def make(system: System, repetition: int) -> Work:
        session_id = _session(length, repetition)

        async def operation(_: int) -> None:
            found = len(await system.tail(session_id, _TAIL))
            if found < min(_TAIL, length):
                raise LookupError(f"{found} of {_TAIL} messages")

        return Work(operation, [], messages=0)

    return make


async def replay(match: Match) -> None:
    """Real dialogues: each of 64 callers takes one after the other, message by message."""
    path = match.run.transcripts
    if path is None:
        raise CannotMeasureError("--transcripts names no file")
    dialogues = _read(path)

    def make(system: System, repetition: int) -> Work:
        names = [f"replay-{repetition}-{number}" for number in range(len(dialogues))]
        messages = _endless(names, dialogues)
        current: dict[int, Iterator[tuple[str, str]]] = {}

        def operation(caller: int) -> Awaitable[object]:
            for session_id, text in current.get(caller, iter(())):
                return system.append(session_id, text)
            current[caller] = next(messages)
            return operation(caller)

        return Work(operation, names)

    await match.closed(_CALLERS, make, has_sessions=False)


def _endless(names: list[str], dialogues: list[list[str]]) -> Iterator[Iterator[tuple[str, str]]]:
    while True:
        for name, texts in zip(names, dialogues, strict=True):
            yield ((name, text) for text in texts)


def _read(path: Path) -> list[list[str]]:
    """Return the texts of each dialogue in a file of exported sessions, as far as it has any."""
    with path.open("rb") as lines:
        sessions: list[Any] = [decode_json(line) for line in lines]
    texts = [[message["content"] or "" for message in each["messages"]] for each in sessions]
    return [each for each in texts if each]
