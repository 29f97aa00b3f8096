"""What the conditional delete of fields does at a server, by itself and within the scripts of the writers."""

from __future__ import annotations

import time
from typing import Any

import pytest

from sync.conditional import delete_fields
from sync.target.cluster.script import Scripts
from sync.target.script import GUARD
from tests.conftest import StartServer

pytestmark = pytest.mark.servers

PAST = 1_700_000_000_000


def _filled(client: Any, later: int) -> None:
    client.delete("h")
    client.hset("h", mapping=dict.fromkeys(("same", "later", "none", "other"), "v"))
    client.execute_command("HPEXPIREAT", "h", later, "FIELDS", 1, "same")
    client.execute_command("HPEXPIREAT", "h", later + 5000, "FIELDS", 1, "later")


@pytest.mark.parametrize("version", ["8.2", "valkey-9.1"])
def test_it_deletes_what_ends_no_later(redis_server: StartServer, version: str) -> None:
    client = redis_server(version).client()
    until = int(time.time() * 1000) + 600_000

    def call(*names: str) -> Any:
        (argv,) = delete_fields(b"h", [(name.encode(), until + 2) for name in names])
        return client.execute_command(*argv)

    _filled(client, until)
    assert call("same", "missing") == 1
    assert client.hexists("h", "same") == 0
    assert call("same", "later", "none") == 0, "kept: one ends later, the other never"
    assert set(client.hkeys("h")) == {b"later", b"none", b"other"}
    _filled(client, until)
    assert call("same", "none") == 0
    assert set(client.hkeys("h")) == {b"later", b"none", b"other"}, "one that is kept keeps no other"
    client.delete("h")
    assert call("same") == 1
    client.set("h", "a string by now")
    assert call("same") == 0
    assert client.get("h") == b"a string by now"


def test_a_server_without_deadlines_of_fields_deletes_them(redis_server: StartServer) -> None:
    client = redis_server("7.0").client()
    client.hset("h", mapping={"f": "v", "g": "v"})
    (argv,) = delete_fields(b"h", [(b"f", PAST)])
    assert client.execute_command(*argv) == 1
    assert client.hkeys("h") == [b"g"]


@pytest.mark.parametrize("version", ["8.2", "valkey-9.1"])
def test_it_does_the_same_within_the_scripts_of_writers(redis_server: StartServer, version: str) -> None:
    client = redis_server(version).client()
    until = int(time.time() * 1000) + 600_000
    (argv,) = delete_fields(b"h", [(b"same", until + 2), (b"later", until + 2)])
    (gone,) = delete_fields(b"h", [(b"other", until + 2)])
    expected = {b"later", b"none", b"other"}

    _filled(client, until)
    words: list[Any] = ["", "0", "0", 4, "HSET", "checkpoint", "a", "b", len(argv), *argv]
    assert client.execute_command("EVAL", GUARD, 1, "checkpoint", *words) == []
    assert set(client.hkeys("h")) == expected

    _filled(client, until)
    careful = Scripts(True).careful
    words = ["record", 2, "a", "b", len(argv), *argv, len(gone), *gone]
    assert client.execute_command("EVAL", careful, 0, *words) == [0, b"~", 1, b"~"], "other has no deadline: kept"
    assert set(client.hkeys("h")) == expected
