"""A filtered, mapped and renamed stream on real servers: the target holds the source's carried keys, and nothing else.

The source's own state is the model: whatever commands were split or rewritten on the way, in the end each carried key
of the source stands at its place with its value, and every key of the target maps back to one of the source.
"""

from __future__ import annotations

import random
from typing import Any

import pytest

from canal.commands import ServerKind, lookup
from sync.filters import KeyFilter, KeyPattern
from sync.rewrite import Rewriter
from sync.rules import Dropped, Impossible
from sync.transform import Transform, TransformOptions, compose
from tests.support.servers import Server
from tests.support.tap import Tap
from tests.support.wire import Wire

pytestmark = pytest.mark.servers

KEYS = [b"a:%d" % number for number in range(4)] + [b"b:%d" % number for number in range(4)]
DATABASES = (0, 1, 2)


def pattern(*words: str) -> tuple[KeyPattern, ...]:
    return tuple(KeyPattern.parse(word) for word in words)


OPTIONS = {
    "prefix": TransformOptions(include_keys=pattern("prefix:a:")),
    "glob and exclude": TransformOptions(include_keys=pattern("[ab]:*"), exclude_keys=pattern("b:[01]")),
    "added": TransformOptions(add_prefix=b"x:", exclude_databases=frozenset({2}), databases=4),
    "removed": TransformOptions(remove_prefix=b"a:"),
    "replaced": TransformOptions(remove_prefix=b"b:", add_prefix=b"a:"),
    "databases": TransformOptions(include_databases=frozenset({0, 1}), db_map={0: 1, 1: 0}),
    "lists and strings": TransformOptions(include_types=frozenset({"list", "string"})),
    "no strings": TransformOptions(exclude_types=frozenset({"string"}), include_keys=pattern("regex:^[ab]:[0-2]")),
}


FAMILIES = ("string", "list", "set", "zset", "hash", "stream", "")


def command(rng: random.Random, family: str) -> list[bytes]:
    """One command on keys of one type or of any; often a wrong one: what the source refuses is not in its stream."""
    a, b, c = (rng.choice(KEYS) for _ in range(3))
    n = b"%d" % rng.randrange(5)
    choices: list[list[bytes]] = [
        [b"SET", a, n], [b"MSET", a, n, b, n, c, n], [b"MSETNX", a, n, b, n], [b"INCR", a], [b"APPEND", a, n],
        [b"SET", a, n, b"EX", b"10000"], [b"EXPIRE", a, b"10000"], [b"PERSIST", a], [b"DEL", a, b],
        [b"UNLINK", a, b, c],
        [b"RENAME", a, b], [b"RENAMENX", a, b], [b"COPY", a, b], [b"COPY", a, b, b"DB", b"1", b"REPLACE"],
        [b"MOVE", a, b"1"], [b"MOVE", a, b"2"],
        [b"RPUSH", a, n, n, b], [b"LPUSH", a, n], [b"LPOP", a], [b"LMOVE", a, b, b"LEFT", b"RIGHT"],
        [b"RPOPLPUSH", a, b],
        [b"SADD", a, n, b, b"0", b"1", b"2"], [b"SADD", a, n], [b"SMOVE", a, b, b"1"], [b"SMOVE", a, b, b"2"],
        [b"SREM", a, n], [b"SMOVE", a, b, n], [b"SUNIONSTORE", a, b, c], [b"SDIFFSTORE", a, b, c],
        [b"ZADD", a, n, b"m", b"2", b], [b"ZINCRBY", a, n, b"m"], [b"ZUNIONSTORE", a, b"2", b, c], [b"ZPOPMIN", a],
        [b"HSET", a, n, b"v", b"f", b], [b"HDEL", a, n], [b"HINCRBY", a, b"count", n], [b"SORT", a, b"STORE", b],
        [b"BITOP", b"OR", a, b, c], [b"PFADD", a, n], [b"PFMERGE", a, b], [b"XADD", a, b"*", b"f", n],
        [b"SETRANGE", a, n, b"zz"], [b"GETDEL", a], [b"SPOP", a], [b"LREM", a, b"1", n],
    ]  # fmt: skip
    if rng.random() < 0.8 and family:
        choices = [choice for choice in choices if (info := lookup(choice[0])) is not None and info.type == family]
    return rng.choice(choices)


def state(server: Server) -> dict[tuple[int, bytes], tuple[bytes, bytes, int]]:
    """(database, key) → (type, content as DUMP without its order, deadline rounded to 10 s)."""
    found = {}
    with Wire(server) as wire:
        for db in range(4):
            wire.ask("SELECT", db)
            for key in wire.ask("KEYS", "*"):
                if not key.startswith(b"redis-canal:"):
                    kind = wire.ask("TYPE", key)
                    left = wire.ask("PTTL", key)
                    found[db, key] = (kind, content(wire, kind, key), left if left < 0 else round(left / 10_000))
    return found


def content(wire: Wire, kind: bytes, key: bytes) -> Any:
    if kind == b"set":
        return sorted(wire.ask("SMEMBERS", key))
    if kind == b"hash":
        flat = wire.ask("HGETALL", key)
        return sorted(zip(flat[::2], flat[1::2], strict=True))
    if kind == b"stream":
        return wire.ask("XRANGE", key, "-", "+")
    if kind == b"zset":
        return wire.ask("ZRANGE", key, 0, -1, "WITHSCORES")
    if kind == b"list":
        return wire.ask("LRANGE", key, 0, -1)
    return wire.ask("GET", key)


class Pair:
    """A source, a target and the stream between them."""

    def __init__(self, source: Server, target: Server, transform: Transform) -> None:
        self.source, self.target, self.transform = source, target, transform
        kinds = [ServerKind.from_info(server.info("server")) for server in (source, target)]
        self.adjust = compose(transform, Rewriter(*kinds))
        self.tap, self.there, self.here = Tap(source), Wire(target), Wire(source)
        self.carried = 0

    def do(self, db: int, argv: list[bytes]) -> None:
        """At the source, unless the target could not follow; nothing of what it then propagates may be impossible."""
        if isinstance(self.transform.command(db, list(argv)), Impossible):
            return
        self.here.call([["SELECT", db], argv])
        for taken in self.tap.commands():
            result = self.adjust(taken.db, taken.argv, taken.received_ms, 0)
            assert not isinstance(result, Impossible), (taken, result)
            if isinstance(result, Dropped):
                continue
            for to_db, out in result:
                replies = self.there.call([["SELECT", to_db], out])
                assert not isinstance(replies[1], Exception), (taken, out, replies)
                self.carried += 1

    def empty(self) -> None:
        """Both, past the link; then a few keys of every type and database through it."""
        self.here.ask("FLUSHALL")
        self.there.ask("FLUSHALL")
        self.tap.commands()
        for db in DATABASES:
            for key in KEYS[db::3]:
                self.do(db, [b"SADD", key, b"0", b"1", b"2"] if db == 0 else [b"RPUSH", key, b"0", b"1", b"2"])

    def expected(self) -> dict[tuple[int, bytes], Any]:
        model = {}
        for (db, key), value in state(self.source).items():
            place = self.transform.key(db, key, value[0].decode())
            if not isinstance(place, Dropped):
                model[place] = value
        return model

    def close(self) -> None:
        self.tap.close()
        self.here.close()
        self.there.close()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", OPTIONS)
def test_the_target_holds_what_is_carried(redis_server: Any, name: str, seed: int) -> None:
    rng = random.Random(seed)
    pair = Pair(redis_server("7.0"), redis_server("7.0"), Transform(OPTIONS[name]))
    try:
        for family in FAMILIES * 2:
            pair.empty()
            for _ in range(25):  # few, because a later command can hide what an earlier one did wrong
                pair.do(rng.choice(DATABASES), command(rng, family))
            expected = pair.expected()
            assert state(pair.target) == expected
            assert {pair.transform.invert(*place, value[0].decode()) for place, value in expected.items()} <= set(
                state(pair.source)
            )
        assert pair.carried > 100
    finally:
        pair.close()


FOREIGN = [b"a:mine", b"b:2", b"x:theirs", b"redis-canal:checkpoint:t/0", b"other", b"[x", b"x:"]


@pytest.mark.parametrize("version", ["5.0", "7.0", "valkey-9.1"])
@pytest.mark.parametrize("flush", [[b"FLUSHALL"], [b"FLUSHDB", b"ASYNC"]])
@pytest.mark.parametrize("name", ["prefix", "glob and exclude", "added", "databases"])
def test_a_flush_of_the_source_removes_its_own_keys_only(
    redis_server: Any, name: str, flush: list[bytes], version: str
) -> None:
    transform = Transform(OPTIONS[name])
    target = redis_server(version)
    with Wire(target) as wire:
        for db in range(4):
            wire.call([["SELECT", db], *[["SET", key, "v"] for key in FOREIGN]])
        before = set(state(target))
        result = transform.command(0, flush)
        assert isinstance(result, list)
        for to_db, out in result:
            wire.ask("SELECT", to_db)
            wire.ask(*out)
        wire.ask("SELECT", 0)
        kept = wire.ask("GET", "redis-canal:checkpoint:t/0")
    for place in before:
        source = transform.invert(*place)
        goes = source is not None and (flush[0] == b"FLUSHALL" or source[0] == 0)
        assert (place in state(target)) is not goes, place
    # A database that is carried whole is flushed by FLUSHDB: the caller keeps the reserved keys (sync/flush.py).
    assert kept == b"v" or transform.placing.whole_databases


def test_globs_match_what_redis_matches(redis_server: Any) -> None:
    rng = random.Random(1)
    alphabet = [b"a", b"b", b"c", b"-", b"]", b"[", b"^", b"*", b"?", b"\\", b"\xff", b"\n"]
    names = [b"".join(rng.choice(alphabet) for _ in range(rng.randrange(1, 5))) for _ in range(300)]
    with Wire(redis_server()) as wire:
        wire.call([["SET", name, "v"] for name in names])
        for _ in range(1500):
            glob = b"".join(rng.choice(alphabet) for _ in range(rng.randrange(1, 6)))
            keys = KeyFilter([KeyPattern("glob", glob)], [])
            assert sorted(wire.ask("KEYS", glob)) == sorted({name for name in names if keys.passes(name)}), glob
