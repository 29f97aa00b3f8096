"""What journaling costs: catch-up with the journal on disk beside catch-up with it in memory, in one run.

Two links follow one source into two targets. One keeps its state directory on disk, the other on a file system in
memory (/dev/shm), so nothing else differs. They take turns: stopped with SIGSTOP, the source is written to, continued,
and the time until the last write is on the target is taken. The ratio is that of the two rounds next to each other.
At the end both are idle, and the latency of single writes is taken of each in turns.
"""

from __future__ import annotations

import shutil
import tempfile
from typing import Any

from bench import _common as common
from bench._latency import idle_latency
from bench.catchup import one_round


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument("--commands", type=int, default=2_000_000, help="SETs per round (default: 2M)")
    parser.add_argument("--keys", type=int, default=1_000_000, help="different keys (default: 1M)")
    parser.add_argument("--size", type=int, default=64, help="bytes of a value (default: 64)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each (default: 5)")
    parser.add_argument("--memory-dir", default="/dev/shm", help="a file system in memory (default: /dev/shm)")
    parser.add_argument("--quick", action="store_true", help="200k commands, 2 rounds")
    given = parser.parse_args()
    if given.quick:
        given.commands, given.keys, given.rounds = 200_000, 100_000, 2
    memory = tempfile.mkdtemp(prefix="rediscanal-bench-", dir=given.memory_dir)
    try:
        with common.workshop(given.server) as shop:
            result = measure(shop, given, memory)
    finally:
        shutil.rmtree(memory, ignore_errors=True)
    common.finish("journaling", result, summary(result), given.json)


def measure(shop: common.Workshop, given: Any, memory: str) -> dict[str, Any]:
    """The whole benchmark."""
    result: dict[str, Any] = {"environment": common.environment(shop.binary)}
    source, on_disk, in_memory = shop.server("source"), shop.server("on-disk"), shop.server("in-memory")
    daemons = {
        "disk": (shop.daemon(source, on_disk, "--name", "disk"), on_disk, in_memory),
        "memory": (shop.daemon(source, in_memory, "--name", "memory", "--state-dir", memory), in_memory, on_disk),
    }
    for daemon, _, _ in daemons.values():
        daemon.wait_streaming()
    blocks = common.set_blocks(given.commands, given.keys, given.size)
    loader = common.Loader(source)
    runs: dict[str, list[dict[str, float]]] = {"disk": [], "memory": []}
    for number in range(given.rounds):
        for name, (daemon, here, other) in daemons.items():
            figures = one_round(loader, source, blocks, daemon.process, here, other)
            runs[name].append(figures)
            common.say(f"round {number + 1} {name}: {given.commands / figures['seconds'] / 1000:.0f} k commands/s")
    result["rounds"] = runs
    pairs = list(zip(runs["disk"], runs["memory"], strict=True))
    result["ratio"] = common.spread([memory["seconds"] / disk["seconds"] for disk, memory in pairs])
    for name, rounds in runs.items():
        result[f"{name}_cpu_us_per_command"] = common.spread([1e6 * r["cpu_seconds"] / given.commands for r in rounds])
        result[f"{name}_commands_per_second"] = common.spread([given.commands / r["seconds"] for r in rounds])
    samples = 200 if given.quick else 2000
    result["latency_ms"] = idle_latency(source, {"disk": on_disk, "memory": in_memory}, samples)
    result["keys_compared"] = common.same_content(on_disk, in_memory)
    return result


def summary(result: dict[str, Any]) -> list[str]:
    """For people."""
    ratio = result["ratio"]
    lines = [
        f"catch-up, journal on disk to in memory  {ratio['median']:.2f}  ({ratio['min']:.2f} to {ratio['max']:.2f})"
    ]
    for name in ("disk", "memory"):
        rate, cpu = result[f"{name}_commands_per_second"]["median"], result[f"{name}_cpu_us_per_command"]["median"]
        idle = result["latency_ms"][name]
        lines.append(
            f"{name:<10} {rate / 1000:.0f} k commands/s, {cpu:.2f} µs of CPU a command, "
            f"idle p50 {idle['p50']:.2f} ms, p99 {idle['p99']:.2f} ms"
        )
    return [*lines, f"{result['keys_compared']:,} keys compared: equal"]


if __name__ == "__main__":
    main()
