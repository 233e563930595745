"""What is measured: the stores, their servers' drivers used directly, and peers."""

from __future__ import annotations

from benchmarks.systems import files, mongo, postgres, redis, stores
from benchmarks.systems.contender import Contender, Kind, System
from benchmarks.systems.peers import PEERS

__all__ = ["Contender", "Kind", "System", "contenders"]

_SYNCED = "Each acknowledged message is synced to the disk."
_UNSYNCED = "`durability=os`: an acknowledged message survives the process, not the machine."
_DOCUMENT = (
    "PraisonAI's format: each flush rewrites the document. `durability=os`, as it syncs nothing."
)

_OWN: dict[str, tuple[Contender, ...]] = {
    "jsonl": (
        stores.files("jsonl", _SYNCED),
        files.append(is_synced=True),
        files.limit(is_synced=True),
    ),
    "jsonl-os": (
        stores.files("jsonl", _UNSYNCED, query="?durability=os"),
        files.append(is_synced=False),
        files.limit(is_synced=False),
    ),
    "json": (stores.files("json", _DOCUMENT, query="?durability=os", longest=10_000),),
    "redis": (stores.server("redis", "hiredis"), *redis.DRIVERS),
    "postgres": (stores.server("asyncpg"), *postgres.DRIVERS),
    "mongo": (stores.server("pymongo"), *mongo.DRIVERS),
}


def contenders(store: str) -> tuple[Contender, ...]:
    """Return all systems that keep messages there, this library's store first."""
    return _OWN[store] + PEERS.get(store, ())
