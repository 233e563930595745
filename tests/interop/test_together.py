"""Processes of PraisonAI and of this library that change the same sessions at the same time."""

from __future__ import annotations

import asyncio
import fcntl
import json
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from asyncsessions import CorruptSessionError, Message
from asyncsessions.stores.json import JSONSessionStore
from tests.interop.original import (
    at_once,
    load,
    numbers,
    original,
    ours,
    release,
    result,
    run,
    started,
)

# A slow machine may take its time.
pytestmark = [pytest.mark.interop, pytest.mark.timeout(600)]

COUNT = 40


APPEND_ORIGINAL = """
go()
for number in range(%d):
    assert keeper.add_message("s", "user", f"%s-{number}")
"""
APPEND_OURS = """
go()
for number in range(%d):
    await store.add_message("s", "user", f"%s-{number}")
"""


def appending(*names: str) -> list[str]:
    """Return the programs of some writers, half of them PraisonAI's."""
    return [
        original(APPEND_ORIGINAL % (COUNT, name))
        if name.startswith("original")
        else ours(APPEND_OURS % (COUNT, name))
        for name in names
    ]


WRITERS = ("original-1", "original-2", "ours-1", "ours-2")

CLEARING = {
    "PraisonAI clears": original(
        """
        go()
        for number in range(12):
            assert keeper.add_message("s", "user", f"gone-{number}")
            assert keeper.clear_session("s")
        """
    ),
    "this library clears": ours(
        """
        go()
        for number in range(12):
            await store.add_message("s", "user", f"gone-{number}")
            assert await store.clear_session("s")
        """
    ),
    "this library deletes": ours(
        """
        go()
        for number in range(12):
            await store.add_message("s", "user", f"gone-{number}")
            assert await store.delete_session("s")
        """
    ),
}


@pytest.mark.parametrize("clearing", CLEARING.values(), ids=CLEARING)
async def test_what_is_removed_stays_so_and_the_rest_is_whole(
    directory: Path, clearing: str
) -> None:
    await at_once(directory, *appending(*WRITERS), clearing)
    async with JSONSessionStore(directory) as store:
        messages = await store.get_messages("s")
        seqs = [each.seq for each in messages]
        assert seqs == sorted(set(seqs))
        # What was stored before the last removal is gone, and all that came later is there.
        assert numbers(messages, "gone") == []
        for name in WRITERS:
            left = numbers(messages, name)
            assert left == list(range(COUNT - len(left), COUNT))
        (last,) = await store.append("s", [Message("user", "last")])
        assert last.seq > max(seqs, default=0)


async def test_a_deletion_by_the_original_leaves_no_gap(directory: Path) -> None:
    # It takes no lock, so a write under way may bring back what was there before.
    deleting = original(
        """
        go()
        for number in range(12):
            assert keeper.delete_session("s")
        """
    )
    await at_once(directory, *appending(*WRITERS), deleting)
    async with JSONSessionStore(directory) as store:
        messages = await store.get_messages("s")
        for name in WRITERS:
            left = numbers(messages, name)
            assert left == list(range(COUNT - len(left), COUNT))


async def test_replacing_and_appending_at_once_lose_nothing_but_what_is_replaced(
    directory: Path,
) -> None:
    replacing = original(
        """
        go()
        for number in range(10):
            assert keeper.set_chat_history("s", [{"role": "user", "content": f"new-{number}"}])
        """
    )
    await at_once(directory, *appending("original-1", "ours-1"), replacing)
    async with JSONSessionStore(directory) as store:
        messages = await store.get_messages("s")
        assert numbers(messages, "new") == [9]
        for name in ("original-1", "ours-1"):
            left = numbers(messages, name)
            assert left == list(range(COUNT - len(left), COUNT))


async def test_metadata_state_and_runtime_state_of_all_survive(directory: Path) -> None:
    theirs = """
        go()
        for number in range(%d):
            assert keeper.update_session_metadata("s", **{f"%s-{number}": number, "cost": number})
            assert keeper.set_runtime_state("s", "%s", str(number), {"n": number})
            assert keeper.merge_session_metadata_map("s", "map", {f"%s-{number}": number})
        """
    own = """
        go()
        for number in range(%d):
            await store.update_session_metadata("s", **{f"%s-{number}": number})
            await store.merge_session_metadata_map("s", "map", {f"%s-{number}": number})
            await store.increment_state("s", "n")
        """
    programs = [original(theirs % (10, *[name] * 3)) for name in ("original-1", "original-2")]
    programs += [ours(own % (10, *[name] * 2)) for name in ("ours-1", "ours-2")]
    await at_once(directory, *programs)
    keys = {f"{name}-{number}": number for name in WRITERS for number in range(10)}
    async with JSONSessionStore(directory) as store:
        session = await store.get_session("s")
        assert session.metadata == keys | {"cost": 9, "map": keys}
        assert session.state == {"n": 20}
    document = load(directory / "s.json")
    turns = {str(number): {"n": number} for number in range(10)}
    assert document["runtime_state"] == {"original-1": turns, "original-2": turns}
    assert document["cost"] == 9


async def test_the_default_retention_loses_no_message(directory: Path) -> None:
    compacting = (APPEND_ORIGINAL % (60, "%s")).replace("keeper", "store")
    programs = [original(compacting % name) for name in ("original-1", "original-2")]
    programs += [ours(APPEND_OURS % (60, name)) for name in ("ours-1", "ours-2")]
    await at_once(directory, *programs)
    document = load(directory / "s.json")
    stored = [*document["archived_messages"], *document["messages"]]
    texts = [each["content"] for each in stored if not each["metadata"].get("compaction")]
    for name in WRITERS:
        assert [text for text in texts if text.startswith(name)] == [
            f"{name}-{number}" for number in range(60)
        ]
    assert len(texts) == 240


async def test_ids_of_one_name_stay_apart_from_what_the_original_wrote(directory: Path) -> None:
    await run(directory, 'keeper.add_message("a.b", "user", "first-0")')
    theirs = (APPEND_ORIGINAL % (40, "theirs")).replace('"s"', '"a.b"')
    own = (APPEND_OURS % (40, "ours")).replace('"s"', '"a_b"')
    await at_once(directory, original(theirs), ours(own))
    async with JSONSessionStore(directory) as store:
        assert numbers(await store.get_messages("a.b"), "theirs") == list(range(40))
        assert len(await store.get_messages("a.b")) == 41
        assert numbers(await store.get_messages("a_b"), "ours") == list(range(40))
        assert len(await store.get_messages("a_b")) == 40


# Damage.

DAMAGE = b"\xff"


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a document's lock."""
    with path.with_name(f"{path.name}.lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def damage(path: Path, least: int = 1) -> bool:
    """Put a byte before a sound document of some messages, in one step; return whether it was."""
    with locked(path):
        content = path.read_bytes() if path.exists() else b""
        if content.startswith(DAMAGE) or content.count(b'"role"') < least:
            return False
        temp = path.with_name("damage.tmp")
        temp.write_bytes(DAMAGE + content)
        temp.replace(path)
        return True


async def test_what_either_moves_aside_the_other_finds_gone(directory: Path) -> None:
    path = directory / "s.json"
    async with JSONSessionStore(directory) as store:
        await store.add_message("s", "user", "a")
        damage(path)
        await run(directory, 'out = keeper.add_message("s", "user", "b")')
        assert await store.quarantine("s") is None
        assert await store.get_chat_history("s") == [{"role": "user", "content": "b"}]
        path.write_bytes(b"")
        with pytest.raises(CorruptSessionError):
            await store.get_chat_history("s")
        aside = await store.quarantine("s")
        assert await run(directory, 'out = keeper.get_chat_history("s")') == []
    found = sorted(directory.glob("s.json.corrupt-*"))
    assert aside == found[1]
    assert [each.stat().st_size > 0 for each in found] == [True, False]


async def test_no_message_is_lost_while_both_write_and_move_damage_aside(directory: Path) -> None:
    path = directory / "s.json"
    moving = """
        go()
        for number in range(60):
            while True:
                try:
                    await store.add_message("s", "user", f"%s-{number}")
                    break
                except CorruptSessionError:
                    await store.quarantine("s")
        """
    programs = [original(APPEND_ORIGINAL % (60, name)) for name in ("original-1", "original-2")]
    programs += [ours(moving % name) for name in ("ours-1", "ours-2")]

    def run_and_damage() -> int:
        with ExitStack() as stack:
            processes = [stack.enter_context(started(each, directory)) for each in programs]
            for process in processes:
                release(process)
            count = 0
            while any(process.poll() is None for process in processes):
                count += damage(path, least=5)
            for process in processes:
                result(process)
            return count

    (directory / "s.json").write_bytes(DAMAGE + b'{"messages": []}')
    count = await asyncio.to_thread(run_and_damage)
    moved = list(directory.glob("s.json.corrupt-*"))
    # Whether the last one was found by somebody depends on when it happened.
    assert len(moved) in {count, count + 1}
    stored: Counter[str] = Counter()
    for each in (path, *moved):
        document = json.loads(each.read_bytes().removeprefix(DAMAGE))
        stored.update(message["content"] for message in document["messages"])
    assert stored == {f"{name}-{number}": 1 for name in WRITERS for number in range(60)}
