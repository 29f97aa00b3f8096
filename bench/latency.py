"""Idle latency: one write at a time, native replica and redis-canal in turns; p50, p99.

The clock runs from before the SET is sent to the source until the target's keyspace notification of it is here.
"""

from __future__ import annotations

from typing import Any

from bench import _common as common
from bench._latency import idle_latency


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument("--samples", type=int, default=2000, help="writes per consumer (default: 2000)")
    parser.add_argument("--quick", action="store_true", help="200 samples")
    given = parser.parse_args()
    with common.workshop(given.server) as shop:
        source, replica, target = shop.server("source"), shop.server("replica"), shop.server("target")
        replica.replicate(source)
        daemon = shop.daemon(source, target)
        daemon.wait_streaming()
        samples = 200 if given.quick else given.samples
        latency = idle_latency(source, {"native": replica, "canal": target}, samples)
        result: dict[str, Any] = {
            "environment": common.environment(shop.binary),
            "latency_ms": latency,
            "samples": samples,
            "memory_bytes": common.memory_bytes(daemon.process),
        }
    lines = [f"{name:<8} p50 {one['p50']:.2f} ms, p99 {one['p99']:.2f} ms" for name, one in latency.items()]
    common.finish("latency", result, lines, given.json)


if __name__ == "__main__":
    main()
