"""Cases of stored data that was damaged from outside."""

from __future__ import annotations

import pytest

from asyncsessions.errors import CorruptSessionError
from asyncsessions.protocols import SessionStore
from asyncsessions.testing._cases import CALLS, StoreCases, call, fill, ids, seqs, texts, user

__all__ = ["DamageConformance"]

# A store may delete what it can't read, and look at a session without reading all of it.
_MAY_SUCCEED = {"delete_session", "session_exists"}


class DamageConformance(StoreCases):
    """What a store guarantees whose data can be damaged without it: files, above all.

    It is a separate part, because only the store's author knows how to do the damage. Inherit
    from it next to the suite::

        class TestMyStore(SharedStoreConformance, DamageConformance): ...
    """

    def damage(self, session_id: str) -> None:
        """Damage what is stored of a session, messages included; no store object is told."""
        raise NotImplementedError(f"{type(self).__name__} has to define damage()")

    @pytest.mark.parametrize("name", sorted(CALLS.keys() - _MAY_SUCCEED))
    async def test_damaged_session_says_so(self, name: str) -> None:
        async with self.make_store() as store:
            await fill(store, "s", 3)
        self.damage("s")
        async with self.make_store() as store:
            # Again, because nobody may have thrown the data away meanwhile.
            for _ in range(2):
                with pytest.raises(CorruptSessionError) as caught:
                    await call(name, store, "s")
                assert caught.value.session_id == "s"

    async def test_damage_is_seen_by_an_open_store(self, store: SessionStore) -> None:
        await fill(store, "s", 3)
        self.damage("s")
        with pytest.raises(CorruptSessionError):
            await store.get_messages("s")
        with pytest.raises(CorruptSessionError):
            await store.export_session("s")

    async def test_damage_hides_no_other_session(self, store: SessionStore) -> None:
        for name in ("a", "s", "z"):
            await fill(store, name, 2)
        self.damage("s")
        assert sorted(ids(await store.list_sessions())) in (["a", "z"], ["a", "s", "z"])
        assert {hit.session_id for hit in await store.search("m1")} == {"a", "z"}
        await store.append("a", [user("x")])
        assert texts(await store.get_messages("a")) == ["m1", "m2", "x"]
        assert await store.purge_expired() == 0
        with pytest.raises(CorruptSessionError):
            await store.get_messages("s")

    async def test_damaged_session_can_be_deleted(self, store: SessionStore) -> None:
        await fill(store, "s", 2)
        self.damage("s")
        await store.delete_session("s")
        assert await store.get_messages("s") == []
        assert seqs(await store.append("s", [user("new")])) == [1]
