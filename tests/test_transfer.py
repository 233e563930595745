"""Imports while others write the same sessions, and exports of stores that never rest."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from asyncsessions import BaseSessionStore, InMemorySessionStore, open_store
from asyncsessions.codec import encode_json
from asyncsessions.hierarchy import HierarchicalSessionStore
from asyncsessions.stores._docplace import names_of
from asyncsessions.stores.json import JSONSessionStore

EXISTS, OTHER = "it exists", "it exists and differs"
TIMES = {"created_at": 1000.5, "updated_at": 2000.5}


def messages(count: int, start: int = 0) -> list[dict[str, Any]]:
    return [
        {"role": "user", "content": f"m{n}", "timestamp": 1000.0 + n}
        for n in range(start, start + count)
    ]


def parts(*sizes: int) -> list[dict[str, Any]]:
    """Return a session in parts, the first of which has its record."""
    given: list[dict[str, Any]] = []
    start = 0
    for number, size in enumerate(sizes, 1):
        head = TIMES | {"metadata": {"k": 1}} if number == 1 else {"part": number}
        given.append({"session_id": "s", **head, "messages": messages(size, start)})
        start += size
    return given


async def interrupted(
    given: list[dict[str, Any]], place: int, meanwhile: Callable[[], Awaitable[object]]
) -> AsyncIterator[dict[str, Any]]:
    """Give parts, and let something else happen before one of them."""
    for index, part in enumerate(given):
        if index == place:
            # A part of nothing: what came before it is stored when the next one is asked for.
            yield {"session_id": "nothing", "part": 2, "messages": []}
            await meanwhile()
        yield part


async def contents(store: BaseSessionStore) -> list[Any]:
    return [message.content for message in await store.get_messages("s")]


def numbered(count: int) -> list[str]:
    return [f"m{n}" for n in range(count)]


@pytest.fixture(params=["memory", "jsonl", "json", "branching"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[BaseSessionStore]:
    name = request.param
    url = "memory://" if name in {"memory", "branching"} else f"{name}://{tmp_path / 'store'}"
    opened = open_store(url)
    async with HierarchicalSessionStore(opened) if name == "branching" else opened as store:
        yield store


@pytest.mark.parametrize("place", [1, 2, 3])
@pytest.mark.parametrize("overwrite", [False, True], ids=["new", "overwrite"])
async def test_an_import_that_another_one_overtakes_doubles_nothing(
    store: BaseSessionStore, place: int, overwrite: bool
) -> None:
    given = parts(3, 2, 4, 1)

    async def overtake() -> None:
        report = await store.import_sessions(given)
        assert (report.imported, report.messages) == (1, sum((3, 2, 4, 1)[place:]))

    stream = interrupted(given, place, overtake)
    report = await store.import_sessions(stream, overwrite=overwrite)

    assert await contents(store) == numbered(10)
    assert (report.imported, report.skipped) == (1, [])
    assert report.messages == sum((3, 2, 4, 1)[:place])


async def test_an_import_goes_on_after_one_that_overtook_it_and_was_cut_off(
    store: BaseSessionStore,
) -> None:
    given = parts(3, 2, 4, 1)

    stream = interrupted(given, 1, lambda: store.import_sessions(given[:2]))
    report = await store.import_sessions(stream)

    assert await contents(store) == numbered(10)
    assert (report.imported, report.skipped) == (1, [])


async def test_an_import_goes_on_with_what_another_one_lacks(store: BaseSessionStore) -> None:
    given = parts(3, 4, 2)
    short = [*given[:1], given[1] | {"messages": messages(1, 3)}]

    stream = interrupted(given, 1, lambda: store.import_sessions(short))
    report = await store.import_sessions(stream)

    assert await contents(store) == numbered(9)
    assert (report.imported, report.messages, report.skipped) == (1, 8, [])


@pytest.mark.parametrize("overwrite", [False, True], ids=["new", "overwrite"])
async def test_imports_at_the_same_time_double_nothing(
    store: BaseSessionStore, overwrite: bool
) -> None:
    given = parts(3, 2, 4, 1)

    async def stream() -> AsyncIterator[dict[str, Any]]:
        for part in given:
            await asyncio.sleep(0)
            yield part

    reports = await asyncio.gather(
        *(store.import_sessions(stream(), overwrite=overwrite) for _ in range(3))
    )

    assert await contents(store) == numbered(10)
    if not overwrite:
        assert sum(report.messages for report in reports) == 10


@pytest.mark.parametrize("stored", [0, 3, 5])
async def test_a_writer_between_two_parts_ends_the_import_of_the_session(
    store: BaseSessionStore, stored: int
) -> None:
    given = parts(3, 2, 4)
    if stored:
        await store.import_sessions(given[: {3: 1, 5: 2}[stored]])

    stream = interrupted(given, 2, lambda: store.add_message("s", "user", "live"))
    report = await store.import_sessions(stream)

    assert await contents(store) == [*numbered(5), "live"]
    assert (report.imported, report.messages) == (0, 0)
    assert report.skipped == [{"session_id": "s", "reason": OTHER}]


async def test_an_import_in_parts_of_an_id_whose_messages_forks_still_read() -> None:
    async with HierarchicalSessionStore(InMemorySessionStore()) as tree:
        await tree.import_sessions(parts(3))
        fork = await tree.fork_session("s")
        await tree.delete_session("s")

        report = await tree.import_sessions(parts(4, 3, 2))

        assert (report.imported, report.messages, report.skipped) == (1, 9, [])
        assert await contents(tree) == numbered(9)
        assert [each.content for each in await tree.get_messages(fork)] == numbered(3)


async def test_a_writer_is_noticed_where_forks_still_read_the_id() -> None:
    async with HierarchicalSessionStore(InMemorySessionStore()) as tree:
        await tree.import_sessions(parts(3))
        await tree.fork_session("s")
        await tree.delete_session("s")

        stream = interrupted(parts(4, 3), 1, lambda: tree.add_message("s", "user", "live"))
        report = await tree.import_sessions(stream)

        assert report.skipped == [{"session_id": "s", "reason": OTHER}]
        assert await contents(tree) == [*numbered(4), "live"]


MEGABYTE = "x" * (1 << 20)


@pytest.mark.parametrize(
    "message",
    [
        {"content": MEGABYTE},
        {"content": "é" * (1 << 19)},
        {"content": [{"type": "image_url", "image_url": {"url": MEGABYTE}}]},
        {"content": None, "tool_calls": [{"function": {"name": "f", "arguments": MEGABYTE}}]},
        {"content": "a", "metadata": {"k": MEGABYTE}},
        {"content": "a", "unknown": MEGABYTE},
    ],
    ids=["text", "not ascii", "image", "tool call", "metadata", "unknown"],
)
async def test_a_part_of_an_export_is_bounded_whatever_is_large(message: dict[str, Any]) -> None:
    async with InMemorySessionStore() as store:
        await store.append("s", [{"role": "assistant", **message}] * 10)

        exported = [part async for part in store.export_all()]

        assert [part.get("part", 1) for part in exported] == list(range(1, len(exported) + 1))
        assert sum(len(part["messages"]) for part in exported) == 10
        sizes = [len(encode_json(part)) for part in exported]
        assert max(sizes) < (4 << 20) + 1000
        assert len(exported) <= 4


async def test_a_record_counts_towards_the_first_part() -> None:
    async with InMemorySessionStore() as store:
        await store.append("s", [{"role": "user", "content": MEGABYTE}] * 3)
        await store.set_state("s", "k", MEGABYTE * 3)

        counts = [len(part["messages"]) async for part in store.export_all()]

        assert counts == [1, 2]


async def test_a_message_larger_than_a_part_is_a_part_of_its_own() -> None:
    async with InMemorySessionStore() as store:
        for size in (1, 5, 1, 1):
            await store.add_message("s", "user", MEGABYTE * size)

        counts = [len(part["messages"]) async for part in store.export_all()]

        assert counts == [1, 1, 2]


class Clock:
    """Goes on a little whenever somebody looks."""

    now = 1_767_225_600.0

    def __call__(self) -> float:
        self.now += 0.001
        return self.now


async def test_an_export_ends_while_sessions_are_created_all_the_time() -> None:
    async with InMemorySessionStore(clock=Clock()) as store:
        await store.add_message("old", "user", "x")
        exported = []
        async for part in store.export_all():
            exported.append(part["session_id"])
            await store.add_message(f"new-{len(exported)}", "user", "x")
            assert len(exported) < 100

    assert "old" in exported
    assert len(set(exported)) == len(exported)


async def test_an_export_has_what_is_written_and_created_meanwhile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("asyncsessions.exporting._SESSIONS_PER_PAGE", 2)
    async with InMemorySessionStore(clock=Clock()) as store:
        for number in range(8):
            await store.add_message(f"s{number}", "user", "x")
        exported: list[str] = []
        async for part in store.export_all():
            exported.append(part["session_id"])
            # The oldest go past the cursor, together with new ones.
            if len(exported) < 5:
                await store.add_message(f"s{len(exported) - 1}", "user", "y")
            await store.add_message(f"new-{len(exported)}", "user", "x")
            assert len(exported) < 100

    assert {f"s{number}" for number in range(8)} <= set(exported)
    assert len(set(exported)) == len(exported)


async def test_a_session_whose_id_is_too_long_is_left_out_of_an_export(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    odd = "🙂" * 140
    document = {
        "session_id": odd,
        "messages": [{"role": "user", "content": "secret", "timestamp": 1.0, "metadata": {}}],
        "created_at": "2026-01-01T00:00:00+00:00",
        "updated_at": "2026-01-01T00:00:01+00:00",
    }
    (tmp_path / names_of(odd).suffixed).write_text(json.dumps(document))
    async with JSONSessionStore(tmp_path) as store:
        await store.add_message("a", "user", "x")
        assert len(await store.list_sessions()) == 2

        exported = [part["session_id"] async for part in store.export_all()]

    assert exported == ["a"]
    (record,) = caplog.records
    assert (record.levelno, record.name) == (logging.WARNING, "asyncsessions.exporting")
    text = record.getMessage()
    assert "🙂" * 40 in text
    assert "🙂" * 41 not in text
    assert "secret" not in text
