"""What a link shows the link back of the keys that its source wrote: whole, or nothing."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import pytest

from canal.endpoint import parse_url
from sync.dirtyset import DirtySet
from sync.dirtyshare import HEAD, dirty_key, share, shared_between, shared_under, shown_between, unshare
from sync.tag import INDEX
from sync.target.connection import Connection, connect
from tests.conftest import StartServer

pytestmark = pytest.mark.servers

KEY = dirty_key("t", "0")


@pytest.fixture
async def conn(redis_server: StartServer) -> AsyncIterator[Connection]:
    conn = await connect(parse_url(redis_server("7.0").url))
    yield conn
    conn.close()


def some(count: int) -> DirtySet:
    keys = DirtySet()
    keys.add_keys(0, [b"key:%d" % number for number in range(count)])
    return keys


@pytest.mark.parametrize("count", [0, 1, 65_536, 150_000])
async def test_a_set_comes_back_whole_and_goes_without_a_trace(conn: Connection, count: int) -> None:
    keys = some(count)
    await share(conn, KEY, ("a", "b"), some(3), final=True)
    await share(conn, KEY, ("a", "b"), keys, final=True)
    found = await shared_under(conn.calls, KEY)
    assert found is not None and found.packed() == keys.packed() and len(found) == count
    between = await shared_between(conn.calls, ("a", "b"))
    assert between is not None and between.packed() == keys.packed()
    assert await shared_between(conn.calls, ("b", "a")) is None
    names = await conn.call(b"KEYS", HEAD + b"*")
    assert len(names) == 1 + -(-count // 65_536)  # nothing is left of the one before
    assert set(names) == set(await conn.call(b"SMEMBERS", INDEX))
    assert all([0 < await conn.call(b"PTTL", name) <= 24 * 3_600_000 for name in names])
    await unshare(conn, KEY)
    assert await conn.call(b"DBSIZE") == 0


async def test_a_set_that_is_not_whole_is_none(conn: Connection) -> None:
    await share(conn, KEY, ("a", "b"), some(70_000), final=True)
    head = await conn.call(b"GET", KEY)
    (part,) = [name for name in await conn.call(b"KEYS", HEAD + b"*") if name.endswith(b":1")]
    was = await conn.call(b"GET", part)
    for wrong in (was[:-8], was[:-1] + bytes([was[-1] ^ 1]), was + b"12345678", b""):
        await conn.call(b"SET", part, wrong)
        assert await shared_under(conn.calls, KEY) is None
    await conn.call(b"DEL", part)
    assert await shared_under(conn.calls, KEY) is None
    await conn.call(b"SET", part, was)
    assert await shared_under(conn.calls, KEY) is not None
    for text in (b"", b"no JSON", b"[]", json.dumps({**json.loads(head), "format": 2}).encode(), b"\xff\xfe"):
        await conn.call(b"SET", KEY, text)
        assert await shared_under(conn.calls, KEY) is None
        assert await shared_between(conn.calls, ("a", "b")) is None


async def test_what_is_not_final_or_not_known_is_no_basis_for_a_decision(conn: Connection) -> None:
    await share(conn, KEY, ("a", "b"), some(5))
    assert await shared_under(conn.calls, KEY) is None
    assert await shared_between(conn.calls, ("a", "b")) is None
    early = await shared_between(conn.calls, ("a", "b"), final=False)
    assert early is not None and len(early) == 5
    await share(conn, KEY, ("a", "b"), None, final=True)
    assert await shared_under(conn.calls, KEY) is None
    assert await shared_between(conn.calls, ("a", "b"), final=False) is None
    assert await shown_between(conn.calls, ("a", "b")) == [KEY]


async def test_of_several_links_between_the_same_datacenters_none_is_taken(conn: Connection) -> None:
    await share(conn, KEY, ("a", "b"), some(5), final=True)
    await share(conn, dirty_key("another", "0"), ("a", "b"), some(5), final=True)
    await share(conn, dirty_key("c", "0"), ("c", "b"), some(7), final=True)
    assert await shared_between(conn.calls, ("a", "b")) is None
    third = await shared_between(conn.calls, ("c", "b"))
    assert third is not None and len(third) == 7
