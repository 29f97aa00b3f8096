"""The journal alone: append rate per fsync mode, the longest wait of an append, and the rate of reading back.

Chunks of 64 KiB, as they come from a busy source; appending yields while more than the high-water mark waits to be
written, as the capture does. A run that only writes the same bytes to a plain file gives the disk's own pace.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any, cast

from bench import _common as common
from canal.journal.journal import Journal
from canal.journal.writer import Fsync
from canal.position import Position

CHUNK = 64 * 1024
MODES: tuple[Fsync, ...] = ("no", "everysec", "always")


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument("--megabytes", type=int, default=2048, help="bytes per run (default: 2 GiB)")
    parser.add_argument("--directory", type=Path, help="where to write (default: a temporary directory)")
    parser.add_argument("--quick", action="store_true", help="128 MiB")
    given = parser.parse_args()
    chunks = (128 if given.quick else given.megabytes) * (1 << 20) // CHUNK
    with common.workshop(given.server) as shop:
        place = given.directory or shop.directory
        result: dict[str, Any] = {"environment": common.environment(shop.binary), "bytes": chunks * CHUNK}
        result["plain_file_bytes_per_second"] = plain_file(place / "plain", chunks)
        for mode in MODES:
            result[mode] = one(place / f"journal-{mode}", mode, chunks)
            common.say(f"fsync {mode}: done")
    common.finish("journal", result, summary(result), given.json)


def plain_file(path: Path, chunks: int) -> float:
    """Bytes per second of writing and one fsync."""
    data = os.urandom(CHUNK)
    began = time.monotonic()
    with path.open("wb", buffering=0) as file:
        for _ in range(chunks):
            file.write(data)
        os.fsync(file.fileno())
    seconds = time.monotonic() - began
    path.unlink()
    return chunks * CHUNK / seconds


def one(directory: Path, mode: Fsync, chunks: int) -> dict[str, float]:
    """Append, flush, read back."""
    journal = Journal(directory, fsync=mode)
    journal.open()
    journal.reset(Position("a" * 40, 0))
    data = os.urandom(CHUNK)
    longest = 0.0
    cpu, began = time.process_time(), time.monotonic()
    for _ in range(chunks):
        while journal.pending_bytes > journal.high_water_bytes:
            time.sleep(0.0005)
        before = time.perf_counter()
        journal.append(data, int(time.time() * 1000))
        longest = max(longest, time.perf_counter() - before)
    journal.flush(600)
    seconds, cpu = time.monotonic() - began, time.process_time() - cpu
    figures = {
        "append_bytes_per_second": chunks * CHUNK / seconds,
        "append_longest_ms": longest * 1000,
        "cpu_ns_per_byte": cpu * 1e9 / (chunks * CHUNK),
        "fsyncs": float(journal.syncs.count),
        "read_bytes_per_second": read_back(journal, chunks * CHUNK),
    }
    journal.close()
    return figures


def read_back(journal: Journal, total: int) -> float:
    """Bytes per second, checksums included; the pages are still in the system's cache."""
    cursor = journal.cursor()
    offset = 0
    began = time.monotonic()
    while offset < total:
        for chunk in cursor.read(offset, 1 << 20):
            offset = chunk.end
    cursor.forget()
    return total / (time.monotonic() - began)


def summary(result: dict[str, Any]) -> list[str]:
    """For people."""
    lines = [f"plain file  {result['plain_file_bytes_per_second'] / 1e6:.0f} MB/s"]
    for mode in MODES:
        one = cast(dict[str, float], result[mode])
        lines.append(
            f"{mode:<10}  append {one['append_bytes_per_second'] / 1e6:.0f} MB/s, longest "
            f"{one['append_longest_ms']:.2f} ms, {one['cpu_ns_per_byte']:.2f} ns CPU a byte, "
            f"{one['fsyncs']:.0f} fsyncs; read back {one['read_bytes_per_second'] / 1e6:.0f} MB/s"
        )
    return lines


if __name__ == "__main__":
    main()
