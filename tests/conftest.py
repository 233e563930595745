"""What all tests share: strictness about blocking calls, how hypothesis searches, the servers."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator

import pytest
from blockbuster import blockbuster_ctx
from hypothesis import Phase, settings

from asyncsessions.testing.servers import (
    MongoServer,
    PostgresServer,
    RedisClusterServers,
    RedisServer,
)

# Disks and shared machines are no place for a deadline for each example. There are few of them, as
# each of two dozen classes of stores draws its own.
settings.register_profile("default", deadline=None, max_examples=25)
# The same examples every time, and for each class: a failure then points to the change and not to
# the draw.
settings.register_profile("ci", deadline=None, max_examples=50, derandomize=True, database=None)
# For defects that must be found, in however unreadable an example.
settings.register_profile(
    "thorough", deadline=None, max_examples=1000, derandomize=True, phases=[Phase.generate]
)
settings.load_profile("ci" if os.environ.get("CI") else "default")


@pytest.fixture(autouse=True)
def no_blocking_calls() -> Iterator[None]:
    """Fail a test in which the library blocks the event loop."""
    with blockbuster_ctx("asyncsessions", excluded_modules=["asyncsessions.testing"]) as guard:
        # The drivers look around on the machine before they connect: for certificates and passwords
        # in the user's home, for the mark of a container.
        for function in guard.functions.values():
            function.can_block_in("asyncpg/connect_utils.py", {"_parse_connect_dsn_and_args"})
            function.can_block_in("pymongo/pool_options.py", {"get_container_env_info"})
            # The loop of the sync stores stands still on purpose while its process is forked.
            function.can_block_in("asyncsessions/sync/_bridge.py", {"pause", "stand"})
        yield


@pytest.fixture
def few_files() -> Iterator[int]:
    """Let this process open few files only; return how many."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (512, hard))
    yield 512
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


# URLs of servers that all tests of a run share. Each test has a name space of its own there. A
# test that kills or configures a server starts its own instead.


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """The URL of a Redis server: the one that is given, or one started for this run."""
    yield from _given("REDIS") or _started(RedisServer())


@pytest.fixture(scope="session")
def redis_cluster_url() -> Iterator[str]:
    """The URL of a Redis Cluster of three nodes."""
    yield from _given("REDIS_CLUSTER") or _started(RedisClusterServers())


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """The URL of a PostgreSQL database."""
    yield from _given("POSTGRES") or _started(PostgresServer())


@pytest.fixture(scope="session")
def mongo_url() -> Iterator[str]:
    """The URL of a standalone MongoDB server."""
    yield from _given("MONGO") or _started(MongoServer())


@pytest.fixture(scope="session")
def mongo_replica_url() -> Iterator[str]:
    """The URL of a MongoDB replica set of one node."""
    yield from _given("MONGO_REPLICA") or _started(MongoServer(replica_set=True))


def _given(name: str) -> list[str]:
    url = os.environ.get(f"ASYNCSESSIONS_TEST_{name}_URL")
    return [url] if url else []


def _started(
    server: RedisServer | RedisClusterServers | PostgresServer | MongoServer,
) -> Iterator[str]:
    with server:
        yield server.url
