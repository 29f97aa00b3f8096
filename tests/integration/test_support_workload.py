"""The writers keep their rate, survive what happens to their server, and end."""

from __future__ import annotations

import time

import pytest

from tests.conftest import StartServer
from tests.support.compare import wait_equal
from tests.support.process import wait_until
from tests.support.workload import COUNTING, Workload

pytestmark = pytest.mark.servers


def test_it_writes_every_kind_in_every_database_at_its_rate(redis_server: StartServer) -> None:
    server = redis_server()
    started = time.monotonic()
    with Workload(server, writers=3, rate=3000) as load:
        load.wait(4000)
        took = time.monotonic() - started
    assert took > 1.0
    assert {f"db{number}" for number in (0, 1, 5, 15)} == set(server.info("keyspace"))
    client = server.client(5)
    assert {client.type(key) for key in client.scan_iter()} == {b"string", b"list", b"hash", b"zset", b"set", b"stream"}
    before = load.acknowledged
    assert load.stop() == before and not [t for t in load._threads if t.is_alive()]


def test_pause_and_resume(redis_server: StartServer) -> None:
    server = redis_server()
    with Workload(server, rate=None) as load:
        load.wait(100)
        load.pause()
        wait_until(lambda: _quiet(load), 5, "nothing is written")
        load.resume()
        load.wait(100)


def _quiet(load: Workload) -> bool:
    before = load.acknowledged
    time.sleep(0.1)
    return load.acknowledged == before


def test_it_survives_restarts_and_refusals(redis_server: StartServer) -> None:
    server = redis_server(appendonly="yes", appendfsync="no")
    with Workload(server, rate=2000, commands=COUNTING) as load:
        load.wait(200)
        server.restart(graceful=False)
        load.wait(200)
        server.config_set(min_replicas_to_write=1)  # NOREPLICAS
        time.sleep(0.1)
        server.config_set(min_replicas_to_write=0)
        load.wait(200)
        server.control.client_kill_filter(_type="normal", skipme=True)
        load.wait(200)
    assert len(load._threads) == 2


def test_a_reply_that_nothing_explains_is_raised(redis_server: StartServer) -> None:
    load = Workload(redis_server(), commands=[lambda _r, _k: [("NOSUCHCOMMAND",)]])
    with pytest.raises(AssertionError, match="unknown command"), load:
        wait_until(lambda: not any(thread.is_alive() for thread in load._threads), 10, "given up")


def test_a_replica_follows_it(redis_server: StartServer) -> None:
    source, replica = redis_server(), redis_server()
    with Workload(source, rate=None, writers=2) as load:
        replica.control.replicaof(*source.address)
        load.wait(20_000)
    wait_equal(source, replica, 20)
