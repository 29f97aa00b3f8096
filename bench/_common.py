"""What the benchmarks share: servers, the daemon under test, load, /proc figures, results. Linux only."""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import http.client
import json
import os
import platform
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from console.cli.about import framing, package_version
from console.demo.servers import find_server, free_ports

T = TypeVar("T")
ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "bench" / "results"
_TICKS = os.sysconf("SC_CLK_TCK")
_prctl = ctypes.CDLL(None, use_errno=True).prctl


def parser(doc: str | None) -> argparse.ArgumentParser:
    """An argument parser with what every benchmark has."""
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--json", action="store_true", help="print the result as JSON only")
    made.add_argument("--server", metavar="PATH", help="server binary (default: redis-server from PATH)")
    return made


def say(text: str) -> None:
    """Progress, on stderr."""
    print(text, file=sys.stderr, flush=True)


def spawn(argv: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
    """Start a process that the kernel kills when we are gone; its output goes to ``log``. It may keep bytecode."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    with log.open("ab") as output:
        return subprocess.Popen(
            list(argv),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=ROOT,
            env=environment,
            preexec_fn=lambda: _prctl(1, int(signal.SIGKILL)),  # PR_SET_PDEATHSIG
        )


def wait_for(condition: Callable[[], T], what: str, timeout_s: float = 120.0, every_s: float = 0.002) -> T:
    """The first true value. RuntimeError that names ``what`` after the time."""
    deadline = time.monotonic() + timeout_s
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise RuntimeError(f"not within {timeout_s:g} s: {what}")
        time.sleep(every_s)
    return value


class Server:
    """One empty server without persistence, tuned so that a stopped consumer is never cut off."""

    def __init__(self, directory: Path, binary: str, name: str, *settings: str) -> None:
        self.name = name
        (self.port,) = free_ports(1)
        place = directory / name
        place.mkdir()
        argv = [binary, "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        argv += ["--dir", str(place), "--repl-diskless-sync-delay", "0", "--repl-timeout", "3600"]
        argv += ["--repl-backlog-size", "1gb", "--client-output-buffer-limit", "replica 0 0 0"]
        argv += ["--proto-max-bulk-len", "512mb", *settings]
        self.process = spawn(argv, place / "log")
        self.client = redis.Redis(
            host="127.0.0.1", port=self.port, socket_timeout=300, retry=Retry(NoBackoff(), 0), protocol=2
        )
        wait_for(self._answers, f"{name} answers", 15)

    def _answers(self) -> bool:
        try:
            return bool(self.client.ping())
        except redis.ConnectionError:
            return False

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    @property
    def offset(self) -> int:
        return int(self.client.info("replication")["master_repl_offset"])

    def replicate(self, source: Server) -> None:
        """Become a native replica and wait until in step."""
        self.client.replicaof("127.0.0.1", source.port)
        wait_for(lambda: self.client.info("replication").get("master_link_status") == "up", f"{self.name} is a replica")


class Reachable(Protocol):
    """A server, or several behind one URL."""

    @property
    def url(self) -> str: ...


class Daemon:
    """``redis-canal run`` over two servers."""

    def __init__(self, directory: Path, source: Server, target: Reachable, *options: str) -> None:
        (self.http_port,) = free_ports(1)
        self.log = directory / "daemon.log"
        self.began = time.time()
        argv = [sys.executable, "-m", "console.cli.main", "run", "--source", source.url, "--target", target.url]
        argv += ["--state-dir", str(directory / "state"), "--http", f"127.0.0.1:{self.http_port}", *options]
        self.process = spawn(argv, self.log)

    def status(self) -> dict[str, Any]:
        """``/status``; empty while it does not answer. RuntimeError when the daemon has ended."""
        if self.process.poll() is not None:
            raise RuntimeError(f"the daemon ended with {self.process.returncode}:\n{self.log.read_text()[-2000:]}")
        connection = http.client.HTTPConnection("127.0.0.1", self.http_port, timeout=30)
        try:
            connection.request("GET", "/status")
            found: dict[str, Any] = json.loads(connection.getresponse().read())
            return found
        except (OSError, http.client.HTTPException):
            return {}
        finally:
            connection.close()

    def wait_streaming(self, timeout_s: float = 300.0) -> None:
        # a page of status takes a millisecond of the daemon's only thread: it is not asked all the time
        wait_for(lambda: self.status().get("state") == "streaming", "the daemon streams", timeout_s, 0.05)

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(60)


@contextlib.contextmanager
def workshop(binary: str | None) -> Iterator[Workshop]:
    """A temporary directory, and servers and daemons in it that end with the block."""
    chosen = binary or find_server()[0]
    with tempfile.TemporaryDirectory(prefix="redis-canal-bench-") as name:
        shop = Workshop(Path(name), chosen)
        try:
            yield shop
        finally:
            for process in shop.processes:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                process.wait()


class Workshop:
    """Makes servers and daemons."""

    def __init__(self, directory: Path, binary: str) -> None:
        self.directory, self.binary = directory, binary
        self.processes: list[subprocess.Popen[bytes]] = []
        self._count = 0

    def server(self, name: str, *settings: str) -> Server:
        made = Server(self.directory, self.binary, name, *settings)
        self.processes.append(made.process)
        return made

    def daemon(self, source: Server, target: Reachable, *options: str) -> Daemon:
        self._count += 1
        place = self.directory / f"daemon{self._count}"
        place.mkdir()
        made = Daemon(place, source, target, *options)
        self.processes.append(made.process)
        return made


def freeze(process: subprocess.Popen[bytes]) -> None:
    """SIGSTOP, and wait until it stands still."""
    os.kill(process.pid, signal.SIGSTOP)
    stat = Path(f"/proc/{process.pid}/stat")
    wait_for(lambda: stat.read_text().rpartition(")")[2].split()[0] == "T", "the process is stopped", 10)


def thaw(process: subprocess.Popen[bytes]) -> None:
    os.kill(process.pid, signal.SIGCONT)


def cpu_seconds(process: subprocess.Popen[bytes]) -> float:
    """User and system time of all threads so far."""
    return cpu_of(process.pid)


def cpu_of(pid: int) -> float:
    """The same by pid (proc(5): utime and stime, fields 14 and 15)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def memory_bytes(process: subprocess.Popen[bytes]) -> dict[str, int]:
    """Resident memory now and at its peak."""
    found = {}
    for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name in ("VmRSS", "VmHWM"):
            found[{"VmRSS": "now", "VmHWM": "peak"}[name]] = int(value.split()[0]) * 1024
    return found


class Loader:
    """Sends prepared commands as fast as the server takes them, without replies."""

    def __init__(self, server: Server) -> None:
        self._socket = socket.create_connection(("127.0.0.1", server.port), timeout=600)

    def send(self, blocks: Sequence[bytes]) -> float:
        """Send, wait until all were carried out; seconds."""
        began = time.monotonic()
        self._socket.sendall(command(b"CLIENT", b"REPLY", b"OFF"))
        for block in blocks:
            self._socket.sendall(block)
        self._socket.sendall(command(b"CLIENT", b"REPLY", b"ON"))
        got = b""
        while not got.endswith(b"+OK\r\n"):
            data = self._socket.recv(65536)
            if not data:
                raise RuntimeError("the source closed the loader's connection")
            got = (got + data)[-16:]
        return time.monotonic() - began

    def close(self) -> None:
        self._socket.close()


def command(*words: bytes) -> bytes:
    """One command in RESP."""
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)


def set_blocks(count: int, keys: int, size: int) -> list[bytes]:
    """``count`` SETs of ``size`` bytes over ``keys`` names, in blocks of ten thousand commands."""
    value = (b"0123456789abcdef" * (size // 16 + 1))[:size]
    tail = b"$%d\r\n%s\r\n" % (size, value)
    step = 7919 if keys % 7919 else 1  # a prime, so that neighbours are not written in order
    blocks = []
    for start in range(0, count, 10_000):
        names = ((number * step) % keys for number in range(start, min(count, start + 10_000)))
        blocks.append(b"".join(b"*3\r\n$3\r\nSET\r\n$11\r\nkey:%07d\r\n%s" % (name, tail) for name in names))
    return blocks


def same_content(left: Server, right: Server) -> int:
    """Compare key by key; the number of keys. RuntimeError when they differ."""
    import asyncio

    from canal.endpoint import parse_url
    from sync.verify import Options, compare

    report = asyncio.run(compare(parse_url(left.url), parse_url(right.url), Options(rounds=5, pause_s=0.5)))
    if not report.equal:
        raise RuntimeError(f"{left.name} and {right.name} differ: {[str(one) for one in report.differences[:5]]}")
    return report.keys


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, least and greatest."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """p50 and p99: the smallest value that so many hundredths of all do not exceed."""
    ordered = sorted(values)
    return {f"p{rank}": ordered[-(-len(ordered) * rank // 100) - 1] for rank in (50, 99)}


def environment(binary: str) -> dict[str, Any]:
    """What the figures belong to."""
    version = subprocess.run([binary, "--version"], capture_output=True, text=True, check=True).stdout.split()
    number = next((word.removeprefix("v=") for word in version if word.startswith("v=")), "?")
    return {
        "server": f"{version[0]} {number}",
        "python": platform.python_version(),
        "canal": package_version(),
        "framing": framing(),
        "cores": os.cpu_count(),
        "load_before": round(os.getloadavg()[0], 2),
    }


def finish(name: str, result: dict[str, Any], lines: Sequence[str], as_json: bool) -> None:
    """Print the result as JSON, or in words and keep the JSON as bench/results/<name>.json (git ignores it)."""
    text = json.dumps(result, indent=2)
    if as_json:
        print(text)
        return
    print("\n".join(lines))
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(text + "\n")
