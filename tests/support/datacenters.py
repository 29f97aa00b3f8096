"""Datacenters without servers: streams as bytes, links that deliver when they are told, and conflicts as the product
finds them. For looking at every interleaving of a few writes.

A datacenter knows SET, APPEND, DEL, COPY … REPLACE, RENAME, RESTORE (whose payload is the value), LPOP and RPOPLPUSH
of values as lists of their bytes. Everything between the streams is the product's: `UnitReader`, `Batcher`, `Tagger`,
`render`, `Conflicts`, and the table that says which replies are unexpected.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from canal.commands import ServerKind
from canal.resp import encode, parse
from sync.adjust import FLOWING
from sync.batch import Batch, Batcher
from sync.conflict import Conflicts
from sync.effects import JUDGED
from sync.expiry import LOOKED_AT
from sync.homes import Homes
from sync.render import EXEC, MULTI, render
from sync.rewrite import Rewriter
from sync.rules import Rules
from sync.seen import parse_seen
from sync.tag import Tagger, checkpoint_key, is_reserved
from sync.unit import UnitReader

REDIS = ServerKind("redis", (7, 0, 15))


@dataclass
class Datacenter:
    """Data and stream of one datacenter. ``applied``: per datacenter, how far its stream was applied here."""

    name: str
    data: dict[bytes, bytes] = field(default_factory=dict)
    stream: bytes = b""
    applied: dict[str, int] = field(default_factory=dict)

    @property
    def replid(self) -> str:
        return self.name[0] * 40

    def write(self, *commands: list[bytes]) -> None:
        """As one client does; more than one command are a transaction. What has no effect leaves no trace."""
        done = [argv for argv in commands if self._carry_out(argv)]
        raw = b"".join(encode(argv) for argv in done)
        if done:
            self.stream += raw if len(done) == 1 else MULTI + raw + EXEC

    def receive(self, body: bytes) -> list[list[bytes]]:
        """A link's transaction; its tag alone when nothing else has an effect.

        Gives the commands whose reply tells that they met another state: an error, or nothing where something was due.
        """
        kept, failed, at = [], [], 0
        while at < len(body):
            found = parse(body, at, len(body))
            assert found is not None
            argv, after = found
            if self._carry_out(argv):
                kept.append(body[at:after])
            elif argv[0] in JUDGED or argv[0] == b"RENAME":
                failed.append(argv)
            at = after
        self.stream += b"".join(kept) if len(kept) == 1 else MULTI + b"".join(kept) + EXEC
        return failed

    def echo(self, key: bytes) -> None:
        """Its whole state, as one of its own writes."""
        value = self.data.get(key)
        if value is None:
            self.stream += MULTI + encode([b"SET", key, b""]) + encode([b"DEL", key]) + EXEC
        else:
            self.stream += encode([b"RESTORE", key, b"0", value, b"REPLACE"])

    def _carry_out(self, argv: list[bytes]) -> bool:
        name, key, data = argv[0], argv[1], self.data
        if is_reserved(key):
            return True
        if name == b"SET":
            data[key] = argv[2]
        elif name == b"APPEND":
            data[key] = data.get(key, b"") + argv[2]
        elif name == b"DEL":
            return data.pop(key, None) is not None
        elif name == b"RESTORE":
            data[key] = argv[3]
        elif name in (b"LPOP", b"RPOPLPUSH"):
            if not data.get(key):
                return False
            taken = data[key][:1] if name == b"LPOP" else data[key][-1:]
            data[key] = data[key][1:] if name == b"LPOP" else data[key][:-1]
            if name == b"RPOPLPUSH":
                data[argv[2]] = taken + data.get(argv[2], b"")
            if not data[key]:
                del data[key]
        elif name in (b"COPY", b"RENAME"):
            if key not in data or key == argv[2]:
                return False
            data[argv[2]] = data[key]
            if name == b"RENAME":
                del data[key]
        return True


class Link:
    """Source → target. `send` reads what there is and puts a transaction on its way, `arrive` lets the oldest land."""

    def __init__(self, source: Datacenter, target: Datacenter, homes: Homes, direct: tuple[str, ...] = ()) -> None:
        self.source, self.target = source, target
        self.now = 0.0
        self.conflicts = Conflicts(source.name, homes, there=target.name, clock=lambda: self.now)
        self.conflicts.start("", [(source.replid, 0)])
        plain = Rewriter(REDIS, REDIS).plain()
        plain = {name: count for name, count in plain.items() if name not in FLOWING and name.upper() not in LOOKED_AT}
        plain[b"SET"] = 3
        rules = Rules(
            source.name,
            frozenset({target.name, *direct}),
            plain,
            lambda db, argv, ms, end: [(db, argv)],
            watch=self.conflicts,
        )
        self.units = UnitReader(0, 0, rules)
        key = checkpoint_key(f"{source.name}-{target.name}", "0")
        self.tagger = Tagger(key, "uid", source.name, None, homes.fingerprint)
        self.direct = direct
        self.waiting: list[Batch] = []
        self._read = 0

    def send(self, most_bytes: int = 1 << 30) -> bool:
        """Read at most so much. False when there was nothing to read and nothing to tell."""
        data = self.source.stream[self._read : self._read + most_bytes]
        batcher = Batcher(100, 1 << 20)
        for unit in self.units.feed(self._read, data, 0) if data else []:
            batcher.add(unit)
        self._read += len(data)
        batches = []
        while (batch := batcher.take(self.units.position, self.units.db)) is not None:
            batches.append(batch)
        if not batches and self.units.counters.dropped_bytes:
            bare = Batch(self.units.position, self.units.db)
            bare.seen = self.conflicts.seen
            batches.append(bare)
        self.units.counters.dropped_bytes = 0
        self.waiting += batches
        self.settle()
        return bool(data or batches)

    def settle(self) -> None:
        """What the owner of `Conflicts` does now and then."""
        self.now += 0.01
        self.conflicts.progress()
        for _, key in self.conflicts.take_asks():
            self.source.echo(key)
        for _, key in self.conflicts.prompts:
            self.target.echo(key)
        self.conflicts.prompts.clear()

    @property
    def may_arrive(self) -> bool:
        if not self.waiting:
            return False
        needs = parse_seen(self.waiting[0].needs)
        applied = self.target.applied
        return all(needs[name][1] <= applied.get(name, -1) for name in self.direct if name in needs)

    def arrive(self) -> None:
        batch = self.waiting.pop(0)
        for argv in self.target.receive(render(batch, self.tagger, self.source.replid, 0).body):
            for key in argv[1:]:
                home = self.conflicts.homes.home((0, key))
                self.conflicts.mark((0, key), "reply")
                if home == self.target.name:
                    self.target.echo(key)
                elif home != self.source.name:
                    self.conflicts.restate((0, key))
        self.target.applied[self.source.name] = self.conflicts.applied = batch.end


class World:
    """A mesh of datacenters."""

    def __init__(self, names: str, home: str = "hash") -> None:
        homes = Homes((home,), tuple(names))
        self.all = {name: Datacenter(name) for name in names}
        self.links = {
            x + y: Link(self.all[x], self.all[y], homes, tuple(n for n in names if n not in (x, y)))
            for x in names
            for y in names
            if x != y
        }

    def finish(self, rounds: int = 200) -> None:
        """Writers have stopped: everything is delivered, until nothing moves any more."""
        for _ in range(rounds):
            moved = False
            for link in self.links.values():
                moved |= link.send()
                while link.may_arrive:
                    link.arrive()
                    moved = True
            if not moved and not any(link.conflicts.asks for link in self.links.values()):
                before = {name: one.stream for name, one in self.all.items()}
                for link in self.links.values():
                    link.now += 3.0  # what goes by time
                    link.settle()
                if before == {name: one.stream for name, one in self.all.items()}:
                    return
        raise AssertionError("the datacenters never fall silent")

    @property
    def states(self) -> list[dict[bytes, bytes]]:
        return [one.data for one in self.all.values()]
