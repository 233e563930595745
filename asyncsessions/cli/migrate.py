"""The command ``migrate``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, cast

import typer

from asyncsessions.cli.common import StoreOption, run, safe_url
from asyncsessions.registry import open_store
from asyncsessions.stores._urls import split_url

if TYPE_CHECKING:
    from asyncsessions.stores.postgres import PostgresSessionStore

__all__ = ["migrate"]

_DEFAULT_STORE = "jsonl://sessions"


def migrate(
    store: StoreOption = _DEFAULT_STORE,
    sql: Annotated[
        bool, typer.Option("--sql", help="Only print the SQL, for those who run their own.")
    ] = False,
) -> None:
    """Create or update the tables of a PostgreSQL store.

    It may run at any time, in any number of processes at once. Stores do it themselves when they
    open, unless migrate=false is in their URL.
    """
    if split_url(store).scheme not in {"postgresql", "postgres"}:
        raise ValueError(f"only postgresql:// stores have tables to migrate, not {safe_url(store)}")
    opened = cast("PostgresSessionStore", open_store(store))
    if sql:
        typer.echo(opened.migration_sql(), nl=False)
        return
    applied = run(opened.migrate())
    versions = ", ".join(map(str, applied))
    typer.echo(f"applied: version {versions}" if applied else "the tables are up to date")
