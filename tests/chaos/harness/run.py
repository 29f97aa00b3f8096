"""One run: a world, a workload, a plan of faults; then what must hold. `scripts/chaos` and the tests call `run`."""

from __future__ import annotations

import contextlib
import random
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.chaos.harness import checks
from tests.chaos.harness.faults import KINDS, Kind, Mend, NotHere, NotYet
from tests.chaos.harness.plan import Planned, make_plan
from tests.chaos.harness.watch import Broken, Watch
from tests.chaos.harness.world import CLUSTERS, World
from tests.support.process import PATIENCE_S

MENDED_S = max(120.0, PATIENCE_S)  # for what takes its time: a command of an operator, a node that stops


@dataclass
class Report:
    """What a run did. ``left_out``: faults that could not happen where they were to."""

    topology: str
    seed: str
    version: str = ""
    seconds: float = 0.0
    commands: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)
    faulty_s: float = 0.0  # of faults, without start and end
    confirmed: int = 0
    peak_mb: float = 0.0
    error: str = ""

    @classmethod
    def read(cls, values: dict[str, Any]) -> Report:
        """From its ``vars``, by way of JSON."""
        counted = {name: Counter(values[name]) for name in ("faults", "left_out")}
        return cls(**{**values, **counted})

    def __str__(self) -> str:
        kinds = ", ".join(f"{name} {count}" for name, count in sorted(self.faults.items()))
        return (
            f"{self.topology} seed {self.seed} on {self.version}: {self.commands} commands, {self.faults.total()}"
            f" faults of {len(self.faults)} kinds in {self.seconds:.0f} s, peak {self.peak_mb:.0f} MiB"
            f" ({kinds}; left out {self.left_out.total()})"
        )


def run(
    report: Report,
    seconds: float,
    *,
    every_s: float = 1.2,
    rate: float = 250.0,
    kinds: tuple[str, ...] = (),
    same_keys: bool = False,
    say: Any = print,
    keep: Path | None = None,
) -> Report:
    """Fill in a report. AssertionError, with the seed and how to repeat it, when anything is not as it must be.

    ``kinds``: only these faults. ``rate``: modelled commands a second in each datacenter. ``same_keys``: the
    datacenters of a two-way topology write some of the same keys. ``keep``: after a failure, a directory for what the
    nodes logged and remembered, and the append-only files of the servers.
    """
    topology, seed = report.topology, report.seed
    again = f"scripts/chaos --topology {topology} --seed {seed} --seconds {seconds:g}"
    again += "".join(f" --kind '{name}'" for name in kinds) + (" --same-keys" if same_keys else "")
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="chaos-", ignore_cleanup_errors=True) as directory:
        try:
            with World(topology, Path(directory), seed, rate, same_keys=same_keys) as world:
                try:
                    _run(world, seconds, every_s, kinds, report, say)
                except Exception:
                    if keep is not None:
                        world.keep(keep / f"{topology}-{seed}".replace("/", "-"))
                    raise
        except Exception as error:
            report.error = str(error) or repr(error)
            raise AssertionError(f"{topology} with seed {seed}: {error}\nrepeat it with: {again}") from error
        finally:
            report.seconds = time.monotonic() - began
    return report


def _run(world: World, seconds: float, every_s: float, kinds: tuple[str, ...], report: Report, say: Any) -> None:
    report.version = world.version
    chance = random.Random(f"run/{world.seed}")
    for datacenter in world.datacenters.values() if world.two_way else [world.datacenters["a"]]:
        if chance.random() < 0.5:
            datacenter.prefill((0,) if world.topology in CLUSTERS else (0, 5))
    world.start()
    may = {
        name: kind.hold_s
        for name, kind in KINDS.items()
        if (not kinds or name in kinds)
        and (not kind.only or world.topology in kind.only)
        and (not kind.resyncs or any(map(world.may_resync, world.datacenters)))
    }
    plan = make_plan(world.seed, may, seconds, every_s)
    writers = [dc.writers for dc in world.datacenters.values() if dc.writers is not None]
    if not world.two_way:
        writers = writers[:1]
    with Watch(world) as watch:
        census = checks.Census(world)
        for each in writers:
            each.start()
        try:
            _Faults(world, watch, report, say).play(plan, seconds)
        finally:
            report.faulty_s = time.monotonic() - census.at
            with contextlib.suppress(Exception) if watch.broken else contextlib.nullcontext():
                for each in writers:
                    each.stop()
            report.commands = sum(each.acknowledged for each in writers)
        say(f"{world.topology} {world.seed}: {report.faults.total()} faults are over, settling")
        checks.settled(world, watch)
        checks.model_holds(world)
        census.check(watch)
        report.peak_mb, report.confirmed = watch.peak_kb / 1024, watch.confirmed
    checks.memory_bounded(watch)
    checks.nothing_left(world)
    checks.logs_are_clean(world)


class _Faults:
    """Plays a plan: begins each fault in time, mends it when it has lasted, one at a time at each place."""

    def __init__(self, world: World, watch: Watch, report: Report, say: Any) -> None:
        self._world = world
        self._watch = watch
        self._report = report
        self._say = say
        self._held: dict[str, tuple[float, Mend, str]] = {}  # by place: until when, how to mend it, what it is
        self._began = time.monotonic()

    def play(self, plan: list[Planned], seconds: float) -> None:
        self._began = time.monotonic()
        waiting = list(plan)
        try:
            while waiting or self._held:
                self._watch.check()
                now = time.monotonic() - self._began
                for place in [place for place, held in self._held.items() if held[0] <= now]:
                    self._mend(place)
                if waiting and waiting[0].at <= now:
                    self._begin(waiting.pop(0))
                time.sleep(0.02)
            while time.monotonic() - self._began < seconds:
                time.sleep(0.05)
        finally:
            deadline = time.monotonic() + MENDED_S  # only where something broke
            while self._held and time.monotonic() < deadline:
                for place in list(self._held):
                    with contextlib.suppress(Exception):
                        self._mend(place)
                time.sleep(0.05)

    def _begin(self, planned: Planned) -> None:
        kind = KINDS[planned.kind]
        free = [(name, place) for name, place in self._places(kind) if name not in self._held]
        if not free:
            self._report.left_out[planned.kind] += 1
            return
        name, place = free[planned.place % len(free)]
        now = time.monotonic() - self._began
        self._say(f"{now:6.1f} s {planned.kind} at {name} for {planned.hold_s:.1f} s")
        self._watch.down.add(name)
        try:
            mend = kind.begin(self._world, place, random.Random(planned.roll))
        except NotHere:
            self._watch.down.discard(name)
            self._report.left_out[planned.kind] += 1
            return
        self._report.faults[planned.kind] += 1
        self._held[name] = (time.monotonic() - self._began + planned.hold_s, mend, planned.kind)

    def _mend(self, place: str) -> None:
        until, mend, kind = self._held.pop(place)
        try:
            mend()
        except NotYet:
            now = time.monotonic() - self._began
            if now > until + MENDED_S:
                raise Broken(f"{kind} at {place} is not over after {now - until:.0f} s") from None
            self._held[place] = (max(until, 0.0), mend, kind)
            return
        except Exception as error:
            raise Broken(f"{kind} at {place} cannot be mended: {error}") from error
        self._watch.down.discard(place)

    def _places(self, kind: Kind) -> list[tuple[str, Any]]:
        world = self._world
        if kind.room == "node":
            return [(node.name, node) for node in world.nodes]
        if kind.room == "door":
            return [(door.name, door) for door in world.doors()]
        may = {name for name in world.datacenters if not kind.resyncs or world.may_resync(name)}
        if kind.room == "server":
            return [(f"server {name}", dc) for name, dc in world.datacenters.items() if name in may]
        if kind.room == "zookeeper":
            return [("zookeeper", None)]
        if kind.room == "site":
            return [(f"zookeeper's door of {name}", name) for name in world.sites]
        return [(f"task {one.task}", one) for one in world.directions if one.source.name in may]
