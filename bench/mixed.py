"""Catch-up over workloads unlike the plain SETs of `catchup`: native replica and redis-canal in turns, in one run.

Value sizes of 16 B to 100 kB, all types, hot keys (plain, and with `--compact`), transactions, sixteen databases. CPU a
command of the daemon, its target and the native replica; bytes that went to the target. Contents are compared.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

from bench import _common as common
from bench.catchup import one_round

Words = tuple[bytes, ...]
_VALUE = bytes(range(33, 127)) * 1100


def sizes(dice: random.Random) -> Iterator[Words]:
    """SETs whose values have 16 B to 100 kB, as many bytes in each size."""
    while True:
        size = dice.choice((16, 16, 16, 16, 128, 128, 1024, 10_240, 102_400)) if dice.random() < 0.05 else 16
        yield b"SET", b"key:%d" % dice.randrange(20_000), _VALUE[:size]


def types(dice: random.Random) -> Iterator[Words]:
    """Strings, lists, sets, hashes, sorted sets, streams, deadlines, deletes."""
    for number in range(1 << 60):
        key = b"%d" % dice.randrange(20_000)
        yield dice.choice(
            (
                (b"SET", b"s:" + key, b"value-%d" % number),
                (b"SET", b"t:" + key, b"value-%d" % number, b"PX", b"86400000"),
                (b"INCR", b"n:" + key),
                (b"RPUSH", b"l:" + key, b"element-%d" % number),
                (b"LPOP", b"l:" + key),
                (b"SADD", b"u:" + key, b"%d" % (number % 50)),
                (b"HSET", b"h:" + key, b"field%d" % (number % 20), b"value-%d" % number),
                (b"HINCRBY", b"h:" + key, b"count", b"1"),
                (b"ZADD", b"z:" + key, b"%d.5" % (number % 1000), b"m%d" % (number % 50)),
                (b"XADD", b"x:" + key, b"MAXLEN", b"20", b"*", b"field", b"%d" % number),
                (b"EXPIRE", b"h:" + key, b"86400"),
                (b"DEL", b"n:" + key),
            )
        )


def hot(dice: random.Random) -> Iterator[Words]:
    """SET, INCR and HSET of 200 keys."""
    for number in range(1 << 60):
        key = b"%d" % int(200 * dice.random() ** 2)
        yield dice.choice(
            ((b"SET", b"s:" + key, b"value-%d" % number), (b"INCR", b"n:" + key), (b"SET", b"n:" + key, b"0"))
        )


def transactions(dice: random.Random) -> Iterator[Words]:
    """MULTI, five commands, EXEC."""
    for number in range(1 << 60):
        place = number % 7
        if place in (0, 6):
            yield (b"MULTI",) if place == 0 else (b"EXEC",)
        else:
            yield b"SET", b"key:%d" % dice.randrange(50_000), b"value-%d" % number


def databases(dice: random.Random) -> Iterator[Words]:
    """SETs in sixteen databases, ten commands in each before the next."""
    for number in range(1 << 60):
        if number % 10 == 0:
            yield b"SELECT", b"%d" % dice.randrange(16)
        else:
            yield b"SET", b"key:%d" % dice.randrange(50_000), b"value-%d" % number


LOADS: dict[str, tuple[Callable[[random.Random], Iterator[Words]], tuple[str, ...]]] = {
    "sizes": (sizes, ()),
    "types": (types, ()),
    "hot": (hot, ()),
    "hot-compact": (hot, ("--compact",)),
    "transactions": (transactions, ()),
    "databases": (databases, ()),
}


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument("--commands", type=int, default=300_000, help="commands per round (default: 300k)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each consumer (default: 3)")
    parser.add_argument("--only", choices=LOADS, action="append", help="only this workload")
    parser.add_argument("--quick", action="store_true", help="20k commands, one round")
    given = parser.parse_args()
    if given.quick:
        given.commands, given.rounds = 20_000, 1
    result: dict[str, Any] = {}
    for name in given.only or LOADS:
        with common.workshop(given.server) as shop:
            result.setdefault("environment", common.environment(shop.binary))
            result[name] = one_load(shop, name, given)
            common.say(line(name, result[name]))
    lines = [line(name, figures) for name, figures in result.items() if name != "environment"]
    common.finish("mixed", result, lines, given.json)


def one_load(shop: common.Workshop, name: str, given: Any) -> dict[str, Any]:
    """All rounds of one workload."""
    make, options = LOADS[name]
    source, replica, target = shop.server("source"), shop.server("replica"), shop.server("target")
    replica.replicate(source)
    daemon = shop.daemon(source, target, *options)
    daemon.wait_streaming()
    words = make(random.Random(name))
    blocks = [
        b"".join(common.command(*next(words)) for _ in range(min(5000, given.commands - start)))
        for start in range(0, given.commands, 5000)
    ]
    if name == "transactions":
        blocks.append(common.command(b"EXEC") if given.commands % 7 not in (0,) else b"")
    if name == "databases":
        blocks.append(common.command(b"SELECT", b"0"))
    loader = common.Loader(source)
    consumers = {"native": (replica.process, replica, target), "canal": (daemon.process, target, replica)}
    runs: dict[str, list[dict[str, float]]] = {which: [] for which in consumers}
    for _ in range(given.rounds):
        for which, (process, here, other) in consumers.items():
            before, sent = common.cpu_seconds(here.process), received(here)
            figures = one_round(loader, source, blocks, process, here, other)
            figures["target_cpu_seconds"] = common.cpu_seconds(here.process) - before
            figures["received_bytes"] = received(here) - sent
            runs[which].append(figures)
    status = daemon.status()
    result: dict[str, Any] = {"rounds": runs, "left_out": status["commands_left_out"]}
    pairs = zip(runs["native"], runs["canal"], strict=True)
    result["ratio"] = common.spread([native["seconds"] / canal["seconds"] for native, canal in pairs])
    per = 1 / given.commands
    for which, rounds in runs.items():
        result[f"{which}_commands_per_second"] = common.spread([given.commands / one["seconds"] for one in rounds])
        result[f"{which}_target_cpu_us"] = common.spread([1e6 * one["target_cpu_seconds"] * per for one in rounds])
        result[f"{which}_bytes"] = common.spread([one["received_bytes"] * per for one in rounds])
    result["canal_cpu_us"] = common.spread([1e6 * one["cpu_seconds"] * per for one in runs["canal"]])
    result["keys_compared"] = common.same_content(source, target)
    return result


def received(server: common.Server) -> int:
    """Bytes that have come to a server from its clients, and from its master."""
    stats = server.client.info("stats")
    return int(stats["total_net_input_bytes"])


def line(name: str, figures: dict[str, Any]) -> str:
    """For people."""

    def median(key: str) -> float:
        found: float = figures[key]["median"]
        return found

    ratio, left_out = figures["ratio"], figures["left_out"]
    return (
        f"{name:<13} ratio {ratio['median']:.2f} ({ratio['min']:.2f} to {ratio['max']:.2f}), redis-canal "
        f"{median('canal_commands_per_second') / 1000:.0f} k/s; CPU a command: daemon {median('canal_cpu_us'):.2f} µs, "
        f"its target {median('canal_target_cpu_us'):.2f}, native replica {median('native_target_cpu_us'):.2f}; "
        f"{median('canal_bytes'):.0f} bytes a command to the target" + (f"; {left_out:,} left out" if left_out else "")
    )


if __name__ == "__main__":
    main()
