"""A MongoDB server."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from asyncsessions.testing.servers._server import Server, packaged
from asyncsessions.testing.timing import LONG_ENOUGH

__all__ = ["MongoServer"]


class MongoServer(Server):
    """A MongoDB server.

    Args:
        *settings: Further command-line settings.
        replica_set: Whether it is a replica set of one node, rather than standalone.
    """

    def __init__(self, *settings: str, replica_set: bool = False) -> None:
        super().__init__()
        self._settings = settings
        self._is_replica_set = replica_set

    @property
    def url(self) -> str:
        """The URL to give to `open_store`."""
        query = "?replicaSet=rs" if self._is_replica_set else ""
        return f"mongodb://127.0.0.1:{self.port}/app{query}"

    def _command(self) -> Sequence[str]:
        program = packaged("fiftyone", "db/bin/mongod")
        (self.directory / "data").mkdir(exist_ok=True)
        words = ["--port", str(self.port), "--bind_ip", "127.0.0.1", "--nounixsocket"]
        words += ["--dbpath", "data", "--wiredTigerCacheSizeGB", "0.5"]
        if self._is_replica_set:
            words += ["--replSet", "rs"]
        return [str(program), *words, *self._settings]

    def _is_ready(self) -> bool:
        client = self._client()
        try:
            if not self._is_replica_set:
                return bool(client.admin.command("ping")["ok"])
            hello = client.admin.command("hello")
            if not hello.get("setName") and not hello.get("isreplicaset"):
                return False
            if hello.get("isreplicaset"):
                member = {"_id": 0, "host": f"127.0.0.1:{self.port}"}
                client.admin.command("replSetInitiate", {"_id": "rs", "members": [member]})
            return bool(hello["isWritablePrimary"])
        finally:
            client.close()

    def _client(self) -> Any:
        from pymongo import MongoClient  # only this server needs the driver

        milliseconds = int(LONG_ENOUGH * 1000)
        return MongoClient(
            "127.0.0.1", self.port, directConnection=True, serverSelectionTimeoutMS=milliseconds
        )
