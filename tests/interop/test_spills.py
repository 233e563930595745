"""Messages that PraisonAI had to spill: it and this library take them over, each once."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from asyncsessions import Message
from asyncsessions.stores.json import JSONSessionStore
from asyncsessions.sync._original.spill import spill_directory, take_over_spills
from asyncsessions.testing.timing import LONG_ENOUGH
from tests.interop.original import at_once, load, original, ours, run

pytestmark = pytest.mark.interop

COUNT = 20
LIMIT = """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (%d, resource.RLIM_INFINITY))
"""
# With such a message PraisonAI can't write a document any more, but a spilled message.
LARGE = "x" * 100_000
FAILING = LIMIT % 50_000
SPILL = (
    FAILING
    + """
go()
for number in range(%d):
    assert not keeper.add_message("%s", "user", f"%s-{number}", {"n": number})
"""
)


async def spill(directory: Path, session_id: str, count: int = 3, name: str = "spilled") -> None:
    """Let PraisonAI add messages to a session that is too large for it to write."""
    await run(directory, SPILL.replace("go()", "") % (count, session_id, name))


async def texts(store: JSONSessionStore, session_id: str) -> list[Any]:
    messages = await store.get_messages(session_id)
    return [each.content for each in messages if each.content != LARGE]


async def test_what_the_original_spills_is_taken_over_as_it_would_do_it(
    directory: Path, spills: Path
) -> None:
    async with JSONSessionStore(directory) as store:
        for session_id in ("ours", "theirs"):
            await store.add_message(session_id, "user", LARGE)
            await spill(directory, session_id)
        assert spill_directory() == spills
        assert len(list(spills.iterdir())) == 6
        assert await take_over_spills(store, "ours") == 3
        assert len(list(spills.iterdir())) == 3
        await run(directory, 'out = len(keeper.get_chat_history("theirs"))')
        assert list(spills.iterdir()) == []
        assert await take_over_spills(store, "theirs") == 0
        ours_now = load(directory / "ours.json")["messages"][1:]
        theirs_now = load(directory / "theirs.json")["messages"][1:]
        assert [each | {"timestamp": 0} for each in ours_now] == [
            each | {"timestamp": 0} for each in theirs_now
        ]
        assert await texts(store, "ours") == [f"spilled-{number}" for number in range(3)]
    # The original has nothing more to take over, and reads the same.
    history = await run(directory, 'out = keeper.get_chat_history("ours")')
    assert [each["content"] for each in history[1:]] == [f"spilled-{n}" for n in range(3)]


async def test_a_first_message_is_taken_over_where_there_is_no_document(
    directory: Path, spills: Path
) -> None:
    body = LIMIT % 250 + 'out = keeper.add_message("a.b", "user", "x")'
    assert await run(directory, body) is False
    async with JSONSessionStore(directory) as store:
        assert await take_over_spills(store, "a_b") == 0
        assert await take_over_spills(store, "a.b") == 1
        assert await texts(store, "a.b") == ["x"]
    assert list(spills.iterdir()) == []


async def test_a_spill_for_one_directory_is_no_other_directorys(
    directory: Path, spills: Path, tmp_path: Path
) -> None:
    async with JSONSessionStore(directory) as store:
        await store.add_message("s", "user", LARGE)
        await spill(directory, "s")
        async with JSONSessionStore(tmp_path / "other") as other:
            assert await take_over_spills(other, "s") == 0
            assert not await other.session_exists("s")
            await other.add_message("s", "user", "ours")
            # As if some time had passed before this library made the lock.
            later = time.time() + 60
            os.utime(tmp_path / "other" / "s.json.lock", (later, later))
            assert await take_over_spills(other, "s") == 0
            assert await texts(other, "s") == ["ours"]
        assert await take_over_spills(store, "s") == 3


async def test_each_message_is_there_once_where_all_take_over_and_spill_at_once(
    directory: Path, spills: Path
) -> None:
    async with JSONSessionStore(directory) as store:
        await store.add_message("s", "user", LARGE)
    reading = f"""
        go()
        for number in range({COUNT}):
            keeper.get_chat_history("s")
        """
    taking = f"""
        go()
        for number in range({COUNT}):
            await take_over_spills(store, "s")
            await store.add_message("s", "user", f"%s-{{number}}")
        """
    programs = [original(SPILL % (COUNT, "s", name)) for name in ("spilled-1", "spilled-2")]
    programs += [original(reading)] * 2
    programs += [ours(taking % name) for name in ("ours-1", "ours-2")]
    await at_once(directory, *programs)
    async with JSONSessionStore(directory) as store:
        await take_over_spills(store, "s")
        found = await texts(store, "s")
        seqs = [each.seq for each in await store.get_messages("s")]
    names = ("spilled-1", "spilled-2", "ours-1", "ours-2")
    assert sorted(found) == sorted(f"{name}-{n}" for name in names for n in range(COUNT))
    assert seqs == sorted(set(seqs))
    assert list(spills.iterdir()) == []


async def test_who_is_killed_before_it_removes_a_spill_doubles_nothing(
    directory: Path, spills: Path
) -> None:
    async with JSONSessionStore(directory) as store:
        await store.add_message("s", "user", LARGE)
        await spill(directory, "s")
        killed = ours(
            """
            import os, signal
            store._disk.unlink = lambda _: os.kill(os.getpid(), signal.SIGKILL)
            await take_over_spills(store, "s")
            """
        )
        command = [sys.executable, "-c", killed, str(directory)]
        done = await asyncio.to_thread(subprocess.run, command, timeout=LONG_ENOUGH)
        assert done.returncode == -signal.SIGKILL
        assert len(list(spills.iterdir())) == 3
        assert len(await texts(store, "s")) == 3
        await run(directory, 'out = len(keeper.get_chat_history("s"))')
        assert list(spills.iterdir()) == []
        assert await texts(store, "s") == [f"spilled-{number}" for number in range(3)]


async def test_what_is_taken_over_before_a_deletion_never_comes_back(
    directory: Path, spills: Path
) -> None:
    async with JSONSessionStore(directory) as store:
        await store.append("s", [Message("user", LARGE)])
        await spill(directory, "s")
        await take_over_spills(store, "s")
        assert await store.delete_session("s")
        history = await run(directory, 'out = keeper.get_chat_history("s")')
        assert history == []
        assert await take_over_spills(store, "s") == 0
        assert not await store.session_exists("s")
