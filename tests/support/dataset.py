"""Data of every type, in every encoding a server can hold it in, over four databases.

    fill(source)                        # before a link starts: arrives in the snapshot
    fill(source, prefix=b"live:")       # while it runs: the same data arrives through the stream
    mutate(source)                      # then a write command of every kind on what fill made with that prefix

`big=True` adds a 20 MB string and a set of a million members. What a version does not know is left out. Everything is
the same in each run except deadlines, which lie days ahead. The empty key cannot have a prefix: it is there once.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from dataclasses import dataclass

import hiredis

from tests.support.servers import Server
from tests.support.wire import Argument, Command, Wire

DATABASES = (0, 1, 5, 15)

DAY_MS = 86_400_000

# Lengths and numbers at which listpack, ziplist, intset and RDB lengths change their encoding.
NUMBERS: tuple[int, ...] = (
    *(0, 1, 12, 13, 63, 64, 127, 128, 255, 256, 4095, 4096, 8191, 8192, 10_000, 16_383, 16_384, 32_767, 32_768),
    *(65_535, 65_536, 8_388_607, 8_388_608, 2**31 - 1, 2**31, 2**32, 2**53, 2**63 - 1),
    *(-1, -128, -129, -4096, -8192, -32_768, -32_769, -8_388_609, -(2**31), -(2**31) - 1, -(2**63)),
)
LENGTHS = (0, 1, 11, 12, 20, 21, 63, 64, 127, 128, 4095, 4096, 16_383, 16_384)

SCORES: tuple[str, ...] = (
    *("0", "-1", "1.1", "3.0000000000000004", "0.1", "1e-320", "1.7976931348623157e308", "123456789.12345679"),
    *("9007199254740993", "-2.5", "inf", "-inf", "1e21", "42"),
)

BINARY_KEYS = (
    b"\r\n",
    b"a\r\nb",
    b"\x00",
    b"nul\x00in",
    b"*3\r\n$3\r\nSET\r\n",
    b"{tag}",
    b"\xff\xfe",
    b" ",
    "ключ".encode(),
)


@dataclass(frozen=True)
class Features:
    """What a version can hold and which commands it has."""

    flavor: str
    number: tuple[int, int]

    @property
    def functions(self) -> bool:
        return self.number >= (7, 0)

    @property
    def field_deadlines(self) -> bool:
        return self.number >= ((9, 0) if self.flavor == "valkey" else (7, 4))

    @property
    def commands_6_2(self) -> bool:
        return self.number >= (6, 2)

    @property
    def commands_7_0(self) -> bool:
        return self.number >= (7, 0)

    @property
    def vector_sets(self) -> bool:
        return self.flavor == "redis" and self.number >= (8, 0)


def features_of(server: Server) -> Features:
    return Features(server.flavor, server.number)


def fill(
    server: Server,
    *,
    prefix: bytes = b"",
    big: bool = False,
    vectors: bool = False,
    features: Features | None = None,
    databases: tuple[int, ...] = DATABASES,
) -> int:
    """Write it all; returns how many commands that took. AssertionError when the server refuses one.

    `vectors` adds a vector set where the version has them: only servers of about the same version can take it over.
    `features`: those of another server, where that one is to hold the data too.
    """
    features = features or features_of(server)
    with Wire(server) as wire:
        count = sum(_write(wire, db, commands(features, prefix)) for db in databases)
        if features.functions:
            count += _write(wire, 0, function_library(prefix))
        if big:
            count += _write(wire, 0, big_values(prefix))
        if vectors and features.vector_sets:
            count += _write(wire, 0, (("VADD", prefix + b"vector", "VALUES", 3, i, 1, 2, f"e{i}") for i in range(9)))
    return count


def mutate(
    server: Server, *, prefix: bytes = b"", features: Features | None = None, databases: tuple[int, ...] = DATABASES
) -> int:
    """A write command of every kind, on keys that `fill` has made with this prefix. Once only per fill."""
    from tests.support.mutations import mutations

    features = features or features_of(server)
    with Wire(server) as wire:
        return sum(_write(wire, db, mutations(features, prefix)) for db in databases)


def _write(wire: Wire, db: int, some: Iterator[Command]) -> int:
    sent: list[Command] = [("SELECT", db), *some]
    for command, reply in zip(sent, wire.call(sent), strict=True):
        assert not isinstance(reply, hiredis.ReplyError), f"{reply} for {str(command)[:200]}"
    return len(sent)


def commands(features: Features, prefix: bytes) -> Iterator[Command]:
    """Everything for one database."""
    for (command, key), *rest in _named(features):
        yield (command, prefix + key, *rest)
    yield from _streams(prefix)
    yield from _deadlines(features, prefix)
    for key in BINARY_KEYS:
        yield ("SET", prefix + key, b"value of " + key)
        yield ("HSET", prefix + b"hash" + key, key, key)
    yield ("SET", b"", b"the empty key")


Named = tuple[tuple[str, bytes], *tuple[Argument, ...]]


def _named(features: Features) -> Iterator[Named]:
    yield from _strings()
    yield from _lists()
    yield from _sets()
    yield from _hashes(features)
    yield from _sorted_sets()


def _strings() -> Iterator[Named]:
    for number in NUMBERS:
        yield ("SET", b"int:%d" % number), number
    for length in (*LENGTHS, 44, 45):
        yield ("SET", b"text:%d" % length), text(length)
    yield ("SET", b"padded"), b"007"  # a number that must not become one
    yield ("SET", b"bytes"), bytes(range(256)) * 4
    yield ("SET", b"compressible"), b"abc" * 20_000
    yield ("SET", b"incompressible"), random.Random(1).randbytes(20_000)
    yield ("SETBIT", b"bitmap"), 100_003, 1
    yield ("SETRANGE", b"sparse"), 5000, b"end"
    yield ("PFADD", b"hll:sparse"), *(f"e{i}" for i in range(50))
    yield ("PFADD", b"hll:dense"), *(f"e{i}" for i in range(20_000))


def _lists() -> Iterator[Named]:
    yield ("RPUSH", b"list:one"), b"single"
    yield ("RPUSH", b"list:numbers"), *NUMBERS
    yield ("RPUSH", b"list:texts"), *(text(length) for length in LENGTHS)
    yield ("RPUSH", b"list:nodes"), *(b"element %d " % i + text(50) for i in range(2000))
    yield ("RPUSH", b"list:plain"), b"before", random.Random(2).randbytes(100_000), b"after", b"z" * 100_000


def _sets() -> Iterator[Named]:
    yield ("SADD", b"set:int16"), *range(-100, 100)
    yield ("SADD", b"set:int32"), 1, 70_000, -70_000
    yield ("SADD", b"set:int64"), 1, 2**40, -(2**63)
    yield ("SADD", b"set:small"), b"a", b"b", b"", b"\r\n", 12
    yield ("SADD", b"set:large"), *(b"member %d" % i for i in range(3000))
    yield ("SADD", b"set:many-ints"), *range(3000)


def _hashes(features: Features) -> Iterator[Named]:
    yield ("HSET", b"hash:small"), b"", b"", b"f", b"v", b"\r\n", b"\x00", b"number", 42
    yield ("HSET", b"hash:encodings"), *(part for n in NUMBERS for part in (b"f%d" % n, n))
    yield ("HSET", b"hash:large"), *(part for i in range(3000) for part in (b"field %d" % i, i))
    yield ("HSET", b"hash:long"), b"f", text(20_000)
    if features.field_deadlines:
        until = _days_ahead(3)
        for name, size in ((b"hash:deadlines", 10), (b"hash:deadlines-large", 2000)):
            yield ("HSET", name), *(part for i in range(size) for part in (b"f%d" % i, i))
            for some in range(0, size, 5):  # some fields have none, the others each their own
                yield ("HPEXPIREAT", name), until + some * 1001, "FIELDS", 2, b"f%d" % some, b"f%d" % (some + 1)


def _sorted_sets() -> Iterator[Named]:
    yield ("ZADD", b"zset:small"), *(part for i, s in enumerate(SCORES) for part in (s, b"m%d" % i))
    yield ("ZADD", b"zset:numbers"), *(part for n in NUMBERS for part in (n, n))
    values = random.Random(3)
    large = [(repr(values.uniform(-1e6, 1e6)), b"member %d" % i) for i in range(3000)]
    yield ("ZADD", b"zset:large"), *(part for pair in large for part in pair)
    yield ("ZADD", b"zset:large-special"), *(p for i in range(300) for p in (SCORES[i % len(SCORES)], b"m%d" % i))
    yield ("GEOADD", b"geo"), 13.361389, 38.115556, "Palermo", 15.087269, 37.502669, "Catania"


def _streams(prefix: bytes) -> Iterator[Command]:
    plain, large, empty, worked = (
        prefix + name for name in (b"stream", b"stream:large", b"stream:empty", b"stream:work")
    )
    for i in range(1, 8):
        yield ("XADD", plain, f"{i * 10}-{i}", b"field", i, b"other" * (i % 2), b"\r\n")
    yield ("XDEL", plain, "70-7", "30-3")  # the last id and the greatest deleted one stay behind
    for i in range(1000):
        yield ("XADD", large, f"1700000000000-{i + 1}", b"same", i, b"fields", text(20))
        if i % 7 == 0:
            yield ("XDEL", large, f"1700000000000-{i + 1}")
    yield ("XADD", empty, "5-5", "gone", "soon")
    yield ("XTRIM", empty, "MAXLEN", 0)
    yield ("XGROUP", "CREATE", prefix + b"stream:made", "idle group", "$", "MKSTREAM")
    yield from _worked_stream(worked)


def _worked_stream(key: bytes) -> Iterator[Command]:
    """Groups, consumers and pending entries: delivered once and twice, acknowledged, claimed, deleted under way."""
    for i in range(1, 21):
        yield ("XADD", key, f"{i}-0", "job", i)
    yield ("XGROUP", "CREATE", key, "workers", "0")
    yield ("XGROUP", "CREATE", key, "late", "10-0")
    yield ("XGROUP", "CREATE", key, "nobody", "$")
    yield ("XREADGROUP", "GROUP", "workers", "ann", "COUNT", 8, "STREAMS", key, ">")
    yield ("XREADGROUP", "GROUP", "workers", "bob\r\n", "COUNT", 4, "STREAMS", key, ">")
    yield ("XREADGROUP", "GROUP", "late", "cy", "COUNT", 3, "STREAMS", key, ">")
    yield ("XACK", key, "workers", "2-0", "9-0")
    yield ("XCLAIM", key, "workers", "bob\r\n", 0, "1-0", "TIME", 1_700_000_000_123, "RETRYCOUNT", 7)
    yield ("XDEL", key, "4-0")  # stays pending


def _deadlines(features: Features, prefix: bytes) -> Iterator[Command]:
    """A deadline on every type, given in every way there is."""
    for i, kind in enumerate((b"string", b"list", b"set", b"hash", b"zset", b"stream")):
        key = prefix + b"until:" + kind
        yield {
            b"string": ("SET", key, "v"),
            b"list": ("RPUSH", key, "a", "b"),
            b"set": ("SADD", key, "a", "b"),
            b"hash": ("HSET", key, "f", "v"),
            b"zset": ("ZADD", key, "1.5", "m"),
            b"stream": ("XADD", key, "1-1", "f", "v"),
        }[kind]
        yield ("PEXPIREAT", key, _days_ahead(10) + i * 1001)
    yield ("SET", prefix + b"until:ex", "v", "EX", 500_000)
    yield ("SET", prefix + b"until:px", "v", "PX", 500_000_123)
    yield ("SETEX", prefix + b"until:setex", 500_000, "v")
    yield ("PSETEX", prefix + b"until:psetex", 500_000_123, "v")
    for way, value in (("EXPIRE", 500_000), ("PEXPIRE", 500_000_123), ("EXPIREAT", _days_ahead(9) // 1000)):
        yield ("SET", prefix + b"until:" + way.encode(), "v")
        yield (way, prefix + b"until:" + way.encode(), value)
    yield ("SET", prefix + b"until:far", "v")
    yield ("PEXPIREAT", prefix + b"until:far", 2**45)
    yield ("SET", prefix + b"until:never", "v", "EX", 1000)
    yield ("PERSIST", prefix + b"until:never")
    if features.commands_6_2:
        yield ("SET", prefix + b"until:exat", "v", "EXAT", _days_ahead(9) // 1000)
        yield ("SET", prefix + b"until:pxat", "v", "PXAT", _days_ahead(9))
        yield ("SET", prefix + b"until:getex", "v")
        yield ("GETEX", prefix + b"until:getex", "EX", 500_000)


def function_library(prefix: bytes) -> Iterator[Command]:
    name = b"lib_%d" % len(prefix)
    code = b"#!lua name=%s\nredis.register_function('%s_f', function(keys) return redis.call('SET', keys[1], 1) end)"
    yield ("FUNCTION", "LOAD", "REPLACE", code % (name, name))


def big_values(prefix: bytes) -> Iterator[Command]:
    yield ("SET", prefix + b"big:string", random.Random(4).randbytes(1 << 20) * 20)
    for start in range(0, 1_000_000, 10_000):
        yield ("SADD", prefix + b"big:set", *(b"member:%d" % i for i in range(start, start + 10_000)))


def text(length: int) -> bytes:
    """So many bytes that are no number and that LZF cannot shrink much."""
    return bytes(97 + (i * i // 7 + i) % 26 for i in range(length))


def _days_ahead(days: int) -> int:
    return int(time.time() * 1000) + days * DAY_MS + 321
