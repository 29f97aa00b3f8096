"""Catch-up rate of a link that is late while half of the keys have a TTL, against a native replica in the same run.

As `catchup`, with a mixed load: of every six commands one is a plain SET, one a SET with a TTL, two are HSET and EXPIRE
of a session, one an INCR of a counter with a TTL and one an HSET of a hash without. The daemon is stopped for longer
than makes a link late, so it has to look at the keys that the commands build on; the contents, deadlines too, are
compared at the end. A ``--ttl-seconds`` smaller than the time that a round takes lets keys expire meanwhile.
"""

from __future__ import annotations

from typing import Any

from bench import _common as common
from bench.catchup import figures_of, one_round


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument("--commands", type=int, default=1_200_000, help="commands per round (default: 1.2M)")
    parser.add_argument("--keys", type=int, default=300_000, help="different keys (default: 300k)")
    parser.add_argument("--ttl-seconds", type=int, default=3600, help="of the keys that have one (default: 3600)")
    parser.add_argument("--size", type=int, default=64, help="bytes of a value (default: 64)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each consumer (default: 5)")
    parser.add_argument("--quick", action="store_true", help="120k commands, 2 rounds")
    parser.add_argument("--run-option", action="append", default=[], metavar="OPTION", help="passed on to `run`")
    given = parser.parse_args()
    if given.quick:
        given.commands, given.keys, given.rounds = 120_000, 60_000, 2
    with common.workshop(given.server) as shop:
        result = measure(shop, given)
    common.finish("catchup_ttl", result, summary(result), given.json)


def measure(shop: common.Workshop, given: Any) -> dict[str, Any]:
    """The whole benchmark."""
    result: dict[str, Any] = {"environment": common.environment(shop.binary)}
    result["options"] = {name: getattr(given, name) for name in ("commands", "keys", "size", "ttl_seconds", "rounds")}
    source, replica, target = shop.server("source"), shop.server("replica"), shop.server("target")
    replica.replicate(source)
    daemon = shop.daemon(source, target, *given.run_option)
    daemon.wait_streaming()
    common.say("preparing the load")
    blocks = mixed_blocks(given.commands, given.keys, given.size, given.ttl_seconds)
    loader = common.Loader(source)
    loader.send(blocks)  # the keys exist before the first round
    common.wait_for(
        lambda: daemon.status().get("applied_offset", 0) >= source.offset - 200, "the keys are on the target", 600
    )
    runs: dict[str, list[dict[str, float]]] = {"native": [], "canal": []}
    consumers = {"native": (replica.process, replica, target), "canal": (daemon.process, target, replica)}
    for number in range(given.rounds):
        for name, (process, here, other) in consumers.items():
            figures = one_round(loader, source, blocks, process, here, other)
            runs[name].append(figures)
            common.say(f"round {number + 1} {name}: {given.commands / figures['seconds'] / 1000:.0f} k commands/s")
    result["rounds"] = runs
    result |= figures_of(runs, given.commands)
    result["memory_bytes"] = common.memory_bytes(daemon.process)
    status = daemon.status()
    result["status"] = {
        name: status[name] for name in ("full_resyncs", "errors", "writer", "ttl_holds", "refetched_keys")
    }
    result["keys_compared"] = common.same_content(source, target)
    return result


def mixed_blocks(count: int, keys: int, size: int, ttl_s: int) -> list[bytes]:
    """``count`` commands over ``keys`` names, half of which get a TTL, in blocks of 6,000 commands."""
    value = (b"0123456789abcdef" * (size // 16 + 1))[:size]
    seconds, each = b"%d" % ttl_s, max(1, keys // 5)
    step = 7919 if each % 7919 else 1  # a prime, so that neighbours are not written in order
    word = common.command
    blocks = []
    for start in range(0, count, 6000):
        parts = []
        for number in range(start // 6, min(count, start + 6000) // 6):
            name = b"%07d" % (number * step % each)
            parts += [
                word(b"SET", b"plain:" + name, value),
                word(b"SET", b"cached:" + name, value, b"EX", seconds),
                word(b"HSET", b"session:" + name, b"field:%d" % (number % 7), value),
                word(b"EXPIRE", b"session:" + name, seconds),
                word(b"INCR", b"counter:" + name),
                word(b"HSET", b"hash:" + name, b"field:%d" % (number % 7), value),
            ]
            if number < each:
                parts.append(word(b"EXPIRE", b"counter:" + name, seconds))
        blocks.append(b"".join(parts))
    return blocks


def summary(result: dict[str, Any]) -> list[str]:
    """For people."""
    ratio, native, canal = (result[n] for n in ("ratio", "native_commands_per_second", "canal_commands_per_second"))
    cpu, memory, status = result["canal_cpu_us_per_command"], result["memory_bytes"], result["status"]
    words = result["environment"]
    return [
        f"{words['server']}, Python {words['python']}, framing {words['framing']}, {words['cores']} cores, "
        f"load before {words['load_before']}",
        f"catch-up ratio to a native replica  {ratio['median']:.2f}  ({ratio['min']:.2f} to {ratio['max']:.2f})",
        f"native replica                      {native['median'] / 1000:.0f} k commands/s",
        f"redis-canal ({status['writer']})".ljust(36) + f"{canal['median'] / 1000:.0f} k commands/s",
        f"CPU of the daemon per command       {cpu['median']:.2f} µs  ({cpu['min']:.2f} to {cpu['max']:.2f})",
        f"memory of the daemon                {memory['now'] / 1e6:.0f} MB, peak {memory['peak'] / 1e6:.0f} MB",
        f"deadlines held off {status['ttl_holds']:,}, keys fetched {status['refetched_keys']:,}",
        f"{result['keys_compared']:,} keys compared: equal; full resyncs {status['full_resyncs']}",
    ]


if __name__ == "__main__":
    main()
