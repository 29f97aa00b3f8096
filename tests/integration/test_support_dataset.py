"""The dataset holds what it says, on every version, and a native replica takes all of it over."""

from __future__ import annotations

import pytest

from tests.conftest import StartServer
from tests.support.compare import assert_equal, differences, wait_equal
from tests.support.dataset import DATABASES, fill, mutate
from tests.support.process import wait_until
from tests.support.servers import MAIN_VERSIONS, MORE_VERSIONS, Server

pytestmark = pytest.mark.servers

# What every version from 5.0 on knows; the small encodings have had two names.
ENCODINGS = {"int", "embstr", "raw", "quicklist", "intset", "hashtable", "skiplist", "stream"}


def _encodings(server: Server) -> set[str]:
    client = server.client()
    return {client.object("encoding", key).decode() for key in client.scan_iter(count=1000)}


@pytest.mark.parametrize("version", [*MAIN_VERSIONS, *MORE_VERSIONS])
def test_every_encoding_and_database_is_there(redis_server: StartServer, version: str) -> None:
    server = redis_server(version)
    fill(server)
    found = _encodings(server)
    small = {"listpack"} if server.number >= (7, 0) else {"ziplist"}
    assert found >= (ENCODINGS if server.number >= (6, 0) else ENCODINGS - {"stream"}) | small
    if server.at_least((7, 4), (10, 0)):
        assert "listpackex" in found
    keyspace = server.info("keyspace")
    assert set(keyspace) == {f"db{number}" for number in DATABASES}
    assert {db["keys"] > 100 and db["expires"] > 10 for db in keyspace.values()} == {True}, keyspace
    assert bool(server.at_least((7, 0)) and server.control.function_list()) == server.at_least((7, 0))


@pytest.mark.parametrize("version", [*MAIN_VERSIONS, *MORE_VERSIONS])
def test_a_native_replica_holds_the_same_by_snapshot_and_by_stream(redis_server: StartServer, version: str) -> None:
    """If it did not, dataset or comparison would be wrong: nobody can be held to more than a replica does."""
    source, replica = redis_server(version), redis_server(version)
    fill(source, prefix=b"snap:", vectors=True)
    replica.control.replicaof(*source.address)
    wait_until(lambda: replica.info("replication")["master_link_status"] == "up", 20, "the replica is in step")
    fill(source, prefix=b"live:")
    mutate(source, prefix=b"snap:")
    mutate(source, prefix=b"live:")
    wait_until(lambda: replica.offset >= source.offset, 20, "the replica has it all")
    # Up to 6.2 relative times to live are sent on as they are, and grow by the way they take.
    assert_equal(source, replica, ttl_tolerance_ms=1 if source.number >= (7, 0) else 1000)


def test_prefixes_do_not_meet(redis_server: StartServer) -> None:
    one, both = redis_server(), redis_server()
    fill(one, prefix=b"a:")
    fill(both, prefix=b"a:")
    fill(both, prefix=b"b:")
    mutate(both, prefix=b"b:")
    found = differences(one, both, limit=100_000, ttl_tolerance_ms=60_000)
    about_a = [line for line in found if "b'a:" in line and "pending" not in line]  # delivered at another time
    assert len(found) > 500 and not about_a


@pytest.mark.slow
def test_the_big_values_are_as_big_as_they_say(redis_server: StartServer) -> None:
    source, replica = redis_server(), redis_server()
    fill(source, big=True)
    client = source.client()
    assert client.strlen("big:string") == 20 << 20 and client.scard("big:set") == 1_000_000
    replica.control.replicaof(*source.address)
    wait_until(lambda: replica.info("replication")["master_link_status"] == "up", 60, "the replica is in step")
    wait_equal(source, replica)
