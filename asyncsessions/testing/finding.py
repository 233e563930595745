"""Cases of finding sessions: lists, pages, filters, search."""

from __future__ import annotations

from typing import Any

import pytest

from asyncsessions.errors import InvalidMessageError
from asyncsessions.protocols import SessionStore
from asyncsessions.testing._cases import (
    START,
    ManualClock,
    StoreCases,
    flat,
    ids,
    seqs,
    texts,
    trying,
    user,
)

__all__ = ["ListCases", "SearchCases"]


async def _write(store: SessionStore, clock: ManualClock, count: int) -> None:
    """Make sessions ``s0``, ``s1``, ..., one a second."""
    for n in range(count):
        clock.advance(1)
        await store.add_message(f"s{n}", "user", f"m{n}")


async def _pages(store: SessionStore, size: int) -> list[list[str]]:
    """Return the ids of all pages of a list."""
    pages: list[list[str]] = []
    cursor: str | None = None
    while True:
        page = await store.list_sessions(size, cursor)
        pages.append(ids(page))
        cursor = page.next_cursor
        if cursor is None:
            return pages
        assert len(pages) < 100, "the pages don't end"


class ListCases(StoreCases):
    """Lists are newest first, and their pages neither repeat nor lack a session."""

    async def test_last_written_comes_first(self, clock: ManualClock) -> None:
        async with self.make_store(clock=clock) as store:
            await _write(store, clock, 4)
            clock.advance(1)
            await store.set_state("s1", "k", 1)
            clock.advance(1)
            await store.pop_message("s0")
            listed = await store.list_sessions()
            assert ids(listed) == ["s0", "s1", "s3", "s2"]
            assert [info.updated_at - START for info in listed] == [6, 5, 4, 3]
            assert [info.message_count for info in listed] == [0, 1, 1, 1]
            assert [info.last_seq for info in listed] == [1, 1, 1, 1]
            assert listed.next_cursor is None

    async def test_list_shows_the_record(self, clock: ManualClock) -> None:
        async with self.make_store(clock=clock) as store:
            await store.add_message("s", "user", "x")
            await store.set_agent_info("s", "agent", "ada")
            await store.rename_session("s", "Lunch")
            await store.set_state("s", "k", 1)
            (info,) = await store.list_sessions()
            session = await store.get_session("s")
            for field in info.__struct_fields__:
                assert getattr(info, field) == getattr(session, field), field
            assert info.title == "Lunch"

    async def test_pages_hold_every_session_once(self, clock: ManualClock) -> None:
        async with self.make_store(clock=clock) as store:
            await _write(store, clock, 7)
            for size in (1, 2, 3, 7, 8, 50):
                with trying(size):
                    pages = await _pages(store, size)
                    assert flat(pages) == [f"s{n}" for n in (6, 5, 4, 3, 2, 1, 0)]
                    assert all(len(page) == size for page in pages[:-1])
                    assert 0 < len(pages[-1]) <= size

    async def test_pages_hold_sessions_of_the_same_moment(self, clock: ManualClock) -> None:
        names = ["a", "A", "é", "z", "群", "🙂", "\uffff", "a\0", "b"]
        async with self.make_store(clock=clock) as store:
            for name in names:
                await store.add_message(name, "user", "x")
            pages = await _pages(store, 2)
            assert sorted(flat(pages)) == sorted(names)

    async def test_pages_repeat_nothing_while_others_write(self, clock: ManualClock) -> None:
        async with self.make_store(clock=clock) as store:
            await _write(store, clock, 9)
            page = await store.list_sessions(3)
            seen = ids(page)
            rounds = 0
            while page.next_cursor is not None:
                clock.advance(1)
                await store.add_message("s0", "user", "again")
                await store.add_message(f"new{rounds}", "user", "x")
                page = await store.list_sessions(3, page.next_cursor)
                seen += ids(page)
                rounds += 1
            assert seen == [f"s{n}" for n in (8, 7, 6, 5, 4, 3, 2, 1)]

    async def test_page_goes_on_after_a_deleted_session(self, clock: ManualClock) -> None:
        async with self.make_store(clock=clock) as store:
            await _write(store, clock, 6)
            page = await store.list_sessions(3)
            await store.delete_session("s3")
            await store.delete_session("s1")
            assert ids(await store.list_sessions(3, page.next_cursor)) == ["s2", "s0"]

    async def test_limits_of_lists(self, clock: ManualClock) -> None:
        async with self.make_store(clock=clock) as store:
            await _write(store, clock, 12)
            assert await store.list_sessions(0) == []
            assert await store.recent(limit=0) == []
            assert await store.get_sessions_by_agent("agent", 0) == []
            assert len(await store.list_sessions()) == 12
            assert ids(await store.recent()) == [f"s{n}" for n in range(11, 1, -1)]
            assert ids(await store.recent(limit=2)) == ["s11", "s10"]
            with pytest.raises(ValueError, match="limit"):
                await store.list_sessions(-1)
            with pytest.raises(ValueError, match="limit"):
                await store.recent(limit=-1)
            with pytest.raises(ValueError, match="limit"):
                await store.get_sessions_by_agent("agent", -1)

    async def test_limit_may_be_any_number(self, store: SessionStore) -> None:
        await store.append("s", [user("a"), user("b")])
        huge = 10**30
        assert ids(await store.list_sessions(huge)) == ["s"]
        assert ids(await store.recent(limit=huge)) == ["s"]
        assert len(await store.get_chat_history("s", huge)) == 2
        assert seqs(await store.get_messages("s", limit=huge, before=huge)) == [1, 2]
        assert await store.get_messages("s", after=huge) == []

    async def test_sessions_of_before_1970_are_listed(self) -> None:
        async with self.make_store(clock=ManualClock(-100.0)) as store:
            for n in range(5):
                await store.add_message(f"s{n}", "user", "x")
            assert await _pages(store, 2) == [["s4", "s3"], ["s2", "s1"], ["s0"]]

    async def test_filter_that_nothing_can_hold_is_refused(self, store: SessionStore) -> None:
        with pytest.raises(InvalidMessageError) as caught:
            await store.list_sessions(user_id="\ud800")
        assert caught.value.field == "user_id"

    async def test_foreign_cursor_is_refused(self, store: SessionStore) -> None:
        for cursor in ("", "x", "!!!", "MQ", "é", "W10", "bnVsbA"):
            with trying(cursor), pytest.raises(ValueError, match="cursor"):
                await store.list_sessions(10, cursor)

    async def test_filters_select_and_page(self, clock: ManualClock) -> None:
        async with self.make_store(clock=clock) as store:
            for n in range(12):
                clock.advance(1)
                await store.set_agent_info(f"s{n}", f"agent{n % 2}", f"user{n % 3}")
                await store.set_gateway_info(f"s{n}", f"gate{n}", f"id{n % 4}")
            page = await store.list_sessions(4, agent_name="agent0")
            rest = await store.list_sessions(4, page.next_cursor, agent_name="agent0")
            assert ids(page) + ids(rest) == ["s10", "s8", "s6", "s4", "s2", "s0"]
            assert rest.next_cursor is None
            assert ids(await store.list_sessions(user_id="user1")) == ["s10", "s7", "s4", "s1"]
            assert ids(await store.list_sessions(agent_id="id3")) == ["s11", "s7", "s3"]
            assert ids(await store.list_sessions(gateway_session_id="gate5")) == ["s5"]
            both = await store.list_sessions(agent_name="agent1", user_id="user0")
            assert ids(both) == ["s9", "s3"]
            assert await store.list_sessions(agent_name="agent") == []
            assert await store.list_sessions(agent_name="AGENT0") == []
            assert ids(await store.get_sessions_by_agent("agent1", 2)) == ["s11", "s9"]
            assert len(await store.get_sessions_by_agent("agent1")) == 6

    async def test_filter_follows_changes(self, store: SessionStore) -> None:
        await store.set_agent_info("s", "old")
        await store.set_agent_info("s", "new")
        assert await store.list_sessions(agent_name="old") == []
        assert ids(await store.list_sessions(agent_name="new")) == ["s"]
        await store.delete_session("s")
        assert await store.list_sessions(agent_name="new") == []

    async def test_many_sessions_are_all_listed(self, store: SessionStore) -> None:
        for n in range(120):
            await store.add_message(f"s{n}", "user", "x")
        expected = {f"s{n}" for n in range(120)}
        assert len(await store.list_sessions()) == 50
        pages = await _pages(store, 50)
        assert [len(page) for page in pages] == [50, 50, 20]
        assert set(flat(pages)) == expected


class SearchCases(StoreCases):
    """Search finds words in any case and script, best first."""

    @pytest.fixture
    def talks(self) -> dict[str, list[dict[str, Any]]]:
        return {
            "trip": [user("A train to Rome"), user("and a hotel"), user("ROME in May, by train")],
            "food": [user("A pizza like in Rome"), user("l'été à Besançon, 東京, Ωμέγα")],
            "parts": [{"role": "user", "content": [{"type": "text", "text": "a picture"}]}],
        }

    async def test_search_ignores_case(
        self, store: SessionStore, talks: dict[str, list[dict[str, Any]]]
    ) -> None:
        for name, messages in talks.items():
            await store.append(name, messages)
        for query in ("rome", "ROME", "  Rome  "):
            assert [hit.session_id for hit in await store.search(query)] == ["trip", "food"]
        for query in ("ÉTÉ", "besançon", "東京", "ΩΜΈΓΑ"):
            assert [hit.session_id for hit in await store.search(query)] == ["food"]
        assert [hit.session_id for hit in await store.search("picture")] == ["parts"]
        assert await store.search("Paris") == []

    async def test_best_match_comes_first(
        self, store: SessionStore, talks: dict[str, list[dict[str, Any]]]
    ) -> None:
        for name, messages in talks.items():
            await store.append(name, messages)
        hits = await store.search("train to rome")
        assert hits[0].session_id == "trip"
        assert hits[0].seq == 1
        assert [hit.score for hit in hits] == sorted((h.score for h in hits), reverse=True)
        assert len(await store.search("rome", limit=1)) == 1

    async def test_hit_tells_where_and_what(self, store: SessionStore) -> None:
        before = [user(f"before {n}") for n in range(10)]
        after = [user(f"after {n}") for n in range(10)]
        long = "x " * 500 + "the Needle is here " + "y " * 500
        await store.append("s", [*before, user(long), *after])
        (hit,) = await store.search("needle", window=2)
        assert hit.seq == 11
        assert "Needle" in hit.snippet
        assert len(hit.snippet) <= 160
        assert hit.title == "s"
        assert seqs(hit.messages) == [9, 10, 11, 12, 13]
        await store.rename_session("s", "Haystack")
        (hit,) = await store.search("needle", window=0)
        assert hit.title == "Haystack"
        assert texts(hit.messages) == [long]

    async def test_blank_query_finds_nothing(self, store: SessionStore) -> None:
        await store.add_message("s", "user", "  x  ")
        assert await store.search("") == []
        assert await store.search(" \n\t") == []
        assert await store.search("x", limit=0) == []

    async def test_special_characters_are_plain_text(self, store: SessionStore) -> None:
        await store.add_message("s", "user", "100% of a_b*c (x|y) \\ 'q' $where [z]")
        for query in ("100%", "a_b*c", "(x|y)", "'q'", "$where", "[z]"):
            assert [hit.session_id for hit in await store.search(query)] == ["s"], query
        assert await store.search("a.b") == []
        assert await store.search("%%%") == []

    async def test_bad_limits_of_a_search_are_refused(self, store: SessionStore) -> None:
        with pytest.raises(ValueError, match="limit"):
            await store.search("x", limit=-1)
        with pytest.raises(ValueError, match="window"):
            await store.search("x", window=-1)
