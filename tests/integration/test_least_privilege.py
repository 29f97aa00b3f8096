"""Links, comparisons, turns and the doctor by users with exactly the rules of the manual: nothing is refused them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pytest

from tests.conftest import StartServer
from tests.support.cluster import Cluster
from tests.support.command_cases import CASES, play
from tests.support.compare import wait_equal
from tests.support.dataset import fill
from tests.support.links import Link, LinkProcess
from tests.support.nodes import Site
from tests.support.process import ROOT, wait_until
from tests.support.sentinel import SentinelGroup
from tests.support.servers import Server

pytestmark = [pytest.mark.servers, pytest.mark.slow]

MANUAL = (ROOT / "docs" / "operations.md").read_text()
PASSWORD = "a-password"
# a debugging command that counts as @admin: the manual's rules leave it out
PLAYED = [case for case in CASES if not any(b"PFDEBUG" in bytes(str(line), "utf-8") for line in case.lines)]


def rules(what: str, server: Server) -> list[str]:
    """What the manual gives under ``# what``, without the rules that it says this version does not know."""
    found = re.search(rf"^# {what}.*\nACL SETUSER canal (?:on >PASSWORD )?(.+)$", MANUAL, re.MULTILINE)
    assert found is not None, f"the manual has no rules {what}"
    if server.at_least((7, 0)):
        return shlex.split(found[1])
    old = re.search(r"^- On Redis 6\.x leave out (.+)$", MANUAL, re.MULTILINE)
    assert old is not None
    return [rule for rule in shlex.split(found[1]) if rule not in old[1]]


class By:
    """A server or more as their user ``canal-NAME`` reaches them, who may do what the manual says and nothing else."""

    def __init__(self, there: Server | Cluster | SentinelGroup, name: str, *whats: str) -> None:
        self.there, self.name = there, f"canal-{name}"
        for server in servers([there]):
            given = [rule for what in whats for rule in rules(what, server)]
            server.client().execute_command("ACL", "SETUSER", self.name, "reset", "on", f">{PASSWORD}", *given)

    @property
    def url(self) -> str:
        return self.there.url.replace("://", f"://{self.name}:{PASSWORD}@")


def servers(those: Iterable[Server | Cluster | SentinelGroup]) -> list[Server]:
    def of(one: Server | Cluster | SentinelGroup) -> Sequence[Server]:
        return [one] if isinstance(one, Server) else one.nodes if isinstance(one, Cluster) else one.servers

    return [server for one in those for server in of(one)]


def nothing_refused(*those: Server | Cluster | SentinelGroup) -> None:
    """No server denied our users anything since it was started."""
    found = []
    for server in servers(those):
        for entry in server.client().execute_command("ACL", "LOG"):
            fields = dict(zip(entry[::2], entry[1::2], strict=True)) if isinstance(entry, list) else entry
            text = {str(_text(name)): str(_text(value)) for name, value in fields.items()}
            if text["username"].startswith("canal-"):
                found.append(f"{server.version}: {text['username']} {text['reason']} {text['object']}")
    assert found == []


def _text(value: object) -> object:
    return value.decode() if isinstance(value, bytes) else value


@pytest.mark.parametrize(
    ("version", "writer"), [("6.2", "gated"), ("7.0", "gated"), ("7.0", "guarded"), ("valkey-9.1", "gated")]
)
def test_one_way(redis_server: StartServer, tmp_path: Path, version: str, writer: str) -> None:
    source, target, spare = (redis_server(version) for _ in range(3))
    fill(source, databases=(0, 5))
    tolerance = 1 if source.at_least((7, 0)) else 4000
    with Link(By(source, "s", "at the source"), By(target, "t", "at the target"), tmp_path, writer=writer) as link:
        link.streaming()
        play(source, spare, PLAYED)
        link.in_step(source, 60)
        assert (link.status.dead_letters, link.status.commands_failed) == (0, 0), link.status.last_error
        wait_equal(source, target, ttl_tolerance_ms=tolerance)
    nothing_refused(source, target)


def test_keys_that_are_fetched(redis_server: StartServer, tmp_path: Path) -> None:
    """A late link looks at deadlines on both sides, and fetches the key that the target has dropped."""
    source, target = redis_server(), redis_server()
    source.client().set("n", 7, px=2000)
    with Link(By(source, "s", "at the source"), By(target, "t", "at the target"), tmp_path) as link:
        link.streaming()
        wait_until(lambda: target.client().exists("n"), 10)
        assert link.product is not None and link.loop is not None
        link.loop.call_soon_threadsafe(link.product.pause)
        wait_until(lambda: link.status.paused, 10)
        source.client().persist("n")
        wait_until(lambda: not target.client().exists("n"), 10, "the target has dropped the key meanwhile")
        source.client().incr("n")
        link.loop.call_soon_threadsafe(link.product.resume)
        wait_equal(source, target)
    nothing_refused(source, target)


@pytest.mark.parametrize("version", ["6.2", "7.0", "valkey-9.1"])
def test_two_ways(redis_server: StartServer, tmp_path: Path, version: str) -> None:
    a, b = redis_server(version), redis_server(version)
    fill(a, prefix=b"a:", databases=(0,))
    here, there = By(a, "x", "one user for both"), By(b, "x", "one user for both")
    out = Link(here, there, tmp_path, two_way=True, task="out", source_dc="a", target_dc="b")
    back = Link(there, here, tmp_path, two_way=True, task="back", source_dc="b", target_dc="a")
    with out, back:
        out.streaming()
        back.streaming()
        a.client().set("x", 1, px=800)
        b.client().rpush("y", 1)

        def contend() -> bool:
            """The same keys at the same time: conflicts, and echoes of their homes."""
            for number in range(40):
                a.control.set(f"both{number}", "a")
                b.control.append(f"both{number}", "b")
            return out.status.conflicts + back.status.conflicts > 0

        wait_until(lambda: not a.client().exists("x"), 10)
        wait_until(contend, 30, "a conflict was seen")
        wait_until(lambda: out.status.echoes + back.status.echoes > 0, 30, "an echo was made")
        wait_equal(a, b, ttl_tolerance_ms=1 if version != "6.2" else 4000)
    nothing_refused(a, b)


def test_clusters(tmp_path: Path) -> None:
    with Cluster.start(2) as source, Cluster.start(2) as target:
        for number in range(300):
            source.ask("SET", f"k{number}", number)
        here = By(source, "s", "at the source", "beside these, at every node of a source cluster")
        there = By(target, "t", "at the target")
        with LinkProcess(here, there, tmp_path) as link:
            for number in range(300):
                source.ask("INCR", f"k{number}")
            source.move_slots(source.masters[0].serves()[:5], source.masters[1])
            target.move_slots(target.masters[0].serves()[:5], target.masters[1])
            for number in range(300):
                source.ask("INCR", f"k{number}")
            with source.gathered() as wanted:

                def same() -> bool:
                    return all(target.ask("GET", f"k{number}") == b"%d" % (number + 2) for number in range(300))

                wait_until(same, 120, f"all has arrived: {link.log[-2000:]}")
                assert wanted.client().dbsize() == 300
        nothing_refused(source, target)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    yield made
    made.close()


@pytest.mark.parametrize("version", ["6.2", "7.0", "valkey-9.1"])
def test_doctor_comparison_repair_and_turn(site: Site, redis_server: StartServer, version: str) -> None:
    a, b = redis_server(version), redis_server(version)
    a.control.mset({f"k{number}": number for number in range(50)})
    for server in (a, b):
        By(
            server,
            "x",
            "one user for both",
            *(f"beside these, for {what}" for what in ("verify", "what `redis-canal doctor`", "--pause-writes")),
        )
    node = site.node("a")
    (site.directory / "password").write_text(PASSWORD)
    login = f"password_file: {site.directory / 'password'}"
    node.configure(credentials=f"{{x: {{username: canal-x, {login}}}}}")
    node.start()
    spec = site.directory / "sh-bj.yaml"
    spec.write_text(
        f"task: sh-bj\nsource: {{datacenter: sh, url: '{a.url}', credentials: x}}\n"
        f"target: {{datacenter: bj, url: '{b.url}', credentials: x}}\n"
    )
    looked = site.cli("doctor", "-f", str(spec), "-c", str(node.config), "-o", "json", check=False)
    assert '"permissions"' in looked.stdout and "missing" not in looked.stdout, looked.stdout
    site.cli("task", "create", "-f", str(spec), "--start", "--wait")
    b.control.set("k7", "other")
    found = site.cli("task", "verify", "sh-bj", "--wait", "--pause", "0.2", check=False)
    assert found.returncode == 1 and "k7" in found.stdout, found.stdout + found.stderr
    site.cli("task", "verify", "sh-bj", "--repair", "--yes", "--wait", "--pause", "0.2")
    wait_equal(a, b)
    site.cli("task", "reverse", "sh-bj", "--pause-writes", "--yes", "--timeout", "30")
    site.wait_state("bj-sh", "streaming", 60)
    nothing_refused(a, b)
