"""Memory of a worker over many millions of commands, or while its target is away. By hand, without a native replica.

The source is written to without pause: SETs, counters, hashes, sets, deletes. The daemon's resident memory is taken all
the while. With `--outage` the target is stopped with SIGSTOP for so long, at a bounded write rate.
"""

from __future__ import annotations

import random
import time
from typing import Any

from bench import _common as common
from bench.catchup import LAST

MB = 1e6
AHEAD_BYTES = 200 << 20
"""How far the source may be ahead of the target."""


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument("--commands", type=int, default=50_000_000, help="commands in all (default: 50M)")
    parser.add_argument("--outage", type=float, default=0, help="seconds for which the target is stopped (default: 0)")
    parser.add_argument("--rate", type=float, default=5_000, help="commands a second while it is (default: 5000)")
    parser.add_argument("--quick", action="store_true", help="500k commands, or an outage of 5 s")
    given = parser.parse_args()
    if given.quick:
        given.commands, given.outage = 500_000, min(given.outage, 5.0)
    with common.workshop(given.server) as shop:
        result: dict[str, Any] = {"environment": common.environment(shop.binary)}
        result |= outage(shop, given) if given.outage else endurance(shop, given)
    common.finish("endurance", result, summary(result), given.json)


def blocks_of(dice: random.Random, half: int) -> list[bytes]:
    """Twice ``half`` blocks of ten thousand commands over 200k keys."""
    blocks = common.set_blocks(10_000 * half, 200_000, 64)
    for _ in range(half):
        words = []
        for _ in range(2500):
            key = b"%d" % dice.randrange(50_000)
            words += [(b"INCR", b"n:" + key), (b"HSET", b"h:" + key, b"f%d" % dice.randrange(20), b"value")]
            words += [(b"SADD", b"s:" + key, b"m%d" % dice.randrange(20)), (b"DEL", b"n:" + key)]
        blocks.append(b"".join(common.command(*one) for one in words))
    dice.shuffle(blocks)
    return blocks


def endurance(shop: common.Workshop, given: Any) -> dict[str, Any]:
    """Write block after block, never further ahead of the target than `AHEAD_BYTES`."""
    source, target = shop.server("source"), shop.server("target")
    daemon = shop.daemon(source, target)
    daemon.wait_streaming()
    blocks, loader = blocks_of(random.Random(1), 5 if given.quick else 50), common.Loader(source)
    samples: list[tuple[float, int, int]] = []
    began, cpu = time.monotonic(), common.cpu_seconds(daemon.process)
    written = 0
    while written < given.commands:
        loader.send(blocks)
        written += 10_000 * len(blocks)
        follows(daemon, source.offset - AHEAD_BYTES)
        samples.append((time.monotonic() - began, written, common.memory_bytes(daemon.process)["now"]))
        common.say(f"{samples[-1][0]:7.0f} s  {written:>12,} commands  {samples[-1][2] / MB:6.1f} MB")
    caught_up(source, target)
    seconds = time.monotonic() - began
    return {
        "commands": written,
        "commands_per_second": written / seconds,
        "cpu_us_per_command": 1e6 * (common.cpu_seconds(daemon.process) - cpu) / written,
        "samples": samples,
        "peak_bytes": common.memory_bytes(daemon.process)["peak"],
        "keys_compared": common.same_content(source, target),
    }


def outage(shop: common.Workshop, given: Any) -> dict[str, Any]:
    """The target stands still; the source is written to all the while."""
    source, target = shop.server("source"), shop.server("target")
    daemon = shop.daemon(source, target)
    daemon.wait_streaming()
    blocks, loader = blocks_of(random.Random(1), 5 if given.quick else 50), common.Loader(source)
    samples: list[tuple[float, int, int]] = []
    began, written = time.monotonic(), 0
    common.freeze(target.process)
    while (now := time.monotonic() - began) < given.outage:
        if written <= now * given.rate:
            loader.send([blocks[written // 10_000 % len(blocks)]])
            written += 10_000
        samples.append((now, written, common.memory_bytes(daemon.process)["now"]))
        time.sleep(0.5)
    common.thaw(target.process)
    back = time.monotonic()
    caught_up(source, target)
    return {
        "commands": written,
        "outage_seconds": given.outage,
        "caught_up_after_seconds": time.monotonic() - back,
        "samples": samples,
        "peak_bytes": common.memory_bytes(daemon.process)["peak"],
        "keys_compared": common.same_content(source, target),
    }


def follows(daemon: common.Daemon, offset: int) -> None:
    """Wait until the daemon has applied the stream up to there."""
    common.wait_for(lambda: daemon.status().get("applied_offset", 0) >= offset, "the daemon follows", 600, 0.2)


def caught_up(source: common.Server, target: common.Server) -> None:
    """Wait until what was written last is at the target."""
    token = str(time.monotonic_ns())
    source.client.set(LAST, token)
    common.wait_for(lambda: target.client.get(LAST) == token.encode(), "the last write has arrived", 1200, 0.05)


def summary(result: dict[str, Any]) -> list[str]:
    """For people."""
    samples = result["samples"]
    tenth = max(1, len(samples) // 10)
    shown = [samples[number] for number in range(0, len(samples), tenth)] + [samples[-1]]
    lines = [f"{seconds:7.0f} s  {written:>12,} commands  {now / MB:6.1f} MB" for seconds, written, now in shown]
    lines.append(f"peak {result['peak_bytes'] / MB:.1f} MB; {result['keys_compared']:,} keys compared: equal")
    if "outage_seconds" in result:
        return [*lines, f"caught up {result['caught_up_after_seconds']:.1f} s after the target was back"]
    rate, cpu = result["commands_per_second"], result["cpu_us_per_command"]
    return [*lines, f"{rate / 1000:.0f} k commands/s, {cpu:.2f} µs of CPU a command"]


if __name__ == "__main__":
    main()
