"""Each golden dump brought to live servers, by RESTORE and by commands, and read back through clients."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from canal.rdb.commands import Bounds, key_commands
from canal.rdb.decode import HashValue, decode
from canal.rdb.events import Event, Header, Key
from canal.rdb.target import Loadable, NotLoadable, Target
from tests.conftest import StartServer
from tests.golden.make import coded, told
from tests.support.compare import Side
from tests.support.content import read_contents
from tests.support.golden import DIRECTORY, SERVERS, expected, near
from tests.support.rdb_apply import apply, read, target_of

pytestmark = pytest.mark.servers

TARGETS = ("6.2", "7.0", "8.2", "valkey-9.1")


@pytest.mark.parametrize("to", TARGETS)
@pytest.mark.parametrize("name", SERVERS)
@pytest.mark.parametrize("only", ["", "commands"])
def test_a_golden_dump_arrives(redis_server: StartServer, name: str, to: str, only: str) -> None:
    server = redis_server(to)
    target = target_of(server)
    with Side(server) as side:
        for path in sorted((DIRECTORY / name).glob("*.rdb")):
            side.wire.ask("FLUSHALL")
            events = list(read(path.read_bytes()))
            keys = [event for event in events if isinstance(event, Key)]
            fits = [key for key in keys if _fits(key, events[0], target, only)]
            apply([events[0], *fits], server, only=only, bounds=Bounds(max_items=7))
            _check(side, path, keys, fits)


def _fits(key: Key, header: Event, target: Target, only: str) -> bool:
    """Whether the target can hold it at all: no newer types, modules or field deadlines on older servers."""
    assert isinstance(header, Header)
    plan = Loadable(target, header.flavor, header.version).plan(key.type)
    if plan.action == "impossible" or (only == "commands" and key.type in (7, 28)):
        assert key.type in (7, 28)
        return False
    if key.type == 7:
        return target.at_least((8, 0), None)  # vector sets
    value = decode(key.type, key.value, header.flavor, key.fields)
    if isinstance(value, HashValue) and value.deadlines and not target.at_least((7, 4), (9, 0)):
        with pytest.raises(NotLoadable):
            list(key_commands(key, target, flavor=header.flavor))
        return False
    return True


def _check(side: Side, path: Path, keys: list[Key], fits: list[Key]) -> None:
    for key, said in zip(keys, expected(path), strict=True):
        if key not in fits or key.type == 7:
            continue
        side.wire.ask("SELECT", key.db)
        (content,) = read_contents(side, [key.key])
        (until,) = side.deadlines(side.wire.call(list(side.ask_deadlines([key.key]))))
        found: dict[str, Any] = {"db": key.db, "key": coded(key.key), **told(content, until)}
        assert near(found, _as_told_by(said, found)), f"{path.name} {key!r}"


def _as_told_by(said: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    """What the source said, in the words of the target: counters that one of the two versions does not have; pending
    entries that were given back belong to nobody on Redis 8.8 and to a consumer of ours before it."""
    if said["type"] == "zset":
        # From 7.0 on -0 is shown as 0.
        negative = [member for member, score in said["value"] if score == "-0.0"]
        shown = [[m, "-0.0" if m in negative and score == "0.0" else score] for m, score in found["value"]]
        found["value"] = shown
    if said["type"] != "stream":
        return said
    stream = dict(said["value"])
    for counter in ("entries_added", "max_deleted_id"):
        if counter not in found["value"]:
            stream.pop(counter, None)
        elif counter not in stream:
            stream[counter] = found["value"][counter]
    groups = {}
    for name, group in stream["groups"].items():
        pending = [[i, owner or "redis-canal:returned", count] for i, owner, count in group["pending"]]
        returned = ["redis-canal:returned"] if pending != group["pending"] else []
        consumers = sorted([*group["consumers"], *returned], key=str)
        groups[name] = {**group, "pending": pending, "consumers": consumers}
        found["value"]["groups"][name]["consumers"].sort(key=str)
    return {**said, "value": {**stream, "groups": groups}}


def test_a_server_takes_each_file_as_its_dump(redis_server: StartServer, server_version: str) -> None:
    """The files themselves are sound: a server of the version that wrote them loads them."""
    server = redis_server(server_version)
    major, minor = server.number
    (own,) = [name for name in SERVERS if name.startswith(f"{server.flavor}-{major}.{minor}.")]
    for path in sorted((DIRECTORY / own).glob("*.rdb")):
        dump = server.directory / "dump.rdb"
        dump.write_bytes(path.read_bytes())
        server.control.execute_command("DEBUG", "RELOAD", "NOSAVE")
        assert sum(db["keys"] for db in server.info("keyspace").values()) == len(expected(path))
