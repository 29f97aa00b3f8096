"""From a task's specification to what its links need, with this node's credentials."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from canal.cluster.shards import shard_endpoint
from canal.errors import ConfigError
from node.config.models import Credential, TaskSpec
from node.config.secrets import resolve
from node.coordination.plan import ShardId
from node.coordination.records import TaskRecord
from sync.config import JournalOptions, LinkConfig, SnapshotOptions
from sync.throttle import ThrottleOptions


def read_spec(record: TaskRecord) -> TaskSpec:
    """The specification that a coordinator keeps. Raises ConfigError, for example when a newer program wrote it."""
    try:
        return TaskSpec.model_validate(record.spec)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"the specification of task {record.task} cannot be used: {where}: {first['msg']}") from None


def write_spec(spec: TaskSpec) -> dict[str, Any]:
    """The specification as a coordinator keeps it: only what was given, so that new defaults reach old tasks."""
    return spec.model_dump(mode="json", exclude_defaults=True)


def shard_dir(state_dir: Path, uid: str, shard: ShardId) -> Path:
    """Where a shard's journal stands; a new task of an old name does not find the old one's."""
    return state_dir / "tasks" / f"{shard.task}.{uid[:8]}" / shard.shard


def _homes(spec: TaskSpec) -> dict[str, Any]:
    """How concurrent writes are settled; nothing for a task of one way."""
    two_way = spec.two_way
    if two_way is None:
        return {}
    names = ("conflicts", "home", "datacenters", "commutative", "window_max_keys", "echoes_per_second")
    return {name: getattr(two_way, name) for name in names}


def to_link_config(
    record: TaskRecord,
    shard: str,
    *,
    credentials: Mapping[str, Credential],
    state_dir: Path,
    epoch: int,
    allow_hooks: bool = False,
    members: Iterable[str] = (),
) -> LinkConfig:
    """One shard's link under ``epoch``, its credentials resolved on this machine. Raises ConfigError.

    ``members``: of a shard of a source cluster the ids of its nodes.
    """
    spec = read_spec(record)
    if spec.map.hook and not allow_hooks:
        raise ConfigError(
            f"task {spec.task} names the hook {spec.map.hook}, and this node runs none: allow_hooks: true in node.yaml"
        )
    snapshot, journal = spec.snapshot, spec.journal
    source = resolve("source", spec.source, credentials)
    if source.group is not None and source.group.kind == "cluster":
        source = shard_endpoint(source, shard, members)
    return LinkConfig(
        task=spec.task,
        source=source,
        target=resolve("target", spec.target, credentials),
        state_dir=shard_dir(state_dir, record.uid, ShardId(spec.task, shard)),
        source_dc=spec.source.datacenter,
        target_dc=spec.target.datacenter,
        shard=shard,
        uid=record.uid,
        epoch=epoch,
        two_way=spec.two_way is not None,
        **_homes(spec),
        flush="auto" if spec.two_way is None else spec.two_way.flush,
        accept_evictions=spec.two_way is not None and spec.two_way.accept_evictions,
        direct=spec.direct,
        on_error=spec.on_error,
        writer=spec.writer,
        snapshot=SnapshotOptions(
            mode=snapshot.mode,
            stale_keys=snapshot.stale_keys,
            existing=snapshot.existing,
            big_key_bytes=snapshot.big_key_bytes,
            max_bytes_per_second=snapshot.max_bytes_per_second,
        ),
        journal=JournalOptions(
            segment_bytes=journal.segment_bytes,
            fsync=journal.fsync,
            max_bytes=journal.max_bytes,
            retain_bytes=journal.retain_bytes,
            retain_seconds=journal.retain_seconds,
            tail_bytes=journal.tail_bytes,
        ),
        transform=replace(spec.transform, hook=spec.map.hook),
        throttle=ThrottleOptions(**spec.throttle.model_dump()),
        compact=spec.compact,
        verify_rate=spec.verify.rate,
        heartbeat=spec.heartbeat,
        batch_bytes=spec.batch_bytes,
        batch_commands=spec.batch_commands,
    )
