"""PraisonAI's forks, snapshots and titles beside this library's writes."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from asyncsessions import Message
from asyncsessions.stores.json import JSONSessionStore
from asyncsessions.sync import HierarchicalSessionStore
from tests.interop.original import at_once, load, numbers, original, ours, run

pytestmark = pytest.mark.interop


async def test_a_tree_survives_writes_at_the_same_time(directory: Path) -> None:
    growing = original(
        """
        tree.create_session("s", title="T")
        go()
        out = {"snapshots": [], "forks": []}
        for number in range(8):
            out["forks"].append(tree.fork_session("s", title=f"F{number}"))
            out["snapshots"].append(tree.create_snapshot("s", label=f"L{number}"))
            tree.share_session("s")
            assert tree.add_message("s", "user", f"tree-{number}")
        """
    )
    writing = """
        go()
        for number in range(30):
            await store.add_message("s", "user", f"%s-{number}")
            await store.update_session_metadata("s", model=f"%s-{number}")
            await store.increment_state("s", "n")
        """
    programs = [ours(writing % (name, name)) for name in ("ours-1", "ours-2")]
    grown, *_ = await at_once(directory, growing, *programs)
    async with JSONSessionStore(directory) as store:
        messages = await store.get_messages("s")
        assert await store.get_state("s") == {"n": 60}
    assert numbers(messages, "tree") == list(range(8))
    assert numbers(messages, "ours-1") == numbers(messages, "ours-2") == list(range(30))
    texts = [each.content for each in messages]
    out = await run(
        directory,
        f"""
        grown = {grown!r}
        session = tree.get_extended_session("s")
        out = {{
            "title": session.title,
            "shared": tree.is_shared("s"),
            "children": tree.get_children("s"),
            "parents": [tree.get_parent(each) for each in grown["forks"]],
            "titles": [tree.get_extended_session(each).title for each in grown["forks"]],
            "snapshots": [[each.id, each.label] for each in tree.get_snapshots("s")],
            "reverted": [],
        }}
        # Newest first, because each one takes those after it along.
        for snapshot in reversed(tree.get_snapshots("s")):
            assert tree.revert_to_snapshot("s", snapshot.id)
            history = [each["content"] for each in tree.get_chat_history("s")]
            out["reverted"].append([snapshot.message_index, history])
        """,
    )
    assert (out["title"], out["shared"]) == ("T", True)
    assert out["children"] == grown["forks"]
    assert out["parents"] == ["s"] * 8
    assert out["titles"] == [f"F{number}" for number in range(8)]
    assert out["snapshots"] == [
        [snapshot, f"L{number}"] for number, snapshot in enumerate(grown["snapshots"])
    ]
    assert len(out["reverted"]) == 8
    for index, history in out["reverted"]:
        assert history == texts[: index + 1]


def inlined(document: dict[str, Any], exported: dict[str, Any]) -> dict[str, Any]:
    """Return a document whose snapshots hold their messages themselves."""
    del document["snapshot_storage"]
    return document | {"snapshots": exported["snapshots"]}


def positional(document: dict[str, Any], exported: dict[str, Any]) -> dict[str, Any]:
    """Return a document whose snapshots are only places among the messages, as old ones are."""
    document = inlined(document, exported)
    for snapshot in document["snapshots"]:
        del snapshot["transcript"]
    return document


LAYOUTS = {
    "pooled": lambda document, _: document,
    "inline": inlined,
    "positional": positional,
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
async def test_each_kind_of_snapshot_survives_every_kind_of_write(
    directory: Path, layout: Any
) -> None:
    made = await run(
        directory,
        """
        tree.create_session("s", title="T", agent_name="Bot")
        for number in range(3):
            tree.add_message("s", "user", f"m{number}", metadata={"n": number})
        tree.share_session("s")
        snapshot = tree.create_snapshot("s", label="L", metadata={"k": 1})
        out = {"snapshot": snapshot, "exported": tree.export_session("s")}
        """,
    )
    path = directory / "s.json"
    path.write_text(json.dumps(layout(load(path), made["exported"])))
    kept = ("snapshots", "snapshot_storage", "is_shared", "title", "parent_id", "children_ids")
    before = {key: value for key, value in load(path).items() if key in kept}
    async with JSONSessionStore(directory) as store:
        await store.append("s", [Message("user", "m3", name="Ann"), Message("user", "m4")])
        await store.update_session_metadata("s", title="other", model="m")
        await store.set_state("s", "n", 1)
        await store.append_compaction_checkpoint("s", "S", seq=4)
        assert await store.pop_message("s") is not None
        await store.upsert_partial_assistant_message("s", "part")
        await store.discard_partial_assistant_message("s")
        await store.expire_session("s", 3600)
    assert {key: value for key, value in load(path).items() if key in kept} == before
    out = await run(
        directory,
        f"""
        session = tree.get_extended_session("s")
        out = {{
            "fields": [session.title, session.is_shared, session.agent_name, session.metadata],
            "reverted": tree.revert_to_snapshot("s", {made["snapshot"]!r}),
            "messages": [[each.content, each.metadata] for each in tree.get_session("s").messages],
        }}
        """,
    )
    title, is_shared, agent_name, metadata = out["fields"]
    assert (title, is_shared, agent_name) == ("T", True, "Bot")
    assert (metadata["title"], metadata["model"]) == ("other", "m")
    assert out["reverted"]
    assert out["messages"] == [[f"m{number}", {"n": number}] for number in range(3)]
    async with JSONSessionStore(directory) as store:
        session = await store.get_session("s")
        assert [each.content for each in session.messages] == ["m0", "m1", "m2"]
        assert session.state == {"n": 1}
        (stored,) = await store.append("s", [Message("user", "m5")])
        assert stored.seq > 5


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
async def test_a_replaced_history_leaves_what_a_snapshot_holds(
    directory: Path, layout: Any
) -> None:
    made = await run(
        directory,
        """
        for number in range(3):
            tree.add_message("s", "user", f"m{number}")
        snapshot = tree.create_snapshot("s")
        out = {"snapshot": snapshot, "exported": tree.export_session("s")}
        """,
    )
    path = directory / "s.json"
    path.write_text(json.dumps(layout(load(path), made["exported"])))
    async with JSONSessionStore(directory) as store:
        await store.set_chat_history("s", [Message("user", f"new{n}") for n in range(5)])
    out = await run(
        directory,
        f"""
        reverted = tree.revert_to_snapshot("s", {made["snapshot"]!r})
        out = [reverted, [each["content"] for each in tree.get_chat_history("s")]]
        """,
    )
    # A mere place among the messages now is one among others: going back there is refused.
    if layout is positional:
        assert out == [False, [f"new{n}" for n in range(5)]]
    else:
        assert out == [True, ["m0", "m1", "m2"]]


OURS = """
from asyncsessions.sync import HierarchicalSessionStore as Ours
tree = Ours(directory, **options)
"""
BRANCHING = """
go()
out = {"forks": [], "snapshots": []}
for number in range(8):
    out["forks"].append(tree.fork_session("s", None, f"%s-{number}"))
    assert tree.add_message("s", "user", f"%s-{number}")
    out["snapshots"].append(tree.create_snapshot("s", f"%s-{number}"))
    assert tree.set_title("s", f"%s-{number}")
"""


def test_forks_and_snapshots_at_the_same_time(directory: Path) -> None:
    programs = [original(BRANCHING.replace("%s", name)) for name in ("theirs-1", "theirs-2")]
    programs += [original(OURS + BRANCHING.replace("%s", name)) for name in ("ours-1", "ours-2")]
    done = asyncio.run(at_once(directory, *programs))
    with HierarchicalSessionStore(str(directory), retention="keep_all") as store:
        session = store.get_session("s")
        forks = [store.get_session(each) for each in session.children_ids]
    assert sorted(session.children_ids) == sorted(each for out in done for each in out["forks"])
    snapshots = [each.id for each in session.snapshots]
    assert sorted(snapshots) == sorted(each for out in done for each in out["snapshots"])
    texts = [each.content for each in session.messages]
    assert sorted(texts) == sorted(
        f"{name}-{number}"
        for name in ("theirs-1", "theirs-2", "ours-1", "ours-2")
        for number in range(8)
    )
    for fork in forks:
        assert fork.parent_id == "s"
        assert [each.content for each in fork.messages] == texts[: len(fork.messages)]
    for snapshot in session.snapshots:
        assert snapshot.transcript is not None
        kept = [each["content"] for each in snapshot.transcript["messages"]]
        assert kept == texts[: len(kept)]
        assert snapshot.label in kept
