"""The flags of `run` that say what is carried, as a user gives them: snapshot, stream, counters."""

from __future__ import annotations

import json
import re
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import StartServer
from tests.support.links import LinkProcess
from tests.support.process import wait_until
from tests.support.servers import Server

pytestmark = pytest.mark.servers


def status(link: LinkProcess) -> dict[str, Any]:
    found = wait_until(lambda: re.search(r"listening on (http://\S+)", link.log), 30)
    with urllib.request.urlopen(found[1] + "/status", timeout=10) as answer:
        told: dict[str, Any] = json.loads(answer.read())
        return told


def content(server: Server, db: int = 0) -> set[bytes]:
    return {name for name in server.client(db=db).scan_iter() if not name.startswith(b"redis-canal:")}


def test_filters_map_and_prefix_by_flags(redis_server: StartServer, tmp_path: Path) -> None:
    source, target = redis_server(), redis_server()
    here = source.client()
    here.mset({"a:1": "1", "a:tmp:1": "1", "b:1": "1"})
    here.rpush("a:list", "x")
    source.client(db=3).set("a:three", "1")
    source.client(db=4).set("a:four", "1")
    arguments = (
        *("--include-db", "0", "--include-db", "3", "--db-map", "3:5", "--remove-prefix", "a:", "--add-prefix", "new:"),
        *("--exclude-key", "prefix:a:tmp:", "--exclude-type", "list", "--exclude-command", "publish"),
    )
    with LinkProcess(source, target, tmp_path, *arguments, "--http", "127.0.0.1:0") as link:
        wait_until(lambda: status(link)["state"] == "streaming", 30)
        assert (content(target), content(target, 5)) == ({b"new:1"}, {b"new:three"})
        assert status(link)["commands_filtered"] == {"key": 2, "type": 1, "database": 1}
        here.set("a:tmp:2", "1")  # key
        here.rpush("a:list", "y")  # type
        source.client(db=4).set("a:x", "1")  # database
        here.publish("channel", "text")  # command
        here.set("a:2", "1")
        wait_until(lambda: b"new:2" in content(target), 20)
        wait_until(lambda: status(link)["lag_bytes"] == 0, 20)
        assert content(target) == {b"new:1", b"new:2"}
        assert status(link)["commands_filtered"] == {"key": 3, "type": 2, "database": 2, "command": 1}
        assert link.terminate() == 0


def test_a_hook_by_flag(redis_server: StartServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = redis_server(), redis_server()
    (tmp_path / "loud.py").write_text(
        "def shout(db, argv):\n"
        "    if argv[0].upper() == b'SET':\n"
        "        return [(db, [*argv[:2], argv[2].upper(), *argv[3:]]), (7, [b'INCR', b'sets'])]\n"
        "    return [(db, argv)]\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    source.client().set("before", "quiet")
    with LinkProcess(source, target, tmp_path, "--hook", "loud:shout") as link:
        wait_until(lambda: "-> streaming" in link.log, 30)
        source.client().set("after", "quiet")
        wait_until(lambda: target.client().get("after") is not None, 20)
        assert (target.client().get("before"), target.client().get("after")) == (b"QUIET", b"QUIET")
        assert target.client(db=7).get("sets") == b"2"


def test_a_hook_that_fails_on_a_part_of_a_long_value(
    redis_server: StartServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One dead letter for the value, which is not made in part; everything else arrives."""
    source, target = redis_server(), redis_server()
    (tmp_path / "picky.py").write_text(
        "def check(db, argv):\n"
        "    if b'element 15000' in argv:\n"
        "        raise ValueError('not this one')\n"
        "    return [(db, argv)]\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    source.client().rpush("long", *(f"element {number}" for number in range(20_000)))
    source.client().rpush("other", *(f"item {number}" for number in range(20_000)))
    source.client().set("k", "v")
    arguments = ("--hook", "picky:check", "--on-error", "continue", "--big-key-bytes", "50k", "--http", "127.0.0.1:0")
    with LinkProcess(source, target, tmp_path, *arguments) as link:
        wait_until(lambda: "-> streaming" in link.log, 30)
        assert status(link)["dead_letters"] == 1
        assert content(target) == {b"other", b"k"}
        assert "not this one" in (tmp_path / "state/test/dead-letters.jsonl").read_text()
        assert not target.client().exists("redis-canal:tmp:test/0")
