"""Many links in one daemon: a node with 100 tasks. Time to stream, throughput of all, memory, CPU at rest.

Ten sources, ten targets, a task for each pair; every source has keys of its own, so that each target ends as the union
of all. At rest the CPU of the node's processes is taken over some seconds. Then all sources are written to at once, and
the time until every task has applied everything is taken. No native counterpart: a replica has one master. A reference
server gets the same commands; all targets are compared with it.
"""

from __future__ import annotations

import json
import math
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

from bench import _common as common
from node.coordination.coordinator import Coordinator
from node.coordination.embedded import EmbeddedStore


class Node:
    """`node start` over a SQLite file that holds the tasks already."""

    def __init__(self, shop: common.Workshop, pairs: list[tuple[common.Server, common.Server]]) -> None:
        place = shop.directory / "node"
        place.mkdir()
        file = place / "coordination.db"
        coordinator = Coordinator(EmbeddedStore(file))
        coordinator.store.start()
        for number, (source, target) in enumerate(pairs):
            ends = {
                "source": {"datacenter": "here", "url": source.url},
                "target": {"datacenter": "there", "url": target.url},
            }
            name = f"task-{number:03d}"
            coordinator.tasks.create(name, {"task": name, **ends}, desired="running", shards=("0",))
        coordinator.store.close()
        (self.port,) = common.free_ports(1)
        config = place / "node.yaml"
        config.write_text(
            f"node: n\ndatacenter: here\ncoordination: {{embedded: {{path: {file}}}}}\nstate_dir: {place}\n"
            f'http: {{listen: "127.0.0.1:{self.port}"}}\nmax_shards: {len(pairs)}\n'
        )
        argv = [sys.executable, "-m", "console.cli.main", "node", "start", "-c", str(config)]
        self.process = common.spawn(argv, place / "log")
        shop.processes.append(self.process)

    def links(self) -> list[dict[str, Any]]:
        """The shards of /status."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/status", timeout=30) as answer:
                found: list[dict[str, Any]] = json.loads(answer.read())["shards"]
                return found
        except OSError:
            return []

    def family(self) -> list[int]:
        """The daemon, the parent of its workers, the workers."""
        found = [self.process.pid]
        for pid in found:
            for task in Path(f"/proc/{pid}/task").iterdir():
                found += [int(child) for child in (task / "children").read_text().split()]
        return found

    def cpu(self) -> float:
        return sum(common.cpu_of(pid) for pid in self.family())

    def memory(self) -> dict[str, int]:
        """Bytes, shared pages counted by their share (PSS): of the daemon, of all workers with their parent."""
        shares = [pss(pid) for pid in self.family()]
        return {"daemon": shares[0], "workers": sum(shares[1:]), "all": sum(shares)}


def pss(pid: int) -> int:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return 0


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument("--links", type=int, default=100, help="tasks, a square number (default: 100)")
    parser.add_argument("--commands", type=int, default=100_000, help="SETs written to each source (default: 100k)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of writing (default: 3)")
    parser.add_argument("--rest", type=float, default=20.0, help="seconds of rest that are measured (default: 20)")
    parser.add_argument("--quick", action="store_true", help="9 links, 10k commands, one round, 5 s of rest")
    given = parser.parse_args()
    if given.quick:
        given.links, given.commands, given.rounds, given.rest = 9, 10_000, 1, 5.0
    with common.workshop(given.server) as shop:
        result = {"environment": common.environment(shop.binary), **measure(shop, given)}
    common.finish("many", result, summary(result), given.json)


def measure(shop: common.Workshop, given: Any) -> dict[str, Any]:
    side = math.isqrt(given.links)
    sources = [shop.server(f"source{n}", "--databases", "1") for n in range(side)]
    targets = [shop.server(f"target{n}", "--databases", "1") for n in range(side)]
    reference = shop.server("reference", "--databases", "1")
    began = time.monotonic()
    node = Node(shop, [(source, target) for source in sources for target in targets])
    links = side * side
    common.wait_for(lambda: streaming(node) == links, f"{links} links stream", 600, 0.5)
    result: dict[str, Any] = {"links": links, "start_seconds": time.monotonic() - began, "start_cpu_s": node.cpu()}
    time.sleep(3)
    cpu, began = node.cpu(), time.monotonic()
    time.sleep(given.rest)
    result["rest_cpu"] = (node.cpu() - cpu) / (time.monotonic() - began)
    result["rest_memory"] = node.memory()
    result["rounds"] = []
    blocks = [blocks_of(number, given.commands) for number in range(side)]
    for _ in range(given.rounds):
        result["rounds"].append(one_round(node, sources, blocks, given.commands * links))
        for each in blocks:
            common.Loader(reference).send(each)
    result["memory"] = node.memory()
    counts = [common.same_content(reference, target) for target in targets]
    result["keys"] = counts[0]
    return result


def streaming(node: Node) -> int:
    return sum(link["link_state"] == "streaming" for link in node.links())


def one_round(node: Node, sources: list[common.Server], blocks: list[list[bytes]], commands: int) -> dict[str, float]:
    """Write to all sources, a block each in turn, until all links have applied all."""
    cpu, began = node.cpu(), time.monotonic()
    loaders = [common.Loader(source) for source in sources]
    for turn in zip(*blocks, strict=True):
        for loader, block in zip(loaders, turn, strict=True):
            loader.send([block])
    for loader in loaders:
        loader.close()
    ends = [source.offset for source in sources]
    names = [f"task-{number:03d}" for number in range(len(sources) ** 2)]
    wanted = {name: ends[number // len(sources)] for number, name in enumerate(names)}

    def applied() -> bool:
        links = node.links()
        return len(links) == len(names) and all(link["applied_offset"] >= wanted[link["task"]] for link in links)

    common.wait_for(applied, "all links have applied all", 600, 0.25)
    seconds = time.monotonic() - began
    return {"commands": commands, "seconds": seconds, "cpu_us": 1e6 * (node.cpu() - cpu) / commands}


def blocks_of(number: int, commands: int) -> list[bytes]:
    """SETs of 64 bytes over half as many keys, which are those of this source alone."""
    value = (b"%d" % number) * 64
    each = max(1, commands // 2)
    words = [common.command(b"SET", b"s%d:%07d" % (number, n * 7919 % each), value[:64]) for n in range(commands)]
    return [b"".join(words[at : at + 2000]) for at in range(0, commands, 2000)]


def summary(result: dict[str, Any]) -> list[str]:
    """For people."""
    rest, memory, links = result["rest_memory"], result["memory"], result["links"]
    rate = common.spread([one["commands"] / one["seconds"] for one in result["rounds"]])
    cpu = common.spread([one["cpu_us"] for one in result["rounds"]])
    words = result["environment"]
    return [
        f"{words['server']}, Python {words['python']}, {words['cores']} cores, load before {words['load_before']}",
        f"{links} links stream after {result['start_seconds']:.1f} s and {result['start_cpu_s']:.1f} s of CPU",
        f"at rest: {100 * result['rest_cpu']:.0f}% of a core for all, {rest['all'] / 1e6:.0f} MB "
        f"({rest['daemon'] / 1e6:.0f} the daemon, {rest['workers'] / links / 1e6:.1f} a worker)",
        f"all at once: {rate['median'] / 1000:.0f} k commands/s "
        f"({rate['min'] / 1000:.0f} to {rate['max'] / 1000:.0f}), "
        f"{cpu['median']:.2f} µs of CPU a command; "
        f"{memory['all'] / 1e6:.0f} MB ({memory['workers'] / links / 1e6:.1f} a worker)",
        f"{result['keys']:,} keys compared on each target: equal",
    ]


if __name__ == "__main__":
    main()
