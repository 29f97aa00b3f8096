"""Everything a server can hold arrives: in the snapshot, and again when it is written through the stream."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import StartServer
from tests.support.compare import assert_equal
from tests.support.dataset import fill, mutate
from tests.support.links import MODES, Link

pytestmark = pytest.mark.servers


@pytest.mark.slow
@pytest.mark.parametrize("writer", MODES)
def test_all_data_arrives_in_the_snapshot_and_through_the_stream(
    redis_server: StartServer, server_version: str, tmp_path: Path, writer: str
) -> None:
    source, target = redis_server(server_version), redis_server(server_version)
    fill(source)
    with Link(source, target, tmp_path, writer=writer) as link:
        link.streaming()
        assert_equal(source, target)
        fill(source, prefix=b"live:")
        mutate(source, prefix=b"live:")
        link.in_step(source)
        # up to 6.2 the stream has relative deadlines, which count from when they were received
        assert_equal(source, target, ttl_tolerance_ms=250 if server_version == "6.2" else 1)
        assert link.status.writer == writer
        assert link.status.dead_letters == 0
    assert source.sync_full == 1
