"""Opens the coordinator that a configuration names."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from canal.errors import ConfigError
from node.config.models import Coordination, Credential, NodeConfig
from node.config.secrets import password, placed
from node.coordination.base import Store
from node.coordination.coordinator import Coordinator
from node.coordination.embedded import EmbeddedStore

EMBEDDED_NAME = "coordination.db"


def coordinator_of(config: NodeConfig) -> Coordinator:
    """The coordinator of a node.yaml, not started yet. Raises ConfigError for credentials that cannot be resolved."""
    timeout_s = config.lease_timeout_seconds
    return open_coordinator(config.coordination, config.credentials, timeout_s, embedded_path(config))


def embedded_path(config: NodeConfig) -> Path | None:
    """The SQLite file of a node with the embedded coordinator, None with ZooKeeper."""
    if config.coordination.zookeeper is not None:
        return None
    embedded = config.coordination.embedded
    return embedded.path if embedded is not None else config.state_dir / EMBEDDED_NAME


def open_coordinator(
    coordination: Coordination, credentials: Mapping[str, Credential], timeout_s: float, default: Path | None = None
) -> Coordinator:
    """The coordinator of a ``coordination:`` section, not started yet; ``default``: the file where it is empty."""
    if coordination.zookeeper is not None:
        return Coordinator(_zookeeper(coordination, credentials, timeout_s))
    path = coordination.embedded.path if coordination.embedded is not None else default
    if path is None:
        raise ConfigError("coordination: give zookeeper or embedded")
    return Coordinator(EmbeddedStore(path, timeout_s=timeout_s))


def _zookeeper(coordination: Coordination, credentials: Mapping[str, Credential], timeout_s: float) -> Store:
    from node.coordination.zookeeper import ZooKeeperOptions, ZooKeeperStore  # kazoo only where it is needed

    section = coordination.zookeeper
    assert section is not None
    credential = credentials[section.credentials] if section.credentials is not None else Credential()

    def file(path: Path | None) -> str | None:
        return None if path is None else str(placed(path, os.environ))

    return ZooKeeperStore(
        ZooKeeperOptions(
            hosts=section.hosts,
            chroot=section.chroot,
            timeout_s=timeout_s,
            username=credential.username or "",
            password=password(section.credentials or "", credential) or "",
            tls=section.tls,
            ca=file(credential.ca),
            cert=file(credential.cert),
            key=file(credential.key),
            verify=credential.verify,
        )
    )
