"""Comparing two real servers: every kind of difference is found, nothing else is reported."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

import pytest
import redis

from canal.endpoint import parse_url
from canal.errors import AuthError, Unreachable
from sync.verify import Difference, Options, Report, compare
from tests.conftest import StartServer
from tests.support.process import eventually
from tests.support.servers import Server

pytestmark = pytest.mark.servers
ONCE = Options(rounds=1)


async def look(
    first: Server, second: Server, options: Options = ONCE, progress: Callable[[Report], None] | None = None
) -> Report:
    return await compare(parse_url(first.url), parse_url(second.url), options, progress)


def kinds(report: Report) -> dict[bytes, str]:
    return {one.key: one.kind for one in report.differences}


def fill(client: redis.Redis) -> None:
    """Keys of all classic types, some with deadlines."""
    client.set("s", b"\x00\r\nbinary", pxat=4_000_000_000_000)
    client.set(b"odd\r\n\x00key", 7)
    client.set("", "empty name")
    client.rpush("l", *range(600))
    client.sadd("i", *range(50))
    client.sadd("big", *(f"member{number}" for number in range(30_000)))
    client.zadd("z", {"a": 0.1, "b": float("inf"), "c": 3})
    client.hset("h", mapping={f"f{number}": number for number in range(300)})
    client.xadd("x", {"f": "v"}, id="1-1")
    client.xgroup_create("x", "g", id="0")
    client.execute_command("XSETID", "x", "5-5")
    client.set("redis-canal:checkpoint:x", id(client))  # reserved: never compared


@pytest.fixture
def pair(redis_server: StartServer) -> tuple[Server, Server]:
    return redis_server(), redis_server()


async def test_equal_sides(pair: tuple[Server, Server]) -> None:
    first, second = pair
    for server in pair:
        fill(server.client())
        fill(server.client(db=7))
    second.control.hset("h", mapping={f"f{number}": number for number in reversed(range(300))})
    report = await look(first, second)
    assert report.differences == []
    assert report.equal
    assert report.keys == 18
    assert (report.first_keys, report.second_keys) == (18, 18)


async def test_every_kind_of_difference_is_found_and_nothing_else(pair: tuple[Server, Server]) -> None:
    first, second = pair
    for server in pair:
        fill(server.client(db=3))
    left, right = first.client(db=3), second.client(db=3)
    left.set("only first", 1)
    right.set("only second", 1)
    left.set("type", 1)
    right.rpush("type", 1)
    right.setrange("s", 0, "X")
    right.pexpireat("s", 4_000_000_000_000)
    right.lset("l", 599, "other")
    right.sadd("i", 50)
    right.srem("i", 0)
    right.srem("big", "member29999")
    right.sadd("big", "member30000")
    right.zadd("z", {"a": 0.10000000000000002})
    right.hset("h", "f299", "other")
    right.xgroup_setid("x", "g", "1-1")
    left.set("ttl", 1)
    right.set("ttl", 1, px=100_000)
    left.set("deadline", 1, pxat=4_000_000_000_000)
    right.set("deadline", 1, pxat=4_000_000_000_002)
    left.set("near deadline", 1, pxat=4_000_000_000_000)
    right.set("near deadline", 1, pxat=4_000_000_000_001)
    report = await look(first, second)
    assert kinds(report) == {
        b"only first": "missing", b"only second": "extra", b"type": "type", b"s": "value", b"l": "value",
        b"i": "value", b"big": "value", b"z": "value", b"h": "value", b"x": "value", b"ttl": "ttl",
        b"deadline": "ttl",
    }  # fmt: skip
    assert {one.db for one in report.differences} == {3}
    assert not report.equal
    assert report.as_dict()["differences"][0]["key"] == "big"


async def test_a_database_that_only_one_side_has(pair: tuple[Server, Server]) -> None:
    first, second = pair
    first.client(db=5).set("a", 1)
    second.client(db=9).set("b", 1)
    report = await look(first, second)
    assert [(one.db, one.key, one.kind) for one in report.differences] == [(5, b"a", "missing"), (9, b"b", "extra")]
    assert (await look(first, second, Options(rounds=1, databases=(0, 1)))).equal


async def test_a_pattern_limits_what_is_compared(pair: tuple[Server, Server]) -> None:
    first, second = pair
    first.control.mset({"user:1": 1, "other:1": 1})
    report = await look(first, second, Options(rounds=1, pattern=b"user:*"))
    assert kinds(report) == {b"user:1": "missing"}


async def test_what_is_in_flight_is_not_reported(pair: tuple[Server, Server]) -> None:
    first, second = pair
    first.control.set("late", 1)
    first.control.set("never", 1)

    def arrive(report: Report) -> None:
        if report.rounds == 1:
            second.control.set("late", 1)

    report = await look(first, second, Options(rounds=3, pause_s=0.01), arrive)
    assert kinds(report) == {b"never": "missing"}
    assert report.rounds == 3


async def test_a_key_that_came_back_behind_the_scan_is_compared(pair: tuple[Server, Server]) -> None:
    """A scan promises nothing of keys that were not there all the while: this one was not at the first side when that
    was scanned, and was when the second side named it.
    """
    first, second = pair
    first.control.set("calm", 1)
    second.control.mset({"calm": 1, "list": "longer", "deleted": "meanwhile"})

    def renew(report: Report) -> None:
        if report.first_keys and not report.second_keys:
            first.control.set("list", "short")

    report = await look(first, second, Options(rounds=2, pause_s=0.01), renew)
    assert kinds(report) == {b"list": "value", b"deleted": "extra"}
    assert report.keys == 1


async def test_equal_sides_need_one_round(pair: tuple[Server, Server]) -> None:
    first, second = pair
    report = await look(first, second, Options(rounds=5, pause_s=60))
    assert (report.rounds, report.equal, report.keys) == (1, True, 0)


async def test_a_key_that_expires_on_both_is_no_difference(pair: tuple[Server, Server]) -> None:
    first, second = pair
    for server in pair:
        server.control.execute_command("DEBUG", "SET-ACTIVE-EXPIRE", "0")
        server.control.set("gone", 1, px=1)
    await asyncio.sleep(0.01)  # longer than the key lives
    assert (await look(first, second)).equal


async def test_versions_without_absolute_times_are_compared_with_tolerance(redis_server: StartServer) -> None:
    first, second = redis_server("6.2"), redis_server("7.0")
    for server in (first, second):
        fill(server.control)
        server.control.set("t", 1, pxat=4_000_000_000_000)
    often = Options(rounds=10, pause_s=0.05)  # the two answers of one round may lie apart on a busy machine
    assert (await look(first, second, often)).differences == []
    second.control.pexpire("t", 500_000)
    assert kinds(await look(first, second)) == {b"t": "ttl"}


async def test_what_differs_at_rest_is_settled_also_where_times_are_reckoned(redis_server: StartServer) -> None:
    """Before 7.0 a deadline comes out a millisecond later or earlier at each look: the key rests all the same."""
    first, second = redis_server("6.2"), redis_server("6.2")
    for number in range(200):
        second.control.set(f"extra{number}", "v", px=5_000_000 + number)
        first.control.set(f"ttl{number}", "v")
        second.control.set(f"ttl{number}", "v", px=5_000_000 + number)
    report = await look(first, second, Options(rounds=3, pause_s=0.05, patience=3))
    assert kinds(report) == {b"extra%d" % n: "extra" for n in range(200)} | {b"ttl%d" % n: "ttl" for n in range(200)}
    assert report.unsettled == 0


async def test_deadlines_of_hash_fields(redis_server: StartServer) -> None:
    first, second = redis_server("8.2"), redis_server("8.2")
    for server in (first, second):
        server.control.hset("h", mapping={"a": 1, "b": 2})
        server.control.execute_command("HPEXPIREAT", "h", 4_000_000_000_000, "FIELDS", 1, "a")
    assert (await look(first, second)).equal
    second.control.execute_command("HPERSIST", "h", "FIELDS", 1, "a")
    (one,) = (await look(first, second)).differences
    assert one == Difference(0, b"h", "ttl", "field b'a': 4000000000000 ms against none")


async def test_function_libraries(pair: tuple[Server, Server]) -> None:
    first, second = pair
    code = "#!lua name={}\nredis.register_function('{}', function() return {} end)"
    for server in pair:
        server.control.function_load(code.format("same", "f", 1))
    first.control.function_load(code.format("one", "g", 1))
    first.control.function_load(code.format("two", "h", 1))
    second.control.function_load(code.format("two", "h", 2))
    report = await look(first, second)
    assert [(one.kind, one.key, one.detail) for one in report.differences] == [
        ("function", b"one", "only at the first side"),
        ("function", b"two", "the code differs"),
    ]


async def test_too_many_differences_are_said_and_bounded(pair: tuple[Server, Server]) -> None:
    first, second = pair
    first.control.mset({f"k{number}": number for number in range(200)})
    report = await look(first, second, Options(rounds=1, keep=50))
    assert len(report.differences) == 50
    assert report.overflow
    assert not report.equal


async def test_a_user_without_rights_is_an_error_not_a_difference(pair: tuple[Server, Server]) -> None:
    first, second = pair
    second.control.execute_command("ACL", "SETUSER", "poor", "on", ">pw", "+ping", "+scan", "+info", "+command", "~*")
    first.control.set("k", 1)
    with pytest.raises(AuthError, match="comparing needs read access"):
        await compare(parse_url(first.url), parse_url(second.url, username="poor", password="pw"), ONCE)


async def test_a_side_that_is_not_there(pair: tuple[Server, Server]) -> None:
    first, second = pair
    url = second.url
    second.kill()
    with pytest.raises(Unreachable, match="connection refused"):
        await compare(parse_url(first.url), parse_url(url), ONCE)


async def test_a_side_that_goes_away_meanwhile(pair: tuple[Server, Server]) -> None:
    first, second = pair
    for server in pair:
        server.control.mset({f"k{number}": number for number in range(50_000)})

    def leave(report: Report) -> None:
        if report.keys > 1000 and second.running:
            second.kill()

    with pytest.raises(Unreachable, match="lost"):
        async with asyncio.timeout(100):
            await look(first, second, Options(rounds=1, page=10), leave)


async def test_cancelling_leaves_no_connection(pair: tuple[Server, Server]) -> None:
    first, second = pair
    first.control.mset({f"k{number}": number for number in range(50_000)})
    before = len(first.control.client_list())
    under_way = asyncio.Event()
    comparing = asyncio.create_task(look(first, second, Options(rounds=1, page=10), lambda report: under_way.set()))
    await under_way.wait()
    comparing.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await comparing
    await eventually(lambda: len(first.control.client_list()) == before)
