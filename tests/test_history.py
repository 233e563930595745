"""Windows and retention: tool calls and their results stay together."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncsessions.history import drop_orphan_results, is_tool_result, messages_to_drop
from asyncsessions.models import Message


def user(seq: int) -> Message:
    return Message("user", "hi", seq=seq)


def call(seq: int, *ids: str) -> Message:
    return Message("assistant", None, tool_calls=[{"id": each} for each in ids], seq=seq)


def result(seq: int, answered: str | None) -> Message:
    return Message("tool", "done", tool_call_id=answered, seq=seq)


def anthropic_call(seq: int, each: str) -> Message:
    return Message("assistant", [{"type": "tool_use", "id": each}], seq=seq)


def anthropic_result(seq: int, answered: str) -> Message:
    return Message("user", [{"type": "tool_result", "tool_use_id": answered}], seq=seq)


@pytest.mark.parametrize(
    ("window", "kept"),
    [
        ([], []),
        ([user(2), user(3)], [2, 3]),
        ([result(3, "a"), user(4)], [4]),
        ([result(3, "a"), result(4, "b"), user(5)], [5]),
        ([result(3, "a")], []),
        ([result(3, None), user(4)], [4]),
        ([call(2, "a"), result(3, "a")], [2, 3]),
        ([call(2, "a"), result(3, None)], [2, 3]),
        ([call(2, "a", "b"), result(3, "b"), result(4, "a")], [2, 3, 4]),
        # The call of an interleaved result was cut off, too.
        ([user(3), result(4, "a"), user(5)], [3, 5]),
        # Ids that every turn uses again belong to the call before them.
        ([result(3, "0"), call(4, "0"), result(5, "0")], [4, 5]),
        # Nothing was cut off at the start of a session.
        ([result(1, "a"), user(2)], [1, 2]),
        ([anthropic_result(3, "a"), user(4)], [4]),
        ([anthropic_call(2, "a"), anthropic_result(3, "a")], [2, 3]),
    ],
)
def test_a_window_has_no_result_without_its_call(window: list[Message], kept: list[int]) -> None:
    assert [message.seq for message in drop_orphan_results(window)] == kept


@pytest.mark.parametrize(
    ("results", "excess", "dropped"),
    [
        ("....", 0, 0),
        ("....", -3, 0),
        ("....", 2, 2),
        (".R..", 1, 2),
        (".RR.", 1, 3),
        # The newest exchange is never cut, so more than the limit stays.
        (".RR", 1, 0),
        ("..RR", 2, 1),
        (".", 1, 0),
    ],
)
def test_retention_keeps_pairs_and_the_newest_exchange(
    results: str, excess: int, dropped: int
) -> None:
    assert messages_to_drop((each == "R" for each in results), excess) == dropped


@given(st.lists(st.booleans(), min_size=1, max_size=30), st.integers(1, 30))
def test_retention_never_cuts_before_a_result(results: list[bool], keep: int) -> None:
    results[0] = False
    drop = messages_to_drop(results, len(results) - keep)
    assert drop < len(results)
    assert not results[drop]
    if len(results) > keep and not any(results):
        assert drop == len(results) - keep


def test_retention_reads_no_further_than_it_must() -> None:
    def endless() -> object:
        while True:
            yield False

    assert messages_to_drop(endless(), 5) == 5  # type: ignore[arg-type]  # on purpose endless


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (user(1), False),
        (call(1, "a"), False),
        (result(1, "a"), True),
        (result(1, None), True),
        (anthropic_result(1, "a"), True),
        (anthropic_call(1, "a"), False),
        (Message("user", ["text", {"type": "text"}]), False),
    ],
)
def test_results_are_recognised(message: Message, expected: bool) -> None:
    assert is_tool_result(message) is expected


@given(st.lists(st.sampled_from("ucr"), max_size=20), st.integers(0, 20))
def test_windows_of_whole_conversations_lose_only_orphans(kinds: list[str], limit: int) -> None:
    messages: list[Message] = []
    for seq, kind in enumerate(kinds, 1):
        last_call = next((m for m in reversed(messages) if m.tool_calls), None)
        if kind == "c":
            messages.append(call(seq, f"id{seq}"))
        elif kind == "r" and last_call is not None:
            messages.append(result(seq, f"id{last_call.seq}"))
        else:
            messages.append(user(seq))
    window = messages[len(messages) - min(limit, len(messages)) :]
    kept = drop_orphan_results(window)
    calls = {f"id{message.seq}" for message in kept if message.tool_calls}
    assert all(message.tool_call_id in calls for message in kept if message.role == "tool")
    assert all(older.seq < newer.seq for older, newer in pairwise(kept))
    assert [m for m in window if m.role != "tool"] == [m for m in kept if m.role != "tool"]
