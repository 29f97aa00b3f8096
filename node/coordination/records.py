"""The records that nodes agree on, and their JSON. Every record carries its format version.

A record of a newer format than this program knows is refused as a whole with one clear line: guessing at it could
start a task twice. Unknown fields of a known format are ignored, so that a field may be added without a new format.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, TypeVar, cast

from canal import formats
from canal.errors import ConfigError, Refused, StateError
from node.coordination.plan import ShardId
from node.coordination.state import ShardState

Desired = Literal["running", "paused", "stopped"]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class NodeRecord:
    """A live daemon. ``boot`` and ``pid_started`` tell, on the same machine, whether that process still lives."""

    node: str
    datacenter: str = ""
    host: str = ""
    pid: int = 0
    version: str = ""
    http: str = ""  # base address of its HTTP, empty when it has none
    max_shards: int = 256
    started: float = 0.0
    boot: str = ""
    pid_started: int = 0
    knows: int = 1  # the newest format that it reads
    writes: int = 1


@dataclass(frozen=True, slots=True)
class TaskRecord:
    """One configured direction. ``uid`` is made when the task is created and is never used again by another."""

    task: str
    uid: str
    spec: dict[str, Any]
    desired: Desired = "stopped"
    created: float = 0.0
    changed: float = 0.0
    changed_by: str = ""
    restart: int = 0  # raised by one to have every worker of the task start anew
    version: int = field(default=0, compare=False)  # the record's own; not part of its JSON

    @property
    def of_cluster(self) -> bool:
        """Its source is a Redis Cluster: its shards follow from what the cluster is."""
        source = self.spec.get("source")
        return isinstance(source, dict) and "+cluster://" in str(source.get("url", ""))


@dataclass(frozen=True, slots=True)
class ShardNodes:
    """A shard of a source cluster: the ids of its nodes; ``gone``: they have left the cluster."""

    members: tuple[str, ...] = ()
    gone: bool = False


@dataclass(frozen=True, slots=True)
class LeaseRecord:
    """Who runs a shard. ``token`` is new with every acquisition."""

    node: str
    epoch: int
    token: str
    acquired: float = 0.0


@dataclass(frozen=True, slots=True)
class ShardView:
    """One shard as the coordinator shows it."""

    id: ShardId
    holder: str | None
    epoch: int
    state: ShardState
    version: int  # of the state record, -1 when there is none yet


def encode(record: object) -> bytes:
    """A record dataclass as JSON with its format version."""
    value = asdict(cast(Any, record))
    if isinstance(record, TaskRecord):
        value.pop("version")
    return json.dumps({"format": formats.written(), **value}, separators=(",", ":"), ensure_ascii=False).encode()


def decode(kind: type[T], data: bytes, path: str) -> T:
    """Read a record of ``kind``; raises `Refused` for a newer format, `StateError` for bytes that are no record."""
    value = decode_object(data, path)
    known = {f.name for f in fields(cast(Any, kind))}
    try:
        return kind(**{name: item for name, item in value.items() if name in known})
    except TypeError as error:
        raise StateError(f"coordination record {path} lacks a field ({error}); remove it or restore it") from None


def decode_object(data: bytes, path: str) -> dict[str, Any]:
    """The JSON object of a record, its format checked as in `decode`."""
    try:
        value = json.loads(data)
        version = value["format"]
        if not isinstance(version, int):
            raise TypeError
    except (ValueError, TypeError, KeyError):
        raise StateError(f"coordination record {path} is not one of redis-canal's: {data[:60]!r}") from None
    formats.check(f"coordination record {path}", version, Refused, "upgrade this node")
    return cast(dict[str, Any], value)


_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\Z")  # of tasks and shards too: they enter the target's keys and paths
_LONGEST = {"node": 128}


def check_name(kind: str, name: str) -> str:
    """Return ``name`` when it may name a ``kind`` (task, node, shard, datacenter); raises `ConfigError` otherwise."""
    longest = _LONGEST.get(kind, 63)
    if len(name) > longest or _NAME.match(name) is None:
        raise ConfigError(
            f"{name!r} cannot name a {kind}: expected a letter or digit, then letters, digits, '-', '_' or '.',"
            f" at most {longest} in all"
        )
    return name
