"""Property-based cases of sessions that branch: any sequence of calls against a model."""

from __future__ import annotations

from typing import Any, cast

from hypothesis import given
from hypothesis import strategies as st

from asyncsessions.base import BaseSessionStore
from asyncsessions.hierarchy import HierarchicalSessionStore
from asyncsessions.testing._branch_model import Branches
from asyncsessions.testing._cases import ManualClock, StoreCases
from asyncsessions.testing.properties import new_id, property_settings

__all__ = ["BranchModelCases"]

_count = st.integers(1, 3)
_place = st.integers(0, 4)
_bound = st.none() | st.integers(0, 9)
_key = st.sampled_from(["k", "l"])
_value = st.integers(0, 3)
# Mostly the first sessions, so that calls meet; a number stands for one that there is by then.
_which = st.sampled_from([0, 0, 0, 1, 2, 2, 3, 4, 5, 6])


def _calls_of(verb: str, *arguments: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.tuples(st.just(verb), _which, st.tuples(*arguments))


_call = st.one_of(
    _calls_of("create", st.none() | _which),
    _calls_of("append", _count),
    _calls_of("append_expecting", st.sampled_from([0, 0, 1, 2])),
    _calls_of("append_with_key", _key),
    _calls_of("fork", st.none() | _place),
    _calls_of("fork", st.none()),
    _calls_of("pop"),
    _calls_of("upsert_partial", st.booleans()),
    _calls_of("finalize_empty"),
    _calls_of("discard_partial"),
    _calls_of("clear"),
    _calls_of("set_chat_history", st.integers(0, 3)),
    _calls_of("set_checkpoint"),
    _calls_of("set_state", _key, _value),
    _calls_of("set_metadata", _key, _value),
    _calls_of("snapshot"),
    _calls_of("delete_snapshot", _place),
    _calls_of("revert_to_snapshot", _place),
    _calls_of("revert_to_message", _place),
    _calls_of("undo_revert"),
    _calls_of("purge_reverts"),
    _calls_of("delete"),
    _calls_of("read", _bound, _bound, _bound),
    _calls_of("look_at_kin"),
)

# There is something to branch from the start.
_BEGINNING = [("append", 0, (3,)), ("fork", 0, (None,))]


class BranchModelCases(StoreCases):
    """Any sequence of calls does what the same calls do to a model in plain Python."""

    @given(calls=st.lists(_call, min_size=6, max_size=30))
    @property_settings
    async def test_any_calls_match_the_model(self, calls: list[tuple[Any, ...]]) -> None:
        clock = ManualClock()
        plain = cast("BaseSessionStore", self.make_store(clock=clock))
        async with HierarchicalSessionStore(plain) as store:
            branches = Branches(store, plain, prefix=new_id())
            for verb, which, arguments in [*_BEGINNING, *calls]:
                await branches.call(verb, which, arguments)
            await branches.end()
