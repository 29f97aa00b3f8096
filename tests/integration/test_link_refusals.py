"""A target that refuses writes for a while, in each way a server can: nothing is skipped, nothing is applied twice.

REDIS_CANAL_ROUNDS=20 runs the long form.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from redis.exceptions import ResponseError

from tests.conftest import StartServer
from tests.support.compare import wait_equal
from tests.support.links import MODES, Link
from tests.support.process import ReservedPort
from tests.support.servers import Server
from tests.support.workload import Workload

pytestmark = [pytest.mark.servers, pytest.mark.slow]

ROUNDS = int(os.environ.get("REDIS_CANAL_ROUNDS", "2"))


@contextmanager
def busy(target: Server) -> Iterator[None]:
    """A script that does not end: BUSY to everybody else, from 50 ms after its start until it is killed."""
    target.config_set(lua_time_limit=50)
    client = target.client()

    def run() -> None:
        with suppress(ResponseError):  # that it was killed
            client.eval("while true do end", 0)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    yield
    target.control.script_kill()
    thread.join()
    client.close()


@contextmanager
def too_few_replicas(target: Server) -> Iterator[None]:
    """NOREPLICAS, because of a setting."""
    target.config_set(min_replicas_to_write=1)
    yield
    target.config_set(min_replicas_to_write=0)


@contextmanager
def out_of_memory(target: Server) -> Iterator[None]:
    """OOM: less memory allowed than is used."""
    target.config_set(maxmemory=max(1, int(target.info("memory")["used_memory"]) // 2))
    yield
    target.config_set(maxmemory=0)


@contextmanager
def replica(target: Server) -> Iterator[None]:
    """READONLY: the target follows a master (that does not answer, so that it keeps its data)."""
    nobody = ReservedPort()
    target.control.replicaof("127.0.0.1", str(nobody.number))
    yield
    target.control.replicaof("NO", "ONE")
    nobody.release()


WAYS: tuple[Callable[[Server], object], ...] = (busy, too_few_replicas, out_of_memory, replica)


@pytest.mark.timeout(300 + 30 * ROUNDS)
@pytest.mark.parametrize("writer", MODES)
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
@pytest.mark.parametrize("version", ["6.2", "7.0", "valkey-9.1"])
def test_nothing_is_lost_while_the_target_refuses(
    redis_server: StartServer, tmp_path: Path, writer: str, way: Callable[[Server], object], version: str
) -> None:
    source, target = redis_server(version), redis_server(version)
    with Link(source, target, tmp_path, writer=writer) as link:
        link.streaming()
        with Workload(source, writers=3, rate=1500, pipeline=10) as load:
            for _ in range(ROUNDS):
                load.wait(300)
                errors = link.status.errors
                with way(target):  # type: ignore[attr-defined]
                    link.until(lambda errors=errors: link.status.errors > errors, what="the link has been refused")
                    load.wait(500)
                link.more("applied_offset", what="the link goes on")
        link.in_step(source)
        wait_equal(source, target, 10, ttl_tolerance_ms=5000 if version == "6.2" else 1)
        assert link.status.dead_letters == 0
        assert link.status.writer == writer
    assert source.sync_full == 1
