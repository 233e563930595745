"""An import that was interrupted is run again."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from asyncsessions import BaseSessionStore, InMemorySessionStore, Message
from asyncsessions.models import Checkpoint, SessionInfo
from asyncsessions.resume import is_bare, is_outdated, is_untouched, missing

TIMES = {"created_at": 1000.5, "updated_at": 2000.5}


def messages(count: int, start: int = 0) -> list[dict[str, Any]]:
    return [
        {"role": "user", "content": f"m{n}", "timestamp": 1000.0 + n}
        for n in range(start, start + count)
    ]


def session(count: int, **more: Any) -> dict[str, Any]:
    return {"session_id": "s", **TIMES, "messages": messages(count), **more}


def parts(*sizes: int, **more: Any) -> list[dict[str, Any]]:
    """Return a session in parts, the first of which has its record."""
    found: list[dict[str, Any]] = [session(sizes[0], **more)]
    start = sizes[0]
    for number, size in enumerate(sizes[1:], 2):
        found.append({"session_id": "s", "part": number, "messages": messages(size, start)})
        start += size
    return found


@pytest.fixture
async def store() -> AsyncIterator[BaseSessionStore]:
    async with InMemorySessionStore() as opened:
        yield opened


async def contents(store: BaseSessionStore) -> list[tuple[int, Any]]:
    return [(message.seq, message.content) for message in await store.get_messages("s")]


def numbered(count: int) -> list[tuple[int, Any]]:
    return [(n + 1, f"m{n}") for n in range(count)]


async def test_an_import_done_twice_changes_nothing(store: BaseSessionStore) -> None:
    given = session(3, metadata={"k": 1})
    await store.import_sessions([given])
    before = await store.get_session("s")

    report = await store.import_sessions([given])

    assert (report.imported, report.messages) == (0, 0)
    assert report.skipped == [{"session_id": "s", "reason": "it exists"}]
    assert await store.get_session("s") == before


@pytest.mark.parametrize("stored", range(1, 5))
async def test_a_session_in_parts_goes_on_where_it_was_cut_off(
    store: BaseSessionStore, stored: int
) -> None:
    given = parts(3, 2, 4, 1, metadata={"k": 1})
    await store.import_sessions(given[:stored])

    report = await store.import_sessions(given)

    assert report.imported == (stored < 4)
    assert report.skipped_count == (stored == 4)
    assert await contents(store) == numbered(10)
    assert (await store.get_session("s", max_messages=0)).metadata == {"k": 1}


async def test_a_record_that_was_cut_off_is_added(store: BaseSessionStore) -> None:
    await store.append("s", messages(3))

    report = await store.import_sessions([session(3, metadata={"k": 1}, agent_name="a")])

    assert (report.imported, report.messages, report.skipped) == (1, 0, [])
    found = await store.get_session("s")
    assert (found.metadata, found.agent_name, found.created_at) == ({"k": 1}, "a", 1000.5)
    assert await contents(store) == numbered(3)


async def test_a_session_that_has_grown_since_is_completed(store: BaseSessionStore) -> None:
    await store.import_sessions([session(3, metadata={"tokens": 5})])

    later = session(5, metadata={"tokens": 9, "model": "m"}, updated_at=3000.5)
    report = await store.import_sessions([later])

    assert (report.imported, report.messages) == (1, 2)
    found = await store.get_session("s")
    assert found.metadata == {"tokens": 9, "model": "m"}
    assert found.updated_at == 3000.5
    assert await contents(store) == numbered(5)


async def test_a_session_that_went_on_in_the_store_is_left_alone(store: BaseSessionStore) -> None:
    await store.import_sessions([session(3)])
    await store.add_message("s", "user", "later")

    report = await store.import_sessions([session(3)])

    assert report.skipped == [{"session_id": "s", "reason": "it exists"}]
    assert (await contents(store))[-1] == (4, "later")
    assert len(await contents(store)) == 4


@pytest.mark.parametrize(
    "stored",
    [
        [],
        [{"role": "user", "content": "m0"}],
        [{"role": "user", "content": "m0", "timestamp": 1000.0}, {"role": "user", "content": "x"}],
    ],
    ids=["empty", "another time", "another message"],
)
async def test_another_session_of_the_same_id_is_left_alone(
    store: BaseSessionStore, stored: list[dict[str, Any]]
) -> None:
    await store.append("s", stored)
    await store.set_state("s", "k", 1)

    report = await store.import_sessions(parts(3, 2, state={"k": 2}))

    assert report.imported == 0
    assert report.skipped == [{"session_id": "s", "reason": "it exists and differs"}]
    assert len(await contents(store)) == len(stored)


async def test_both_went_on(store: BaseSessionStore) -> None:
    await store.import_sessions([session(3)])
    await store.add_message("s", "user", "here")

    report = await store.import_sessions([session(5, updated_at=9e9)])

    assert report.skipped == [{"session_id": "s", "reason": "it exists and differs"}]
    assert len(await contents(store)) == 4


async def test_messages_without_times_are_never_completed(store: BaseSessionStore) -> None:
    plain = [{"role": "user", "content": text} for text in "ab"]
    await store.append("s", plain[:1])

    report = await store.import_sessions([{"session_id": "s", "messages": plain}])

    assert report.skipped == [{"session_id": "s", "reason": "it exists and differs"}]


@pytest.mark.parametrize(
    ("found", "given", "position", "expected"),
    [
        ([], [], 0, 0),
        ([1, 2], [1, 2], 0, 0),
        ([1], [1, 2, 3], 0, 2),
        ([5], [5, 6], 4, 1),
        ([], [5, 6], 4, 2),
        ([], [1], 0, None),
        ([2], [1], 0, None),
        ([4], [5], 4, None),
    ],
)
def test_what_is_missing(
    found: list[int], given: list[int], position: int, expected: int | None
) -> None:
    def made(seq: int, number: int) -> Message:
        return Message("user", str(seq), float(seq), seq=number)

    rest = missing([made(seq, seq) for seq in found], [made(seq, 0) for seq in given], position)

    assert (None if rest is None else len(rest)) == expected


def info(**fields: Any) -> SessionInfo:
    return SessionInfo(session_id="s", **fields)


SUMMARY = Checkpoint("S", 1)


@pytest.mark.parametrize(
    ("stored", "given", "expected"),
    [
        (info(created_at=5.0), info(created_at=5.0), False),
        (info(created_at=6.0), info(created_at=5.0), True),
        (info(created_at=6.0), info(), False),
        (info(), info(state={"a": 1}), True),
        (info(), info(checkpoint=SUMMARY), True),
        (info(), info(agent_name="a"), True),
        (info(user_id="u"), info(agent_name="a"), False),
        (info(metadata={"a": 1}), info(metadata={"a": 2}), False),
    ],
)
def test_a_missing_record(stored: SessionInfo, given: SessionInfo, expected: bool) -> None:
    assert is_bare(stored, given) is expected


@pytest.mark.parametrize(
    ("stored", "given", "expected"),
    [
        (info(), info(), True),
        (info(metadata={"a": 1}), info(metadata={"a": 2, "b": 1}), True),
        (info(metadata={"a": 1}), info(metadata={"b": 1}), False),
        (info(state={"a": 1}), info(), False),
        (info(user_id="u"), info(user_id="v"), False),
        (info(checkpoint=SUMMARY), info(), False),
    ],
)
def test_an_outdated_record(stored: SessionInfo, given: SessionInfo, expected: bool) -> None:
    assert is_outdated(stored, given) is expected


@pytest.mark.parametrize(
    ("stored", "given", "expected"),
    [(5.0, 5.0, True), (5.0, 5.5, True), (5.5, 5.0, False), (5.0, 0.0, False), (0.0, 0.0, False)],
)
def test_a_session_that_nobody_wrote_to(stored: float, given: float, expected: bool) -> None:
    assert is_untouched(info(updated_at=stored), info(updated_at=given)) is expected


@pytest.mark.parametrize("sizes", [(5,), (3, 2), (2, 3), (2, 2, 1)])
async def test_a_message_that_was_removed_does_not_come_back(
    store: BaseSessionStore, sizes: tuple[int, ...]
) -> None:
    given = parts(*sizes)
    await store.import_sessions(given)
    await store.pop_message("s")

    report = await store.import_sessions(given)

    assert (report.imported, report.messages) == (0, 0)
    assert report.skipped == [{"session_id": "s", "reason": "it exists and differs"}]
    assert await contents(store) == numbered(4)


async def test_parts_leave_the_time_of_their_session(store: BaseSessionStore) -> None:
    await store.import_sessions(parts(3, 2))

    assert (await store.get_session("s", max_messages=0)).updated_at == 2000.5
