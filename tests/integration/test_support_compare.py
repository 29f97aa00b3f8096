"""The oracle finds every kind of difference. Each plants one difference in two servers that were equal."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest
import redis

from tests.support import compare
from tests.support.compare import assert_equal, differences, wait_equal
from tests.support.process import wait_until
from tests.support.servers import Server

pytestmark = pytest.mark.servers

Pair = tuple[Server, Server]


@pytest.fixture(scope="module")
def servers() -> Iterator[Callable[[str], Server]]:
    """One server of each version asked for and each role, shared by the tests of this file; emptied by `pair`."""
    running: dict[str, Server] = {}

    def get(name: str) -> Server:
        if name not in running:
            running[name] = Server.start(name.split("/")[0])
        return running[name]

    yield get
    for server in running.values():
        server.close()


@pytest.fixture
def pair(servers: Callable[[str], Server]) -> Callable[[str, str], Pair]:
    def get(a: str = "7.0", b: str = "7.0") -> Pair:
        both = servers(f"{a}/a"), servers(f"{b}/b")
        for server in both:
            server.control.flushall()
        return both

    return get


def _stream(client: redis.Redis, groups: bool = True) -> None:
    for i in (1, 2, 3):
        client.xadd("s", {b"f": str(i)}, id=f"{i}-0")
    if groups:
        client.xgroup_create("s", "g", "0")
        client.execute_command("XREADGROUP", "GROUP", "g", "c", "COUNT", 1, "STREAMS", "s", ">")
        client.execute_command("XCLAIM", "s", "g", "c", 0, "1-0", "TIME", 1_700_000_000_000, "RETRYCOUNT", 3)


Change = Callable[[redis.Redis], object]

# What is written to both, what to b alone, what the line must say.
PLANTED: dict[str, tuple[Change, Change, str]] = {
    "missing": (lambda c: c.set("k", 1), lambda c: c.delete("k"), "'k': only in a"),
    "extra": (lambda c: c.set("k", 1), lambda c: c.set("l", 1), "'l': only in b"),
    "empty key": (lambda c: c.set("k", 1), lambda c: c.set("", 1), "b'': only in b"),
    "binary key": (lambda c: c.set(b"\r\n\0", 1), lambda c: c.delete(b"\r\n\0"), r"b'\r\n\x00': only in a"),
    "type": (lambda c: c.set("k", 1), lambda c: (c.delete("k"), c.rpush("k", 1)), "a string in a, a list in b"),
    "string": (lambda c: c.set("k", "ab"), lambda c: c.set("k", "ac"), "string: b'ab' in a, b'ac' in b"),
    "integer": (lambda c: c.set("k", 1), lambda c: c.incr("k"), "string: b'1' in a, b'2' in b"),
    "one bit of a megabyte": (lambda c: c.setbit("k", 8 << 20, 1), lambda c: c.setbit("k", 77, 1), "from byte 9:"),
    "hll": (lambda c: c.pfadd("k", "a"), lambda c: c.pfadd("k", "b"), "string:"),
    "list value": (lambda c: c.rpush("k", "a", "b"), lambda c: c.lset("k", 1, "x"), "list: [1]: b'b' in a, b'x' in b"),
    "list order": (lambda c: c.rpush("k", "a", "b"), lambda c: c.rpoplpush("k", "k"), "list: [0]:"),
    "list length": (lambda c: c.rpush("k", *range(300)), lambda c: c.rpop("k"), "300 elements in a, 299 in b"),
    "set member": (lambda c: c.sadd("k", "a", "b"), lambda c: c.srem("k", "b"), "1 (b'b') only in a, none only in b"),
    "intset member": (lambda c: c.sadd("k", 1, 2), lambda c: c.sadd("k", 3), "none only in a, 1 (b'3') only in b"),
    "hash value": (lambda c: c.hset("k", "f", 1), lambda c: c.hset("k", "f", 2), "hash: b'f': b'1' in a, b'2' in b"),
    "hash field": (lambda c: c.hset("k", "f", 1), lambda c: c.hset("k", "g", 1), "hash: b'g' only in b"),
    "score": (lambda c: c.zadd("k", {"m": 0.1}), lambda c: c.zadd("k", {"m": 0.2}), "zset: b'm': 0.1 in a, 0.2 in b"),
    "last digit of a score": (
        lambda c: c.zadd("k", {"m": 0.30000000000000004}),
        lambda c: c.zadd("k", {"m": 0.3}),
        "zset: b'm': 0.30000000000000004 in a, 0.3 in b",
    ),
    "zset member": (lambda c: c.zadd("k", {"m": 1}), lambda c: c.zadd("k", {"n": 1}), "zset: b'n' only in b"),
    "deadline": (lambda c: c.set("k", 1, pxat=9**14), lambda c: c.pexpireat("k", 9**14 + 2), "deadline in a"),
    "no deadline": (lambda c: c.set("k", 1, pxat=9**14), lambda c: c.persist("k"), "in b none"),
    "stream entry": (_stream, lambda c: c.xadd("s", {b"f": "4"}), "stream: b'length': 3 in a, 4 in b"),
    "stream value": (
        lambda c: c.xadd("s", {b"f": "1"}, id="1-1"),
        lambda c: (c.delete("s"), c.xadd("s", {b"f": "2"}, id="1-1")),
        "stream: b'entries': b'1-1': [1]: b'1' in a, b'2' in b",
    ),
    "stream last id": (_stream, lambda c: c.execute_command("XSETID", "s", "9-0"), "b'last-generated-id'"),
    "entries added": (
        _stream,
        lambda c: c.execute_command("XSETID", "s", "3-0", "ENTRIESADDED", 9, "MAXDELETEDID", "0-0"),
        "b'entries-added': 3 in a, 9 in b",
    ),
    "max deleted id": (
        _stream,
        lambda c: c.execute_command("XSETID", "s", "3-0", "ENTRIESADDED", 3, "MAXDELETEDID", "0-5"),
        "b'max-deleted-entry-id'",
    ),
    "group": (_stream, lambda c: c.xgroup_create("s", "h", "0"), "groups: none only in a, 1 (b'h') only in b"),
    "group id": (_stream, lambda c: c.xgroup_setid("s", "g", "2-0"), "group b'g': b'last-delivered-id'"),
    "consumer": (_stream, lambda c: c.xgroup_createconsumer("s", "g", "d"), "1 (b'd') only in b"),
    "pending entry": (_stream, lambda c: c.xack("s", "g", "1-0"), "b'pending': b'1-0' only in a"),
    "delivery count": (
        _stream,
        lambda c: c.execute_command("XCLAIM", "s", "g", "c", 0, "1-0", "TIME", 1_700_000_000_000, "RETRYCOUNT", 4),
        "b'pending': b'1-0': [2]: 3 in a, 4 in b",
    ),
    "delivery time": (
        _stream,
        lambda c: c.execute_command("XCLAIM", "s", "g", "c", 0, "1-0", "TIME", 1_700_000_000_001, "RETRYCOUNT", 3),
        "b'pending': b'1-0': [1]: 1700000000000 in a",
    ),
    "owner": (
        _stream,
        lambda c: c.execute_command("XCLAIM", "s", "g", "d", 0, "1-0", "TIME", 1_700_000_000_000, "RETRYCOUNT", 3),
        "group b'g'",
    ),
}


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_difference_is_found(pair: Callable[..., Pair], name: str) -> None:
    a, b = pair()
    both, only_b, said = PLANTED[name]
    for server in (a, b):
        both(server.client(3))
    assert_equal(a, b)
    only_b(b.client(3))
    found = differences(a, b)
    assert len(found) == 1 and said in found[0] and found[0].startswith("db 3 key"), found


def test_the_database_counts(pair: Callable[..., Pair]) -> None:
    a, b = pair()
    a.client(1).set("k", 1)
    b.client(2).set("k", 1)
    assert differences(a, b) == ["db 1 key b'k': only in a", "db 2 key b'k': only in b"]


def test_functions(pair: Callable[..., Pair]) -> None:
    a, b = pair()
    for server in (a, b):
        server.control.execute_command("FUNCTION", "FLUSH")
    code = "#!lua name={}\nredis.register_function('{}', function() return {} end)"
    a.control.function_load(code.format("one", "f", 1))
    a.control.function_load(code.format("two", "g", 1))
    b.control.function_load(code.format("two", "g", 2))
    assert differences(a, b) == ["function library b'one': only in a", "function library b'two': other code or engine"]
    for server in (a, b):
        server.control.execute_command("FUNCTION", "FLUSH")


@pytest.mark.parametrize("version", ["8.2", "valkey-9.1"])
def test_field_deadlines(pair: Callable[..., Pair], version: str) -> None:
    a, b = pair(version, version)
    for server in (a, b):
        server.control.hset("k", mapping={f"f{i}": i for i in range(2500)})
        server.control.execute_command("HPEXPIREAT", "k", 9**14, "FIELDS", 2, "f1", "f2400")
    assert_equal(a, b)
    b.control.execute_command("HPEXPIREAT", "k", 9**14 + 2, "FIELDS", 1, "f2400")
    assert differences(a, b) == [f"db 0 key b'k': hash: field b'f2400': deadline in a {9**14}, in b {9**14 + 2}"]
    b.control.execute_command("HPERSIST", "k", "FIELDS", 1, "f2400")
    assert "deadline in a 22876792454961, in b None" in differences(a, b)[0]


@pytest.mark.parametrize("versions", [("5.0", "7.0"), ("6.2", "7.0"), ("7.0", "8.2"), ("8.2", "valkey-9.1")])
def test_other_versions_and_encodings_are_no_difference(pair: Callable[..., Pair], versions: tuple[str, str]) -> None:
    a, b = pair(*versions)
    until = int(time.time() * 1000) + 10**9
    for server, small in ((a, 500), (b, 3)):
        client = server.control
        for setting in ("hash-max-ziplist-entries", "zset-max-ziplist-entries", "set-max-intset-entries"):
            client.config_set(setting, small)
        client.rpush("list", *range(100))
        client.sadd("set", *(range(100) if server is a else reversed(range(100))))
        client.hset("hash", mapping={str(i): i for i in range(100)})
        client.zadd("zset", {str(i): i / 3 for i in range(100)})
        _stream(client)
        client.pexpireat("list", until)
    assert_equal(a, b)
    b.control.pexpireat("list", until + 300)
    assert "'list': deadline" in differences(a, b)[0]


def test_keys_of_the_canal_itself_are_not_compared(pair: Callable[..., Pair]) -> None:
    a, b = pair()
    b.control.hset("redis-canal:checkpoint:t/0", "pos", "x")
    b.control.set("redis-canal", "a user's")
    assert differences(a, b) == ["db 0 key b'redis-canal': only in b"]


def test_what_is_left_out(pair: Callable[..., Pair]) -> None:
    a, b = pair()
    for server in (a, b):
        _stream(server.control)
    b.control.execute_command("XGROUP", "SETID", "s", "g", "1-0", "ENTRIESREAD", 3)
    assert_equal(a, b)


def test_limit_and_tolerance(pair: Callable[..., Pair]) -> None:
    a, b = pair()
    for i in range(30):
        a.control.set(f"k{i}", 1, pxat=9**14)
        b.control.set(f"k{i}", 1, pxat=9**14 + 5)
    assert len(differences(a, b)) == 20 and len(differences(a, b, limit=1)) == 1
    assert differences(a, b, ttl_tolerance_ms=5) == []
    with pytest.raises(AssertionError, match="only the first ones"):
        assert_equal(a, b)


def test_wait_equal_waits_and_then_tells(pair: Callable[..., Pair], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare, "PATIENCE_S", 0.0)
    a, b = pair()
    a.control.set("k", 1)
    with pytest.raises(AssertionError, match=r"not equal within 0.2 s\n.*\n.*'k': only in a"):
        wait_equal(a, b, 0.2)
    b.control.replicaof(*a.address)
    wait_equal(a, b, 20)
    b.control.replicaof("no", "one")


def test_a_key_that_expires_under_the_comparison_is_no_difference(pair: Callable[..., Pair]) -> None:
    a, b = pair()
    a.control.set("k", 1, px=30)
    wait_until(lambda: not differences(a, b), 2, "it has expired")
    assert not a.control.exists("k")


def test_with_a_password_and_by_url(servers: Callable[[str], Server]) -> None:
    with Server.start("7.0", requirepass="se cret") as a, Server.start("7.0") as b:
        a.client().set("k", 1)
        assert differences(f"redis://:se%20cret@127.0.0.1:{a.port}", b.unix_url) == ["db 0 key b'k': only in a"]
        assert differences(a, b.url) == ["db 0 key b'k': only in a"]
