"""An echo waits until its datacenter has what the other side had written when it was due, though not for ever."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from canal.endpoint import parse_url
from sync.abreast import Abreast
from sync.tag import INDEX, checkpoint_key
from sync.target.connection import Connection, connect
from tests.conftest import StartServer
from tests.support.process import eventually
from tests.support.servers import Server

pytestmark = pytest.mark.servers

BACK = checkpoint_key("other-here", "0").decode()


class Pair:
    """Two servers, and what a link from the other to this one would leave here."""

    def __init__(self, here: Server, other: Server, conn: Connection) -> None:
        self.here, self.other, self.conn = here, other, conn

    def applied(self, offset: int, ago_s: float = 0.0, replid: str = "") -> None:
        fields: dict[str | bytes | bytearray | memoryview | int | float, Any] = {
            "origin": "other",
            "pos": f"{replid or self.other.replid}:{offset}",
            "phase": "stream",
        }
        fields["at"] = f"{(time.time() - ago_s) * 1000:.0f}"
        self.here.control.hset(BACK, mapping=fields)
        self.here.control.sadd(INDEX, BACK)

    def write(self, size: int = 5000) -> None:
        self.other.control.set("k", "v" * size)


@pytest.fixture
async def pair(redis_server: StartServer) -> AsyncIterator[Pair]:
    here, other = redis_server(), redis_server()
    follower: Any = redis_server().client()
    follower.execute_command("REPLICAOF", *other.address)  # a stream is written only where somebody follows
    await eventually(lambda: "slave0" in other.control.info("replication"), 20, "a follower")
    other.control.set("k", "")
    conn = await connect(parse_url(here.url), who="source")
    yield Pair(here, other, conn)
    conn.close()


def abreast(pair: Pair, most_s: float = 30.0) -> Abreast:
    return Abreast(parse_url(pair.other.url), "other", most_s, fresh_s=0.0)


async def test_it_is_late_until_what_was_written_before_has_come(pair: Pair) -> None:
    pair.applied(pair.other.offset)
    pair.write()
    one = abreast(pair)
    assert await one.late(pair.conn)
    asked = pair.other.offset
    pair.write()  # later than the question
    assert await one.late(pair.conn)
    pair.applied(asked)
    assert not await one.late(pair.conn)
    assert await one.late(pair.conn), "what was written since is asked for anew"
    one.close()


async def test_nothing_is_waited_for_that_never_comes(pair: Pair) -> None:
    one = abreast(pair, most_s=0.7)
    assert not await one.late(pair.conn), "there is no link back"
    pair.applied(pair.other.offset)
    pair.write()
    assert await one.late(pair.conn)
    assert not await one.late(pair.conn), "long enough"
    assert not await one.late(pair.conn), "and from then on none is waited for"
    pair.applied(pair.other.offset)
    assert not await one.late(pair.conn)
    pair.write()
    assert await one.late(pair.conn), "but it had caught up since"
    one.close()


async def test_an_idle_source_need_not_have_been_committed_to_the_last_byte(pair: Pair) -> None:
    pair.write(3000)
    pair.applied(pair.other.offset - 3000, ago_s=3600.0)  # as so many PINGs
    one = abreast(pair)
    assert not await one.late(pair.conn)
    one.close()


async def test_another_history_of_the_other_side_is_none_of_what_was_applied(pair: Pair) -> None:
    pair.applied(1 << 40, replid="f" * 40)
    one = abreast(pair)
    assert await one.late(pair.conn)
    pair.applied(pair.other.offset)
    assert not await one.late(pair.conn)
    one.close()


async def test_an_other_side_that_is_away_is_waited_for_as_well(pair: Pair) -> None:
    pair.applied(pair.other.offset)
    one = abreast(pair, most_s=1.2)
    pair.other.kill()
    assert await one.late(pair.conn)
    while await one.late(pair.conn):
        pass
    one.close()


async def test_it_leaves_the_other_side_when_nothing_is_asked(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    def asking() -> int:
        return sum(one["cmd"].startswith("info") and not one["name"] for one in pair.other.control.client_list())

    monkeypatch.setattr("sync.abreast._IDLE_S", 0.3)
    pair.applied(pair.other.offset)
    one, before = abreast(pair), asking()
    assert not await one.late(pair.conn)
    assert asking() == before + 1
    await eventually(lambda: asking() == before, 10, "it is closed")
    assert not await one.late(pair.conn)
    assert asking() == before + 1
    one.close()
    await eventually(lambda: asking() == before, 10, "and at the end")
