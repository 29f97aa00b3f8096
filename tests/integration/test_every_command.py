"""The stream of every write command of the table, with its rarer options, from each version that can be had: equal."""

from __future__ import annotations

from pathlib import Path

import pytest

from canal.commands.table import COMMANDS, Flag
from tests.conftest import StartServer
from tests.support.command_cases import CASES, FLUSHING, covered, play
from tests.support.compare import wait_equal
from tests.support.links import Link
from tests.support.servers import MAIN_VERSIONS, MORE_VERSIONS, parse_version

VERSIONS = sorted((*MORE_VERSIONS, *MAIN_VERSIONS), key=parse_version)

WITHOUT_CASE = {
    "CLUSTER": "only a server in cluster mode takes it",
}
"""Commands of the table that some server here knows and that have no case; why."""


def test_every_command_of_the_table_has_a_case() -> None:
    """Those that one of our servers knows: of the others the table has only what their documentation says."""
    here = [parse_version(version) for version in VERSIONS]
    wanted = {
        info.name.decode()
        for info in COMMANDS
        if info.flags & Flag.WRITE and info.type != "module" and any(info.exists_on(*server) for server in here)
    }
    assert wanted - covered() == set(WITHOUT_CASE)


@pytest.mark.servers
@pytest.mark.slow
@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("writer", ["gated", "guarded"])
def test_every_command_replicates_equal(redis_server: StartServer, tmp_path: Path, version: str, writer: str) -> None:
    source, target, spare = redis_server(version), redis_server(version), redis_server(version)
    tolerance = 1 if source.at_least((7, 0)) else 4000  # relative deadlines count from when they are received
    with Link(source, target, tmp_path, writer=writer) as link:
        link.streaming()
        sent = play(source, spare)
        link.in_step(source, 60)
        assert (link.status.dead_letters, link.status.commands_failed, link.status.full_resyncs) == (0, 0, 1), (
            link.status
        )
        wait_equal(source, target, ttl_tolerance_ms=tolerance)
        assert sent > 280
        play(source, spare, FLUSHING)
        link.in_step(source, 60)
        wait_equal(source, target, ttl_tolerance_ms=tolerance)
        assert (link.status.dead_letters, link.status.full_resyncs) == (0, 1)
        assert set(source.control.keys()) == {b"f3", b"f4"} - {b"f3"} and len(CASES) > 50
