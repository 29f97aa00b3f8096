"""Clusters and Sentinels over TLS, by users of the manual's rules; names, mapped addresses, and what is refused."""

from __future__ import annotations

import asyncio
import re
import socket
import subprocess
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from canal.control import control
from canal.endpoint import Endpoint, TlsOptions, parse_url
from canal.errors import PeerError
from canal.located import answer
from canal.url import parse_address_map
from sync.target.connection import connect
from tests.conftest import StartServer
from tests.integration.test_least_privilege import MANUAL, By, nothing_refused
from tests.support.certificates import Certificates, make_certificates
from tests.support.cluster import Cluster
from tests.support.links import RUN, LinkProcess, Reachable
from tests.support.process import ROOT, wait_until
from tests.support.proxy import Proxy
from tests.support.sentinel import NAME, SentinelGroup
from tests.support.servers import Server

pytestmark = [pytest.mark.servers, pytest.mark.slow]

KEYS = 300
SIDES = ("source", "target")
SOURCE_RULES = ("at the source", "beside these, at every node of a source cluster")
FAILING_OVER = ("at the source", "beside these, at a source behind Sentinels")


@dataclass
class At:
    """What is reached by this URL."""

    url: str


def first_of(cluster: Cluster, there: Reachable | None = None) -> At:
    """Only the first node is named: what the cluster announces has to lead to the others."""
    return At((there or cluster).url.partition(",")[0])


def files(side: str, certificates: Certificates, *, client: bool = False) -> list[str]:
    given = {"ca": certificates.ca}
    if client:
        given |= {"cert": certificates.client_cert, "key": certificates.client_key}
    return [word for name, path in given.items() for word in (f"--{side}-{name}", str(path))]


def command(name: str, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*RUN[:-1], name, *words], capture_output=True, text=True, timeout=60, cwd=ROOT)


def run_once(directory: Path, side: str, url: str, other: Server, *words: str) -> str:
    """`run` that cannot begin: its only error."""
    (away,) = {*SIDES} - {side}
    ends = (f"--{side}", url, f"--{away}", other.url, "--state-dir", str(directory / "refused"))
    done = command("run", *ends, *words)
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("redis-canal: ")]
    assert done.returncode == 4 and "Traceback" not in done.stderr, done.stderr
    return line


def test_mutual_tls_between_clusters(certificates: Certificates, tmp_path: Path) -> None:
    """No node has a port without TLS, and each wants a certificate. Slots move on both sides, to a new node, too."""
    closed = {"port": 0, "tls_auth_clients": "yes"}
    with (
        Cluster.start(2, tls=certificates, **closed) as source,
        Cluster.start(2, tls=certificates, **closed, cluster_preferred_endpoint_type="hostname") as target,
    ):
        joined = target.add_node()
        for number in range(KEYS):
            source.ask("SET", f"k{number}", number)
        here, there = By(source, "s", *SOURCE_RULES), By(target, "t", "at the target")
        trust = [word for side in SIDES for word in files(side, certificates, client=True)]

        def same(added: int, link: LinkProcess) -> bool:
            assert link.running, link.log[-3000:]
            return all(target.ask("GET", f"k{number}") == b"%d" % (number + added) for number in range(KEYS))

        with LinkProcess(first_of(source, here), first_of(target, there), tmp_path, *trust) as link:
            wait_until(lambda: same(0, link), 60, "the snapshot")
            source.move_slots(source.masters[0].serves()[:50], source.masters[1])
            target.move_slots(target.masters[0].serves()[:200], joined)
            for number in range(KEYS):
                source.ask("INCR", f"k{number}")
            wait_until(lambda: same(1, link), 60, "the stream")
            assert "error" not in link.log.lower(), link.log
        ends = []
        for side, there, rules in (("source", source, SOURCE_RULES), ("target", target, ("at the target",))):
            looking = By(
                there, side[0], *rules, "beside these, for verify", "beside these, for what `redis-canal doctor`"
            )
            ends += [f"--{side}", first_of(there, looking).url]
        for name in ("verify", "doctor"):
            done = command(name, *ends, *trust)
            assert done.returncode == 0 and "missing" not in done.stdout, done.stdout + done.stderr
        nothing_refused(source, target)


async def asked(endpoint: Endpoint) -> None:
    await answer(endpoint, b"PING")


async def connected(endpoint: Endpoint) -> None:
    conn = await connect(endpoint)
    try:
        await conn.call(b"PING")
    finally:
        conn.close()


@pytest.mark.parametrize("ways", [asked, connected])
async def test_a_client_certificate_that_is_missing_or_unknown_is_said_so(
    certificates: Certificates, redis_server: StartServer, tmp_path: Path, ways: Callable[[Endpoint], Awaitable[None]]
) -> None:
    """The server says so after the handshake, or hangs up so fast that it can only be guessed."""
    server = redis_server(tls=certificates, tls_auth_clients="yes")
    foreign = make_certificates(tmp_path / "foreign")
    ca, cert, key = str(certificates.ca), str(foreign.client_cert), str(foreign.client_key)
    with pytest.raises(PeerError, match=r"server (may want|wants) a client certificate"):
        await ways(parse_url(server.tls_url, tls=TlsOptions(ca)))
    with pytest.raises(PeerError, match=r"server (may|does) not accept the client certificate"):
        await ways(parse_url(server.tls_url, tls=TlsOptions(ca, cert, key)))
    cert, key = str(certificates.client_cert), str(certificates.client_key)
    await ways(parse_url(server.tls_url, tls=TlsOptions(ca, cert, key)))


@pytest.fixture
def listener() -> Iterator[tuple[int, list[bytes]]]:
    """A port where something listens that speaks no TLS, and what it was told."""
    told: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    accepted, _ = server.accept()
                except OSError:
                    return
                with accepted:
                    told.append(accepted.recv(65536))
                    accepted.sendall(b"-ERR unknown command\r\n")

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield server.getsockname()[1], told
        server.shutdown(socket.SHUT_RDWR)
    thread.join(10)


def test_what_cannot_be_trusted_is_told_nothing(
    certificates: Certificates, redis_server: StartServer, tmp_path: Path, listener: tuple[int, list[bytes]]
) -> None:
    """One error, whoever of a cluster it is: the node that the URL names, or one that is announced."""
    port, told = listener
    other = redis_server()
    named = certificates.with_names("DNS:localhost")

    def refused(side: str, url: str, *words: str) -> str:
        line = run_once(tmp_path, side, url.replace("://", "://canal:hush@"), other, *words)
        assert "hush" not in line
        return line

    with Cluster.start(1, tls=named, cluster_announce_tls_port=port) as cluster:
        (node,) = cluster.nodes
        node.client().execute_command("ACL", "SETUSER", "canal", "on", ">hush", "~*", "&*", "+@all")
        by_name = f"rediss+cluster://localhost:{node.tls_port}"
        stranger = ("--source-ca", str(certificates.other_ca))
        assert "certificate was not accepted: self-signed" in refused("source", by_name, *stranger)
        assert "not valid for '127.0.0.1'" in refused("target", cluster.url, *files("target", certificates))
        for side in SIDES:
            trust = (*files(side, certificates), f"--{side}-server-name", "localhost")
            assert f"127.0.0.1:{port}: the server answered without TLS" in refused(side, cluster.url, *trust)
    url = f"rediss+cluster://127.0.0.1:{port}"
    assert f"127.0.0.1:{port}: the server answered without TLS" in refused(
        "target", url, *files("target", certificates)
    )
    assert told and all(data[:1] == b"\x16" and b"hush" not in data and b"AUTH" not in data for data in told)


def test_names_that_are_announced_and_addresses_that_are_mapped(
    certificates: Certificates, redis_server: StartServer, tmp_path: Path
) -> None:
    """Each node's certificate is for the name that it announces and for nothing else. No such name can be resolved."""
    source, target = redis_server(), redis_server()
    with (
        Cluster.start(2, tls=certificates, port=0, cluster_preferred_endpoint_type="hostname") as cluster,
        ExitStack() as stack,
    ):
        gates, words = [], []
        for number, node in enumerate(cluster.nodes):
            announce(node, f"node{number}.invalid", certificates.with_names(f"DNS:node{number}.invalid"))
            gates.append(stack.enter_context(Proxy(("127.0.0.1", node.tls_port))))
            words.append(f"node{number}.invalid:{node.tls_port}=127.0.0.1:{gates[-1].port}")
        wait_until(lambda: all(b"?" not in str(node.do("CLUSTER", "SLOTS")).encode() for node in cluster.nodes), 30)
        here = At(f"rediss+cluster://127.0.0.1:{gates[0].port}")

        def mapped(side: str) -> list[str]:
            return [*files(side, certificates), *(one for word in words for one in (f"--{side}-address-map", word))]

        for number in range(50):
            source.control.set(f"k{number}", number)
        with LinkProcess(source, here, tmp_path, *mapped("target"), name="in") as link:
            wait_until(lambda: cluster.dbsize() >= 50 and cluster.ask("GET", "k7") == b"7", 60, link.log)
            onward = ("--source-dc", "target", "--target-dc", "third")
            with LinkProcess(here, target, tmp_path, *mapped("source"), *onward, name="out") as out:
                wait_until(lambda: target.control.get("k49") == b"49" or not out.running, 60)
                source.control.incr("k7")
                wait_until(lambda: target.control.get("k7") == b"8" or not out.running, 60)
                assert out.running, out.log
        done = command("verify", "--source", source.url, "--target", here.url, *mapped("target"))
        assert done.returncode == 0, done.stdout + done.stderr

        assert asyncio.run(reached_by_control(here.url, words, certificates)) == cluster.nodes[0].tls_port

        announce(cluster.nodes[1], "node1.invalid", certificates.with_names("DNS:another.invalid"))
        line = run_once(tmp_path, "source", here.url, redis_server(), *mapped("source"))
        assert "not valid for 'node1.invalid', nor for '127.0.0.1'" in line


async def reached_by_control(url: str, words: list[str], certificates: Certificates) -> int:
    """The TLS port of the server that redis-py's clients for control commands come to."""
    endpoint = parse_url(url, tls=TlsOptions(str(certificates.ca)))
    assert endpoint.group is not None
    pairs = parse_address_map(dict(word.split("=") for word in words))
    async with control(replace(endpoint, group=replace(endpoint.group, address_map=pairs))) as client:
        (port,) = (await client.config_get("tls-port")).values()
        return int(port)


def announce(node: Server, name: str, certificates: Certificates) -> None:
    node.control.execute_command(
        *("CONFIG", "SET", "cluster-announce-hostname", name),
        *("tls-cert-file", str(certificates.server_cert), "tls-key-file", str(certificates.server_key)),
    )


def sentinel_user(password: str) -> str:
    """A line of a Sentinel's configuration: the manual's user."""
    found = re.search(r"^# at the Sentinels\nACL SETUSER (canal on )>PASSWORD (.+)$", MANUAL, re.MULTILINE)
    assert found is not None
    return f"user {found[1]}>{password} {found[2]}"


def test_a_failover_behind_sentinels_with_tls_and_users_everywhere(certificates: Certificates, tmp_path: Path) -> None:
    """Sentinels and servers speak TLS alone, the Sentinels want a user of their own; both masters fail over.

    Both groups are called the same, so Sentinels must not hear one another through the link.
    """
    rights = sentinel_user("hush")
    secret = tmp_path / "secret"
    secret.write_text("hush\n")
    words = [
        word
        for side in SIDES
        for word in (
            *files(side, certificates),
            *(f"--{side}-sentinel-username", "canal", f"--{side}-sentinel-password-file", str(secret)),
        )
    ]
    with (
        SentinelGroup.start(tls=certificates, more_lines=[rights], port=0) as source,
        SentinelGroup.start(tls=certificates, more_lines=[rights], port=0) as target,
    ):
        here, there = By(source, "s", *FAILING_OVER), By(target, "t", "at the target")
        source.master.control.set("a", 1)
        with LinkProcess(here, there, tmp_path, *words) as link:
            for number, group in enumerate((source, target), 1):
                wait_until(lambda at=number: target.master.control.get("a") == b"%d" % at, 60, "the write has arrived")
                group.failover()
                source.master.control.incr("a")
            wait_until(lambda: target.master.control.get("a") == b"3", 60, link.log)
            assert all(len(one.ask("SENTINELS", NAME)) == 2 for one in (*source.sentinels, *target.sentinels))
            assert "hush" not in link.log
        nothing_refused(source, target)
