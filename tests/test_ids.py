"""Session ids and the file names that stand for them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncsessions.errors import InvalidSessionIdError
from asyncsessions.ids import check_session_id, file_stem

IDS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=128)


@pytest.mark.parametrize(
    "session_id", ["a", "user:42", "a.b@x.com", "群/1", "x" * 512, "é" * 256, "\0"]
)
def test_valid_ids_pass(session_id: str) -> None:
    check_session_id(session_id)


@pytest.mark.parametrize("session_id", ["", "x" * 513, "é" * 257, "a\ud800", None, 7, b"a"])
def test_invalid_ids_are_refused(session_id: str) -> None:
    with pytest.raises(InvalidSessionIdError):
        check_session_id(session_id)


@pytest.mark.parametrize("session_id", ["chat-1", "user_42", "0", "a" * 100])
def test_a_plain_id_is_its_own_name(session_id: str) -> None:
    assert file_stem(session_id) == session_id


@pytest.mark.parametrize(
    "session_id", ["CON", "con", "a/b", "../../x", "A", "a b", "-", "-x", "é", "a" * 101]
)
def test_any_other_id_gets_a_digest(session_id: str) -> None:
    stem = file_stem(session_id)
    assert "~" in stem
    assert not stem.startswith("-")


@given(IDS)
def test_a_name_is_safe_on_every_disk(session_id: str) -> None:
    stem = file_stem(session_id)
    assert stem == stem.lower()
    assert stem.isascii()
    assert len(stem) <= 200
    assert not set(stem) - set("abcdefghijklmnopqrstuvwxyz0123456789_-~")
    assert not stem.startswith("-")


@given(IDS, IDS)
def test_two_ids_never_share_a_name(first: str, second: str) -> None:
    assert (file_stem(first) == file_stem(second)) is (first == second)


def test_names_differ_where_disks_would_fold_them() -> None:
    ids = [
        "A",
        "a",
        "e\u0301",
        "\xe9",
        "a/b",
        "a_b",
        "a:b",
        "a.b",
        "a~b",
        "con",
        "CON",
        "x" * 511,
        "x" * 512,
    ]
    assert len({file_stem(session_id).casefold() for session_id in ids}) == len(ids)
