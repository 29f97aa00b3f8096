"""RESTORE of one server's payloads on another, as the stream carries them."""

from __future__ import annotations

import pytest

from canal.rdb.restore import adapt_function_restore, adapt_restore
from canal.rdb.target import Target, probe_payload
from tests.conftest import StartServer
from tests.support.compare import assert_equal
from tests.support.dataset import fill
from tests.support.rdb_apply import target_of
from tests.support.servers import Server
from tests.support.wire import Wire

pytestmark = pytest.mark.servers

# 6.0 and 7.0 stand for what does not know quicklist 2 or listpacks, and what does not know listpack sets.
PAIRS = [
    ("7.0", "6.0"),
    ("8.2", "7.0"),
    ("8.2", "valkey-9.1"),
    ("valkey-9.1", "8.2"),
    ("valkey-9.1", "valkey-8.1"),
    ("valkey-8.1", "5.0"),
    ("6.2", "8.2"),
]


@pytest.mark.parametrize(("version", "to"), PAIRS)
def test_every_payload_arrives(redis_server: StartServer, version: str, to: str) -> None:
    source, target = redis_server(version), redis_server(to)
    fill(source)
    for db in (1, 5, 15):
        source.client(db=db).flushdb()
    if not target.at_least((7, 0)) and source.at_least((7, 0)):
        source.client().function_flush()
    if not target.at_least((7, 4), (9, 0)):
        source.client().delete("hash:deadlines", "hash:deadlines-large")
    where = target_of(target)

    with Wire(source) as origin, Wire(target) as copy:
        for argv in _restores(source, origin):
            for command in adapt_restore(argv, where):
                copy.ask(*command)
        if source.at_least((7, 0)) and target.at_least((7, 0)):
            payload = origin.ask("FUNCTION", "DUMP")
            copy.ask(*adapt_function_restore([b"FUNCTION", b"RESTORE", payload, b"FLUSH"], where))

    assert_equal(source, target, ttl_tolerance_ms=2000)


def _restores(source: Server, origin: Wire) -> list[list[bytes]]:
    """As a source writes them: with a relative life before 7.0, absolute since."""
    argvs = []
    keys = origin.ask("KEYS", "*")
    for key in keys:
        payload, left = origin.ask("DUMP", key), origin.ask("PTTL", key)
        if left < 0:
            argvs.append([b"RESTORE", key, b"0", payload])
        elif source.at_least((7, 0)):
            argvs.append([b"RESTORE", key, b"%d" % origin.ask("PEXPIRETIME", key), payload, b"ABSTTL", b"REPLACE"])
        else:
            argvs.append([b"RESTORE", key, b"%d" % left, payload, b"REPLACE", b"IDLETIME", b"9"])
    return argvs


def test_the_table_of_versions_agrees_with_the_servers(redis_server: StartServer, server_version: str) -> None:
    server = redis_server(server_version)
    target = target_of(server)
    with Wire(server) as wire:
        newest = [v for v in range(1, 90) if _accepts(wire, v)]
    assert max(newest) == target.rdb_version
    # A foreign version is refused, whatever its number.
    for version in newest:
        flavor = "valkey" if version >= 80 else "redis"
        assert target.loads(flavor, version), version


def _accepts(wire: Wire, version: int) -> bool:
    (reply,) = wire.call([("RESTORE", "probe", 0, probe_payload(version), "REPLACE")])
    return bool(reply == b"OK")


def test_an_unknown_server_is_probed() -> None:
    assert not Target.of("redis", "12.0").loads("redis", 20)
    assert Target.of("redis", "12.0").with_rdb_version(20).loads("redis", 20)
