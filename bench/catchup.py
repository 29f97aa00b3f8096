"""Catch-up rate, CPU per command and idle latency, against a native replica of the same source in the same run.

A consumer is stopped with SIGSTOP, many SETs are written to the source, the consumer is continued, and the time until
the last write is on its target is taken. Native replica and redis-canal take turns; contents are compared at the end.
"""

from __future__ import annotations

import time
from typing import Any

from bench import _common as common
from bench._latency import idle_latency

LAST = "bench:last"


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument("--commands", type=int, default=2_000_000, help="SETs per round (default: 2M)")
    parser.add_argument("--keys", type=int, default=1_000_000, help="different keys (default: 1M)")
    parser.add_argument("--size", type=int, default=64, help="bytes of a value (default: 64)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each consumer (default: 5)")
    parser.add_argument("--samples", type=int, default=1000, help="latency samples (default: 1000)")
    parser.add_argument("--quick", action="store_true", help="200k commands, 2 rounds, 200 samples")
    parser.add_argument("--run-option", action="append", default=[], metavar="OPTION", help="passed on to `run`")
    given = parser.parse_args()
    if given.quick:
        given.commands, given.keys, given.rounds, given.samples = 200_000, 100_000, 2, 200
    with common.workshop(given.server) as shop:
        result = measure(shop, given)
    common.finish("catchup", result, summary(result), given.json)


def measure(shop: common.Workshop, given: Any) -> dict[str, Any]:
    """The whole benchmark."""
    result: dict[str, Any] = {"environment": common.environment(shop.binary)}
    result["options"] = {name: getattr(given, name) for name in ("commands", "keys", "size", "rounds", "run_option")}
    source, replica, target = shop.server("source"), shop.server("replica"), shop.server("target")
    replica.replicate(source)
    daemon = shop.daemon(source, target, *given.run_option)
    daemon.wait_streaming()
    common.say("preparing the load")
    blocks = common.set_blocks(given.commands, given.keys, given.size)
    loader = common.Loader(source)
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
        name: status[name] for name in ("full_resyncs", "partial_resyncs", "errors", "writer", "batches")
    }
    result["latency_ms"] = idle_latency(source, {"native": replica, "canal": target}, given.samples)
    result["keys_compared"] = common.same_content(source, target)
    return result


def one_round(
    loader: common.Loader,
    source: common.Server,
    blocks: list[bytes],
    process: Any,
    here: common.Server,
    other: common.Server,
) -> dict[str, float]:
    """Stop, write, wait for the other consumer, continue; seconds until the last write is here, CPU meanwhile."""
    common.freeze(process)
    token = str(time.monotonic_ns())
    loader.send(blocks)
    source.client.set(LAST, token)
    common.wait_for(lambda: other.client.get(LAST) == token.encode(), "the other consumer is in step", 600, 0.05)
    time.sleep(0.5)  # let the machine come to rest
    cpu, began = common.cpu_seconds(process), time.monotonic()
    common.thaw(process)
    common.wait_for(lambda: here.client.get(LAST) == token.encode(), "the last write has arrived", 600)
    seconds = time.monotonic() - began
    return {"seconds": seconds, "cpu_seconds": common.cpu_seconds(process) - cpu}


def figures_of(runs: dict[str, list[dict[str, float]]], commands: int) -> dict[str, Any]:
    """Ratio to native of the same round (so that a slow moment of the machine hits both), rates, CPU per command."""
    pairs = zip(runs["native"], runs["canal"], strict=True)
    return {
        "ratio": common.spread([native["seconds"] / canal["seconds"] for native, canal in pairs]),
        "native_commands_per_second": common.spread([commands / one["seconds"] for one in runs["native"]]),
        "canal_commands_per_second": common.spread([commands / one["seconds"] for one in runs["canal"]]),
        "canal_cpu_us_per_command": common.spread([1e6 * one["cpu_seconds"] / commands for one in runs["canal"]]),
    }


def summary(result: dict[str, Any]) -> list[str]:
    """For people."""
    ratio, native, canal = (result[n] for n in ("ratio", "native_commands_per_second", "canal_commands_per_second"))
    cpu, latency, memory = result["canal_cpu_us_per_command"], result["latency_ms"], result["memory_bytes"]
    words = result["environment"]
    return [
        f"{words['server']}, Python {words['python']}, framing {words['framing']}, {words['cores']} cores, "
        f"load before {words['load_before']}",
        f"catch-up ratio to a native replica  {ratio['median']:.2f}  ({ratio['min']:.2f} to {ratio['max']:.2f})",
        f"native replica                      {native['median'] / 1000:.0f} k commands/s",
        f"redis-canal ({result['status']['writer']})".ljust(36) + f"{canal['median'] / 1000:.0f} k commands/s",
        f"CPU of the daemon per command       {cpu['median']:.2f} µs  ({cpu['min']:.2f} to {cpu['max']:.2f})",
        *(
            f"idle latency {name}".ljust(36) + f"p50 {latency[name]['p50']:.2f} ms, p99 {latency[name]['p99']:.2f} ms"
            for name in ("native", "canal")
        ),
        f"memory of the daemon                {memory['now'] / 1e6:.0f} MB, peak {memory['peak'] / 1e6:.0f} MB",
        f"{result['keys_compared']:,} keys compared: equal; full resyncs {result['status']['full_resyncs']}",
    ]


if __name__ == "__main__":
    main()
