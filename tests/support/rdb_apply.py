"""Bring an RDB to a server as the product would, in the simplest way: no links, no batches, one key after another."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import hiredis

from canal.rdb.commands import BigKey, Bounds, function_command, key_commands
from canal.rdb.dump import dump_payload
from canal.rdb.events import Event, Function, Header, Key, KeyEnd, KeyStart, ValuePart
from canal.rdb.reader import RdbReader
from canal.rdb.target import Loadable, Target
from tests.support.servers import Server
from tests.support.wire import Command, Wire

TEMPORARY = b"temporary:"


def snapshot(server: Server) -> bytes:
    """The bytes of an RDB that the server writes now."""
    server.client().save()
    return (Path(_setting(server, "dir")) / _setting(server, "dbfilename")).read_bytes()


def _setting(server: Server, name: str) -> str:
    value = server.client().config_get(name)[name]
    assert value is not None
    return value


def target_of(server: Server) -> Target:
    return Target.from_info(server.info("server"))


def read(data: bytes, *, piece: int = 1 << 16, **options: int) -> Iterator[Event]:
    """All events of an RDB, fed in pieces."""
    reader = RdbReader(**options)  # type: ignore[arg-type]
    for at in range(0, len(data), piece):
        yield from reader.feed(data[at : at + piece])
    reader.finish()


def apply(events: Iterable[Event], server: Server, *, only: str = "", bounds: Bounds | None = None) -> Counter[str]:
    """Make the server hold what the events say; returns how many keys went which way.

    `only`: "commands" or "restamp" forces that way where it is possible. AssertionError when the server refuses
    anything.
    """
    target = target_of(server)
    ways: Counter[str] = Counter()
    db = -1
    big: BigKey | None = None
    flavor = ""
    with Wire(server) as wire:
        for event in events:
            if isinstance(event, Header):
                loadable, flavor = Loadable(target, event.flavor, event.version), event.flavor
            elif isinstance(event, Function):
                _send(wire, [function_command(event, target)])
            elif isinstance(event, Key | KeyStart):
                if event.db != db:
                    db = event.db
                    _send(wire, [("SELECT", db)])
                if isinstance(event, KeyStart):
                    big = BigKey(event, target, TEMPORARY + event.key, flavor=flavor, bounds=bounds or Bounds())
                    ways["parts"] += 1
                    _send(wire, big.begin())
                else:
                    way, commands = _way(event, loadable, flavor, only, bounds or Bounds())
                    ways[way] += 1
                    _send(wire, commands)
            elif isinstance(event, ValuePart):
                assert big is not None
                _send(wire, big.part(event))
            elif isinstance(event, KeyEnd):
                assert big is not None
                _send(wire, big.end())
    return ways


def _way(key: Key, loadable: Loadable, flavor: str, only: str, bounds: Bounds) -> tuple[str, Iterable[Command]]:
    plan = loadable.plan(key.type, len(key.value), meta=bool(key.meta))
    assert plan.action != "impossible", f"{key!r}: {plan.reason}"
    if only == "commands" or plan.action == "commands":
        return "commands", key_commands(key, loadable.target, flavor=flavor, bounds=bounds)
    payload = dump_payload(key.type, key.value, plan.version, key.meta)
    return plan.action, _restore(key, payload, loadable.target)


def _restore(key: Key, payload: bytes, target: Target) -> Iterator[Command]:
    yield ("RESTORE", key.key, 0, payload, "REPLACE")
    if key.expire_ms is not None:
        yield ("PEXPIREAT", key.key, key.expire_ms)


def _send(wire: Wire, commands: Iterable[Command]) -> None:
    sent = list(commands)
    for command, reply in zip(sent, wire.call(sent), strict=True):
        assert not isinstance(reply, hiredis.ReplyError), f"{reply} for {str(command)[:300]}"
