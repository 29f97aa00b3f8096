"""Real Sentinels around a master and its replicas, for failover tests.

    with SentinelGroup.start(replicas=1) as group:
        group.url                          # redis+sentinel://127.0.0.1:…,…/canal
        group.master                       # the server that the Sentinels name now
        group.failover()                   # in order (SENTINEL FAILOVER); returns the new master
        group.crash()                      # kill -9 of the master; returns the new one
        group.revive()                     # servers that were killed come back, as replicas

All servers and Sentinels are of one version; Valkey's binary runs as a Sentinel as Redis's does. All calls block.
"""

from __future__ import annotations

import functools
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.support.certificates import Certificates
from tests.support.process import ReservedPort, end, spawn, wait_until
from tests.support.servers import DEFAULT_VERSION, Server, locate

NAME = "canal"


class Sentinel:
    """One Sentinel process. `config` are lines of its configuration, which it rewrites itself."""

    def __init__(
        self, version: str, directory: Path, config: str, password: str | None, tls: Certificates | None = None
    ) -> None:
        self.directory = directory
        self.binary = locate(version)
        self.password = password
        self.tls = tls
        self._reserved = ReservedPort()
        directory.mkdir()
        (directory / "sentinel.conf").write_text(config.replace("{port}", str(self.port)))
        self.run()

    @property
    def port(self) -> int:
        return self._reserved.number

    def run(self) -> None:
        with (self.directory / "log").open("ab") as log:
            self.process = spawn(
                [self.binary, self.directory / "sentinel.conf", "--sentinel"],
                stdout=log,
                stderr=log,
                cwd=self.directory,
            )
        wait_until(self._answers, 30, f"the Sentinel on port {self.port} answers")

    @functools.cached_property
    def client(self) -> redis.Redis:
        return redis.Redis(
            port=self.port,
            password=self.password,
            ssl=self.tls is not None,
            ssl_ca_certs=str(self.tls.ca) if self.tls else None,
            retry=Retry(NoBackoff(), 0),
            socket_timeout=10,
            protocol=2,
        )

    def ask(self, *words: Any) -> Any:
        return self.client.execute_command("SENTINEL", *words)  # type: ignore[no-untyped-call]

    def log(self) -> str:
        return (self.directory / "log").read_text(errors="replace")

    def kill(self) -> None:
        end(self.process)

    def close(self) -> None:
        self.client.close()
        self.kill()
        self._reserved.release()

    def _answers(self) -> bool:
        if self.process.poll() is not None:
            raise RuntimeError(f"a Sentinel ended with {self.process.returncode}:\n{self.log()[-2000:]}")
        try:
            return bool(self.client.ping())
        except (redis.ConnectionError, redis.TimeoutError):
            return False


def _secure(tls: Certificates) -> list[str]:
    return [
        "port 0",
        "tls-port {port}",
        f"tls-cert-file {tls.server_cert}",
        f"tls-key-file {tls.server_key}",
        f"tls-ca-cert-file {tls.ca}",
        "tls-auth-clients optional",
        "tls-replication yes",
    ]


def _public(server: Server) -> int:
    """The port that Sentinels and replicas know it by."""
    return server.tls_port or server.port


def _replication(server: Server) -> dict[str, Any]:
    """INFO replication; empty while the server cannot be asked (a Sentinel that turns one cuts its clients off)."""
    try:
        return server.info("replication")
    except (redis.ConnectionError, redis.TimeoutError):
        return {}


class SentinelGroup:
    """See the top of this file."""

    def __init__(self, servers: list[Server], sentinels: list[Sentinel], directory: Path) -> None:
        self.servers = servers
        self.sentinels = sentinels
        self._directory = directory

    @classmethod
    def start(
        cls,
        version: str = DEFAULT_VERSION,
        *,
        replicas: int = 1,
        sentinels: int = 3,
        down_after_ms: int = 1000,
        password: str | None = None,
        sentinel_password: str | None = None,
        tls: Certificates | None = None,
        more_lines: Sequence[str] = (),
        **settings: Any,
    ) -> Self:
        """Start all of it and wait until the Sentinels know one another and every replica is in step.

        With `tls` (7.0) Sentinels and replicas speak nothing else, and name the master's TLS port. `more_lines` are
        added to the Sentinels' configuration.
        """
        directory = Path(tempfile.mkdtemp(prefix="sentinels-"))
        secrets: dict[str, Any] = {"requirepass": password, "masterauth": password} if password else {}
        if tls is not None:
            secrets["tls_replication"] = "yes"
        group = cls([], [], directory)
        try:
            for _ in range(1 + replicas):
                group.servers.append(Server.start(version, tls=tls, **secrets, **settings))
            master = group.servers[0]
            for replica in group.servers[1:]:
                replica.control.replicaof("127.0.0.1", str(_public(master)))
            lines = [
                "bind 127.0.0.1",
                *(_secure(tls) if tls else ["port {port}"]),
                f"sentinel monitor {NAME} 127.0.0.1 {_public(master)} {sentinels // 2 + 1}",
                f"sentinel down-after-milliseconds {NAME} {down_after_ms}",
                f"sentinel failover-timeout {NAME} 5000",
                f"sentinel parallel-syncs {NAME} 5",
                *more_lines,
                *([f"sentinel auth-pass {NAME} {password}"] if password else []),
                *(
                    [f"requirepass {sentinel_password}", "sentinel sentinel-pass " + sentinel_password]
                    if sentinel_password and group.servers[0].at_least((6, 2))
                    else []
                ),
            ]
            for number in range(sentinels):
                text = "\n".join([*lines, f"dir {directory / str(number)}"]) + "\n"
                group.sentinels.append(Sentinel(version, directory / str(number), text, sentinel_password, tls))
            wait_until(group._complete, 60, "the Sentinels know one another and the replicas")
        except BaseException:
            group.close()
            raise
        return group

    @property
    def url(self) -> str:
        """As a user would write it, with the data servers' password."""
        secret = self.servers[0].password
        user = f":{quote(secret, safe='')}@" if secret else ""
        scheme = "rediss" if self.servers[0].tls else "redis"
        return f"{scheme}+sentinel://{user}{','.join(f'127.0.0.1:{one.port}' for one in self.sentinels)}/{NAME}"

    @property
    def master(self) -> Server:
        """The server that most Sentinels name."""
        votes = [self._named(one) for one in self.sentinels if one.process.poll() is None]
        port = max(set(votes), key=votes.count)
        found = [server for server in self.servers if port == _public(server)]
        assert found, f"the Sentinels name {votes}, the servers are {self.servers} {[_public(s) for s in self.servers]}"
        return found[0]

    def failover(self) -> Server:
        """Ask for one, in order; returns the new master."""
        old = self.master
        wait_until(lambda: self._accepted(self.sentinels[0]), 60, "SENTINEL FAILOVER is accepted")
        return self._moved_from(old)

    def crash(self) -> Server:
        """kill -9 of the master; returns the new one."""
        old = self.master
        old.kill()
        return self._moved_from(old)

    def revive(self) -> None:
        """Start what was killed; the Sentinels make replicas of it."""
        for server in self.servers:
            if not server.running:
                server.run()
        self.settle()

    def settle(self) -> None:
        """Wait until all Sentinels name the same master and all other servers follow it."""
        wait_until(self._complete, 60, "every replica follows the master")

    def _moved_from(self, old: Server) -> Server:
        def moved() -> Server | None:
            names = {self._named(one) for one in self.sentinels if one.process.poll() is None}
            if len(names) != 1 or _public(old) in names:
                return None
            found = next(server for server in self.servers if _public(server) in names)
            return found if _replication(found).get("role") == "master" else None

        return wait_until(moved, 90, "the failover is over")

    @staticmethod
    def _named(sentinel: Sentinel) -> int:
        return int(sentinel.ask("GET-MASTER-ADDR-BY-NAME", NAME)[1])

    @staticmethod
    def _accepted(sentinel: Sentinel) -> bool:
        try:
            return bool(sentinel.ask("FAILOVER", NAME))
        except redis.ResponseError as error:  # one is under way, or no replica is good enough yet
            if str(error).startswith(("INPROG", "NOGOODSLAVE")):
                return False
            raise

    def _complete(self) -> bool:
        master = self.master
        for sentinel in self.sentinels:
            if (
                self._named(sentinel) != _public(master)
                or len(sentinel.ask("SENTINELS", NAME)) < len(self.sentinels) - 1
            ):
                return False
            if len(sentinel.ask("REPLICAS", NAME)) < len(self.servers) - 1:
                return False
        for server in self.servers:
            info = _replication(server)
            wanted = {"role": "slave", "master_link_status": "up", "master_port": _public(master)}
            if server is not master and any(info.get(name) != value for name, value in wanted.items()):
                return False
        return True

    def close(self) -> None:
        for sentinel in self.sentinels:
            sentinel.close()
        for server in self.servers:
            server.close()
        shutil.rmtree(self._directory, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
