"""PraisonAI's own session store and this library, in one directory at the same time."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from asyncsessions import Message
from asyncsessions.stores.json import JSONSessionStore
from tests.interop.original import at_once, load, original, ours, run

# A slow machine may take its time.
pytestmark = [pytest.mark.interop, pytest.mark.timeout(600)]


async def test_the_original_reads_what_this_library_wrote(directory: Path) -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    async with JSONSessionStore(directory) as store:
        await store.add_message("a.b", "user", "Hällo \u2028 \x00")
        await store.append("a.b", [Message("assistant", None, tool_calls=[call])])
        await store.add_message("a.b", "tool", "4", tool_call_id="c")
        await store.set_agent_info("a.b", "Bot", "u1")
        await store.set_gateway_info("a.b", "gw", "agent")
        await store.update_session_metadata("a.b", title="T", model="m")
        await store.append_compaction_checkpoint("a.b", "S", seq=1)
        history = await store.get_chat_history("a.b")
        working = await store.get_working_history("a.b")
    out = await run(
        directory,
        """
        session = store.get_session("a.b")
        out = {
            "history": store.get_chat_history("a.b"),
            "working": store.get_working_history("a.b"),
            "listed": store.list_sessions()[0],
            "found": store.get_by_gateway_session("gw").session_id,
            "fields": [session.agent_name, session.user_id, session.agent_id],
        }
        """,
    )
    assert out["history"] == history
    assert out["working"] == working
    assert out["fields"] == ["Bot", "u1", "agent"]
    assert out["found"] == "a.b"
    assert (out["listed"]["title"], out["listed"]["model"]) == ("T", "m")


async def test_this_library_reads_what_the_original_wrote(directory: Path) -> None:
    out = await run(
        directory,
        """
        store.add_message("s", "user", "Hällo", {"k": 1})
        store.add_message("s", "assistant", None, tool_calls=[{"id": "c"}])
        store.add_message("s", "tool", "4", tool_call_id="c")
        store.set_agent_info("s", "Bot", "u1")
        store.set_gateway_info("s", "gw", "agent")
        store.append_compaction_checkpoint("s", "S", tokens_before=9)
        store.add_message("s", "user", "after")
        store.rename_session("s", "T")
        session = store.get_session("s")
        out = {
            "history": store.get_chat_history("s"),
            "working": store.get_working_history("s"),
            "timestamps": [message.timestamp for message in session.messages],
        }
        """,
    )
    before = (directory / "s.json").read_bytes()
    async with JSONSessionStore(directory) as store:
        assert await store.get_chat_history("s") == out["history"]
        assert await store.get_working_history("s") == out["working"]
        session = await store.get_by_gateway_session("gw")
        assert session is not None
        assert [each.timestamp for each in session.messages] == out["timestamps"]
        assert session.messages[0].metadata == {"k": 1}
        assert (session.agent_name, session.user_id, session.title) == ("Bot", "u1", "T")
        assert session.checkpoint is not None
        assert (session.checkpoint.seq, session.checkpoint.tokens_before) == (3, 9)
    assert (directory / "s.json").read_bytes() == before


async def test_a_rewrite_by_the_original_changes_no_byte_but_the_time(directory: Path) -> None:
    async with JSONSessionStore(directory) as store:
        await store.append("s", [Message("user", f"ü {n}") for n in range(3)], idempotency_key="k")
        await store.set_state("s", "k", {"deep": [1, 2.5, None]})
        await store.update_session_metadata("s", model="m", cost=1e-7)
        await store.append_compaction_checkpoint("s", "S")
    before = (directory / "s.json").read_text()
    await run(directory, 'out = store.set_agent_info("s")')
    after = (directory / "s.json").read_text()
    times = [load_time(text) for text in (before, after)]
    # Python writes small numbers with two digits in the exponent.
    assert after.replace(times[1], times[0]).replace("1e-07", "1e-7") == before


def load_time(text: str) -> str:
    updated_at: str = json.loads(text)["updated_at"]
    return updated_at


async def test_metadata_and_state_of_both_survive(directory: Path) -> None:
    async with JSONSessionStore(directory) as store:
        await store.append("s", [Message("user", "a", name="Ann")], idempotency_key="k")
        await store.set_state("s", "n", 1)
        await store.update_session_metadata("s", ours=1, both=1)
        await run(
            directory,
            """
            store.update_session_metadata("s", theirs={"x": 1}, both=2, model="m")
            store.set_runtime_state("s", "r", "t", {"v": 1})
            """,
        )
        await store.update_session_metadata("s", last=1)
        session = await store.get_session("s")
        theirs = {"theirs": {"x": 1}, "both": 2, "model": "m"}
        assert session.metadata == {"ours": 1, "last": 1, **theirs}
        assert session.state == {"n": 1}
        assert [(each.seq, each.name) for each in session.messages] == [(1, "Ann")]
        (again,) = await store.append("s", [Message("user", "a", name="Ann")], idempotency_key="k")
        assert again.seq == 1
    assert load(directory / "s.json")["runtime_state"] == {"r": {"t": {"v": 1}}}
    assert load(directory / "s.json")["model"] == "m"


async def test_retention_by_the_original_leaves_the_numbers_of_the_rest(directory: Path) -> None:
    async with JSONSessionStore(directory) as store:
        await store.append("s", [Message("user", f"m{n}") for n in range(1, 121)])
        await run(directory, 'store.add_message("s", "user", "m121")')
        messages = await store.get_messages("s")
        assert messages[0].content.startswith("[Session Summary]")  # type: ignore[union-attr]  # it is text
        assert [(each.seq, each.content) for each in messages[1:]] == [
            (n, f"m{n}") for n in range(22, 122)
        ]
        assert messages[0].seq == 21
        await store.add_message("s", "user", "m122")
        await run(directory, 'store.add_message("s", "user", "m123")')
        assert (await store.get_messages("s", limit=2))[0].seq == 122
    assert len(load(directory / "s.json")["archived_messages"]) == 23


async def test_clearing_and_replacing_by_the_original_goes_on_with_new_numbers(
    directory: Path,
) -> None:
    async with JSONSessionStore(directory) as store:
        await store.append("s", [Message("user", "a"), Message("user", "b")])
        await run(directory, 'store.clear_session("s")')
        assert await store.get_messages("s") == []
        (stored,) = await store.append("s", [Message("user", "c")])
        assert stored.seq == 3
        await run(
            directory,
            'store.set_chat_history("s", [{"role": "user", "content": c} for c in "cd"])',
        )
        assert [each.seq for each in await store.get_messages("s")] == [4, 5]


async def test_forks_and_snapshots_of_the_original_survive_writes(directory: Path) -> None:
    async with JSONSessionStore(directory) as store:
        await store.append("s", [Message("user", f"m{n}") for n in range(3)])
        await store.set_state("s", "n", 1)
        out = await run(
            directory,
            """
            fork = tree.fork_session("s", from_message_index=1, title="F")
            out = {"fork": fork, "snapshot": tree.create_snapshot("s", label="L")}
            """,
        )
        fork, snapshot = out["fork"], out["snapshot"]
        await store.add_message("s", "user", "later")
        await store.add_message(fork, "user", "other")
        await store.update_session_metadata("s", model="m")
        await store.pop_message("s")
        assert [each.seq for each in await store.get_messages(fork)] == [1, 2, 3]
        assert await store.get_state(fork) == {"n": 1}
        assert b"\n" not in (directory / "s.json").read_bytes()
        out = await run(
            directory,
            f"""
            out = {{
                "parent": tree.get_parent({fork!r}),
                "children": tree.get_children("s"),
                "title": tree._load_extended_session({fork!r}).title,
                "reverted": tree.revert_to_snapshot("s", {snapshot!r}),
                "history": tree.get_chat_history("s"),
            }}
            """,
        )
        assert out["parent"] == "s"
        assert out["children"] == [fork]
        assert out["title"] == "F"
        assert out["reverted"]
        assert [each["content"] for each in out["history"]] == ["m0", "m1", "m2"]
        assert await store.get_chat_history("s") == out["history"]


# At the same time.

APPEND_SYNC = """
go()
for number in range({count}):
    for session in {sessions}:
        assert keeper.add_message(session, "user", f"{name}-{{number}}")
        if number % 8 == 0:
            assert keeper.update_session_metadata(session, **{{f"{name}-{{number}}": number}})
"""
APPEND_ASYNC = """
async def append(session, number):
    await store.add_message(session, "user", f"{name}-{{number}}")
    if number % 8 == 0:
        await store.update_session_metadata(session, **{{f"{name}-{{number}}": number}})
        await store.increment_state(session, "n")

go()
for number in range({count}):
    await asyncio.gather(*(append(session, number) for session in {sessions}))
"""


async def test_nothing_is_lost_where_both_append_at_the_same_time(directory: Path) -> None:
    count = 40
    writers = {
        "sync-1": ["hot", "cold-1"],
        "sync-2": ["hot"],
        "async-1": ["hot", "cold-1", "cold-2"],
        "async-2": ["hot"],
    }
    programs = [
        original(APPEND_SYNC.format(name=name, count=count, sessions=sessions))
        if name.startswith("sync")
        else ours(APPEND_ASYNC.format(name=name, count=count, sessions=sessions))
        for name, sessions in writers.items()
    ]
    await at_once(directory, *programs)
    async with JSONSessionStore(directory) as store:
        for session_id in ("hot", "cold-1", "cold-2"):
            names = [name for name, sessions in writers.items() if session_id in sessions]
            messages = await store.get_messages(session_id)
            assert [each.seq for each in messages] == list(range(1, len(messages) + 1))
            for name in names:
                texts = [each.content for each in messages if str(each.content).startswith(name)]
                assert texts == [f"{name}-{number}" for number in range(count)]
            assert len(messages) == count * len(names)
            session = await store.get_session(session_id, max_messages=0)
            keys = {f"{name}-{number}" for name in names for number in range(0, count, 8)}
            assert session.metadata.keys() == keys
            increments = sum(name.startswith("async") for name in names) * (count // 8)
            assert session.state == {"n": increments}
