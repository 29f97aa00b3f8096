"""A write command of every kind, on the keys that dataset.fill has made. Called by `dataset.mutate`.

The commands are there for what they become in the replication stream: rewritten to others (SPOP, GETEX, INCRBYFLOAT,
blocking ones), sent as they are and dependent on the target's state (COPY, SORT … STORE, BITOP), wrapped in MULTI by
the server (scripts), or relative in time.
"""

from __future__ import annotations

from collections.abc import Iterator

from tests.support.dataset import Features
from tests.support.wire import Command


def mutations(features: Features, prefix: bytes) -> Iterator[Command]:
    """For one database."""
    yield from _on_strings(prefix + b"m:s", prefix)
    yield from _on_lists(prefix)
    yield from _on_sets(prefix)
    yield from _on_hashes(features, prefix)
    yield from _on_sorted_sets(prefix)
    yield from _on_streams(features, prefix)
    yield from _on_keys(prefix)
    yield from _transactions_and_scripts(prefix)
    if features.commands_6_2:
        yield from _since_6_2(prefix)
    if features.commands_7_0:
        yield from _since_7_0(prefix)


def _on_strings(key: bytes, prefix: bytes) -> Iterator[Command]:
    yield ("INCR", prefix + b"int:1")
    yield ("INCRBY", prefix + b"int:12", 2**40)
    yield ("DECRBY", prefix + b"int:13", 5)
    yield ("DECR", key)
    yield ("INCRBYFLOAT", prefix + b"int:63", "0.1")
    yield ("APPEND", prefix + b"text:64", b"\r\nmore")
    yield ("SETRANGE", prefix + b"text:128", 5, b"\x00\x01")
    yield ("SETBIT", prefix + b"bitmap", 7, 1)
    yield ("BITFIELD", prefix + b"bitmap", "INCRBY", "u8", 16, 3, "SET", "i5", 100, 7)
    yield ("BITOP", "XOR", key + b":bitop", prefix + b"bitmap", prefix + b"bytes")
    yield ("PFADD", prefix + b"hll:sparse", *(f"x{i}" for i in range(3000)))
    yield ("PFMERGE", key + b":merged", prefix + b"hll:sparse", prefix + b"hll:dense")
    yield ("GETSET", prefix + b"text:11", "got")
    yield ("MSET", key + b":1", 1, key + b":2", 2)
    yield ("MSETNX", key + b":3", 3, key + b":4", 4)
    yield ("SETNX", key + b":5", 5)
    yield ("SET", key + b":5", 6, "XX")
    yield ("SET", prefix + b"until:ex", "renewed", "EX", 600_000)
    yield ("SET", prefix + b"until:px", "cleared")


def _on_lists(prefix: bytes) -> Iterator[Command]:
    nodes, numbers, other = (prefix + name for name in (b"list:nodes", b"list:numbers", b"m:list"))
    yield ("LPUSH", nodes, "a", "b", b"\r\n")
    yield ("RPUSHX", nodes, "z")
    yield ("LINSERT", nodes, "BEFORE", "a", b"q" * 9000)
    yield ("LSET", nodes, 500, "set")
    yield ("LREM", nodes, 0, "b")
    yield ("LTRIM", nodes, 0, -10)
    yield ("LPOP", numbers)
    yield ("RPOP", numbers)
    yield ("RPOPLPUSH", numbers, other)
    yield ("BRPOPLPUSH", numbers, other, 1)
    yield ("BLPOP", prefix + b"m:nothing", numbers, 1)
    yield ("BRPOP", numbers, 1)
    yield ("SORT", numbers, "STORE", prefix + b"m:sorted")
    yield ("LPOP", prefix + b"list:one")  # the key goes with its last element


def _on_sets(prefix: bytes) -> Iterator[Command]:
    large, ints, small = (prefix + name for name in (b"set:large", b"set:int16", b"set:small"))
    yield ("SPOP", large)
    yield ("SPOP", large, 20)
    yield ("SPOP", prefix + b"set:int32", 10)  # all of it
    yield ("SREM", ints, 1, 2, 3)
    yield ("SADD", ints, "not a number")
    yield ("SMOVE", small, large, "a")
    yield ("SINTERSTORE", prefix + b"m:inter", large, large)
    yield ("SUNIONSTORE", prefix + b"m:union", small, ints)
    yield ("SDIFFSTORE", prefix + b"m:diff", ints, small)


def _on_hashes(features: Features, prefix: bytes) -> Iterator[Command]:
    small, large = prefix + b"hash:small", prefix + b"hash:large"
    yield ("HINCRBY", small, "number", 5)
    yield ("HINCRBYFLOAT", small, "float", "1.1")
    yield ("HSETNX", small, "new", 1)
    yield ("HMSET", large, "a", 1, "b", 2)
    yield ("HDEL", large, *(b"field %d" % i for i in range(0, 3000, 3)))
    if features.field_deadlines:
        key = prefix + b"hash:deadlines"
        yield ("HPERSIST", key, "FIELDS", 1, "f0")
        yield ("HEXPIRE", key, 400_000, "FIELDS", 2, "f3", "f4")
        yield ("HSET", key, "f5", "set anew: no deadline any more")
        yield ("HEXPIRE", key, 0, "FIELDS", 1, "f6")


def _on_sorted_sets(prefix: bytes) -> Iterator[Command]:
    small, large = prefix + b"zset:small", prefix + b"zset:large"
    yield ("ZADD", small, "NX", 5, "new")
    yield ("ZADD", small, "XX", "CH", 6, "new")
    yield ("ZADD", small, "INCR", "0.1", "m0")
    yield ("ZINCRBY", large, "0.3333333333333333", "member 1")
    yield ("ZREM", large, "member 2", "member 3")
    yield ("ZPOPMIN", large, 3)
    yield ("ZPOPMAX", large)
    yield ("BZPOPMIN", large, 1)
    yield ("BZPOPMAX", prefix + b"m:nothing", large, 1)
    yield ("ZREMRANGEBYRANK", large, 0, 10)
    yield ("ZREMRANGEBYSCORE", large, "-10", "10")
    yield ("ZREMRANGEBYLEX", prefix + b"zset:numbers", "[1", "[12")
    yield ("ZUNIONSTORE", prefix + b"m:zunion", 2, small, prefix + b"zset:numbers", "WEIGHTS", 2, "0.5")
    yield ("ZINTERSTORE", prefix + b"m:zinter", 2, large, prefix + b"zset:large", "AGGREGATE", "MAX")
    yield ("GEOADD", prefix + b"geo", 12.758489, 38.788135, "edge")
    yield ("GEORADIUS", prefix + b"geo", 15, 37, 300, "km", "STOREDIST", prefix + b"m:geo")


def _on_streams(features: Features, prefix: bytes) -> Iterator[Command]:
    work, large = prefix + b"stream:work", prefix + b"stream:large"
    yield ("XADD", prefix + b"stream", "*", "f", "v")
    yield ("XADD", large, "MAXLEN", "~", 500, "*", "f", "v")
    yield ("XTRIM", large, "MAXLEN", 300)
    yield ("XSETID", prefix + b"stream:empty", "77-7")
    yield ("XREADGROUP", "GROUP", "workers", "dee", "COUNT", 2, "STREAMS", work, ">")
    yield ("XREADGROUP", "GROUP", "late", "cy", "COUNT", 2, "NOACK", "STREAMS", work, ">")
    yield ("XCLAIM", work, "workers", "ann", 0, "10-0", "11-0")
    yield ("XACK", work, "workers", "12-0")
    yield ("XGROUP", "SETID", work, "nobody", "5-0")
    yield ("XGROUP", "DELCONSUMER", work, "late", "cy")
    if features.commands_6_2:
        yield ("XGROUP", "CREATECONSUMER", work, "nobody", "made")
        yield ("XAUTOCLAIM", work, "workers", "fay", 0, "0", "COUNT", 2)
        yield ("XADD", large, "MINID", "=", "1700000000000-900", "*", "f", "v")
    yield ("XGROUP", "CREATE", work, "brief", "$")
    yield ("XGROUP", "DESTROY", work, "brief")


def _on_keys(prefix: bytes) -> Iterator[Command]:
    yield ("DEL", prefix + b"int:2147483648", prefix + b"m:nothing")
    yield ("UNLINK", prefix + b"list:plain")
    yield ("RENAME", prefix + b"compressible", prefix + b"m:renamed")
    yield ("RENAMENX", prefix + b"padded", prefix + b"m:renamed-nx")
    yield ("PERSIST", prefix + b"until:hash")
    yield ("PEXPIRE", prefix + b"until:zset", 700_000_001)
    yield ("EXPIRE", prefix + b"until:stream", -1)  # deletes it
    yield ("SET", prefix + b"m:move", "moved")
    yield ("MOVE", prefix + b"m:move", 9)


def _transactions_and_scripts(prefix: bytes) -> Iterator[Command]:
    key = prefix + b"m:tx"
    yield ("MULTI",)
    yield ("INCR", key)
    yield ("RPUSH", key + b":list", "a", "b")
    yield ("SPOP", prefix + b"set:large", 2)
    yield ("EXEC",)
    yield ("MULTI",)  # only one of them is sent on
    yield ("DEL", prefix + b"m:nothing")
    yield ("INCR", key)
    yield ("EXEC",)
    script = "for i = 1, 5 do redis.call('INCR', KEYS[1]) redis.call('SADD', KEYS[2], i) end return redis.call('TIME')"
    yield ("EVAL", script, 2, key, key + b":set")
    yield ("EVAL", "return redis.call('SET', KEYS[1], ARGV[1], 'EX', 500000)", 1, key + b":ex", "v")
    yield ("PUBLISH", "channel", "nobody listens")


def _since_6_2(prefix: bytes) -> Iterator[Command]:
    yield ("COPY", prefix + b"hash:large", prefix + b"m:copy")
    yield ("COPY", prefix + b"zset:small", prefix + b"m:copied", "DB", 9, "REPLACE")
    yield ("LMOVE", prefix + b"list:nodes", prefix + b"m:list", "LEFT", "RIGHT")
    yield ("BLMOVE", prefix + b"list:nodes", prefix + b"m:list", "RIGHT", "LEFT", 1)
    yield ("LPOP", prefix + b"list:nodes", 3)
    yield ("GETDEL", prefix + b"text:12")
    yield ("GETEX", prefix + b"until:far", "PX", 900_000_123)
    yield ("GETEX", prefix + b"until:setex", "PERSIST")
    yield ("SET", prefix + b"text:20", "set and got", "GET")
    yield ("SET", prefix + b"until:psetex", "kept", "KEEPTTL")
    yield ("ZADD", prefix + b"zset:small", "GT", 100, "m0")
    yield ("ZRANGESTORE", prefix + b"m:zrange", prefix + b"zset:large", 0, 50)
    yield ("ZDIFFSTORE", prefix + b"m:zdiff", 2, prefix + b"zset:small", prefix + b"zset:numbers")
    yield ("GEOSEARCHSTORE", prefix + b"m:geos", prefix + b"geo", "FROMLONLAT", 15, 37, "BYRADIUS", 300, "km")


def _since_7_0(prefix: bytes) -> Iterator[Command]:
    yield ("LMPOP", 2, prefix + b"m:nothing", prefix + b"list:nodes", "LEFT", "COUNT", 2)
    yield ("BLMPOP", 1, 1, prefix + b"list:nodes", "RIGHT")
    yield ("ZMPOP", 1, prefix + b"zset:large", "MAX", "COUNT", 2)
    yield ("BZMPOP", 1, 1, prefix + b"zset:large", "MIN")
    yield ("EXPIRE", prefix + b"until:far", 1_000_000, "GT")
    yield ("XGROUP", "SETID", prefix + b"stream:work", "nobody", "6-0", "ENTRIESREAD", 6)
    yield ("SPUBLISH", "channel", "nobody listens")
