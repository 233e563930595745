"""Cases of many callers on one event loop, and of callers that are cancelled."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Coroutine, Sequence
from typing import Any

import pytest

from asyncsessions.models import Message
from asyncsessions.protocols import SessionStore
from asyncsessions.testing._cases import (
    StoreCases,
    fill,
    flat,
    seqs,
    settled,
    texts,
    trying,
    user,
)

__all__ = ["CancellationCases", "ConcurrencyCases", "check_suffix"]

# When a caller is cancelled: after so many turns of the event loop, or after so many seconds.
_MOMENTS = (0, 1, 2, 3, 4, 6, 9, 0.0003, 0.001, 0.003)


def check_suffix(kept: Sequence[Message], last_seq: int) -> None:
    """Check that only a beginning was removed: what is left runs up to the newest ``seq``."""
    assert seqs(kept) == list(range(last_seq - len(kept) + 1, last_seq + 1))


async def _cancel(call: Coroutine[Any, Any, object], moment: float) -> bool:
    """Start a call and cancel it at a moment; return whether it completed before."""
    task = asyncio.ensure_future(call)
    await _wait(moment)
    task.cancel()
    await asyncio.wait([task])
    return not task.cancelled()


async def _wait(moment: float) -> None:
    if isinstance(moment, float):
        await asyncio.sleep(moment)
    else:
        for _ in range(moment):
            await asyncio.sleep(0)


class ConcurrencyCases(StoreCases):
    """Callers on one event loop lose nothing and see each other in order."""

    async def test_concurrent_appends_lose_nothing(self, store: SessionStore) -> None:
        stored = await asyncio.gather(*(store.append("s", [user(f"m{n}")]) for n in range(200)))
        kept = await store.get_messages("s")
        assert seqs(kept) == list(range(1, 201))
        assert kept == sorted(flat(stored), key=lambda message: message.seq)
        assert len(set(texts(kept))) == 200

    async def test_appends_keep_the_order_of_submission(self, store: SessionStore) -> None:
        calls = [store.append(f"s{n % 3}", [user(f"m{n}")]) for n in range(90)]
        await asyncio.gather(*map(asyncio.ensure_future, calls))
        for which in range(3):
            expected = [f"m{n}" for n in range(which, 90, 3)]
            assert texts(await store.get_messages(f"s{which}")) == expected

    async def test_concurrent_batches_are_contiguous(self, store: SessionStore) -> None:
        batches = [[user(f"b{n}.{k}") for k in range(1 + n % 7)] for n in range(60)]
        stored = await asyncio.gather(*(store.append("s", batch) for batch in batches))
        for batch in stored:
            assert seqs(batch) == list(range(batch[0].seq, batch[0].seq + len(batch)))
        kept = await store.get_messages("s")
        assert seqs(kept) == list(range(1, sum(map(len, batches)) + 1))
        assert kept == sorted(flat(stored), key=lambda message: message.seq)

    async def test_batches_of_a_reader_are_whole(self, store: SessionStore) -> None:
        async def write() -> None:
            for n in range(25):
                await store.append("s", [user(f"b{n}")] * 4)

        writers = [asyncio.ensure_future(write()) for _ in range(2)]
        while not all(writer.done() for writer in writers):
            assert len(await store.get_messages("s")) % 4 == 0
            await asyncio.sleep(0)
        await asyncio.gather(*writers)
        assert len(await store.get_messages("s")) == 200

    async def test_acknowledged_message_is_read_at_once(self, store: SessionStore) -> None:
        async def talk(name: str) -> None:
            for n in range(10):
                (stored,) = await store.append("s", [user(f"{name}{n}")])
                assert stored in await store.get_messages("s", after=stored.seq - 1)
                await store.set_state("s", name, n)
                assert await store.get_state("s", name) == n

        await asyncio.gather(*map(talk, "abcde"))
        assert len(await store.get_messages("s")) == 50

    async def test_one_bad_append_fails_alone(self, store: SessionStore) -> None:
        calls = [
            store.append("s", [user(f"m{n}")], expected_seq=99 if n % 4 == 1 else None)
            for n in range(40)
        ]
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        failed = [n for n, each in enumerate(outcomes) if isinstance(each, Exception)]
        assert failed == list(range(1, 40, 4))
        kept = await store.get_messages("s")
        assert texts(kept) == [f"m{n}" for n in range(40) if n % 4 != 1]
        assert seqs(kept) == list(range(1, 31))

    async def test_appends_among_clears_are_kept_or_cleared(self, store: SessionStore) -> None:
        async def write(name: str) -> list[Message]:
            return [
                message
                for n in range(25)
                for message in await store.append("s", [user(f"{name}{n}")] * (1 + n % 3))
            ]

        async def clear() -> None:
            for _ in range(12):
                before = (await store.get_session("s", max_messages=0)).last_seq
                await store.clear_session("s")
                assert all(seq > before for seq in seqs(await store.get_messages("s")))

        *written, _ = await asyncio.gather(*map(write, "abcd"), clear())
        stored = [message for each in written if each is not None for message in each]
        given = {message.seq: message for message in stored}
        assert sorted(given) == list(range(1, len(stored) + 1))
        kept = await store.get_messages("s")
        check_suffix(kept, len(stored))
        assert kept == [given[message.seq] for message in kept]
        assert (await store.get_session("s")).message_count == len(kept)

    async def test_mixed_writers_disturb_nothing(self, store: SessionStore) -> None:
        calls: list[Awaitable[object]] = []
        for n in range(30):
            calls += [
                store.append("s", [user(f"m{n}")]),
                store.increment_state("s", "n"),
                store.update_session_metadata("s", **{f"k{n}": n}),
                store.merge_session_metadata_map("s", "map", {f"k{n}": n}),
                store.get_messages("s", limit=5),
                store.list_sessions(),
            ]
        random.Random(7).shuffle(calls)  # noqa: S311  # any order will do
        await asyncio.gather(*calls)
        session = await store.get_session("s")
        assert sorted(texts(session.messages)) == sorted(f"m{n}" for n in range(30))
        assert session.state == {"n": 30}
        expected: dict[str, Any] = {f"k{n}": n for n in range(30)}
        assert session.metadata == {"map": expected} | expected

    async def test_appends_among_partial_turns_lose_nothing(self, store: SessionStore) -> None:
        calls: list[Awaitable[object]] = []
        for n in range(15):
            calls.append(store.append("s", [user(f"m{n}")]))
            calls.append(store.upsert_partial_assistant_message("s", f"p{n}"))
        await asyncio.gather(*calls)
        kept = await store.get_messages("s")
        said = texts(message for message in kept if message.role == "user")
        assert sorted(said) == sorted(f"m{n}" for n in range(15))
        assert seqs(kept) == list(range(1, len(kept) + 1))

    async def test_only_one_of_rivals_has_deleted_a_session(self, store: SessionStore) -> None:
        for _ in range(5):
            await store.add_message("s", "user", "x")
            deleted = await asyncio.gather(*(store.delete_session("s") for _ in range(4)))
            assert sorted(deleted) == [False, False, False, True]

    async def test_delete_races_appends(self, store: SessionStore) -> None:
        for _ in range(10):
            await fill(store, "s", 5)
            calls = [store.delete_session("s"), store.append("s", [user("late")])]
            await asyncio.gather(*calls)
            # Either order is right, but nothing from before the delete may be left.
            assert texts(await store.get_messages("s")) in ([], ["late"])
            await store.delete_session("s")


class CancellationCases(StoreCases):
    """A cancelled call never wrote or completed, and nobody else notices."""

    async def test_cancelled_append_is_whole_or_absent(self, store: SessionStore) -> None:
        await store.ping()
        for moment in _MOMENTS:
            with trying(moment):
                await self._cancel_appends(store, f"s{moment}", moment)

    async def _cancel_appends(self, store: SessionStore, session_id: str, moment: float) -> None:
        expected: list[str] = []
        for n in range(8):
            done = await _cancel(store.append(session_id, [user(f"m{n}")] * 3), moment)
            kept = texts(await store.get_messages(session_id))
            assert kept in (expected, [*expected, *[f"m{n}"] * 3])
            assert len(kept) > len(expected) or not done
            expected = kept
        # What was read after each cancellation was final.
        await store.add_message(session_id, "user", "last")
        last = await store.get_messages(session_id)
        assert texts(last) == [*expected, "last"]
        assert seqs(last) == list(range(1, len(expected) + 2))

    async def test_neighbours_of_a_cancelled_append_are_unaffected(
        self, store: SessionStore
    ) -> None:
        await store.ping()
        for number, moment in enumerate(_MOMENTS):
            with trying(moment):
                await self._cancel_some(store, (f"s{number}", f"t{number}"), moment)

    async def _cancel_some(
        self, store: SessionStore, names: tuple[str, str], moment: float
    ) -> None:
        tasks = [
            asyncio.ensure_future(store.append(names[n % 2], [user(f"m{n}")])) for n in range(40)
        ]
        await _wait(moment)
        for task in tasks[::3]:
            task.cancel()
        await asyncio.wait(tasks)
        for which, name in enumerate(names):
            kept = await store.get_messages(name)
            assert seqs(kept) == list(range(1, len(kept) + 1))
            said = texts(kept)
            assert said == [f"m{n}" for n in range(which, 40, 2) if f"m{n}" in said]
            missing = {f"m{n}" for n in range(which, 40, 2)} - set(said)
            assert missing <= {f"m{n}" for n in range(0, 40, 3) if tasks[n].cancelled()}
        for task in tasks:
            if not task.cancelled():
                assert len(task.result()) == 1

    async def test_cancelled_increment_counts_once_or_not(self, store: SessionStore) -> None:
        await store.set_state("s", "n", 0)
        for moment in _MOMENTS * 6:
            with trying(moment):
                before = await store.get_state("s", "n")
                neighbour = asyncio.ensure_future(store.increment_state("s", "n", 100))
                done = await _cancel(store.increment_state("s", "n"), moment)
                await neighbour
                added = await store.get_state("s", "n") - before
                assert added in ((101,) if done else (100, 101))

    async def test_cancelled_rewrites_are_whole_or_absent(self, store: SessionStore) -> None:
        for moment in _MOMENTS:
            with trying(moment):
                await self._cancel_rewrites(store, moment)
                await store.delete_session("s")

    async def _cancel_rewrites(self, store: SessionStore, moment: float) -> None:
        stored = await fill(store, "s", 4)
        await _cancel(store.pop_message("s"), moment)
        kept = await store.get_messages("s")
        assert kept in (stored, stored[:3])
        await _cancel(store.set_chat_history("s", [user("a"), user("b")]), moment)
        before, kept = texts(kept), texts(await store.get_messages("s"))
        assert kept in (before, ["a", "b"])
        await _cancel(store.upsert_partial_assistant_message("s", "p"), moment)
        before, kept = kept, texts(await store.get_messages("s"))
        assert kept in (before, [*before, "p"])
        await _cancel(store.clear_session("s"), moment)
        after = texts(await store.get_messages("s"))
        assert after in (kept, [])
        await _cancel(store.delete_session("s"), moment)
        exists = await store.session_exists("s")
        assert texts(await store.get_messages("s")) == (after if exists else [])
        await store.delete_session("s")
        assert seqs(await store.append("s", [user("x")])) == [1]

    async def test_timeout_leaves_a_known_outcome(self, store: SessionStore) -> None:
        await store.ping()
        expected: list[str] = []
        for n, seconds in enumerate((0, 0.0002, 0.001, 0.004) * 10):
            with trying(seconds):
                timed_out = False
                try:
                    async with asyncio.timeout(seconds):
                        await store.append("s", [user(f"m{n}")])
                except TimeoutError:
                    timed_out = True
                kept = texts(await store.get_messages("s"))
                assert kept in (expected, [*expected, f"m{n}"])
                assert timed_out or len(kept) > len(expected)
                expected = kept

    async def test_cancelled_retry_is_not_doubled(self, store: SessionStore) -> None:
        await store.ping()
        for n, moment in enumerate(_MOMENTS):
            batch = [user(f"m{n}")] * 2
            await _cancel(store.append("s", batch, idempotency_key=f"k{n}"), moment)
            stored = await store.append("s", batch, idempotency_key=f"k{n}")
            assert await store.get_messages("s", limit=2) == stored
        assert len(await store.get_messages("s")) == 2 * len(_MOMENTS)

    async def test_cancelled_callers_leave_no_task(self, store: SessionStore) -> None:
        await store.add_message("s", "user", "x")
        before = asyncio.all_tasks()
        for moment in _MOMENTS:
            await asyncio.gather(
                _cancel(store.append("s", [user("x")]), moment),
                _cancel(store.increment_state("s", "n"), moment),
                _cancel(store.pop_message("s"), moment),
                _cancel(store.get_messages("s"), moment),
                _cancel(store.list_sessions(), moment),
                _cancel(store.search("x"), moment),
            )
        assert await settled(lambda: not asyncio.all_tasks() - before)
        await store.clear_session("s")
        await store.add_message("s", "user", "usable")
        assert texts(await store.get_messages("s")) == ["usable"]

    @pytest.mark.parametrize("moment", _MOMENTS)
    async def test_cancelled_first_call_leaves_the_store_usable(self, moment: float) -> None:
        store = self.make_store()
        try:
            await _cancel(store.append("s", [user("first")]), moment)
            await store.add_message("s", "user", "second")
            assert texts(await store.get_messages("s"))[-1] == "second"
        finally:
            await store.aclose()

    async def test_cancelled_import_is_usable(self) -> None:
        given = [{"session_id": f"s{n}", "messages": [user("x")] * 3} for n in range(20)]
        for moment in _MOMENTS:
            # A store of its own, of which the import is the first call.
            async with self.make_store() as store:
                with trying(moment):
                    await _cancel(store.import_sessions(given), moment)
                    for info in await store.list_sessions():
                        assert len(await store.get_messages(info.session_id)) in {0, 3}
                    report = await store.import_sessions(given, overwrite=True)
                    assert report.imported == 20
                    for n in range(20):
                        await store.delete_session(f"s{n}")
