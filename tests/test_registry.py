"""`open_store`: which URL leads to which store, and what a wrong one says."""

from __future__ import annotations

import subprocess
import sys
import traceback
from collections.abc import Callable

import pytest

from asyncsessions import open_store
from asyncsessions.registry import STORES
from asyncsessions.stores.mongo import MongoSessionStore
from asyncsessions.stores.postgres import PostgresSessionStore
from asyncsessions.stores.redis import RedisSessionStore

EXTRAS = {
    "redis://localhost": ("redis", "redis"),
    "rediss://localhost": ("redis", "redis"),
    "redis+cluster://localhost": ("redis", "redis"),
    "postgresql://localhost/app": ("asyncpg", "postgres"),
    "mongodb://localhost/app": ("pymongo", "mongo"),
}


@pytest.mark.parametrize(("url", "package", "extra"), [(u, *e) for u, e in EXTRAS.items()])
def test_missing_driver_is_named_with_its_extra(url: str, package: str, extra: str) -> None:
    program = (
        f"import sys; sys.modules[{package!r}] = None\n"
        "from asyncsessions import open_store\n"
        f"try: open_store({url!r})\n"
        "except ImportError as exc: print(exc)"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert result.stderr == ""
    assert f"needs {package}" in result.stdout
    assert f"pip install 'asyncsessions[{extra}]'" in result.stdout


@pytest.mark.parametrize("url", ["mysql://localhost/app", "nonsense", "", "redis", "://"])
def test_unknown_scheme_lists_the_known_ones(url: str) -> None:
    with pytest.raises(ValueError, match=r"known are memory://, jsonl://.*postgresql://"):
        open_store(url)


@pytest.mark.parametrize("scheme", [name for name in STORES if name not in {"memory", "unix"}])
def test_unknown_option_is_named(scheme: str) -> None:
    with pytest.raises(ValueError, match="max_mesages"):
        open_store(f"{scheme}://localhost/0?max_mesages=3")


@pytest.mark.parametrize("scheme", ["jsonl", "redis", "postgresql", "mongodb"])
def test_option_of_the_wrong_type_is_named(scheme: str) -> None:
    with pytest.raises(ValueError, match="max_messages"):
        open_store(f"{scheme}://localhost/0?max_messages=many")


def test_password_of_an_unknown_store_is_not_shown() -> None:
    with pytest.raises(ValueError, match="no store") as caught:
        open_store("mysql://bob:secret@localhost/app")
    assert "secret" not in str(caught.value)


def test_password_of_a_url_without_a_scheme_is_not_shown() -> None:
    with pytest.raises(ValueError, match="no store") as caught:
        open_store("my_redis://bob:secret@localhost/0")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("scheme", ["redis", "redis+cluster", "postgresql", "mongodb"])
@pytest.mark.parametrize(
    "address",
    [
        *("bob:sec/ret@localhost/0", "bob:sec?ret@localhost/0", "bob:sec#ret@localhost/0"),
        *("bob:secret@localhost:65536/0", "bob:secret@localhost:0/0", "bob:secret@localhost:x/0"),
        *("bob:[secret]@localhost/0", "bob:secret\N{FULLWIDTH QUESTION MARK}@localhost/0"),
        "bob:secret@localhost:" + "9" * 5000,
    ],
)
def test_address_that_is_not_valid_is_refused_without_its_password(
    scheme: str, address: str
) -> None:
    with pytest.raises(ValueError, match=r"%23|%XX|%xx|port") as caught:
        open_store(f"{scheme}://{address}")
    shown = "".join(traceback.format_exception(caught.value))
    assert "secret" not in shown
    assert "ret@" not in shown


@pytest.mark.parametrize(
    ("kind", "scheme"),
    [
        (MongoSessionStore, "mongodb"),
        (MongoSessionStore, "mongodb+srv"),
        (PostgresSessionStore, "postgresql"),
        (RedisSessionStore, "redis"),
    ],
)
@pytest.mark.parametrize("password", ["sec/ret", "sec#ret", "[secret]", "sec?ret"])
def test_a_store_that_is_made_without_open_store_shows_no_password_either(
    kind: Callable[[str], object], scheme: str, password: str
) -> None:
    with pytest.raises(ValueError, match=r"%23|%XX|%xx") as caught:
        kind(f"{scheme}://bob:{password}@db.example.net/app")
    shown = "".join(traceback.format_exception(caught.value))
    assert "secret" not in shown
    assert "ret@" not in shown


def test_at_sign_in_a_password_is_no_host_for_postgresql() -> None:
    with pytest.raises(ValueError, match="%40") as caught:
        open_store("postgresql://bob:pa@ss:secret@localhost:5432/app")
    assert "secret" not in str(caught.value)


def test_password_that_is_taken_for_options_is_not_shown() -> None:
    with pytest.raises(ValueError, match="unknown option in the URL"):
        open_store("redis://localhost/0?se-cret")
