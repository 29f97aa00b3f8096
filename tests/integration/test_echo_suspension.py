"""Two sides that disagree about the homes of keys echo nothing and both say so; agreed again, they end equal."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import pytest

from tests.conftest import StartServer
from tests.support.compare import differences, wait_equal
from tests.support.links import Link, link_between, quiet
from tests.support.process import wait_until

pytestmark = pytest.mark.servers


def test_echoes_wait_while_both_sides_name_another_home(
    redis_server: StartServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "sync.echoes")
    a, b = redis_server("7.0"), redis_server("7.0")
    there = link_between(a, b, tmp_path, "a-b", two_way=True, home=("a",)).start()
    back = link_between(b, a, tmp_path, "b-a", two_way=True, home=("b",)).start()
    for link in (there, back):
        link.streaming()
    in_a, in_b = a.client(), b.client()

    def heard(link: Link) -> bool:
        in_a.incr("beat:a")
        in_b.incr("beat:b")
        return bool(link.status.echoes_suspended)

    for link in (there, back):
        link.until(lambda link=link: heard(link), 20, "both say that echoes are suspended")
    assert "the home of keys is a among a, b here" in there.status.echoes_suspended
    assert back.status.homes_fingerprint in there.status.echoes_suspended
    assert "give both sides the same --home" in back.status.echoes_suspended
    assert caplog.text.count("echoes are suspended") == 2

    for link in (there, back):
        link.call("pause")
    wait_until(lambda: there.status.paused and back.status.paused, 10, "paused")
    in_a.set("k", "from a")
    in_b.set("k", "from b")
    for link in (there, back):
        link.call("resume")
    there.until(lambda: in_b.get("k") == b"from a", 20, "the other's write")
    back.until(lambda: in_a.get("k") == b"from b", 20, "the other's write")
    wait_until(lambda: quiet(a, b), 20, "neither echoes, or they would for ever")
    assert differences(a, b)
    assert there.status.echoes + back.status.echoes == 0
    assert there.status.echoes_waiting + back.status.echoes_waiting > 0

    back.stop()
    back.config = replace(back.config, home=("a",))
    back = back.again().start().streaming()
    for client in (in_a, in_b):
        client.incr("beat")
    wait_equal(a, b, 20)
    assert in_b.get("k") == in_a.get("k") == b"from b", "which a took from b: a is the home, and echoes what it has"
    assert there.status.echoes_suspended == back.status.echoes_suspended == ""
    assert "echoes go on" in caplog.text
    for link in (there, back):
        link.stop()
