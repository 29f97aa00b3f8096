"""DUMP payloads of one server on another, by what canal.rdb.target and sync.rewrite.payloads make of them."""

from __future__ import annotations

import pytest

from canal.rdb.target import Target, probe_payload
from sync.rewrite.payloads import Payloads
from tests.conftest import StartServer
from tests.support.compare import assert_equal
from tests.support.dataset import fill
from tests.support.rdb_apply import target_of
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
        payloads = Payloads(where)
        for key in origin.ask("KEYS", "*"):
            payload, left = origin.ask("DUMP", key), origin.ask("PTTL", key)
            loadable = payloads(key, payload)
            made = [[b"RESTORE", key, b"0", loadable]] if isinstance(loadable, bytes) else loadable
            assert made is not None
            for command in [*made, *([[b"PEXPIRE", key, b"%d" % left]] if left > 0 else [])]:
                copy.ask(*command)
        if source.at_least((7, 0)) and target.at_least((7, 0)):
            functions = payloads(b"", origin.ask("FUNCTION", "DUMP"))
            loads = [[b"FUNCTION", b"RESTORE", functions]] if isinstance(functions, bytes) else functions
            assert loads is not None
            for command in loads:
                copy.ask(*command)

    assert_equal(source, target, ttl_tolerance_ms=2000)


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
