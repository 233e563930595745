"""What a search makes of sessions that it can't read."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from asyncsessions.stores._docplace import names_of
from asyncsessions.stores.json import JSONSessionStore


async def test_a_session_whose_id_is_too_long_is_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    odd = "🙂" * 140
    document = {
        "session_id": odd,
        "messages": [{"role": "user", "content": "needle", "timestamp": 1.0, "metadata": {}}],
        "created_at": "2026-01-01T00:00:00+00:00",
        "updated_at": "2026-01-01T00:00:01+00:00",
    }
    (tmp_path / names_of(odd).suffixed).write_text(json.dumps(document))
    async with JSONSessionStore(tmp_path) as store:
        await store.add_message("a", "user", "a needle")

        hits = await store.search("needle")

    assert [hit.session_id for hit in hits] == ["a"]
    (record,) = caplog.records
    assert (record.levelno, record.name) == (logging.WARNING, "asyncsessions.search")
    text = record.getMessage()
    assert odd[:40] in text
    assert odd[:41] not in text
    assert "needle" not in text
