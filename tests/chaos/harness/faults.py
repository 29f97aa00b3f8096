"""The kinds of faults: where each can happen, how long it may last, how it begins, and how it ends.

A kind's `begin` breaks something and returns how to mend it. What cannot happen at that place now (a failover without a
replica, a full disk without the right to mount one) raises `NotHere`, and is counted as left out.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

import redis

from tests.chaos.harness.clusters import ClusterDatacenter
from tests.chaos.harness.datacenter import Datacenter
from tests.chaos.harness.world import Direction, Door, World
from tests.support.nodes import NodeProcess
from tests.support.proxy_pipe import How

Mend = Callable[[], object]
Room = Literal["node", "door", "server", "zookeeper", "site", "task"]


class NotHere(Exception):
    """This fault cannot happen at this place now."""


class NotYet(Exception):
    """Mending is under way: ask again."""


@dataclass(frozen=True)
class Kind:
    """One kind of fault. ``only``: the topologies that it is for, empty for all. ``resyncs``: costs a full resync."""

    room: Room
    hold_s: tuple[float, float]
    begin: Callable[[World, Any, random.Random], Mend]
    only: tuple[str, ...] = ()
    resyncs: bool = False


def _nothing() -> None:
    """Nothing to mend."""


# --- processes


def _node(begin: Callable[[NodeProcess, random.Random], Mend]) -> Callable[[World, Any, random.Random], Mend]:
    def checked(_: World, node: NodeProcess, chance: random.Random) -> Mend:
        if node.process is None or node.process.poll() is not None:
            raise NotHere
        return begin(node, chance)

    return checked


def _kill_worker(node: NodeProcess, chance: random.Random) -> Mend:
    workers = node.workers()
    if not workers:
        raise NotHere
    with contextlib.suppress(ProcessLookupError):
        os.kill(chance.choice(workers), signal.SIGKILL)
    return _nothing


def _kill_node(node: NodeProcess, _: random.Random) -> Mend:
    node.kill()
    return lambda: node.start(wait=False)


def _pause_node(node: NodeProcess, _: random.Random) -> Mend:
    stopped = node.family()
    _signal(stopped, signal.SIGSTOP)
    return lambda: _signal(stopped, signal.SIGCONT)


def _pause_worker(node: NodeProcess, chance: random.Random) -> Mend:
    workers = node.workers()
    if not workers:
        raise NotHere
    stopped = [chance.choice(workers)]
    _signal(stopped, signal.SIGSTOP)
    return lambda: _signal(stopped, signal.SIGCONT)


def _signal(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def _reload(node: NodeProcess, chance: random.Random) -> Mend:
    if not node.get("/liveness"):
        raise NotHere  # a service manager does not reload what is still starting
    level = chance.choice(("debug", "info", "warning"))
    node.configure(log_level=level, max_shards=str(chance.choice((16, 256))))
    node.signal(signal.SIGHUP)
    return _nothing


def _restart_node(node: NodeProcess, _: random.Random) -> Mend:
    """As an upgrade does it: SIGTERM, wait, start."""
    assert node.process is not None
    if not node.get("/liveness"):
        raise NotHere  # it is still starting, and would simply die
    node.process.send_signal(signal.SIGTERM)

    def mend() -> None:
        assert node.process is not None
        code = node.process.poll()
        if code is None:
            raise NotYet
        assert code == 0, f"node {node.name} ended with {code} after SIGTERM:\n{node.log()[-2000:]}"
        node.start(wait=False)

    return mend


def _fill_disk(world: World, node: NodeProcess, _: random.Random) -> Mend:
    if not world.mounted:
        raise NotHere
    filler = node.directory / "filler"
    with contextlib.suppress(OSError), filler.open("wb") as file:
        while True:
            file.write(bytes(1 << 16))
            file.flush()
    return lambda: filler.unlink(missing_ok=True)


# --- the network


def _cut(world: World, door: Door, chance: random.Random) -> Mend:
    door.proxy.cut(chance.choice(("rst", "fin")))
    return _nothing


def _refuse(world: World, door: Door, chance: random.Random) -> Mend:
    door.proxy.refuse()
    door.proxy.cut("rst")
    return door.proxy.accept


def _one_way_cut(world: World, door: Door, chance: random.Random) -> Mend:
    """One end sees a reset, the other one nothing until later."""
    half: list[Any] = door.proxy.connections
    door.proxy.cut("rst", chance.choice(("client", "server")))

    def mend() -> None:
        for connection in half:
            connection.cut("rst")

    return mend


def _stall(world: World, door: Door, chance: random.Random) -> Mend:
    door.proxy.stall(chance.choice(("to_client", "to_server", "both")))
    return door.proxy.flow


def _delay(world: World, door: Door, chance: random.Random) -> Mend:
    door.proxy.delay(chance.uniform(0.002, 0.15))
    return door.proxy.flow


def _slow(world: World, door: Door, chance: random.Random) -> Mend:
    door.proxy.limit(chance.uniform(20_000, 300_000))
    return door.proxy.flow


def _dribble(world: World, door: Door, chance: random.Random) -> Mend:
    door.proxy.dribble(chance.choice((1, 2, 7)), gap_s=chance.choice((0.0, 0.0005)))
    return door.proxy.flow


def _reset_in_reply(world: World, door: Door, chance: random.Random) -> Mend:
    how: How = chance.choice(("rst", "fin"))
    for connection in door.proxy.connections:
        connection.cut_after(chance.randrange(1, 200), chance.choice(("to_client", "to_server")), how)
    return _nothing


# --- servers


def _alive(begin: Callable[[Datacenter, random.Random], Mend]) -> Callable[[World, Any, random.Random], Mend]:
    def checked(_: World, datacenter: Datacenter, chance: random.Random) -> Mend:
        if not datacenter.aim():
            raise NotHere
        try:
            return begin(datacenter, chance)
        except redis.RedisError as error:
            raise NotHere(str(error)) from None

    return checked


def _bgsave(datacenter: Datacenter, chance: random.Random) -> Mend:
    server = datacenter.master
    with contextlib.suppress(redis.RedisError):
        server.config_set(rdb_key_save_delay=chance.choice((0, 300, 2000)))
    server.control.bgsave(schedule=False)

    def mend() -> None:
        with contextlib.suppress(redis.RedisError):
            server.config_set(rdb_key_save_delay=0)

    return mend


def _busy_script(datacenter: Datacenter, chance: random.Random) -> Mend:
    with contextlib.suppress(redis.RedisError):
        datacenter.master.config_set(lua_time_limit=100)
    thread = datacenter.block(chance.randrange(10_000_000, 120_000_000))

    def mend() -> None:
        if thread.is_alive():
            raise NotYet

    return mend


def _pause_server(datacenter: Datacenter, _: random.Random) -> Mend:
    server = datacenter.master
    server.pause()
    return server.resume


def _kill_server(datacenter: Datacenter, _: random.Random) -> Mend:
    datacenter.master.kill()
    return datacenter.come_back


def _restart_server(datacenter: Datacenter, _: random.Random) -> Mend:
    datacenter.master.stop(60)
    return datacenter.come_back


def _wipe_server(datacenter: Datacenter, _: random.Random) -> Mend:
    if datacenter.replica is not None and not datacenter.replica.running:
        raise NotHere
    datacenter.wipe()
    return datacenter.come_back


def _fail_over(world: World, datacenter: Datacenter, chance: random.Random) -> Mend:
    """Where links may not be lost, not before they have followed the one before."""

    def begin(datacenter: Datacenter, chance: random.Random) -> Mend:
        links = sum(one.source is datacenter for one in world.directions)
        if not datacenter.can_fail_over():
            raise NotHere
        if not world.may_resync(datacenter.name) and not datacenter.followed(links):
            raise NotHere
        datacenter.fail_over(planned=chance.random() < 0.5)
        return datacenter.follow_again

    return _alive(begin)(world, datacenter, chance)


def _move_slots(datacenter: Datacenter, chance: random.Random) -> Mend:
    """Beside everything else that happens: it goes on until all have moved."""
    if not isinstance(datacenter, ClusterDatacenter):
        raise NotHere
    moving = ThreadPoolExecutor(1)
    moved = moving.submit(datacenter.move_slots, chance)

    def mend() -> None:
        if not moved.done():
            raise NotYet
        moved.result()
        moving.shutdown()

    return mend


def _jump_clock(datacenter: Datacenter, chance: random.Random) -> Mend:
    if not datacenter.clock_can_jump:
        raise NotHere
    datacenter.set_clock(chance.choice((-600, -30, 5, 60, 600)))
    return lambda: datacenter.set_clock(0)


def _overflow_backlog(world: World, direction: Direction, chance: random.Random) -> Mend:
    """The link is away while the source writes more than its backlog holds."""
    if not direction.source.master.running or direction.source_door is None:
        raise NotHere
    door = direction.source_door.proxy
    door.refuse()
    door.cut("rst")
    direction.source.fill(chance.randrange(1000), 20_000, 80)
    return door.accept


def _overflow_output(world: World, direction: Direction, chance: random.Random) -> Mend:
    """The link reads nothing until the source cuts it for its full output buffer."""
    if direction.source_door is None:
        raise NotHere
    door, server = direction.source_door.proxy, direction.source.master
    try:
        server.config_set(client_output_buffer_limit="replica 1mb 0 0")
    except redis.RedisError:
        raise NotHere from None
    door.stall("to_client")
    direction.source.fill(chance.randrange(1000), 100_000, 120)

    def mend() -> None:
        with contextlib.suppress(redis.RedisError):
            server.config_set(client_output_buffer_limit="replica 256mb 64mb 60")
        door.flow()

    return mend


# --- coordination and operators


def _lose_zookeeper(world: World, _: Any, chance: random.Random) -> Mend:
    world.zookeeper.kill()
    return world.zookeeper.restart


def _pause_zookeeper(world: World, _: Any, chance: random.Random) -> Mend:
    world.zookeeper.pause()
    return world.zookeeper.resume


def _cut_zookeeper(world: World, site: str, chance: random.Random) -> Mend:
    world.zookeeper_doors[site].cut("rst")
    return _nothing


def _expire_session(world: World, site: str, chance: random.Random) -> Mend:
    """Held longer than the session lasts."""
    door = world.zookeeper_doors[site]
    door.refuse()
    door.cut("rst")
    return door.accept


def _operator(*words: str, undo: tuple[str, ...] = ()) -> Callable[[World, Direction, random.Random], Mend]:
    def begin(world: World, direction: Direction, chance: random.Random) -> Mend:
        site = world.sites[direction.source.name]

        def ask(given: tuple[str, ...]) -> None:
            done = site.cli("task", given[0], direction.task, *given[1:], check=False, timeout=120)
            if done.returncode == 4:
                raise NotHere("ZooKeeper is away")
            assert "Traceback" not in done.stderr, done.stderr

        asking = ThreadPoolExecutor(1)
        asked = asking.submit(_done, ask, words)

        undone: list[Future[bool]] = []

        def mend() -> None:
            """Until it is taken: ZooKeeper may be away just now. What was refused for that may have been done all the
            same, its answer being lost, so it is undone in any case.
            """
            if not asked.done():
                raise NotYet
            if undo and not (undone and undone[-1].done() and undone[-1].result()):
                if not undone or undone[-1].done():
                    undone.append(asking.submit(_done, ask, undo))
                raise NotYet
            asking.shutdown()

        return mend

    return begin


def _done(ask: Callable[[tuple[str, ...]], None], words: tuple[str, ...]) -> bool:
    try:
        ask(words)
    except (NotHere, subprocess.TimeoutExpired):
        return False
    return True


KINDS: dict[str, Kind] = {
    "kill -9 of a worker": Kind("node", (0, 0), _node(_kill_worker)),
    "kill -9 of a node": Kind("node", (0.2, 5), _node(_kill_node)),
    "SIGSTOP of a node": Kind("node", (0.2, 6), _node(_pause_node)),
    "SIGSTOP of a worker": Kind("node", (0.2, 4), _node(_pause_worker)),
    "config reload": Kind("node", (0, 0), _node(_reload)),
    "upgrade restart": Kind("node", (0.2, 2), _node(_restart_node)),
    "disk full": Kind("node", (1, 5), _fill_disk),
    "TCP cut": Kind("door", (0, 0), _cut),
    "connections refused": Kind("door", (0.2, 4), _refuse),
    "one-way cut": Kind("door", (0.2, 4), _one_way_cut),
    "stall": Kind("door", (0.2, 4), _stall),
    "delay": Kind("door", (1, 5), _delay),
    "slow line": Kind("door", (1, 5), _slow),
    "dribble": Kind("door", (0.5, 3), _dribble),
    "reset in a reply": Kind("door", (0, 0), _reset_in_reply),
    "BGSAVE": Kind("server", (0.5, 2), _alive(_bgsave)),
    "big script": Kind("server", (0.5, 1), _alive(_busy_script)),
    "SIGSTOP of Redis": Kind("server", (0.2, 3), _alive(_pause_server)),
    "kill -9 of Redis": Kind("server", (0.1, 2), _alive(_kill_server), resyncs=True),
    "restart of Redis": Kind("server", (0.1, 1), _alive(_restart_server), resyncs=True),
    "Redis loses its data": Kind("server", (0.1, 1), _alive(_wipe_server), only=("one-way",), resyncs=True),
    "failover": Kind("server", (0.5, 2), _fail_over, only=("one-way", "two-way", "from-cluster", "to-cluster")),
    "slots moved": Kind("server", (0, 0), _alive(_move_slots), only=("from-cluster", "to-cluster")),
    "clock jump": Kind("server", (1, 4), _alive(_jump_clock)),
    "backlog overflow": Kind("task", (0.1, 1), _overflow_backlog, resyncs=True),
    "output buffer cut": Kind("task", (0.5, 1), _overflow_output, resyncs=True),
    "ZooKeeper lost": Kind("zookeeper", (0.5, 6), _lose_zookeeper),
    "SIGSTOP of ZooKeeper": Kind("zookeeper", (0.5, 5), _pause_zookeeper),
    "ZooKeeper cut": Kind("site", (0, 0), _cut_zookeeper),
    "session expiry": Kind("site", (5, 7), _expire_session),
    "task paused": Kind("task", (0.5, 2), _operator("pause", undo=("resume",))),
    "task resync": Kind("task", (0, 0), _operator("resync", "--yes"), resyncs=True),
}
"""By name."""
