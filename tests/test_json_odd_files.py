"""What may be in a directory of documents by mistake, or by malice."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from asyncsessions import StoreUnavailableError
from asyncsessions.stores.json import JSONSessionStore


async def test_a_pipe_blocks_nobody(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    os.mkfifo(tmp_path / "s.json")
    spills = tmp_path / "spills"
    spills.mkdir()
    os.mkfifo(spills / "other.1700000000000.12.abc.json")
    (tmp_path / "other.json.lock").touch()
    async with JSONSessionStore(tmp_path, durability="os") as store:
        for call in (store.get_messages("s"), store.add_message("s", "user", "x")):
            with pytest.raises(StoreUnavailableError):
                await call
        assert await store.take_over_spills("other", spills) == 0
        await store.add_message("other", "user", "x")
        page = await store.list_sessions()
    assert [info.session_id for info in page] == ["other"]
    assert "s.json: " in caplog.text
