"""What the changes of an update make of a record."""

from __future__ import annotations

import time

from asyncsessions.hooks import Change, Update, apply_changes
from asyncsessions.models import SessionInfo


def test_cost_of_a_change_does_not_grow_with_their_number() -> None:
    def seconds(count: int) -> float:
        changes = tuple(Change(("state", str(n)), "set", n) for n in range(count))
        start = time.thread_time()
        apply_changes(SessionInfo(session_id="s"), Update("s", changes, 1.0))
        return time.thread_time() - start

    # Twenty times as many take twenty times as long, and four hundred times if each copies all.
    few, many = (min(seconds(count) for _ in range(5)) for count in (500, 10_000))
    assert many < 100 * few


def test_values_of_changes_stay_as_they_were_after_each() -> None:
    changes = (
        Change(("state", "k", "a", "b"), "set", 1),
        Change(("state", "k"), "default", {}),
        Change(("state", "k", "a", "c"), "set", 2),
        Change(("state", "k", "d"), "set", 3),
    )
    info = SessionInfo(session_id="s", state={"k": {"a": {}}})
    after, new = apply_changes(info, Update("s", changes, 1.0))
    assert new == [1, {"a": {"b": 1}}, 2, 3]
    assert after.state == {"k": {"a": {"b": 1, "c": 2}, "d": 3}}
    assert info.state == {"k": {"a": {}}}
