"""Full disks, forbidden and vanished directories, and other things in a file's place."""

from __future__ import annotations

import os
import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from asyncsessions import SessionStoreError, StoreUnavailableError, open_store

NOBODY = 65534
SCHEMES = ["jsonl", "json"]


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Let no file of this process grow past a size, as a full disk or a quota would."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def as_nobody() -> Iterator[None]:
    """Do without the rights of root, which no permission stops."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_a_full_disk_loses_nothing(tmp_path: Path, scheme: str) -> None:
    async with open_store(f"{scheme}://{tmp_path}") as store:
        stored = 0
        with largest_file(20_000):
            with pytest.raises(StoreUnavailableError) as caught:
                while True:
                    await store.add_message("big", "user", f"{stored}".ljust(900, "x"))
                    stored += 1
            assert isinstance(caught.value.__cause__, OSError)
            # A small session still fits.
            await store.add_message("small", "user", "Hello")
            assert len(await store.get_messages("big")) == stored > 5
        await store.add_message("big", "user", "more room")
        messages = await store.get_messages("big")
    assert [message.seq for message in messages] == list(range(1, stored + 2))
    assert list(tmp_path.glob("*.tmp")) == []


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_a_full_disk_fails_a_rewrite_whole(tmp_path: Path, scheme: str) -> None:
    async with open_store(f"{scheme}://{tmp_path}") as store:
        await store.add_message("chat", "user", "kept")
        with largest_file(10_000), pytest.raises(StoreUnavailableError):
            await store.set_chat_history("chat", [{"role": "user", "content": "x" * 20_000}])
        assert await store.get_chat_history("chat") == [{"role": "user", "content": "kept"}]
        assert await store.set_chat_history("chat", [{"role": "user", "content": "x" * 20_000}])


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_a_read_only_directory_is_a_typed_error(tmp_path: Path, scheme: str) -> None:
    directory = tmp_path / "sessions"
    async with open_store(f"{scheme}://{directory}") as store:
        await store.add_message("old", "user", "kept")
    # The way to the directory is open to whoever has no rights.
    for path in [tmp_path, *tmp_path.parents]:
        if not path.stat().st_mode & 0o001:
            path.chmod(path.stat().st_mode | 0o055)
    directory.chmod(0o555)
    for path in directory.iterdir():
        path.chmod(0o444)
    with as_nobody():
        async with open_store(f"{scheme}://{directory}") as store:
            with pytest.raises(StoreUnavailableError):
                await store.add_message("new", "user", "refused")
            with pytest.raises(StoreUnavailableError):
                await store.add_message("old", "user", "refused")
            with pytest.raises(StoreUnavailableError):
                await store.ping()
            assert len(await store.get_messages("old")) == 1


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_a_vanished_directory_is_a_typed_error(tmp_path: Path, scheme: str) -> None:
    directory = tmp_path / "sessions"
    async with open_store(f"{scheme}://{directory}") as store:
        await store.add_message("chat", "user", "Hello")
        shutil.rmtree(directory)
        for call in (
            store.add_message("chat", "user", "again"),
            store.add_message("other", "user", "again"),
            store.get_chat_history("chat"),
            store.list_sessions(),
            store.clear_session("chat"),
            store.set_chat_history("chat", []),
            store.ping(),
        ):
            with pytest.raises(StoreUnavailableError):
                await call
        directory.mkdir()
        await store.add_message("chat", "user", "back")
        assert [turn["content"] for turn in await store.get_chat_history("chat")] == ["back"]


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_a_directory_in_place_of_a_file_harms_no_other(tmp_path: Path, scheme: str) -> None:
    (tmp_path / f"taken.{scheme}").mkdir()
    async with open_store(f"{scheme}://{tmp_path}") as store:
        await store.add_message("fine", "user", "Hello")
        with pytest.raises(SessionStoreError):
            await store.add_message("taken", "user", "refused")
        with pytest.raises(SessionStoreError):
            await store.get_messages("taken")
        assert [info.session_id for info in await store.list_sessions()] == ["fine"]
        assert len(await store.get_messages("fine")) == 1


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_a_file_in_place_of_the_directory_is_a_typed_error(
    tmp_path: Path, scheme: str
) -> None:
    (tmp_path / "file").write_text("not a directory")
    with pytest.raises(StoreUnavailableError):
        await open_store(f"{scheme}://{tmp_path}/file").add_message("chat", "user", "refused")
