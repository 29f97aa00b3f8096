"""Throughput and idle latency over a long line: 10, 50 and 200 ms of round trip, with and without a bound on bandwidth.

The proxy of the tests stands before the target (redis-canal is near the source) and before the source as the native
replica sees it. Both are in step; then commands are written as fast as the source takes them, and the time until the
last is at the target is taken, less half a round trip. In turns, native and redis-canal; contents are compared.
"""

from __future__ import annotations

import statistics
import time
from typing import Any

from bench import _common as common
from bench._line import Line
from bench.catchup import LAST


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument("--commands", type=int, default=1_000_000, help="SETs per round (default: 1M)")
    parser.add_argument("--size", type=int, default=64, help="bytes of a value (default: 64)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each consumer (default: 3)")
    parser.add_argument("--rtt", type=float, action="append", help="round trip in ms (default: 10, 50, 200)")
    parser.add_argument("--rate", type=float, default=0, help="bound of the line in MB/s (default: none)")
    parser.add_argument("--quick", action="store_true", help="50k commands, one round, 50 ms")
    parser.add_argument("--run-option", action="append", default=[], metavar="OPTION", help="passed on to `run`")
    given = parser.parse_args()
    if given.quick:
        given.commands, given.rounds, given.rtt = 50_000, 1, [50.0]
    with common.workshop(given.server) as shop:
        result: dict[str, Any] = {"environment": common.environment(shop.binary)}
        result["options"] = {name: getattr(given, name) for name in ("commands", "size", "rounds", "rate")}
    for rtt in given.rtt or [10.0, 50.0, 200.0]:
        with common.workshop(given.server) as shop:
            result[f"{rtt:g} ms"] = one_line(shop, given, rtt)
            common.say(line(f"{rtt:g} ms", result[f"{rtt:g} ms"]))
    lines = [line(name, figures) for name, figures in result.items() if name.endswith(" ms")]
    common.finish("wan", result, lines, given.json)


def one_line(shop: common.Workshop, given: Any, rtt: float) -> dict[str, Any]:
    """All rounds over one line."""
    rate = given.rate * 1e6
    source, replica, target = shop.server("source"), shop.server("replica"), shop.server("target")
    to_source, to_target = Line(shop, source, rtt / 2, rate), Line(shop, target, rtt / 2, rate)
    replica.replicate(to_source)  # type: ignore[arg-type]  # only its port is used
    daemon = shop.daemon(source, to_target, *given.run_option)  # type: ignore[arg-type]
    daemon.wait_streaming()
    blocks = common.set_blocks(given.commands, max(1, given.commands // 2), given.size)
    loader = common.Loader(source)
    consumers = {"native": (replica.process, replica, target), "canal": (daemon.process, target, replica)}
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in consumers}
    for _ in range(given.rounds):
        for name, (process, here, other) in consumers.items():
            runs[name].append(one_round(loader, source, blocks, process, here, other))
    figures: dict[str, Any] = {"rounds": runs}
    pairs = zip(runs["native"], runs["canal"], strict=True)
    figures["ratio"] = common.spread([native["seconds"] / canal["seconds"] for native, canal in pairs])
    for name in consumers:
        rates = [given.commands / max(1e-3, one["seconds"] - rtt / 2000) for one in runs[name]]
        figures[f"{name}_commands_per_second"] = common.spread(rates)
    bytes_each = sum(map(len, blocks)) / given.commands
    figures["line_commands_per_second"] = rate / bytes_each if rate else None
    figures["canal_cpu_us_per_command"] = common.spread(
        [1e6 * one["cpu_seconds"] / given.commands for one in runs["canal"]]
    )
    figures["idle_ms"] = {name: idle(source, here) for name, (_, here, _) in consumers.items()}
    figures["memory_bytes"] = common.memory_bytes(daemon.process)
    figures["writer"] = daemon.status()["writer"]
    figures["keys_compared"] = common.same_content(source, target)
    return figures


def one_round(
    loader: common.Loader,
    source: common.Server,
    blocks: list[bytes],
    process: Any,
    here: common.Server,
    other: common.Server,
) -> dict[str, float]:
    """As catchup does it: stop, write, wait for the other, continue; the line is open and its pipe empty."""
    common.freeze(process)
    token = str(time.monotonic_ns())
    loader.send(blocks)
    source.client.set(LAST, token)
    common.wait_for(lambda: other.client.get(LAST) == token.encode(), "the other consumer is in step", 600, 0.05)
    time.sleep(0.5)
    cpu, began = common.cpu_seconds(process), time.monotonic()
    common.thaw(process)
    common.wait_for(lambda: here.client.get(LAST) == token.encode(), "the last write has arrived", 600)
    seconds = time.monotonic() - began
    return {"seconds": seconds, "cpu_seconds": common.cpu_seconds(process) - cpu}


def idle(source: common.Server, here: common.Server, samples: int = 20) -> float:
    """Median ms of one write on an idle line: it must leave at once, so about half a round trip."""
    found = []
    for _ in range(samples):
        token = str(time.monotonic_ns())
        began = time.monotonic()
        source.client.set(LAST, token)
        common.wait_for(lambda token=token: here.client.get(LAST) == token.encode(), "a write arrived", 30, 0.0005)
        found.append(1000 * (time.monotonic() - began))
        time.sleep(0.01)
    return statistics.median(found)


def line(name: str, figures: dict[str, Any]) -> str:
    """For people."""
    native, canal = (figures[f"{n}_commands_per_second"] for n in ("native", "canal"))
    bound = figures["line_commands_per_second"]
    return (
        f"{name:<8} native {native['median'] / 1000:.0f} k/s, redis-canal ({figures['writer']}) "
        f"{canal['median'] / 1000:.0f} k/s ({canal['min'] / 1000:.0f} to {canal['max'] / 1000:.0f}), ratio "
        f"{figures['ratio']['median']:.2f} ({figures['ratio']['min']:.2f} to {figures['ratio']['max']:.2f})"
        + (f", the line carries {bound / 1000:.0f} k/s" if bound else "")
        + f"; idle {figures['idle_ms']['native']:.1f} / {figures['idle_ms']['canal']:.1f} ms; "
        f"peak {figures['memory_bytes']['peak'] / 1e6:.0f} MB"
    )


if __name__ == "__main__":
    main()
