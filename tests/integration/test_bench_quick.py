"""The benchmarks run, at a size that says nothing about speed, and their results have the figures they promise."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from bench import _common as common
from tests.support.process import ROOT

pytestmark = [pytest.mark.servers, pytest.mark.slow]


def bench(name: str, *arguments: str) -> dict[str, Any]:
    argv = [sys.executable, "-m", f"bench.{name}", "--json", *arguments]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=280, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, Any] = json.loads(done.stdout)
    assert found["environment"]["framing"] in ("plain", "compiled")
    return found


def test_catchup() -> None:
    found = bench("catchup", "--commands", "20000", "--keys", "5000", "--rounds", "2", "--samples", "20")
    assert found["ratio"]["min"] > 0
    assert found["canal_cpu_us_per_command"]["median"] >= 0
    assert len(found["rounds"]["canal"]) == 2
    assert found["keys_compared"] == 5001 + 40  # the load, its token, and the latency samples
    assert found["status"]["full_resyncs"] == 1
    assert {"p50", "p99"} <= set(found["latency_ms"]["native"])


def test_catchup_with_deadlines() -> None:
    found = bench("catchup_ttl", "--commands", "12000", "--keys", "6000", "--rounds", "1")
    assert found["ratio"]["min"] > 0
    assert found["keys_compared"] == 6001  # the load and its token
    assert found["status"]["full_resyncs"] == 1


def test_snapshot() -> None:
    found = bench("snapshot", "--scale", "0.002", "--rounds", "1")
    assert {"small_strings", "hashes", "zset", "mixed"} <= set(found)
    assert found["small_strings"]["keys"] == 786
    assert found["zset"]["peak_bytes"] > 1_000_000


def test_journal(tmp_path: Any) -> None:
    found = bench("journal", "--megabytes", "8", "--directory", str(tmp_path))
    for mode in ("no", "everysec", "always"):
        assert found[mode]["read_bytes_per_second"] > 0


def test_latency() -> None:
    found = bench("latency", "--samples", "20")
    assert 0 < found["latency_ms"]["canal"]["p50"] <= found["latency_ms"]["canal"]["p99"]


def test_blocks_hold_every_command_once() -> None:
    blocks = common.set_blocks(25_000, 10_000, 64)
    data = b"".join(blocks)
    assert len(blocks) == 3
    assert data.count(b"*3\r\n$3\r\nSET\r\n") == 25_000
    names = {part[:11] for part in data.split(b"$11\r\n")[1:]}
    assert len(names) == 10_000


def test_percentiles_and_spread() -> None:
    values = [float(number) for number in range(1, 101)]
    assert common.percentiles(values) == {"p50": 50.0, "p99": 99.0}
    assert common.percentiles([7.0]) == {"p50": 7.0, "p99": 7.0}
    assert common.spread([3.0, 1.0, 2.0]) == {"median": 2.0, "min": 1.0, "max": 3.0}


def test_mixed() -> None:
    found = bench("mixed", "--only", "hot-compact", "--only", "transactions", "--commands", "5000", "--rounds", "1")
    assert found["hot-compact"]["left_out"] > 1000
    assert found["transactions"]["keys_compared"] > 1000


def test_two_way() -> None:
    found = bench("two_way", "--commands", "5000", "--rounds", "1", "--samples", "5")
    assert found["ratio"]["min"] > 0
    assert found["keys_compared"] == 2 * 2500 + 1 + 2 + 2 * 5  # the loads, their tokens, and the latency samples
    assert min(found["loops_dropped"]) > 0


def test_wan() -> None:
    found = bench("wan", "--commands", "5000", "--rounds", "1", "--rtt", "10")["10 ms"]
    assert found["writer"] == "guarded"
    assert found["idle_ms"]["canal"] > 4
    assert found["keys_compared"] == 2501
