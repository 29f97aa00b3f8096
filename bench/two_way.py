"""Two links, one each way, between two servers that are both written to: throughput, convergence, idle latency.

Both daemons are stopped with SIGSTOP, both servers are written to (different keys, so that nothing conflicts), both are
continued, and the time until each side's last write is on the other is taken. Beside it, in turns, one native replica
of the first server catches up with the same commands. Contents are compared at the end.
"""

from __future__ import annotations

import time
from typing import Any

from bench import _common as common
from bench._latency import idle_latency
from bench.catchup import LAST, one_round


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument("--commands", type=int, default=500_000, help="SETs per side and round (default: 500k)")
    parser.add_argument("--size", type=int, default=64, help="bytes of a value (default: 64)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds (default: 3)")
    parser.add_argument("--samples", type=int, default=300, help="latency samples (default: 300)")
    parser.add_argument("--quick", action="store_true", help="20k commands, one round, 30 samples")
    given = parser.parse_args()
    if given.quick:
        given.commands, given.rounds, given.samples = 20_000, 1, 30
    with common.workshop(given.server) as shop:
        result = measure(shop, given)
    common.finish("two_way", result, summary(result), given.json)


def measure(shop: common.Workshop, given: Any) -> dict[str, Any]:
    """The whole benchmark."""
    result: dict[str, Any] = {"environment": common.environment(shop.binary)}
    left, right, replica = shop.server("left"), shop.server("right"), shop.server("replica")
    replica.replicate(left)
    there = shop.daemon(left, right, "--two-way", "--source-dc", "left", "--target-dc", "right")
    there.wait_streaming()
    back = shop.daemon(right, left, "--two-way", "--source-dc", "right", "--target-dc", "left")
    back.wait_streaming()
    blocks = common.set_blocks(given.commands, max(1, given.commands // 2), given.size)
    others = [block.replace(b"key:", b"kez:") for block in blocks]
    loaders = common.Loader(left), common.Loader(right)
    native, canal = [], []
    for number in range(given.rounds):
        native.append(one_round(loaders[0], left, blocks, replica.process, replica, right))
        canal.append(both_ways(loaders, (left, right), (blocks, others), (there, back)))
        common.say(
            f"round {number + 1}: native one way {given.commands / native[-1]['seconds'] / 1000:.0f} k/s, "
            f"two ways {2 * given.commands / canal[-1]['seconds'] / 1000:.0f} k/s in all"
        )
    total = 2 * given.commands
    result["rounds"] = {"native": native, "canal": canal}
    result["native_commands_per_second"] = common.spread([given.commands / one["seconds"] for one in native])
    result["canal_commands_per_second"] = common.spread([total / one["seconds"] for one in canal])
    result["ratio"] = common.spread(
        [2 * one["seconds"] / both["seconds"] for one, both in zip(native, canal, strict=True)]
    )
    result["canal_cpu_us_per_command"] = common.spread([1e6 * one["cpu_seconds"] / total for one in canal])
    result["latency_ms"] = idle_latency(left, {"native": replica, "canal": right}, given.samples)
    result["loops_dropped"] = [daemon.status()["loops_dropped"] for daemon in (there, back)]
    result["memory_bytes"] = [common.memory_bytes(daemon.process) for daemon in (there, back)]
    result["keys_compared"] = common.same_content(left, right)
    return result


def both_ways(
    loaders: tuple[common.Loader, common.Loader],
    servers: tuple[common.Server, common.Server],
    blocks: tuple[list[bytes], list[bytes]],
    daemons: tuple[common.Daemon, common.Daemon],
) -> dict[str, float]:
    """Stop both links, write to both sides, continue; until the last write of each is on the other."""
    for daemon in daemons:
        common.freeze(daemon.process)
    tokens = []
    for number, (loader, server) in enumerate(zip(loaders, servers, strict=True)):
        loader.send(blocks[number])
        tokens.append(str(time.monotonic_ns()).encode())
        server.client.set(f"{LAST}:{number}", tokens[-1])
    time.sleep(0.5)
    cpu, began = sum(common.cpu_seconds(daemon.process) for daemon in daemons), time.monotonic()
    for daemon in daemons:
        common.thaw(daemon.process)
    for number, server in enumerate(reversed(servers)):
        key, token = f"{LAST}:{number}", tokens[number]
        common.wait_for(lambda s=server, k=key, t=token: s.client.get(k) == t, "the last write has arrived", 600)
    seconds = time.monotonic() - began
    return {"seconds": seconds, "cpu_seconds": sum(common.cpu_seconds(d.process) for d in daemons) - cpu}


def summary(result: dict[str, Any]) -> list[str]:
    """For people."""
    native, canal, ratio = (result[n] for n in ("native_commands_per_second", "canal_commands_per_second", "ratio"))
    cpu, latency = result["canal_cpu_us_per_command"], result["latency_ms"]
    memory = ", ".join(f"{one['now'] / 1e6:.0f} MB, {one['peak'] / 1e6:.0f} MB" for one in result["memory_bytes"])
    return [
        f"two ways, both sides' commands together  {canal['median'] / 1000:.0f} k commands/s",
        f"native replica, one way                  {native['median'] / 1000:.0f} k commands/s",
        f"ratio                                    {ratio['median']:.2f} ({ratio['min']:.2f} to {ratio['max']:.2f})",
        f"CPU of both daemons per command          {cpu['median']:.2f} µs",
        *(
            f"idle latency {name}".ljust(41) + f"p50 {latency[name]['p50']:.2f} ms, p99 {latency[name]['p99']:.2f} ms"
            for name in ("native", "canal")
        ),
        f"memory of the daemons, peak               {memory}",
        f"{result['keys_compared']:,} keys compared: equal; dropped as loops {result['loops_dropped']}",
    ]


if __name__ == "__main__":
    main()
