"""The sampler finds keys that differ while a link streams, and sees them repaired; the heartbeat tells the true lag."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from sync.heartbeat import heartbeat_key
from tests.conftest import StartServer
from tests.support.links import Link
from tests.support.proxy import Proxy
from tests.support.servers import Server
from tests.support.workload import Workload

pytestmark = pytest.mark.servers


@pytest.fixture
def pair(redis_server: StartServer) -> tuple[Server, Server]:
    return redis_server(), redis_server()


def test_keys_that_differ_are_found_and_seen_repaired(
    pair: tuple[Server, Server], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sync.verify.sampler._AGAIN_S", 0.5)
    monkeypatch.setattr("sync.verify.sampler._PAUSE_S", 0.1)
    source, target = pair
    source.control.mset({f"k{number}": number for number in range(100)})
    with Link(source, target, tmp_path, verify_rate=500.0) as link:
        link.streaming().in_step(source)
        with Workload(source, rate=300) as load:
            load.wait(200)
            target.control.set("k7", "other")
            target.control.set("extra", 1)
            target.control.pexpireat("k9", 4_000_000_000_000)
            link.until(lambda: link.status.verify_differing == 3, 60, "all three are found")
            load.wait(200)
        status = link.status
        assert status.verify_differences == {"value": 1, "extra": 1, "ttl": 1}
        assert {line.partition(":")[0] for line in status.verify_examples} == {
            "db 0 key b'k7'", "db 0 key b'k9'", "db 0 key b'extra'",
        }  # fmt: skip
        assert status.verify_keys > 100 and status.verify_error == ""
        target.control.set("k7", 7)
        target.control.persist("k9")
        target.control.delete("extra")
        link.until(lambda: status.verify_differing == 0, 60, "seen repaired")


def test_keys_of_the_stream_are_looked_at_among_many(pair: tuple[Server, Server], tmp_path: Path) -> None:
    """By chance alone it would take hours."""
    source, target = pair
    source.control.execute_command("DEBUG", "POPULATE", 100_000)
    with Link(source, target, tmp_path, verify_rate=20.0) as link:
        link.streaming(60).in_step(source, 60)
        target.control.rpush("written", "there")

        def write() -> bool:
            source.control.rpush("written", "here")
            source.control.ltrim("written", 0, 3)
            return link.status.verify_differing == 1

        link.until(write, 60, "the key that is written is found")
        assert link.status.verify_keys < 5000


def test_what_may_not_be_read_is_told_and_the_link_goes_on(pair: tuple[Server, Server], tmp_path: Path) -> None:
    source, target = pair
    config = Link(source, target, tmp_path).config
    source.control.execute_command("ACL", "SETUSER", "default", "-scan", "-randomkey", "-type", "-eval", "-get")
    assert config.verify_rate == 0.0 and not config.heartbeat  # off unless asked for
    with Link(source, target, tmp_path, verify_rate=5.0) as link:
        source.control.set("a", 1)
        link.streaming().in_step(source)
        link.until(lambda: "NOPERM" in link.status.verify_error, 30, "it is told")
        source.control.set("b", 1)
        link.in_step(source)


def test_the_heartbeat_tells_the_lag_from_end_to_end(
    pair: tuple[Server, Server], tmp_path: Path, proxy: Callable[[Server], Proxy]
) -> None:
    source, target = pair
    through = proxy(target)
    with Link(source, through, tmp_path, heartbeat=True) as link:
        link.streaming()
        status = link.status
        link.until(lambda: status.heartbeat_lag is not None, 30, "a heartbeat is through")
        assert status.heartbeat_lag_seconds is not None and status.heartbeat_lag_seconds < 5
        link.call("pause")
        source.control.set("k", 1)
        link.until(lambda: (status.heartbeat_lag_seconds or 0) > 2, 60, "heartbeats wait with the rest")
        link.call("resume")
        link.until(lambda: (status.heartbeat_lag_seconds or 9) < 1, 60, "they are through")
        link.in_step(source)
    key = heartbeat_key("test", "0")
    assert source.control.exists(key) and not target.control.exists(key)  # never replicated
    assert source.control.pttl(key) > 0
