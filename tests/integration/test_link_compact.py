"""`compact`: the target ends equal, with fewer commands, and errors are still told by the user's command."""

from __future__ import annotations

import base64
import json
import random
from pathlib import Path

import pytest

from canal.resp import encode
from sync.deadletter import FILE_NAME
from tests.conftest import StartServer
from tests.support.compare import differences
from tests.support.links import MODES, Link
from tests.support.servers import Server
from tests.support.wire import Wire

pytestmark = pytest.mark.servers


def held_back(link: Link, source: Server, commands: list[tuple[object, ...]]) -> None:
    """Commands that make as few batches as may be, since replay stands still while they come."""
    link.call("pause")
    link.until(lambda: link.status.paused, what="the link is paused")
    with Wire(source) as wire:
        wire.call(commands)
    link.call("resume")
    link.in_step(source)


def some_commands(dice: random.Random, count: int) -> list[tuple[object, ...]]:
    """Writes of many kinds over few keys, in three databases, transactions among them."""

    def one() -> tuple[object, ...]:
        key, other = f"k{dice.randrange(8)}", f"k{dice.randrange(8)}"
        return dice.choice(
            [
                *[("SET", key, dice.random())] * 4,
                ("SET", key, 1, "EX", dice.randrange(1, 3) * 1000),
                ("SET", key, 2, "KEEPTTL"),
                ("SET", key, 3, "NX"),
                ("MSET", key, 1, other, 2),
                ("INCR", "n" + key),
                ("DEL", key),
                ("DEL", key, "n" + other),
                ("UNLINK", "n" + key),
                ("RENAMENX", key, other),
                ("COPY", key, other, "REPLACE"),
                ("EXPIRE", key, 5000),
                ("SETRANGE", key, 3, "x"),
                ("RPUSH", "l" + key, 1),
                ("LMOVE", "l" + key, "l" + other, "LEFT", "RIGHT"),
                ("DEL", "l" + key),
                ("SELECT", dice.randrange(3)),
                ("MOVE", key, 2),
            ]
        )

    out: list[tuple[object, ...]] = []
    while len(out) < count:
        if dice.random() < 0.1:
            out += [("MULTI",), *(one() for _ in range(dice.randrange(1, 6))), ("EXEC",)]
        else:
            out.append(one())
    return out


@pytest.mark.parametrize("writer", MODES)
@pytest.mark.parametrize("version", ["7.0", "8.2", "valkey-9.1"])
def test_any_commands_leave_the_two_sides_equal(
    redis_server: StartServer, tmp_path: Path, writer: str, version: str
) -> None:
    source, target = redis_server(version), redis_server(version)
    dice = random.Random(f"{writer} {version}")
    with Link(source, target, tmp_path, writer=writer, compact=True, on_error="continue") as link:
        link.streaming()
        for _ in range(4):
            held_back(link, source, some_commands(dice, 1500))
            assert not differences(source, target)
        assert link.status.commands_left_out > 300
        assert link.status.dead_letters == 0


def test_a_failing_command_is_named_by_its_place_in_the_stream(redis_server: StartServer, tmp_path: Path) -> None:
    source, target = redis_server(), redis_server()
    source.client().rpush("victim", "old")
    with Link(source, target, tmp_path, compact=True, on_error="continue") as link:
        link.streaming()
        target.client().set("victim", "not a list")
        void = [("SET", "hot", number) for number in range(50)]
        held_back(link, source, [*void, ("LPUSH", "victim", 1), ("SET", "hot", "x"), ("SET", "cold", 1)])
        end = source.offset - sum(len(encode(c)) for c in ([b"SET", b"hot", b"x"], [b"SET", b"cold", b"1"]))
        (letter,) = [json.loads(line) for line in (link.config.state_dir / FILE_NAME).read_text().splitlines()]
        assert base64.b64decode(letter["raw"]) == encode([b"LPUSH", b"victim", b"1"])
        assert letter["offset"] == end
        assert link.status.commands_left_out == 50
        assert target.control.get("hot") == b"x"
