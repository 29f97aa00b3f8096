"""Dead letters as a queue: listed, shown, retried at most once, fetched by the link, acknowledged."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from sync.deadletter import DeadLetters
from sync.letters import read_letters
from tests.conftest import StartServer
from tests.support.links import Link
from tests.support.process import ROOT
from tests.support.servers import Server

pytestmark = [pytest.mark.servers]


def cli(*arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "console.cli.main", "dead-letters", *arguments]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=200, check=False, cwd=ROOT)
    assert done.returncode == code, done.stdout + done.stderr
    return done


@pytest.fixture
def pair(redis_server: StartServer) -> tuple[Server, Server]:
    return redis_server(), redis_server()


def spoil(source: Server, target: Server, link: Link) -> None:
    """One LPUSH that the target refuses, as its key is a string there."""
    target.client().set("k", "text")
    source.client().lpush("k", "a", "b")
    link.until(lambda: link.status.dead_letters_waiting == 1, 15, "a letter is written and counted")


def waiting(link: Link) -> list[dict[str, object]]:
    found: list[dict[str, object]] = json.loads(
        cli("list", "--state-dir", str(link.config.state_dir.parent), "-o", "json").stdout
    )
    return found


def test_listed_shown_retried_once(pair: tuple[Server, Server], tmp_path: Path) -> None:
    source, target = pair
    where = ["--state-dir", str(tmp_path / "state")]
    with Link(source, target, tmp_path, on_error="continue") as link:
        link.streaming()
        spoil(source, target, link)
        (letter,) = waiting(link)
        assert (letter["command"], letter["key"], letter["db"]) == ("LPUSH", "k", 0)
        name = str(letter["id"])
        assert json.loads(cli("show", name, *where, "-o", "json").stdout)["arguments"] == ["LPUSH", "k", "a", "b"]
        refused = cli("retry", name, *where, "--target", target.url, code=2)
        assert "is in use by" in refused.stderr
    again = cli("retry", name, *where, "--target", target.url, code=1)
    assert "refuses it again: WRONGTYPE" in again.stderr
    before = target.client().hgetall("redis-canal:checkpoint:test/0")
    target.client().delete("k")
    cli("retry", name, *where, "--target", target.url)
    assert target.client().lrange("k", 0, -1) == [b"b", b"a"]
    after = target.client().hgetall("redis-canal:checkpoint:test/0")
    assert {**before, b"at": b""} == {**after, b"at": b""}, "the checkpoint stands where it stood"
    assert waiting(link) == []
    cli("retry", name, *where, "--target", target.url, code=3)
    assert target.client().keys("redis-canal:retried:*") == []
    with link.again() as link:
        link.streaming()
        source.client().lpush("k", "c")
        link.in_step(source)
    assert target.client().lrange("k", 0, -1) == [b"c", b"b", b"a"]


def test_an_attempt_whose_answer_was_lost_is_not_repeated(pair: tuple[Server, Server], tmp_path: Path) -> None:
    source, target = pair
    with Link(source, target, tmp_path, on_error="continue") as link:
        link.streaming()
        spoil(source, target, link)
    (letter,) = read_letters(link.config.state_dir)
    target.client().delete("k")
    target.client().sadd("redis-canal:retried:test/0", letter.id)
    where = ["--state-dir", str(link.config.state_dir)]
    refused = cli("retry", "--all", *where, "--target", target.url, code=1)
    assert "its answer was lost" in refused.stderr
    assert not target.client().exists("k")
    cli("ack", letter.id, *where)
    (letter,) = read_letters(link.config.state_dir)
    assert letter.settled == "acknowledged"


def test_retry_refuses_beside_a_link_of_another_machine(pair: tuple[Server, Server], tmp_path: Path) -> None:
    source, target = pair
    with Link(source, target, tmp_path, on_error="continue") as link:
        link.streaming()
        spoil(source, target, link)
    other = target.client()
    other.client_setname("redis-canal:test/0:7:abc")
    refused = cli("retry", "--all", "--state-dir", str(link.config.state_dir), "--target", target.url, code=1)
    assert "is connected to target" in refused.stderr


def test_a_running_link_fetches_the_key(pair: tuple[Server, Server], tmp_path: Path) -> None:
    source, target = pair
    with Link(source, target, tmp_path, on_error="continue") as link:
        link.streaming()
        spoil(source, target, link)
        cli("refetch", "--all", "--state-dir", str(link.config.state_dir))
        link.until(lambda: target.client().type("k") == b"list", 15, "the key is fetched")
        link.until(lambda: link.status.dead_letters_waiting == 0, 5, "nothing waits")
        source.client().lpush("k", "c")
        link.in_step(source)
        assert target.client().lrange("k", 0, -1) == [b"c", b"b", b"a"]
        link.until(lambda: not list((link.config.state_dir / "refetch").iterdir()), 5, "the request is gone")
        assert link.status.refetched_keys == 1


def test_a_link_that_stopped_at_a_letter_is_freed_by_refetch(pair: tuple[Server, Server], tmp_path: Path) -> None:
    source, target = pair
    link = Link(source, target, tmp_path, on_error="stop").start().streaming()
    target.client().set("k", "text")
    source.client().lpush("k", "a")
    source.client().set("after", "1")
    assert "refused a command" in str(link.failed())
    cli("refetch", "--all", "--state-dir", str(link.config.state_dir))
    with link.again() as link:
        link.streaming()
        link.in_step(source)
        link.until(lambda: target.client().lrange("k", 0, -1) == [b"a"], 15, "the key is fetched")
    assert target.client().get("after") == b"1"


def test_a_retried_letter_does_not_come_back_by_the_other_direction(
    pair: tuple[Server, Server], tmp_path: Path
) -> None:
    source, target = pair
    both = {"two_way": True, "on_error": "continue"}
    there = Link(source, target, tmp_path, task="sh-bj", source_dc="sh", target_dc="bj", **both)
    back = Link(target, source, tmp_path, task="bj-sh", source_dc="bj", target_dc="sh", **both)
    with back:
        back.streaming()
    with there:
        there.streaming()
        source.client().incr("before")
        there.in_step(source)
    # Two ways, what a key's state refuses is a conflict; this one the target had no means to take when it came.
    dead = DeadLetters(there.config.state_dir)
    assert dead.write(source.offset, there.status.replid, 0, [b"RPUSH", b"k", b"a"], "ERR unknown command 'RPUSH'")
    with back.again() as again:
        again.streaming()
        again.in_step(target)
        assert not source.client().exists("k")
        cli("retry", "--all", "--state-dir", str(there.config.state_dir), "--target", target.url)
        again.in_step(target)
        assert target.client().lrange("k", 0, -1) == [b"a"]
        assert not source.client().exists("k"), "what was made in sh does not come back to it"
        assert again.status.loops_dropped >= 1
        assert source.client().keys("redis-canal:retried:*") == []
