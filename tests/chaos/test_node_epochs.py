"""A coordinator that lost its data counts epochs anew: the next owner does not share one with the last."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import StartServer
from tests.support.compare import wait_equal
from tests.support.nodes import Site
from tests.support.servers import Server

pytestmark = [pytest.mark.servers, pytest.mark.slow]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    yield made
    made.close()


def epoch_at(target: Server) -> int:
    return int(target.control.hget("redis-canal:checkpoint:sh-bj/0", "epoch") or 0)


def forget(site: Site) -> None:
    """The coordinator loses everything that it knew."""
    for file in site.directory.glob("coordination.db*"):
        file.unlink()


def test_an_owner_that_holds_its_lease_passes_an_epoch_of_somebody_before_it(
    site: Site, redis_server: StartServer
) -> None:
    source, target = redis_server(), redis_server()
    first, second = site.node("a"), site.node("b")
    first.start()
    site.create("sh-bj", source, target)
    uid, task = site.describe("sh-bj")["uid"], site.directory / "sh-bj.task.yaml"
    first.kill()
    forget(site)
    second.start()
    site.cli("task", "create", "-f", str(task), "--uid", uid, "--start", "--wait", "--timeout", "60")
    source.client().incr("counter")
    wait_equal(source, target, 30)
    assert epoch_at(target) == 2
    assert second.status()["shards"][0]["epoch"] == 2
    assert source.sync_full == 1
