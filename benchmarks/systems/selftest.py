"""Check that contenders do what is measured: `python -m benchmarks.systems.selftest [NAME ...]`."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from asyncsessions.testing.servers import MongoServer, PostgresServer, RedisServer, Server
from benchmarks.systems.contender import Contender, System
from benchmarks.systems.peers import PEERS

__all__ = ["Outcome", "check", "check_all"]

_SERVERS: dict[str, Callable[[], Server]] = {
    "mongo": MongoServer,
    "postgres": PostgresServer,
    "redis": lambda: RedisServer("--appendfsync", "everysec"),
}
_NAMES = [f"self-test {number}" for number in range(5)]
_APPENDS = 200
_TAIL = 20
_FILLED = 1000
_CALLERS = 64
_TURNS = 10


@dataclass(slots=True)
class Outcome:
    """What came of checking a contender.

    Attributes:
        faults: What it failed to do; without any it may be measured.
        callers: How many appended to one session at the same time.
        acknowledged: How many appends of theirs returned.
        kept: How many messages were there afterwards.
        errors: How many appends of theirs failed, by the name of the error.
    """

    faults: list[str] = field(default_factory=list)
    callers: int = 0
    acknowledged: int = 0
    kept: int = 0
    errors: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        text = f"{self.callers} callers: {self.kept} kept of {self.acknowledged} acknowledged"
        failed = [f"{count} {name}" for name, count in self.errors.items()]
        return ", ".join([text, *failed, *(f"FAILED: {fault}" for fault in self.faults)])


async def check(contender: Contender, url: str) -> Outcome:
    """Return what a contender does with appends, reads and a filled session.

    Messages that it loses where many callers append are no fault here: they are counted.
    """
    outcome = Outcome()
    async with contender.open(url) as system:
        for number in range(_APPENDS):
            await system.append(_NAMES[number % len(_NAMES)], _text(number))
        outcome.faults += await _in_turn(system)
        outcome.faults += await _filled(system, min(_FILLED, contender.longest))
        outcome.faults += await _turn(system)
        await _at_once(system, min(_CALLERS, contender.most_callers), outcome)
    async with contender.open(url) as system:
        again = await _in_turn(system)
        outcome.faults += [f"opened again: {fault}" for fault in again]
    return outcome


async def _in_turn(system: System) -> list[str]:
    """What was appended one after the other must all be there, the newest last."""
    faults = []
    kept = await system.count(_NAMES)
    if kept != _APPENDS:
        faults.append(f"{kept} kept of {_APPENDS} appended in turn")
    for first, session in enumerate(_NAMES):
        expected = [_text(number) for number in range(first, _APPENDS, len(_NAMES))][-_TAIL:]
        read = await system.tail(session, _TAIL)
        if len(read) != _TAIL:
            faults.append(f"tail of {_TAIL} has {len(read)}")
        elif not all(text in repr(each) for text, each in zip(expected, read, strict=True)):
            faults.append("tail isn't the newest messages in their order")
    return faults


async def _filled(system: System, count: int) -> list[str]:
    await system.fill("self-test filled", count)
    await system.append("self-test filled", _text(count))
    kept = await system.count(["self-test filled"])
    faults = [] if kept == count + 1 else [f"{kept} kept of {count + 1} filled"]
    [newest] = await system.tail("self-test filled", 1)
    return faults if _text(count) in repr(newest) else [*faults, "tail after fill isn't the newest"]


async def _turn(system: System) -> list[str]:
    """What a gateway does with a message, in a session that is new."""
    read = await system.tail("self-test turn", _TAIL)
    faults = [f"tail of a new session has {len(read)}"] if read else []
    await system.append("self-test turn", _text(0))
    await system.append("self-test turn", _text(1))
    await system.set_state("self-test turn", 1)
    kept = await system.count(["self-test turn"])
    return faults if kept == 2 else [*faults, f"{kept} kept of a turn's 2"]


async def _at_once(system: System, callers: int, outcome: Outcome) -> None:
    """Many callers append to one session; losses and errors are counted."""

    async def call(caller: int) -> None:
        for turn in range(_TURNS):
            try:
                await system.append("self-test hot", _text(caller * _TURNS + turn))
            except Exception as error:  # noqa: BLE001  # each project has its own errors
                outcome.errors[type(error).__name__] += 1
            else:
                outcome.acknowledged += 1

    await asyncio.gather(*map(call, range(callers)))
    outcome.callers = callers
    outcome.kept = await system.count(["self-test hot"])


def _text(number: int) -> str:
    """Return a text that is no part of another one."""
    return f"<message {number}>"


def check_all(contenders: Mapping[str, Sequence[Contender]], names: Sequence[str] = ()) -> bool:
    """Check contenders, each on a server of its own, and print a line for each.

    Args:
        contenders: By where they keep messages.
        names: Parts of names, or places; none for all.

    Returns:
        Whether all that are installed passed.
    """
    passed = True
    for place, each_of in contenders.items():
        for contender in each_of:
            label = f"{place:8} {contender.name}"
            if names and not any(name.lower() in label.lower() for name in names):
                continue
            if package := contender.missing():
                print(f"{label:48} not checked: {package} isn't installed")
                continue
            with contextlib.ExitStack() as stack:
                if place in _SERVERS:
                    url = stack.enter_context(_SERVERS[place]()).url
                else:
                    url = stack.enter_context(tempfile.TemporaryDirectory())
                outcome = asyncio.run(check(contender, url))
            print(f"{label:48} {outcome}", flush=True)
            passed = passed and not outcome.faults
    return passed


if __name__ == "__main__":
    sys.exit(not check_all(PEERS, sys.argv[1:]))
