"""Large values: taken in slices, with the outcome of values that aren't."""

from __future__ import annotations

import asyncio
import math
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncsessions import InMemorySessionStore, Message, pacing, values
from asyncsessions.codec import check_json, decode_json, encode_json
from asyncsessions.errors import InvalidMessageError, MessageTooLargeError
from asyncsessions.hooks import Change
from asyncsessions.pacing import paced

ITEMS = list(range(20_000))
ROWS = [{"id": n, "tags": ["a"]} for n in range(5_000)]
TEXT = "ä" * (2 << 20)
KEYS = {str(n): n for n in range(5_000)}

Write = Callable[[InMemorySessionStore], Awaitable[object]]

WRITES: dict[str, Write] = {
    "set_state": lambda s: s.set_state("s", "k", ITEMS),
    "set_state with rows": lambda s: s.set_state("s", "k", {"rows": ROWS}),
    "set_state with text": lambda s: s.set_state("s", "k", [TEXT]),
    "update_state": lambda s: s.update_state("s", KEYS),
    "update_session_metadata": lambda s: s.update_session_metadata("s", k=TEXT),
    "merge_session_metadata_map": lambda s: s.merge_session_metadata_map("s", "k", {"k": ITEMS}),
    "rename_session": lambda s: s.rename_session("s", TEXT),
    "append_compaction_checkpoint": lambda s: s.append_compaction_checkpoint("s", TEXT),
    "its metadata": lambda s: s.append_compaction_checkpoint("s", "x", metadata={"k": ITEMS}),
    "amend_session": lambda s: s.amend_session("s", [Change(("state", "k"), "set", ITEMS)]),
    "upsert_partial": lambda s: s.upsert_partial_assistant_message("s", TEXT),
    "set_chat_history": lambda s: s.set_chat_history("s", [Message("user", TEXT)]),
    "import_sessions": lambda s: s.import_sessions({"session_id": "new", "state": {"k": ROWS}}),
}


@pytest.fixture
def no_slice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the event loop have its turn at every pause, however fast the machine is."""
    monkeypatch.setattr(pacing, "_SLICE_SECONDS", -1.0)


async def turns(work: Awaitable[object]) -> int:
    """Return how many turns the event loop takes until the work is done."""
    task = asyncio.ensure_future(work)
    count = 0
    while not task.done():
        await asyncio.sleep(0)
        count += 1
    await task
    return count


@pytest.mark.usefixtures("no_slice")
@pytest.mark.parametrize("name", WRITES)
async def test_large_values_leave_the_loop_its_turns(name: str) -> None:
    async with InMemorySessionStore() as store:
        await store.set_state("s", "other", 1)
        few = await turns(store.set_state("s", "other", 2))
        assert await turns(WRITES[name](store)) > few + 20


@pytest.mark.usefixtures("no_slice")
async def test_large_records_are_read_in_slices() -> None:
    async with InMemorySessionStore() as store:
        few = await turns(store.get_state("s"))
        await store.update_state("s", {"rows": ROWS, "text": TEXT})
        await store.append_compaction_checkpoint("s", TEXT, metadata={"k": ITEMS})
        assert await turns(store.get_state("s")) > few + 20
        session = await store.get_session("s")
        assert session.state == {"rows": ROWS, "text": TEXT}
        assert session.checkpoint is not None
        assert session.checkpoint.metadata == {"k": ITEMS}
        assert await store.list_sessions() == [await store.get_info("s")]


SCALARS = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats() | st.text()
ANYTHING = st.recursive(
    SCALARS | st.just("\udc80") | st.binary(max_size=1),
    lambda inner: (
        st.lists(inner) | st.dictionaries(st.text() | st.just(3), inner) | st.tuples(inner, inner)
    ),
)


@given(ANYTHING)
async def test_slices_are_the_same_as_one_go(value: object) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(values, "_ROOM", 100)
        patch.setattr(values, "_ITEMS_AT_ONCE", 2)
        assert await outcome(sliced, value) == await outcome(at_once, value)


async def outcome(take: Callable[[Any], Awaitable[object]], value: object) -> object:
    try:
        return await take(value)
    except (InvalidMessageError, UnicodeEncodeError):
        return "refused"


async def sliced(value: Any) -> object:
    taking = values.Taking(sys.maxsize)
    return await paced(taking.take(taking.hold(value), "k")), taking.size


async def at_once(value: Any) -> object:
    check_json(value, "k")
    encoded = encode_json(value)
    return decode_json(encoded), len(encoded)


@pytest.mark.parametrize(
    ("value", "field"),
    [
        ([*ITEMS, math.nan], "state.k[20000]"),
        ([*ROWS, {"a": {1: 2}}], "state.k[5000].a"),
        ({"x": {"text": TEXT, "y": [b""]}}, "state.k.x.y[0]"),
        ([TEXT + "\udc80"], "state"),
    ],
)
async def test_what_is_refused_is_named(value: Any, field: str) -> None:
    async with InMemorySessionStore() as store:
        with pytest.raises(InvalidMessageError) as caught:
            await store.set_state("s", "k", value)
        assert (caught.value.field, caught.value.session_id) == (field, "s")
        assert not await store.session_exists("s")


@pytest.mark.parametrize("value", [TEXT, ITEMS, ROWS, {"k": KEYS}])
async def test_size_is_that_of_all_values(value: Any) -> None:
    size = len(encode_json([value, "x"]))
    async with InMemorySessionStore(max_message_bytes=size) as store:
        await store.update_state("s", {"k": value, "other": "x"})
        with pytest.raises(MessageTooLargeError):
            await store.update_state("s", {"k": value, "other": "xy"})


async def test_a_list_that_holds_itself_is_refused() -> None:
    endless: list[Any] = [0] * 5_000
    endless[0] = endless
    async with InMemorySessionStore() as store:
        with pytest.raises(InvalidMessageError, match="nested"):
            await store.set_state("s", "k", endless)
