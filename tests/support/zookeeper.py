"""Real ZooKeeper servers for tests: one alone, or an ensemble. From the Debian package `zookeeper`.

    with ZooKeeper.start() as one:
        KazooClient(hosts=one.hosts)
    with Ensemble.start(3) as three:
        three.servers[0].kill()

tickTime is 200 ms, so that session timeouts from 400 ms on can be asked for.
"""

from __future__ import annotations

import re
import shutil
import signal
import socket
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.process import ReservedPort, end, spawn, wait_until

TICK_MS = 200
_JAR = Path("/usr/share/java/zookeeper.jar")
_MAIN = "org.apache.zookeeper.server.quorum.QuorumPeerMain"  # stands alone too, when the configuration names no peers


class ZooKeeperMissing(Exception):
    """There is no ZooKeeper (or Java) on this machine; the message says how to get it."""


class ZooKeeper:
    """One ZooKeeper server process, alone or as a member of an ensemble."""

    def __init__(self, directory: Path, *, owns_directory: bool, number: int = 1) -> None:
        if not _JAR.exists() or shutil.which("java") is None:
            raise ZooKeeperMissing("no ZooKeeper here; get it with: apt-get install zookeeper (Debian 12)")
        self.directory = directory
        self.number = number
        self.process: subprocess.Popen[bytes] | None = None
        self.client_port = ReservedPort()
        self.peer_ports = (ReservedPort(), ReservedPort())
        self._owns_directory = owns_directory

    @classmethod
    def start(cls, directory: Path | None = None) -> Self:
        """One server alone, started and answering."""
        where = directory or Path(tempfile.mkdtemp(prefix="canal-zk-"))
        server = cls(where, owns_directory=directory is None)
        server.configure([])
        try:
            server.run()
            server.wait_ready()
        except BaseException:
            server.close()
            raise
        return server

    @property
    def port(self) -> int:
        return self.client_port.number

    @property
    def hosts(self) -> str:
        """What kazoo takes as `hosts`."""
        return f"127.0.0.1:{self.port}"

    def configure(self, members: list[ZooKeeper]) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        lines = [
            f"tickTime={TICK_MS}",
            "maxSessionTimeout=60000",
            "initLimit=50",
            "syncLimit=10",
            f"dataDir={self.directory / 'data'}",
            "clientPortAddress=127.0.0.1",
            f"clientPort={self.port}",
            "maxClientCnxns=0",
            "admin.enableServer=false",
            "4lw.commands.whitelist=*",
        ]
        lines += [f"server.{m.number}=127.0.0.1:{m.peer_ports[0].number}:{m.peer_ports[1].number}" for m in members]
        (self.directory / "data").mkdir(exist_ok=True)
        (self.directory / "data" / "myid").write_text(f"{self.number}\n")
        (self.directory / "zoo.cfg").write_text("\n".join(lines) + "\n")

    def run(self) -> None:
        """Start the process, without waiting."""
        classes = f"{self.directory}:{_JAR}"  # no logging configuration in there: it says little, to the log file
        command = ["java", "-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp", classes]
        command += ["-Dzookeeper.forceSync=no", _MAIN, str(self.directory / "zoo.cfg")]
        with (self.directory / "log").open("ab") as log:
            self.process = spawn(command, stdout=log, stderr=log, cwd=self.directory)

    def wait_ready(self, timeout: float = 30.0) -> None:
        wait_until(self.serving, timeout, f"ZooKeeper on port {self.port} serves")

    def serving(self) -> bool:
        """Whether it serves clients: alone, or as leader or follower of a quorum."""
        if self.process is None or self.process.poll() is not None:
            log = (self.directory / "log").read_text(errors="replace")
            raise RuntimeError(f"ZooKeeper ended while starting:\n{log[-2000:]}")
        return self.mode() in {"standalone", "leader", "follower"}

    def mode(self) -> str:
        """standalone, leader or follower; empty while it does not serve."""
        match = re.search(r"^Mode: (\w+)", self.ask("srvr"), re.MULTILINE)
        return match[1] if match else ""

    def ask(self, word: str) -> str:
        """The answer to a four-letter word; empty when nobody answers."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=2) as link:
                link.sendall(word.encode())
                answer = b""
                while part := link.recv(65536):
                    answer += part
        except OSError:
            return ""
        return answer.decode()

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(30)

    def kill(self) -> None:
        """kill -9 and reap."""
        if self.process is not None:
            end(self.process)

    def pause(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def restart(self) -> None:
        """Start it again on the same port and data, after `stop` or `kill`, and wait until it serves."""
        self.stop()
        self.run()
        self.wait_ready()

    def close(self) -> None:
        self.kill()
        for port in (self.client_port, *self.peer_ports):
            port.release()
        if self._owns_directory:
            shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Ensemble:
    """Several ZooKeeper servers with one quorum."""

    def __init__(self, servers: list[ZooKeeper]) -> None:
        self.servers = servers

    @classmethod
    def start(cls, count: int = 3, directory: Path | None = None) -> Self:
        servers = []
        for number in range(1, count + 1):
            where = directory / f"zk{number}" if directory else Path(tempfile.mkdtemp(prefix="canal-zk-"))
            servers.append(ZooKeeper(where, owns_directory=directory is None, number=number))
        ensemble = cls(servers)
        try:
            for server in servers:
                server.configure(servers)
                server.run()
            for server in servers:
                server.wait_ready()
        except BaseException:
            ensemble.close()
            raise
        return ensemble

    @property
    def hosts(self) -> str:
        return ",".join(server.hosts for server in self.servers)

    @property
    def leader(self) -> ZooKeeper:
        return wait_until(
            lambda: next((s for s in self.servers if s.mode() == "leader"), None), 30, "the ensemble has a leader"
        )

    def close(self) -> None:
        for server in self.servers:
            server.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
