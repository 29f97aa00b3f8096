"""What one link (a shard's pipeline, source → target) needs to know. Built by the CLI and by nodes; no parsing here."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from canal.endpoint import Endpoint
from sync.placing import TransformOptions
from sync.throttle import ThrottleOptions

StaleKeys = Literal["delete", "keep"]
OnError = Literal["stop", "continue"]
WriterMode = Literal["auto", "gated", "guarded"]
SnapshotMode = Literal["auto", "always", "never"]
Existing = Literal["home", "source", "target"]
Flush = Literal["auto", "replay", "drop", "stop"]
ConflictPolicy = Literal["settle", "off"]
Fsync = Literal["always", "everysec", "no"]

MiB = 1 << 20


@dataclass(frozen=True, slots=True)
class JournalOptions:
    """Bounds of the durable journal; sizes in bytes, times in seconds."""

    segment_bytes: int = 64 * MiB
    fsync: Fsync = "everysec"
    max_bytes: int = 0  # 0: bounded by the disk only
    retain_bytes: int = 64 * MiB  # kept behind the applied offset, for targets that roll back
    retain_seconds: float = 60.0
    tail_bytes: int = 8 * MiB  # size of each of the two memory buffers


@dataclass(frozen=True, slots=True)
class SnapshotOptions:
    """How a snapshot is applied. ``max_bytes_per_second`` 0 means no limit."""

    mode: SnapshotMode = "auto"
    stale_keys: StaleKeys | None = None  # None: stop at first contact with a target that holds data
    confirmed: bool = False  # a person has agreed that a resync may remove much of the target
    existing: Existing = "home"  # two-way only: whose value stays where both sides have the key
    big_key_bytes: int = 24 * MiB  # about twice that is in memory
    max_bytes_per_second: int = 0


@dataclass(frozen=True, slots=True)
class LinkConfig:
    """One direction of one shard."""

    task: str
    source: Endpoint
    target: Endpoint
    state_dir: Path
    source_dc: str = "source"
    target_dc: str = "target"
    shard: str = "0"
    uid: str = ""  # of the task; empty: made, and kept in the state directory
    epoch: int = 0  # from the coordinator; 0: counted in the state directory
    epoch_unused: bool = False  # nobody has been at the target under ``epoch`` yet, or it is not ours alone
    two_way: bool = False
    flush: Flush = "auto"  # FLUSHALL, FLUSHDB, SWAPDB; auto: replay one way, stop in a two-way task
    accept_evictions: bool = False  # two-way over servers that evict: their DELs look like users'
    conflicts: ConflictPolicy = "settle"  # two-way; off: no key is written in two datacenters at a time
    home: tuple[str, ...] = ("hash",)  # two-way: whose state of a key wins; words as in sync.homes
    datacenters: tuple[str, ...] = ()  # two-way: all that write, beside source, target and direct
    commutative: bool = False  # two-way: INCR-likes, SADD … of both sides are no conflict
    window_max_keys: int = 2_000_000  # two-way: writes not yet seen by every datacenter that are known one by one
    echoes_per_second: float = 1000.0
    causal_wait_s: float = 5.0  # how long a batch waits for what it builds on, in meshes
    direct: tuple[str, ...] = ()  # origins that reach the target by a task of their own
    on_error: OnError = "stop"
    writer: WriterMode = "auto"
    snapshot: SnapshotOptions = field(default_factory=SnapshotOptions)
    journal: JournalOptions = field(default_factory=JournalOptions)
    transform: TransformOptions = field(default_factory=TransformOptions)
    expiry_max_keys: int = 10_000_000  # two-way: deadlines that are tracked
    throttle: ThrottleOptions = field(default_factory=ThrottleOptions)
    compact: bool = False  # one way: leave out what is overwritten or deleted later in its batch
    verify_rate: float = 0.0  # keys a second that are compared while it streams; 0: none
    heartbeat: bool = False  # write a reserved key at the source every second, for the lag from end to end
    batch_bytes: int = 256 * 1024
    batch_commands: int = 1000
