"""Cases of several processes on the same data, one of them killed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from asyncsessions.protocols import SessionStore
from asyncsessions.testing._cases import StoreCases, fill, flat, seqs, texts, user
from asyncsessions.testing._processes import Job, run_and_kill, run_together
from asyncsessions.testing.concurrency import check_suffix

__all__ = ["ProcessCases"]


class ProcessCases(StoreCases):
    """What any number of processes write is all there, once and in order."""

    def store_factory(self) -> tuple[str, Sequence[Any]]:
        """See `SharedStoreConformance`."""
        raise NotImplementedError

    def job(self, task: str, **options: Any) -> Job:
        """Return a job for a worker process: a task and its options."""
        factory, args = self.store_factory()
        return {"factory": factory, "args": list(args), "task": task, "options": options}

    async def test_processes_append_without_loss(self, store: SessionStore) -> None:
        assert await store.get_messages("hot") == []
        jobs = [
            self.job("append", writer=name, sessions=["hot", f"cold {name}", "warm"], count=15)
            for name in ("p", "q", "r")
        ]
        stored: dict[str, dict[int, str]] = defaultdict(dict)
        for acknowledged in await run_together(jobs):
            for session_id, text, seq in acknowledged:
                assert seq not in stored[session_id]
                stored[session_id][seq] = text
        assert sorted(stored) == ["cold p", "cold q", "cold r", "hot", "warm"]
        for session_id, expected in stored.items():
            kept = await store.get_messages(session_id)
            assert {message.seq: message.content for message in kept} == expected
            assert seqs(kept) == list(range(1, len(expected) + 1))
            for writer in ("p", "q", "r"):
                own = [text for text in texts(kept) if text.startswith(writer)]
                every = [f"{writer} {n}.{k}" for n in range(15) for k in range(1 + n % 2)]
                assert own == (every if own else [])

    async def test_increments_of_processes_sum_up(self, store: SessionStore) -> None:
        values = await run_together([self.job("increment", session_id="s", count=30)] * 3)
        assert sorted(flat(values)) == list(range(1, 91))
        assert await store.get_state("s", "n") == 90

    async def test_processes_retry_the_same_key_once(self, store: SessionStore) -> None:
        jobs = [self.job("append_with_keys", session_id="s", count=15)] * 3
        first, *others = await run_together(jobs)
        assert all(other == first for other in others)
        kept = await store.get_messages("s")
        assert texts(kept)[::2] == [f"m{n}" for n in range(15)]
        assert [[m.seq, m.timestamp] for m in kept] == flat(first)

    async def test_processes_merge_different_keys(self, store: SessionStore) -> None:
        jobs = [self.job("merge", session_id="s", writer=name, count=8) for name in "pqr"]
        await run_together(jobs)
        session = await store.get_session("s")
        expected: dict[str, Any] = {f"{name}{n}": n for name in "pqr" for n in range(8)}
        assert session.metadata == {"map": expected} | expected
        assert session.state == expected

    async def test_processes_mix_writes_without_loss(self, store: SessionStore) -> None:
        await run_together(
            [
                self.job("append", writer="p", sessions=["s"], count=40),
                self.job("increment", session_id="s", count=40),
                self.job("merge", session_id="s", writer="q", count=20),
            ]
        )
        session = await store.get_session("s")
        assert seqs(session.messages) == list(range(1, 61))
        merged = {f"q{n}": n for n in range(20)}
        assert session.state == {"n": 40} | merged
        assert session.metadata == {"map": merged} | merged

    async def test_cleared_messages_stay_away(self, store: SessionStore) -> None:
        jobs = [self.job("append", writer=name, sessions=["s"], count=40) for name in "pq"]
        *appended, cleared = await run_together(
            [*jobs, self.job("clear", session_id="s", count=15)]
        )
        given = {seq: text for each in appended for _, text, seq in each}
        assert sorted(given) == list(range(1, 121))
        kept = await store.get_messages("s")
        check_suffix(kept, 120)
        assert all(message.content == given[message.seq] for message in kept)
        for newest_before, oldest_after in cleared:
            assert oldest_after > newest_before

    async def test_processes_append_in_turn(self, store: SessionStore) -> None:
        await run_together([self.job("append_in_turn", session_id="s", count=20)] * 2)
        assert texts(await store.get_messages("s")) == [f"after {n}" for n in range(40)]

    async def test_processes_pop_each_message_once(self, store: SessionStore) -> None:
        await fill(store, "s", 40)
        popped = await run_together([self.job("pop", session_id="s")] * 2)
        assert sorted(flat(popped)) == list(range(1, 41))
        assert all(each == sorted(each, reverse=True) for each in popped)
        assert await store.get_messages("s") == []

    async def test_killed_process_loses_nothing_acknowledged(self, store: SessionStore) -> None:
        acknowledged = []
        for kill, count in enumerate((1, 30, 47)):
            job = self.job("append_for_ever", writer=f"w{kill}", session_id="s")
            acknowledged += await run_and_kill(job, count)
            # The session is free at once, also for a store that was open all the time.
            await store.append("s", [user(f"after {kill} a"), user(f"after {kill} b")])
            acknowledged.append(f"after {kill}")
        kept = await store.get_messages("s")
        assert seqs(kept) == list(range(1, len(kept) + 1))
        said = texts(kept)
        # Pairs are whole and together, none comes twice, and none acknowledged is missing.
        names = [text.removesuffix(" a") for text in said[::2]]
        assert [f"{name} b" for name in names] == said[1::2]
        assert len(set(names)) == len(names)
        assert set(acknowledged) <= set(names)
        # Each of four tasks in three processes may have one more that it never heard of.
        assert len(names) - len(acknowledged) <= 12
        for writer in {name.split()[0] for name in names} - {"after"}:
            own = [name for name in names if name.split()[0] == writer]
            assert own == [f"{writer} {n}" for n in range(len(own))]
