"""Full synchronisation of four data sets: time against a native replica of the same source in the same run, memory.

Native: from REPLICAOF until the link is up and the offset reached. redis-canal: from the start of the snapshot until it
is applied, as /status says, and beside it from the start of the process. They take turns on empty targets.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

from bench import _common as common

Block = Iterator[bytes]


def small_strings(scale: float) -> Block:
    """393k keys of about 40 bytes each."""
    for number in range(int(393_000 * scale)):
        yield common.command(b"SET", b"key:%08d" % number, b"value-%016d" % number)


def hashes(scale: float) -> Block:
    """20k hashes of 50 short fields."""
    for number in range(int(20_000 * scale)):
        words = [word for field in range(50) for word in (b"field%02d" % field, b"value-%d-%d" % (number, field))]
        yield common.command(b"HSET", b"hash:%06d" % number, *words)


def sorted_set(scale: float) -> Block:
    """One sorted set of a million members."""
    total = int(1_000_000 * scale)
    for start in range(0, total, 500):
        words = [w for n in range(start, start + 500) for w in (b"%.6f" % (n * 0.37), b"member:%09d" % n)]
        yield common.command(b"ZADD", b"zset", *words)


def mixed(scale: float) -> Block:
    """60k keys of six types, a third with a deadline."""
    for number in range(int(10_000 * scale)):
        name = b"%07d" % number
        yield common.command(b"SET", b"s:" + name, b"x" * (number % 500), b"EX", b"86400")
        yield common.command(b"RPUSH", b"l:" + name, *(b"element%d" % n for n in range(number % 60 + 1)))
        yield common.command(b"SADD", b"i:" + name, *(b"%d" % (n * 7) for n in range(number % 60 + 1)))
        yield common.command(b"ZADD", b"z:" + name, *(w for n in range(20) for w in (b"%d.5" % n, b"m%d" % n)))
        yield common.command(b"HSET", b"h:" + name, *(w for n in range(20) for w in (b"f%d" % n, b"v%d" % n)))
        yield common.command(b"XADD", b"x:" + name, b"1-1", b"field", b"value")
        yield common.command(b"EXPIRE", b"h:" + name, b"86400")


SETS: dict[str, Callable[[float], Block]] = {
    "small_strings": small_strings,
    "hashes": hashes,
    "zset": sorted_set,
    "mixed": mixed,
}


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each consumer (default: 3)")
    parser.add_argument("--scale", type=float, default=1.0, help="size of the data sets (default: 1)")
    parser.add_argument("--only", choices=SETS, action="append", help="only this data set")
    parser.add_argument("--quick", action="store_true", help="scale 0.05, one round")
    given = parser.parse_args()
    if given.quick:
        given.scale, given.rounds = 0.05, 1
    result: dict[str, Any] = {}
    for name in given.only or SETS:
        with common.workshop(given.server) as shop:
            result.setdefault("environment", common.environment(shop.binary))
            result[name] = one_set(shop, SETS[name](given.scale), given.rounds)
            common.say(line(name, result[name]))
    lines = [line(name, figures) for name, figures in result.items() if name != "environment"]
    common.finish("snapshot", result, lines, given.json)


def one_set(shop: common.Workshop, commands: Block, rounds: int) -> dict[str, Any]:
    """Fill a source, then synchronise in turns."""
    source, replica, target = shop.server("source"), shop.server("replica"), shop.server("target")
    common.Loader(source).send([b"".join(commands)])
    native: list[float] = []
    canal: list[dict[str, float]] = []
    keys = 0
    for _ in range(rounds):
        native.append(native_sync(source, replica))
        canal.append(canal_sync(shop, source, target))
        keys = common.same_content(source, target)
        for server in (replica, target):
            server.client.flushall()
    return {
        "keys": keys,
        "native_seconds": common.spread(native),
        "canal_seconds": common.spread([one["sync"] for one in canal]),
        "canal_with_start_seconds": common.spread([one["total"] for one in canal]),
        "canal_cpu_seconds": common.spread([one["cpu"] for one in canal]),
        "ratio": common.spread([mine["sync"] / theirs for mine, theirs in zip(canal, native, strict=True)]),
        "peak_bytes": max(one["peak"] for one in canal),
    }


def native_sync(source: common.Server, replica: common.Server) -> float:
    """Seconds of a native full sync; the replica is a master again after it."""
    began = time.monotonic()
    replica.replicate(source)
    seconds = time.monotonic() - began
    replica.client.replicaof("NO", "ONE")
    return seconds


def canal_sync(shop: common.Workshop, source: common.Server, target: common.Server) -> dict[str, float]:
    """Seconds of ours, with CPU and peak memory."""
    began = time.monotonic()
    daemon = shop.daemon(source, target)
    daemon.wait_streaming()
    total = time.monotonic() - began
    progress = daemon.status()["snapshot"]
    figures = {
        "sync": progress["finished"] - progress["started"],
        "total": total,
        "cpu": common.cpu_seconds(daemon.process),
        "peak": float(common.memory_bytes(daemon.process)["peak"]),
    }
    daemon.stop()
    return figures


def line(name: str, figures: dict[str, Any]) -> str:
    """For people."""
    native, canal, total = (
        figures[n]["median"] for n in ("native_seconds", "canal_seconds", "canal_with_start_seconds")
    )
    return (
        f"{name:<14} {figures['keys']:>8,} keys  native {native:6.2f} s  redis-canal {canal:6.2f} s "
        f"({figures['ratio']['median']:.1f} times; {total:.2f} s with its start)  "
        f"peak {figures['peak_bytes'] / 1e6:.0f} MB"
    )


if __name__ == "__main__":
    main()
