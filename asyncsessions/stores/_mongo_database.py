"""Commands to MongoDB, the same through PyMongo's client and through Motor's.

Everything goes through ``Database.command``, which both have with the same meaning, and which
adds nothing of its own: no cursors, no retries, no work for each document of a bulk write.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Self, TypeAlias
from urllib.parse import unquote

import anyio.to_thread
from pymongo import AsyncMongoClient, MongoClient
from pymongo.errors import ConfigurationError, InvalidName, InvalidURI, OperationFailure
from pymongo.uri_parser import parse_uri

from asyncsessions.errors import StoreRefusedError
from asyncsessions.stores._detached import Detached
from asyncsessions.stores._mongo_errors import (
    BAD_VALUE,
    DUPLICATE_KEY,
    WRITE_CONCERN_TIMEOUT,
    check_reply,
)
from asyncsessions.stores._urls import check_address, split_url

__all__ = ["DRIVER_OPTIONS", "Database", "Document", "WriteConcern", "Written"]

Document: TypeAlias = dict[str, Any]

# fmt: off
DRIVER_OPTIONS = frozenset({
    "appName", "authMechanism", "authMechanismProperties", "authSource", "compressors",
    "connectTimeoutMS", "directConnection", "heartbeatFrequencyMS", "journal", "loadBalanced",
    "localThresholdMS", "maxConnecting", "maxIdleTimeMS", "maxPoolSize", "maxStalenessSeconds",
    "minPoolSize", "readConcernLevel", "readPreference", "readPreferenceTags", "replicaSet",
    "retryReads", "retryWrites", "serverMonitoringMode", "serverSelectionTimeoutMS",
    "socketTimeoutMS", "srvMaxHosts", "srvServiceName", "ssl", "tls",
    "tlsAllowInvalidCertificates", "tlsAllowInvalidHostnames", "tlsCAFile",
    "tlsCertificateKeyFile", "tlsCertificateKeyFilePassword", "tlsCRLFile",
    "tlsDisableOCSPEndpointCheck", "tlsInsecure", "w", "waitQueueTimeoutMS", "wTimeoutMS",
    "zlibCompressionLevel",
})
# fmt: on
"""The options that stay in the URL for the driver."""

_OLDEST_SERVER = (5, 0)
_DEFAULT_DATABASE = "asyncsessions"
_POOL_SIZE = 16
_WAITS = ("serverSelectionTimeoutMS", "connectTimeoutMS", "waitQueueTimeoutMS")
# The server's limit for one batch of a reply is 16 MB; more documents than that don't help.
_BATCH = 10_000


class WriteConcern:
    """How durable a write is before it is acknowledged; None leaves it to the client, or best."""

    def __init__(self, members: int | str | None, journal: bool | None) -> None:  # noqa: FBT001
        is_number = isinstance(members, int) and not isinstance(members, bool)
        if members is not None and not (members if is_number else isinstance(members, str)):
            raise ValueError(f"write_concern={members!r}: give 'majority', a number or a tag")
        if is_number and isinstance(members, int) and members < 1:
            raise ValueError(f"write_concern={members!r}: give 1 or more")
        self._given = {"w": members, "j": journal}

    def document(self, of_client: Mapping[str, Any]) -> Document:
        """Return what goes with each write, for a client with such settings."""
        given = {name: value for name, value in self._given.items() if value is not None}
        # Without acknowledgement, which a client may have, nobody could tell who was first; and the
        # server takes no ``fsync`` together with a journal.
        settings = {name: value for name, value in of_client.items() if (name, value) != ("w", 0)}
        settings.pop("fsync", None)
        return {"w": "majority", "j": True} | settings | given


class Written(NamedTuple):
    """What came of a write command.

    Attributes:
        documents: How many were inserted, modified or removed.
        failures: What failed, by its place in the command; all else went through.
    """

    documents: int
    failures: Mapping[int, OperationFailure]

    def check(self) -> Self:
        """Return it if nothing failed but for keys that were there already; else raise that."""
        for failure in self.failures.values():
            if failure.code != DUPLICATE_KEY:
                raise failure
        return self


class Database:
    """One database of a server, and how to write to it.

    Args:
        source: A URL, or a client that stays the caller's to close.
        name: The database; by default that of the URL.
        concern: How durable writes are.
        timeout: Seconds for whatever the driver waits for. No command takes more than twice that,
            even where a client of the caller's sets no limit.

    Raises:
        ValueError: The URL isn't valid.
    """

    def __init__(
        self, source: Any, *, name: str | None, concern: WriteConcern, timeout: float
    ) -> None:
        self._client: Any = None if isinstance(source, str) else source
        self._url = source if isinstance(source, str) else None
        self._timeout = timeout
        self._concern = concern
        if self._url is not None:
            _check_url(self._url)
            name = name or unquote(split_url(self._url).path.strip("/"))
        elif isinstance(source, MongoClient) or not hasattr(source, "get_database"):
            text = f"give a URL, an AsyncMongoClient or a Motor client, not {type(source).__name__}"
            raise ValueError(text)
        self._name = name or _DEFAULT_DATABASE
        if any(letter in self._name for letter in ' /\\."$\0'):
            raise ValueError(f"database={self._name!r}: the server allows no such name")
        self._database: Any = None
        self._under_way = Detached()
        self._write_concern: Document = {}

    async def open(self) -> None:
        """Connect; whatever fails later may be tried again."""
        if self._client is None:
            # The driver reads certificates and looks around on the machine; not on the loop.
            make = functools.partial(AsyncMongoClient, self._url, **self._defaults())
            self._client = await anyio.to_thread.run_sync(make)
        self._database = self._client.get_database(self._name)
        self._write_concern = self._concern.document(self._client.write_concern.document)

    def _defaults(self) -> Document:
        """Return the client's settings that the URL leaves open."""
        settings = {"maxPoolSize": _POOL_SIZE, "appName": "asyncsessions"}
        return self._left_open(settings) | self._limits()

    def _limits(self) -> Document:
        """Return how long the client waits, as far as the URL leaves that open."""
        limit = max(1, int(self._timeout * 1000))
        settings: Document = dict.fromkeys(_WAITS, limit)
        # Its error says more than that the time is over, so it must come before.
        settings["serverSelectionTimeoutMS"] = max(1, limit // 2)
        return self._left_open(settings)

    def _left_open(self, settings: Document) -> Document:
        query = split_url(self._url or "").query.lower()
        return {name: value for name, value in settings.items() if f"{name.lower()}=" not in query}

    async def close(self) -> None:
        """Close the client if it isn't the caller's."""
        if self._url is not None and self._client is not None:
            client, self._client = self._client, None
            try:
                async with asyncio.timeout(self._timeout):
                    await client.close()
            except TimeoutError:
                # It takes its leave of a server that doesn't answer, but does so only once.
                await client.close()
        # Either they end soon, or closing the client has ended them.
        await self._under_way.finish()

    async def check_version(self) -> None:
        """Check that the server isn't too old.

        Raises:
            StoreRefusedError: It is.
        """
        version = (await self.command({"buildInfo": 1}))["versionArray"]
        if tuple(version[:2]) < _OLDEST_SERVER:
            oldest = ".".join(map(str, _OLDEST_SERVER))
            text = f"the server is MongoDB {version[0]}.{version[1]}; use {oldest} or later"
            raise StoreRefusedError(text)

    async def check_write_concern(self, collection: str) -> None:
        """Check that writes can be as durable as they should be; members may be away for now.

        Raises:
            OperationFailure: They never can, with the members or tags that the replica set has.
            StoreRefusedError: Nor on a server that is none.
        """
        # It matches nothing and is acknowledged, or refused, as a write would be.
        nothing = {"q": {"_id": ""}, "u": {"$unset": {"-": ""}}}
        concern = self._write_concern | {"wtimeout": 1}
        command = {"update": collection, "updates": [nothing], "writeConcern": concern}
        try:
            check_reply(await self.command(command))
        except OperationFailure as exc:
            if exc.code == BAD_VALUE:
                text = "this server is no replica set; give write_concern=1 or 'majority'"
                raise StoreRefusedError(text) from exc
            if exc.code != WRITE_CONCERN_TIMEOUT:
                raise

    async def command(self, command: Document) -> Document:
        """Return the reply to a command.

        A cancelled caller doesn't wait, but the command runs to its end: the driver would throw
        away the connection, and can lose track of one that is just being made.
        """
        return await self._under_way.run(self._bounded, command)

    async def _bounded(self, command: Document) -> Document:
        # The driver's own limit for a reply, ``socketTimeoutMS``, costs three turns of the loop.
        # Twice, so that its limits for all else come first.
        async with asyncio.timeout(2 * self._timeout):
            reply: Document = await self._database.command(command)
        return reply

    async def find(
        self, collection: str, where: Document, *, limit: int | None = None, **options: Any
    ) -> list[Document]:
        """Return documents, at the most as many as one reply holds (16 MB).

        Args:
            collection: Where.
            where: The filter.
            limit: At most so many.
            **options: Of the command ``find``, such as ``projection`` and ``sort``.
        """
        command = {"find": collection, "filter": where, "singleBatch": True} | options
        command["batchSize"] = limit or _BATCH
        if limit is not None:
            command["limit"] = limit
        found: list[Document] = (await self.command(command))["cursor"]["firstBatch"]
        return found

    async def find_durable(
        self, collection: str, key: str, projection: Document
    ) -> Document | None:
        """Return the document of a key once it is as durable as an acknowledged write.

        What is only read may still be undone: if its primary is lost before the others have it.
        """
        # Changes nothing, and yet is acknowledged only when all that came before it is durable.
        command = {"findAndModify": collection, "query": {"_id": key}, "fields": projection}
        reply = await self._write(command | {"update": {"$unset": {"-": ""}}})
        check_reply(reply)
        found: Document | None = reply["value"]
        return found

    async def update_one(
        self, collection: str, where: Document, update: Sequence[Document], projection: Document
    ) -> Document | None:
        """Update one document; return what became of it, or None where none matched."""
        command = {"findAndModify": collection, "query": where, "update": list(update)}
        reply = await self._write(command | {"new": True, "fields": projection})
        check_reply(reply)
        updated: Document | None = reply["value"]
        return updated

    async def distinct(self, collection: str, key: str, where: Document) -> list[Any]:
        """Return the different values of a key in the documents that match."""
        command = {"distinct": collection, "key": key, "query": where}
        values: list[Any] = (await self.command(command))["values"]
        return values

    async def insert(self, collection: str, documents: Sequence[Document]) -> Written:
        """Insert documents; a key that is there already is a failure, too."""
        command = {"insert": collection, "documents": list(documents), "ordered": False}
        return self._written(await self._write(command))

    async def update(self, collection: str, updates: Sequence[Document]) -> Written:
        """Update documents, of which some may not match."""
        command = {"update": collection, "updates": list(updates), "ordered": False}
        reply = await self._write(command)
        return Written(int(reply["nModified"]), check_reply(reply))

    async def delete(self, collection: str, where: Document, *, limit: int = 0) -> int:
        """Delete all documents that match, or one; return how many."""
        deletes = [{"q": where, "limit": limit}]
        reply = await self._write({"delete": collection, "deletes": deletes})
        return self._written(reply).check().documents

    @staticmethod
    def _written(reply: Document) -> Written:
        return Written(int(reply["n"]), check_reply(reply))

    async def _write(self, command: Document) -> Document:
        return await self.command(command | {"writeConcern": self._write_concern})


def _check_url(url: str) -> None:
    """Check a URL as far as that goes without a look at the network."""
    check_address(split_url(url))
    if not url.startswith("mongodb://"):
        return
    try:
        parse_uri(url, warn=False)
    except (InvalidURI, ConfigurationError, InvalidName, ValueError):
        # The driver's text may quote the password.
        text = "the URL isn't valid; write mongodb://user:password@host:port/database, with "
        raise ValueError(f"{text}special characters escaped, and check its options") from None
