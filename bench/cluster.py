"""Catch-up rate onto a cluster, against one standalone target in the same run, by both ways of sending.

The same source feeds three links in turns: onto a standalone server; onto a cluster by one script for each node
(what redis-canal does); onto a cluster by a transaction for each slot (`--writer gated`). A link is stopped with
SIGSTOP, many SETs of random keys are written, the link is continued, and the time until it has committed all is taken.
"""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Any

import redis

from bench import _common as common
from canal.cluster import SLOTS
from console.demo.servers import free_ports

WAYS = ("standalone", "cluster", "transactions")
CPU = ("daemon_cpu", "targets_cpu", "source_cpu")


class Cluster:
    """Masters without replicas, each with an equal part of the slots."""

    def __init__(self, shop: common.Workshop, name: str, masters: int) -> None:
        self.name = name
        self.nodes = []
        for number in range(masters):
            (bus,) = free_ports(1)
            settings = ("--cluster-enabled", "yes", "--cluster-port", str(bus), "--cluster-node-timeout", "60000")
            self.nodes.append((shop.server(f"{name}-{number}", *settings), bus))
        for number, (node, _) in enumerate(self.nodes):
            first, last = SLOTS * number // masters, SLOTS * (number + 1) // masters - 1
            self._do(node, "CLUSTER", "ADDSLOTSRANGE", first, last)
            self._do(node, "CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        for node, bus in self.nodes[1:]:
            self._do(self.nodes[0][0], "CLUSTER", "MEET", "127.0.0.1", node.port, bus)
        for node, _ in self.nodes:
            common.wait_for(lambda node=node: self._sound(node), f"{node.name} sees its cluster")  # type: ignore[misc]

    @staticmethod
    def _do(node: common.Server, *words: object) -> Any:
        return node.client.execute_command(*words)  # type: ignore[no-untyped-call]

    def _sound(self, node: common.Server) -> bool:
        """All slots are served in its eyes; redis-py gives the reply as a mapping or as text."""
        with suppress(redis.RedisError):
            raw = self._do(node, "CLUSTER", "INFO")
            text = raw.decode() if isinstance(raw, bytes) else str(raw)
            return "cluster_state:ok" in text or "'cluster_state': 'ok'" in text
        return False

    @property
    def url(self) -> str:
        return "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node, _ in self.nodes)

    def user_keys(self) -> int:
        """All keys but redis-canal's own."""
        own = sum(1 for node, _ in self.nodes for _ in node.client.scan_iter("redis-canal:*", count=10_000))
        return sum(int(node.client.dbsize()) for node, _ in self.nodes) - own


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument("--commands", type=int, default=1_000_000, help="SETs per round (default: 1M)")
    parser.add_argument("--keys", type=int, default=1_000_000, help="different keys (default: 1M)")
    parser.add_argument("--size", type=int, default=64, help="bytes of a value (default: 64)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each way (default: 3)")
    parser.add_argument("--masters", type=int, default=3, help="masters of a cluster (default: 3)")
    parser.add_argument("--ways", default=",".join(WAYS), help="which of them, standalone first (default: all)")
    parser.add_argument("--quick", action="store_true", help="200k commands, 2 rounds")
    given = parser.parse_args()
    if given.quick:
        given.commands, given.keys, given.rounds = 200_000, 100_000, 2
    with common.workshop(given.server) as shop:
        result = measure(shop, given)
    common.finish("cluster", result, summary(result), given.json)


def measure(shop: common.Workshop, given: Any) -> dict[str, Any]:
    """The whole benchmark."""
    result: dict[str, Any] = {"environment": common.environment(shop.binary)}
    result["options"] = {name: getattr(given, name) for name in ("commands", "keys", "size", "rounds", "masters")}
    source = shop.server("source")
    targets: dict[str, Any] = {
        "standalone": shop.server("target"),
        "cluster": Cluster(shop, "cluster", given.masters),
        "transactions": Cluster(shop, "transactions", given.masters),
    }
    daemons = {}
    ways = given.ways.split(",")
    for way, target in targets.items():
        if way not in ways:
            continue
        options = ("--name", way, *(("--writer", "gated") if way == "transactions" else ()))
        daemons[way] = shop.daemon(source, target, *options)
        daemons[way].wait_streaming()
        common.freeze(daemons[way].process)
    common.say("preparing the load")
    blocks = common.set_blocks(given.commands, given.keys, given.size)
    loader = common.Loader(source)
    runs: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
    for number in range(given.rounds):
        loader.send(blocks)
        for way in ways:
            runs[way].append(figures := catch_up(source, targets[way], daemons[way]))
            rate = given.commands / figures["seconds"] / 1000
            cpu = [1e6 * figures[whose] / given.commands for whose in CPU]
            common.say(
                f"round {number + 1} {way}: {rate:.0f} k commands/s, µs of CPU a command: "
                f"{cpu[0]:.2f} daemon, {cpu[1]:.2f} targets, {cpu[2]:.2f} source"
            )
    for way in ways[1:]:
        if targets[way].user_keys() != source.client.dbsize():
            raise RuntimeError(f"{way}: not all keys are at the target")
    result["rounds"] = runs
    for way in ways:
        rates = [given.commands / one["seconds"] for one in runs[way]]
        cpu = {
            f"{whose}_us_per_command": common.spread([1e6 * one[whose] / given.commands for one in runs[way]])
            for whose in CPU
        }
        pairs = zip(runs["standalone"], runs[way], strict=True)
        ratio = common.spread([alone["seconds"] / one["seconds"] for alone, one in pairs])
        peak = common.memory_bytes(daemons[way].process)["peak"]
        result[way] = {"commands_per_second": common.spread(rates), **cpu, "ratio": ratio, "peak_bytes": peak}
    return result


def catch_up(source: common.Server, target: common.Server | Cluster, daemon: common.Daemon) -> dict[str, float]:
    """Continue the link until it has committed all that the source has written; seconds, and everybody's CPU."""
    time.sleep(0.5)  # let the machine come to rest
    goal = source.offset
    nodes = [node.process for node, _ in target.nodes] if isinstance(target, Cluster) else [target.process]
    of = dict(zip(CPU, ([daemon.process], nodes, [source.process]), strict=True))
    before = {whose: sum(map(common.cpu_seconds, processes)) for whose, processes in of.items()}
    began = time.monotonic()
    common.thaw(daemon.process)
    common.wait_for(lambda: daemon.status().get("applied_offset", 0) >= goal, "all is committed", 600, 0.02)
    seconds = time.monotonic() - began
    spent = {whose: sum(map(common.cpu_seconds, processes)) - before[whose] for whose, processes in of.items()}
    common.freeze(daemon.process)
    return {"seconds": seconds, **spent}


def summary(result: dict[str, Any]) -> list[str]:
    """For people."""
    words, masters = result["environment"], result["options"]["masters"]
    lines = [
        f"{words['server']}, Python {words['python']}, framing {words['framing']}, {words['cores']} cores, "
        f"load before {words['load_before']}"
    ]
    for way in (way for way in WAYS if way in result):
        one = result[way]
        name = way if way == "standalone" else f"{masters} masters, {way}"
        lines.append(
            f"{name:<28} {one['commands_per_second']['median'] / 1000:.0f} k commands/s, ratio "
            f"{one['ratio']['median']:.2f} ({one['ratio']['min']:.2f} to {one['ratio']['max']:.2f}), CPU µs a command: "
            + ", ".join(f"{one[f'{whose}_us_per_command']['median']:.2f} {whose.partition('_')[0]}" for whose in CPU)
            + f"; peak {one['peak_bytes'] / 1e6:.0f} MB"
        )
    return lines


if __name__ == "__main__":
    main()
