"""A shard goes on in another directory, as on another node: what that one knows, and what it asks the source for."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import StartServer
from tests.support.compare import wait_equal
from tests.support.links import Link, link_between

pytestmark = pytest.mark.servers

BACKLOG = 64 * 1024


def test_a_node_that_gets_a_shard_back_goes_on_from_the_checkpoint_not_from_its_old_journal(
    redis_server: StartServer, tmp_path: Path
) -> None:
    """Its own journal ends where the source's backlog no longer reaches: asking for that would be a full resync."""
    source, target = redis_server("7.0", repl_backlog_size=str(BACKLOG)), redis_server("7.0")
    client = source.client()
    changes = {"uid": "the-task", "writer": "guarded"}
    first = Link(source, target, tmp_path / "one", **changes).start().streaming()
    client.set("k", 1)
    first.in_step(source)
    first.stop()
    with Link(source, target, tmp_path / "two", **changes) as second:
        second.streaming()
        for _ in range(8):
            client.set("filler", "x" * BACKLOG)
        client.incr("k")
        second.in_step(source)
    with first.again() as back:
        back.streaming()
        client.incr("k")
        back.in_step(source)
    wait_equal(source, target)
    assert target.client().get("k") == b"3"
    assert source.sync_full == 1


def test_two_ways_a_node_without_the_journal_knows_which_writes_are_concurrent(
    redis_server: StartServer, tmp_path: Path
) -> None:
    """Not all that comes from the other side is in conflict then, only what was written here without its knowledge."""
    a, b = redis_server("7.0"), redis_server("7.0")
    both = {"two_way": True, "home": "a"}
    to_b = link_between(a, b, tmp_path / "one", "a-b", uid="the-task", **both).start().streaming()
    to_a = link_between(b, a, tmp_path, "b-a", **both).start().streaming()
    in_a, in_b = a.client(), b.client()

    def said() -> bool:
        in_a.incr("beat:a")
        in_b.incr("beat:b")
        return bool(in_b.hget("redis-canal:checkpoint:a-b/0", "past"))

    to_b.until(said, what="the checkpoint says what another node has to read again")
    to_a.in_step(b)
    to_b.in_step(a)
    to_a.stop()
    in_b.set("only-there", "b")
    in_b.set("both", "b")
    in_a.set("only-here", "a")
    in_a.set("both", "a")
    to_b.in_step(a)
    to_b.stop()
    taken = link_between(a, b, tmp_path / "two", "a-b", uid="the-task", **both).start().streaming()
    with to_a.again() as again:
        again.in_step(b)
        taken.in_step(a)
        wait_equal(a, b)
        assert in_b.mget("only-here", "only-there") == [b"a", b"b"]
        assert taken.status.conflicts == 1, "only one key was written on both sides"
        taken.stop()
    assert a.sync_full == b.sync_full == 1
