"""A cluster far away: a proxy in front of each of its nodes, and the address map that leads through them.

with Doors(cluster) as far:
    LinkProcess(source, far, directory, *far.map("target"))
    far.delay(0.1, "to_server")
    far.cut()
"""

from __future__ import annotations

from contextlib import ExitStack
from types import TracebackType
from typing import Self

from tests.support.cluster import Cluster
from tests.support.proxy import Direction, Proxy


class Doors:
    """See the top of this file. ``gates``: the proxies, in the order of the cluster's nodes."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.gates: list[Proxy] = []
        self._stack = ExitStack()

    @property
    def url(self) -> str:
        return "redis+cluster://" + ",".join(f"127.0.0.1:{gate.port}" for gate in self.gates)

    def map(self, side: str) -> list[str]:
        """The options of `redis-canal run` for this cluster as ``source`` or ``target``."""
        pairs = zip(self.cluster.nodes, self.gates, strict=True)
        words = [f"127.0.0.1:{node.port}=127.0.0.1:{gate.port}" for node, gate in pairs]
        return [part for word in words for part in (f"--{side}-address-map", word)]

    def delay(self, seconds: float, direction: Direction = "both") -> None:
        for gate in self.gates:
            gate.delay(seconds, direction)

    def cut(self) -> None:
        for gate in self.gates:
            gate.cut()

    def __enter__(self) -> Self:
        self.gates = [self._stack.enter_context(Proxy(node.address)) for node in self.cluster.nodes]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)
